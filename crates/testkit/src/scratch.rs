//! Temporary directories that an unprivileged PostgreSQL can reach and whose paths fit into a socket address.
//!
//! Invariant: a scratch directory is gone when its owner is dropped or its process has died, unless
//! `PGKEEP_TEST_KEEP=1` asks to keep it for a look.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::reaper;
use crate::user::OsUser;

/// Where nothing has to reach a disk to be durable, which makes tests several times quicker.
const MEMORY: &str = "/dev/shm";
/// Memory that must be free for that.
const MEMORY_BYTES_MIN: u64 = 6 << 30;

/// A directory `pgkt-…`, owned by the unprivileged user, that everyone may search.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Creates one: in memory where there is plenty, else below `/tmp`. `PGKEEP_TEST_DIR` puts it elsewhere; keep that
    /// path short.
    #[expect(
        clippy::new_without_default,
        reason = "a default value should not create a directory"
    )]
    pub fn new() -> Scratch {
        let parent = parent();
        let dir = tempfile::Builder::new()
            .prefix("pgkt-")
            .tempdir_in(&parent)
            .unwrap_or_else(|error| panic!("create a directory in {}: {error}", parent.display()))
            .keep();
        reaper::watch_path(&dir);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("our own new directory");
        OsUser::unprivileged().own(&dir);
        Scratch(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path inside; nothing is created.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Creates a directory inside, owned by the unprivileged user.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        OsUser::unprivileged().own(&path);
        path
    }

    /// Writes a file inside, owned by the unprivileged user, readable by everyone.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        OsUser::unprivileged().own(&path);
        path
    }
}

fn parent() -> PathBuf {
    if let Some(dir) = std::env::var_os("PGKEEP_TEST_DIR") {
        return dir.into();
    }
    let plenty = rustix::fs::statvfs(MEMORY).is_ok_and(|found| {
        // Programs under test are run from here, too.
        let runs = !found.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC);
        runs && found.f_bavail * found.f_frsize >= MEMORY_BYTES_MIN
    });
    if plenty { MEMORY.into() } else { "/tmp".into() }
}

/// Whether scratch directories shall survive for a look (`PGKEEP_TEST_KEEP=1`).
pub fn kept() -> bool {
    std::env::var_os("PGKEEP_TEST_KEEP").is_some_and(|value| value == "1")
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if kept() {
            eprintln!("kept {}", self.0.display());
            return;
        }
        // A server's last children may still be writing: a second try finds them gone.
        for _ in 0..3 {
            match fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        reaper::forget_path(&self.0);
    }
}
