//! Keeps two backups of one cluster on this host apart, and says who runs.
//!
//! The advisory lock in the database (taken by the backup's session) does the same across hosts.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pgkeep_base::{BackupId, Error, Result, ResultExt};
use rustix::fs::{FlockOperation, flock};

/// The lock, held until it is dropped or the process dies.
#[derive(Debug)]
pub struct BackupLock {
    _file: File,
}

impl BackupLock {
    /// Takes the lock for backup `id`.
    ///
    /// # Errors
    /// `Conflict`, with who holds it.
    pub fn take(path: &Path, id: &BackupId) -> Result<BackupLock> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options
            .open(path)
            .during(|| format!("open the lock file {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            // Whoever holds it wrote who he is; if that can't be read, the conflict stands all the same.
            let _ = file.read_to_string(&mut holder);
            return Err(Error::conflict("another backup of this cluster is running")
                .detail(format!("{}; lock file {}", holder.trim(), path.display()))
                .hint("Wait for it to end, or end that process; the lock goes with it. `pgkeep status` shows the last backup."));
        }
        let note = format!("backup {id}, process {}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note.as_bytes()))
            .during(|| format!("write the lock file {}", path.display()))?;
        Ok(BackupLock { _file: file })
    }
}
