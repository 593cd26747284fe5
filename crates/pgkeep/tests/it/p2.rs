//! P2: recovery never lies. With one segment of many flipped, cut, deleted or unreadable, or a history missing, a
//! restore is refused, names what is wrong, and says up to which moment recovery is possible; where the damage comes
//! after the plan, PostgreSQL stops and never opens the database with less than was promised.

use pgkeep_base::WalSegment;
use pgkeep_testkit::Damage;

use crate::life::{Branch, Life, life, offered};

/// Ways to damage the object of a segment: in its signed header, in its content, at its end, altogether.
fn damages(branch: &Branch, segment: WalSegment) -> [Damage; 5] {
    let object = branch.repository().join(branch.object(&segment.name()));
    let length = std::fs::metadata(object).unwrap().len();
    [
        Damage::FlipBit { at: 200, bit: 0 },
        Damage::FlipBit {
            at: length - 50,
            bit: 5,
        },
        Damage::Truncate { to: length - 1 },
        Damage::Delete,
        Damage::Unreadable,
    ]
}

/// The segments of timeline 1 between the first backup and the failover.
fn segments(life: &Life) -> Vec<WalSegment> {
    let (first, last) = (
        life.segment(1, life.commit(3).record),
        life.segment(1, life.commit(16).record),
    );
    let segments: Vec<_> = (first.number..last.number)
        .map(|number| WalSegment { number, ..first })
        .collect();
    assert!(segments.len() >= 8, "{segments:?}");
    segments
}

/// What is committed before a segment.
fn before(life: &Life, segment: WalSegment) -> Vec<i64> {
    life.path(1)
        .iter()
        .filter(|commit| commit.record < segment.start())
        .map(|commit| commit.id)
        .collect()
}

/// Aim: whichever segment is damaged in whichever way, nothing is restored, the segment is named, and the moment that
/// is offered instead is the last one before it.
#[test]
fn every_damage_to_every_segment_is_refused_at_once() {
    let life = life(17);
    let branch = life.branch();
    let options = ["--backup", &life.backups[0], "--latest"];
    for segment in segments(life) {
        let mut moments: Vec<pgkeep_base::Lsn> = Vec::new();
        for damage in damages(&branch, segment) {
            let _damaged = branch.damage(&segment.name(), damage);
            let refused = branch.refuse(4, &options);
            assert!(refused.stderr.contains(&segment.name()), "{damage:?}: {refused}");
            moments.extend(offered(&refused).first());
        }
        moments.dedup();
        assert_eq!(moments.len(), 1, "{segment}: {moments:?}");
        let _damaged = branch.damage(&segment.name(), Damage::Delete);
        let moment = moments[0].to_string();
        let restored = branch
            .restore(&["--backup", &life.backups[0], "--lsn", &moment, "--action", "promote"])
            .opened();
        life.assert_holds(&restored, &before(life, segment));
    }
}

/// Aim: with the newest history lost and no other that says what was in it, "latest" is refused; the timeline before is
/// restored when asked for, and PostgreSQL does not promote it to the number that is taken.
#[test]
fn a_lost_history_is_not_the_end_of_the_archive() {
    let life = life(17);
    for damage in [Damage::Delete, Damage::FlipBit { at: 400, bit: 3 }, Damage::Unreadable] {
        let branch = life.branch();
        let _damaged = branch.damage("00000003.history", damage);
        let refused = branch.refuse(4, &[]);
        assert!(refused.stderr.contains("timeline, 3,"), "{refused}");
        assert!(refused.stderr.contains("--timeline"), "{refused}");
        let mut restored = branch.restore(&["--timeline", "2", "--action", "pause"]).paused();
        life.assert_holds(&restored, &life.up_to(2, 2004));
        restored.sql("SELECT pg_wal_replay_resume()");
        let pgkeep_testkit::postgres::Recovery::Ended(log) = restored.wait_recovery() else {
            panic!("it must not take a number that another cluster has\n{}", restored.log())
        };
        assert!(log.contains("00000003.history"), "{log}");
    }
}

/// Aim: damage after the plan stops PostgreSQL, in the first, any, and the last segment; mended, recovery completes.
fn damage_after_the_plan(life: &Life) {
    let branch = life.branch();
    let target = ["--xid", &life.commit(16).xid.to_string(), "--action", "promote"];
    let mut restored = branch.restore(&[&["--backup", &life.backups[0] as &str], &target[..]].concat());
    let segments = segments(life);
    let planned = [
        segments[0],
        segments[segments.len() / 2],
        life.segment(1, life.commit(16).record),
    ];
    for (segment, damage) in planned
        .map(|segment| damages(&branch, segment).map(|damage| (segment, damage)))
        .concat()
    {
        let _damaged = branch.damage(&segment.name(), damage);
        let log = restored.start_expect_failure();
        assert!(
            log.contains("FATAL") && log.contains(&segment.name()),
            "{segment} {damage:?}: {log}"
        );
        assert!(
            !log.contains("ready to accept connections\n"),
            "{segment} {damage:?}: {log}"
        );
    }
    let restored = restored.opened();
    life.assert_holds(&restored, &life.up_to(1, 16));
}

#[test]
fn damage_after_the_plan_stops_postgresql_14() {
    damage_after_the_plan(life(14));
}

#[test]
fn damage_after_the_plan_stops_postgresql_18() {
    damage_after_the_plan(life(18));
}
