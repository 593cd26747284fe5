//! Every recovery target, with PostgreSQL as the judge: a restored cluster holds what its moment promises, and nothing
//! more. Targets that can't be reached: `unreachable`; timelines: `timelines`.

use pgkeep_testkit::every_major;

use crate::life::{Life, life};

/// Restores to a target, starts and compares.
#[track_caller]
fn holds(life: &Life, options: &[&str], expected: &[i64]) {
    let restored = life.restore(&[options, &["--action", "promote"]].concat()).opened();
    life.assert_holds(&restored, expected);
}

every_major! {
    /// Aim: a time takes in every commit up to it and none after it, to the microsecond, with and without the commit
    /// that happened just then.
    fn a_time_is_exact_to_the_microsecond(major: u16) {
        let life = life(major);
        let (before, after) = (life.commit(10).time, life.commit(11).time);
        let microsecond = jiff::SignedDuration::from_micros(1);
        holds(life, &["--at", &before.to_string()], &life.up_to(1, 10));
        holds(life, &["--at", &before.to_string(), "--exclusive"], &life.up_to(1, 9));
        holds(life, &["--at", &(after - microsecond).to_string()], &life.up_to(1, 10));
        holds(life, &["--at", &(before + microsecond).to_string(), "--exclusive"], &life.up_to(1, 10));
    }

    /// Aim: an LSN is the record that begins there, or the first one after it; without it where it is exclusive.
    fn an_lsn_is_exact_to_the_record(major: u16) {
        let life = life(major);
        let record = life.commit(7).record;
        let inside = pgkeep_base::Lsn(record.0 - 8);
        holds(life, &["--lsn", &record.to_string()], &life.up_to(1, 7));
        holds(life, &["--lsn", &record.to_string(), "--exclusive"], &life.up_to(1, 6));
        holds(life, &["--lsn", &inside.to_string()], &life.up_to(1, 7));
    }

    /// Aim: a transaction is recovered up to its end, or to just before it; also one that was rolled back, of which
    /// nothing is ever there, and one that was committed in two phases.
    fn a_transaction_is_the_last_one_or_the_first_that_is_left_out(major: u16) {
        let life = life(major);
        let xid = |id| life.commit(id).xid.to_string();
        holds(life, &["--xid", &xid(5)], &life.up_to(1, 5));
        holds(life, &["--xid", &xid(6), "--exclusive"], &life.up_to(1, 5));
        holds(life, &["--xid", &life.aborted.0.to_string()], &life.up_to(1, 5));
        holds(life, &["--xid", &xid(8)], &life.up_to(1, 8));
        holds(life, &["--xid", &xid(8), "--exclusive"], &life.up_to(1, 7));
    }

    /// Aim: a restore point is found behind the backup that fits, wherever it lies, with nothing of what came after it.
    fn a_restore_point_is_found(major: u16) {
        let life = life(major);
        holds(life, &["--restore-point", "alpha"], &life.up_to(1, 6));
        holds(life, &["--restore-point", "beta"], &life.up_to(1, 15));
        holds(life, &["--restore-point", "beta", "--backup", &life.backups[0]], &life.up_to(1, 15));
    }

    /// Aim: each backup stops at its own end, and each leads to the end of the archive, over all timelines.
    fn the_end_of_the_backup_and_the_end_of_the_archive(major: u16) {
        let life = life(major);
        let ends = [life.up_to(1, 2), life.up_to(1, 9), life.up_to(2, 2002)];
        for (backup, end) in life.backups.iter().zip(&ends) {
            holds(life, &["--immediate", "--backup", backup], end);
            holds(life, &["--latest", "--backup", backup], &life.up_to(3, 3003));
        }
        holds(life, &[], &life.up_to(3, 3003));
    }

    /// Aim: a transaction that was prepared before the target and committed after it is there, prepared, and can be
    /// committed or rolled back.
    fn a_prepared_transaction_that_spans_the_target_is_still_prepared(major: u16) {
        let life = life(major);
        let xid = life.commit(7).xid.to_string();
        let restored = life.restore(&["--xid", &xid, "--action", "promote"]).opened();
        life.assert_holds(&restored, &life.up_to(1, 7));
        assert_eq!(restored.sql("SELECT gid FROM pg_prepared_xacts"), "eight");
        restored.sql("COMMIT PREPARED 'eight'");
        life.assert_holds(&restored, &life.up_to(1, 8));
    }

    /// Aim: at the target recovery pauses, the data can be read and not written, and it goes on for good when told to;
    /// then nothing of pgkeep's recovery settings is left.
    fn recovery_pauses_at_the_target_and_goes_on_when_told_to(major: u16) {
        let life = life(major);
        let mut restored = life.restore(&["--at", &life.commit(13).time.to_string()]).paused();
        life.assert_holds(&restored, &life.up_to(1, 13));
        assert!(restored.sql_err("CREATE TABLE no ()").contains("read-only"));
        restored.sql("SELECT pg_wal_replay_resume()");
        restored.wait_recovered();
        life.assert_holds(&restored, &life.up_to(1, 13));
        restored.sql("CREATE TABLE yes ()");
        let auto = std::fs::read_to_string(restored.data_dir().join("postgresql.auto.conf")).unwrap();
        for left in ["recovery_target", "restore_command", "recovery_end_command"] {
            assert!(!auto.contains(left), "{auto}");
        }
    }

    /// Aim: with `--action shutdown` PostgreSQL stops at the target, and the directory stands exactly there.
    fn recovery_shuts_down_at_the_target(major: u16) {
        let life = life(major);
        let mut restored = life.restore(&["--xid", &life.commit(12).xid.to_string(), "--action", "shutdown"]);
        let log = match restored.try_start() {
            Err(log) => log,
            Ok(()) => match restored.wait_recovery() {
                pgkeep_testkit::postgres::Recovery::Ended(log) => log,
                other => panic!("{other:?}"),
            },
        };
        assert!(log.contains("shutdown at recovery target"), "{log}");
        assert_eq!(restored.control("Database cluster state"), "shut down in recovery");
    }

    /// Aim: a time at or after the last commit is the end of the archive, as long as some later record bears a time;
    /// exclusive, it leaves that commit out.
    fn a_time_after_the_last_commit(major: u16) {
        let life = life(major);
        let last = life.commit(1002).time;
        let microsecond = jiff::SignedDuration::from_micros(1);
        holds(life, &["--timeline", "1", "--at", &last.to_string()], &life.up_to(1, 1002));
        holds(life, &["--timeline", "1", "--at", &(last + microsecond).to_string()], &life.up_to(1, 1002));
        holds(life, &["--timeline", "1", "--at", &last.to_string(), "--exclusive"], &life.up_to(1, 1001));
    }

    /// Aim: a server that is killed in the midst of its recovery, or paused at the target, recovers to the same moment
    /// when it is started again, and `pg_promote` ends the pause as well.
    fn a_killed_recovery_arrives_all_the_same(major: u16) {
        let life = life(major);
        let mut restored = life.restore(&["--at", &life.commit(13).time.to_string()]);
        restored.start();
        restored.kill9();
        let mut restored = restored.paused();
        restored.kill9();
        let mut restored = restored.paused();
        life.assert_holds(&restored, &life.up_to(1, 13));
        restored.promote();
        life.assert_holds(&restored, &life.up_to(1, 13));
        restored.restart(pgkeep_testkit::StopMode::Fast);
        life.assert_holds(&restored, &life.up_to(1, 13));
    }
}
