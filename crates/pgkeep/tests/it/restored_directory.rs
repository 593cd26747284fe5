//! The restored directory itself: settings that it inherits and that steer it, a dry run that touches nothing, a restore
//! that was killed, and `--start`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::run::Signal;
use pgkeep_testkit::{Cluster, Scratch, StopMode, every_major};

use crate::life::life;
use crate::shop;

/// Settings that would lead a copy astray, or keep it from starting.
const INHERITED: &str = "\
restore_command = 'exit 1'
recovery_target_name = 'nowhere'
recovery_target_action = 'shutdown'
recovery_target_timeline = '7'
recovery_end_command = 'exit 1'
archive_cleanup_command = 'exit 1'
primary_conninfo = 'host=nowhere'
primary_slot_name = 'nothing'
recovery_min_apply_delay = '1h'
";

every_major! {
    /// Aim: recovery settings of the source, in `postgresql.conf` and by `ALTER SYSTEM`, don't steer its copy; other
    /// settings stay as they are.
    fn inherited_recovery_settings_do_not_count(major: u16) {
        let shop = shop(major).cluster(|cluster| cluster.conf(INHERITED)).start();
        shop.cluster.sql("ALTER SYSTEM SET work_mem = '7MB'; ALTER SYSTEM SET recovery_target_xid = '123'");
        shop.cluster.sql("ALTER SYSTEM SET restore_command = 'exit 1'; CREATE TABLE t AS SELECT 1 AS i");
        // An earlier restore's leftovers.
        for left in ["standby.signal", "recovery.signal"] {
            let path = shop.cluster.data_dir().join(left);
            fs::write(&path, "").unwrap();
            shop.cluster.user().own(&path);
        }
        shop.pgkeep(["backup"]).ok();
        shop.cluster.sql("INSERT INTO t VALUES (2)");
        shop.cluster.archive_all();
        let mut copy = shop.restore("copy", ["--latest"]);
        copy.start();
        copy.wait_recovered();
        assert_eq!(copy.sql("SELECT string_agg(i::text, ' ' ORDER BY i) FROM t"), "1 2");
        assert_eq!(copy.sql("SHOW work_mem"), "7MB");
        assert_eq!(copy.sql("SHOW archive_mode"), "off");
        copy.restart(StopMode::Fast);
        assert_eq!(copy.sql("SELECT pg_is_in_recovery()"), "f");
        assert_eq!(copy.sql("SHOW archive_mode"), "off", "also after the recovery settings are gone");
        let paused = ["--restore-point", "here"];
        shop.pgkeep(["mark", "here"]).ok();
        let mut copy = shop.restore("paused", paused);
        copy.start();
        copy.wait_paused();
    }

    /// Aim: `--start --check` recovers, says how recovery ended, where and when, and how long each phase took; the server
    /// runs on and holds what was promised.
    fn start_waits_for_the_end_of_recovery(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let scratch = Scratch::new();
        let target = scratch.join("data");
        let xid = life.commit(12).xid.to_string();
        let run = branch.run(["--json", "restore", "--start", "--check", "--xid", &xid, "--into"]).arg(&target);
        let output = run.run().ok();
        let started = &output.json()["started"];
        let server = Ended { major, target: target.clone() };
        assert_eq!(started["end"], "paused", "{output}");
        assert!(started["end_lsn"].is_string() && started["phases"].as_array().unwrap().len() >= 2, "{output}");
        assert!(started["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true), "{output}");
        let rows = server.sql(started, "SELECT count(*) FROM ledger");
        assert_eq!(rows, life.up_to(1, 12).len().to_string());
        assert_eq!(server.sql(started, "SELECT pg_is_in_recovery()"), "t");
    }
}

/// A server that `--start` left running: ended when dropped.
pub struct Ended {
    pub major: u16,
    pub target: std::path::PathBuf,
}

impl Ended {
    fn sql(&self, started: &serde_json::Value, query: &str) -> String {
        let (host, port) = (
            started["socket_directory"].as_str().unwrap(),
            started["port"].to_string(),
        );
        let psql = pgkeep_testkit::postgres::program(self.major, "psql");
        let output = psql
            .args([
                "-XAtq", "-U", "postgres", "-h", host, "-p", &port, "-d", "postgres", "-c", query,
            ])
            .run();
        output.ok().stdout.trim().to_owned()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let pg_ctl =
            pgkeep_testkit::postgres::program(self.major, "pg_ctl").as_user(pgkeep_testkit::OsUser::unprivileged());
        pg_ctl
            .args(["stop", "-w", "-m", "immediate", "-D"])
            .arg(&self.target)
            .run();
    }
}

/// Aim: with `--archive keep` a copy archives as its source did, with `off` it doesn't, both also in recovery already.
#[test]
fn archiving_is_kept_or_turned_off() {
    let life = life(17);
    for (choice, mode) in [("keep", "on"), ("off", "off")] {
        let xid = life.commit(12).xid.to_string();
        let copy = life.restore(&["--xid", &xid, "--archive", choice]).paused();
        assert_eq!(copy.sql("SHOW archive_mode"), mode);
        assert_eq!(copy.sql("SHOW archive_command").contains("wal push"), choice == "keep");
    }
}

/// Aim: a dry run shows the plan and leaves no trace, neither in the target nor in the repository.
#[test]
fn a_dry_run_touches_nothing() {
    let life = life(17);
    let branch = life.branch();
    let before = objects(&branch.repository());
    let scratch = Scratch::new();
    let target = scratch.join("data");
    let xid = life.commit(7).xid.to_string();
    let run = branch
        .run(["--json", "restore", "--dry-run", "--xid", &xid, "--into"])
        .arg(&target);
    let plan = run.run().ok().json();
    assert_eq!(plan["dry_run"], true, "{plan}");
    assert_eq!(plan["backup"], life.backups[0], "{plan}");
    assert_eq!(plan["target"]["lsn"], life.commit(7).record.to_string(), "{plan}");
    assert_eq!(plan["target"]["timeline"], 1, "{plan}");
    assert!(!target.exists());
    assert_eq!(objects(&branch.repository()), before);
    fs::create_dir(&target).unwrap();
    fs::write(target.join("precious"), "").unwrap();
    branch.run(["restore", "--into"]).arg(&target).run().expect(4);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
}

/// Aim: a restore that is killed, whenever that is, leaves a directory that PostgreSQL doesn't start, and the same
/// restore run again completes it.
#[test]
fn a_killed_restore_can_not_be_started_and_is_completed_by_a_rerun() {
    let life = life(17);
    let branch = life.branch();
    let mut cut_short = 0;
    for files in [1, 100, 400, 700, 900] {
        let scratch = Scratch::new();
        let target = scratch.join("data");
        let again = || branch.run(["restore", "--jobs", "1", "--into"]).arg(&target);
        let mut running = again().spawn();
        while running.is_running() && count(&target) < files {
            std::thread::sleep(Duration::from_millis(1));
        }
        running.signal(Signal::KILL);
        running.wait();
        // The control file comes last: with it the restore is complete, whatever became of the program.
        if !target.join("global/pg_control").exists() {
            cut_short += 1;
            let mut half = Cluster::adopt_dir(17, &target);
            let log = half.try_start().expect_err("half a cluster must not start");
            assert!(!log.contains("ready to accept"), "{log}");
            drop(half);
            again().run().ok();
        }
        let mut copy = Cluster::adopt_dir(17, &target);
        copy.start();
        copy.wait_recovered();
        life.assert_holds(&copy, &life.up_to(3, 3003));
    }
    assert!(cut_short >= 3, "{cut_short} of the restores were killed in time");
}

fn count(directory: &Path) -> usize {
    if directory.exists() {
        objects(directory).len()
    } else {
        0
    }
}
