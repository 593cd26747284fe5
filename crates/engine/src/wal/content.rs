//! A WAL file on PostgreSQL's side: in memory, or on disk where it is too large for that.
//!
//! Invariant: opening never waits (a pipe is refused), and what is longer than any such file can be is not read.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pgkeep_base::{Error, Result, WalFile, limits};
use pgkeep_repo::wal::WalSource;
use rustix::fs::OFlags;

/// The largest `wal_segment_size`.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// The bytes of a file.
pub(crate) enum Content {
    Memory(Vec<u8>),
    Disk((File, u64)),
}

impl Content {
    pub(crate) fn open(path: &Path, file: &WalFile) -> Result<Content> {
        // Opening a pipe would wait for whoever writes to it.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path)?;
        let metadata = opened.metadata()?;
        if !metadata.is_file() {
            return Err(Error::invalid("it is not a regular file"));
        }
        let bytes = metadata.len();
        let largest = match file {
            WalFile::Segment(_) | WalFile::Partial(_) => SEGMENT_BYTES_MAX,
            WalFile::History(_) | WalFile::BackupHistory(_) => limits::HEADER_BYTES_MAX as u64,
        };
        if bytes > largest {
            return Err(Error::corrupt(format!(
                "it is {bytes} bytes long, more than any such file can be"
            )));
        }
        if bytes > limits::WAL_PART_BYTES {
            return Ok(Content::Disk((opened, bytes)));
        }
        let mut content = Vec::with_capacity(bytes as usize);
        opened.take(limits::WAL_PART_BYTES).read_to_end(&mut content)?;
        Ok(Content::Memory(content))
    }

    pub(crate) fn source(&self) -> &dyn WalSource {
        match self {
            Content::Memory(bytes) => bytes,
            Content::Disk(file) => file,
        }
    }

    /// All of it, in memory.
    pub(crate) fn into_bytes(self) -> Result<Vec<u8>> {
        match self {
            Content::Memory(bytes) => Ok(bytes),
            Content::Disk(file) => {
                let mut bytes = Vec::new();
                file.read(0, file.bytes() as usize, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    /// The first bytes, at most `length`.
    pub(crate) fn beginning(&self, length: usize) -> Result<Vec<u8>> {
        let mut buffer = Vec::new();
        let source = self.source();
        let length = length.min(source.bytes() as usize);
        source.read(0, length, &mut buffer).map(<[u8]>::to_vec)
    }
}
