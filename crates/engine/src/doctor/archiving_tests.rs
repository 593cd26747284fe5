//! Claims about judging archiving.

use super::*;
use crate::doctor::Status;
use pgkeep_base::{Lsn, SegmentSize, TimelineId};
use pgkeep_pg::facts::ArchiverEvent;

const NOW: i64 = 1_800_000_000;

fn at(seconds_ago: i64) -> Timestamp {
    Timestamp::from_second(NOW - seconds_ago).unwrap()
}

fn event(seconds_ago: i64) -> Option<ArchiverEvent> {
    Some(ArchiverEvent {
        file: "000000010000000000000003".to_owned(),
        at: at(seconds_ago),
    })
}

fn archiver(archived: Option<ArchiverEvent>, failed: Option<ArchiverEvent>) -> ArchiverFacts {
    ArchiverFacts {
        archived_count: 1,
        last_archived: archived,
        failed_count: 9,
        last_failed: failed,
        stats_reset: None,
        asked_at: at(0),
    }
}

#[test]
fn an_archiver_fails_while_its_last_attempt_did() {
    let status = |archived, failed| judge_archiver(&archiver(archived, failed), at(0), "retry").status;
    assert_eq!(status(event(10), event(5)), Status::Fail);
    assert_eq!(status(None, event(5)), Status::Fail);
    assert_eq!(status(event(5), event(10)), Status::Pass);
    assert_eq!(status(event(5), None), Status::Pass);
    assert_eq!(status(None, None), Status::Warn);
}

#[test]
fn what_waits_too_long_fails_even_without_a_counted_failure() {
    let status = |waiting, oldest: Option<i64>| {
        let backlog = ArchiveBacklog {
            waiting,
            oldest: oldest.map(at),
        };
        judge_backlog(&backlog, at(0)).status
    };
    assert_eq!(status(0, None), Status::Pass);
    assert_eq!(status(3, Some(20)), Status::Pass);
    assert_eq!(status(40, Some(20)), Status::Warn);
    assert_eq!(status(1, Some(301)), Status::Fail);
}

#[test]
fn an_archive_timeout_is_compared_with_the_objective() {
    let status = |seconds, rpo: Option<u64>| judge_timeout(seconds, rpo.map(Duration::from_secs)).status;
    assert_eq!(status(0, None), Status::Warn);
    assert_eq!(status(60, None), Status::Pass);
    assert_eq!(status(7200, None), Status::Warn);
    assert_eq!(status(400, Some(300)), Status::Warn);
    assert_eq!(status(300, Some(300)), Status::Pass);
    let fix = judge_timeout(0, Some(Duration::from_secs(300))).fix;
    assert_eq!(
        fix,
        "ALTER SYSTEM SET archive_timeout = '150s'; SELECT pg_reload_conf();"
    );
}

fn segment(number: u64) -> WalSegment {
    WalSegment {
        timeline: TimelineId::FIRST,
        number,
        size: SegmentSize::DEFAULT,
    }
}

fn pushed(number: u64) -> PushedFile {
    PushedFile {
        file: segment(number).name(),
        hash: "x".to_owned(),
        timeline: TimelineId::FIRST,
        pushed_at: at(10),
        facts: None,
        places: vec!["main".to_owned()],
    }
}

#[test]
fn a_record_that_ends_before_what_postgresql_believes_is_told() {
    let current = WalSegment::at(TimelineId::FIRST, Lsn(5 << 24), SegmentSize::DEFAULT);
    let status = |last: Option<u64>, archived: Option<u64>| {
        let archived = archived.map(|number| segment(number).name());
        judge_record(last.map(pushed).as_ref(), current, archived.as_deref(), at(0)).status
    };
    assert_eq!(status(Some(4), Some(4)), Status::Pass);
    assert_eq!(status(Some(3), None), Status::Pass);
    assert_eq!(status(Some(2), None), Status::Warn);
    assert_eq!(status(Some(3), Some(4)), Status::Warn);
    assert_eq!(status(None, Some(4)), Status::Warn);
    assert_eq!(status(None, None), Status::Warn);
}

#[test]
fn a_program_that_is_not_there_fails() {
    let me = Who::me();
    assert_eq!(judge_runnable(Path::new("/nowhere/pgkeep"), &me).status, Status::Fail);
    assert_eq!(judge_runnable(Path::new("/bin/sh"), &me).status, Status::Pass);
}
