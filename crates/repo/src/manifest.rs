//! What a physical backup consists of: entries in blocks, blocks in a manifest object (docs/format.md, section 5).
//!
//! Invariant: what is written passed the same checks ([`Entry::check`], [`OrderCheck`]) that a reader makes. A block
//! knows nothing of its neighbours and its bytes depend on its entries alone, so unchanged entries make the same block.
//! Blocks and the manifest object are read by `reader`; chunks are stored by `pack`.

pub mod block;
pub mod entry;
mod entry_json;
pub mod extents;
pub mod index;
pub mod order;

pub use block::{Block, BlockBuilder, parse_block};
pub use entry::{Chunk, Content, Entry, EntryKind, Extent, FileSpan, Source};
pub(crate) use entry_json::ChunkRow;
pub use entry_json::Mode;
pub use index::{BlockRef, ManifestIndex};
pub use order::OrderCheck;

#[cfg(test)]
pub(crate) mod tests;
