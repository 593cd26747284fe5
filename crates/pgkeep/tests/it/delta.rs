//! `restore --delta`: onto the cluster that is there. What fits is kept, what it alone has of the WAL counts, and whatever
//! happens in between leaves nothing that could be started by half.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pgkeep_base::Lsn;
use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::oracle::{Ledger, Oracle, Upto};
use pgkeep_testkit::{Cluster, OsUser, Run, Shop, StopMode, every_major, wait};
use serde_json::Value;

use crate::life::{commit, life};
use crate::shop;

mod cut_short;
mod places;
mod refused;
mod repaired;
mod saved;
mod wal;

fn lsn(value: &Value) -> Lsn {
    value.as_str().unwrap().parse().unwrap()
}

/// `restore --delta` with JSON, not run yet.
fn delta<S: AsRef<std::ffi::OsStr>>(shop: &Shop, into: &Path, options: impl IntoIterator<Item = S>) -> Run {
    shop.run(["--json", "restore", "--delta", "--into"])
        .arg(into)
        .args(options)
}

/// A cluster that was killed while its archiver was behind: two whole segments and a part of a third are nowhere else.
fn crash(shop: &mut Shop) -> Ledger {
    let oracle = Oracle::start(&shop.cluster, 2);
    shop.pgkeep(["backup"]).ok();
    oracle.wait_for(20);
    shop.cluster.archive_all();
    shop.cluster.set_conf("archive_command", "false");
    for _ in 0..2 {
        oracle.wait_for(20);
        shop.cluster.switch_wal();
    }
    oracle.wait_for(20);
    shop.cluster.kill9();
    oracle.stop()
}

/// Starts the shop's own cluster and compares it with the ledger.
#[track_caller]
fn assert_all_is_back(shop: &mut Shop, ledger: &Ledger) {
    shop.cluster.start();
    shop.cluster.wait_recovered();
    let checked = ledger.check(&shop.cluster, Upto::All).unwrap();
    assert!(checked.required >= 80, "{checked:?}");
}

every_major! {
    /// Aim: a cluster that crashed while its archiver was behind loses nothing that was acknowledged when it is restored in
    /// place to the latest moment. Method: the oracle's ledger, kill -9.
    fn a_crashed_cluster_comes_back_with_all_that_was_acknowledged(major: u16) {
        let mut shop = shop(major).start();
        let ledger = crash(&mut shop);
        let data = shop.cluster.data_dir().to_owned();
        let plan = delta(&shop, &data, ["--dry-run"]).run().ok().json();
        assert!(lsn(&plan["target"]["end_lsn"]) >= ledger.last_lsn(), "{plan}");
        assert!(plan["over"]["compared"]["kept_bytes"].as_u64().unwrap() > 10 << 20, "{plan}");
        assert!(!data.join(".pgkeep").exists(), "a dry run changes nothing");

        let done = delta(&shop, &data, [""; 0]).run().ok();
        let json = done.json();
        let used = json["saved_wal"]["files"].as_array().unwrap().iter().filter(|file| file["used"] == true).count();
        assert!(used >= 3, "{done}");
        assert!(json["next"].to_string().contains("pgkeep wal salvage"), "{done}");
        assert_all_is_back(&mut shop, &ledger);
        shop.cluster.check_structure();
    }

    /// Aim: one directory goes back in time, on to a newer timeline, and over to the one that a failover left; what it
    /// wrote itself in between, as a copy that was never adopted, is told and not taken for the cluster's.
    fn it_goes_backward_forward_and_across_timelines(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let target = branch.home().join("data");
        Run::new("/bin/cp").arg("-a").arg(life.heir.data_dir()).arg(&target).run().ok();
        let over = |options: &[&str]| {
            let done = branch.run(["--json", "restore", "--delta", "--into"]).arg(&target).args(options).run().ok();
            let mut cluster = Cluster::adopt_dir(major, &target);
            cluster.start();
            cluster.wait_recovered();
            (cluster, done)
        };
        let xid = life.commit(6).xid.to_string();
        let (cluster, done) = over(&["--xid", &xid, "--action", "promote"]);
        life.assert_holds(&cluster, &life.up_to(1, 6));
        assert!(done.json()["written"]["kept_bytes"].as_u64().unwrap() > 10 << 20, "{done}");
        commit(&cluster, [7001, 7002]);
        drop(cluster);
        let (cluster, done) = over(&[]);
        life.assert_holds(&cluster, &life.up_to(3, 3003));
        assert!(done.stderr.contains("never adopted"), "{done}");
        assert_eq!(cluster.timeline().get(), 5, "the number 4 is the copy's own");
        drop(cluster);
        let (cluster, _) = over(&["--timeline", "1"]);
        life.assert_holds(&cluster, &life.up_to(1, 1002));
    }
}

/// Names, lengths and times of everything below a directory: what would show that it was touched.
fn traces(directory: &Path) -> Vec<(String, u64, i64)> {
    let look = |name: String| {
        let metadata = fs::symlink_metadata(directory.join(&name)).unwrap();
        (name, metadata.len(), metadata.ctime_nsec())
    };
    objects(directory).into_iter().map(look).collect()
}

/// The file of a table, below the data directory.
fn file_of(cluster: &Cluster, table: &str) -> String {
    cluster.sql(&format!("CHECKPOINT; SELECT pg_relation_filepath('{table}')"))
}

/// Aim: what is not the cluster that was backed up, or runs, is refused, and nothing in it is touched.
#[test]
fn what_is_not_that_cluster_is_refused_untouched() {
    let mut shop = shop(18).start();
    shop.pgkeep(["backup"]).ok();
    let running = shop.cluster.data_dir().to_owned();
    let refused = delta(&shop, &running, [""; 0]).run().expect(4);
    assert!(refused.stderr.contains("a server runs"), "{refused}");
    assert!(!running.join(".pgkeep").exists());

    let other = Cluster::builder(18).segment_mib(1).init();
    let nobodys = shop.home().dir("nobodys");
    shop.cluster.user().own(&nobodys);
    fs::write(nobodys.join("precious"), "").unwrap();
    let poor = shop.home().join("poor");
    shop.cluster.stop(StopMode::Fast);
    Run::new("/bin/cp")
        .arg("-a")
        .arg(shop.cluster.data_dir())
        .arg(&poor)
        .run()
        .ok();
    fs::remove_file(poor.join("global/pg_control")).unwrap();
    for (directory, word) in [
        (other.data_dir(), "another cluster"),
        (&nobodys, "can't be restored over"),
        (&poor, "can't be restored over"),
    ] {
        let before = traces(directory);
        let refused = delta(&shop, directory, [""; 0]).run().expect(4);
        assert!(refused.stderr.contains(word), "{refused}");
        assert_eq!(traces(directory), before, "{}", directory.display());
    }
    let hint = shop
        .run(["restore", "--into"])
        .arg(shop.cluster.data_dir())
        .run()
        .expect(4);
    assert!(hint.stderr.contains("--delta"), "{hint}");
    // A file that a crashed server left is no server.
    fs::write(
        shop.cluster.data_dir().join("postmaster.pid"),
        "2147483600\n/data\n1\n5432\n",
    )
    .unwrap();
    delta(&shop, shop.cluster.data_dir(), [""; 0]).run().ok();
    let nothing = shop.home().join("nothing");
    delta(&shop, &nothing, [""; 0]).run().ok();
    assert!(
        nothing.join("global/pg_control").exists(),
        "onto nothing it is a plain restore"
    );
}

/// Aim: where a thousand scattered pages differ, about those pages are fetched. Method: a table of 32,000 pages; the
/// directory is as it was before an incremental backup that stored the thousand.
#[test]
fn a_thousand_scattered_pages_cost_about_themselves() {
    let mut shop = shop(18)
        .cluster(|cluster| cluster.segment_mib(16).conf("autovacuum = off"))
        .start();
    // Two rows to a page, and room for a new version of one.
    shop.cluster.sql(
        "CREATE TABLE t (i int, v text) WITH (fillfactor = 45); ALTER TABLE t ALTER v SET STORAGE PLAIN;
         INSERT INTO t SELECT i, (SELECT string_agg(md5(i::text || j::text), '') FROM generate_series(1, 56) j)
           FROM generate_series(1, 64000) i;
         VACUUM FREEZE t; CHECKPOINT",
    );
    assert_eq!(shop.cluster.sql("SELECT pg_relation_size('t') / 8192"), "32000");
    shop.pgkeep(["backup"]).ok();
    shop.cluster.stop(StopMode::Fast);
    let target = shop.home().join("before");
    Run::new("/bin/cp")
        .arg("-a")
        .arg(shop.cluster.data_dir())
        .arg(&target)
        .run()
        .ok();
    shop.cluster.start();
    shop.cluster
        .sql("UPDATE t SET v = reverse(v) WHERE i % 64 = 0; CHECKPOINT");
    let second = shop.pgkeep(["--json", "backup"]).ok().json();
    shop.cluster.archive_all();
    let whole = shop
        .run(["--json", "restore", "--into"])
        .arg(shop.home().join("whole"))
        .run()
        .ok()
        .json();
    let done = delta(&shop, &target, [""; 0]).run().ok().json();
    let number = |value: &Value| value.as_u64().unwrap();
    let (fetched, new) = (number(&done["written"]["fetched_bytes"]), number(&second["new_bytes"]));
    let all = number(&whole["written"]["fetched_bytes"]);
    println!(
        "fetched {fetched} of {all}; the second backup added {new}; {}",
        done["written"]
    );
    assert!(fetched < new * 13 / 10, "fetched {fetched}, the backup added {new}");
    assert!(fetched * 4 < all, "fetched {fetched} of {all}");
    assert!(
        number(&done["written"]["written_bytes"]) < 2000 * 8192 + (2 << 20),
        "{done}"
    );
    let mut copy = Cluster::adopt_dir(18, &target);
    copy.start();
    copy.wait_recovered();
    assert_eq!(
        copy.sql("SELECT sum(hashtext(v)::bigint) FROM t"),
        shop.cluster.sql("SELECT sum(hashtext(v)::bigint) FROM t")
    );
}
