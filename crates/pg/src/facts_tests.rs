//! Claims about what counters of the archiver mean.

use super::*;

const NOW: i64 = 1_800_000_000;

fn event(file: &str, seconds_from_now: i64) -> ArchiverEvent {
    ArchiverEvent {
        file: file.to_owned(),
        at: Timestamp::from_second(NOW + seconds_from_now).unwrap(),
    }
}

fn is_failing(archived: ArchiverEvent, failed: ArchiverEvent) -> bool {
    let facts = ArchiverFacts {
        archived_count: 7,
        last_archived: Some(archived),
        failed_count: 3,
        last_failed: Some(failed),
        stats_reset: None,
        asked_at: Timestamp::from_second(NOW).unwrap(),
    };
    facts.is_failing()
}

const FIFTH: &str = "000000010000000000000005";
const SIXTH: &str = "000000010000000000000006";

#[test]
fn what_happened_last_counts() {
    assert!(is_failing(event(FIFTH, -10), event(SIXTH, -5)));
    assert!(!is_failing(event(SIXTH, -5), event(SIXTH, -10)));
    // By hand an older file can be made ready again: the later failure counts.
    assert!(is_failing(event(SIXTH, -10), event(FIFTH, -5)));
}

/// A clock that was an hour ahead made `status` red, and `backup` refuse, for an hour after it was set right.
#[test]
fn a_failure_in_the_future_is_over_once_a_later_file_is_archived() {
    assert!(!is_failing(event(SIXTH, -5), event(FIFTH, 3600)));
    assert!(
        is_failing(event(FIFTH, -5), event(SIXTH, 3600)),
        "it still stands at the sixth"
    );
    assert!(
        is_failing(event(FIFTH, -5), event(FIFTH, 3600)),
        "that may be the same attempt's file, made ready again"
    );
    assert!(
        is_failing(event("00000002.history", -5), event(FIFTH, 3600)),
        "histories go first"
    );
}
