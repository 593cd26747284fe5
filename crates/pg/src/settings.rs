//! PostgreSQL's settings files: what a restore writes into `postgresql.auto.conf`, and how it is taken out again.
//!
//! Invariants: pgkeep's settings stand in marked blocks at the end of `postgresql.auto.conf`, one per purpose, and
//! nowhere else. PostgreSQL reads that file last, so a block overrules `postgresql.conf` and all that it includes.
//! A block says whether it was edited. Writing it twice is writing it once; taking it out leaves the rest as it was.
//!
//! There are two purposes. The *recovery* block holds the target and is removed at the end of recovery, else the next
//! standby cloned from the copy dies on the old target. The *archive* block must outlive it: a copy that starts to
//! archive after its first restart would pollute its source's archive; `pgkeep adopt` removes it.
//! Read next: `guc.rs` for the syntax, `block.rs` for the marks, `recovery.rs` for the settings of a recovery.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use pgkeep_base::{Error, Result, ResultExt};

mod block;
pub mod guc;
mod recovery;

pub use block::{Block, BlockState, Purpose, find_block, remove_block};
pub use recovery::{
    ArchiveChoice, RECOVERY_SETTINGS, RecoverySettings, StandbySettings, TargetAction, keeps_silent, strip_inherited,
    with_archive_block, with_recovery_block,
};

/// The file that `ALTER SYSTEM` writes and PostgreSQL reads after all others.
pub const AUTO_CONF: &str = "postgresql.auto.conf";
/// Its presence makes PostgreSQL recover to a target.
pub const RECOVERY_SIGNAL: &str = "recovery.signal";
/// Its presence makes PostgreSQL a standby; it outranks [`RECOVERY_SIGNAL`].
pub const STANDBY_SIGNAL: &str = "standby.signal";

/// Reads `postgresql.auto.conf` of a data directory; empty where there is none.
///
/// # Errors
/// `Io` where it is there and can't be read.
pub fn read_auto_conf(data_dir: &Path) -> Result<Vec<u8>> {
    let path = data_dir.join(AUTO_CONF);
    match fs::read(&path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).during(|| format!("read {}", path.display())),
    }
}

/// Replaces `postgresql.auto.conf` at once and durably, keeping owner and mode: those of the file, else owner and
/// group of the data directory and `0600`.
///
/// # Errors
/// `Io`; then the old file is still in place.
pub fn replace_auto_conf(data_dir: &Path, content: &[u8]) -> Result<()> {
    let target = data_dir.join(AUTO_CONF);
    // Never PostgreSQL's own temporary name: an ALTER SYSTEM may be using that one.
    let temporary = data_dir.join(format!(".pgkeep-auto-conf-{}", std::process::id()));
    let written = write_beside(data_dir, &target, &temporary, content);
    if written.is_err() {
        // The error that led here matters more than one of the cleaning.
        let _ = fs::remove_file(&temporary);
    }
    written.during(|| format!("replace {}", target.display()))
}

fn write_beside(data_dir: &Path, target: &Path, temporary: &Path, content: &[u8]) -> Result<()> {
    let (model, mode) = match fs::metadata(target) {
        Ok(metadata) => (metadata.clone(), metadata.permissions().mode() & 0o777),
        Err(error) if error.kind() == ErrorKind::NotFound => (fs::metadata(data_dir)?, 0o600),
        Err(error) => return Err(error.into()),
    };
    let mut file = File::create(temporary)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (model.uid(), model.gid()) {
        std::os::unix::fs::fchown(&file, Some(model.uid()), Some(model.gid()))?;
    }
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, target)?;
    File::open(data_dir)?.sync_all()?;
    Ok(())
}

/// Takes pgkeep's recovery block out of a data directory; what `recovery_end_command` runs. False if there was none.
///
/// # Errors
/// `Io` where the file can't be read or replaced.
pub fn finish_recovery(data_dir: &Path) -> Result<bool> {
    let before = read_auto_conf(data_dir)?;
    let after = remove_block(&before, Purpose::Recovery);
    if after == before {
        return Ok(false);
    }
    replace_auto_conf(data_dir, &after)?;
    match find_block(&read_auto_conf(data_dir)?, Purpose::Recovery).state {
        BlockState::Absent => Ok(true),
        _ => Err(Error::internal(
            "the recovery settings are still there after they were removed",
        )),
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
