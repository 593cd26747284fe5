//! What a repository says about one WAL segment in plaintext (docs/format.md, section 7).
//!
//! Invariant: facts never claim more than was proven. Everything counted comes from records whose CRC matched; a
//! record whose beginning was not at hand is counted nowhere and shows as `spanning_unknown`.
//!
//! It lives here because two rooms share it: `pg::wal` gathers it from the records and re-exports it, `repo::wal` stores
//! and compares it. A change of a member is a change of the repository format: change docs/format.md with it.

use jiff::Timestamp;

use crate::ids::SystemId;
use crate::lsn::{Lsn, TimelineId};
use crate::version::PgMajor;

/// The facts about one segment. A record counts where it ends; times are the server's clock in WAL records.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct SegmentFacts {
    /// The cluster that wrote it.
    pub system_identifier: SystemId,
    /// The major that wrote it, from the page magic.
    pub major: PgMajor,
    /// `XLOG_PAGE_MAGIC`.
    pub page_magic: u16,
    /// `wal_segment_size`.
    pub segment_bytes: u32,
    /// `XLOG_BLCKSZ`.
    pub block_bytes: u32,
    /// Timeline of the first page: an ancestor of the file's in the first segment after a promotion.
    pub page_timeline: TimelineId,
    /// Timeline of the last valid page.
    pub last_page_timeline: TimelineId,
    /// LSN of its first byte.
    pub start: Lsn,
    /// Bytes at its beginning that belong to a record from an earlier segment, page headers not counted.
    pub continued_bytes: u32,
    /// The record that was unfinished before this segment was given up by a crash; another one stands in its place.
    pub drops_unfinished: bool,
    /// The first record that begins here (complete, or the unfinished one).
    pub first_record: Option<Lsn>,
    /// Where the record before it begins, as it says itself; `None` also when its header is split at the segment's end.
    pub first_record_prev: Option<Lsn>,
    /// Start of the last complete record that ends here; it may begin in an earlier segment.
    pub last_record: Option<Lsn>,
    /// The end of that record (`EndRecPtr`: the segment's end if `switched`).
    pub last_record_end: Option<Lsn>,
    /// A record that begins here and ends in a later segment.
    pub unfinished_record: Option<Lsn>,
    /// Bytes of the last record that lie in later segments; also when it begins in an earlier one.
    pub missing_bytes: u32,
    /// The rest of the segment is unused after an `XLOG_SWITCH` record.
    pub switched: bool,
    /// Nothing wrong was found before this LSN: the segment's end unless `stopped`. Bytes of an unfinished record
    /// count, though their checksum is known only where it ends.
    pub valid_to: Lsn,
    /// Why valid WAL ends before the segment does; `None` when it does not.
    pub stopped: Option<String>,
    /// Transactions that committed.
    pub commits: u64,
    /// Transactions and subtransactions that were rolled back, of those that left a record.
    pub aborts: u64,
    /// Time of the first commit in WAL order.
    pub first_commit_time: Option<Timestamp>,
    /// Time of the last commit in WAL order. Times need not rise in WAL order.
    pub last_commit_time: Option<Timestamp>,
    /// The earliest time of a commit or abort.
    pub min_time: Option<Timestamp>,
    /// The latest time of a commit or abort.
    pub max_time: Option<Timestamp>,
    /// The latest time of any record that has one: commit, abort, checkpoint, restore point, end of recovery.
    pub last_known_time: Option<Timestamp>,
    /// The smallest id of a transaction that ended here, as a plain number. Ids wrap around after 2^32, so that a
    /// segment in which that happens seems to hold nearly all of them: fit for excluding segments, not for ordering.
    pub xid_min: Option<u32>,
    /// The largest, as a plain number.
    pub xid_max: Option<u32>,
    /// A transaction ended here whose id lies beyond what was kept of its huge record.
    pub xid_unknown: bool,
    /// Restore points in WAL order.
    pub restore_points: Vec<RestorePointFact>,
    /// Ends of base backups in WAL order.
    pub backup_ends: Vec<BackupEndFact>,
    /// Checkpoints that were completed.
    pub checkpoints: u64,
    /// The last of them.
    pub last_checkpoint: Option<CheckpointFact>,
    /// The last `wal_level` that a server announced here.
    pub wal_level: Option<WalLevel>,
    /// Where a server announced `wal_level = minimal`: PostgreSQL refuses to recover across it.
    pub minimal_at: Option<Lsn>,
    /// A record that ends here began in an earlier segment that was not at hand, so that its meaning (maybe a commit)
    /// and its checksum are unknown.
    pub spanning_unknown: bool,
    /// Records of a kind that matters here whose content could not be read.
    pub unreadable_records: u64,
    /// Databases whose files were copied or removed as a whole, in WAL order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub database_files: Vec<DatabaseFilesFact>,
}

impl SegmentFacts {
    /// What is known of a segment before anything in it was read: nothing. Whoever makes facts begins here, so that a
    /// new member has one place.
    pub fn nothing_yet(cluster: SystemId, major: PgMajor, timeline: TimelineId, start: Lsn) -> SegmentFacts {
        SegmentFacts {
            system_identifier: cluster,
            major,
            page_magic: 0,
            segment_bytes: 0,
            block_bytes: 0,
            page_timeline: timeline,
            last_page_timeline: timeline,
            start,
            continued_bytes: 0,
            drops_unfinished: false,
            first_record: None,
            first_record_prev: None,
            last_record: None,
            last_record_end: None,
            unfinished_record: None,
            missing_bytes: 0,
            switched: false,
            valid_to: start,
            stopped: None,
            commits: 0,
            aborts: 0,
            first_commit_time: None,
            last_commit_time: None,
            min_time: None,
            max_time: None,
            last_known_time: None,
            xid_min: None,
            xid_max: None,
            xid_unknown: false,
            restore_points: Vec::new(),
            backup_ends: Vec::new(),
            checkpoints: 0,
            last_checkpoint: None,
            wal_level: None,
            minimal_at: None,
            spanning_unknown: false,
            unreadable_records: 0,
            database_files: Vec::new(),
        }
    }
}

/// The files of one database in one tablespace: a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct DatabaseDirectory {
    /// OID of the tablespace.
    pub tablespace: u32,
    /// OID of the database.
    pub database: u32,
}

impl std::fmt::Display for DatabaseDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "database {} in tablespace {}", self.database, self.tablespace)
    }
}

/// All files of a database were copied from another directory, or removed. Replay does the same with what it finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct DatabaseFilesFact {
    /// Start of the record.
    pub record: Lsn,
    /// The directory that was made anew, or removed.
    #[serde(flatten)]
    pub directory: DatabaseDirectory,
    /// Whose files were copied; absent where the directory was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<DatabaseDirectory>,
}

/// A restore point.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct RestorePointFact {
    /// Its name.
    pub name: String,
    /// Start of its record.
    pub lsn: Lsn,
    /// When it was made.
    pub time: Timestamp,
}

/// The end of a base backup.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct BackupEndFact {
    /// The start LSN (redo point) of that backup.
    pub start_lsn: Lsn,
    /// Start of the record.
    pub record: Lsn,
    /// End of the record.
    pub end: Lsn,
}

/// A checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct CheckpointFact {
    /// Start of the record.
    pub record: Lsn,
    /// Where replay from it begins.
    pub redo: Lsn,
}

/// The setting `wal_level`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalLevel {
    /// Too little for archive recovery: PostgreSQL refuses to recover across it.
    Minimal,
    /// The default.
    Replica,
    /// Also what logical decoding needs.
    Logical,
}
