//! Damaged WAL is never shown as records, and no bytes make the walk panic.

use std::ops::ControlFlow;

use pgkeep_base::Lsn;
use pgkeep_testkit::wal::Writer;
use proptest::prelude::*;

use super::walk;
use crate::wal::{WalkEnd, Walker, meaning, read_segment_header, segment_facts};

/// A log of about 1.5 segments: small records, some over page borders, one over the segment border.
fn log() -> Writer {
    let mut writer = Writer::new(8192);
    let end = writer.name(0).end();
    let mut xid = 700;
    while writer.at() < Lsn(end.0 - 60_000) {
        let length = (xid as usize * 7919) % 5000;
        writer.record(10, 0, xid, &vec![xid as u8; length]);
        xid += 1;
    }
    writer.record(10, 0, xid, &[9; 150_000]);
    for _ in 0..100 {
        writer.commit(xid, 5);
        xid += 1;
    }
    writer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Aim: no flipped bit in a record goes unseen. Method: flip one in any byte that belongs to a record.
    #[test]
    fn a_flipped_bit_ends_the_walk_before_its_record(
        pick in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
        bit in 0u32..8,
    ) {
        let writer = log();
        let victim = pick.index(writer.written.len());
        let record = &writer.written[victim];
        let mut at = record.start.0 + byte.index((record.end.0 - record.start.0) as usize) as u64;
        // Page headers and the padding behind a record belong to no record.
        let header = if at % writer.size.bytes() < 8192 { 40 } else { 24 };
        if at % 8192 < header {
            at += header;
        }
        let padding = (8 - record.total_bytes as u64 % 8) % 8;
        prop_assume!(at < record.end.0 - padding);
        let mut segments = writer.segments();
        let offset = (at - writer.base()) as usize;
        let size = writer.size.bytes() as usize;
        segments[offset / size][offset % size] ^= 1 << bit;
        let (shown, ends) = walk(&segments, &writer, None);
        prop_assert_eq!(&shown[..], &writer.written[..victim]);
        let stopped = matches!(ends.last(), Some(WalkEnd::Stopped { at, .. }) if *at == record.start);
        prop_assert!(stopped, "{:?}, damaged the record at {}", ends.last(), record.start);
    }

    #[test]
    fn a_cut_segment_shows_the_records_that_are_whole(cut in 40usize..(1 << 20)) {
        let writer = log();
        let mut segments = writer.segments();
        segments[0].truncate(cut);
        let (shown, ends) = walk(&segments, &writer, None);
        let cut = Lsn(writer.base() + cut as u64);
        let whole = writer.written.iter().take_while(|record| {
            let padding = (8 - record.total_bytes as u64 % 8) % 8;
            record.end.0 - padding <= cut.0
        });
        prop_assert_eq!(shown.len(), whole.count());
        let stopped = matches!(ends[0], WalkEnd::Stopped { .. });
        prop_assert!(stopped);
    }

    #[test]
    fn a_recycled_tail_is_not_shown(keep in 1usize..128) {
        let writer = log();
        let mut old = Writer::new(8192);
        old.first = 1;
        old.fill_to(Lsn(old.base() + old.size.bytes()));
        let mut segment = writer.segments()[0].clone();
        segment[keep * 8192..].copy_from_slice(&old.segments()[0][keep * 8192..]);
        let facts = segment_facts(&segment, &writer.name(0), None).unwrap();
        let border = Lsn(writer.base() + keep as u64 * 8192);
        let last = writer.written.iter().rfind(|record| record.end <= border).map(|record| record.start);
        prop_assert_eq!(facts.last_record, last);
        prop_assert!(facts.valid_to <= border);
        prop_assert!(facts.stopped.unwrap().contains("it says that it is the page at"));
    }

    #[test]
    fn random_bytes_behind_a_header_never_panic(
        seed in prop::collection::vec(any::<u8>(), 1..20_000),
        spots in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..50),
    ) {
        let writer = log();
        let mut segments = writer.segments();
        let at = spots.len() * 1000;
        segments[0][at + 40..at + 40 + seed.len()].copy_from_slice(&seed);
        for (place, byte) in &spots {
            let offset = place.index(segments[1].len());
            segments[1][offset] = *byte;
        }
        for (index, segment) in segments.iter().enumerate() {
            let _ = segment_facts(segment, &writer.name(index), Some(&segments[0]));
            let _ = segment_facts(&seed, &writer.name(index), Some(&seed));
        }
        let _ = read_segment_header(&seed);
    }

    /// Aim: what follows a good checksum may still be nonsense. Method: records with random bodies and good CRCs.
    #[test]
    fn meaning_never_panics(info in any::<u8>(), rmgr in 0u8..2, body in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut writer = Writer::new(8192);
        for magic in [0xD10D, 0xD118] {
            writer.magic = magic;
            writer.raw(rmgr, info, 700, &body);
            writer.record(rmgr, info, 700, &body);
        }
        let name = writer.name(0);
        let major = read_segment_header(&writer.segments()[0]).unwrap().major;
        let _ = Walker::new(None).feed(&writer.segments()[0], &name, &mut |record| {
            let _ = meaning(record, major);
            ControlFlow::Continue(())
        });
    }
}

#[test]
fn headers_that_are_none_are_named() {
    let mut writer = Writer::new(8192);
    writer.commit(700, 1);
    let good = writer.segments()[0].clone();
    let said = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut page = good[..8192].to_vec();
        change(&mut page);
        let error = read_segment_header(&page).unwrap_err();
        error.detail_text().unwrap()
    };
    for (change, words) in [
        (
            &(|page: &mut Vec<u8>| page.fill(0)) as &dyn Fn(&mut Vec<u8>),
            "all zeroes",
        ),
        (&|page| page[0] = 0x77, "D177 is not that of any known PostgreSQL"),
        (&|page| page.swap(0, 1), "big-endian"),
        (
            &|page| page[..2].copy_from_slice(&0xD106u16.to_le_bytes()),
            "page magic D106; this pgkeep",
        ),
        (&|page| page[2] = 0, "no long form"),
        (&|page| page[3] = 1, "flags 0102"),
        (&|page| page[4] = 0, "timeline is 0"),
        (&|page| page[9] = 1, "not the start of a segment"),
        (
            &|page| page[8..16].copy_from_slice(&(u64::MAX << 20).to_le_bytes()),
            "FFFFFFFF/FFF00000 is where no WAL can be",
        ),
        (&|page| page[32] = 1, "segment size 1048577"),
        (&|page| page[36] = 1, "block size 8193"),
        (&|page| page.truncate(39), "39 bytes are shorter"),
    ] {
        let text = said(change);
        assert!(text.contains(words), "{text:?} should say {words:?}");
    }
}

#[test]
fn a_missing_segment_in_between_is_noticed() {
    let writer = log();
    let segments = writer.segments();
    let mut walker = Walker::new(None);
    walker
        .feed(&segments[0], &writer.name(0), &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let end = walker.feed(&segments[0], &writer.name(1), &mut |_| ControlFlow::Continue(()));
    let spanning = writer
        .written
        .iter()
        .find(|record| record.end > writer.name(0).end())
        .unwrap();
    match end.unwrap() {
        WalkEnd::Stopped { at, reason } => {
            assert_eq!(at, spanning.start);
            assert!(reason.contains("it says that it is the page at"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

/// How the walk over one segment ended, and how many records it showed before.
fn stopped(writer: &Writer) -> (usize, Lsn, String) {
    let (shown, ends) = walk(&writer.segments(), writer, None);
    match ends.last() {
        Some(WalkEnd::Stopped { at, reason }) => (shown.len(), *at, reason.clone()),
        other => panic!("{other:?}"),
    }
}

/// Aim: a stale record with a good checksum (a torn page) is not taken for the next one. Method: break its link.
#[test]
fn a_record_that_does_not_follow_the_last_one_ends_the_walk() {
    for spans in [10, 20_000] {
        let mut writer = Writer::new(8192);
        writer.commit(700, 1);
        writer.prev = Lsn(0x1234);
        let stale = writer.record(10, 0, 701, &vec![1; spans]);
        let (shown, at, reason) = stopped(&writer);
        assert_eq!((shown, at), (1, stale));
        assert!(reason.contains("follows 0/1234, expected 0/300028"), "{reason}");
    }
    let mut writer = Writer::new(8192);
    writer.prev = Lsn(writer.base() + 40);
    writer.commit(700, 1);
    assert!(stopped(&writer).2.contains("which is later"));
}

#[test]
fn an_unknown_resource_manager_ends_the_walk() {
    for (magic, rmgr, known) in [
        (0xD10D, 21, true),
        (0xD10D, 22, false),
        (0xD10D, 128, false),
        (0xD110, 127, false),
        (0xD110, 128, true),
    ] {
        let mut writer = Writer::new(8192);
        writer.magic = magic;
        writer.record(rmgr, 0, 700, &[1; 10]);
        assert_eq!(stopped(&writer).0, usize::from(known), "{magic:X} {rmgr}");
    }
}

#[test]
fn a_record_longer_than_any_can_be_ends_the_walk() {
    let mut writer = Writer::new(8192);
    let at = writer.commit(700, 1);
    writer.bytes[40..44].copy_from_slice(&(1u32 << 30).to_le_bytes());
    let (_, stop, reason) = stopped(&writer);
    assert!(stop == at && reason.contains("more than one can have"), "{reason}");
    writer.bytes[40..44].copy_from_slice(&23u32.to_le_bytes());
    assert!(stopped(&writer).2.contains("fewer than its header has"));
}

/// Aim: page headers in the middle of a record are cross-checked. Method: change each field, with the record's beginning
/// at hand and without.
#[test]
fn a_page_that_does_not_go_on_with_the_record_ends_the_walk() {
    let mut writer = Writer::new(8192);
    let size = writer.size.bytes() as usize;
    writer.commit(700, 1);
    let long = writer.record(10, 0, 701, &vec![1; 2 * size]);
    for (field, value, words) in [
        (16, 1, "goes on with"),
        (2, 0, "does not go on with it"),
        (0, 0x10, "page magic D110 is that of PostgreSQL 15"),
        (8, 1, "it says that it is the page at"),
        (3, 1, "flags 0101"),
    ] {
        let mut segments = writer.segments();
        segments[1][3 * 8192 + field] = value;
        let (_, ends) = walk(&segments, &writer, None);
        let WalkEnd::Stopped { at, reason } = ends.last().unwrap() else {
            panic!("{ends:?}");
        };
        assert!(*at == long && reason.contains(words), "{at} {reason}");
        let end = Walker::new(None).feed(&segments[1], &writer.name(1), &mut |_| ControlFlow::Continue(()));
        let page = Lsn(writer.name(1).start().0 + 3 * 8192);
        assert!(matches!(end.unwrap(), WalkEnd::Stopped { at, .. } if at == page));
    }
}

#[test]
fn a_walk_that_begins_inside_a_foreign_segment_stops() {
    let writer = log();
    let start = writer
        .written
        .iter()
        .find(|record| record.start.0 > writer.base() + 5 * 8192)
        .unwrap()
        .start;
    let mut segment = writer.segments()[0].clone();
    segment[11] ^= 1;
    let end = Walker::new(Some(start)).feed(&segment, &writer.name(0), &mut |_| ControlFlow::Continue(()));
    assert!(matches!(end.unwrap(), WalkEnd::Stopped { at, .. } if at == writer.name(0).start()));
}

#[test]
fn nothing_may_follow_a_part_that_ends_inside_a_page() {
    let writer = log();
    let segment = &writer.segments()[0];
    let mut walker = Walker::new(None);
    walker.begin(&writer.name(0)).unwrap();
    let whole = writer
        .written
        .iter()
        .find(|record| record.end.0 % 8192 > 100)
        .unwrap()
        .end;
    let cut = (whole.0 - writer.base()) as usize;
    let end = walker
        .part(&segment[..cut], &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(
        matches!(end, Some(WalkEnd::Stopped { at, .. }) if at == whole),
        "{end:?}"
    );
    assert!(
        walker
            .part(&segment[cut..], &mut |_| panic!("shown after the end"))
            .is_err()
    );
}

#[test]
fn an_unknown_record_is_not_stepped_over_past_a_gap() {
    let mut writer = Writer::new(8192);
    let size = writer.size.bytes() as usize;
    writer.record(10, 0, 701, &vec![1; 2 * size]);
    let segment = &writer.segments()[1];
    let mut walker = Walker::new(None);
    walker.begin(&writer.name(1)).unwrap();
    let mut part = |bytes: &[u8]| walker.part(bytes, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(part(&segment[..10_000]), None);
    let end = part(&segment[10_000..]);
    assert!(matches!(end, Some(WalkEnd::Stopped { .. })), "{end:?}");
}
