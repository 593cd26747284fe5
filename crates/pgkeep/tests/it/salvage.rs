//! `wal salvage`: what a dead or living server's disk has and the archive never took comes back in a restore.

use std::fs;

use pgkeep_base::Lsn;
use pgkeep_testkit::corrupt::{objects, objects_like};
use pgkeep_testkit::oracle::{Oracle, Upto};
use pgkeep_testkit::{Cluster, Output, Run, S3Server, Shop, StopMode, every_major};

use crate::shop;

/// Stops the archiver's success without stopping the archiver.
fn stop_archiving(shop: &mut Shop) {
    shop.cluster.set_conf("archive_command", "false");
}

/// Salvages the shop's own data directory.
#[track_caller]
fn salvage(shop: &Shop) -> Output {
    shop.run(["--json", "wal", "salvage"])
        .arg(shop.cluster.data_dir())
        .run()
}

fn lsn(value: &serde_json::Value) -> Lsn {
    value.as_str().unwrap().parse().unwrap()
}

every_major! {
    /// Aim: of a server that was killed while its archiver was behind, every acknowledged commit comes back.
    /// Method: the oracle's ledger; commits in two segments that were never archived and in the unfinished third. The
    /// archive alone lacks them. The control file is lost, too.
    fn every_acknowledged_commit_of_a_dead_server_comes_back(major: u16) {
        let mut shop = shop(major).start();
        let oracle = Oracle::start(&shop.cluster, 2);
        shop.pgkeep(["backup"]).ok();
        oracle.wait_for(20);
        shop.cluster.archive_all();
        stop_archiving(&mut shop);
        for _ in 0..2 {
            oracle.wait_for(20);
            shop.cluster.switch_wal();
        }
        oracle.wait_for(20);
        shop.cluster.kill9();
        let ledger = oracle.stop();
        let before = shop.pgkeep(["--json", "window"]).ok().json();
        assert!(lsn(&before["clusters"][0]["ranges"][0]["to_lsn"]) < ledger.last_lsn(), "{before}");
        fs::remove_file(shop.cluster.data_dir().join("global/pg_control")).unwrap();

        let salvaged = salvage(&shop).ok().json();
        let files = salvaged["files"].as_array().unwrap();
        let partial = |file: &&serde_json::Value| file["file"].as_str().unwrap().ends_with(".partial");
        assert_eq!(files.iter().filter(partial).count(), 1, "{salvaged}");
        assert!(files.len() >= 3, "{salvaged}");
        assert!(lsn(&salvaged["reachable"][0]["to_lsn"]) >= ledger.last_lsn(), "{salvaged}");
        assert_eq!(salvaged["reachable"][0]["to_lsn"], salvaged["end"]["lsn"], "{salvaged}");

        let mut restored = shop.restore("restored", ["--latest"]);
        restored.start();
        restored.wait_recovered();
        let checked = ledger.check(&restored, Upto::All).unwrap();
        assert!(checked.required >= 80, "{checked:?}");

        let repository = objects(&shop.repository_dir("main"));
        let again = salvage(&shop).ok().json();
        assert_eq!(again["files"].as_array().unwrap().len(), 0, "{again}");
        assert_eq!(objects(&shop.repository_dir("main")), repository, "a second time there is nothing to store");
    }

    /// Aim: salvaging from a server that lives, and goes on, is never in the way of its own archiving.
    fn a_living_server_goes_on_archiving(major: u16) {
        let mut shop = shop(major).start();
        let oracle = Oracle::start(&shop.cluster, 2);
        shop.pgkeep(["backup"]).ok();
        for _ in 0..3 {
            oracle.wait_for(10);
            let known = oracle.ledger().last_lsn();
            let salvaged = salvage(&shop).ok().json();
            assert!(lsn(&salvaged["reachable"][0]["to_lsn"]) >= known, "{salvaged}");
            assert_eq!(salvaged["running"], true, "{salvaged}");
        }
        oracle.wait_for(10);
        shop.cluster.archive_all();
        let ledger = oracle.stop();
        shop.cluster.stop(StopMode::Fast);
        let listed = shop.pgkeep(["--json", "wal", "list"]).ok().json();
        assert_eq!(listed["lineages"][0]["conflicts"].as_array().unwrap().len(), 0, "{listed}");
        salvage(&shop).ok();
        let mut restored = shop.restore("restored", ["--latest"]);
        restored.start();
        restored.wait_recovered();
        ledger.check(&restored, Upto::All).unwrap();
    }
}

/// Aim: another cluster's WAL never gets into the archive, be it a whole data directory or one file in the right one.
#[test]
fn what_another_cluster_wrote_is_refused() {
    let shop = shop(18).start();
    shop.pgkeep(["backup"]).ok();
    let mut other = Cluster::builder(18).segment_mib(1).start();
    other.sql("CREATE TABLE t AS SELECT 1 AS i");
    other.switch_wal();
    other.stop(StopMode::Fast);
    let before = objects(&shop.repository_dir("main"));
    let refused = shop.run(["wal", "salvage"]).arg(other.data_dir()).run().expect(6);
    assert!(refused.stderr.contains("system identifier"), "{refused}");
    let nothing = shop.home().dir("nothing");
    shop.run(["wal", "salvage"]).arg(&nothing).run().expect(4);
    assert_eq!(objects(&shop.repository_dir("main")), before);

    let foreign = other.wal_files().into_iter().find(|name| name.len() == 24).unwrap();
    let strange = shop.cluster.data_dir().join("pg_wal/0000000100000000000000FE");
    fs::copy(other.data_dir().join("pg_wal").join(&foreign), &strange).unwrap();
    shop.cluster.user().own(&strange);
    let salvaged = salvage(&shop).ok().json();
    let stored = salvaged["files"].to_string();
    assert!(
        !stored.contains("FE"),
        "a file under a wrong name is an old one that waits for its use: {salvaged}"
    );
    let same_name = shop.cluster.data_dir().join("pg_wal").join(&foreign);
    if !same_name.exists() {
        fs::copy(other.data_dir().join("pg_wal").join(&foreign), &same_name).unwrap();
        shop.cluster.user().own(&same_name);
        let impaired = salvage(&shop).expect(3).json();
        assert!(
            impaired["passed_over"][0]["reason"]
                .as_str()
                .unwrap()
                .contains("another cluster"),
            "{impaired}"
        );
    }
}

/// Aim: a writer that may only create objects salvages as well, and claims nothing that it can't see.
#[test]
fn a_writer_that_may_only_create_salvages() {
    let server = S3Server::shared();
    let bucket = server.bucket("salvage");
    let mut shop = shop(17).s3("main", server, &bucket, "wo/shop", "admin").start();
    shop.home().file("main.access-key", "writer");
    shop.home().file("main.secret-key", "writersecret");
    let oracle = Oracle::start(&shop.cluster, 2);
    shop.pgkeep(["backup"]).ok();
    stop_archiving(&mut shop);
    oracle.wait_for(20);
    shop.cluster.switch_wal();
    oracle.wait_for(20);
    shop.cluster.kill9();
    let ledger = oracle.stop();
    for _ in 0..2 {
        let salvaged = salvage(&shop).ok().json();
        assert!(salvaged["reachable"].is_null(), "{salvaged}");
    }
    shop.home().file("main.access-key", "restorer");
    shop.home().file("main.secret-key", "restorersecret");
    let mut restored = shop.restore("restored", ["--latest"]);
    restored.start();
    restored.wait_recovered();
    ledger.check(&restored, Upto::All).unwrap();
}

/// Aim: segments that don't fit into memory are salvaged in parts, the unfinished one with zeros behind its end.
#[test]
fn large_segments_are_salvaged_in_parts() {
    let mut shop = shop(18).cluster(|cluster| cluster.segment_mib(128)).start();
    shop.cluster.sql("CREATE TABLE t (i int)");
    shop.pgkeep(["backup"]).ok();
    stop_archiving(&mut shop);
    shop.cluster.sql("INSERT INTO t SELECT generate_series(1, 1000)");
    shop.cluster.switch_wal();
    shop.cluster.sql("INSERT INTO t SELECT generate_series(1001, 3000)");
    shop.cluster.kill9();
    let salvaged = salvage(&shop).ok().json();
    assert_eq!(salvaged["files"].as_array().unwrap().len(), 2, "{salvaged}");
    let parts = objects_like(&shop.repository_dir("main"), ".partial-");
    assert_eq!(parts.len(), 3, "two parts and the object: {parts:?}");
    let mut restored = shop.restore("restored", ["--latest"]);
    restored.start();
    restored.wait_recovered();
    assert_eq!(restored.sql("SELECT count(*), max(i) FROM t"), "3000|3000");
}

/// Aim: of two servers that went on from one copy of a disk, neither's tail is taken for the other's. Method: the twin's
/// tail is salvaged beside the primary's; once the primary has archived the whole segment, that one counts, and the
/// restore tells of the other.
#[test]
fn the_tail_of_a_twin_is_never_used_silently() {
    for major in [14, 18] {
        let mut shop = shop(major).start();
        shop.cluster.sql("CREATE TABLE t (i int)");
        shop.pgkeep(["backup"]).ok();
        shop.cluster.stop(StopMode::Fast);
        let twin = shop.home().join("twin");
        Run::new("/bin/cp")
            .arg("-a")
            .arg(shop.cluster.data_dir())
            .arg(&twin)
            .run()
            .ok();
        let mut twin = Cluster::adopt_dir(major, twin);
        twin.start();
        twin.set_conf("archive_command", "false");
        shop.cluster.start();
        let rows = |cluster: &Cluster, first: u32| {
            cluster.sql(&format!(
                "INSERT INTO t SELECT generate_series({first}, {})",
                first + 2000
            ));
        };
        rows(&shop.cluster, 1_000_000);
        rows(&twin, 2_000_000);
        let segment = shop.cluster.current_segment();
        assert_eq!(twin.current_segment(), segment);
        shop.run(["wal", "salvage"]).arg(twin.data_dir()).run().ok();
        twin.kill9();
        let conflict = salvage(&shop).expect(6).json();
        assert_eq!(
            conflict["files"][0]["file"],
            format!("{segment}.partial"),
            "both are kept: {conflict}"
        );
        let target = shop.target("refused");
        let run = shop.run(["restore", "--into"]).arg(&target).run();
        assert!(matches!(run.code, Some(4 | 8)), "{run}");
        assert!(
            run.stderr.contains(&segment.name()) && run.stderr.contains("two different"),
            "{run}"
        );
        assert!(!target.exists(), "{run}");

        rows(&shop.cluster, 3_000_000);
        shop.cluster.archive_all();
        let told = shop.run(["restore", "--dry-run", "--into"]).arg(&target).run().ok();
        assert!(
            told.stderr.contains(&format!("{segment}.partial does not go with")),
            "{told}"
        );
        let mut restored = shop.restore("restored", ["--latest"]);
        restored.start();
        restored.wait_recovered();
        assert_eq!(
            restored.sql("SELECT count(*) FROM t WHERE i BETWEEN 2000000 AND 2999999"),
            "0"
        );
        assert_eq!(restored.sql("SELECT count(*) FROM t"), "4002");
    }
}
