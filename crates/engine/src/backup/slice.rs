//! Decides, for a slice of a file that was just read, which pages are new and how they are stored.
//!
//! Invariant: a page is taken from an earlier backup only if its keyed hash is equal and the pack that holds it may be
//! reused. New pages of a slice share chunks, so that scattered changes cost little more than the pages themselves.

use pgkeep_base::Result;
use pgkeep_base::limits::CHUNK_BYTES_MAX;
use pgkeep_repo::digest::Digest;
use pgkeep_repo::frame::{Encoded, encode};
use pgkeep_repo::manifest::extents::{self, NEIGHBOURHOOD_EXTENTS_MAX};
use pgkeep_repo::manifest::{Content, Extent, Source};
use pgkeep_repo::reuse::{PageHash, PageHasher, Piece};
use pgkeep_store::ObjectName;

/// Bytes of a file that one worker takes at a time: a divisor of a piece's length.
pub const SLICE_BYTES: u64 = 4 << 20;
const NEIGHBOURHOOD_BYTES: usize = 1 << 20;

/// Content of a slice, in order; new chunks are numbered within the slice.
#[derive(Debug)]
pub enum Run {
    /// From an earlier backup, or zeros.
    Known(Extent),
    /// From a chunk of this slice.
    New {
        /// Its number in [`Slice::chunks`].
        chunk: usize,
        /// First byte of its content.
        offset: u32,
        /// How many.
        bytes: u64,
    },
}

/// A slice that is ready to be written.
#[derive(Debug, Default)]
pub struct Slice {
    /// How many bytes of the file it covers.
    pub bytes: u64,
    /// Its content.
    pub runs: Vec<Run>,
    /// New chunks with the hash of their content.
    pub chunks: Vec<(Encoded, Digest)>,
    /// Keyed hash of each page.
    pub pages: Vec<PageHash>,
    /// Numbers of bad pages, counted from the file's beginning.
    pub bad_pages: Vec<u64>,
}

/// How slices are built.
pub struct Cutter<'a> {
    /// The cluster's page size.
    pub block_bytes: usize,
    /// Hashes pages.
    pub hasher: &'a PageHasher,
    /// zstd level.
    pub level: i32,
    /// Whether a pack of an earlier backup may be referred to.
    pub may_reuse: &'a dyn Fn(&ObjectName) -> bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Zero,
    Same,
    New,
}

impl Cutter<'_> {
    /// Cuts `data`, which begins `at` bytes into its piece of the file; `old` is that piece in an earlier backup.
    pub fn cut(&self, data: &[u8], at: u64, old: Option<&Piece>) -> Result<Slice> {
        let hashes = self.hasher.hash_all(data, self.block_bytes);
        let mut pages = self.classify(data, at, &hashes, old);
        let old_extents = old.map_or(&[][..], extents_of);
        self.defragment(&mut pages, at, old_extents);
        let mut slice = Slice {
            bytes: data.len() as u64,
            pages: hashes,
            ..Slice::default()
        };
        self.gather(data, at, &pages, old_extents, &mut slice)?;
        Ok(slice)
    }

    fn classify(&self, data: &[u8], at: u64, hashes: &[PageHash], old: Option<&Piece>) -> Vec<Page> {
        let first = (at / self.block_bytes as u64) as usize;
        let covered = old.map_or(0, Piece::bytes);
        let barred = old.map_or_else(Vec::new, |old| self.barred(old));
        data.chunks(self.block_bytes)
            .enumerate()
            .map(|(index, page)| {
                let begin = at + (index * self.block_bytes) as u64;
                let end = begin + page.len() as u64;
                let same_hash = old.and_then(|old| old.pages.get(first + index)) == Some(&hashes[index]);
                if is_zero(page) {
                    Page::Zero
                } else if same_hash && end <= covered && !barred.iter().any(|(from, to)| begin < *to && *from < end) {
                    Page::Same
                } else {
                    Page::New
                }
            })
            .collect()
    }

    /// Byte ranges of a piece that lie in packs which may not be referred to.
    fn barred(&self, old: &Piece) -> Vec<(u64, u64)> {
        let mut ranges = Vec::new();
        let mut at = 0;
        for extent in extents_of(old) {
            if let Source::Chunk { chunk, .. } = &extent.source
                && !(self.may_reuse)(&chunk.pack)
            {
                ranges.push((at, at + extent.bytes));
            }
            at += extent.bytes;
        }
        ranges
    }

    /// Stores a whole MiB anew once it would consist of too many extents to be read back fast.
    fn defragment(&self, pages: &mut [Page], at: u64, old: &[Extent]) {
        let per_neighbourhood = NEIGHBOURHOOD_BYTES / self.block_bytes;
        for (index, neighbourhood) in pages.chunks_mut(per_neighbourhood).enumerate() {
            let begin = at + (index * NEIGHBOURHOOD_BYTES) as u64;
            if self.extents_needed(neighbourhood, begin, old) > NEIGHBOURHOOD_EXTENTS_MAX as usize {
                neighbourhood
                    .iter_mut()
                    .filter(|page| **page == Page::Same)
                    .for_each(|page| *page = Page::New);
            }
        }
    }

    fn extents_needed(&self, pages: &[Page], begin: u64, old: &[Extent]) -> usize {
        let runs = pages.chunk_by(|a, b| a == b);
        let mut at = begin;
        runs.map(|run| {
            let bytes = (run.len() * self.block_bytes) as u64;
            let range = at..at + bytes;
            at += bytes;
            if run[0] == Page::Same {
                extents::slice(old, range).len()
            } else {
                1
            }
        })
        .sum()
    }

    fn gather(&self, data: &[u8], at: u64, pages: &[Page], old: &[Extent], slice: &mut Slice) -> Result<()> {
        let mut open = OpenChunk::default();
        let mut position = 0;
        for run in pages.chunk_by(|a, b| a == b) {
            let end = (position + run.len() * self.block_bytes).min(data.len());
            let begin_in_piece = at + position as u64;
            match run[0] {
                Page::Zero => slice.runs.push(Run::Known(Extent::zeros((end - position) as u64))),
                Page::Same => {
                    let range = begin_in_piece..at + end as u64;
                    slice
                        .runs
                        .extend(extents::slice(old, range).into_iter().map(Run::Known));
                }
                Page::New => {
                    for part in data[position..end].chunks(CHUNK_BYTES_MAX as usize) {
                        open.add(part, slice, self.level)?;
                    }
                }
            }
            position = end;
        }
        open.close(slice, self.level)
    }
}

/// The chunk that new pages are being added to.
#[derive(Default)]
struct OpenChunk {
    content: Vec<u8>,
}

impl OpenChunk {
    fn add(&mut self, part: &[u8], slice: &mut Slice, level: i32) -> Result<()> {
        if self.content.len() + part.len() > CHUNK_BYTES_MAX as usize {
            self.close(slice, level)?;
        }
        let offset = self.content.len() as u32;
        slice.runs.push(Run::New {
            chunk: slice.chunks.len(),
            offset,
            bytes: part.len() as u64,
        });
        self.content.extend_from_slice(part);
        Ok(())
    }

    fn close(&mut self, slice: &mut Slice, level: i32) -> Result<()> {
        if !self.content.is_empty() {
            slice
                .chunks
                .push((encode(&self.content, level)?, Digest::of(&self.content)));
            self.content.clear();
        }
        Ok(())
    }
}

fn extents_of(piece: &Piece) -> &[Extent] {
    match &piece.content {
        Content::Extents(extents) => extents,
        Content::Inline(_) => &[],
    }
}

fn is_zero(page: &[u8]) -> bool {
    let (head, words, tail) = (page.len() % 8, page.chunks_exact(8), page);
    words.clone().all(|word| word == [0; 8]) && tail[tail.len() - head..].iter().all(|byte| *byte == 0)
}

#[cfg(test)]
#[path = "slice_tests.rs"]
mod tests;
