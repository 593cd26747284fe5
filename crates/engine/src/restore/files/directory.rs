//! An open directory below which a restore works, one name at a time.
//!
//! Invariant: nothing is reached by a path of several names. Each operation takes the last name of a path and works on
//! the descriptor of the directory that the restore itself made, without following a link there. Whoever swaps
//! directories for links while a restore runs makes it fail, never write elsewhere.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use pgkeep_base::{Error, Result, ResultExt, failpoint};
use pgkeep_pg::datadir::Names;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::owner::Ids;

mod remove;

/// A directory that names pgkeep's own files; they don't make a place occupied while they are all that is in it.
pub(super) const OWN: &str = crate::restore::recovery::OWN_DIRECTORY;
/// What a file system keeps in its own root.
pub(super) const LOST_AND_FOUND: &[u8] = b"lost+found";

/// An open directory.
#[derive(Debug)]
pub(in crate::restore) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a file, directory or link gets when it is made.
#[derive(Clone, Copy, Debug)]
pub(in crate::restore) struct Making {
    /// Permission bits; all but `0777` are dropped.
    pub mode: u32,
    /// Who shall own it; `None` leaves it to whoever we are.
    pub ids: Option<Ids>,
}

impl Directory {
    /// Opens a directory by its path, whose last name must not be a link.
    pub fn open(path: &Path) -> Result<Directory> {
        let fd = open_at(CWD, path).map_err(|errno| failed(format!("open {}", path.display()), errno.into()))?;
        Ok(Directory {
            fd,
            path: path.to_owned(),
        })
    }

    /// The open directory.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where it was when it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the system says of it.
    pub fn stat(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.fd).map_err(|errno| self.failed("look at", b".", errno))
    }

    /// Opens a directory in it; `None` if there is nothing of that name.
    pub fn enter(&self, name: &[u8]) -> Result<Option<Directory>> {
        check_name(name)?;
        match open_at(&self.fd, name) {
            Ok(fd) => Ok(Some(self.child(name, fd))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("open", name, errno)),
        }
    }

    /// Makes a directory in it and opens that. Its owner may always enter and write.
    pub fn make(&self, name: &[u8], making: Making) -> Result<Directory> {
        check_name(name)?;
        self.point("engine.restore.mkdir", name)?;
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU).map_err(|errno| self.failed("create", name, errno))?;
        let fd = open_at(&self.fd, name).map_err(|errno| self.failed("open", name, errno))?;
        let made = self.child(name, fd);
        made.own(making)?;
        Ok(made)
    }

    /// Opens a directory in it, or makes it; gives it this owner and mode. Whatever else has the name is removed first.
    pub fn take_over(&self, name: &[u8], making: Making) -> Result<Directory> {
        if self.is_directory(name)?
            && let Some(there) = self.enter(name)?
        {
            there.own(making)?;
            return Ok(there);
        }
        self.remove(name)?;
        self.make(name, making)
    }

    /// Opens a file in it for reading and writing, or makes it; gives it this owner, mode and length. Whatever else has
    /// the name is removed first, and so is a file that has other names: what those show must stay as it is.
    ///
    /// The second value tells whether it was made.
    pub fn take_over_file(&self, name: &[u8], making: Making, length: u64) -> Result<(File, bool)> {
        let opened = self.open_own(name, OFlags::RDWR)?;
        let made = opened.is_none();
        let file = match opened {
            Some(file) => {
                own(&file, making, None).map_err(|errno| self.failed("give away", name, errno))?;
                file
            }
            None => {
                self.remove_any(name)?;
                self.create(name, making)?
            }
        };
        let wrong = |source| failed(format!("resize {}", self.shown(name).display()), source);
        if file.metadata().map_err(wrong)?.len() != length {
            self.point("engine.restore.resize", name)?;
            file.set_len(length).map_err(wrong)?;
        }
        Ok((file, made))
    }

    /// Opens a regular file in it that has no other name; `None` for everything else, and where we may not.
    pub fn open_own(&self, name: &[u8], access: OFlags) -> Result<Option<File>> {
        check_name(name)?;
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::ACCESS) => return Ok(None),
            Err(errno) => return Err(self.failed("open", name, errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.failed("look at", name, errno))?;
        let plain = FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_nlink == 1;
        Ok(plain.then(|| File::from(fd)))
    }

    /// Whether we may make and remove names in it.
    pub fn may_be_changed(&self) -> bool {
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(&self.fd, ".", wanted, AtFlags::EACCESS).is_ok()
    }

    /// Opens a file in it for reading, whatever other names it has.
    pub fn open_any(&self, name: &[u8]) -> Result<File> {
        check_name(name)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty());
        fd.map(File::from).map_err(|errno| self.failed("open", name, errno))
    }

    /// Gives an open directory its owner and mode.
    pub fn own(&self, making: Making) -> Result<()> {
        let mode = (making.mode & 0o777) | 0o700;
        own(&self.fd, Making { mode, ..making }, None).map_err(|errno| self.failed("give away", b".", errno))
    }

    /// Makes a file in it that was not there, with its owner and mode, open for writing.
    pub fn create(&self, name: &[u8], making: Making) -> Result<File> {
        check_name(name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let initial = 0o600;
        self.point("engine.restore.create", name)?;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(initial))
            .map_err(|errno| self.failed("create", name, errno))?;
        own(&fd, making, Some(initial)).map_err(|errno| self.failed("give away", name, errno))?;
        Ok(File::from(fd))
    }

    /// Makes a file with this content in it, durable but for its name: [`Directory::sync`].
    pub fn write(&self, name: &[u8], content: &[u8], making: Making) -> Result<()> {
        let mut file = self.create(name, making)?;
        failpoint::at("engine.restore.write")
            .and_then(|()| file.write_all(content))
            .and_then(|()| failpoint::at("engine.restore.sync"))
            .and_then(|()| file.sync_all())
            .map_err(|source| failed(format!("write {}", self.shown(name).display()), source))
    }

    /// Replaces a file by one with this content, at once and durably.
    pub fn replace(&self, name: &[u8], content: &[u8], making: Making) -> Result<()> {
        let temporary = [b".pgkeep-new-", name].concat();
        self.remove(&temporary)?;
        self.write(&temporary, content, making)?;
        self.rename(&temporary, name)
    }

    /// Renames a file in it, durably.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        check_name(from)?;
        check_name(to)?;
        self.point("engine.restore.rename", from)?;
        rustix::fs::renameat(&self.fd, from, &self.fd, to).map_err(|errno| self.failed("rename", from, errno))?;
        self.sync()
    }

    /// Makes a symbolic link in it.
    pub fn link(&self, name: &[u8], to: &Path, ids: Option<Ids>) -> Result<()> {
        check_name(name)?;
        self.point("engine.restore.link", name)?;
        rustix::fs::symlinkat(to, &self.fd, name).map_err(|errno| self.failed("create", name, errno))?;
        if let Some(Ids { uid, gid }) = ids {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&self.fd, name, Some(uid), Some(gid), flags)
                .map_err(|errno| self.failed("give away", name, errno))?;
        }
        Ok(())
    }

    /// Makes a symbolic link in it, in the place of whatever has the name, unless it is there as it shall be.
    pub fn relink(&self, name: &[u8], to: &Path, ids: Option<Ids>) -> Result<()> {
        if self.read_link(name)?.as_deref() == Some(to) {
            return Ok(());
        }
        self.remove_any(name)?;
        self.link(name, to, ids)
    }

    /// Reads a small file in it; `None` if there is none.
    pub fn read(&self, name: &[u8], bytes_max: u64) -> Result<Option<Vec<u8>>> {
        check_name(name)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.failed("open", name, errno)),
        };
        let mut bytes = Vec::new();
        File::from(fd)
            .take(bytes_max)
            .read_to_end(&mut bytes)
            .map_err(|source| failed(format!("read {}", self.shown(name).display()), source))?;
        Ok(Some(bytes))
    }

    /// Whether there is something of that name, links not followed. A path of two names is looked at as such.
    pub fn has(&self, path: &str) -> Result<bool> {
        match rustix::fs::statat(&self.fd, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(self.failed("look at", path.as_bytes(), errno)),
        }
    }

    /// Removes a file or link in it, if it is there.
    pub fn remove(&self, name: &[u8]) -> Result<()> {
        check_name(name)?;
        self.point("engine.restore.remove", name)?;
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", name, errno)),
        }
    }

    /// Makes its names durable.
    pub fn sync(&self) -> Result<()> {
        self.point("engine.restore.sync-directory", b".")?;
        rustix::fs::fsync(&self.fd).map_err(|errno| self.failed("sync", b".", errno))
    }

    /// Whether nothing is in it but what a restore that was killed at its very beginning leaves.
    pub fn is_vacant(&self) -> Result<bool> {
        let mut names = self.sorted_names()?;
        while let Some(name) = names.advance() {
            let leftover = match name.to_bytes() {
                LOST_AND_FOUND => true,
                // A file or link of that name is somebody else's.
                name if name == OWN.as_bytes() && !self.is_directory(name)? => false,
                name if name == OWN.as_bytes() => match self.enter(name)? {
                    Some(own) => own.holds_only(is_temporary)?,
                    None => true,
                },
                name => is_temporary(name),
            };
            if !leftover {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn holds_only(&self, expected: fn(&[u8]) -> bool) -> Result<bool> {
        let mut names = self.sorted_names()?;
        while let Some(name) = names.advance() {
            if !expected(name.to_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether there is a directory in it; links to directories are none.
    pub fn holds_directories(&self) -> Result<bool> {
        let mut names = self.sorted_names()?;
        while let Some(name) = names.advance() {
            if self.is_directory(name.to_bytes())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether there is a directory of that name in it; a link to one is none.
    pub fn is_directory(&self, name: &[u8]) -> Result<bool> {
        Ok(self.stat_of(name)?.is_some_and(|stat| is_directory(&stat)))
    }

    /// What the system says of something in it, links not followed; `None` if there is nothing of that name.
    pub fn stat_of(&self, name: &[u8]) -> Result<Option<Stat>> {
        check_name(name)?;
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("look at", name, errno)),
        }
    }

    /// Where a link in it leads; `None` if there is none of that name.
    pub fn read_link(&self, name: &[u8]) -> Result<Option<PathBuf>> {
        use std::os::unix::ffi::OsStringExt;
        check_name(name)?;
        match rustix::fs::readlinkat(&self.fd, name, Vec::new()) {
            Ok(path) => Ok(Some(PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes())))),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(self.failed("read the link", name, errno)),
        }
    }

    /// Its names, sorted, in little memory.
    pub fn sorted_names(&self) -> Result<Names> {
        Names::list(&self.fd).during(|| format!("list {}", self.path.display()))
    }

    fn child(&self, name: &[u8], fd: OwnedFd) -> Directory {
        Directory {
            fd,
            path: self.shown(name),
        }
    }

    /// The path of something in it, for messages.
    pub fn shown(&self, name: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        match name {
            b"." => self.path.clone(),
            name => self.path.join(std::ffi::OsStr::from_bytes(name)),
        }
    }

    fn point(&self, point: &'static str, name: &[u8]) -> Result<()> {
        failpoint::at(point).map_err(|source| failed(format!("write {}", self.shown(name).display()), source))
    }

    fn failed(&self, doing: &str, name: &[u8], errno: Errno) -> Error {
        let shown = self.shown(name);
        let what = format!("{doing} {}", shown.display());
        match errno {
            Errno::EXIST => Error::conflict(format!("{} is there already", shown.display()))
                .detail("somebody else writes into the place of this restore, or the backup names it twice")
                .hint("See who does; then run the same `pgkeep restore` again."),
            Errno::LOOP | Errno::NOTDIR => Error::refused(format!("{} is not what it must be", shown.display()))
                .detail("it is a link or another kind of file: somebody else replaced it")
                .hint("See who does; then run the same `pgkeep restore` again."),
            _ => failed(what, errno.into()),
        }
    }
}

/// An error that keeps its cause, so that a full disk can be told from others.
pub(super) fn failed(doing: String, source: std::io::Error) -> Error {
    Error::io(doing).source(source)
}

/// What a restore leaves that was killed before its marker had its name.
fn is_temporary(name: &[u8]) -> bool {
    name.starts_with(b".pgkeep-new-")
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
}

fn open_at(at: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Owner first: a change of owner may clear bits of the mode.
fn own(fd: impl AsFd, making: Making, mode_now: Option<u32>) -> rustix::io::Result<()> {
    if let Some(Ids { uid, gid }) = making.ids {
        rustix::fs::fchown(&fd, Some(uid), Some(gid))?;
    }
    let mode = making.mode & 0o777;
    if mode_now != Some(mode) {
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

fn check_name(name: &[u8]) -> Result<()> {
    let bad = name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || CString::new(name).is_err();
    match bad {
        false => Ok(()),
        true => Err(Error::corrupt(format!(
            "\"{}\" is not a file's name",
            name.escape_ascii()
        ))),
    }
}
