//! One entry of a manifest: a directory, a tablespace, or a span of a file with its extents.
//!
//! Invariant: an entry that passed [`Entry::check`] describes exactly the bytes of its span: its extents lie within
//! their chunks and add up, without overflow. How it looks in JSON: `entry_json`; order and parents: `order`.

use std::sync::Arc;

use pgkeep_base::limits::CHUNK_BYTES_MAX;
use pgkeep_base::{Error, Result};
use pgkeep_store::ObjectName;

use crate::digest::Digest;
use crate::paths::DataPath;

/// Files longer than this are several entries, each of this length but the last.
pub const SPAN_BYTES_MAX: u64 = 1 << 30;
/// Files up to this length are in the manifest itself.
pub const INLINE_BYTES_MAX: u64 = 1 << 10;
/// The longest file that can be described; the offsets of operating systems are signed.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// A chunk and its address: one frame of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// Logical name of the pack.
    pub pack: Arc<ObjectName>,
    /// Where its frame begins in the pack's body.
    pub offset: u64,
    /// Length of the frame without its length word.
    pub sealed_bytes: u32,
    /// Length of its content.
    pub content_bytes: u32,
    /// Hash of its content.
    pub blake3: Digest,
}

/// Where the bytes of an extent come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Zeros: a hole, if you like.
    Zeros,
    /// A chunk's content, from `offset` on.
    Chunk {
        /// The chunk; extents of the same chunk share it.
        chunk: Arc<Chunk>,
        /// First byte of the content that is meant.
        offset: u32,
    },
}

/// A run of bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How many; never 0.
    pub bytes: u64,
    /// Which.
    pub source: Source,
}

/// The content of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The bytes themselves.
    Inline(Vec<u8>),
    /// Runs in order, without gaps.
    Extents(Vec<Extent>),
}

/// A file, or 1 GiB of a longer one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpan {
    /// Length of the whole file.
    pub bytes: u64,
    /// Where this span begins in the file: a multiple of 1 GiB.
    pub at: u64,
    /// What is in it.
    pub content: Content,
    /// Pages of this span that failed PostgreSQL's checksum when they were read, counted from the file's beginning.
    pub bad_pages: Vec<u64>,
}

impl FileSpan {
    /// How many bytes this span covers.
    pub fn span_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.at).min(SPAN_BYTES_MAX)
    }

    /// Whether the content is in the manifest itself.
    pub fn is_inline(&self) -> bool {
        matches!(self.content, Content::Inline(_))
    }

    /// Whether the file ends with this span.
    pub fn is_last(&self) -> bool {
        self.at + self.span_bytes() == self.bytes
    }
}

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A link `pg_tblspc/<oid>`, or (without location) a directory in its place.
    Tablespace {
        /// Where the link pointed.
        location: Option<Vec<u8>>,
    },
    /// A file, or a span of one.
    File(FileSpan),
}

/// One entry of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the data directory.
    pub path: DataPath,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Its owner, only where it differs from the head's.
    pub owner: Option<String>,
    /// Its group, only where it differs from the head's.
    pub group: Option<String>,
    /// Seconds since 1970, informative.
    pub mtime: i64,
}

impl Entry {
    /// The span, if this is a file.
    pub fn file(&self) -> Option<&FileSpan> {
        match &self.kind {
            EntryKind::File(span) => Some(span),
            _ => None,
        }
    }

    /// Whether something may lie below it.
    pub fn is_directory(&self) -> bool {
        !matches!(self.kind, EntryKind::File(_))
    }

    /// Checks what can be known without other entries; run before an entry is written and after it was read.
    ///
    /// # Errors
    /// `Corrupt`, naming the path and the rule that is broken.
    pub fn check(&self) -> Result<()> {
        self.check_with(INLINE_BYTES_MAX)
    }

    /// As [`Entry::check`], for the entries in `last`, where any length may be inline.
    pub fn check_last(&self) -> Result<()> {
        self.check_with(FILE_BYTES_MAX)
    }

    fn check_with(&self, inline_bytes_max: u64) -> Result<()> {
        let rule = match &self.kind {
            _ if self.mode > 0o7777 => Some("its mode is not one"),
            EntryKind::Directory => None,
            EntryKind::Tablespace { .. } if self.path.tablespace_oid().is_none() => {
                Some("a tablespace is at pg_tblspc/<oid>")
            }
            EntryKind::Tablespace { location } => {
                let bad = location.as_ref().is_some_and(|l| l.is_empty() || l.contains(&0));
                bad.then_some("its location is not a path")
            }
            EntryKind::File(span) => span.broken_rule(inline_bytes_max),
        };
        match rule {
            None => Ok(()),
            Some(rule) => Err(bad_entry(&self.path, rule)),
        }
    }
}

/// An entry that breaks a rule of the format.
pub(crate) fn bad_entry(path: &DataPath, rule: impl Into<String>) -> Error {
    Error::corrupt(format!("the manifest's entry \"{path}\" is not valid"))
        .detail(rule)
        .hint("Restore another backup; `pgkeep list` shows them.")
}

impl FileSpan {
    fn broken_rule(&self, inline_bytes_max: u64) -> Option<&'static str> {
        if self.bytes > FILE_BYTES_MAX {
            return Some("no file can be that long");
        }
        let begins_in_file = self.at < self.bytes || self.at == 0;
        if !self.at.is_multiple_of(SPAN_BYTES_MAX) || !begins_in_file {
            return Some("its span does not begin at a multiple of 1 GiB in the file");
        }
        if !self.bad_pages.is_sorted_by(|a, b| a < b) {
            return Some("its bad pages are not in order");
        }
        match &self.content {
            Content::Inline(data) if data.len() as u64 != self.bytes => Some("its data is not as long as the file"),
            Content::Inline(_) if self.bytes > inline_bytes_max => Some("its data is too long to be inline"),
            Content::Inline(_) => None,
            Content::Extents(extents) => self.broken_extent_rule(extents),
        }
    }

    fn broken_extent_rule(&self, extents: &[Extent]) -> Option<&'static str> {
        let mut sum = 0u64;
        for extent in extents {
            match &extent.source {
                _ if extent.bytes == 0 => return Some("it has an empty extent"),
                Source::Zeros => {}
                Source::Chunk { chunk, .. } if u64::from(chunk.content_bytes) > CHUNK_BYTES_MAX => {
                    return Some("a chunk of a file is longer than 1 MiB");
                }
                Source::Chunk { chunk, offset } => {
                    let end = extent.bytes.checked_add(u64::from(*offset));
                    if end.is_none_or(|end| end > u64::from(chunk.content_bytes)) {
                        return Some("an extent reaches past the end of its chunk");
                    }
                }
            }
            match sum.checked_add(extent.bytes) {
                Some(next) => sum = next,
                None => return Some("its extents do not add up"),
            }
        }
        (sum != self.span_bytes()).then_some("its extents do not add up to its length")
    }
}
