//! A backup that stands still at a moment that a test can name, so that the cluster can change under it.
//!
//! The process is stopped from outside: nothing of the program under test knows. A moment that was missed on a busy
//! machine is waited for in another backup.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Output, Run, Running, Signal, wait};

/// So slow that a file of 12 MiB is open for half a second.
const RATE: &str = "24 MiB";

/// A backup under way, stopped.
pub struct Paused {
    running: Running,
}

impl Paused {
    /// Begins a backup and stops it while it has `file` open, a file of several MiB relative to the data directory.
    #[track_caller]
    pub fn reading(shop: &Shop, file: &str) -> Paused {
        Paused::reading_by(shop, file, |run| run)
    }

    /// The same for a backup that is run in some way.
    #[track_caller]
    pub fn reading_by(shop: &Shop, file: &str, how: impl Fn(Run) -> Run) -> Paused {
        let path = shop.cluster.data_dir().join(file);
        for _ in 0..10 {
            let mut running = how(shop.run(["--json", "backup", "--jobs", "1", "--rate", RATE])).spawn();
            let found = wait::until("the file to be read", wait::LIMIT, || {
                let open = is_open(running.pid(), &path);
                (open || !running.is_running()).then_some(open)
            });
            running.signal(Signal::STOP);
            if found && is_open(running.pid(), &path) {
                return Paused { running };
            }
            running.signal(Signal::CONT);
            running.wait().ok();
        }
        panic!("no backup was ever seen to read {file}");
    }

    /// Whether a file, relative to the data directory, is being read or about to be.
    pub fn has_open(&self, shop: &Shop, file: &str) -> bool {
        is_open(self.running.pid(), &shop.cluster.data_dir().join(file))
    }

    /// Ends it where it stands.
    pub fn end(mut self, signal: Signal) {
        self.running.signal(signal);
        self.running.wait();
    }

    /// Lets it go on, to its end.
    pub fn resume(mut self) -> Output {
        self.running.signal(Signal::CONT);
        self.running.wait()
    }
}

/// Whether a process has this file open, also one that was removed meanwhile.
fn is_open(pid: u32, path: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links.any(|link| {
        let link = link.as_os_str().as_bytes();
        link.strip_suffix(b" (deleted)").unwrap_or(link) == path.as_os_str().as_bytes()
    })
}
