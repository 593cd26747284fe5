//! `restore --delta`, killed and failed at its steps, and on a disk that becomes full.

use pgkeep_testkit::faults::disk::Disk;
use pgkeep_testkit::faults::points::{self, Fault};
use pgkeep_testkit::{Scratch, seed};

use super::*;

/// Steps of the gate's sample.
const SAMPLE: usize = 30;
/// After so many runs that were cut short one is allowed to end.
const UNBROKEN: usize = 5;

/// A crashed cluster, damaged so that there is everything to do: files that differ, are missing, and are too much.
struct Crashed {
    major: u16,
    shop: Shop,
    ledger: Ledger,
    scratch: Scratch,
    copies: usize,
}

impl Crashed {
    fn new(major: u16) -> Crashed {
        let mut shop = shop(major).start();
        shop.cluster
            .sql("CREATE TABLE bulk AS SELECT i, md5(i::text) AS v FROM generate_series(1, 20000) i");
        shop.cluster
            .sql("CREATE TABLE lost AS SELECT i FROM generate_series(1, 9000) i");
        let (bulk, lost) = (file_of(&shop.cluster, "bulk"), file_of(&shop.cluster, "lost"));
        let ledger = crash(&mut shop);
        let data = shop.cluster.data_dir();
        let mut bytes = fs::read(data.join(&bulk)).unwrap();
        bytes.iter_mut().skip(100).step_by(8192).for_each(|byte| *byte ^= 0xFF);
        fs::write(data.join(bulk), bytes).unwrap();
        fs::remove_file(data.join(lost)).unwrap();
        fs::write(data.join("base/foreign"), "").unwrap();
        Crashed {
            major,
            shop,
            ledger,
            scratch: Scratch::new(),
            copies: 0,
        }
    }

    fn copy_to(&self, target: &Path) {
        Run::new("/bin/cp")
            .arg("-a")
            .arg(self.shop.cluster.data_dir())
            .arg(target)
            .run()
            .ok();
    }

    fn copy(&mut self) -> PathBuf {
        self.copies += 1;
        let target = self.scratch.join(format!("copy-{}", self.copies));
        self.copy_to(&target);
        target
    }

    fn restore(&self, target: &Path) -> Run {
        delta(&self.shop, target, ["--jobs", "1"])
    }

    /// What must hold after a run that was cut short: the old cluster, the new one, or nothing that starts.
    fn check_cut_short(&self, target: &Path, context: &str) {
        if target.join("global/pg_control").exists() {
            return;
        }
        let log = Cluster::adopt_dir(self.major, target)
            .try_start()
            .expect_err("half a cluster must not start");
        assert!(!log.contains("ready to accept"), "{context}: {log}");
    }

    /// Starts it and compares it with the ledger; then it is taken away.
    fn check(&self, target: &Path, context: &str) {
        let mut copy = Cluster::adopt_dir(self.major, target);
        copy.start();
        copy.wait_recovered();
        let checked = self.ledger.check(&copy, Upto::All);
        let checked = checked.unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
        assert!(checked.required >= 80, "{context}: {checked:?}");
        assert_eq!(
            copy.sql("SELECT count(*), count(DISTINCT v) FROM bulk"),
            "20000|20000",
            "{context}"
        );
        assert_eq!(copy.sql("SELECT count(*) FROM lost"), "9000", "{context}");
        drop(copy);
        fs::remove_dir_all(target).unwrap();
    }
}

/// Aim: killed or failed at any step it leaves nothing that could be started, unless that is the old cluster or the new one,
/// whole; and run again, with `--delta` or without, it brings back every acknowledged commit, those too that were in the
/// directory's own WAL only. Method: run after run in one directory, so that each also meets what the last one left; then
/// PostgreSQL starts it. With --all every step on every major, at up to 16 of its occurrences,
/// once killed and once failed.
#[test]
fn cut_short_at_its_steps_it_is_not_startable_and_is_completed() {
    match seed::all() {
        true => (14..=18).for_each(cut_short_at_its_steps),
        false => cut_short_at_its_steps(18),
    }
}

fn cut_short_at_its_steps(major: u16) {
    let mut crashed = Crashed::new(major);
    let first = crashed.copy();
    let (output, all) = points::trace(crashed.restore(&first));
    output.ok();
    crashed.check(&first, "undisturbed");
    let rounds: Vec<(Vec<String>, &[Fault])> = match seed::all() {
        true => vec![
            (points::every_step(&all), &[Fault::Kill]),
            (points::every_step(&all), &[Fault::Eio, Fault::Enospc]),
        ],
        false => {
            let chosen = points::sample(&all, seed::seed("steps of a restore over a cluster"), SAMPLE);
            vec![(chosen, &[Fault::Kill, Fault::Eio, Fault::Kill, Fault::Enospc])]
        }
    };
    for (points, faults) in rounds {
        eprintln!(
            "PostgreSQL {major}: cut short at {} points of {}",
            points.len(),
            all.len()
        );
        let armed: Vec<(&String, &Fault)> = points.iter().zip(faults.iter().cycle()).collect();
        for (number, group) in armed.chunks(UNBROKEN).enumerate() {
            let target = crashed.copy();
            let mut context = "a restore run again after each of:".to_owned();
            for (point, fault) in group {
                let ended = fault.at(point, crashed.restore(&target)).run();
                context += &format!(" {fault:?} at {point} (exit code {:?}),", ended.code);
                crashed.check_cut_short(&target, &context);
            }
            // Its mark says that it was begun over a cluster: it is gone on with, whether that is said again or not.
            let unfinished = !target.join("global/pg_control").exists();
            let again = match unfinished && number % 2 == 1 {
                true => crashed.shop.run(["--json", "restore", "--into"]).arg(&target),
                false => crashed.restore(&target),
            };
            let again = again.run();
            assert_eq!(again.code, Some(0), "{context} {again}");
            crashed.check(&target, &context);
        }
    }
}

/// Aim: killed at a step, with the power lost at once, it is what a kill alone leaves: the old cluster, or nothing that
/// starts; what was saved of the WAL is durable before anything is removed.
#[test]
fn after_a_power_cut_it_is_completed() {
    let Some(disk) = Disk::ext4(768, "power cuts while a cluster is restored over") else {
        return;
    };
    let crashed = Crashed::new(17);
    let target = disk.path().join("data");
    for point in [
        "engine.restore.save#2",
        "engine.restore.rename#2",
        "engine.restore.remove#20",
        "engine.restore.extent#2",
        "engine.restore.sync-all#1",
        "engine.restore.control#1",
    ] {
        crashed.copy_to(&target);
        Run::new("/bin/sync").arg("-f").arg(&target).run().ok();
        let killed = Fault::Kill.at(point, crashed.restore(&target)).run();
        assert_eq!(killed.code, None, "{point} was not reached: {killed}");
        disk.cut_power();
        crashed.check_cut_short(&target, point);
        crashed.restore(&target).run().ok();
        crashed.check(&target, point);
    }
}

/// Aim: on a disk that becomes full it ends with an error that says so, can't be started, and is completed once there is
/// room; nothing that was acknowledged is lost by that.
#[test]
fn on_a_full_disk_it_is_completed_later() {
    let Some(disk) = Disk::memory("size=512m,nr_inodes=100k", "a full disk under a cluster") else {
        return;
    };
    let crashed = Crashed::new(17);
    let target = disk.path().join("data");
    crashed.copy_to(&target);
    for name in objects(&target.join("base"))
        .iter()
        .filter(|name| name.starts_with("4/"))
    {
        fs::remove_file(target.join("base").join(name)).unwrap();
    }
    let files = walk(&target) + 30;
    disk.remount(&format!("size=512m,nr_inodes={files}"));
    let full = crashed.restore(&target).run();
    assert!(matches!(full.code, Some(1 | 4)), "{full}");
    assert!(full.stderr.contains("space") && full.stderr.contains("hint"), "{full}");
    crashed.check_cut_short(&target, &full.to_string());
    disk.remount("size=512m,nr_inodes=100k");
    crashed.restore(&target).run().ok();
    crashed.check(&target, "after a full disk");
}

/// How many files and directories there are.
fn walk(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            1 + if path.is_dir() && !path.is_symlink() {
                walk(&path)
            } else {
                0
            }
        })
        .sum()
}
