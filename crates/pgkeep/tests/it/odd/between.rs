//! What changes between a full backup and the next ones (K20–K26, K28, K37): each restores to its own moment.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use pgkeep_testkit::StopMode;
use pgkeep_testkit::fixture::Shop;

use super::at_both_ends;
use super::during::{CHANGES, TABLES};
use super::paused::Paused;
use super::truth::{Truth, beside, restored};
use crate::backup::{backup, number, text};
use crate::shop;

/// Restores a backup of now, and compares.
fn prove(shop: &Shop, name: &str, id: &str) {
    let options = beside(shop, name);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Truth::of(&shop.cluster).prove(restored(shop, name, id, &options));
}

/// Aim: whatever was created, dropped, rewritten, moved, truncated and grown again between two backups, the second one
/// reuses what stayed and restores to what is there now.
fn changes_between_backups(major: u16) {
    let shop = shop(major)
        .cluster(|cluster| cluster.segment_mib(16).conf("autovacuum = off"))
        .start();
    let file_copy = if major == 14 { "" } else { "STRATEGY file_copy" };
    shop.cluster.create_tablespace("old_place");
    shop.cluster.create_tablespace("new_place");
    shop.cluster
        .sql("CREATE DATABASE here; CREATE DATABASE gone; CREATE DATABASE moved");
    let here = |sql: &str| shop.cluster.sql_in("here", sql);
    here(TABLES);
    here(
        "CREATE TABLE grown AS SELECT i, repeat('old', 300) t FROM generate_series(1, 4000) i;
         CREATE TABLE shorter AS SELECT i, repeat('x', 900) t FROM generate_series(1, 4000) i;
         CREATE TABLE emptied AS SELECT i FROM generate_series(1, 4000) i;
         CREATE INDEX ON grown (i)",
    );
    let full = backup(&shop, &[]);

    let rows: String = (0..4000).map(|row| format!("{row}\tnew {row}\n")).collect();
    let rows = shop.home().file("rows", rows);
    here(CHANGES);
    // Truncated to less and to nothing, then grown again by what is not logged row by row.
    here("DELETE FROM grown WHERE i > 20; VACUUM grown");
    here(&format!("COPY grown FROM '{}'", rows.display()));
    here("DELETE FROM shorter WHERE i > 3900 OR i < 10; DELETE FROM emptied; VACUUM shorter, emptied");
    here("REINDEX SYSTEM here; VACUUM FULL pg_class; VACUUM FULL pg_proc; ALTER DATABASE gone RENAME TO going");
    shop.cluster.sql(&format!(
        "DROP DATABASE going; ALTER DATABASE moved SET TABLESPACE new_place;
         CREATE DATABASE copied TEMPLATE moved {file_copy};
         CREATE DATABASE logged TEMPLATE moved; ALTER DATABASE logged SET TABLESPACE old_place;
         VACUUM FULL pg_database; REINDEX TABLE pg_authid; CHECKPOINT"
    ));
    let next = backup(&shop, &[]);
    let shown = shop.pgkeep(["--json", "show", &text(&next["id"])]).ok().json();
    assert_eq!(shown["head"]["base"], full["id"], "it reuses: {shown:#}");
    prove(&shop, "next", &text(&next["id"]));

    here("CREATE TABLE after AS SELECT generate_series(1, 10) i; DROP TABLE grown, shorter");
    shop.cluster
        .sql("ALTER DATABASE moved SET TABLESPACE pg_default; DROP DATABASE copied");
    prove(&shop, "third", &text(&backup(&shop, &[])["id"]));
}

at_both_ends!(changes_between_backups);

/// The file of a table's segment.
fn segment(shop: &Shop, table: &str, number: u32) -> PathBuf {
    let path = shop.cluster.sql(&format!("SELECT pg_relation_filepath('{table}')"));
    let suffix = if number == 0 {
        String::new()
    } else {
        format!(".{number}")
    };
    shop.cluster.data_dir().join(path + &suffix)
}

/// Lets a table's first segment end at exactly 1 GiB, in pages that were allocated and never written: a hole.
fn fill_first_segment(shop: &mut Shop, table: &str) {
    let path = segment(shop, table, 0);
    shop.cluster.stop(StopMode::Fast);
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    shop.cluster.start();
}

/// Aim: a relation of more than 1 GiB, of which only the second segment changes; which shrinks into its first segment,
/// and, with `--all`, grows out of it again while a backup reads it.
#[test]
fn relations_over_one_gibibyte() {
    let mut shop = shop(17)
        .cluster(|cluster| cluster.segment_mib(16).conf("autovacuum = off"))
        .start();
    shop.cluster
        .sql("CREATE TABLE wide AS SELECT 0 i, 'first' t; CHECKPOINT");
    fill_first_segment(&mut shop, "wide");
    shop.cluster
        .sql("INSERT INTO wide SELECT i, repeat('x', 900) FROM generate_series(1, 4000) i; CHECKPOINT");
    assert!(fs::metadata(segment(&shop, "wide", 1)).unwrap().len() > 100 * 8192);
    let full = backup(&shop, &[]);
    shop.cluster
        .sql("UPDATE wide SET t = 'changed' WHERE i > 3900; CHECKPOINT");
    let second = backup(&shop, &[]);
    assert!(
        number(&second["new_bytes"]) < number(&full["new_bytes"]) / 4,
        "{second} after {full}"
    );
    prove(&shop, "second", &text(&second["id"]));

    shop.cluster.sql("DELETE FROM wide WHERE i > 0; VACUUM wide");
    assert!(
        fs::metadata(segment(&shop, "wide", 0)).unwrap().len() < 1 << 20,
        "VACUUM truncates both"
    );
    prove(&shop, "third", &text(&backup(&shop, &[])["id"]));
    if std::env::var_os("PGKEEP_TEST_ALL").is_none() {
        return;
    }
    fill_first_segment(&mut shop, "wide");
    let path = shop.cluster.sql("SELECT pg_relation_filepath('wide')");
    let paused = Paused::reading_by(&shop, &path, |run| run.limit(std::time::Duration::from_secs(600)));
    shop.cluster
        .sql("INSERT INTO wide SELECT i, repeat('y', 900) FROM generate_series(1, 4000) i; CHECKPOINT");
    assert!(fs::metadata(segment(&shop, "wide", 1)).unwrap().len() > 100 * 8192);
    prove(&shop, "fourth", &text(&paused.resume().ok().json()["id"]));
}

/// Aim: a page of zeros in the midst of a table, pages that were never used, and a file that ends within a page are no
/// damage: each comes back bit by bit.
#[test]
fn pages_of_zeros_and_parts_of_pages() {
    let mut shop = shop(18).start();
    shop.cluster.sql(
        "CREATE TABLE holes AS SELECT i, repeat('x', 500) t FROM generate_series(1, 1000) i;
         CREATE TABLE cut AS SELECT i FROM generate_series(1, 1000) i;
         VACUUM FREEZE holes, cut",
    );
    backup(&shop, &[]);
    let (holes, cut) = (segment(&shop, "holes", 0), segment(&shop, "cut", 0));
    shop.cluster.stop(StopMode::Fast);
    let open = |path| fs::OpenOptions::new().write(true).open(path).unwrap();
    open(&holes).write_all_at(&[0; 8192], 3 * 8192).unwrap();
    let bytes = fs::metadata(&holes).unwrap().len();
    open(&holes).set_len(bytes + 5 * 8192).unwrap();
    let bytes = fs::metadata(&cut).unwrap().len();
    open(&cut).write_all_at(b"the rest of a page", bytes).unwrap();
    shop.cluster.start();
    let done = backup(&shop, &["--strict"]);
    let id = text(&done["id"]);
    let copy = restored(&shop, "copy", &id, &[]);
    for path in [&holes, &cut] {
        let inside = path.strip_prefix(shop.cluster.data_dir()).unwrap();
        assert!(
            fs::read(copy.data_dir().join(inside)).unwrap() == fs::read(path).unwrap(),
            "{}",
            inside.display()
        );
    }
    let mut copy = copy;
    copy.start();
    copy.wait_recovered();
    assert_eq!(
        copy.sql("SELECT count(*) FROM holes, (SELECT count(*) FROM cut) c"),
        shop.cluster.sql("SELECT count(*) FROM holes")
    );
}
