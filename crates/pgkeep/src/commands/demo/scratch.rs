//! The temporary directory of a demo, the user that it belongs to, and the end of both.
//!
//! Invariant: every server of the demo has its data directory right below the temporary one, and is therefore found
//! and stopped, whoever started it and whatever ends us (only SIGKILL leaves something behind).

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use pgkeep_base::{Error, Result, ResultExt};
use pgkeep_pg::server::{Account, is_running};
use rustix::process::{Pid, Signal, kill_process};

use crate::render::Output;

/// The longest path in which the servers' sockets still have room.
const ROOT_BYTES_MAX: usize = 70;
/// What a run needs on disk at most.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// How long a server may take for an immediate shutdown before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The temporary directory.
#[derive(Debug)]
pub struct Scratch {
    root: PathBuf,
    account: Account,
    gone: AtomicBool,
}

impl Scratch {
    /// Makes the directory, for the user that runs PostgreSQL.
    ///
    /// # Errors
    /// `Refused` where there is too little room.
    pub fn create() -> Result<Arc<Scratch>> {
        let account = Account::for_scratch()?;
        let base = base_for(&account);
        let root = tempfile::Builder::new()
            .prefix("pgkeep-demo-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(&base)
            .during(|| format!("create a directory in {}", base.display()))?;
        enough_room(root.path())?;
        account.own(root.path())?;
        Ok(Arc::new(Scratch {
            root: root.keep(),
            account,
            gone: AtomicBool::new(false),
        }))
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Who runs PostgreSQL, and pgkeep where it works beside it.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The path of something in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a directory in it, for that user alone.
    pub fn make_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .during(|| format!("create {}", path.display()))?;
        self.account.own(&path)?;
        Ok(path)
    }

    /// Writes a file in it, for that user alone.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, text).during(|| format!("write {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        self.account.own(&path)?;
        Ok(path)
    }

    /// Stops the servers and removes the directory. Once is enough; more often is harmless.
    pub fn clean_up(&self) -> Result<()> {
        if self.gone.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let mut last = Ok(());
        // A server that is just starting may still write: it finds its directory gone, and ends.
        for _ in 0..20 {
            stop_servers(&self.root);
            last = std::fs::remove_dir_all(&self.root);
            if last.is_ok() || !self.root.exists() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        last.during(|| format!("remove {}", self.root.display()))
    }
}

/// Cleans up when it is dropped, and before a panic ends the process; or tells what it leaves.
pub struct Guard {
    scratch: Arc<Scratch>,
    keep: bool,
    output: Arc<Output>,
    is_done: bool,
}

impl Guard {
    /// Guards from now on.
    pub fn new(scratch: &Arc<Scratch>, keep: bool, output: &Arc<Output>) -> Guard {
        if !keep {
            clean_up_before_panic(Arc::downgrade(scratch));
        }
        Guard {
            scratch: Arc::clone(scratch),
            keep,
            output: Arc::clone(output),
            is_done: false,
        }
    }

    /// All was done in order: nothing is left to do or to tell.
    pub fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let root = self.scratch.root().display();
        if self.keep {
            self.output.note(&format!("{root} is left as it is, with its servers"));
            return;
        }
        self.output.note(&format!("stopping the servers, removing {root}"));
        if let Err(error) = self.scratch.clean_up() {
            self.output
                .warn(&format!("{error}: {}", error.detail_text().unwrap_or_default()));
        }
    }
}

fn clean_up_before_panic(scratch: Weak<Scratch>) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(scratch) = scratch.upgrade() {
            // The panic is what has to be told.
            let _ = scratch.clean_up();
        }
        before(panic);
    }));
}

/// The system's place for temporary files, where that user gets there and PostgreSQL can use it; `/tmp` else.
fn base_for(account: &Account) -> PathBuf {
    let base = std::env::temp_dir();
    let Ok(base) = base.canonicalize() else {
        return "/tmp".into();
    };
    let is_reachable = |dir: &Path| {
        let ourselves = account.uid() == rustix::process::geteuid().as_raw();
        ourselves || std::fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 != 0 || meta.uid() == account.uid())
    };
    let is_short = base.as_os_str().len() + "/pgkeep-demo-123456".len() <= ROOT_BYTES_MAX;
    // PostgreSQL takes no quotes in a tablespace's path, and `=` parts old from new ones.
    let is_tame = base
        .to_str()
        .is_some_and(|text| !text.chars().any(|c| c.is_control() || "'\"\\=,".contains(c)));
    match is_short && is_tame && base.ancestors().all(is_reachable) {
        true => base,
        false => "/tmp".into(),
    }
}

fn enough_room(root: &Path) -> Result<()> {
    let Ok(found) = rustix::fs::statvfs(root) else {
        return Ok(());
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free >= FREE_BYTES_MIN {
        return Ok(());
    }
    let [needed, free] = [FREE_BYTES_MIN, free].map(pgkeep_base::ByteSize);
    Err(Error::refused("there is too little room for the demo")
        .detail(format!("{} has {free} free, {needed} are needed", root.display()))
        .hint("Name a place with more room: `TMPDIR=DIR pgkeep demo`."))
}

/// Stops every server whose data directory lies right below `root`: immediate shutdown, then SIGKILL.
fn stop_servers(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    let directories: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let running = || directories.iter().filter_map(|dir| is_running(dir).ok().flatten());
    let all = |signal: Signal| {
        for pid in running().filter_map(|server| Pid::from_raw(server.pid)) {
            // It may just have ended.
            let _ = kill_process(pid, signal);
        }
    };
    all(Signal::QUIT);
    let deadline = Instant::now() + STOP_TIMEOUT;
    while running().next().is_some() {
        if Instant::now() > deadline {
            all(Signal::KILL);
        }
        if Instant::now() > deadline + STOP_TIMEOUT {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_private_and_goes_away() {
        let scratch = Scratch::create().unwrap();
        scratch.make_directory("inner").unwrap();
        let file = scratch.write("inner/file", "text").unwrap();
        let meta = std::fs::metadata(&file).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.uid()), (0o600, scratch.account().uid()));
        assert_eq!(std::fs::metadata(scratch.root()).unwrap().mode() & 0o777, 0o700);
        scratch.clean_up().unwrap();
        scratch.clean_up().unwrap();
        assert!(!scratch.root().exists());
    }

    #[test]
    fn a_guard_cleans_up_when_it_is_dropped() {
        let scratch = Scratch::create().unwrap();
        let output = Arc::new(Output::new(false, true, true, &crate::config::Environment::from([])));
        drop(Guard::new(&scratch, false, &output));
        assert!(!scratch.root().exists());
    }
}
