//! Claims about which records are taken for a timeline's.

use std::ops::ControlFlow;

use pgkeep_base::{PgMajor, WalSegment};
use pgkeep_pg::wal::{Walker, meaning};
use pgkeep_testkit::wal::Writer;

use super::*;

const BLOCK: usize = 8192;

/// A log with two records on timeline 1.
fn log() -> Writer {
    let mut writer = Writer::new(BLOCK);
    writer.commit(700, 1);
    writer.commit(701, 2);
    writer
}

/// From here on the pages are of another timeline.
fn on(mut writer: Writer, timeline: u32) -> Writer {
    writer.timeline = timeline;
    writer
}

fn end_of_recovery(writer: &mut Writer, timeline: u32, before: u32) {
    let mut main = 7i64.to_le_bytes().to_vec();
    main.extend(timeline.to_le_bytes());
    main.extend(before.to_le_bytes());
    writer.record(0, 0x90, 0, &main);
}

/// A checkpoint: shutdown (0x00) or online (0x10).
fn checkpoint(writer: &mut Writer, info: u8, timeline: u32, before: u32) {
    let mut main = vec![0; 88];
    main[8..12].copy_from_slice(&timeline.to_le_bytes());
    main[12..16].copy_from_slice(&before.to_le_bytes());
    writer.record(0, info, 0, &main);
}

/// Timeline 2, begun behind so many records, or elsewhere.
fn second(fork: Lsn) -> TimelineHistory {
    let root = TimelineHistory::root(TimelineId::FIRST);
    root.child(TimelineId::new(2).unwrap(), fork, "").unwrap()
}

/// What is said of a log from its n-th record on, along a history.
fn told(writer: &Writer, from: usize, history: &TimelineHistory) -> Result<(), String> {
    let mut beginnings = Beginnings::new(history);
    let mut told = Ok(());
    let mut walker = Walker::new(Some(writer.written[from].start));
    let skipped = writer.size.number_of(writer.written[from].start) - writer.first;
    for (index, bytes) in writer.segments().iter().enumerate().skip(skipped as usize) {
        let segment = WalSegment {
            number: writer.first + index as u64,
            ..writer.name(0)
        };
        let mut visit = |record: &Record<'_>| {
            told = beginnings.take(record, &meaning(record, PgMajor::NEWEST), BLOCK as u32);
            match told {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        walker.feed(bytes, &segment, &mut visit).unwrap();
        if told.is_err() {
            break;
        }
    }
    told
}

#[test]
fn a_timeline_begins_where_its_history_says() {
    let begins: [fn(&mut Writer, u32, u32); 2] = [end_of_recovery, |writer, timeline, before| {
        checkpoint(writer, 0x00, timeline, before);
    }];
    for begin in begins {
        let mut writer = on(log(), 2);
        begin(&mut writer, 2, 1);
        writer.commit(702, 3);
        let (here, earlier) = (writer.written[1].end, writer.written[0].end);
        assert_eq!(told(&writer, 0, &second(here)), Ok(()));
        assert_eq!(
            told(&writer, 2, &second(here)),
            Ok(()),
            "a walk that begins at the switch"
        );
        assert_eq!(told(&writer, 3, &second(here)), Ok(()), "a walk that begins behind it");
        assert!(told(&writer, 0, &second(earlier)).is_err(), "a commit comes before");
        assert!(
            told(&writer, 0, &second(writer.written[2].end)).is_err(),
            "it began before"
        );
        assert!(
            told(&writer, 0, &second(Lsn(earlier.0 + 8))).is_err(),
            "within a record"
        );
    }
    let mut writer = on(log(), 2);
    end_of_recovery(&mut writer, 2, 3);
    assert!(
        told(&writer, 0, &second(writer.written[1].end)).is_err(),
        "it left another timeline"
    );
}

#[test]
fn a_checkpoint_is_of_the_timeline_that_it_is_on() {
    for (timeline, is_good) in [(1, true), (2, false)] {
        let mut writer = log();
        checkpoint(&mut writer, 0x10, timeline, timeline);
        writer.commit(702, 3);
        assert_eq!(
            told(&writer, 0, &TimelineHistory::root(TimelineId::FIRST)).is_ok(),
            is_good
        );
    }
}

/// Aim: the page on which a timeline begins keeps its header, over a second switch, too; the next page has the new one.
#[test]
fn pages_are_of_the_timeline_that_the_way_has_there() {
    for (pages_of, is_good) in [(2, true), (1, false), (3, false)] {
        let mut writer = log();
        end_of_recovery(&mut writer, 2, 1);
        let mut writer = on(writer, pages_of);
        writer.record(10, 0, 0, &[0; 10_000]);
        writer.commit(702, 3);
        assert_eq!(
            told(&writer, 0, &second(writer.written[1].end)).is_ok(),
            is_good,
            "{pages_of}"
        );
    }
    let mut writer = log();
    end_of_recovery(&mut writer, 2, 1);
    end_of_recovery(&mut writer, 3, 2);
    let mut writer = on(writer, 3);
    writer.record(10, 0, 0, &[0; 10_000]);
    let third = second(writer.written[1].end);
    let third = third
        .child(TimelineId::new(3).unwrap(), writer.written[2].end, "")
        .unwrap();
    assert_eq!(told(&writer, 0, &third), Ok(()));
}

/// Aim: a switch on the border of a page, and behind `XLOG_SWITCH` on that of a segment.
#[test]
fn a_timeline_may_begin_on_a_border() {
    let mut writer = log();
    writer.fill_to(Lsn(writer.base() + BLOCK as u64));
    let fork = writer.at();
    let mut writer = on(writer, 2);
    end_of_recovery(&mut writer, 2, 1);
    writer.commit(702, 3);
    assert_eq!(told(&writer, 0, &second(fork)), Ok(()));

    let mut writer = log();
    writer.switch();
    let fork = writer.at();
    let mut writer = on(writer, 2);
    end_of_recovery(&mut writer, 2, 1);
    writer.commit(702, 3);
    assert_eq!(told(&writer, 0, &second(fork)), Ok(()));
}

/// Aim: where recovery aimed at a descendant and stopped before that began, the new timeline follows the ancestor.
#[test]
fn a_timeline_without_a_record_is_passed_by() {
    let mut writer = on(log(), 4);
    end_of_recovery(&mut writer, 4, 1);
    let fork = writer.written[1].end;
    let text = format!("1\t{}\tno\n2\t{fork}\tno\n", Lsn(fork.0 + 0x10_0000));
    let history = TimelineHistory::parse(TimelineId::new(4).unwrap(), text.as_bytes()).unwrap();
    assert_eq!(told(&writer, 0, &history), Ok(()));
}
