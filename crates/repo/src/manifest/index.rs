//! The manifest object: which blocks a backup consists of, and what is written last.
//!
//! Invariant: blocks are in order of path over all documents, and `last` is in the last document only. The index of
//! five million files is a megabyte or two, so it is held whole; blocks are read one by one (`reader`).

use std::sync::Arc;

use pgkeep_base::{Error, Result};
use pgkeep_store::ObjectName;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::block::{not_json, pack_name};
use super::entry::{Chunk, Entry};
use super::entry_json::{ChunkRow, ChunkTable, EntryJson};
use super::order::check_last;
use crate::frame::encode;
use crate::paths::DataPath;
use crate::seal::{Kind, SealedObject, Sealer};

/// How many blocks one document of a manifest object lists: about 1 MiB.
const BLOCKS_PER_DOCUMENT: usize = 4096;
/// The zstd level of manifest objects.
const LEVEL: i32 = 3;

/// A block and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// Path of its first entry.
    pub first: DataPath,
    /// The chunk that holds it.
    pub chunk: Arc<Chunk>,
}

/// The content of a manifest object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestIndex {
    /// In order of path. A block may begin with another span of the file with which the one before it ended.
    pub blocks: Vec<BlockRef>,
    /// `backup_label`, `tablespace_map` if there is one, `global/pg_control`: to be written after everything else.
    pub last: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    packs: Vec<Arc<ObjectName>>,
    blocks: Vec<BlockRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Vec<EntryJson>>,
}

/// `["<path of the first entry>", pack, offset, sealed bytes, content bytes, "blake3"]`
#[derive(Serialize, Deserialize)]
struct BlockRow(DataPath, u32, u64, u32, u32, crate::digest::Digest);

impl ManifestIndex {
    /// The documents of the manifest object, one to a frame; at least one.
    ///
    /// # Errors
    /// `Corrupt` if a reader would refuse it.
    pub fn to_documents(&self) -> Result<Vec<Vec<u8>>> {
        self.check()?;
        let mut groups: Vec<&[BlockRef]> = self.blocks.chunks(BLOCKS_PER_DOCUMENT).collect();
        if groups.is_empty() {
            groups.push(&[]);
        }
        let final_group = groups.len() - 1;
        let documents = groups.iter().enumerate().map(|(i, blocks)| {
            let document = Document::of(blocks, (i == final_group).then_some(&self.last[..]));
            serde_json::to_vec(&document).map_err(not_json)
        });
        documents.collect()
    }

    /// The manifest object, sealed.
    ///
    /// # Errors
    /// As [`ManifestIndex::to_documents`].
    pub fn to_object(&self, sealer: &Sealer, name: &ObjectName) -> Result<SealedObject> {
        let documents = self.to_documents()?;
        let (last, before) = documents.split_last().expect("there is at least one document");
        let mut builder = sealer.begin(name, Kind::Manifest)?;
        for document in before {
            builder.push(&encode(document, LEVEL)?)?;
        }
        builder.finish(Map::new(), Some(&encode(last, LEVEL)?))
    }

    /// Reads the documents of a manifest object.
    ///
    /// # Errors
    /// `Corrupt` for what is not a manifest, is out of order, or does not end as it must.
    pub fn from_documents<D: AsRef<[u8]>>(documents: &[D]) -> Result<ManifestIndex> {
        let mut index = ManifestIndex::default();
        for (i, document) in documents.iter().enumerate() {
            let document: Document = serde_json::from_slice(document.as_ref())
                .map_err(|source| Error::corrupt("the manifest can't be read").source(source))?;
            if document.last.is_some() != (i + 1 == documents.len()) {
                return Err(Error::corrupt("the manifest does not end where it must"));
            }
            index.append(document)?;
        }
        index.check()?;
        Ok(index)
    }

    fn append(&mut self, document: Document) -> Result<()> {
        let names = document.packs.into_iter().map(Arc::unwrap_or_clone);
        let packs: Vec<_> = names.map(pack_name).collect::<Result<_>>()?;
        for BlockRow(first, pack, offset, sealed_bytes, content_bytes, blake3) in document.blocks {
            let row = ChunkRow(pack, offset, sealed_bytes, content_bytes, blake3);
            let chunk = Arc::new(row.resolve(&packs)?);
            self.blocks.push(BlockRef { first, chunk });
        }
        for entry in document.last.unwrap_or_default() {
            self.last.push(entry.resolve(&[])?);
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if let Some(pair) = self.blocks.windows(2).find(|pair| pair[0].first > pair[1].first) {
            return Err(Error::corrupt("the manifest's blocks are out of order")
                .detail(format!("\"{}\" comes before \"{}\"", pair[0].first, pair[1].first)));
        }
        check_last(&self.last)
    }

    /// The numbers of the blocks that may hold entries of `path`.
    pub fn blocks_of(&self, path: &DataPath) -> std::ops::Range<usize> {
        let first = self
            .blocks
            .partition_point(|block| block.first < *path)
            .saturating_sub(1);
        let end = self.blocks.partition_point(|block| block.first <= *path);
        first.min(end)..end
    }
}

impl Document {
    fn of(blocks: &[BlockRef], last: Option<&[Entry]>) -> Document {
        let mut table = ChunkTable::default();
        let row = |block: &BlockRef| {
            let chunk = &block.chunk;
            let pack = table.pack(&chunk.pack);
            BlockRow(
                block.first.clone(),
                pack,
                chunk.offset,
                chunk.sealed_bytes,
                chunk.content_bytes,
                chunk.blake3,
            )
        };
        let blocks = blocks.iter().map(row).collect();
        let last = last.map(|entries| {
            entries
                .iter()
                .map(|entry| EntryJson::of(entry, &mut ChunkTable::default()))
        });
        Document {
            last: last.map(Iterator::collect),
            packs: table.packs().to_vec(),
            blocks,
        }
    }
}
