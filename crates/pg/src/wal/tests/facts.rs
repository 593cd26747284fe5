//! What is stored about a segment: whose a record is, what is unknown, how segments prove that they follow each other.

use pgkeep_base::{ErrorKind, Lsn, pgtime};
use pgkeep_testkit::wal::Writer;

use crate::wal::{FactsWalk, SegmentFacts, segment_facts};

/// Segment 0: a commit, and a commit record that begins 40 bytes before the end. Segment 1: its rest, another commit.
fn spanning() -> Writer {
    let mut writer = Writer::new(8192);
    writer.commit(700, 10);
    let end = writer.name(0).end();
    writer.fill_to(Lsn(writer.base() + 8192));
    writer.fill_to(Lsn(end.0 - 40));
    let mut main = 20i64.to_le_bytes().to_vec();
    main.extend([0; 100]);
    writer.record(1, 0, 701, &main);
    writer.commit(702, 15);
    writer
}

#[test]
fn a_record_counts_where_it_ends() {
    let writer = spanning();
    let segments = writer.segments();
    let first = segment_facts(&segments[0], &writer.name(0), None).unwrap();
    let second = segment_facts(&segments[1], &writer.name(1), Some(&segments[0])).unwrap();
    assert_eq!((first.commits, second.commits), (1, 2));
    let spanning = Lsn(writer.name(0).end().0 - 40);
    assert_eq!(first.unfinished_record, Some(spanning));
    assert_eq!(first.last_record, writer.ending_in(0).last().map(|record| record.start));
    assert_eq!(first.valid_to, writer.name(0).end());
    assert_eq!(first.stopped, None);
    assert_eq!(second.first_record_prev, Some(spanning));
    assert_eq!(second.continued_bytes, first.missing_bytes);
    assert!(!second.spanning_unknown);
    let time = |microseconds| pgtime::from_timestamptz(microseconds);
    assert_eq!(
        (second.first_commit_time, second.last_commit_time),
        (time(20), time(15))
    );
    assert_eq!((second.min_time, second.max_time), (time(15), time(20)));
    assert_eq!((second.xid_min, second.xid_max), (Some(701), Some(702)));
    assert_eq!(second.valid_to, writer.at());
    assert!(second.stopped.is_some());
}

#[test]
fn without_the_segment_before_a_spanning_record_is_unknown() {
    let writer = spanning();
    let segments = writer.segments();
    let alone = segment_facts(&segments[1], &writer.name(1), None).unwrap();
    assert!(alone.spanning_unknown);
    assert_eq!(alone.commits, 1);
    assert_eq!(alone.first_record, writer.written.last().map(|record| record.start));
    // A segment before that does not lead here helps no more than none.
    let mut other = Writer::new(8192);
    other.fill_to(other.name(0).end());
    let misled = segment_facts(&segments[1], &writer.name(1), Some(&other.segments()[0])).unwrap();
    assert_eq!(misled, alone);
}

#[test]
fn a_damaged_continuation_is_not_hidden_by_falling_back() {
    let writer = spanning();
    let mut segments = writer.segments();
    segments[1][50] ^= 1;
    let facts = segment_facts(&segments[1], &writer.name(1), Some(&segments[0])).unwrap();
    assert_eq!((facts.last_record, facts.commits), (None, 0));
    assert_eq!(facts.valid_to, writer.name(1).start());
    assert!(facts.stopped.unwrap().contains("checksum"));
}

/// Aim: a record over four segments is understood by a walk and unknown to a lone look.
#[test]
fn a_record_over_many_segments_needs_a_walk() {
    let mut writer = Writer::new(8192);
    writer.commit(700, 10);
    let mut main = 20i64.to_le_bytes().to_vec();
    main.resize(3 << 20, 0);
    let long = writer.record(1, 0, 701, &main);
    writer.commit(702, 30);
    let segments = writer.segments();
    assert_eq!(segments.len(), 4);
    let mut walk = FactsWalk::new();
    let facts: Vec<SegmentFacts> = (0..4)
        .map(|index| walk.feed(&segments[index], &writer.name(index)).unwrap())
        .collect();
    assert_eq!(
        facts.iter().map(|facts| facts.commits).collect::<Vec<_>>(),
        [1, 0, 0, 2]
    );
    for index in 1..4 {
        assert_eq!(facts[index].continued_bytes, facts[index - 1].missing_bytes);
        assert!(!facts[index].spanning_unknown);
    }
    assert_eq!(facts[0].unfinished_record, Some(long));
    assert_eq!((facts[1].first_record, facts[1].unfinished_record), (None, None));
    assert_eq!(facts[3].first_record_prev, Some(long));
    let lone = segment_facts(&segments[3], &writer.name(3), Some(&segments[2])).unwrap();
    assert!(lone.spanning_unknown);
    assert_eq!(lone.commits, 1);
    let middle = segment_facts(&segments[2], &writer.name(2), None).unwrap();
    assert!(!middle.spanning_unknown, "no record ends in it");
    assert_eq!(middle.missing_bytes, facts[2].missing_bytes);
}

#[test]
fn facts_read_back_as_they_were_stored() {
    let writer = spanning();
    let segments = writer.segments();
    let mut walk = FactsWalk::new();
    for (index, segment) in segments.iter().enumerate() {
        walk.begin(&writer.name(index)).unwrap();
        for part in segment.chunks(64 << 10) {
            walk.part(part).unwrap();
        }
        let facts = walk.finish().unwrap();
        let previous = index.checked_sub(1).map(|before| segments[before].as_slice());
        assert_eq!(facts, segment_facts(segment, &writer.name(index), previous).unwrap());
        let json = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<SegmentFacts>(&json).unwrap(), facts);
    }
}

#[test]
fn a_switch_fills_its_segment() {
    let mut writer = Writer::new(8192);
    writer.commit(700, 10);
    let switch = writer.switch();
    let facts = segment_facts(&writer.segments()[0], &writer.name(0), None).unwrap();
    assert!(facts.switched);
    assert_eq!(facts.last_record, Some(switch));
    assert_eq!(facts.last_record_end, Some(writer.name(0).end()));
    assert_eq!((facts.valid_to, facts.stopped), (writer.name(0).end(), None));
}

#[test]
fn an_overwritten_record_is_told_from_a_continued_one() {
    let mut writer = Writer::new(8192);
    writer.fill_to(Lsn(writer.name(0).end().0 - 40));
    let prev = writer.prev;
    writer.record(10, 0, 701, &[7; 5000]);
    let border = writer.size.bytes() as usize;
    writer.bytes.truncate(border);
    writer.prev = prev;
    writer.extra_flags = 8;
    let instead = writer.record(0, 0xD0, 0, &[0; 16]);
    let segments = writer.segments();
    let facts = segment_facts(&segments[1], &writer.name(1), Some(&segments[0])).unwrap();
    assert!(facts.drops_unfinished && !facts.spanning_unknown);
    assert_eq!(facts.first_record, Some(instead));
    assert_eq!(facts.first_record_prev, Some(prev));
}

#[test]
fn a_segment_under_a_wrong_name_is_refused() {
    let writer = spanning();
    let segments = writer.segments();
    let error = segment_facts(&segments[0], &writer.name(1), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.detail_text().unwrap().contains("it begins at 0/300000"),
        "{error:?}"
    );
    let mut long = segments[0].clone();
    long.push(0);
    assert_eq!(
        segment_facts(&long, &writer.name(0), None).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        segment_facts(&[], &writer.name(0), None).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}
