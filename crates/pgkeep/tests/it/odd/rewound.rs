//! Clusters whose past was changed between two backups (K40, M27): by tools, by restores, by hand, by a promotion.
//!
//! What a host may reuse is proven by content, never by LSN or timeline: none of these makes the next backup wrong.
//! What must be refused is recovery across the break.

use std::fs;
use std::path::PathBuf;

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::postgres::program;
use pgkeep_testkit::{Cluster, Run, StopMode};

use super::at_both_ends;
use super::truth::{Truth, restored};
use crate::backup::{backup, listed, number, out_of_backup_mode, text};
use crate::shop;

fn tool(shop: &Shop, name: &str, args: &[&str]) {
    let run = program(shop.cluster.major(), name).as_user(shop.cluster.user());
    run.args(args).arg("-D").arg(shop.cluster.data_dir()).run().ok();
}

/// Proves that a backup taken now restores, alone and to the end of the archive.
#[track_caller]
fn prove_next(shop: &Shop, name: &str) -> String {
    let id = text(&backup(shop, &[])["id"]);
    Truth::of(&shop.cluster).prove(restored(shop, name, &id, &[]));
    shop.cluster.sql("INSERT INTO t VALUES (-1)");
    shop.cluster.archive_all();
    Truth::of(&shop.cluster).prove(shop.restore(&format!("{name}-latest"), ["--backup", &id, "--action", "promote"]));
    id
}

/// Aim: after `pg_resetwal`, which also sets OIDs back so that files are named as dropped ones were, the next backup is
/// whole, an older one restores to its own end, and recovery from the older one across the break is refused.
fn pg_resetwal_between_backups(major: u16) {
    let mut shop = shop(major).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    shop.cluster
        .sql("CREATE TABLE dropped AS SELECT i, 'old' x FROM generate_series(1, 5000) i");
    let file = shop.cluster.sql("SELECT pg_relation_filenode('dropped')");
    let (truth, older) = (Truth::of(&shop.cluster), text(&backup(&shop, &[])["id"]));
    // An OID whose row is not vacuumed away counts as taken.
    shop.cluster
        .sql("INSERT INTO t SELECT generate_series(1, 100); DROP TABLE dropped; VACUUM pg_class; CHECKPOINT");
    shop.cluster.archive_all();
    shop.cluster.stop(StopMode::Fast);
    tool(&shop, "pg_resetwal", &["-o", &file]);
    shop.cluster.start();
    // An index takes one OID, and its file has that for a name.
    let named_again = (0..8).any(|n| {
        shop.cluster.sql(&format!("CREATE INDEX again{n} ON t (i)"));
        shop.cluster.sql(&format!("SELECT pg_relation_filenode('again{n}')")) == file
    });
    assert!(named_again, "no new index has the file {file}");
    prove_next(&shop, "next");
    truth.prove(restored(&shop, "older", &older, &[]));
    let target = shop.target("across");
    let refused = shop
        .run(["restore", "--backup", &older, "--into"])
        .arg(&target)
        .run()
        .expect(4);
    assert!(refused.stderr.contains("Recovery is possible up to"), "{refused}");
    assert!(!target.exists());
}

at_both_ends!(pg_resetwal_between_backups);

/// Puts a restored copy into the place of the cluster, which is stopped.
pub fn replace(shop: &mut Shop, options: &[&str]) {
    shop.cluster.stop(StopMode::Fast);
    let data = shop.cluster.data_dir().to_owned();
    fs::rename(&data, data.with_file_name("replaced")).unwrap();
    shop.run(["restore", "--into"]).arg(&data).args(options).run().ok();
    shop.cluster.start();
    shop.cluster.wait_recovered();
}

/// Aim: an older backup restored over the cluster, which goes on from there and archives: the next backup is on the new
/// timeline, reuses what is the same, and all backups restore to what they hold.
#[test]
fn an_older_backup_restored_over_the_cluster() {
    let mut shop = shop(17).start();
    shop.cluster
        .sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i");
    let (first_truth, first) = (Truth::of(&shop.cluster), text(&backup(&shop, &[])["id"]));
    shop.cluster
        .sql("UPDATE t SET i = -i WHERE i % 2 = 0; CREATE TABLE lost AS SELECT 1 a");
    let (second_truth, second) = (Truth::of(&shop.cluster), text(&backup(&shop, &[])["id"]));
    shop.cluster.archive_all();
    replace(
        &mut shop,
        &[
            "--backup",
            &first,
            "--immediate",
            "--action",
            "promote",
            "--archive",
            "keep",
        ],
    );
    assert_eq!(shop.cluster.timeline().get(), 2);
    shop.cluster.sql("UPDATE t SET i = i + 1 WHERE i % 3 = 0");
    let third = backup(&shop, &[]);
    assert!(number(&third["new_bytes"]) < number(&third["stored_bytes"]), "{third}");
    let third = text(&third["id"]);
    Truth::of(&shop.cluster).prove(restored(&shop, "third", &third, &[]));
    first_truth.prove(restored(&shop, "first", &first, &[]));
    second_truth.prove(restored(&shop, "second", &second, &["--timeline", "1"]));
    shop.cluster.archive_all();
    Truth::of(&shop.cluster).prove(shop.restore("latest", ["--action", "promote"]));
}

/// Aim: a data directory that was put back from a copy of its files writes its WAL anew under names that are taken:
/// nothing is overwritten, backups are refused, and what was archived stays restorable.
#[test]
fn a_data_directory_put_back_from_a_copy() {
    let mut shop = shop(17).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    backup(&shop, &[]);
    shop.cluster.stop(StopMode::Fast);
    let data = shop.cluster.data_dir().to_owned();
    let aside = data.with_file_name("aside");
    Run::new("/bin/cp").arg("-a").arg(&data).arg(&aside).run().ok();
    shop.cluster.start();
    shop.cluster
        .sql("CREATE TABLE lost AS SELECT generate_series(1, 1000) i");
    shop.cluster.archive_all();
    shop.cluster.archive_all();
    let truth = Truth::of(&shop.cluster);
    shop.cluster.stop(StopMode::Fast);
    let before = archived(&shop);
    fs::rename(&data, data.with_file_name("lost-data")).unwrap();
    fs::rename(&aside, &data).unwrap();
    shop.cluster.start();
    shop.cluster.sql("CREATE TABLE other AS SELECT 'another history' x");
    shop.cluster.switch_wal();
    let refused = shop
        .run(["backup"])
        .env("PGKEEP_CLUSTER__SHOP__ARCHIVE_TIMEOUT", "5 seconds")
        .run()
        .expect(4);
    assert!(refused.stderr.contains("WAL archiving does not work"), "{refused}");
    out_of_backup_mode(&shop.cluster);
    assert_eq!(listed(&shop).len(), 1);
    for (name, content) in before {
        assert_eq!(fs::read(&name).unwrap(), content, "{}", name.display());
    }
    truth.prove(shop.restore("latest", ["--action", "promote"]));
}

/// Everything in the WAL archive.
fn archived(shop: &Shop) -> Vec<(PathBuf, Vec<u8>)> {
    let root = shop.repository_dir("main");
    let names = pgkeep_testkit::corrupt::objects_like(&root, "wal/");
    let path = |name: &String| root.join(name);
    names
        .iter()
        .map(|name| (path(name), fs::read(path(name)).unwrap()))
        .collect()
}

/// Aim: a promotion between two backups, in the same directory: the next one is on the new timeline.
fn a_promotion_between_backups(major: u16) {
    let mut shop = shop(major).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    backup(&shop, &[]);
    shop.cluster.stop(StopMode::Fast);
    let signal = shop.cluster.data_dir().join("standby.signal");
    fs::write(&signal, "").unwrap();
    shop.cluster.user().own(&signal);
    shop.cluster.start();
    shop.cluster.promote();
    shop.cluster.sql("INSERT INTO t SELECT generate_series(1, 100)");
    prove_next(&shop, "next");
    assert_eq!(shop.cluster.timeline().get(), 2);
    Truth::of(&shop.cluster).prove(shop.restore("over", ["--action", "promote"]));
}

at_both_ends!(a_promotion_between_backups);

/// Aim: checksums that are turned on and off between backups change every page without changing its LSN: each backup
/// has the pages as they were, and says so.
#[test]
fn checksums_turned_on_and_off_between_backups() {
    let mut shop = shop(17).cluster(|cluster| cluster.checksums(false)).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 20000) i");
    prove_next(&shop, "without");
    for (way, name) in [("--enable", "with"), ("--disable", "without-again")] {
        shop.cluster.stop(StopMode::Fast);
        tool(&shop, "pg_checksums", &[way]);
        shop.cluster.start();
        let id = prove_next(&shop, name);
        let copy = Cluster::adopt_dir(17, shop.target(name));
        let version = copy.control("Data page checksum version");
        assert_eq!(version, if way == "--enable" { "1" } else { "0" });
        let shown = shop.pgkeep(["--json", "show", &id]).ok().json();
        assert_eq!(shown["head"]["checksums"], way == "--enable", "{shown:#}");
    }
}

/// Aim: what a server wrote under `wal_level = minimal` without logging it is in the next backup, although pages of the
/// same files were stored before.
#[test]
fn rows_that_were_never_logged_are_in_the_next_backup() {
    let mut shop = shop(18).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    backup(&shop, &[]);
    let levels = [("minimal", "off", "0"), ("replica", "on", "10")];
    for (level, mode, senders) in levels {
        shop.cluster.set_conf("wal_level", level);
        shop.cluster.set_conf("archive_mode", mode);
        shop.cluster.set_conf("max_wal_senders", senders);
        shop.cluster.restart(StopMode::Fast);
        if level == "minimal" {
            shop.cluster.sql(
                "BEGIN; TRUNCATE t; INSERT INTO t SELECT generate_series(1, 50000); COMMIT;
                 BEGIN; CREATE TABLE unlogged_rows AS SELECT generate_series(1, 50000) i; COMMIT",
            );
        }
    }
    prove_next(&shop, "next");
}
