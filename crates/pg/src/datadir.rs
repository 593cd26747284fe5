//! The data directory as a base backup sees it: every file once, in one order, with what it is.
//!
//! Invariant: whatever lies below PGDATA or in a tablespace is yielded, or stands in [`exclude::EXCLUSIONS`], or is
//! reported as skipped, or ends the walk with an error that names it. Nothing is left out silently.
//! The walk only lists and stats; the caller reads the files, `global/pg_control` last and through
//! [`crate::control::ControlFile::read_at`].
//! Read next: `walk.rs` for the order and the links, `classify.rs` for the path grammar, `exclude.rs` for the table of
//! what is left out, `tablespaces.rs` for what a tablespace may be, `own.rs` for which files a server makes by itself.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use pgkeep_base::{Error, ErrorKind, Result, ResultExt};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::control::ControlFile;

pub mod classify;
pub mod exclude;
pub mod names;
pub mod own;
pub mod path;
pub mod tablespaces;
pub mod walk;

pub use classify::{Class, Fork, RelSegment, classify};
pub use exclude::{EXCLUSIONS, Exclusion};
pub use names::Names;
pub use own::is_postgresqls_own;
pub use path::RelPath;
pub use tablespaces::Tablespace;
pub use walk::{Found, SkipReason, Walk};

/// One file, directory or tablespace link below a data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Relative to the data directory; files of tablespaces are below `pg_tblspc/<oid>/`.
    pub path: RelPath,
    /// File, directory or tablespace.
    pub kind: EntryKind,
    /// What the file is to a backup; `Other` for directories and tablespaces.
    pub class: Class,
    /// Permission bits (`07777`); of the location for a tablespace, of the target for a linked file.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content, in nanoseconds since 1970 UTC.
    pub mtime_ns: i64,
    /// Last change of content or metadata, in nanoseconds since 1970 UTC; user space can't set it.
    pub ctime_ns: i64,
    /// The file system that it lies on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Where a symbolic link pointed, if one led here: the entry describes what the link points to, and a restore
    /// makes a plain file or directory.
    pub link_target: Option<PathBuf>,
}

/// What an [`Entry`] is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its size when it was looked at; it may grow, shrink or vanish before it is read.
        bytes: u64,
    },
    /// A directory.
    Directory,
    /// The link `pg_tblspc/<oid>`; what lies in it follows.
    Tablespace(Tablespace),
}

/// An open data directory whose `PG_VERSION` and `pg_control` could be read.
#[derive(Debug)]
pub struct DataDir {
    root: OwnedFd,
    path: PathBuf,
    control: ControlFile,
}

impl DataDir {
    /// Opens a data directory, following links to it, and reads its control file.
    ///
    /// # Errors
    /// `Refused` where it is not a data directory, `Denied` where it may not be read; `Corrupt` and `Unsupported` as
    /// [`ControlFile::read_with_bytes`].
    pub fn open(path: &Path) -> Result<DataDir> {
        let canonical = path
            .canonicalize()
            .during(|| format!("open data directory {}", path.display()))?;
        let root = open_directory(rustix::fs::CWD, &canonical, OFlags::empty())
            .map_err(|errno| system_error(errno, format!("open data directory {}", canonical.display())))?;
        let (control, _) = ControlFile::read_at(&root).map_err(|error| match error.kind() {
            ErrorKind::NotFound => not_a_data_directory(&canonical, error),
            _ => error.during(format!("read the control file of {}", canonical.display())),
        })?;
        Ok(DataDir {
            root,
            path: canonical,
            control,
        })
    }

    /// Where it is, with no links left in the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The control file as it was when the directory was opened.
    pub fn control(&self) -> &ControlFile {
        &self.control
    }

    /// Reads the control file anew, with the very bytes that were verified.
    ///
    /// # Errors
    /// As [`ControlFile::read_with_bytes`].
    pub fn read_control(&self) -> Result<(ControlFile, Vec<u8>)> {
        ControlFile::read_at(&self.root)
    }

    /// The data directory itself, with an empty path: its mode and owner matter to a restore.
    ///
    /// # Errors
    /// `Io` where it can't be looked at.
    pub fn root_entry(&self) -> Result<Entry> {
        let stat =
            rustix::fs::fstat(&self.root).map_err(|errno| system_error(errno, self.path.display().to_string()))?;
        Ok(Entry::new(RelPath::ROOT, EntryKind::Directory, Class::Other, &stat))
    }

    /// The tablespaces that are links, by ascending OID; in-place ones are plain directories below `pg_tblspc`.
    ///
    /// # Errors
    /// `Refused` for what [`tablespaces`] refuses.
    pub fn tablespaces(&self) -> Result<Vec<Tablespace>> {
        tablespaces::list(&self.path, &self.root)
    }

    /// Begins a walk of the directory and its tablespaces.
    ///
    /// # Errors
    /// `Io` or `Denied` where the directory can't be listed.
    pub fn walk(&self) -> Result<Walk> {
        Walk::begin(self)
    }

    /// Opens a file of the walk for reading; `None` if it has vanished, as relations do.
    ///
    /// # Errors
    /// `Denied` or `Io`, naming the file; `Refused` where something that isn't a regular file took its place.
    pub fn open_file(&self, entry: &Entry) -> Result<Option<File>> {
        let follow = if entry.link_target.is_some() {
            OFlags::empty()
        } else {
            OFlags::NOFOLLOW
        };
        // NONBLOCK: a fifo that took the file's place must not hang the backup.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | follow;
        let file = match rustix::fs::openat(&self.root, entry.path.as_path(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(system_error(errno, format!("open {}", entry.path))),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| system_error(errno, format!("open {}", entry.path)))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Ok(Some(File::from(file)));
        }
        Err(Error::refused(format!("{} is no longer a regular file", entry.path)))
    }

    /// The open directory.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Entry {
    fn new(path: RelPath, kind: EntryKind, class: Class, stat: &Stat) -> Entry {
        // The field types of `stat` differ between machines, hence the casts.
        #[allow(clippy::unnecessary_cast)]
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        #[allow(clippy::unnecessary_cast)]
        Entry {
            path,
            kind,
            class,
            mode: stat.st_mode as u32 & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime_ns: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            link_target: None,
        }
    }

    /// Size of a regular file; 0 for everything else.
    pub fn bytes(&self) -> u64 {
        match self.kind {
            EntryKind::File { bytes } => bytes,
            _ => 0,
        }
    }
}

fn open_directory(at: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | flags;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

fn stat_at(dir: impl AsFd, name: &std::ffi::CStr, follow: bool) -> rustix::io::Result<Stat> {
    let flags = if follow {
        AtFlags::empty()
    } else {
        AtFlags::SYMLINK_NOFOLLOW
    };
    rustix::fs::statat(dir, name, flags)
}

/// An error of the operating system under the verb phrase of what was tried.
fn system_error(errno: Errno, doing: impl Into<String>) -> Error {
    let source = std::io::Error::from(errno);
    match errno {
        Errno::ACCESS | Errno::PERM => Error::denied(doing).source(source).hint(
            "Run pgkeep as the operating system user that owns the data directory; `pgkeep doctor` shows who that is.",
        ),
        Errno::NOENT => Error::not_found(doing).source(source),
        _ => Error::io(doing).source(source),
    }
}

fn not_a_data_directory(path: &Path, source: Error) -> Error {
    Error::refused(format!("{} is not a PostgreSQL data directory", path.display()))
        .source(source)
        .hint("`SHOW data_directory` tells where it is; put that into the configuration and run `pgkeep doctor`.")
}

#[cfg(test)]
mod tests;
