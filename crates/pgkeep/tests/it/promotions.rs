//! Two servers that are promoted to one timeline number, and both archive: neither is believed, until a backup on one of
//! them says whose history is meant.

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, StopMode, every_major};

use crate::shop;

/// A standby that archives for itself once it is promoted.
fn standby(shop: &Shop, host: &str) -> Cluster {
    let mut standby = shop.cluster.standby(host);
    standby.set_conf("archive_command", &shop.archive_command_of(host));
    standby
}

fn insert(cluster: &Cluster, id: i64) {
    cluster.sql(&format!("INSERT INTO t VALUES ({id})"));
}

fn rows(cluster: &Cluster) -> String {
    cluster.sql("SELECT string_agg(i::text, ' ' ORDER BY i) FROM t")
}

/// Takes a backup on the host of an heir.
fn backup(shop: &Shop, host: &str, server: &Cluster) -> String {
    let run = shop
        .run(["--json", "backup"])
        .env("PGKEEP_STATE_DIR", shop.state_dir_of(host));
    let done = run
        .env("PGKEEP_CLUSTER__SHOP__CONNECTION", server.conninfo())
        .run()
        .ok();
    done.json()["id"].as_str().unwrap().to_owned()
}

/// How bad a reason of `status` is.
fn severity(shop: &Shop, code: &str) -> Option<String> {
    let status = shop.pgkeep(["--json", "status"]).ok().json();
    let reasons = status["clusters"][0]["reasons"].as_array().unwrap().clone();
    let mut found = reasons.iter().filter(|reason| reason["code"] == code);
    Some(found.next()?["severity"].as_str().unwrap().to_owned())
}

/// The rows of a copy restored with these options.
#[track_caller]
fn restored(shop: &Shop, name: &str, options: &[&str]) -> String {
    let mut copy = shop.restore(name, [options, &["--action", "promote"]].concat());
    copy.start();
    copy.wait_recovered();
    rows(&copy)
}

/// A primary that is gone, and two heirs of it, promoted to timeline 2 at different moments. Row 1 is in the backup, 2 on
/// both, 3 and 1001 only on the first, 2001 only on the second.
fn heirs(major: u16) -> (Shop, Cluster, Cluster) {
    let settings = "wal_keep_size = '1GB'\nautovacuum = off";
    let mut shop = shop(major).cluster(|cluster| cluster.conf(settings)).start();
    shop.cluster.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)");
    shop.pgkeep(["backup"]).ok();
    let (mut first, mut second) = (standby(&shop, "first"), standby(&shop, "second"));
    insert(&shop.cluster, 2);
    second.catch_up_with(&shop.cluster);
    second.stop(StopMode::Fast);
    insert(&shop.cluster, 3);
    first.catch_up_with(&shop.cluster);
    shop.cluster.stop(StopMode::Immediate);
    second.start();
    first.promote();
    second.promote();
    assert_eq!((first.timeline().get(), second.timeline().get()), (2, 2));
    insert(&first, 1001);
    insert(&second, 2001);
    first.archive_all();
    second.archive_all();
    (shop, first, second)
}

every_major! {
    /// Aim: with two histories of timeline 2 in the archive no restore takes one of them, `window` and `status` show it, and
    /// what lies before is restored; a backup on the server that shall live is restored with what follows it.
    fn of_two_histories_a_backup_decides(major: u16) {
        let (shop, first, mut second) = heirs(major);
        for options in [&[][..], &["--timeline", "2"]] {
            let refused = shop.refused_restore(options).stderr;
            assert!(refused.contains("two servers were promoted to timeline 2"), "{refused}");
        }
        // Both numbers are taken, whoever it was.
        let mut copy = shop.restore("before", ["--timeline", "1"]);
        copy.start();
        copy.wait_recovered();
        assert!(rows(&copy).starts_with("1 2"), "{}", rows(&copy));
        assert_eq!(copy.timeline().get(), 3);
        copy.stop(StopMode::Fast);
        let window = shop.pgkeep(["--json", "window"]).ok().json();
        assert_eq!(window["clusters"][0]["unreachable"][0]["timeline"], 2, "{window}");
        assert_eq!(severity(&shop, "timeline-unexplained").as_deref(), Some("fail"));
        let asked = shop.run(["wal", "fetch", "00000002.history", "x"]).cwd(first.data_dir()).run();
        assert_eq!(asked.code, Some(255), "{asked}");

        second.stop(StopMode::Fast);
        first.archive_all();
        backup(&shop, "first", &first);
        insert(&first, 1002);
        first.archive_all();
        assert_eq!(restored(&shop, "latest", &[]), "1 2 3 1001 1002");
        assert_eq!(severity(&shop, "timeline-unexplained").as_deref(), Some("warn"));
    }
}

/// Aim: where both servers of a number were backed up, no restore guesses, and the one that is named is restored. Issue: the
/// one whose WAL was further on was taken for the newest.
#[test]
fn of_two_backups_none_is_guessed() {
    let (shop, mut first, mut second) = heirs(17);
    backup(&shop, "second", &second);
    second.stop(StopMode::Fast);
    // Segments that both wrote are of neither.
    for id in 1002..1008 {
        insert(&first, id);
        first.switch_wal();
    }
    let further = backup(&shop, "first", &first);
    first.stop(StopMode::Fast);
    for options in [&[][..], &["--timeline", "2"], &["--immediate"]] {
        let refused = shop.refused_restore(options).stderr;
        assert!(refused.contains("two servers were promoted to timeline 2"), "{refused}");
        assert!(refused.contains("--backup ID"), "{refused}");
    }
    assert_eq!(severity(&shop, "timeline-unexplained").as_deref(), Some("fail"));
    assert_eq!(severity(&shop, "backup-wal-missing"), None);
    let rows = restored(&shop, "named", &["--backup", &further]);
    assert_eq!(rows, "1 2 3 1001 1002 1003 1004 1005 1006 1007");
}
