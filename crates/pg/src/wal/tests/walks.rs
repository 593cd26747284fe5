//! The walk shows exactly what was written, wherever page and segment borders fall.

use std::ops::ControlFlow;

use pgkeep_base::{Lsn, SegmentSize, TimelineId};
use pgkeep_testkit::wal::{Shown, Writer};
use proptest::prelude::*;

use super::{shown_as, walk};
use crate::wal::{WalkEnd, Walker};

/// Record lengths that land around borders, and now and then one that spans segments.
fn lengths() -> impl Strategy<Value = Vec<usize>> {
    let one = prop_oneof![
        20 => 0usize..300,
        5 => 300usize..9000,
        2 => 9000usize..200_000,
        1 => 900_000usize..2_500_000,
    ];
    prop::collection::vec(one, 1..60)
}

fn blocks() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1024usize), Just(4096), Just(8192), Just(8192), Just(65536)]
}

fn written(block: usize, lengths: &[usize]) -> Writer {
    let mut writer = Writer::new(block);
    for (index, length) in lengths.iter().enumerate() {
        let fill = vec![index as u8; *length];
        writer.record(10, 0x10, 700 + index as u32, &fill);
    }
    writer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_record_is_shown_once_and_whole(block in blocks(), lengths in lengths()) {
        let writer = written(block, &lengths);
        let (shown, ends) = walk(&writer.segments(), &writer, None);
        prop_assert_eq!(&shown, &writer.written);
        let at_end = writer.at().0.is_multiple_of(writer.size.bytes());
        let stopped = matches!(ends.last(), Some(WalkEnd::Stopped { at, .. }) if *at == writer.at());
        prop_assert!(at_end || stopped, "{:?}, written to {}", ends.last(), writer.at());
    }

    #[test]
    fn parts_show_the_same_as_the_whole(block in blocks(), lengths in lengths()) {
        let writer = written(block, &lengths);
        let mut walker = Walker::new(None);
        let mut shown = Vec::new();
        'segments: for (index, segment) in writer.segments().iter().enumerate() {
            walker.begin(&writer.name(index)).unwrap();
            for part in segment.chunks(64 << 10) {
                let end = walker.part(part, &mut |record| {
                    shown.push(shown_as(record));
                    ControlFlow::Continue(())
                });
                if let Some(end) = end.unwrap() {
                    let stopped = matches!(end, WalkEnd::Stopped { .. });
                    prop_assert!(stopped);
                    break 'segments;
                }
            }
            walker.finish().unwrap();
        }
        prop_assert_eq!(shown, writer.written);
    }

    #[test]
    fn a_walk_can_begin_at_any_record(lengths in lengths(), pick in any::<prop::sample::Index>()) {
        let writer = written(8192, &lengths);
        let from = pick.index(writer.written.len());
        let start = writer.written[from].start;
        let skip = (writer.size.number_of(start) - writer.first) as usize;
        let mut walker = Walker::new(Some(start));
        let mut shown = Vec::new();
        for (index, segment) in writer.segments().iter().enumerate().skip(skip) {
            walker.feed(segment, &writer.name(index), &mut |record| {
                shown.push(shown_as(record));
                ControlFlow::Continue(())
            }).unwrap();
        }
        prop_assert_eq!(&shown[..], &writer.written[from..]);
    }

    #[test]
    fn a_walk_from_a_later_segment_shows_what_begins_there(lengths in lengths(), skip in 0usize..4) {
        let writer = written(8192, &lengths);
        let segments = writer.segments();
        let skip = skip.min(segments.len() - 1);
        let from = writer.name(skip).start();
        let mut walker = Walker::new(None);
        let mut shown = Vec::new();
        for (index, segment) in segments.iter().enumerate().skip(skip) {
            walker.feed(segment, &writer.name(index), &mut |record| {
                shown.push(shown_as(record));
                ControlFlow::Continue(())
            }).unwrap();
        }
        let expected: Vec<Shown> = writer.written.iter().filter(|record| record.start >= from).cloned().collect();
        prop_assert_eq!(shown, expected);
    }
}

/// Aim: the ends of a segment are told apart. Method: a record that ends 0, 8, 16 … bytes before its end, so that the
/// next record's header is split at every place.
#[test]
fn a_header_may_be_split_at_any_place_of_a_border() {
    for left in (0..=64).step_by(8) {
        let mut writer = Writer::new(8192);
        let end = writer.name(0).end();
        writer.fill_to(Lsn(end.0 - 8192));
        writer.record(10, 0, 1, &vec![1; 8192 - 24 - 24 - 5 - left as usize]);
        assert_eq!(writer.at(), Lsn(end.0 - left));
        let start = writer.at();
        writer.record(10, 0, 2, &[2; 100]);
        writer.record(10, 0, 3, &[3; 10]);
        let (shown, ends) = walk(&writer.segments(), &writer, None);
        assert_eq!(shown, writer.written, "{left}");
        let expected = match left {
            0 => WalkEnd::SegmentFull { next: end },
            _ => WalkEnd::Continues {
                start,
                bytes_missing: 126 - left as u32,
                prev: (left >= 24).then(|| writer.written[writer.written.len() - 3].start),
            },
        };
        assert_eq!(ends[0], expected, "{left}");
    }
}

#[test]
fn an_unknown_record_may_end_exactly_at_the_border() {
    let mut writer = Writer::new(8192);
    let end = writer.name(1).end();
    writer.fill_to(Lsn(writer.name(0).end().0 - 8192));
    let pages = writer.size.bytes() as usize / 8192;
    writer.record(10, 0, 1, &vec![1; (8192 - 24) * pages - 16 + 8192 - 24 - 24 - 5]);
    assert_eq!(writer.at(), end);
    let segments = writer.segments();
    let walked = Walker::new(None).feed(&segments[1], &writer.name(1), &mut |_| panic!("nothing is known of it"));
    assert_eq!(walked.unwrap(), WalkEnd::SegmentFull { next: end });
}

#[test]
fn after_a_switch_the_next_segment_goes_on() {
    let mut writer = Writer::new(8192);
    writer.commit(700, 1);
    let switch = writer.switch();
    writer.commit(701, 2);
    let (shown, ends) = walk(&writer.segments(), &writer, None);
    assert_eq!(shown, writer.written);
    assert_eq!(ends[0], WalkEnd::Switched { record: switch });
    assert_eq!(shown[1].end, writer.name(0).end());
}

/// Aim: a record that a crash cut off is dropped, and the one in its place follows the one before it.
#[test]
fn an_overwritten_record_is_dropped() {
    let mut writer = Writer::new(8192);
    writer.commit(700, 1);
    let (prev, count) = (writer.prev, writer.written.len());
    let lost = writer.record(10, 0, 701, &[7; 20_000]);
    // The crash left one page of it; the next one is begun anew.
    writer.bytes.truncate(8192);
    writer.written.truncate(count);
    writer.prev = prev;
    writer.extra_flags = 8;
    let mut main = lost.0.to_le_bytes().to_vec();
    main.extend(2i64.to_le_bytes());
    writer.record(0, 0xD0, 0, &main);
    writer.commit(702, 3);
    let (shown, _) = walk(&writer.segments(), &writer, None);
    assert_eq!(shown, writer.written);
}

#[test]
fn a_promotion_inside_a_segment_raises_the_timeline() {
    let mut writer = Writer::new(8192);
    writer.fill_to(Lsn(writer.base() + 3 * 8192));
    writer.timeline = 2;
    writer.fill_to(Lsn(writer.base() + 5 * 8192));
    let (shown, _) = walk(&writer.segments(), &writer, None);
    assert_eq!(shown, writer.written);
    // Under the old timeline's name, the new pages are not part of it.
    let mut walker = Walker::new(None);
    let old = pgkeep_base::WalSegment {
        timeline: TimelineId::FIRST,
        ..writer.name(0)
    };
    let end = walker.feed(&writer.segments()[0], &old, &mut |_| ControlFlow::Continue(()));
    let at = Lsn(writer.base() + 3 * 8192);
    assert!(matches!(end.unwrap(), WalkEnd::Stopped { at: stopped, .. } if stopped == at));
}

#[test]
fn a_timeline_never_goes_back() {
    let mut writer = Writer::new(8192);
    writer.timeline = 2;
    writer.fill_to(Lsn(writer.base() + 8192));
    writer.timeline = 1;
    writer.fill_to(Lsn(writer.base() + 2 * 8192));
    writer.timeline = 2;
    let (_, ends) = walk(&writer.segments(), &writer, None);
    assert!(
        matches!(&ends[0], WalkEnd::Stopped { reason, .. } if reason.contains("timeline 1 comes after timeline 2")),
        "{ends:?}"
    );
}

#[test]
fn the_visitor_can_end_the_walk() {
    let mut writer = Writer::new(8192);
    let first = writer.commit(700, 1);
    writer.commit(701, 2);
    let mut walker = Walker::new(None);
    let mut seen = Vec::new();
    let end = walker.feed(&writer.segments()[0], &writer.name(0), &mut |record| {
        seen.push(record.start);
        ControlFlow::Break(())
    });
    let next = writer.written[0].end;
    assert_eq!((end.unwrap(), seen), (WalkEnd::Interrupted { next }, vec![first]));
    assert!(walker.begin(&writer.name(1)).is_err(), "a walk that is over stays over");
}

#[test]
fn segments_must_be_given_in_order() {
    let mut writer = Writer::new(8192);
    writer.fill_to(Lsn(writer.base() + writer.size.bytes()));
    writer.commit(700, 1);
    let segments = writer.segments();
    let mut walker = Walker::new(None);
    walker
        .feed(&segments[0], &writer.name(0), &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(walker.begin(&writer.name(0)).is_err());
    assert!(walker.begin(&writer.name(2)).is_err());
    assert!(walker.begin(&writer.name(1)).is_ok());
    let elsewhere = Writer::new(8192).name(0).end();
    assert!(Walker::new(Some(elsewhere)).begin(&writer.name(0)).is_err());
}

#[test]
fn a_segment_of_another_size_or_cluster_stops_the_walk() {
    let mut writer = Writer::new(8192);
    writer.fill_to(Lsn(writer.base() + writer.size.bytes()));
    writer.system_id.0 += 1;
    writer.commit(700, 1);
    let (_, ends) = walk(&writer.segments(), &writer, None);
    assert!(matches!(&ends[1], WalkEnd::Stopped { reason, .. } if reason.contains("system identifier")));
    let name = pgkeep_base::WalSegment {
        number: 0,
        size: SegmentSize::DEFAULT,
        ..writer.name(0)
    };
    let end = Walker::new(None).feed(&writer.segments()[0], &name, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(end.unwrap(), WalkEnd::Stopped { reason, .. } if reason.contains("segment size")));
}
