//! Disks that are full, and files that may not grow.

use std::fs;

use pgkeep_testkit::faults::disk::Disk;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, OsUser, Run, Scratch, wait};

use super::pusher::{Kind, Pusher, source};
use crate::backup::digest;
use crate::shop;

/// An installation whose repository lies on a disk of so many bytes.
pub fn shop_on(disk: &Disk) -> Shop {
    let shop = shop(17).start();
    let (old, new) = (shop.repository_dir("main"), disk.path().join("main"));
    Run::new("/bin/cp").arg("-a").arg(&old).arg(&new).run().ok();
    shop.reconfigure(old.to_str().unwrap(), new.to_str().unwrap());
    shop
}

/// Aim: a full repository stops archiving, not PostgreSQL, which keeps its WAL and hands it over when there is room
/// again; a backup onto the full disk fails, says why, and the next one succeeds.
#[test]
fn a_full_repository_loses_no_wal() {
    let Some(disk) = Disk::memory("size=64m", "a full repository") else {
        return;
    };
    let shop = shop_on(&disk);
    shop.cluster
        .sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    shop.pgkeep(["backup"]).ok();
    let filler = disk.fill();
    let failed_before: u64 = shop.cluster.value("SELECT failed_count FROM pg_stat_archiver");
    shop.cluster
        .sql("INSERT INTO t SELECT i, 'kept' FROM generate_series(20001, 20100) i");
    let segment = shop.cluster.switch_wal();
    wait::until("archiving to fail", wait::LIMIT, || {
        let failed: u64 = shop.cluster.value("SELECT failed_count FROM pg_stat_archiver");
        (failed > failed_before).then_some(())
    });
    assert!(
        shop.cluster.log().contains("the disk is full"),
        "{}",
        shop.cluster.log()
    );
    assert!(shop.cluster.data_dir().join("pg_wal").join(&segment).exists());
    let full = shop.pgkeep(["backup"]);
    assert!(matches!(full.code, Some(1 | 4)), "{full}");
    drop(filler);
    shop.cluster.wait_archived(&segment);
    shop.pgkeep(["backup"]).ok();
    let rows = digest(&shop.cluster, "t");
    shop.cluster.archive_all();
    let mut copy = shop.restore("restored", ["--latest"]);
    copy.start();
    copy.wait_recovered();
    assert_eq!(digest(&copy, "t"), rows);
}

/// Aim: a state directory that is full, from the beginning or later, does not stop archiving.
#[test]
fn a_full_state_directory_does_not_stop_archiving() {
    let Some(disk) = Disk::memory("size=1m", "a full state directory") else {
        return;
    };
    let segments = &source().segments;
    let (full_from_the_start, full_later) = (Pusher::new(Kind::Directories), Pusher::new(Kind::Directories));
    let state = |name: &str| disk.path().join(name);
    let push = |pusher: &Pusher, segment: &str, name| pusher.push(segment).env("PGKEEP_STATE_DIR", state(name)).run();
    push(&full_later, &segments[0], "later").ok();
    let filler = disk.fill();
    for (pusher, name) in [(&full_from_the_start, "never"), (&full_later, "later")] {
        let before = pusher.bodies();
        for segment in &segments[1..4] {
            push(pusher, segment, name).ok();
            pusher.check_acknowledged(segment, &before, name);
        }
    }
    drop(filler);
    // What it could not note is known to nobody; what contradicts what it did note is refused still.
    push(&full_later, &segments[4], "later").ok();
    full_later.check_acknowledged(&segments[4], &full_later.bodies(), "later");
}

/// Aim: a restore into a disk that becomes full ends with an error that says so, can't be started, and is completed once
/// there is room. Method: the disk has room for the bytes but not for the files; then, too few bytes.
#[test]
fn a_full_restore_target_is_told_and_completed_later() {
    let Some(disk) = Disk::memory("size=256m,nr_inodes=300", "a full restore target") else {
        return;
    };
    let shop = &source().shop;
    let target = disk.path().join("data");
    let restore = || shop.run(["restore", "--latest", "--into"]).arg(&target);
    for (options, name) in [
        ("size=256m,nr_inodes=300", "files"),
        ("size=12m,nr_inodes=100k", "bytes"),
    ] {
        disk.remount(options);
        let full = restore().run();
        assert!(matches!(full.code, Some(1 | 4)), "{name}: {full}");
        assert!(
            full.stderr.contains("space") && full.stderr.contains("hint:"),
            "{name}: {full}"
        );
        assert!(!target.join("global/pg_control").exists(), "{name}: {full}");
        if target.exists() {
            let log = Cluster::adopt_dir(17, &target)
                .try_start()
                .expect_err("half a cluster must not start");
            assert!(!log.contains("ready to accept"), "{log}");
        }
    }
    disk.remount("size=256m,nr_inodes=100k");
    restore().run().ok();
    let mut copy = Cluster::adopt_dir(17, &target);
    copy.start();
    copy.wait_recovered();
    assert_eq!(source().rows(&copy), source().rows);
}

/// Runs a program that may write no file longer than `bytes`, and is told so by an error, as PostgreSQL arranges it for
/// its archiver.
fn with_short_files(run: Run, bytes: u64) -> Run {
    let run = run.under("/bin/sh", ["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    run.under("/usr/bin/prlimit", [format!("--fsize={bytes}"), "--".to_owned()])
}

/// Aim: a write that stores only a part, and then fails, is never taken for a whole one. Needs no root.
#[test]
fn a_file_that_may_not_grow_is_never_taken_for_a_whole_one() {
    let segment = &source().segments[0];
    let object = {
        let pusher = Pusher::new(Kind::Directories);
        pusher.push(segment).run().ok();
        let bodies = pusher.bodies();
        bodies.into_values().map(|body| body.len() as u64).max().unwrap()
    };
    // Its length differs by some bytes each time it is sealed.
    for bytes in [1, 700, object / 2, object / 10 * 9] {
        let (pusher, context) = (
            Pusher::new(Kind::Directories),
            format!("files of at most {bytes} of {object} bytes"),
        );
        let failed = with_short_files(pusher.push(segment), bytes).run();
        assert!(
            matches!(failed.code, Some(1..126)) && failed.code != Some(3),
            "{context}: {failed}"
        );
        let before = pusher.bodies();
        assert_eq!(pusher.places_with(segment, &before, &context), [""; 0], "{context}");
        pusher.push(segment).run().ok();
        pusher.check_acknowledged(segment, &before, &context);
    }
    let scratch = Scratch::new();
    let destination = scratch.join("RECOVERYXLOG");
    let fetch = source()
        .shop
        .run(["wal", "fetch", segment])
        .arg(&destination)
        .cwd(&source().restored);
    let failed = with_short_files(fetch, 100_000).run().expect(255);
    assert!(!destination.exists(), "{failed}");
    let target = scratch.join("data");
    let restore = || source().shop.run(["restore", "--latest", "--into"]).arg(&target);
    let failed = with_short_files(restore(), 100_000).run().expect(1);
    assert!(
        !target.join("global/pg_control").exists() && failed.stderr.contains("hint:"),
        "{failed}"
    );
    assert_eq!(OsUser::owner_of(&target), OsUser::unprivileged());
    restore().run().ok();
    assert!(fs::metadata(target.join("global/pg_control")).unwrap().len() > 0);
}
