//! The writer's local memory of its last backup: what each page was, and where it is stored. Not part of the format.
//!
//! A writer can't read the repository, so what it may reuse it must remember. One file per backup, in the order of the
//! manifest, is read beside the data directory in one pass: memory does not grow with the cluster. While a backup runs
//! the same file is its journal, from which the next run takes what an interrupted one had made durable.
//!
//! Invariant: losing, cutting or damaging the file costs a backup that stores more, never an error and never a wrong
//! byte: every record is checked before it is used, and holds only what was durable in all required places when it was
//! written. *Whether* reuse is allowed (horizon, recipients, places) the engine decides by [`ReuseStart`] and
//! [`ReuseEnd`]. Bytes of a record: `record`; of the file: `file`.

mod file;
mod pages;
mod reader;
mod record;
mod writer;

pub use pages::{PAGE_HASH_BYTES, PageHash, PageHasher};
pub use reader::{NoCache, ReuseReader};
pub use record::{BlockRecord, FileStat, PIECE_BYTES_MAX, Piece, ReuseEnd, ReuseStart};
pub use writer::ReuseWriter;

#[cfg(test)]
mod tests;
