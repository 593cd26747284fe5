//! The WAL archive: one object per file, named after its content (docs/format.md, section 7).
//!
//! Invariant: an object's name holds the keyed hash of the whole file, so that "already there" proves that the same
//! content is there, and what a reader is given has the hash of its name. Facts are covered by the pusher's signature.
//! Sealing is in `wal/seal.rs`, reading in `wal/read.rs`, what two objects of one file name are to each other in
//! `wal/compare.rs`; facts themselves are gathered by the room `pg`.

mod chain;
mod compare;
mod digest;
mod name;
mod read;
mod seal;

use pgkeep_base::SegmentFacts;
use serde::{Deserialize, Serialize};

pub use chain::{Link, link};
pub use compare::{Longer, Relation, compare, compare_contents};
pub use digest::{WalDigest, WalNaming, WalSource};
pub use name::{WalObjectName, object_name, parse_object_name, part_name};
pub use read::{WalHeader, open_wal, open_wal_to, parse_wal_header, read_wal_header};
pub use seal::{WalPlan, WalSealing, seal_wal};

/// Content of one frame of a WAL object.
const FRAME_BYTES: usize = 1 << 20;

/// What a WAL object says in plaintext about a segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WalFacts {
    /// What its records say.
    #[serde(flatten)]
    pub segment: SegmentFacts,
    /// 16 times 16 hexadecimal digits: keyed hash of the first 1/16, 2/16, … of the file.
    pub prefix: Vec<String>,
}

#[cfg(test)]
mod tests;
