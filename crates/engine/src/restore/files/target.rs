//! Files to be written and the pieces that they consist of.
//!
//! Invariant: a file is created once, by whoever writes its first piece, with its owner, mode and length; every piece
//! goes to its own place in it. What no piece covers is a hole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use pgkeep_base::{Error, Result, failpoint};
use pgkeep_repo::manifest::Chunk;

use super::directory::{Directory, Making, failed};

/// A file that is being written by several workers.
#[derive(Debug)]
pub(super) struct Target {
    pub directory: Arc<Directory>,
    pub name: Box<[u8]>,
    pub making: Making,
    /// Set where pieces alone don't make it as long as it must be.
    pub length: Option<u64>,
    file: Mutex<Option<Arc<File>>>,
}

/// A run of bytes of a file.
#[derive(Debug)]
pub(super) struct Piece {
    pub target: Arc<Target>,
    pub at: u64,
    pub source: PieceSource,
}

/// Where the bytes come from.
#[derive(Debug)]
pub(super) enum PieceSource {
    /// The manifest; also for empty files.
    Inline(Vec<u8>),
    /// So many bytes of a chunk from `offset` on.
    Chunk { chunk: Arc<Chunk>, offset: u32, bytes: u64 },
    /// A hole, in a file that has nothing else.
    Nothing,
}

impl Target {
    pub fn new(directory: Arc<Directory>, name: &[u8], making: Making, length: Option<u64>) -> Target {
        Target {
            directory,
            name: name.into(),
            making,
            length,
            file: Mutex::new(None),
        }
    }

    /// The open file; creates it for the first caller.
    pub fn open(&self) -> Result<Arc<File>> {
        let mut slot = self.file.lock().expect("nobody panics while creating a file");
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = self.directory.create(&self.name, self.making)?;
        if let Some(length) = self.length {
            file.set_len(length).map_err(|source| self.failed(source))?;
        }
        let file = Arc::new(file);
        *slot = Some(file.clone());
        Ok(file)
    }

    /// Makes what was written until now durable.
    pub fn sync(&self) -> Result<()> {
        self.open()?.sync_all().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> Error {
        failed(format!("write {}", self.directory.shown(&self.name).display()), source)
    }
}

impl Piece {
    /// Writes these bytes to where the piece belongs.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let file = self.target.open()?;
        failpoint::at("engine.restore.extent")
            .and_then(|()| file.write_all_at(bytes, self.at))
            .map_err(|source| self.target.failed(source))
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        match &self.source {
            PieceSource::Inline(bytes) => bytes.len() as u64,
            PieceSource::Chunk { bytes, .. } => *bytes,
            PieceSource::Nothing => 0,
        }
    }
}
