//! The words that every other room speaks: LSNs, timelines, WAL segments, ids, sizes, errors, the clock.
//!
//! Invariant: nothing here does I/O (bar [`clock::SystemClock`], which reads the clock) and nothing here knows a
//! bucket, a repository or a connection. A word has one meaning, PostgreSQL's where it has one (docs/glossary.md).

pub mod clock;
pub mod error;
pub mod facts;
pub mod failpoint;
pub mod ids;
pub mod limits;
pub mod lsn;
pub mod pgtime;
pub mod progress;
pub mod segment;
pub mod size;
pub mod target;
pub mod version;
pub mod walfile;

pub use clock::{Clock, SystemClock};
pub use error::{Error, ErrorKind, Result, ResultExt};
pub use facts::SegmentFacts;
pub use ids::{BackupId, ClusterName, RepositoryId, SystemId};
pub use lsn::{Lsn, TimelineId};
pub use progress::{Event, Progress};
pub use segment::{SegmentSize, WalSegment};
pub use size::ByteSize;
pub use target::{RecoveryTarget, TargetTimeline};
pub use version::PgMajor;
pub use walfile::WalFile;
