//! Reads backups: the head, what it names, the entries in order, and any range of any file.
//!
//! Invariant: what a [`BackupReader`] gives out is what the signed head names: manifest and packs object by their
//! hashes, blocks and chunks by theirs, entries checked against each other. Every object is looked for in all places and
//! among its alternates; one bad copy costs another read, not the restore. Chunks are fetched in [`chunks`].

pub mod chunks;
mod entries;

use std::sync::Arc;

use pgkeep_base::limits::HEAD_BYTES_MAX;
use pgkeep_base::{BackupId, Error, Result, ResultExt};
use pgkeep_store::{ObjectName, Store};

pub use chunks::{ChunkSource, Fetch};
pub use entries::EntryStream;

use crate::fetch::{find_copy, open_copy};
use crate::head::{Head, ObjectHash, VerifiedHead};
use crate::lineage::Lineage;
use crate::manifest::{Content, Entry, Extent, FileSpan, ManifestIndex, Source, extents, parse_block};
use crate::open::Opener;
use crate::packlist::PackList;
use crate::paths::DataPath;
use crate::seal::Kind;

/// The largest manifest or packs object that is read: hundreds of terabytes.
const OBJECT_BYTES_MAX: u64 = 256 << 20;

/// A backup whose manifest and list of packs were verified. Cloning is cheap.
#[derive(Clone)]
pub struct BackupReader {
    head: Arc<VerifiedHead>,
    index: Arc<ManifestIndex>,
    source: ChunkSource,
}

/// Reads and verifies the head of a backup.
///
/// # Errors
/// `NotFound` where every place says that there is no such backup; else as [`Head::read`].
pub async fn read_head(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    lineage: &Lineage,
    id: &BackupId,
) -> Result<VerifiedHead> {
    let name = lineage.head_name(id);
    let found = find_copy(stores, &name, HEAD_BYTES_MAX, |bytes| Head::read(opener, &name, &bytes)).await;
    found
        .map_err(|unread| unread.into_error(&name))
        .during(|| format!("read the head of backup {id}"))
        .or_hint(|| "`pgkeep list` shows the backups that there are.")
}

/// Reads the list of packs that a head names. Needs no identity.
///
/// # Errors
/// `Corrupt` where no place has the object that the head names; `Unavailable` or `Denied` where one may have it.
pub async fn read_packs(stores: &[Arc<dyn Store>], opener: &Opener, head: &Head) -> Result<PackList> {
    let name = head.lineage().packs_name(&head.id);
    let frames = read_named(stores, opener, &name, Kind::Packs, &head.physical()?.packs).await?;
    PackList::from_frames(&frames).during(|| format!("read {name}"))
}

/// Reads an object whose hash a head names: the contents of its frames.
async fn read_named(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    name: &ObjectName,
    kind: Kind,
    hash: &ObjectHash,
) -> Result<Vec<Vec<u8>>> {
    if hash.bytes > OBJECT_BYTES_MAX {
        return Err(
            Error::corrupt(format!("{name} can't be as long as the backup's head says"))
                .detail(format!("{} bytes, where 256 MiB are the most that is read", hash.bytes)),
        );
    }
    let found = open_copy(stores, opener, name, hash.bytes, |bytes| {
        hash.check(name, &bytes)?;
        opener.open_object(name, &bytes, kind).map(|(_, frames)| frames)
    });
    found.await.map_err(|unread| chunks::lost(unread, name))
}

impl BackupReader {
    /// Opens a backup by its name: three objects are read.
    ///
    /// # Errors
    /// As [`read_head`] and [`BackupReader::of_head`].
    pub async fn open(
        stores: Vec<Arc<dyn Store>>,
        opener: Opener,
        lineage: &Lineage,
        id: &BackupId,
    ) -> Result<BackupReader> {
        let head = read_head(&stores, &opener, lineage, id).await?;
        BackupReader::of_head(stores, opener, head).await
    }

    /// Opens the backup of a head that was read before.
    ///
    /// # Errors
    /// `Invalid` for a dump; `Refused` where no identity fits; `Corrupt` where no place has what the head names, or
    /// where it is not a manifest; `Unavailable` or `Denied` where one may have it.
    pub async fn of_head(stores: Vec<Arc<dyn Store>>, opener: Opener, head: VerifiedHead) -> Result<BackupReader> {
        let during = || format!("open backup {}", head.head.id);
        let packs = read_packs(&stores, &opener, &head.head).await.during(during)?;
        let name = head.head.lineage().manifest_name(&head.head.id);
        let hash = &head.head.physical()?.manifest;
        let documents = read_named(&stores, &opener, &name, Kind::Manifest, hash)
            .await
            .during(during)?;
        let index = ManifestIndex::from_documents(&documents).during(during)?;
        Ok(BackupReader {
            head: Arc::new(head),
            index: Arc::new(index),
            source: ChunkSource::new(stores, opener, packs),
        })
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head.head
    }

    /// The head with its signer and hash.
    pub fn verified_head(&self) -> &VerifiedHead {
        &self.head
    }

    /// The packs that it needs.
    pub fn packs(&self) -> &PackList {
        self.source.packs()
    }

    /// What is to be written after everything else.
    pub fn last(&self) -> &[Entry] {
        &self.index.last
    }

    /// Where chunks come from.
    pub fn source(&self) -> &ChunkSource {
        &self.source
    }

    /// All entries but the last ones, in order.
    pub fn entries(&self) -> EntryStream {
        EntryStream::new(self.index.clone(), self.source.clone())
    }

    /// The entries of one path: one, or several for a file over 1 GiB; none where the backup has no such path.
    ///
    /// Costs one ranged read, two where the path is the first of its block.
    ///
    /// # Errors
    /// As [`ChunkSource::fetch`]; `Corrupt` for a block or entry that breaks a rule.
    pub async fn find(&self, path: &DataPath) -> Result<Vec<Entry>> {
        if let Some(entry) = self.index.last.iter().find(|entry| entry.path == *path) {
            return Ok(vec![entry.clone()]);
        }
        let mut found = Vec::new();
        for block in &self.index.blocks[self.index.blocks_of(path)] {
            let json = self.source.content(&block.chunk).await?;
            let entries = parse_block(&json)?.into_iter().filter(|entry| entry.path == *path);
            found.extend(entries);
        }
        found.iter().try_for_each(Entry::check)?;
        Ok(found)
    }

    /// Up to `bytes` bytes of a file from `at` on; fewer at its end.
    ///
    /// Any page costs at most one ranged read and one decode, holes and inline data none. `entries` are what
    /// [`BackupReader::find`] gave, or one entry of a file that has only one.
    ///
    /// # Errors
    /// As [`ChunkSource::fetch`]; `Invalid` where the entries are not those of a file, or not all that are needed.
    pub async fn read_at(&self, entries: &[Entry], at: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut spans = entries.iter().filter_map(Entry::file);
        let length = entries.first().and_then(Entry::file).map(|span| span.bytes);
        let length = length.ok_or_else(|| Error::invalid("only files have content"))?;
        let end = length.min(at.saturating_add(bytes as u64));
        let mut content = Vec::new();
        let mut next = at;
        while next < end {
            let span = spans.find(|span| span.at <= next && next < span.at + span.span_bytes());
            let span = span.ok_or_else(|| Error::invalid("a part of the file's entries is missing"))?;
            let stop = end.min(span.at + span.span_bytes());
            self.read_span(span, next - span.at..stop - span.at, &mut content)
                .await?;
            next = stop;
        }
        Ok(content)
    }

    async fn read_span(&self, span: &FileSpan, range: std::ops::Range<u64>, to: &mut Vec<u8>) -> Result<()> {
        let parts: Vec<Extent> = match &span.content {
            Content::Inline(data) => {
                to.extend_from_slice(&data[range.start as usize..range.end as usize]);
                return Ok(());
            }
            Content::Extents(list) => extents::slice(list, range),
        };
        let mut contents = std::collections::HashMap::new();
        for fetch in self.source.plan(&extents::chunks(&parts))? {
            let chunks = fetch.chunks().to_vec();
            for (chunk, content) in chunks.iter().zip(self.source.fetch(fetch).await?) {
                contents.insert((chunk.pack.clone(), chunk.offset), content);
            }
        }
        for part in parts {
            match part.source {
                Source::Zeros => to.resize(to.len() + part.bytes as usize, 0),
                Source::Chunk { chunk, offset } => {
                    let content = &contents[&(chunk.pack.clone(), chunk.offset)];
                    let from = offset as usize;
                    // The entry was checked, and the content has the length that its address says.
                    to.extend_from_slice(&content[from..from + part.bytes as usize]);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
