//! The power fails right after success was reported, or while somebody is at work: a loop device with ext4 that is shut
//! down without writing its journal.

use std::time::Instant;

use pgkeep_testkit::faults::disk::Disk;
use pgkeep_testkit::faults::points::{self, Fault};
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{matrix, seed};

use super::full::shop_on;
use super::pusher::{Pusher, source};
use crate::backup::{backup, digest, listed, text};

/// Room for all segments in two places, and the state.
const DISK_MIB: u64 = 48;

/// Aim: a segment whose push has succeeded is there, whole, after the power has failed in that very moment.
/// Method: nothing but the place is on the disk that loses power, so that nobody else's sync makes it durable by the
/// way; 200 times with --all.
#[test]
fn a_pushed_segment_survives_a_power_cut() {
    let (wanted, begun, mut cuts) = (if seed::all() { 200 } else { 6 }, Instant::now(), 0);
    let segments = &source().segments;
    while cuts < wanted {
        let Some(disk) = Disk::ext4(DISK_MIB, "power cuts after a push") else {
            return;
        };
        let pusher = Pusher::to(disk.path());
        for (number, segment) in segments.iter().enumerate().take(wanted - cuts) {
            pusher.push(segment).run().ok();
            disk.cut_power();
            cuts += 1;
            let before = pusher.bodies();
            for acknowledged in &segments[..=number] {
                pusher.check_acknowledged(acknowledged, &before, &format!("cut {cuts}, after push {number}"));
            }
        }
    }
    matrix::note(&format!("power cuts after a push: {cuts}"));
    eprintln!(
        "{cuts} power cuts after a push in {:.1} s",
        begun.elapsed().as_secs_f32()
    );
}

/// Aim: after a power cut in the middle of a push nothing that has its name is half there, and a rerun succeeds.
/// Method: the push is killed at a step, and then the power fails; every step with --all.
#[test]
fn a_power_cut_in_the_middle_of_a_push_leaves_nothing_half_written() {
    let segment = &source().segments[0];
    let (_, points) = points::trace(Pusher::new(super::pusher::Kind::Directories).push(segment));
    let seed = seed::seed("steps before a power cut");
    let chosen = if seed::all() {
        points
    } else {
        points::sample(&points, seed, 5)
    };
    for point in &chosen {
        let Some(disk) = Disk::ext4(DISK_MIB, "power cuts in the middle of a push") else {
            return;
        };
        let (pusher, context) = (Pusher::on(disk.path()), format!("a power cut after a kill at {point}"));
        let killed = Fault::Kill.at(point, pusher.push(segment)).run();
        assert_eq!(killed.signal, Some(9), "{context}: {killed}");
        disk.cut_power();
        // The directories of the places themselves were not made durable by anybody.
        let pusher = Pusher::on(disk.path());
        let before = pusher.bodies();
        pusher.push(segment).run().ok();
        pusher.check_acknowledged(segment, &before, &context);
    }
    eprintln!("{} power cuts in the middle of a push", chosen.len());
}

/// Aim: a backup that has ended is listed and can be restored after the power has failed in that very moment.
#[test]
fn a_finished_backup_survives_a_power_cut() {
    let Some(disk) = Disk::ext4(256, "power cuts after a backup") else {
        return;
    };
    let (cuts, begun) = (if seed::all() { 20 } else { 2 }, Instant::now());
    let shop = shop_on(&disk);
    shop.cluster
        .sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    let mut ids = Vec::new();
    for number in 0..cuts {
        shop.cluster
            .sql(&format!("UPDATE t SET md5 = '{number}' WHERE i % 100 = {number}"));
        ids.push(text(&backup(&shop, &[])["id"]));
        // The archiver goes on, and finds the disk gone for a moment.
        disk.cut_power();
        assert_eq!(listed(&shop), ids, "after cut {number}");
        check_restorable(&shop, &ids[number]);
    }
    let rows = digest(&shop.cluster, "t");
    shop.cluster.archive_all();
    let mut copy = shop.restore("last", ["--latest"]);
    copy.start();
    copy.wait_recovered();
    assert_eq!(digest(&copy, "t"), rows);
    matrix::note(&format!("power cuts after a backup: {cuts}"));
    eprintln!(
        "{cuts} power cuts after a backup in {:.1} s",
        begun.elapsed().as_secs_f32()
    );
}

/// Everything that the backup names is there: it is all read and verified.
fn check_restorable(shop: &Shop, id: &str) {
    let target = shop.target("checked");
    shop.run(["restore", "--backup", id, "--immediate", "--into"])
        .arg(&target)
        .run()
        .ok();
    std::fs::remove_dir_all(target).unwrap();
}
