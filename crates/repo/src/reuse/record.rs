//! What the cache records, and how a record looks in bytes.
//!
//! Invariant: [`Piece::decode`] and [`BlockRecord::decode`] return only what could have been written: chunks that a
//! manifest could name, extents within them that add up to the piece, one hash for each page. Numbers are LEB128 unless
//! their length is given.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use pgkeep_base::{BackupId, ClusterName, RepositoryId, SystemId};
use pgkeep_store::ObjectName;
use serde::{Deserialize, Serialize};

use super::pages::{PAGE_HASH_BYTES, PageHash};
use crate::digest::Digest;
use crate::manifest::{Block, Chunk, ChunkRow, Content, Extent, Source};
use crate::paths::DataPath;

/// A file is remembered in pieces of this length, so that a record stays small.
pub const PIECE_BYTES_MAX: u64 = 64 << 20;

/// Which backup a cache belongs to: its first record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReuseStart {
    /// The repository that the packs are in.
    pub repository: RepositoryId,
    /// The cluster's configured name.
    pub cluster: ClusterName,
    /// The cluster's system identifier.
    pub system_identifier: SystemId,
    /// The backup that wrote it.
    pub backup: BackupId,
    /// When that backup began.
    pub started_at: Timestamp,
    /// To whom the packs are sealed, sorted.
    pub recipients: Vec<String>,
    /// The places that make a pack durable, by name.
    pub places: Vec<String>,
    /// Length of the pages that are hashed.
    pub block_bytes: u32,
}

/// How the backup ended: its last record. A journal has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReuseEnd {
    /// When the backup finished.
    pub finished_at: Timestamp,
    /// Hash of its head.
    pub head: Digest,
    /// The places that have the head and all that it names, by name.
    pub places: Vec<String>,
}

/// What a file looked like from outside when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Its length.
    pub bytes: u64,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Device of its file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// What is known of a file, or of 64 MiB of a longer one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The file.
    pub path: DataPath,
    /// The whole file from outside.
    pub stat: FileStat,
    /// Where the piece begins in the file: a multiple of 64 MiB.
    pub at: u64,
    /// What is in the piece. Small files are inline.
    pub content: Content,
    /// The hash of each page; none where the content is inline.
    pub pages: Vec<PageHash>,
    /// Pages with a bad checksum, counted from the file's beginning.
    pub bad_pages: Vec<u64>,
}

/// A block of the manifest that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRecord {
    /// Path of its first entry.
    pub first: DataPath,
    /// Path of its last entry.
    pub last: DataPath,
    /// How many entries.
    pub entries: u64,
    /// Where it lies. A block that is built anew and has the hash of this chunk is the same.
    pub chunk: Arc<Chunk>,
    /// Sealed bytes that it refers to, per pack.
    pub live: Vec<(Arc<ObjectName>, u64)>,
}

/// Gives packs their numbers in the file, in order of first use.
pub(super) type PackNumbers = HashMap<Arc<ObjectName>, u64>;

impl Piece {
    /// Length of this piece.
    pub fn bytes(&self) -> u64 {
        self.stat.bytes.saturating_sub(self.at).min(PIECE_BYTES_MAX)
    }

    /// The packs that it refers to.
    pub(super) fn packs(&self) -> impl Iterator<Item = &Arc<ObjectName>> {
        let extents = match &self.content {
            Content::Inline(_) => &[],
            Content::Extents(extents) => &extents[..],
        };
        extents.iter().filter_map(|extent| match &extent.source {
            Source::Zeros => None,
            Source::Chunk { chunk, .. } => Some(&chunk.pack),
        })
    }

    /// Whether a reader would take it.
    pub(super) fn is_valid(&self, block_bytes: u32) -> bool {
        let whole = self.at == 0 && self.bytes() == self.stat.bytes;
        let begins = self.at.is_multiple_of(PIECE_BYTES_MAX) && (self.at == 0 || self.at < self.stat.bytes);
        begins
            && match &self.content {
                Content::Inline(data) => whole && self.pages.is_empty() && data.len() as u64 == self.stat.bytes,
                Content::Extents(extents) => {
                    let pages = self.bytes().div_ceil(u64::from(block_bytes.max(1)));
                    pages == self.pages.len() as u64 && sum_of_valid(extents) == Some(self.bytes())
                }
            }
    }

    /// About how many bytes of memory it takes.
    pub(super) fn memory(&self) -> u64 {
        let content = match &self.content {
            Content::Inline(bytes) => bytes.len(),
            Content::Extents(extents) => extents.len() * (size_of::<Extent>() + size_of::<Chunk>()),
        };
        let lists = size_of_val(&self.pages[..]) + size_of_val(&self.bad_pages[..]);
        (size_of::<Piece>() + self.path.as_bytes().len() + content + lists) as u64
    }

    pub(super) fn encode(&self, packs: &PackNumbers) -> Vec<u8> {
        let mut to = Vec::with_capacity(128 + self.pages.len() * PAGE_HASH_BYTES);
        put_bytes(&mut to, self.path.as_bytes());
        let FileStat {
            bytes,
            mtime_ns,
            ctime_ns,
            device,
            inode,
        } = self.stat;
        to.extend_from_slice(&mtime_ns.to_le_bytes());
        to.extend_from_slice(&ctime_ns.to_le_bytes());
        for number in [bytes, device, inode, self.at] {
            put(&mut to, number);
        }
        match &self.content {
            Content::Inline(data) => {
                to.push(1);
                put_bytes(&mut to, data);
            }
            Content::Extents(extents) => {
                to.push(0);
                put_extents(&mut to, extents, packs);
            }
        }
        put(&mut to, self.pages.len() as u64);
        to.extend_from_slice(self.pages.as_flattened());
        put(&mut to, self.bad_pages.len() as u64);
        self.bad_pages.iter().for_each(|page| put(&mut to, *page));
        to
    }

    /// `None` for bytes that are not a piece.
    pub(super) fn decode(bytes: &[u8], packs: &[Arc<ObjectName>], block_bytes: u32) -> Option<Piece> {
        let mut from = Input(bytes);
        let path = from.path()?;
        let (mtime_ns, ctime_ns) = (i64::from_le_bytes(from.array()?), i64::from_le_bytes(from.array()?));
        let stat = FileStat {
            bytes: from.number()?,
            mtime_ns,
            ctime_ns,
            device: from.number()?,
            inode: from.number()?,
        };
        let at = from.number()?;
        let content = match from.array::<1>()? {
            [0] => Content::Extents(from.extents(packs)?),
            [1] => Content::Inline(from.bytes()?.to_vec()),
            _ => return None,
        };
        let page_count = from.count(PAGE_HASH_BYTES)?;
        let (pages, []) = from.take(page_count * PAGE_HASH_BYTES)?.as_chunks() else {
            return None;
        };
        let pages = pages.to_vec();
        let bad_count = from.count(1)?;
        let bad_pages = (0..bad_count).map(|_| from.number()).collect::<Option<_>>()?;
        let piece = Piece {
            path,
            stat,
            at,
            content,
            pages,
            bad_pages,
        };
        (from.0.is_empty() && piece.is_valid(block_bytes)).then_some(piece)
    }
}

impl BlockRecord {
    /// Of a block that was stored in `chunk`.
    pub fn of(block: &Block, chunk: Arc<Chunk>) -> BlockRecord {
        BlockRecord {
            first: block.first.clone(),
            last: block.last.clone(),
            entries: block.entries,
            chunk,
            live: block.live.clone(),
        }
    }

    /// The packs that it refers to, and the one that it lies in.
    pub(super) fn packs(&self) -> impl Iterator<Item = &Arc<ObjectName>> {
        self.live.iter().map(|(pack, _)| pack).chain([&self.chunk.pack])
    }

    pub(super) fn encode(&self, packs: &PackNumbers) -> Vec<u8> {
        let mut to = Vec::with_capacity(256);
        put_bytes(&mut to, self.first.as_bytes());
        put_bytes(&mut to, self.last.as_bytes());
        put(&mut to, self.entries);
        put_chunk(&mut to, &self.chunk, packs);
        put(&mut to, self.live.len() as u64);
        for (pack, bytes) in &self.live {
            put(&mut to, packs[pack]);
            put(&mut to, *bytes);
        }
        to
    }

    /// `None` for bytes that are not a block's record.
    pub(super) fn decode(bytes: &[u8], packs: &[Arc<ObjectName>]) -> Option<BlockRecord> {
        let mut from = Input(bytes);
        let (first, last, entries) = (from.path()?, from.path()?, from.number()?);
        let chunk = Arc::new(from.chunk(packs)?);
        let count = from.count(2)?;
        let live = (0..count)
            .map(|_| Some((from.pack(packs)?, from.number()?)))
            .collect::<Option<_>>()?;
        from.0.is_empty().then_some(BlockRecord {
            first,
            last,
            entries,
            chunk,
            live,
        })
    }
}

fn sum_of_valid(extents: &[Extent]) -> Option<u64> {
    extents.iter().try_fold(0u64, |sum, extent| {
        let fits = match &extent.source {
            Source::Zeros => true,
            Source::Chunk { chunk, offset } => {
                extent.bytes.checked_add(u64::from(*offset))? <= u64::from(chunk.content_bytes)
            }
        };
        (fits && extent.bytes > 0)
            .then(|| sum.checked_add(extent.bytes))
            .flatten()
    })
}

fn put(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn put_chunk(to: &mut Vec<u8>, chunk: &Chunk, packs: &PackNumbers) {
    put(to, packs[&chunk.pack]);
    put(to, chunk.offset);
    put(to, u64::from(chunk.sealed_bytes));
    put(to, u64::from(chunk.content_bytes));
    to.extend_from_slice(&chunk.blake3.0);
}

/// Chunks in order of first use, then extents with the number of their chunk plus 1, or 0 for zeros.
fn put_extents(to: &mut Vec<u8>, extents: &[Extent], packs: &PackNumbers) {
    let chunks = crate::manifest::extents::chunks(extents);
    put(to, chunks.len() as u64);
    chunks.iter().for_each(|chunk| put_chunk(to, chunk, packs));
    let numbers: HashMap<_, _> = chunks
        .iter()
        .zip(1u64..)
        .map(|(chunk, i)| ((&chunk.pack, chunk.offset), i))
        .collect();
    put(to, extents.len() as u64);
    for extent in extents {
        put(to, extent.bytes);
        match &extent.source {
            Source::Zeros => put(to, 0),
            Source::Chunk { chunk, offset } => {
                put(to, numbers[&(&chunk.pack, chunk.offset)]);
                put(to, u64::from(*offset));
            }
        }
    }
}

/// Bytes that are still to be read; every method gives `None` where they end or make no sense.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    /// A number of things of at least `bytes_each`, which must still fit.
    fn count(&mut self, bytes_each: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.0.len() / bytes_each).then_some(count)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.count(1)?;
        self.take(count)
    }

    fn path(&mut self) -> Option<DataPath> {
        DataPath::new(self.bytes()?).ok()
    }

    fn pack(&mut self, packs: &[Arc<ObjectName>]) -> Option<Arc<ObjectName>> {
        packs.get(usize::try_from(self.number()?).ok()?).cloned()
    }

    fn chunk(&mut self, packs: &[Arc<ObjectName>]) -> Option<Chunk> {
        let (pack, offset) = (self.small()?, self.number()?);
        let (sealed_bytes, content_bytes) = (self.small()?, self.small()?);
        let row = ChunkRow(pack, offset, sealed_bytes, content_bytes, Digest(self.array()?));
        row.resolve(packs).ok()
    }

    fn extents(&mut self, packs: &[Arc<ObjectName>]) -> Option<Vec<Extent>> {
        let count = self.count(36)?;
        let chunks: Vec<_> = (0..count)
            .map(|_| self.chunk(packs).map(Arc::new))
            .collect::<Option<_>>()?;
        let count = self.count(2)?;
        let extents = (0..count).map(|_| {
            let bytes = self.number()?;
            let Some(chunk) = self.number()?.checked_sub(1) else {
                return Some(Extent::zeros(bytes));
            };
            let chunk = chunks.get(usize::try_from(chunk).ok()?)?.clone();
            Some(Extent::of_chunk(chunk, self.small()?, bytes))
        });
        extents.collect()
    }
}
