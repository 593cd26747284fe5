//! Where a server on this machine listens: a private socket directory with a short name, and a free port.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use pgkeep_base::{Error, Result, ResultExt};

use super::Account;

/// The longest socket directory, in bytes: `sun_path` holds 107, of which PostgreSQL's file name takes up to 15.
pub const SOCKET_DIR_BYTES_MAX: usize = 90;

/// A directory for a server's sockets, mode 0700; removed when dropped, with what is in it.
#[derive(Debug)]
pub struct SocketDir(PathBuf);

impl SocketDir {
    /// Creates one under `parent`, or under `/tmp` where the name would become too long; `account` owns it.
    pub fn create(parent: &Path, account: &Account) -> Result<SocketDir> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = match parent.as_os_str().len() + "/pgkeep-4294967295-4294967295".len() > SOCKET_DIR_BYTES_MAX {
            true => Path::new("/tmp"),
            false => parent,
        };
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = parent.join(format!("pgkeep-{}-{number}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {
                    let made = SocketDir(dir);
                    account.own(&made.0)?;
                    return Ok(made);
                }
                // A leftover of an earlier process with our number: take the next name.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 10_000 => {}
                Err(error) => return Err(error).during(|| format!("create socket directory {}", dir.display())),
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Leaves the directory behind.
    pub fn keep(self) -> PathBuf {
        let path = self.0.clone();
        std::mem::forget(self);
        path
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        // Nothing depends on it: at worst an empty directory stays.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A TCP port that is free on loopback right now. Nothing reserves it: whoever loses the race asks again.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).during(|| "look for a free port")?;
    Ok(listener.local_addr()?.port())
}

/// Refuses a directory whose sockets nobody could connect to.
pub(super) fn check_socket_dir(dir: &Path) -> Result<()> {
    let length = dir.as_os_str().len();
    if dir.is_absolute() && length <= SOCKET_DIR_BYTES_MAX {
        return Ok(());
    }
    Err(
        Error::invalid(format!("{} can't be a socket directory", dir.display())).detail(format!(
            "it must be absolute and at most {SOCKET_DIR_BYTES_MAX} bytes long; this has {length}"
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_directories_are_short_private_and_temporary() {
        let long = tempfile::tempdir().unwrap();
        let long = long.path().join("x".repeat(80));
        let dir = SocketDir::create(&long, &Account::current()).unwrap();
        let path = dir.path().to_owned();
        assert!(path.starts_with("/tmp") && path.is_dir());
        check_socket_dir(&path).unwrap();
        drop(dir);
        assert!(!path.exists());
        assert!(check_socket_dir(&long).is_err() && check_socket_dir(Path::new("s")).is_err());
    }

    #[test]
    fn a_free_port_can_be_bound() {
        let port = free_port().unwrap();
        assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
    }
}
