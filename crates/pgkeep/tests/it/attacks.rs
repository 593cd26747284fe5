//! What a hostile or unlucky hand does to a repository, a host or a command line.

use std::fs;
use std::time::Duration;

use pgkeep_testkit::Run;
use pgkeep_testkit::corrupt::objects_like;

use crate::shop;

/// Aim: a backup that lacks a pack, or its manifest, is red before anybody needs it, and refused before anything is
/// written.
#[test]
fn a_backup_that_lost_a_part_is_told_and_refused_beforehand() {
    for part in ["packs/", "/manifest"] {
        let shop = shop(17).start();
        shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
        shop.pgkeep(["backup"]).ok();
        let root = shop.repository_dir("main");
        let lost = objects_like(&root, part).pop().unwrap();
        fs::remove_file(root.join(&lost)).unwrap();
        shop.run(["status", "--check"]).run().expect(9);
        let target = shop.target("lost");
        let refused = shop.run(["restore", "--into"]).arg(&target).run().expect(8);
        assert!(refused.stderr.contains("missing"), "{refused}");
        assert!(!target.exists());
    }
}

/// Aim: a head that was removed shows, because the next one names it.
#[test]
fn a_removed_backup_is_noticed() {
    let shop = shop(17).start();
    shop.pgkeep(["backup"]).ok();
    shop.pgkeep(["backup"]).ok();
    let root = shop.repository_dir("main");
    let mut heads = objects_like(&root, "/head");
    heads.sort();
    fs::remove_file(root.join(&heads[0])).unwrap();
    let status = shop.run(["status", "--json"]).run().ok();
    assert!(status.stdout.contains("backup-removed"), "{status}");
}

/// Aim: what is no file, or too long for one, is refused at once, and doesn't hang the archiver.
#[test]
fn what_is_no_wal_file_is_not_read() {
    let shop = shop(17).start();
    let wal = shop.cluster.data_dir().join("pg_wal");
    for (name, make) in [
        ("0000000100000000000000F5", "mkfifo"),
        ("0000000100000000000000F7", "ln"),
    ] {
        let path = wal.join(name);
        let command = match make {
            "ln" => Run::new("ln").args(["-s", "/dev/zero"]).arg(&path),
            _ => Run::new(make).arg(&path),
        };
        command.run().ok();
        let refused = shop
            .run(["wal", "push"])
            .arg(&path)
            .limit(Duration::from_secs(20))
            .run();
        assert!(matches!(refused.code, Some(1..=125)), "{refused}");
        fs::remove_file(&path).unwrap();
    }
}

/// Aim: a cluster that archives already is not restarted by a slip of the hand.
#[test]
fn a_protected_cluster_is_not_adopted() {
    let shop = shop(17).start();
    shop.pgkeep(["backup"]).ok();
    let started = shop.cluster.sql("SELECT pg_postmaster_start_time()");
    shop.run(["adopt"]).arg(shop.cluster.data_dir()).run().expect(6);
    assert_eq!(shop.cluster.sql("SELECT pg_postmaster_start_time()"), started);
}

/// Aim: nothing is restored into a repository.
#[test]
fn a_repository_is_no_place_for_a_cluster() {
    let shop = shop(17).start();
    shop.pgkeep(["backup"]).ok();
    let inside = shop.repository_dir("main").join("wal/out");
    shop.run(["restore", "--into"]).arg(&inside).run().expect(4);
}

/// Aim: a failover of which only the history file is archived does not make commits of the old timeline vanish unsaid.
#[test]
fn commits_past_a_fork_are_told_even_before_the_new_timeline_has_a_segment() {
    let shop = shop(17).start();
    shop.pgkeep(["backup"]).ok();
    shop.cluster.archive_all();
    let fork = shop.cluster.sql("SELECT pg_current_wal_lsn()");
    for n in 0..3 {
        shop.cluster.sql(&format!("CREATE TABLE t{n} AS SELECT 1"));
    }
    shop.cluster.archive_all();
    let history = shop.cluster.data_dir().join("pg_wal/00000002.history");
    fs::write(&history, format!("1\t{fork}\tno recovery target specified\n")).unwrap();
    Run::new("chmod").arg("0644").arg(&history).run().ok();
    shop.run(["wal", "push"]).arg(&history).run().ok();
    fs::remove_file(&history).unwrap();
    let plan = shop
        .run(["restore", "--dry-run", "--json", "--into"])
        .arg(shop.target("x"))
        .run()
        .ok();
    let left = plan.json()["left_behind"].as_array().unwrap().clone();
    assert_eq!(left.len(), 1, "{plan}");
    assert!(left[0]["commits"].as_u64().unwrap() >= 3, "{plan}");
}
