//! Saved WAL: how long it counts, what stands in for what, and how it comes into the archive.

use pgkeep_testkit::Damage;
use pgkeep_testkit::corrupt::{Damaged, objects_like};
use pgkeep_testkit::faults::points::Fault;

use super::wal::{rows, thousands};
use super::*;
use crate::adopt::stop;

every_major! {
    /// Aim: what was saved counts however often the directory is restored over, started or not; what a copy wrote in it
    /// before it was adopted never does, unless its timeline is asked for.
    fn saved_wal_counts_again_and_again(major: u16) {
        let mut shop = shop(major).start();
        shop.cluster.sql("CREATE TABLE t (i int)");
        shop.pgkeep(["backup"]).ok();
        rows(&shop.cluster, 1000);
        shop.cluster.archive_all();
        shop.cluster.set_conf("archive_command", "false");
        rows(&shop.cluster, 2000);
        shop.cluster.switch_wal();
        rows(&shop.cluster, 3000);
        shop.cluster.kill9();
        let data = shop.cluster.data_dir().to_owned();
        for _ in 0..2 {
            delta(&shop, &data, [""; 0]).run().ok();
        }
        shop.cluster.start();
        shop.cluster.wait_recovered();
        assert_eq!(thousands(&shop.cluster), "1 2 3|3000");
        rows(&shop.cluster, 7000);
        shop.cluster.switch_wal();
        rows(&shop.cluster, 8000);
        shop.cluster.kill9();
        for _ in 0..2 {
            let done = delta(&shop, &data, [""; 0]).run().ok();
            assert!(done.stderr.contains("`--timeline 2` uses it"), "{done}");
            assert_eq!(done.json()["target"]["timeline"], 1, "{done}");
        }
        let named = delta(&shop, &data, ["--timeline", "2"]).run().ok();
        assert_eq!(named.json()["target"]["timeline"], 2, "{named}");
        shop.cluster.start();
        shop.cluster.wait_recovered();
        assert_eq!(thousands(&shop.cluster), "1 2 3 7 8|5000");
        shop.cluster.kill9();
        delta(&shop, &data, ["--timeline", "1"]).run().ok();
        shop.cluster.start();
        shop.cluster.wait_recovered();
        assert_eq!(thousands(&shop.cluster), "1 2 3|3000");
    }

    /// Aim: what a restore has saved is in the archive once its copy is adopted, with every moment in it. Issue: `adopt`
    /// removed the only copy.
    fn what_was_saved_is_archived_by_adoption(major: u16) {
        let mut shop = shop(major).start();
        shop.cluster.sql("CREATE TABLE t (i int)");
        shop.pgkeep(["backup"]).ok();
        shop.cluster.set_conf("archive_command", "false");
        for thousand in 1..4 {
            rows(&shop.cluster, 1000 * thousand);
            shop.cluster.switch_wal();
        }
        let moment = shop.cluster.lsn();
        rows(&shop.cluster, 4000);
        shop.cluster.kill9();
        let data = shop.cluster.data_dir().to_owned();
        delta(&shop, &data, [""; 0]).run().ok();
        shop.cluster.start();
        shop.cluster.wait_recovered();
        let not_stored = data.join(".pgkeep/saved-wal/not-wal");
        std::fs::write(&not_stored, "the only copy").unwrap();
        shop.run(["adopt"]).arg(&data).run().ok();
        assert!(!data.join(".pgkeep/recovery-plan.json").exists() && not_stored.exists());
        shop.cluster.sql("CHECKPOINT");
        let listed = shop.pgkeep(["--json", "wal", "list", "--gaps"]).ok().json();
        assert_eq!(listed["lineages"][0]["gaps"], serde_json::json!([]), "{listed}");
        let options = ["--lsn", &moment.to_string(), "--exclusive", "--action", "promote"];
        let mut elsewhere = shop.restore("elsewhere", options);
        elsewhere.start();
        elsewhere.wait_recovered();
        assert_eq!(thousands(&elsewhere), "1 2 3|3000");
        // `adopt` has restarted it.
        stop(&shop.cluster);
    }

    /// Aim: a copy that was adopted is the cluster: what it commits after that counts like what was before.
    fn what_an_adopted_copy_commits_counts(major: u16) {
        let mut shop = shop(major).start();
        shop.cluster.sql("CREATE TABLE t (i int)");
        shop.pgkeep(["backup"]).ok();
        rows(&shop.cluster, 1000);
        shop.cluster.kill9();
        let data = shop.cluster.data_dir().to_owned();
        delta(&shop, &data, [""; 0]).run().ok();
        shop.cluster.start();
        shop.cluster.wait_recovered();
        shop.run(["adopt"]).arg(&data).run().ok();
        rows(&shop.cluster, 2000);
        // `adopt` has restarted it.
        stop(&shop.cluster);
        shop.cluster.kill9();
        let done = delta(&shop, &data, [""; 0]).run().ok();
        assert_eq!(done.json()["target"]["timeline"], 2, "{done}");
        shop.cluster.start();
        shop.cluster.wait_recovered();
        assert_eq!(thousands(&shop.cluster), "1 2|2000");
    }

    /// Aim: `wal salvage` brings the tail that was saved into the archive, from an unfinished restore and from a complete
    /// one; a restore elsewhere has every acknowledged commit then.
    fn saved_wal_is_salvaged(major: u16) {
        let mut shop = shop(major).start();
        let ledger = crash(&mut shop);
        let data = shop.cluster.data_dir().to_owned();
        let killed = Fault::Kill.at("engine.restore.control#1", delta(&shop, &data, [""; 0])).run();
        assert!(killed.code.is_none() && !data.join("global/pg_control").exists(), "{killed}");
        assert!(!data.join("pg_wal").read_dir().unwrap().any(|entry| entry.unwrap().path().is_file()), "{killed}");
        let salvaged = shop.run(["--json", "wal", "salvage"]).arg(&data).run().ok().json();
        assert!(salvaged["files"].as_array().unwrap().len() >= 3, "{salvaged}");
        let mut elsewhere = shop.restore("elsewhere", ["--latest"]);
        elsewhere.start();
        elsewhere.wait_recovered();
        ledger.check(&elsewhere, Upto::All).unwrap();

        let done = delta(&shop, &data, [""; 0]).run().ok().json();
        assert!(lsn(&done["target"]["end_lsn"]) >= ledger.last_lsn(), "{done}");
        let again = shop.run(["--json", "wal", "salvage"]).arg(&data).run().ok().json();
        assert_eq!(again["files"], serde_json::json!([]), "{again}");
        assert_all_is_back(&mut shop, &ledger);
    }
}

/// Aim: an archived segment of which no place has more than the first bytes is taken from the directory, where that still
/// has it.
#[test]
fn a_segment_that_was_cut_off_is_taken_from_the_directory() {
    let mut shop = shop(18)
        .cluster(|cluster| cluster.conf("wal_keep_size = '1GB'"))
        .start();
    shop.cluster.sql("CREATE TABLE t (i int)");
    shop.pgkeep(["backup"]).ok();
    rows(&shop.cluster, 1000);
    let cut = shop.cluster.archive_all();
    rows(&shop.cluster, 2000);
    shop.cluster.archive_all();
    shop.cluster.kill9();
    let root = shop.repository_dir("main");
    let object = objects_like(&root, &format!("/{cut}-")).pop().unwrap();
    let _damaged = Damaged::new(&root, &object, Damage::Truncate { to: 9 });
    let elsewhere = shop.target("elsewhere");
    let refused = shop.run(["restore", "--into"]).arg(&elsewhere).run().expect(4);
    assert!(refused.stderr.contains(&cut), "{refused}");
    let data = shop.cluster.data_dir().to_owned();
    let done = delta(&shop, &data, [""; 0]).run().ok().json();
    let files = done["saved_wal"]["files"].as_array().unwrap();
    let of_it = |file: &&Value| file["name"].as_str().unwrap().starts_with(&cut);
    assert_eq!(files.iter().find(of_it).unwrap()["used"], true, "{done}");
    shop.cluster.start();
    shop.cluster.wait_recovered();
    assert_eq!(thousands(&shop.cluster), "1 2|2000");
}

/// Aim: a record that goes on into a segment that has nothing else is not lost, also where the segment before it is at
/// hand under another name only. Method: a large message that is flushed, and kill -9; a restore that was killed when
/// nothing but saved WAL was left.
#[test]
fn the_end_of_a_record_that_spans_segments_counts() {
    let mut shop = shop(18)
        .cluster(|cluster| cluster.segment_mib(1).conf("autovacuum = off"))
        .start();
    shop.pgkeep(["backup"]).ok();
    shop.cluster.archive_all();
    shop.cluster.set_conf("archive_command", "false");
    let end = shop
        .cluster
        .sql("SELECT pg_logical_emit_message(false, 'test', repeat(md5(random()::text), 40000), true)");
    shop.cluster.kill9();
    let end: Lsn = end.parse().unwrap();
    let data = shop.cluster.data_dir().to_owned();
    Fault::Kill
        .at("engine.restore.control#1", delta(&shop, &data, [""; 0]))
        .run();
    assert!(!data.join("global/pg_control").exists());
    let plan = delta(&shop, &data, ["--dry-run"]).run().ok().json();
    assert!(lsn(&plan["target"]["end_lsn"]) >= end, "{plan}, message to {end}");
    shop.run(["wal", "salvage"]).arg(&data).run().ok();
    let options = ["--json", "restore", "--dry-run", "--into"];
    let plan = shop.run(options).arg(shop.target("elsewhere")).run().ok().json();
    assert!(lsn(&plan["target"]["end_lsn"]) >= end, "{plan}, message to {end}");
}
