//! Lists objects below a directory, in byte order of their names.
//!
//! A directory sorts as its name plus `/`, so that the order is that of whole names, as S3 has it. What vanishes while
//! we look is left out; what is not a legal name (unfinished files, an operator's notes) is left out, too.

use std::path::{Path, PathBuf};

use pgkeep_base::{Result, failpoint};

use super::{io_error, meta};
use crate::name::{NAME_BYTES_MAX, is_segment};
use crate::{ObjectMeta, ObjectName};

/// Objects that one step may return.
const BATCH: usize = 512;

/// A listing in progress.
#[derive(Debug)]
pub(super) struct Walk {
    root: PathBuf,
    after: Option<ObjectName>,
    /// What is still to be shown, the next one last. Directories end in `/`.
    pending: Vec<String>,
}

impl Walk {
    pub(super) fn new(root: PathBuf, prefix: String, after: Option<ObjectName>) -> Walk {
        let pending = vec![if prefix.is_empty() { prefix } else { prefix + "/" }];
        Walk { root, after, pending }
    }

    /// The next objects; none when the listing is at its end.
    pub(super) fn next_batch(&mut self) -> Result<Vec<ObjectMeta>> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some(path) = self.pending.pop() else { break };
            if path.is_empty() || path.ends_with('/') {
                self.enter(&path)?;
            } else if let Some(found) = self.look(path)? {
                batch.push(found);
            }
        }
        Ok(batch)
    }

    fn enter(&mut self, directory: &str) -> Result<()> {
        let mut entries: Vec<String> = read_directory(&self.root, directory)?
            .into_iter()
            .map(|(name, is_directory)| format!("{directory}{name}{}", if is_directory { "/" } else { "" }))
            .filter(|path| path.len() <= NAME_BYTES_MAX && self.may_hold_more(path))
            .collect();
        entries.sort_unstable_by(|a, b| b.cmp(a));
        self.pending.append(&mut entries);
        Ok(())
    }

    /// Whether anything at or below `path` comes after the name that the caller has already seen.
    fn may_hold_more(&self, path: &str) -> bool {
        self.after
            .as_ref()
            .is_none_or(|after| path > after.as_str() || (path.ends_with('/') && after.as_str().starts_with(path)))
    }

    fn look(&self, path: String) -> Result<Option<ObjectMeta>> {
        match std::fs::metadata(self.root.join(&path)) {
            Ok(found) if found.is_file() => Ok(Some(meta(ObjectName::new(path)?, &found))),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(error)),
        }
    }
}

/// The directories directly below `prefix`, sorted.
pub(super) fn directories(root: &Path, prefix: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = read_directory(root, prefix)?
        .into_iter()
        .filter_map(|(name, is_directory)| is_directory.then_some(name))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// The legal names in a directory, and whether each is a directory itself. A missing directory is empty.
fn read_directory(root: &Path, directory: &str) -> Result<Vec<(String, bool)>> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    failpoint::at("store.file.list").map_err(io_error)?;
    let path = root.join(directory);
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(io_error(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // A root that is a mount point may hold fsck's own directory, which only the superuser can read.
        if !is_segment(&name) || (directory.is_empty() && name == "lost+found") {
            continue;
        }
        let is_directory = match entry.file_type() {
            Ok(kind) if kind.is_symlink() => std::fs::metadata(entry.path()).is_ok_and(|target| target.is_dir()),
            Ok(kind) => kind.is_dir(),
            Err(error) if error.kind() == NotFound => continue,
            Err(error) => return Err(io_error(error)),
        };
        names.push((name, is_directory));
    }
    Ok(names)
}
