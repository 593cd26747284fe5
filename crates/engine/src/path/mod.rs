//! The path that recovery takes through the archive: which timelines, which segments, up to which record.
//!
//! Invariant: a path is resolved by walking the WAL itself (docs/adr/0002): every record from a backup's start to the
//! stop is read and checked before anything is restored, so that the stop is the start of a record that exists.
//! `archive` is what is there, `contents` chooses between several contents of one segment, `tree`, `heads` and `route`
//! are which timeline leads where, `walk` and `search` find the stop, `beginnings` sees whose records they are, `past`
//! looks from the stop to the timeline that was asked for.

pub mod archive;
pub mod beginnings;
pub mod contents;
pub mod copies;
pub mod heads;
pub mod past;
pub mod route;
pub mod search;
pub mod tree;
pub mod walk;

pub use archive::Archive;
pub use copies::{DatabaseCopies, LostCopy};
pub use search::{MadeTablespace, Position, Stop};
pub use tree::Tree;
pub use walk::{From, PathEnd, Walked, walk};
