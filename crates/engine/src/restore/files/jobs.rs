//! Groups pieces into jobs that are worth a request, and does them.
//!
//! Invariant: a job holds at most 4 MiB of chunks and few files, whatever the sizes of the files are: many small ones
//! share a job, a large one has many. A job in work holds those contents and the sealed bytes of one request, and all
//! jobs together so few open directories that a limit of 256 open files is enough.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pgkeep_base::{Error, Result};
use pgkeep_repo::manifest::Chunk;
use pgkeep_repo::reader::{ChunkSource, Fetch};

use super::target::{Piece, PieceSource};

/// Most content of a job's chunks: several jobs, and what the allocator keeps of each, must fit the ceiling of memory.
const CONTENT_BYTES_MAX: u64 = 4 << 20;
/// Most pieces of a job.
const PIECES_MAX: usize = 1024;
/// Most bytes from the manifest in a job.
const INLINE_BYTES_MAX: u64 = 256 << 10;
/// Most directories that the files of a job lie in: each is open as long as the job lives.
pub(super) const DIRECTORIES_MAX: usize = 12;
/// How many jobs may be in work at once, so that they fit the ceiling of memory.
pub(super) const JOBS_MAX: usize = 6;

/// Pieces that are written together.
#[derive(Debug, Default)]
pub(in crate::restore) struct Job {
    pieces: Vec<Piece>,
}

/// Collects pieces into jobs.
#[derive(Debug, Default)]
pub(in crate::restore) struct JobBuilder {
    job: Job,
    chunks: HashSet<ChunkKey>,
    content_bytes: u64,
    inline_bytes: u64,
    /// Addresses: what the pieces keep alive has one of its own.
    directories: HashSet<usize>,
}

/// Names a chunk.
pub(super) type ChunkKey = (Arc<pgkeep_store::ObjectName>, u64);

pub(super) fn key(chunk: &Chunk) -> ChunkKey {
    (chunk.pack.clone(), chunk.offset)
}

impl JobBuilder {
    /// Adds a piece; gives the job that is full without it.
    pub fn push(&mut self, piece: Piece) -> Option<Job> {
        let finished = if self.is_full_for(&piece) { self.finish() } else { None };
        self.directories.insert(piece.target.directory_address());
        match &piece.source {
            PieceSource::Chunk { chunk, .. } => {
                if self.chunks.insert(key(chunk)) {
                    self.content_bytes += u64::from(chunk.content_bytes);
                }
            }
            PieceSource::Inline(bytes) => self.inline_bytes += bytes.len() as u64,
            PieceSource::Nothing | PieceSource::Zeros { .. } => {}
        }
        self.job.pieces.push(piece);
        finished
    }

    fn is_full_for(&self, piece: &Piece) -> bool {
        let new_bytes = match &piece.source {
            PieceSource::Chunk { chunk, .. } if !self.chunks.contains(&key(chunk)) => u64::from(chunk.content_bytes),
            _ => 0,
        };
        let new_directory = !self.directories.contains(&piece.target.directory_address());
        self.content_bytes + new_bytes > CONTENT_BYTES_MAX
            || self.inline_bytes > INLINE_BYTES_MAX
            || self.job.pieces.len() >= PIECES_MAX
            || (new_directory && self.directories.len() >= DIRECTORIES_MAX)
    }

    /// The job with what is left.
    pub fn finish(&mut self) -> Option<Job> {
        let JobBuilder { job, .. } = std::mem::take(self);
        (!job.pieces.is_empty()).then_some(job)
    }
}

/// What came of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::restore) struct Done {
    /// Bytes that are as they shall be now.
    pub bytes: u64,
    /// Of these, how many had to be written.
    pub written: u64,
    /// Bytes that were read from the repository.
    pub fetched: u64,
}

impl std::ops::AddAssign for Done {
    fn add_assign(&mut self, other: Done) {
        self.bytes += other.bytes;
        self.written += other.written;
        self.fetched += other.fetched;
    }
}

impl Job {
    /// How many bytes of the repository it needs.
    ///
    /// # Errors
    /// As [`ChunkSource::plan`].
    pub fn bytes_to_fetch(&self, source: &ChunkSource) -> Result<u64> {
        let chunk = |piece: &Piece| match &piece.source {
            PieceSource::Chunk { chunk, .. } => Some(chunk.clone()),
            _ => None,
        };
        let chunks: Vec<Arc<Chunk>> = self.pieces.iter().filter_map(chunk).collect();
        Ok(source.plan(&chunks)?.iter().map(Fetch::bytes).sum())
    }

    /// Reads what it needs and writes its pieces; `synced` makes each file durable at once.
    ///
    /// # Errors
    /// As [`ChunkSource::fetch`]; `Io` where a file can't be written.
    pub async fn run(self, source: &ChunkSource, synced: bool) -> Result<Done> {
        let mut done = Done {
            bytes: self.pieces.iter().map(Piece::bytes).sum(),
            ..Done::default()
        };
        let mut by_chunk: HashMap<ChunkKey, Vec<Piece>> = HashMap::new();
        let (mut chunks, mut at_hand) = (Vec::new(), Vec::new());
        for piece in self.pieces {
            if let PieceSource::Chunk { chunk, .. } = &piece.source {
                chunks.push(chunk.clone());
                by_chunk.entry(key(chunk)).or_default().push(piece);
            } else {
                at_hand.push(piece);
            }
        }
        if !at_hand.is_empty() {
            done.written += write(vec![(Vec::new(), at_hand)], synced).await?;
        }
        for fetch in source.plan(&chunks)? {
            done.fetched += fetch.bytes();
            let wanted = fetch.chunks().to_vec();
            let contents = source.fetch(fetch).await?;
            let take = |(chunk, content): (Arc<Chunk>, Vec<u8>)| {
                let pieces = by_chunk.remove(&key(&chunk)).unwrap_or_default();
                (content, pieces)
            };
            done.written += write(wanted.into_iter().zip(contents).map(take).collect(), synced).await?;
        }
        match by_chunk.is_empty() {
            true => Ok(done),
            false => Err(Error::internal("a chunk that was asked for was not read")),
        }
    }
}

/// Writes pieces of contents, on a thread that may block; gives how many bytes that took.
async fn write(contents: Vec<(Vec<u8>, Vec<Piece>)>, synced: bool) -> Result<u64> {
    let work = move || {
        let mut written = 0;
        for (content, pieces) in &contents {
            for piece in pieces {
                written += write_piece(content, piece, synced)?;
            }
        }
        Ok(written)
    };
    let written = tokio::task::spawn_blocking(work).await;
    written.map_err(|source| Error::internal("writing files failed").source(source))?
}

fn write_piece(content: &[u8], piece: &Piece, synced: bool) -> Result<u64> {
    match &piece.source {
        PieceSource::Inline(bytes) => piece.write(bytes, synced),
        PieceSource::Nothing | PieceSource::Zeros { .. } => piece.write(&[], synced),
        PieceSource::Chunk { offset, bytes, .. } => {
            let from = *offset as usize;
            let part = content.get(from..from + *bytes as usize);
            // The entry was checked, and the content has the length that its address says.
            let part = part.ok_or_else(|| Error::internal("a piece reaches past the end of its chunk"))?;
            piece.write(part, synced)
        }
    }
}
