//! Kills processes of pgkeep's at any moment of their lives, wherever they were started: mostly `wal push` by the archiver.
//!
//! Invariant: only processes of this run's own copy of the binary are killed, whose path no other process has.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};

/// One in so many processes is killed. PostgreSQL lets an archiver whose command was killed rest for up to ten seconds.
const ONE_IN: u32 = 5;
/// The latest moment of its life, from when it was seen.
const LIFE_MS_MAX: u64 = 60;
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// A thread that kills.
#[derive(Debug)]
pub struct Killer {
    ending: Arc<AtomicBool>,
    kills: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Killer {
    /// Kills processes of `binary` from now on.
    pub fn start(binary: &Path, seed: u64) -> Killer {
        let (ending, kills) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (binary, asked, count) = (binary.to_owned(), Arc::clone(&ending), Arc::clone(&kills));
        let thread = std::thread::spawn(move || hunt(&binary, seed, &asked, &count));
        Killer {
            ending,
            kills,
            thread: Some(thread),
        }
    }

    /// How many were killed so far.
    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::SeqCst)
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; that it is over is what counts.
            let _ = thread.join();
        }
    }
}

fn hunt(binary: &Path, seed: u64, ending: &AtomicBool, kills: &AtomicU64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut known: HashSet<i32> = pids().collect();
    while !ending.load(Ordering::SeqCst) {
        std::thread::sleep(LOOK_EVERY);
        let present: HashSet<i32> = pids().collect();
        for pid in present.difference(&known) {
            if program(*pid).as_deref() != Some(binary) || !rng.random_ratio(1, ONE_IN) {
                continue;
            }
            std::thread::sleep(Duration::from_millis(rng.random_range(0..LIFE_MS_MAX)));
            let pid = Pid::from_raw(*pid).expect("a pid is positive");
            if program(pid.as_raw_nonzero().get()).as_deref() == Some(binary) && kill_process(pid, Signal::KILL).is_ok()
            {
                kills.fetch_add(1, Ordering::SeqCst);
            }
        }
        known = present;
    }
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The first word of its command line; of a shell that will become our program that is not yet ours.
fn program(pid: i32) -> Option<PathBuf> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let word = line.split(|byte| *byte == 0).next()?;
    Some(PathBuf::from(String::from_utf8_lossy(word).into_owned()))
}
