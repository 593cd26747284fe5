//! `pgkeep backup`: what it stores and what a backup is worth alone. What it refuses: `backup_refusals`; what is left
//! when it is cut short: `backup_interrupted`.

use std::fs;

use pgkeep_testkit::corrupt::{Damage, Damaged, objects_like};
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, every_major};
use serde_json::Value;

use crate::shop;

/// Takes a backup and gives what it says of itself.
#[track_caller]
pub fn backup(shop: &Shop, options: &[&str]) -> Value {
    shop.run(["--json", "backup"]).args(options).run().ok().json()
}

/// Ids of the backups that `list` shows.
#[track_caller]
pub fn listed(shop: &Shop) -> Vec<String> {
    let list = shop.pgkeep(["--json", "list"]).ok().json();
    let backups = list["backups"].as_array().unwrap().iter();
    backups.map(|backup| text(&backup["id"])).collect()
}

/// Takes the state directory away, as when a host is set up anew; at once, since the archiver may be writing to it.
pub fn lose_state(shop: &Shop) {
    let lost = shop.home().join("lost-state");
    if lost.exists() {
        fs::remove_dir_all(&lost).unwrap();
    }
    fs::rename(shop.state_dir(), &lost).unwrap();
}

/// A text of a JSON document.
#[track_caller]
pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

/// A number of a JSON document.
#[track_caller]
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Makes a table `name` of about `mib` MiB that no codec makes smaller.
pub fn fill(cluster: &Cluster, name: &str, mib: u32) {
    cluster.sql(&format!(
        "CREATE TABLE {name} (id int, content bytea);
         ALTER TABLE {name} ALTER content SET STORAGE plain;
         INSERT INTO {name} SELECT row, (SELECT string_agg(sha512((row || '-' || part)::bytea), '')
             FROM generate_series(1, 31) part) FROM generate_series(1, {mib} * 512) row"
    ));
}

/// One number for all that a table holds.
#[track_caller]
pub fn digest(cluster: &Cluster, table: &str) -> String {
    cluster.sql(&format!(
        "SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY t)) FROM {table} t"
    ))
}

/// Restores a backup alone, as it was at its end, and starts it.
#[track_caller]
fn restored(shop: &Shop, id: &str) -> Cluster {
    let mut cluster = shop.restore(id, ["--backup", id, "--immediate", "--action", "promote"]);
    cluster.start();
    cluster.wait_recovered();
    cluster
}

/// A table that reading alone doesn't change any more.
fn make_table(shop: &Shop) {
    shop.cluster.sql(
        "CREATE TABLE t AS SELECT i, md5(i::text) AS content FROM generate_series(1, 50000) i;
         VACUUM FREEZE t",
    );
}

/// Aim: every backup restores with the heads of all others deleted, also one that stored almost nothing itself.
/// Method: three backups with changes between; each is restored, alone, to its own end.
#[test]
fn every_backup_restores_without_the_others() {
    let shop = shop(17).start();
    make_table(&shop);
    let mut backups = Vec::new();
    for round in 0..3 {
        shop.cluster
            .sql(&format!("UPDATE t SET content = '{round}' WHERE i % 5000 = {round}"));
        let done = backup(&shop, &[]);
        backups.push((text(&done["id"]), digest(&shop.cluster, "t"), done));
    }
    let new = |at: usize| number(&backups[at].2["new_bytes"]);
    assert!(new(2) < new(0) / 10, "{} after {}", new(2), new(0));
    let repository = shop.repository_dir("main");
    for (id, expected, _) in &backups {
        let heads = objects_like(&repository, "/head");
        let others = heads.iter().filter(|name| !name.contains(id.as_str()));
        let gone: Vec<Damaged> = others
            .map(|name| Damaged::new(&repository, name, Damage::Delete))
            .collect();
        assert_eq!(listed(&shop), [id.as_str()]);
        let cluster = restored(&shop, id);
        assert_eq!(digest(&cluster, "t"), *expected, "{id}");
        drop(gone);
    }
}

/// Aim: bytes added follow what changed, not how large the cluster is.
#[test]
fn a_backup_after_which_nothing_changed_adds_next_to_nothing() {
    let shop = shop(18).start();
    make_table(&shop);
    let first = backup(&shop, &["--label", "why=first", "--tier", "daily"]);
    let second = backup(&shop, &[]);
    let full = backup(&shop, &["--full"]);
    let new = |done: &Value| number(&done["new_bytes"]);
    assert!(
        new(&second) < new(&first) / 50,
        "{} after {}",
        new(&second),
        new(&first)
    );
    assert!(
        new(&full) > new(&first) / 10 * 9,
        "{} after {}",
        new(&full),
        new(&first)
    );
    assert!(number(&second["stored_bytes"]) > new(&first) / 10 * 9, "{second}");

    let list = shop.pgkeep(["--json", "list", "--tier", "daily"]).ok().json();
    let daily = list["backups"].as_array().unwrap();
    assert_eq!((daily.len(), &daily[0]["labels"]["why"]), (1, &Value::from("first")));
}

every_major! {
    /// Aim: a page that fails its checksum is recorded and reported (3), and fails the backup with --strict (8).
    fn a_bad_page_is_told(major: u16) {
        let shop = shop(major).start();
        shop.cluster.sql(
            "CREATE TABLE good AS SELECT i FROM generate_series(1, 10000) i;
             CREATE TABLE bad AS SELECT i FROM generate_series(1, 10000) i;
             CHECKPOINT",
        );
        let path = shop.cluster.sql("SELECT pg_relation_filepath('bad')");
        damage_page(&shop.cluster.data_dir().join(&path), 3);

        let strict = shop.pgkeep(["backup", "--strict"]).expect(8);
        assert!(strict.stderr.contains(&path), "{strict}");
        assert_eq!(listed(&shop), [""; 0]);
        out_of_backup_mode(&shop.cluster);

        let output = shop.pgkeep(["--json", "backup"]).expect(3);
        let done = output.json();
        assert_eq!(done["bad_files"], serde_json::json!([{"path": path, "pages": 1}]));
        let id = text(&done["id"]);
        let shown = shop.pgkeep(["show", &id]).ok();
        assert!(shown.stdout.contains("bad"), "{shown}");
        // A page that was bad stays known: the next backup, which reuses it, is impaired, too.
        shop.pgkeep(["backup"]).expect(3);

        let cluster = restored(&shop, &id);
        assert_eq!(digest(&cluster, "good"), digest(&shop.cluster, "good"));
        assert!(cluster.sql_err("SELECT count(*) FROM bad").contains("invalid page in block 3"));
    }
}

/// Flips a bit in the middle of a page on disk.
fn damage_page(path: &std::path::Path, page: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[page * 8192 + 5000] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The server holds no backup session: nobody but us is connected, and no lock of a backup is held.
#[track_caller]
pub fn out_of_backup_mode(cluster: &Cluster) {
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgkeep'";
    pgkeep_testkit::wait::until("the backup's session to end", pgkeep_testkit::wait::LIMIT, || {
        (cluster.sql(sessions) == "0").then_some(())
    });
    assert_eq!(
        cluster.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"),
        "0"
    );
}
