//! Wrong answers of an S3 server: failures before and after the effect, lies, and listings that are not true.

use pgkeep_testkit::oracle::Oracle;
use pgkeep_testkit::{Op, Rule, S3Fault, Upto, wait};

use crate::backup::{backup, listed, out_of_backup_mode};

use super::{Behind, archived, behind, bounded, check_right_or_refused, patient, suiting};

/// Segments that PostgreSQL has completed and nobody archives.
fn segment(behind: &Behind) -> String {
    behind.shop.cluster.sql("INSERT INTO t SELECT generate_series(1, 100)");
    behind.shop.cluster.switch_wal()
}

fn push(behind: &Behind, segment: &str) -> pgkeep_testkit::Output {
    let path = behind.shop.cluster.data_dir().join("pg_wal").join(segment);
    bounded(behind.shop.run(["wal", "push"]).arg(path))
}

/// Aim: a push is 0 only once the server has the segment; a failure that passes is not even seen, one that stays is 7
/// in bounded time, whether or not the server had done it; afterwards the same push succeeds.
#[test]
fn a_push_succeeds_only_when_the_server_has_it() {
    let mut behind = behind(1);
    behind.shop.cluster.sql("CREATE TABLE t (i int)");
    behind.shop.pgkeep(["backup"]).ok();
    behind.shop.cluster.set_conf("archive_command", "");
    let stays = [
        S3Fault::Before(403),
        S3Fault::After(403),
        S3Fault::Before(404),
        S3Fault::Before(412),
    ];
    for fault in suiting(&S3Fault::PASSING, Op::Put).chain(stays) {
        let passes = !stays.contains(&fault);
        if passes {
            let name = segment(&behind);
            behind.proxy.rule(Rule::new(fault).on(Op::Put).like("/wal/").times(2));
            push(&behind, &name).ok();
            assert_eq!(behind.stored(&name).len(), 1, "{fault:?}");
            behind.proxy.heal();
        }
        let name = segment(&behind);
        behind.proxy.rule(Rule::new(fault).on(Op::Put).like("/wal/"));
        let failed = push(&behind, &name).expect(7);
        assert!(
            failed.stderr.contains(&name) && failed.stderr.contains("hint: "),
            "{fault:?}: {failed}"
        );
        let done = matches!(fault, S3Fault::After(_) | S3Fault::HangupAfter);
        assert_eq!(behind.stored(&name).len(), usize::from(done), "{fault:?}");
        behind.proxy.heal();
        push(&behind, &name).ok();
        assert_eq!(behind.stored(&name).len(), 1, "{fault:?}");
    }
    let command = format!("{} wal push %p", behind.shop.command_line());
    behind.shop.cluster.set_conf("archive_command", &command);
    behind.shop.cluster.archive_all();
    let mut restored = behind.shop.restore("restored", ["--latest"]);
    restored.start();
    restored.wait_recovered();
    let count = "SELECT count(*) FROM t";
    assert_eq!(restored.sql(count), behind.shop.cluster.sql(count));
    behind.check_account();
}

/// Aim: backups under load, with an archiver that meets the same faults, succeed where the failure passes; what they
/// stored restores. Method: each fault on every third request.
#[test]
fn backups_outlive_failures_that_pass() {
    let behind = behind(2);
    let oracle = Oracle::builder(&behind.shop.cluster).writers(2).seed(2).start();
    for fault in suiting(&S3Fault::PASSING, Op::Put) {
        behind.proxy.rule(Rule::new(fault).one_in(3));
        oracle.wait_for(10);
        patient(behind.shop.run(["backup"])).ok();
        behind.proxy.heal();
    }
    behind.shop.cluster.archive_all();
    let ledger = oracle.stop();
    behind.shop.cluster.archive_all();
    behind.check_restore("restored", &["--latest"], &ledger, Upto::All);
    let newest = listed(&behind.shop).pop().unwrap();
    let mut alone = behind
        .shop
        .restore("alone", ["--backup", &newest, "--immediate", "--action", "promote"]);
    alone.start();
    alone.wait_recovered();
    ledger.check(&alone, Upto::AtLeast(pgkeep_base::Lsn::INVALID)).unwrap();
    behind.check_account();
}

/// Aim: credentials that are revoked in the middle of a backup end it (7), outside of backup mode and without a head;
/// archiving waits; with new credentials both go on, and nothing is missing (M35).
#[test]
fn credentials_that_are_revoked_on_the_way_end_a_backup() {
    let behind = behind(3);
    let oracle = Oracle::builder(&behind.shop.cluster).writers(2).seed(3).start();
    oracle.wait_for(50);
    let before = backup(&behind.shop, &["--full"]);
    let puts = || behind.proxy.account().requests.get(&Op::Put).copied().unwrap_or(0);
    for after in [1, 2, 3] {
        let stored = puts();
        behind.proxy.rule(Rule::new(S3Fault::Before(403)).after(after));
        let failed = behind.pgkeep(["backup", "--full"]);
        assert!(matches!(failed.code, Some(4 | 7)), "{failed}");
        assert!(failed.stderr.contains("hint: "), "{failed}");
        out_of_backup_mode(&behind.shop.cluster);
        let segment = behind.shop.cluster.switch_wal();
        wait::until("the archiver to fail", wait::LIMIT, || {
            (behind.shop.cluster.sql("SELECT failed_count > 0 FROM pg_stat_archiver") == "t").then_some(())
        });
        behind.proxy.heal();
        behind.shop.cluster.wait_archived(&segment);
        assert_eq!(listed(&behind.shop), [crate::backup::text(&before["id"])]);
        assert!(puts() > stored, "it stopped before it had stored anything");
    }
    let after = backup(&behind.shop, &[]);
    let ledger = oracle.stop();
    behind.shop.cluster.archive_all();
    let id = crate::backup::text(&after["id"]);
    behind.check_restore("restored", &["--backup", &id], &ledger, Upto::All);
    behind.check_account();
}

/// Aim: restore and recovery under failures that pass arrive at exactly what was committed.
#[test]
fn restores_outlive_failures_that_pass() {
    let (behind, ledger) = archived(4);
    // For who only reads, it makes no difference whether the server had done it.
    let differ = |fault: &S3Fault| !matches!(fault, S3Fault::After(_) | S3Fault::HangupAfter);
    for fault in S3Fault::PASSING.into_iter().filter(differ) {
        behind.proxy.rule(Rule::new(fault).one_in(5));
        let target = behind.shop.target(&format!("{fault:?}"));
        let restore = behind.shop.run(["restore", "--latest", "--into"]).arg(&target);
        patient(restore).ok();
        let mut restored = pgkeep_testkit::Cluster::adopt_dir(17, &target);
        // `restore_command` has its few retries only: where it gives up, PostgreSQL stops, and is started again.
        wait::until("recovery", wait::LIMIT, || {
            restored.try_start().ok()?;
            let end = restored.wait_recovery();
            (end == pgkeep_testkit::postgres::Recovery::Opened).then_some(())
        });
        behind.proxy.heal();
        ledger.check(&restored, Upto::All).unwrap();
        std::fs::remove_dir_all(&target).unwrap();
    }
    behind.check_account();
}

/// Aim: bodies that are not what was stored are never restored: the answer is asked for again or the restore is
/// refused, and PostgreSQL never opens with anything but all that was committed. Method: one wrong body among so many,
/// at every position, then wrong bodies only.
#[test]
fn wrong_bodies_are_never_restored() {
    let (behind, ledger) = archived(5);
    let lies = [S3Fault::FlipBody, S3Fault::ShortBody, S3Fault::OtherBody];
    for lie in lies {
        for after in [0, 2, 5, 9, 14, 20] {
            behind.proxy.rule(Rule::new(lie).on(Op::Get).after(after).times(1));
            check_right_or_refused(&behind, &ledger, &format!("{lie:?}-{after}"));
            behind.proxy.heal();
        }
        behind.proxy.rule(Rule::new(lie).on(Op::Get));
        let refused = behind.pgkeep(["restore", "--into", "/tmp/never-made", "--dry-run"]);
        assert!(matches!(refused.code, Some(4 | 5 | 7 | 8)), "{lie:?}: {refused}");
        behind.proxy.heal();
    }
    check_right_or_refused(&behind, &ledger, "healed");
    behind.check_account();
}

/// Aim: a repository that can't be reached in the middle of recovery stops PostgreSQL instead of opening it early; from
/// the same directory recovery completes when it is back (M33).
#[test]
fn an_outage_in_the_middle_of_recovery_is_not_its_end() {
    let (behind, ledger) = archived(6);
    let oldest = listed(&behind.shop).remove(0);
    let mut restored = behind.shop.restore("restored", ["--latest", "--backup", &oldest]);
    let ways = [
        S3Fault::Before(503),
        S3Fault::Before(403),
        S3Fault::Before(404),
        S3Fault::HangupBefore,
    ];
    for (way, after) in ways.into_iter().zip([2, 4, 7, 1]) {
        behind.proxy.rule(Rule::new(way).like("/wal/").after(after));
        let log = restored.start_expect_failure();
        assert!(log.contains("FATAL"), "{way:?}: {log}");
        behind.proxy.heal();
    }
    restored.start();
    restored.wait_recovered();
    ledger.check(&restored, Upto::All).unwrap();
    behind.check_account();
}
