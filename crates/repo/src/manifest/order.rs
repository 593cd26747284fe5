//! What must hold between entries: order, parents, spans, and what belongs to the manifest's end.
//!
//! Invariant: a sequence of entries that passed names no path twice, and each path lies below directories and
//! tablespaces of the same sequence. Memory is one path per level: order puts a directory right before its content.

use pgkeep_base::{Error, Result};

use super::entry::{Content, Entry, EntryKind, FileSpan, bad_entry};
use crate::paths::DataPath;

/// What is written after everything else, in this order; never in a block.
pub const LAST_PATHS: [&[u8]; 3] = [b"backup_label", b"tablespace_map", b"global/pg_control"];

/// Follows the entries of a manifest from the first to the last.
#[derive(Debug, Default)]
pub struct OrderCheck {
    previous: Option<DataPath>,
    open_file: Option<Entry>,
    directories: Vec<DataPath>,
    has_global: bool,
}

impl OrderCheck {
    /// Checks the next entry of a block; [`Entry::check`] is included.
    ///
    /// # Errors
    /// `Corrupt`, naming the path and the rule that it breaks.
    pub fn entry(&mut self, entry: &Entry) -> Result<()> {
        entry.check()?;
        if let Some(open) = &self.open_file {
            continues(open, entry)?;
        } else {
            self.begins(entry)?;
        }
        let unfinished = entry.file().is_some_and(|span| !span.is_last());
        self.open_file = unfinished.then(|| without_content(entry));
        Ok(())
    }

    fn begins(&mut self, entry: &Entry) -> Result<()> {
        let path = &entry.path;
        if self.previous.as_ref().is_some_and(|previous| previous == path) {
            return Err(bad_entry(path, "the path occurs twice"));
        }
        if self.previous.as_ref().is_some_and(|previous| previous > path) {
            return Err(bad_entry(path, "it is out of order"));
        }
        if entry.file().is_some_and(|span| span.at != 0) {
            return Err(bad_entry(path, "a span of a file whose beginning is missing"));
        }
        if LAST_PATHS.contains(&path.as_bytes()) {
            return Err(bad_entry(path, "it belongs to the end of the manifest"));
        }
        while self
            .directories
            .last()
            .is_some_and(|directory| !path.is_below(directory.as_bytes()))
        {
            self.directories.pop();
        }
        if path.parent() != self.directories.last().map(DataPath::as_bytes) {
            return Err(bad_entry(path, "it lies below what is not a directory of the manifest"));
        }
        if entry.is_directory() {
            self.directories.push(path.clone());
            self.has_global |= path.as_bytes() == b"global";
        }
        self.previous = Some(path.clone());
        Ok(())
    }

    /// Checks that nothing is missing, and the entries of `last`.
    ///
    /// # Errors
    /// `Corrupt`, naming what is missing or out of place.
    pub fn finish(self, last: &[Entry]) -> Result<()> {
        if let Some(open) = &self.open_file {
            return Err(bad_entry(&open.path, "the rest of the file is missing"));
        }
        check_last(last)?;
        if !self.has_global {
            return Err(Error::corrupt("the manifest has no directory \"global\""));
        }
        Ok(())
    }
}

/// Checks the entries of `last` by themselves.
pub(super) fn check_last(last: &[Entry]) -> Result<()> {
    let mut places = Vec::with_capacity(LAST_PATHS.len());
    for entry in last {
        entry.check_last()?;
        let place = LAST_PATHS.iter().position(|path| *path == entry.path.as_bytes());
        let inline = entry.file().is_some_and(FileSpan::is_inline);
        match place {
            Some(place) if inline => places.push(place),
            _ => return Err(bad_entry(&entry.path, "it does not belong to the end of the manifest")),
        }
    }
    if !places.is_sorted_by(|a, b| a < b) || !places.contains(&0) || !places.contains(&2) {
        return Err(Error::corrupt("the end of the manifest is not valid")
            .detail("it must be backup_label, tablespace_map if there is one, and global/pg_control"));
    }
    Ok(())
}

fn continues(open: &Entry, entry: &Entry) -> Result<()> {
    let (Some(before), true) = (open.file(), open.path == entry.path) else {
        return Err(bad_entry(&open.path, "the rest of the file is missing"));
    };
    let same = open.mode == entry.mode
        && open.owner == entry.owner
        && open.group == entry.group
        && open.mtime == entry.mtime
        && entry
            .file()
            .is_some_and(|span| span.bytes == before.bytes && span.at == before.at + before.span_bytes());
    if same {
        Ok(())
    } else {
        Err(bad_entry(&entry.path, "a span does not continue the one before it"))
    }
}

/// The entry without its extents: what the next span is compared with.
fn without_content(entry: &Entry) -> Entry {
    let kind = match entry.file() {
        None => entry.kind.clone(),
        Some(span) => EntryKind::File(FileSpan {
            content: Content::Inline(Vec::new()),
            bad_pages: Vec::new(),
            ..*span
        }),
    };
    Entry {
        path: entry.path.clone(),
        kind,
        mode: entry.mode,
        owner: entry.owner.clone(),
        group: entry.group.clone(),
        mtime: entry.mtime,
    }
}
