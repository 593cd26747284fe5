//! What this host remembers of a backup's pages: the reuse cache of the writer, where it is of this very backup.
//!
//! Invariant: it only ever says of a page that was read here and now that it is the backup's, by a keyed hash of 128 bits
//! that was made of the same bytes as the backup. Lost, damaged, or of another backup it says nothing, and chunks are
//! compared instead: those tell nothing of a page whose neighbours in the chunk are gone.

use std::sync::Arc;

use pgkeep_repo::head::VerifiedHead;
use pgkeep_repo::manifest::FileSpan;
use pgkeep_repo::paths::DataPath;
use pgkeep_repo::reuse::{PIECE_BYTES_MAX, PageHash, PageHasher, ReuseReader};

use super::target::Target;
use crate::backup::cache_path;
use crate::engine::Engine;
use crate::state::reuse_path;

/// The cache, read beside the manifest.
pub(in crate::restore) struct Remembered {
    reader: ReuseReader,
    hasher: PageHasher,
    block_bytes: u64,
}

/// The hashes of the pages of one span of a file.
pub(in crate::restore) struct Known {
    /// The file.
    pub target: Arc<Target>,
    at: u64,
    block_bytes: u64,
    hasher: PageHasher,
    hashes: Vec<PageHash>,
}

impl Remembered {
    /// The cache of a backup, where this host has it.
    pub fn of(engine: &Engine, head: &VerifiedHead) -> Option<Remembered> {
        let setup = engine.setup();
        let path = cache_path(&reuse_path(&setup.state_dir, &head.head.lineage()));
        let reader = ReuseReader::open(&path).ok()?;
        let block_bytes = u64::from(head.head.physical().ok()?.block_bytes);
        let (start, end) = (reader.start(), reader.end()?);
        let same = start.repository == setup.repository.id
            && start.backup == head.head.id
            && end.head == head.blake3
            && u64::from(start.block_bytes) == block_bytes;
        same.then(|| Remembered {
            hasher: PageHasher::new(&setup.repository.naming_key),
            reader,
            block_bytes,
        })
    }

    /// The pages of a span, where all are remembered. Ask in the order of the manifest.
    pub fn pages(&mut self, path: &DataPath, span: &FileSpan, target: &Arc<Target>) -> Option<Known> {
        if span.is_inline() {
            return None;
        }
        let end = span.at + span.span_bytes();
        let mut hashes = Vec::new();
        let mut at = span.at;
        while at < end {
            let piece = self.reader.take(path, at)?;
            if piece.stat.bytes != span.bytes {
                return None;
            }
            hashes.extend_from_slice(&piece.pages);
            at += PIECE_BYTES_MAX;
        }
        Some(Known {
            target: target.clone(),
            at: span.at,
            block_bytes: self.block_bytes,
            hasher: self.hasher.clone(),
            hashes,
        })
    }
}

impl Known {
    /// Length of a page.
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Whether the pages from `at` to `end` of the file are among these, whole (but for the last one of the file).
    pub fn covers(&self, at: u64, end: u64) -> bool {
        let (blocks, known) = (self.block_bytes, self.at + self.hashes.len() as u64 * self.block_bytes);
        at.is_multiple_of(blocks) && at >= self.at && end <= known
    }

    /// Whether this is the page that begins at `at`.
    pub fn is_same(&self, at: u64, page: &[u8]) -> bool {
        let number = (at - self.at) / self.block_bytes;
        self.hashes.get(number as usize) == Some(&self.hasher.hash(page))
    }
}
