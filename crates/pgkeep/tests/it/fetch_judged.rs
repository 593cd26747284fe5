//! The dangerous cells of the table of `wal fetch`, with PostgreSQL as the judge: it runs the `restore_command` that the
//! restore wrote. That bad content of a planned segment stops it is in `p2`.

use std::fs;
use std::time::Duration;

use pgkeep_base::WalSegment;
use pgkeep_testkit::corrupt::objects_like;
use pgkeep_testkit::run::Signal;
use pgkeep_testkit::s3::Identity;
use pgkeep_testkit::{Cluster, Damage, S3Server, StopMode, wait};

use crate::life::{Life, oldest_and_newest};
use crate::shop;

oldest_and_newest! {
    /// Aim: a target in the last record of a segment is reached although the next segment is bad, missing or unreadable:
    /// PostgreSQL only looks ahead into it.
    fn the_segment_behind_the_target_may_be_bad(life: &Life) {
        let branch = life.branch();
        let last = life.switches.iter().find(|switch| **switch > life.commit(7).record).unwrap();
        let options = ["--lsn", &last.to_string(), "--action", "promote", "--backup", &life.backups[0]];
        let here = life.segment(1, *last);
        let next = WalSegment { number: here.number + 1, ..here };
        for damage in [Damage::FlipBit { at: 300, bit: 1 }, Damage::Delete, Damage::Unreadable] {
            let _damaged = branch.damage(&next.name(), damage);
            life.assert_holds(&branch.restore(&options).opened(), &life.up_to(1, 7));
        }
    }

    /// Aim: where the repository can't be read PostgreSQL stops, and does not open what it has replayed so far; when it
    /// can be read again, recovery completes.
    fn an_unreadable_repository_stops_recovery(life: &Life) {
        use std::os::unix::fs::PermissionsExt as _;
        let branch = life.branch();
        let mut restored = branch.restore(&["--backup", &life.backups[0]]);
        let close = |mode| fs::set_permissions(branch.wal_directory(), fs::Permissions::from_mode(mode)).unwrap();
        close(0o000);
        let log = restored.start_expect_failure();
        close(0o755);
        assert!(log.contains("FATAL"), "{log}");
        life.assert_holds(&restored.opened(), &life.up_to(3, 3003));
    }

    /// Aim: with the repository gone altogether (an unmounted disk) PostgreSQL stops as well.
    fn a_vanished_repository_stops_recovery(life: &Life) {
        let branch = life.branch();
        let mut restored = branch.restore(&["--backup", &life.backups[0]]);
        let aside = branch.repository().with_extension("aside");
        fs::rename(branch.repository(), &aside).unwrap();
        let log = restored.start_expect_failure();
        assert!(log.contains("FATAL"), "{log}");
        fs::create_dir(branch.repository()).unwrap();
        let log = restored.start_expect_failure();
        assert!(log.contains("FATAL"), "an empty directory in its place: {log}");
        fs::remove_dir(branch.repository()).unwrap();
        fs::rename(&aside, branch.repository()).unwrap();
        life.assert_holds(&restored.opened(), &life.up_to(3, 3003));
    }

    /// Aim: with the history in the middle lost after the restore too, PostgreSQL gets it rebuilt and arrives.
    fn histories_that_are_lost_after_the_plan_are_delivered(life: &Life) {
        let branch = life.branch();
        let restored = branch.restore(&["--backup", &life.backups[0]]);
        branch.remove("00000002.history");
        branch.remove("00000003.history");
        life.assert_holds(&restored.opened(), &life.up_to(3, 3003));
    }

    /// Aim: a standby outlives an outage of the repository and a bad segment, serves reads meanwhile, and goes on by
    /// itself when all is well again.
    fn a_standby_waits_for_better_times(life: &Life) {
        let branch = life.branch();
        let mut standby = branch.restore(&["--standby", "--archive", "off", "--backup", &life.backups[0]]);
        let conf = standby.data_dir().join("postgresql.conf");
        let settings = fs::read_to_string(&conf).unwrap();
        fs::write(&conf, settings + "\nwal_retrieve_retry_interval = '200ms'\n").unwrap();
        let bad = life.segment(1, life.commit(9).record);
        let damaged = branch.damage(&bad.name(), Damage::FlipBit { at: 300, bit: 1 });
        standby.start();
        let waits = |text: &str| {
            let said = || standby.log_of_this_start().matches(text).count();
            let before = said();
            wait::until("the standby to ask again", wait::LIMIT, || (said() > before + 1).then_some(()));
        };
        waits(&bad.name());
        life.assert_holds(&standby, &life.up_to(1, 7));
        let aside = branch.repository().with_extension("aside");
        damaged.undo();
        fs::rename(branch.repository(), &aside).unwrap();
        waits("error:");
        fs::rename(&aside, branch.repository()).unwrap();
        arrives(life, &standby);
    }

    /// Aim: a plan that pgkeep's marked settings no longer vouch for does not count; a hand-written recovery without a
    /// plan stops at a gap all the same.
    fn a_hand_written_recovery_stops_at_a_gap(life: &Life) {
        let branch = life.branch();
        let mut restored = branch.restore(&["--backup", &life.backups[0]]);
        let auto = restored.data_dir().join("postgresql.auto.conf");
        let command = format!("{} wal fetch %f %p", branch.command_line());
        fs::write(&auto, format!("restore_command = '{command}'\narchive_mode = off\n")).unwrap();
        fs::remove_dir_all(restored.data_dir().join(".pgkeep")).unwrap();
        let missing = branch.damage(&life.segment(1, life.commit(9).record).name(), Damage::Delete);
        let log = restored.start_expect_failure();
        assert!(log.contains("FATAL"), "{log}");
        missing.undo();
        life.assert_holds(&restored.opened(), &life.up_to(3, 3003));
    }

    /// Aim: a hand-written recovery to the newest timeline, of which no segment is archived yet, is not given what the
    /// old primary wrote behind the fork: PostgreSQL would replay it and call it the newest timeline's. Who asks for the
    /// old timeline gets all of it.
    fn a_hand_written_recovery_is_not_led_past_a_fork(life: &Life) {
        let branch = life.branch();
        let mut restored = branch.restore(&["--backup", &life.backups[1]]);
        let auto = restored.data_dir().join("postgresql.auto.conf");
        let settings = format!("restore_command = '{} wal fetch %f %p'\narchive_mode = off\n", branch.command_line());
        fs::write(&auto, &settings).unwrap();
        fs::remove_dir_all(restored.data_dir().join(".pgkeep")).unwrap();
        for written_since in ["/00000002/0000000200", "/00000003/"] {
            for name in objects_like(&branch.repository(), written_since) {
                let object = branch.repository().join(name);
                fs::remove_file(&object).unwrap();
                // An empty directory would stand for a timeline of which nothing is known.
                let _ = fs::remove_dir(object.parent().unwrap());
            }
        }
        let log = restored.start_expect_failure();
        assert!(log.contains("which leaves timeline 1 at"), "{log}");
        fs::write(&auto, settings + "recovery_target_timeline = 1\n").unwrap();
        life.assert_holds(&restored.opened(), &life.up_to(1, 1002));
    }
}

/// Waits until a standby has replayed everything.
#[track_caller]
fn arrives(life: &Life, standby: &Cluster) {
    let newest = "SELECT count(*) FROM ledger WHERE id = 3003";
    wait::until("the standby to arrive", wait::LIMIT, || {
        (standby.sql(newest) == "1").then_some(())
    });
    life.assert_holds(standby, &life.up_to(3, 3003));
}

/// Aim: an S3 server that is down or hangs stops recovery, and a standby is told so within about a second; nothing is
/// ever taken for the end of the archive.
#[test]
fn an_s3_server_that_does_not_answer() {
    let mut server = S3Server::start(&Identity::usual());
    let bucket = server.bucket("outage");
    let mut shop = shop(18)
        .s3("main", &server, &bucket, "wo/shop", "admin")
        .settings("")
        .start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
    shop.pgkeep(["backup"]).ok();
    shop.cluster.sql("INSERT INTO t VALUES (1001)");
    let last = shop.cluster.archive_all();
    shop.cluster.stop(StopMode::Fast);
    let mut restored = shop.restore("restored", ["--latest"]);
    let directory = restored.data_dir().to_owned();
    let ask = |name: &str, flags: &[&str]| {
        let run = shop.run(["wal", "fetch", name, "pg_wal/x"]).args(flags);
        run.cwd(&directory).run()
    };
    ask(&last, &[]).ok();
    for hang in [true, false] {
        match hang {
            true => server.stall(),
            false => server.kill9(),
        }
        for name in [&last as &str, "00000002.history"] {
            let output = ask(name, &["--standby"]).expect(1);
            assert!(output.elapsed < Duration::from_secs(4), "hang {hang}: {output}");
        }
        if hang {
            // PostgreSQL must see the signal, or it takes its own shutdown for the end of the archive.
            let mut asked = shop.run(["wal", "fetch", &last, "pg_wal/x"]).cwd(&directory).spawn();
            wait::until("it to ask", wait::LIMIT, || {
                asked.is_connected_to(server.port()).then_some(())
            });
            asked.signal(Signal::TERM);
            let ended = asked.wait();
            assert_eq!(ended.signal, Some(15), "{ended}");
            assert!(ended.elapsed < Duration::from_secs(2), "{ended}");
        }
        match hang {
            true => server.resume(),
            false => {
                ask(&last, &[]).expect(255);
                let log = restored.start_expect_failure();
                assert!(log.contains("FATAL"), "{log}");
                server.start_again();
            }
        }
    }
    restored.start();
    restored.wait_recovered();
    assert_eq!(
        restored.sql("SELECT count(*), max(generate_series) FROM t"),
        "1001|1001"
    );
}
