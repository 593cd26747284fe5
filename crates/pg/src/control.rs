//! Reads `global/pg_control`, the 8 KiB file that names a cluster and its last checkpoint.
//!
//! Invariant: a value leaves this module only after its CRC-32C matched. PostgreSQL rewrites the file in place, so a
//! mismatch is read again, up to [`READ_ATTEMPTS_MAX`] times, before it is called corrupt.
//! The layout (`src/include/catalog/pg_control.h`) is the same from 14 to 17; 18 adds one flag before the last field.
//! Read next: `layout.rs` for the offsets, `datadir.rs` for who reads it first.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::{Error, Lsn, PgMajor, Result, ResultExt, SegmentSize, SystemId, TimelineId};
use rustix::fs::{Mode, OFlags};

mod layout;
mod poison;

pub use poison::{POISONED_CHECKPOINT, is_poisoned, poisoned};

/// Where the file lies below the data directory.
pub const PATH: &str = "global/pg_control";
/// Size of the file (`PG_CONTROL_FILE_SIZE`); all but the first 300 bytes are zeros.
pub const FILE_BYTES: usize = 8192;
/// How often a read is tried before a CRC mismatch counts as corruption.
pub const READ_ATTEMPTS_MAX: u32 = 3;
const READ_RETRY_DELAY: Duration = Duration::from_millis(5);

/// What a server was doing when it last wrote the file (`DBState`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterState {
    /// `initdb`, or a start that did not get far.
    StartingUp,
    /// Shut down cleanly as a primary.
    ShutDown,
    /// Shut down cleanly as a standby.
    ShutDownInRecovery,
    /// A shutdown checkpoint was running.
    ShuttingDown,
    /// Crash recovery was running.
    InCrashRecovery,
    /// A standby, or a restored backup that still replays WAL.
    InArchiveRecovery,
    /// A running primary, or one that was killed.
    InProduction,
}

impl std::fmt::Display for ClusterState {
    /// In the words of `pg_controldata`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ClusterState::StartingUp => "starting up",
            ClusterState::ShutDown => "shut down",
            ClusterState::ShutDownInRecovery => "shut down in recovery",
            ClusterState::ShuttingDown => "shutting down",
            ClusterState::InCrashRecovery => "in crash recovery",
            ClusterState::InArchiveRecovery => "in archive recovery",
            ClusterState::InProduction => "in production",
        })
    }
}

/// The last checkpoint, as `pg_control` repeats it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Where its record begins.
    pub lsn: Lsn,
    /// Where replay from it begins.
    pub redo: Lsn,
    /// The timeline that it lies on.
    pub timeline: TimelineId,
    /// The timeline before, where the checkpoint begins a new one; else the same.
    pub previous_timeline: TimelineId,
    /// When it was made.
    pub time: Timestamp,
    /// `full_page_writes` at that time.
    pub full_page_writes: bool,
    /// The next transaction id, with its epoch in the upper half.
    pub next_xid: u64,
    /// The next OID.
    pub next_oid: u32,
    /// The next multixact id.
    pub next_multixact: u32,
}

/// `wal_level`, as far as `pg_control` tells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WalLevel {
    /// Not enough for archiving: base backups need at least `replica`.
    Minimal,
    /// PostgreSQL's default.
    Replica,
    /// For logical decoding.
    Logical,
}

/// The verified content of one `pg_control`.
#[derive(Clone, PartialEq, Debug)]
pub struct ControlFile {
    /// The cluster's own number, made by `initdb`.
    pub system_id: SystemId,
    /// Format of the file: 1300 (PostgreSQL 14 to 16), 1700 or 1800.
    pub control_version: u32,
    /// Format of the catalogs; part of the names of tablespace directories.
    pub catalog_version: u32,
    /// The major: from `PG_VERSION` where the file was read from a data directory, else from the two versions.
    pub major: PgMajor,
    /// What the server was doing.
    pub state: ClusterState,
    /// When the file was last written.
    pub time: Timestamp,
    /// The last checkpoint (on a standby: restart point).
    pub checkpoint: Checkpoint,
    /// How far replay must get before the cluster is consistent; invalid on a primary.
    pub min_recovery_point: Lsn,
    /// The timeline of `min_recovery_point`; `None` on a primary.
    pub min_recovery_timeline: Option<TimelineId>,
    /// Start of the backup that is being recovered from; invalid otherwise.
    pub backup_start_point: Lsn,
    /// End of the standby backup that is being recovered from; invalid otherwise.
    pub backup_end_point: Lsn,
    /// True while a restored backup has not yet seen its backup-end record.
    pub backup_end_required: bool,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `max_connections`; recovery refuses to run with less, like the four that follow.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// Size of a page of a relation in bytes (`BLCKSZ`): a power of two from 1024 to 32768.
    pub block_bytes: u32,
    /// Blocks in a full relation segment (`RELSEG_SIZE`).
    pub relation_segment_blocks: u32,
    /// Size of a page of WAL in bytes (`XLOG_BLCKSZ`): a power of two from 1024 to 65536.
    pub wal_block_bytes: u32,
    /// Size of a WAL segment.
    pub segment_size: SegmentSize,
    /// 0 without data checksums, else their version (1).
    pub data_checksum_version: u32,
}

impl ControlFile {
    /// Reads and verifies `<data_dir>/global/pg_control`.
    ///
    /// # Errors
    /// As [`ControlFile::read_with_bytes`].
    pub fn read(data_dir: &Path) -> Result<ControlFile> {
        ControlFile::read_with_bytes(data_dir).map(|(control, _)| control)
    }

    /// Reads and verifies `pg_control`, and returns the very bytes that were verified: what a backup stores.
    ///
    /// Sleeps 5 ms between attempts; at most 10 ms in all.
    ///
    /// # Errors
    /// `NotFound` where there is no such file, `Corrupt` when no attempt gave a matching CRC or when `PG_VERSION`
    /// names another major, `Unsupported` for a major or a machine that pgkeep doesn't know.
    pub fn read_with_bytes(data_dir: &Path) -> Result<(ControlFile, Vec<u8>)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(data_dir, flags, Mode::empty())
            .map_err(std::io::Error::from)
            .during(|| format!("open data directory {}", data_dir.display()))?;
        ControlFile::read_at(&dir).during(|| format!("read {}", data_dir.join(PATH).display()))
    }

    /// The same for a data directory that is open already.
    ///
    /// # Errors
    /// As [`ControlFile::read_with_bytes`].
    pub fn read_at(data_dir: impl AsFd) -> Result<(ControlFile, Vec<u8>)> {
        let major = read_pg_version(&data_dir)?;
        let mut attempt = 1;
        loop {
            let bytes = read_small(&data_dir, PATH, FILE_BYTES + 1)?;
            match ControlFile::parse(&bytes, Some(major)) {
                Ok(control) => return Ok((control, bytes)),
                Err(error) if attempt == READ_ATTEMPTS_MAX => return Err(error),
                Err(_) => std::thread::sleep(READ_RETRY_DELAY),
            }
            attempt += 1;
        }
    }

    /// Verifies the bytes of a file, whole or at least its first 512 bytes.
    ///
    /// # Errors
    /// `Corrupt` where the CRC or a value is wrong, `Unsupported` for formats of other majors and machines.
    pub fn from_bytes(bytes: &[u8]) -> Result<ControlFile> {
        ControlFile::parse(bytes, None)
    }

    fn parse(bytes: &[u8], major: Option<PgMajor>) -> Result<ControlFile> {
        layout::parse(bytes, major)
    }

    /// True where pages carry checksums.
    pub fn has_data_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }

    /// Name of the directory that this major makes inside a tablespace location, such as `PG_17_202406281`.
    pub fn tablespace_version_directory(&self) -> String {
        format!("PG_{}_{}", self.major, self.catalog_version)
    }

    /// True when the file says that no server was running and none crashed.
    pub fn is_shut_down(&self) -> bool {
        matches!(self.state, ClusterState::ShutDown | ClusterState::ShutDownInRecovery)
    }
}

/// Reads `PG_VERSION` of an open data directory.
///
/// # Errors
/// `NotFound` where there is none (then it is no data directory), `Unsupported` for a major that pgkeep doesn't know.
pub fn read_pg_version(data_dir: impl AsFd) -> Result<PgMajor> {
    let bytes = read_small(data_dir, "PG_VERSION", 64)?;
    parse_pg_version(&bytes)
}

/// Reads the content of a `PG_VERSION` file.
///
/// # Errors
/// `Corrupt` where it is not a number, `Unsupported` for a major that pgkeep doesn't know.
pub fn parse_pg_version(bytes: &[u8]) -> Result<PgMajor> {
    let text = std::str::from_utf8(bytes).unwrap_or("").trim();
    // Up to 9.6 a major had two numbers.
    let number = text.split('.').next().and_then(|first| first.parse::<u16>().ok());
    let Some(number) = number else {
        return Err(Error::corrupt("PG_VERSION does not hold a version number"));
    };
    PgMajor::new(number)
}

/// Reads a small file below an open directory, at most `bytes_max` bytes of it.
fn read_small(dir: impl AsFd, path: &str, bytes_max: usize) -> Result<Vec<u8>> {
    use std::io::Read;
    let file = rustix::fs::openat(
        dir,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .map_err(std::io::Error::from)
    .during(|| format!("open {path}"))?;
    let mut bytes = Vec::with_capacity(bytes_max);
    std::fs::File::from(file)
        .take(bytes_max as u64)
        .read_to_end(&mut bytes)
        .during(|| format!("read {path}"))?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests;
