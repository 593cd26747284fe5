//! What a record says, for the few kinds of record that recovery and its targets care about.
//!
//! Invariant: a commit, abort or restore point is never passed over as [`Meaning::Other`]: what should be one and
//! can't be read is [`Meaning::Unreadable`]. What records do to all files of a database: `databases.rs`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use jiff::Timestamp;
pub use pgkeep_base::facts::{DatabaseDirectory, WalLevel};
use pgkeep_base::{Lsn, PgMajor, TimelineId, pgtime};

use super::bytes::{i32_at, i64_at, u32_at, u64_at};
use super::databases;
use super::record::{RMGR_DATABASE, RMGR_TABLESPACE, RMGR_XACT, RMGR_XLOG, Record, XLOG_SWITCH};
use super::xact;

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const BACKUP_END: u8 = 0x50;
const PARAMETER_CHANGE: u8 = 0x60;
const RESTORE_POINT: u8 = 0x70;
const END_OF_RECOVERY: u8 = 0x90;
const OVERWRITE_CONTRECORD: u8 = 0xD0;
const CHECKPOINT_REDO: u8 = 0xE0;
const TABLESPACE_CREATE: u8 = 0x00;
pub(super) const RMGR_INFO_MASK: u8 = 0xF0;

/// `MAXFNAMELEN`, the field of a restore point's name.
const NAME_BYTES: usize = 64;
/// `offsetof(CheckPoint, time)`, the same in 14 to 18: the `wal_level` of 18 fills what was padding.
const CHECKPOINT_TIME_AT: usize = 64;

/// What a record means to recovery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// A transaction committed.
    Commit {
        /// Its id (of a prepared transaction: the id that was prepared, not the committer's). `None` when it lies
        /// beyond what was kept of a huge record.
        xid: Option<u32>,
        /// When, by the server's clock: what `recovery_target_time` is compared with.
        time: Timestamp,
        /// By `COMMIT PREPARED`.
        prepared: bool,
    },
    /// A transaction, or one of its subtransactions, was rolled back. `recovery_target_time` stops here too.
    Abort {
        /// As in `Commit`; may be a subtransaction's.
        xid: Option<u32>,
        /// When, by the server's clock.
        time: Timestamp,
        /// By `ROLLBACK PREPARED`.
        prepared: bool,
    },
    /// Made by `pg_create_restore_point()`.
    RestorePoint {
        /// Its name; bytes that are not UTF-8 are replaced.
        name: String,
        /// When, by the server's clock.
        time: Timestamp,
    },
    /// A checkpoint was completed.
    Checkpoint {
        /// Where replay from this checkpoint begins. Equals the record's own start for a shutdown checkpoint.
        redo: Lsn,
        /// The timeline that it was made on.
        timeline: TimelineId,
        /// Differs from `timeline` in the first record of a new timeline.
        prev_timeline: TimelineId,
        /// When it began, to the second.
        time: Timestamp,
        /// True at shutdown, false while running.
        shutdown: bool,
    },
    /// Marks the redo point of an online checkpoint (from 17 on).
    CheckpointRedo,
    /// The first record of a new timeline after a promotion.
    EndOfRecovery {
        /// The new timeline.
        timeline: TimelineId,
        /// The one that it left.
        prev_timeline: TimelineId,
        /// When.
        time: Timestamp,
    },
    /// A base backup ended: a cluster restored from it is consistent once this is replayed.
    BackupEnd {
        /// The start LSN (redo point) of that backup.
        start_lsn: Lsn,
    },
    /// The rest of the segment is unused (`pg_switch_wal()`).
    Switch,
    /// The server started with other settings that a standby must follow.
    ParameterChange {
        /// `wal_level` from here on.
        wal_level: WalLevel,
    },
    /// Stands in place of the rest of a record that a crash left unfinished.
    OverwriteContrecord {
        /// Where the unfinished record began.
        lsn: Lsn,
    },
    /// `PREPARE TRANSACTION`.
    Prepare,
    /// Replay copies all files of a database: `CREATE DATABASE … STRATEGY file_copy`, the only one before 15, or a
    /// database that moves to another tablespace.
    DatabaseCopied {
        /// Where the files must be when this is replayed.
        from: DatabaseDirectory,
        /// The copy; what is there is removed before.
        to: DatabaseDirectory,
    },
    /// Replay removes all files of a database.
    DatabaseRemoved {
        /// From where.
        directories: Vec<DatabaseDirectory>,
    },
    /// `CREATE TABLESPACE`: replayed at the recorded location, whatever a restore's mapping says.
    TablespaceCreate {
        /// Its OID.
        oid: u32,
        /// Where it was made; empty for one in place, inside the data directory.
        location: PathBuf,
    },
    /// Anything else.
    Other,
    /// Should be one of the above, and is not laid out as such. PostgreSQL would not replay past it.
    Unreadable,
}

/// Says what a record means; `major` is that of the segment that it comes from. Allocates for rare records only.
pub fn meaning(record: &Record, major: PgMajor) -> Meaning {
    match record.rmgr {
        RMGR_XACT => xact::meaning(record, major),
        RMGR_XLOG => xlog_meaning(record, major).unwrap_or(Meaning::Unreadable),
        RMGR_DATABASE => databases::meaning(record, major).unwrap_or(Meaning::Unreadable),
        RMGR_TABLESPACE => tablespace_meaning(record, major).unwrap_or(Meaning::Unreadable),
        _ => Meaning::Other,
    }
}

fn xlog_meaning(record: &Record, major: PgMajor) -> Option<Meaning> {
    let kind = record.info & RMGR_INFO_MASK;
    let main = match kind {
        XLOG_SWITCH => return Some(Meaning::Switch),
        CHECKPOINT_REDO if major.get() >= 17 => return Some(Meaning::CheckpointRedo),
        CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE | BACKUP_END | PARAMETER_CHANGE | RESTORE_POINT | END_OF_RECOVERY
        | OVERWRITE_CONTRECORD => record.main_data(major)?,
        _ => return Some(Meaning::Other),
    };
    Some(match kind {
        CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE => Meaning::Checkpoint {
            redo: Lsn(u64_at(main, 0)?),
            timeline: TimelineId::new(u32_at(main, 8)?)?,
            prev_timeline: TimelineId::new(u32_at(main, 12)?)?,
            time: pgtime::from_pg_time(i64_at(main, CHECKPOINT_TIME_AT)?)?,
            shutdown: kind == CHECKPOINT_SHUTDOWN,
        },
        BACKUP_END => Meaning::BackupEnd {
            start_lsn: Lsn(u64_at(main, 0)?),
        },
        PARAMETER_CHANGE => Meaning::ParameterChange {
            wal_level: wal_level(i32_at(main, 20)?)?,
        },
        RESTORE_POINT => Meaning::RestorePoint {
            name: restore_point_name(main.get(8..)?),
            time: pgtime::from_timestamptz(i64_at(main, 0)?)?,
        },
        END_OF_RECOVERY => Meaning::EndOfRecovery {
            time: pgtime::from_timestamptz(i64_at(main, 0)?)?,
            timeline: TimelineId::new(u32_at(main, 8)?)?,
            prev_timeline: TimelineId::new(u32_at(main, 12)?)?,
        },
        _ => Meaning::OverwriteContrecord {
            lsn: Lsn(u64_at(main, 0)?),
        },
    })
}

/// `xl_tblspc_create_rec`: the OID, and the location as a C string.
fn tablespace_meaning(record: &Record, major: PgMajor) -> Option<Meaning> {
    if record.info & RMGR_INFO_MASK != TABLESPACE_CREATE {
        return Some(Meaning::Other);
    }
    let main = record.main_data(major)?;
    let location = main.get(4..)?;
    let length = location.iter().position(|byte| *byte == 0)?;
    Some(Meaning::TablespaceCreate {
        oid: u32_at(main, 0)?,
        location: PathBuf::from(OsStr::from_bytes(&location[..length])),
    })
}

fn wal_level(number: i32) -> Option<WalLevel> {
    match number {
        0 => Some(WalLevel::Minimal),
        1 => Some(WalLevel::Replica),
        2 => Some(WalLevel::Logical),
        _ => None,
    }
}

fn restore_point_name(field: &[u8]) -> String {
    let field = &field[..field.len().min(NAME_BYTES)];
    let length = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..length]).into_owned()
}
