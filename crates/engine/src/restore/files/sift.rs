//! Looks which pieces of a backup an existing file has already.
//!
//! Invariant: a piece counts as there only if its content was read and is the one that the manifest says: by the BLAKE3 of
//! its chunk, or page by page where this host remembers the backup's pages; byte by byte where the manifest has the bytes,
//! zeros by being zeros. What can't be read is not there.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use pgkeep_base::{Error, Result};
use pgkeep_repo::digest::Digest;
use pgkeep_repo::manifest::{Chunk, Entry};
use rustix::fs::SeekFrom;

use super::jobs::{ChunkKey, key};
use super::known::{Known, Remembered};
use super::target::{Opened, Piece, PieceSource, Target};

/// Read at a time where zeros are expected.
const READ_BYTES: usize = 1 << 20;

/// Pieces that are looked at together, in the order of the manifest.
#[derive(Default)]
pub(in crate::restore) struct Together {
    pub pieces: Vec<Piece>,
    /// What is remembered of their files' pages.
    pub known: Vec<Known>,
}

impl Together {
    /// Adds what is remembered of the pages of a file's span.
    pub fn add_known(&mut self, remembered: &mut Remembered, entry: &Entry, target: &Arc<Target>) {
        let span = entry.file();
        self.known
            .extend(span.and_then(|span| remembered.pages(&entry.path, span, target)));
    }
}

/// What came of looking.
#[derive(Debug, Default)]
pub(in crate::restore) struct Sifted {
    /// Pieces that have to be brought.
    pub wanted: Vec<Piece>,
    /// Bytes that are there.
    pub kept: u64,
}

/// Looks at every file that these pieces are of; those that are to be taken over get owner, mode and length. All pieces of
/// one chunk of a file should come together: a chunk is known by its whole content only.
///
/// `synced` makes files durable that need nothing: their bytes may still be on the way to the disk.
///
/// # Errors
/// As [`Target::open`]; `Io`.
pub(in crate::restore) fn sift(together: Together, synced: bool) -> Result<Sifted> {
    let mut sifting = Sifting {
        known: together.known,
        synced,
        buffer: Vec::new(),
        sifted: Sifted::default(),
    };
    let mut of_file: Vec<Piece> = Vec::new();
    for piece in together.pieces {
        if of_file
            .first()
            .is_some_and(|first| !Arc::ptr_eq(&first.target, &piece.target))
        {
            sifting.file(std::mem::take(&mut of_file))?;
        }
        of_file.push(piece);
    }
    sifting.file(of_file)?;
    Ok(sifting.sifted)
}

struct Sifting {
    known: Vec<Known>,
    synced: bool,
    buffer: Vec<u8>,
    sifted: Sifted,
}

impl Sifting {
    /// Looks at pieces of one file.
    fn file(&mut self, pieces: Vec<Piece>) -> Result<()> {
        let Some(first) = pieces.first() else { return Ok(()) };
        let target: Arc<Target> = first.target.clone();
        let Some(Opened { file, made }) = target.open()? else {
            self.sifted.wanted.extend(pieces);
            return Ok(());
        };
        if self.synced {
            file.sync_all()
                .map_err(|source| Error::io("make a file durable").source(source))?;
        }
        if made {
            // Its zeros are there: it is nothing but a hole yet.
            let (zeros, others): (Vec<Piece>, Vec<Piece>) = pieces
                .into_iter()
                .partition(|piece| matches!(piece.source, PieceSource::Zeros { .. } | PieceSource::Nothing));
            self.sifted.kept += zeros.iter().map(Piece::bytes).sum::<u64>();
            self.sifted.wanted.extend(others);
            return Ok(());
        }
        let pieces = self.by_page(&file, &target, pieces);
        let chunks = chunks_there(&file, &pieces, &mut self.buffer);
        for piece in pieces {
            let buffer = &mut self.buffer;
            let there = match &piece.source {
                PieceSource::Inline(bytes) => {
                    read(&file, piece.at, bytes.len(), buffer).is_some_and(|found| found == bytes)
                }
                PieceSource::Chunk { chunk, .. } => chunks[&key(chunk)],
                PieceSource::Zeros { bytes } => is_zero(&file, piece.at, *bytes, buffer),
                PieceSource::Nothing => true,
            };
            match there {
                true => self.sifted.kept += piece.bytes(),
                false => self.sifted.wanted.push(piece),
            }
        }
        Ok(())
    }

    /// Looks at the pages that are remembered; gives the pieces that are not.
    fn by_page(&mut self, file: &File, target: &Arc<Target>, pieces: Vec<Piece>) -> Vec<Piece> {
        let (mut others, mut wanted) = (Vec::new(), Vec::new());
        for piece in pieces {
            let PieceSource::Chunk { chunk, offset, bytes } = &piece.source else {
                others.push(piece);
                continue;
            };
            let covers =
                |known: &&Known| Arc::ptr_eq(&known.target, target) && known.covers(piece.at, piece.at + bytes);
            let Some(known) = self.known.iter().find(covers) else {
                others.push(piece);
                continue;
            };
            let mut differing = 0;
            for (at, length) in differing_pages(file, known, piece.at, *bytes, &mut self.buffer) {
                differing += length;
                wanted.push(Piece {
                    target: target.clone(),
                    at,
                    source: PieceSource::Chunk {
                        chunk: chunk.clone(),
                        // A piece ends within its chunk, whose length is a u32.
                        offset: offset + (at - piece.at) as u32,
                        bytes: length,
                    },
                });
            }
            self.sifted.kept += bytes - differing;
        }
        self.sifted.wanted.extend(wanted);
        others
    }
}

/// Runs of pages that are not the remembered ones: where they begin in the file, and how long they are.
fn differing_pages(file: &File, known: &Known, at: u64, bytes: u64, buffer: &mut Vec<u8>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let block = known.block_bytes();
    let mut next = at;
    while next < at + bytes {
        let length = (at + bytes - next).min(block);
        let same = read(file, next, length as usize, buffer).is_some_and(|page| known.is_same(next, page));
        match runs.last_mut() {
            _ if same => {}
            Some((begin, run)) if *begin + *run == next => *run += length,
            _ => runs.push((next, length)),
        }
        next += length;
    }
    runs
}

/// For each chunk that pieces of one file refer to, whether its content is there.
fn chunks_there(file: &File, pieces: &[Piece], buffer: &mut Vec<u8>) -> HashMap<ChunkKey, bool> {
    let mut by_chunk: HashMap<ChunkKey, (&Arc<Chunk>, Vec<Run>)> = HashMap::new();
    for piece in pieces {
        if let PieceSource::Chunk { chunk, offset, bytes } = &piece.source {
            let (offset, at, bytes) = (u64::from(*offset), piece.at, *bytes);
            let (_, runs) = by_chunk.entry(key(chunk)).or_insert_with(|| (chunk, Vec::new()));
            runs.push(Run { offset, at, bytes });
        }
    }
    let there = |(key, (chunk, runs)): (ChunkKey, (&Arc<Chunk>, Vec<Run>))| (key, is_there(file, chunk, runs, buffer));
    by_chunk.into_iter().map(there).collect()
}

/// Bytes of a chunk's content, and where they belong in the file.
#[derive(Clone, Copy, Debug)]
struct Run {
    offset: u64,
    at: u64,
    bytes: u64,
}

/// Whether the file has a chunk's content, all of it: only that can be told from its hash.
fn is_there(file: &File, chunk: &Chunk, runs: Vec<Run>, buffer: &mut Vec<u8>) -> bool {
    whole_content(chunk, runs).is_some_and(|runs| {
        buffer.clear();
        let read = runs.iter().all(|run| append(file, run.at, run.bytes as usize, buffer));
        read && Digest::of(buffer) == chunk.blake3
    })
}

/// The runs that make up a chunk's whole content, in order of content. Where the backup uses only a part of a chunk, the
/// rest of it may still be where it once was: between the parts, at the same distances.
fn whole_content(chunk: &Chunk, mut runs: Vec<Run>) -> Option<Vec<Run>> {
    let content_bytes = u64::from(chunk.content_bytes);
    runs.sort_by_key(|run| run.offset);
    let follows = |(before, after): (&Run, &Run)| before.offset + before.bytes == after.offset;
    let (first, last) = (runs.first()?, runs.last()?);
    let unbroken = runs.iter().zip(&runs[1..]).all(follows);
    if unbroken && first.offset == 0 && last.offset + last.bytes == content_bytes {
        return Some(runs);
    }
    let begin = first.at.checked_sub(first.offset)?;
    let at = |run: &Run| run.at.checked_sub(run.offset) == Some(begin);
    runs.iter().all(at).then(|| {
        vec![Run {
            offset: 0,
            at: begin,
            bytes: content_bytes,
        }]
    })
}

fn append(file: &File, at: u64, bytes: usize, buffer: &mut Vec<u8>) -> bool {
    let from = buffer.len();
    buffer.resize(from + bytes, 0);
    file.read_exact_at(&mut buffer[from..], at).is_ok()
}

fn read<'a>(file: &File, at: u64, bytes: usize, buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    buffer.clear();
    append(file, at, bytes, buffer).then_some(&buffer[..])
}

fn is_zero(file: &File, at: u64, bytes: u64, buffer: &mut Vec<u8>) -> bool {
    let mut at = at;
    let end = at + bytes;
    while at < end {
        // A hole need not be read.
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) if data >= end => return true,
            Ok(data) => at = at.max(data),
            Err(rustix::io::Errno::NXIO) => return true,
            Err(_) => {}
        }
        let length = (end - at).min(READ_BYTES as u64) as usize;
        let zero = read(file, at, length, buffer).is_some_and(|found| found.iter().all(|byte| *byte == 0));
        if !zero {
            return false;
        }
        at += length as u64;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(content: &[u8]) -> Chunk {
        Chunk {
            pack: Arc::new(pgkeep_store::ObjectName::new("packs/a/1/2/00000000").unwrap()),
            offset: 0,
            sealed_bytes: 1,
            content_bytes: content.len() as u32,
            blake3: Digest::of(content),
        }
    }

    fn run(offset: u64, at: u64, bytes: u64) -> Run {
        Run { offset, at, bytes }
    }

    /// Aim: a chunk is recognised by its whole content: of scattered pages in the chunk's order, and where only a part of
    /// it is used, by what once stood between.
    #[test]
    fn a_chunk_is_known_by_its_whole_content() {
        let mut buffer = Vec::new();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"..bbbb..aaaa....").unwrap();
        let file = File::open(&path).unwrap();
        let scattered = chunk(b"aaaabbbb");
        let both = vec![run(4, 2, 4), run(0, 8, 4)];
        assert!(is_there(&file, &scattered, both, &mut buffer));
        assert!(
            !is_there(&file, &scattered, vec![run(0, 8, 4)], &mut buffer),
            "half of it tells nothing"
        );
        let plain = chunk(b"bbbb..aaaa");
        assert!(is_there(&file, &plain, vec![run(0, 2, 4), run(6, 8, 4)], &mut buffer));
        assert!(is_there(&file, &plain, vec![run(6, 8, 4)], &mut buffer));
        assert!(!is_there(&file, &chunk(b"bbbbXXaaaa"), vec![run(6, 8, 4)], &mut buffer));
        assert!(
            !is_there(&file, &plain, vec![run(6, 4, 4)], &mut buffer),
            "it would begin before the file"
        );
        assert!(
            !is_there(&file, &plain, vec![run(6, 14, 4)], &mut buffer),
            "it would end behind the file"
        );
    }

    #[test]
    fn zeros_are_told_from_what_looks_empty() {
        let mut buffer = Vec::new();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.set_len(3 << 20).unwrap();
        assert!(is_zero(&file, 1, (3 << 20) - 1, &mut buffer));
        assert!(!is_zero(&file, 0, 1, &mut buffer));
        file.write_all_at(b"y", (2 << 20) + 7).unwrap();
        assert!(!is_zero(&file, 1, (3 << 20) - 1, &mut buffer));
        assert!(is_zero(&file, 1, (2 << 20) + 6, &mut buffer));
    }
}
