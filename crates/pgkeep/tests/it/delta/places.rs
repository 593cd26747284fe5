//! Places outside of the data directory: tablespaces, a `pg_wal` that is a link.

use pgkeep_testkit::faults::disk::Disk;

use super::*;

/// Aim: WAL on a disk of its own is saved like any other, and the link stays.
#[test]
fn wal_that_lives_elsewhere_is_saved_and_stays_there() {
    for major in [14, 18] {
        let mut shop = shop(major).start();
        let elsewhere = shop.home().join("wal-disk");
        shop.cluster.stop(StopMode::Fast);
        let data = shop.cluster.data_dir().to_owned();
        Run::new("/bin/mv").arg(data.join("pg_wal")).arg(&elsewhere).run().ok();
        symlink(&elsewhere, data.join("pg_wal")).unwrap();
        fs::write(elsewhere.join("precious"), "").unwrap();
        shop.cluster.start();
        let ledger = crash(&mut shop);
        delta(&shop, &data, [""; 0]).run().ok();
        assert_eq!(fs::read_link(data.join("pg_wal")).unwrap(), elsewhere);
        let mut left: Vec<String> = fs::read_dir(&elsewhere)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.retain(|name| name != "summaries");
        left.sort();
        assert_eq!(
            left,
            ["archive_status", "precious"],
            "outside of the data directory only WAL is removed"
        );
        assert_all_is_back(&mut shop, &ledger);
        shop.cluster.check_structure();
    }
}

/// Aim: tablespaces are restored where the directory links to them; one that was made after the moment is emptied, and made
/// again by a later restore; somebody else's place is never taken.
#[test]
fn tablespaces_are_taken_over_where_they_are() {
    for major in [14, 18] {
        let mut shop = shop(major).start();
        let first = shop.cluster.create_tablespace("first");
        shop.cluster
            .sql("CREATE TABLE t TABLESPACE first AS SELECT i FROM generate_series(1, 50000) i");
        shop.pgkeep(["backup"]).ok();
        shop.cluster.archive_all();
        let second = shop.cluster.create_tablespace("second");
        shop.cluster
            .sql("CREATE TABLE u TABLESPACE second AS SELECT i FROM generate_series(1, 1000) i");
        shop.cluster.sql("UPDATE t SET i = i + 1");
        shop.cluster.archive_all();

        let twin = shop.home().join("twin");
        let data = shop.cluster.data_dir().to_owned();
        shop.cluster.stop(StopMode::Fast);
        Run::new("/bin/cp").arg("-a").arg(&data).arg(&twin).run().ok();
        shop.cluster.start();
        let refused = delta(&shop, &twin, [""; 0]).run().expect(4);
        assert!(refused.stderr.contains("a running server uses that place"), "{refused}");
        shop.cluster.stop(StopMode::Immediate);
        let refused = delta(&shop, &twin, [""; 0]).run().expect(4);
        assert!(refused.stderr.contains("this is a copy"), "{refused}");

        let strangers = shop.home().dir("strangers");
        shop.cluster.user().own(&strangers);
        fs::create_dir_all(strangers.join("PG_9.6_201608131/1")).unwrap();
        let map = format!("{}={}", first.display(), strangers.display());
        let refused = delta(&shop, &data, ["--tablespace", &map]).run().expect(4);
        assert!(refused.stderr.contains("not empty"), "{refused}");
        assert!(!data.join(".pgkeep").exists(), "{refused}");

        fs::write(first.join("precious"), "").unwrap();
        let done = delta(&shop, &data, ["--immediate"]).run().ok().json();
        assert_eq!(
            done["over"]["dropped_tablespaces"][0],
            second.display().to_string(),
            "{done}"
        );
        assert!(
            first.join("precious").exists(),
            "only the version's directory is the cluster's"
        );
        assert_eq!(fs::read_dir(&second).unwrap().count(), 0);
        shop.cluster.start();
        shop.cluster.wait_paused();
        assert_eq!(
            shop.cluster.sql("SELECT min(i), max(i), count(*) FROM t"),
            "1|50000|50000"
        );
        assert_eq!(
            shop.cluster
                .sql("SELECT count(*) FROM pg_tablespace WHERE spcname = 'second'"),
            "0"
        );
        shop.cluster.stop(StopMode::Fast);

        delta(&shop, &data, ["--latest"]).run().ok();
        shop.cluster.start();
        shop.cluster.wait_recovered();
        assert_eq!(
            shop.cluster.sql("SELECT min(i), max(i), count(*) FROM t"),
            "2|50001|50000"
        );
        assert_eq!(shop.cluster.sql("SELECT count(*) FROM u"), "1000");
        shop.cluster.check_structure();
    }
}

/// Aim: as root, everything that it writes and saves belongs to PostgreSQL's user, who can recover from it: where saved WAL
/// gets a second name, and where it is copied from another disk.
#[test]
fn root_restores_over_for_the_owner() {
    let Some(disk) = Disk::memory("size=256m", "a restore over a cluster as root") else {
        return;
    };
    for wal_elsewhere in [false, true] {
        let mut shop = shop(18).start();
        let ledger = crash(&mut shop);
        let data = shop.cluster.data_dir().to_owned();
        if wal_elsewhere {
            let elsewhere = disk.path().join("wal");
            Run::new("/bin/mv").arg(data.join("pg_wal")).arg(&elsewhere).run().ok();
            symlink(&elsewhere, data.join("pg_wal")).unwrap();
        }
        fs::write(data.join("roots"), "").unwrap();
        let as_root = delta(&shop, &data, [""; 0]).as_user(OsUser::current());
        let done = as_root.run().ok().json();
        assert!(done["saved_wal"]["files"].as_array().unwrap().len() >= 3, "{done}");
        assert!(!data.join("roots").exists());
        let owner = fs::metadata(&data).unwrap().uid();
        for name in objects(&data) {
            assert_eq!(fs::symlink_metadata(data.join(&name)).unwrap().uid(), owner, "{name}");
        }
        assert_all_is_back(&mut shop, &ledger);
    }
}
