//! Life after a restore: a copy does not touch its source's archive, is cloned and backed up like any cluster, and
//! becomes a protected one again by `pgkeep adopt`.

use std::fs;

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::{Cluster, Run, every_major, wait};

use crate::life::{Branch, Copy, Life, commit, life};

/// Restores up to commit 9 and opens it.
fn copy(life: &Life, branch: &Branch, archive: &str) -> Copy {
    let xid = life.commit(9).xid.to_string();
    branch
        .restore(&["--xid", &xid, "--action", "promote", "--archive", archive])
        .opened()
}

/// pgkeep about a running copy.
fn about<const N: usize>(branch: &Branch, copy: &Cluster, args: [&str; N]) -> Run {
    branch
        .run(args)
        .env("PGKEEP_CLUSTER__SHOP__CONNECTION", copy.conninfo())
}

/// Adopts a copy and gives what it said.
#[track_caller]
fn adopt(branch: &Branch, copy: &Cluster) -> serde_json::Value {
    branch.run(["--json", "adopt"]).arg(copy.data_dir()).run().ok().json()
}

/// The reasons of the copy's status, by their codes.
fn reasons(branch: &Branch, copy: &Cluster) -> Vec<String> {
    let status = about(branch, copy, ["--json", "status"]).run().ok().json();
    let reasons = status["clusters"][0]["reasons"].as_array().unwrap().clone();
    reasons
        .iter()
        .map(|reason| reason["code"].as_str().unwrap().to_owned())
        .collect()
}

every_major! {
    /// Aim: a restored and promoted copy writes nothing into its source's archive and is red; adopted it archives, has a
    /// backup of its own, and what it commits is restored, on its own timeline; so is a clone's.
    fn a_copy_is_red_and_mute_until_it_is_adopted(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let copy = copy(life, &branch, "off");
        let before = objects(&branch.repository());
        commit(&copy, [4001]);
        copy.switch_wal();
        copy.sql("CHECKPOINT");
        assert!(reasons(&branch, &copy).contains(&"archiving-off".to_owned()), "{:?}", reasons(&branch, &copy));
        about(&branch, &copy, ["status", "--check"]).run().expect(9);
        assert_eq!(objects(&branch.repository()), before);

        let adopted = adopt(&branch, &copy);
        assert_eq!(adopted["timeline"], 4, "{adopted}");
        assert!(adopted["timeline_taken"].is_null(), "{adopted}");
        assert_eq!(adopted["backup"]["timeline"], 4, "{adopted}");
        assert!(!reasons(&branch, &copy).contains(&"archiving-off".to_owned()));
        // It ends with one more line, where recovery stopped at an LSN.
        let history = fs::read(copy.data_dir().join("pg_wal/00000004.history")).unwrap();
        branch.run(["wal", "fetch", "00000004.history", "fetched"]).cwd(copy.data_dir()).run().ok();
        assert_eq!(fs::read(copy.data_dir().join("fetched")).unwrap(), history);
        fs::remove_file(copy.data_dir().join("fetched")).unwrap();
        commit(&copy, [4002]);
        copy.archive_all();
        let again = branch.restore(&[]).opened();
        let expected = [life.up_to(1, 9), vec![4001, 4002]].concat();
        life.assert_holds(&again, &expected);
        assert_eq!(again.timeline().get(), 5);
        // What was there before is there still.
        life.assert_holds(&branch.restore(&["--timeline", "3"]).opened(), &life.up_to(3, 3003));
        stop(&copy);
    }

    /// Aim: a standby cloned from a restored copy with `pg_basebackup -R` follows it, past the moment at which the copy
    /// itself had stopped, and can be promoted.
    fn a_clone_of_a_copy_follows_it(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let copy = copy(life, &branch, "off");
        let clone = branch.home().join("clone");
        copy.base_backup_to(&clone, true);
        let auto = fs::read_to_string(clone.join("postgresql.auto.conf")).unwrap();
        assert!(!auto.contains("recovery_target") && !auto.contains("wal fetch"), "{auto}");
        let mut standby = Cluster::adopt_dir(major, clone);
        standby.start();
        commit(&copy, [4001]);
        let there = "SELECT count(*) FROM ledger WHERE id = 4001";
        wait::until("the clone to follow", wait::LIMIT, || (standby.sql(there) == "1").then_some(()));
        let expected = [life.up_to(1, 9), vec![4001]].concat();
        life.assert_holds(&standby, &expected);
        standby.promote();
        life.assert_holds(&standby, &expected);
        standby.stop(pgkeep_testkit::StopMode::Fast);
    }

    /// Aim: with `--archive on` a copy archives from its first segment on its own timeline, and is backed up and restored
    /// again without being adopted.
    fn a_copy_that_archives_is_backed_up_and_restored_again(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let copy = copy(life, &branch, "on");
        assert_eq!(copy.timeline().get(), 4);
        commit(&copy, [4001]);
        copy.archive_all();
        let restored = branch.restore(&[]).opened();
        let expected = [life.up_to(1, 9), vec![4001]].concat();
        life.assert_holds(&restored, &expected);
        about(&branch, &copy, ["backup"]).run().ok();
        commit(&copy, [4002]);
        copy.archive_all();
        let restored = branch.restore(&[]).opened();
        life.assert_holds(&restored, &[expected, vec![4002]].concat());
        assert_eq!(restored.timeline().get(), 5);
    }
}

/// Aim: two copies that took the same timeline number are told apart: the second one adopted leaves its number, and each
/// is restored with its own commits. Method: they stop at the same moment, so that even their histories are the same.
fn two_copies_of_the_same_moment(life: &Life) {
    let branch = life.branch();
    let (first, second) = (copy(life, &branch, "off"), copy(life, &branch, "off"));
    commit(&first, [4001]);
    commit(&second, [5001]);
    assert_eq!((first.timeline().get(), second.timeline().get()), (4, 4));
    let xid = |copy: &Copy, id: i64| copy.sql(&format!("SELECT xmin FROM ledger WHERE id = {id}"));
    let unadopted = xid(&second, 5001);
    assert_eq!(xid(&first, 4001), unadopted, "both count on from the same number");
    let adopted = adopt(&branch, &first);
    assert!(adopted["timeline_taken"].is_null(), "{adopted}");
    commit(&first, [4002]);
    first.archive_all();
    let adopted = adopt(&branch, &second);
    assert!(adopted["timeline_taken"].is_string(), "{adopted}");
    assert_eq!(second.timeline().get(), 5);
    commit(&second, [5002]);
    second.archive_all();
    commit(&first, [4003]);
    first.archive_all();
    for (timeline, ids) in [
        ("4", vec![4001, 4002, 4003]),
        ("5", vec![5001, 5002]),
        ("latest", vec![5001, 5002]),
    ] {
        let restored = branch.restore(&["--timeline", timeline]).opened();
        life.assert_holds(&restored, &[life.up_to(1, 9), ids].concat());
    }
    // What the second one committed before it was adopted lies in its own first segment; the other's timeline 4 is never
    // taken for its past.
    let options = ["--timeline", "5", "--xid", &unadopted, "--action", "promote"];
    let restored = branch.restore(&options).opened();
    life.assert_holds(&restored, &[life.up_to(1, 9), vec![5001]].concat());
    let options = ["--timeline", "4", "--xid", &unadopted, "--action", "promote"];
    let restored = branch.restore(&options).opened();
    life.assert_holds(&restored, &[life.up_to(1, 9), vec![4001]].concat());
    let again = adopt(&branch, &second);
    assert!(
        again["timeline_taken"].is_null(),
        "adopting twice changes nothing: {again}"
    );
    assert_eq!(second.timeline().get(), 5);
    stop(&first);
    stop(&second);
}

#[test]
fn two_copies_of_the_same_moment_on_14() {
    two_copies_of_the_same_moment(life(14));
}

#[test]
fn two_copies_of_the_same_moment_on_18() {
    two_copies_of_the_same_moment(life(18));
}

/// Aim: a copy that took its number from another moment than the archived timeline of that number keeps its own
/// ancestry when it leaves it.
#[test]
fn a_copy_of_another_moment_keeps_its_ancestry() {
    let life = life(17);
    let branch = life.branch();
    let first = copy(life, &branch, "off");
    let other = branch.restore(&["--archive", "off"]).opened();
    commit(&first, [4001]);
    commit(&other, [5001]);
    adopt(&branch, &first);
    let adopted = adopt(&branch, &other);
    assert!(adopted["timeline_taken"].is_string(), "{adopted}");
    let history = fs::read_to_string(other.data_dir().join("pg_wal/00000005.history")).unwrap();
    let names = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let ancestors: Vec<String> = history.lines().filter_map(names).collect();
    assert_eq!(ancestors, ["1", "2", "3", "4"], "{history}");
    life.assert_holds(
        &branch.restore(&[]).opened(),
        &[life.up_to(3, 3003), vec![5001]].concat(),
    );
    stop(&first);
    stop(&other);
}

/// Ends a server that pgkeep has restarted, so that it is not the test's own child any more.
pub fn stop(copy: &Cluster) {
    let pg_ctl = copy.program("pg_ctl").args(["stop", "-m", "immediate", "-w", "-D"]);
    pg_ctl.arg(copy.data_dir()).run().ok();
}
