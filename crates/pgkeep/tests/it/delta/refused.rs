//! Places that are refused, and what is in the way: nothing in them is changed by that.

use pgkeep_testkit::faults::disk::Disk;
use pgkeep_testkit::faults::points::Fault;

use super::*;

/// Runs it; it must be refused with these words, and nothing may have been touched.
#[track_caller]
fn assert_untouched(shop: &Shop, directory: &Path, words: &str) {
    let before = traces(directory);
    let refused = delta(shop, directory, [""; 0]).run().expect(4);
    assert!(refused.stderr.contains(words), "{words}: {refused}");
    assert!(refused.stderr.contains("hint"), "{refused}");
    assert!(
        traces(directory) == before,
        "{} was touched: {refused}",
        directory.display()
    );
}

/// Aim: neither the repository, nor what holds it or lies in it, nor pgkeep's own files are restored over; a file is no
/// place.
#[test]
fn no_repository_and_no_configuration_is_restored_over() {
    let mut shop = shop(18).start();
    shop.pgkeep(["backup"]).ok();
    shop.cluster.stop(StopMode::Fast);
    let repository = shop.repository_dir("main");
    assert_untouched(&shop, &repository, "can't be restored over");
    let inside = repository.join("data");
    Run::new("/bin/cp")
        .arg("-a")
        .arg(shop.cluster.data_dir())
        .arg(&inside)
        .run()
        .ok();
    assert_untouched(&shop, &inside, "lies inside the repository");
    fs::remove_dir_all(&inside).unwrap();
    let file = shop.home().join("file");
    fs::write(&file, "precious").unwrap();
    let refused = delta(&shop, &file, [""; 0]).run().expect(4);
    assert!(refused.stderr.contains("it is a file"), "{refused}");

    let data = shop.cluster.data_dir().to_owned();
    let kept = data.join("repository");
    Run::new("/bin/cp").arg("-a").arg(&repository).arg(&kept).run().ok();
    shop.reconfigure(&repository.display().to_string(), &kept.display().to_string());
    assert_untouched(&shop, &data, "lies in what would be restored over");
    assert!(kept.join("control/genesis").exists());
}

/// Aim: an empty directory is restored into as ever; a link to the data directory is followed, and stays.
#[test]
fn an_empty_directory_is_filled_and_a_link_to_the_cluster_is_followed() {
    let mut shop = shop(18).start();
    let ledger = crash(&mut shop);
    let link = shop.home().join("link");
    symlink(shop.cluster.data_dir(), &link).unwrap();
    let done = delta(&shop, &link, [""; 0]).run().ok().json();
    assert!(done["written"]["kept_bytes"].as_u64().unwrap() > 10 << 20, "{done}");
    assert!(link.is_symlink());
    let empty = shop.home().dir("empty");
    shop.cluster.user().own(&empty);
    let done = delta(&shop, &empty, [""; 0]).run().ok().json();
    assert!(done["over"].is_null() && done["saved_wal"].is_null(), "{done}");
    assert_all_is_back(&mut shop, &ledger);
}

/// Aim: as PostgreSQL's user it replaces files that it may not read, and refuses, untouched, a directory that it may not
/// enter.
#[test]
fn what_belongs_to_others_is_replaced_or_refused() {
    if !OsUser::current().is_root() {
        return;
    }
    let mut shop = shop(18).start();
    shop.cluster
        .sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 20000) i");
    shop.cluster
        .sql("CREATE TABLE u AS SELECT i FROM generate_series(1, 20000) i");
    shop.pgkeep(["backup"]).ok();
    shop.cluster.archive_all();
    let [unreadable, roots] = ["t", "u"].map(|table| shop.cluster.data_dir().join(file_of(&shop.cluster, table)));
    shop.cluster.stop(StopMode::Fast);
    let data = shop.cluster.data_dir().to_owned();
    fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o0)).unwrap();
    fs::remove_file(&roots).unwrap();
    fs::write(&roots, "root's").unwrap();
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o600)).unwrap();
    let as_user = || delta(&shop, &data, [""; 0]).as_user(OsUser::unprivileged());

    let locked = data.join("pg_multixact/members");
    let theirs = fs::metadata(&locked).unwrap().uid();
    std::os::unix::fs::chown(&locked, Some(0), Some(0)).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
    let refused = as_user().run().expect(4);
    assert!(
        refused.stderr.contains("members") && refused.stderr.contains("hint"),
        "{refused}"
    );
    assert!(
        data.join("global/pg_control").exists() && !data.join(".pgkeep").exists(),
        "{refused}"
    );
    std::os::unix::fs::chown(&locked, Some(theirs), None).unwrap();
    as_user().run().ok();
    shop.cluster.start();
    shop.cluster.wait_recovered();
    for table in ["t", "u"] {
        assert_eq!(
            shop.cluster.sql(&format!("SELECT count(*), max(i) FROM {table}")),
            "20000|20000"
        );
    }
}

/// Aim: where the WAL lies on another disk and there is no room to save it, nothing is removed: it is refused by the plan,
/// and where the disk becomes full only then, by the run. With room it is completed, and every commit is back.
#[test]
fn without_room_for_the_wal_to_be_saved_nothing_is_changed() {
    let Some(disk) = Disk::memory("size=256m", "no room for saved WAL") else {
        return;
    };
    let mut shop = shop(18).start();
    let ledger = crash(&mut shop);
    let (data, elsewhere) = (disk.path().join("data"), shop.home().join("wal-disk"));
    Run::new("/bin/cp")
        .arg("-a")
        .arg(shop.cluster.data_dir())
        .arg(&data)
        .run()
        .ok();
    Run::new("/bin/mv").arg(data.join("pg_wal")).arg(&elsewhere).run().ok();
    symlink(&elsewhere, data.join("pg_wal")).unwrap();
    fs::remove_file(data.join("postmaster.opts")).unwrap();
    let wal = traces(&elsewhere);
    {
        let _full = disk.fill();
        assert_untouched(&shop, &data, "no room for the WAL that must be saved first");
    }
    for step in ["engine.restore.save#2", "engine.restore.sync-directory#1"] {
        let failed = Fault::Enospc.at(step, delta(&shop, &data, [""; 0])).run().expect(1);
        assert!(failed.stderr.contains("its WAL is saved first"), "{failed}");
        assert!(failed.stderr.contains("wal salvage"), "{failed}");
        assert!(data.join("global/pg_control").exists(), "{failed}");
        assert!(traces(&elsewhere) == wal, "{failed}");
    }
    let done = delta(&shop, &data, [""; 0]).run().ok().json();
    assert!(done["saved_wal"]["files"].as_array().unwrap().len() >= 3, "{done}");
    let mut copy = Cluster::adopt_dir(18, &data);
    copy.start();
    copy.wait_recovered();
    ledger.check(&copy, Upto::All).unwrap();
}
