//! Files to be written and the pieces that they consist of.
//!
//! Invariant: a file is made, or taken over, once, by whoever comes first, with its owner, mode and length; every piece
//! goes to its own place in it. What no piece covers is a hole. No file stays open between pieces, so that a job of many
//! small files needs few descriptors; one that was swapped for another meanwhile is not written to.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex};

use pgkeep_base::{Error, Result, failpoint};
use pgkeep_repo::manifest::Chunk;
use rustix::fs::{FallocateFlags, OFlags};

use super::directory::{Directory, Making, failed};

/// What is compared and written as a unit where a file is taken over: one page of PostgreSQL, unless built otherwise.
const PAGE_BYTES: usize = 8192;

/// How a file comes to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::restore) enum Taking {
    /// It must not be there. A length is given where pieces alone don't make it as long as it must be.
    Create {
        /// The length.
        length: Option<u64>,
    },
    /// What is there is taken over, and brought to this length.
    Over {
        /// The length.
        length: u64,
    },
    /// What is there is only looked at.
    Look,
}

/// A file that several workers may work on.
#[derive(Debug)]
pub(in crate::restore) struct Target {
    directory: Arc<Directory>,
    name: Box<[u8]>,
    making: Making,
    taking: Taking,
    begun: Mutex<Option<Begun>>,
}

/// What became of a file when the first worker came to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Begun {
    device: u64,
    inode: u64,
    /// Nothing was there before.
    made: bool,
}

/// An open file.
pub(in crate::restore) struct Opened {
    pub file: File,
    /// Nothing was there before this restore.
    pub made: bool,
}

/// A run of bytes of a file.
#[derive(Debug)]
pub(in crate::restore) struct Piece {
    pub target: Arc<Target>,
    pub at: u64,
    pub source: PieceSource,
}

/// Where the bytes come from.
#[derive(Debug)]
pub(in crate::restore) enum PieceSource {
    /// The manifest; also for empty files.
    Inline(Vec<u8>),
    /// So many bytes of a chunk from `offset` on.
    Chunk { chunk: Arc<Chunk>, offset: u32, bytes: u64 },
    /// So many zeros, where something else may be.
    Zeros { bytes: u64 },
    /// A hole, in a file that has nothing else.
    Nothing,
}

impl Target {
    pub fn new(directory: Arc<Directory>, name: &[u8], making: Making, taking: Taking) -> Target {
        Target {
            directory,
            name: name.into(),
            making,
            taking,
            begun: Mutex::new(None),
        }
    }

    /// Tells its directory from others that are open.
    pub fn directory_address(&self) -> usize {
        Arc::as_ptr(&self.directory).addr()
    }

    /// Opens the file; the first caller makes it or takes it over. `None` where it is only to be looked at, and is not
    /// there.
    pub fn open(&self) -> Result<Option<Opened>> {
        let mut begun = self.begun.lock().expect("nobody panics while a file is begun");
        if let Some(begun) = *begun {
            return self.reopen(begun).map(Some);
        }
        let (file, made) = match self.taking {
            Taking::Create { length } => {
                let file = self.directory.create(&self.name, self.making)?;
                if let Some(length) = length {
                    file.set_len(length).map_err(|source| self.failed(source))?;
                }
                (file, true)
            }
            Taking::Over { length } => self.directory.take_over_file(&self.name, self.making, length)?,
            Taking::Look => match self.directory.open_own(&self.name, OFlags::RDONLY)? {
                Some(file) => (file, false),
                None => return Ok(None),
            },
        };
        let metadata = file.metadata().map_err(|source| self.failed(source))?;
        *begun = Some(Begun {
            device: metadata.dev(),
            inode: metadata.ino(),
            made,
        });
        Ok(Some(Opened { file, made }))
    }

    fn reopen(&self, begun: Begun) -> Result<Opened> {
        let access = match self.taking {
            Taking::Look => OFlags::RDONLY,
            _ => OFlags::RDWR,
        };
        let file = self.directory.open_own(&self.name, access)?;
        let same = |file: &File| {
            let metadata = file.metadata();
            metadata.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (begun.device, begun.inode))
        };
        let file = file.filter(same).ok_or_else(|| {
            Error::conflict(format!("{} was replaced", self.directory.shown(&self.name).display()))
                .detail("somebody else writes into the place of this restore")
                .hint("See who does; then run the same `pgkeep restore` again.")
        })?;
        let made = begun.made;
        Ok(Opened { file, made })
    }

    fn failed(&self, source: std::io::Error) -> Error {
        failed(format!("write {}", self.directory.shown(&self.name).display()), source)
    }
}

impl Piece {
    /// Brings these bytes to where the piece belongs; `synced` makes the file durable at once. Returns how many bytes had
    /// to be written: where something was there before, only pages that differ are.
    pub fn write(&self, bytes: &[u8], synced: bool) -> Result<u64> {
        let failed = |source| self.target.failed(source);
        let Some(Opened { file, made }) = self.target.open()? else {
            return Err(Error::internal("a file that is only looked at is not written to"));
        };
        failpoint::at("engine.restore.extent").map_err(failed)?;
        let written = match &self.source {
            PieceSource::Zeros { bytes } => {
                if !made {
                    punch(&file, self.at, *bytes).map_err(failed)?;
                }
                *bytes
            }
            _ if made => {
                file.write_all_at(bytes, self.at).map_err(failed)?;
                bytes.len() as u64
            }
            _ => write_differing(&file, self.at, bytes).map_err(failed)?,
        };
        if synced {
            file.sync_all().map_err(failed)?;
        }
        Ok(written)
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        match &self.source {
            PieceSource::Inline(bytes) => bytes.len() as u64,
            PieceSource::Chunk { bytes, .. } | PieceSource::Zeros { bytes } => *bytes,
            PieceSource::Nothing => 0,
        }
    }
}

fn write_differing(file: &File, at: u64, bytes: &[u8]) -> std::io::Result<u64> {
    let mut there = vec![0; bytes.len()];
    if file.read_exact_at(&mut there, at).is_err() {
        // What can't be read may yet be written: a bad sector is replaced then.
        return file.write_all_at(bytes, at).map(|()| bytes.len() as u64);
    }
    let mut written = 0;
    let mut position = 0;
    let pages = bytes.chunks(PAGE_BYTES).zip(there.chunks(PAGE_BYTES));
    let differ: Vec<(bool, usize)> = pages.map(|(new, old)| (new != old, new.len())).collect();
    for run in differ.chunk_by(|a, b| a.0 == b.0) {
        let length: usize = run.iter().map(|(_, bytes)| bytes).sum();
        if run[0].0 {
            file.write_all_at(&bytes[position..position + length], at + position as u64)?;
            written += length as u64;
        }
        position += length;
    }
    Ok(written)
}

/// Makes a hole; writes zeros where the file system has none.
fn punch(file: &File, at: u64, bytes: u64) -> std::io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if bytes == 0 || rustix::fs::fallocate(file, flags, at, bytes).is_ok() {
        return Ok(());
    }
    let zeros = vec![0; bytes.min(1 << 20) as usize];
    let mut done = 0;
    while done < bytes {
        let length = (bytes - done).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..length], at + done)?;
        done += length as u64;
    }
    Ok(())
}
