//! Reads WAL segments of PostgreSQL 14 to 18: bytes in, facts out, no I/O.
//!
//! Invariants: a record is shown only after its CRC-32C matched and its link to the record before it held; memory is
//! bounded whatever the bytes say (a record may be 1 GiB long and span many segments, of which
//! [`limits::WAL_RECORD_BYTES_KEPT`](pgkeep_base::limits::WAL_RECORD_BYTES_KEPT) are kept); no input panics.
//! A record belongs to the segment in which it ends, because only there is it complete.
//!
//! Layers, bottom up: `page` (page headers), `record` (record headers, where the main data lies), `meaning` (commits,
//! checkpoints, restore points, whole databases), [`Walker`] (the chain of records over consecutive segments), [`SegmentFacts`] (the
//! fold over one segment that a repository stores). Layouts are those of `access/xlog_internal.h`,
//! `access/xlogrecord.h`, `access/xact.h` and `catalog/pg_control.h`; the rules of reading are `xlogreader.c`'s.

mod bytes;
mod databases;
mod facts;
mod meaning;
mod page;
mod record;
#[cfg(test)]
mod tests;
mod walker;
mod xact;

pub use facts::{BackupEndFact, CheckpointFact, FactsWalk, RestorePointFact, SegmentFacts, segment_facts};
pub use meaning::{DatabaseDirectory, Meaning, WalLevel, meaning};
pub use page::{SegmentHeader, read_segment_header};
pub use record::Record;
pub use walker::{WalkEnd, Walker};
