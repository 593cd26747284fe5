//! Blocks: about 256 KiB of entries as one JSON document, with the packs and chunks that they refer to.
//!
//! Invariant: where a block ends depends on the paths and lengths of its own entries only, not on what came before
//! the block, so that a change shows in the blocks around it and all others stay as they were, byte for byte.
//! (An entry's length in JSON counts only at the hard limit, which unusual fragmentation alone reaches.)

use std::sync::Arc;

use pgkeep_base::limits::{FRAME_RAW_BYTES_MAX, MANIFEST_BLOCK_BYTES_TARGET};
use pgkeep_base::{Error, Result};
use pgkeep_store::ObjectName;
use serde::Deserialize;

use super::entry::Entry;
use super::entry_json::{ChunkRow, ChunkTable, EntryJson};
use super::order::OrderCheck;
use crate::digest::Digest;
use crate::paths::DataPath;

/// No block ends before this much, so that blocks are worth a request.
const WEIGHT_MIN: u64 = MANIFEST_BLOCK_BYTES_TARGET as u64 / 4;
/// A block ends behind the entry that reaches this, whatever its path.
const JSON_BYTES_MAX: usize = MANIFEST_BLOCK_BYTES_TARGET * 2;

/// A finished block, to be stored as one chunk.
#[derive(Clone, Debug)]
pub struct Block {
    /// The JSON document: the content of the chunk.
    pub json: Vec<u8>,
    /// Its hash. An earlier backup's block of the same hash is the same block.
    pub blake3: Digest,
    /// Path of the first entry.
    pub first: DataPath,
    /// Path of the last entry.
    pub last: DataPath,
    /// How many entries.
    pub entries: u64,
    /// Per pack that is referred to, how many sealed bytes are; each chunk counts once.
    pub live: Vec<(Arc<ObjectName>, u64)>,
}

/// Collects entries into blocks.
#[derive(Default)]
pub struct BlockBuilder {
    order: OrderCheck,
    open: OpenBlock,
}

#[derive(Default)]
struct OpenBlock {
    table: ChunkTable,
    entries_json: Vec<u8>,
    entries: u64,
    weight: u64,
    first: Option<DataPath>,
    last: Option<DataPath>,
}

impl BlockBuilder {
    /// A builder for the blocks of one manifest.
    pub fn new() -> BlockBuilder {
        BlockBuilder::default()
    }

    /// Adds the next entry; gives the block that ends with it, if one does.
    ///
    /// # Errors
    /// `Corrupt` for an entry that breaks a rule or comes out of order: what is not valid is never written.
    pub fn push(&mut self, entry: &Entry) -> Result<Option<Block>> {
        self.order.entry(entry)?;
        self.open.push(entry)?;
        if self.open.is_complete(entry) {
            self.close()
        } else {
            Ok(None)
        }
    }

    /// Gives the last block and checks that nothing is missing, with the entries of `last`.
    ///
    /// # Errors
    /// `Corrupt` if the manifest would not be valid.
    pub fn finish(mut self, last: &[Entry]) -> Result<Option<Block>> {
        let block = self.close()?;
        self.order.finish(last)?;
        Ok(block)
    }

    fn close(&mut self) -> Result<Option<Block>> {
        std::mem::take(&mut self.open).finish()
    }
}

impl OpenBlock {
    fn push(&mut self, entry: &Entry) -> Result<()> {
        if self.entries > 0 {
            self.entries_json.push(b',');
        }
        let json = EntryJson::of(entry, &mut self.table);
        serde_json::to_writer(&mut self.entries_json, &json).map_err(not_json)?;
        self.first.get_or_insert_with(|| entry.path.clone());
        self.last = Some(entry.path.clone());
        self.entries += 1;
        self.weight += weight(entry);
        Ok(())
    }

    fn is_complete(&self, entry: &Entry) -> bool {
        let json_bytes = self.entries_json.len() + 100 * self.table.chunks().len();
        json_bytes >= JSON_BYTES_MAX || (self.weight >= WEIGHT_MIN && is_boundary(entry))
    }

    fn finish(mut self) -> Result<Option<Block>> {
        let (Some(first), Some(last)) = (self.first.take(), self.last.take()) else {
            return Ok(None);
        };
        let live = self.live();
        let rows = self.table.rows();
        let mut json = Vec::with_capacity(self.entries_json.len() + 120 * rows.len() + 1024);
        json.extend_from_slice(b"{\"packs\":");
        serde_json::to_writer(&mut json, self.table.packs()).map_err(not_json)?;
        json.extend_from_slice(b",\"chunks\":");
        serde_json::to_writer(&mut json, &rows).map_err(not_json)?;
        json.extend_from_slice(b",\"entries\":[");
        json.append(&mut self.entries_json);
        json.extend_from_slice(b"]}");
        if json.len() as u64 > FRAME_RAW_BYTES_MAX {
            return Err(Error::internal(format!(
                "the manifest's block at \"{first}\" exceeds 64 MiB"
            )));
        }
        Ok(Some(Block {
            blake3: Digest::of(&json),
            json,
            first,
            last,
            entries: self.entries,
            live,
        }))
    }

    fn live(&mut self) -> Vec<(Arc<ObjectName>, u64)> {
        let mut live: Vec<_> = self.table.packs().iter().map(|pack| (pack.clone(), 0)).collect();
        for ChunkRow(pack, _, sealed_bytes, ..) in self.table.rows() {
            live[pack as usize].1 += u64::from(sealed_bytes);
        }
        live
    }
}

/// About how long an entry and its chunks are in JSON when its file was stored in one go.
fn weight(entry: &Entry) -> u64 {
    let content = match entry.file() {
        None => 0,
        Some(span) if span.is_inline() => span.bytes * 4 / 3,
        Some(span) => 115 * span.span_bytes().div_ceil(1 << 20),
    };
    110 + entry.path.as_bytes().len() as u64 + content
}

/// Whether a block may end behind this entry: true for one in so many, in proportion to its weight.
fn is_boundary(entry: &Entry) -> bool {
    let mut hasher = blake3::Hasher::new();
    hasher.update(entry.path.as_bytes());
    hasher.update(&entry.file().map_or(0, |span| span.at).to_le_bytes());
    let hash = hasher.finalize();
    let draw = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 of 32 bytes"));
    let distance = MANIFEST_BLOCK_BYTES_TARGET as u64 - WEIGHT_MIN;
    draw < (u64::MAX / distance).saturating_mul(weight(entry))
}

#[derive(Deserialize)]
struct BlockJson {
    packs: Vec<ObjectName>,
    chunks: Vec<ChunkRow>,
    entries: Vec<EntryJson>,
}

/// Reads a block. Its entries are checked by [`OrderCheck`] as they are used, in the order of the manifest.
///
/// # Errors
/// `Corrupt` for what is not a block, and for indexes and addresses that can't be.
pub fn parse_block(json: &[u8]) -> Result<Vec<Entry>> {
    let block: BlockJson = serde_json::from_slice(json)
        .map_err(|source| Error::corrupt("a block of the manifest can't be read").source(source))?;
    let packs: Vec<_> = block.packs.into_iter().map(pack_name).collect::<Result<_>>()?;
    let chunks = block.chunks.into_iter().map(|row| row.resolve(&packs).map(Arc::new));
    let chunks: Vec<_> = chunks.collect::<Result<_>>()?;
    if block.entries.is_empty() {
        return Err(Error::corrupt("a block of the manifest has no entries"));
    }
    block.entries.into_iter().map(|entry| entry.resolve(&chunks)).collect()
}

/// Checks that a name in a manifest is that of a pack.
pub(super) fn pack_name(name: ObjectName) -> Result<Arc<ObjectName>> {
    if crate::lineage::Lineage::of_pack(&name).is_ok() {
        return Ok(Arc::new(name));
    }
    Err(Error::corrupt(format!(
        "the manifest refers to \"{name}\" as if it were a pack"
    )))
}

pub(super) fn not_json(source: serde_json::Error) -> Error {
    Error::internal("could not write a part of the manifest").source(source)
}
