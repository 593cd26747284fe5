//! Where recovery shall stop: PostgreSQL's `recovery_target_*` settings as a value.
//!
//! What a target means for a record is decided in one place, as PostgreSQL decides it: `engine::path::search`.

use jiff::Timestamp;

use crate::lsn::{Lsn, TimelineId};

/// A recovery target, as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecoveryTarget {
    /// As soon as the restored copy is consistent (`recovery_target = 'immediate'`).
    Immediate,
    /// The last record that lies wholly in the gap-free archive: "latest", made explicit.
    EndOfWal,
    /// Just before the first commit or abort, in WAL order, past this time.
    Time(Timestamp),
    /// The record that begins at this LSN.
    Lsn(Lsn),
    /// The end of this transaction.
    Xid(u32),
    /// A restore point made by `pg_create_restore_point()`.
    Name(String),
}

/// The timeline that recovery shall end on (`recovery_target_timeline`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetTimeline {
    /// The newest by history: PostgreSQL's default.
    #[default]
    Latest,
    /// The one that the backup was taken on.
    Current,
    /// This one.
    Numbered(TimelineId),
}
