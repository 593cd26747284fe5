//! Writes a file so that its name means complete and durable.
//!
//! Order: parent directories, each synced into its own parent; the body into a file without a name (or with a name
//! that no listing shows, where the file system can't do that); fsync of the body; link into place, which fails on an
//! existing name; fsync of the directory. A body whose fsync fails never gets a name, and is never synced again: the
//! kernel may have dropped its bytes and forgotten that it did.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

use pgkeep_base::{Error, ErrorKind, Result, ResultExt, failpoint};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;

use super::{io_error, missing_root};
use crate::config::StoreConfig;
use crate::{Created, ObjectName, Payload};

/// Unfinished files begin with this; `#` is in no object name.
pub(super) const UNFINISHED: &str = "#unfinished-";
/// How many directories are remembered as synced before starting over.
const DIRECTORIES_KNOWN_MAX: usize = 4096;

const FILE_MODE: Mode = Mode::from_raw_mode(0o640);
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o750);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How often a directory may vanish under a write before it gives up.
const ATTEMPTS: usize = 3;

/// Directories whose entries this process has made durable, by their path below the root, with what tells one
/// directory from a later one of the same name.
///
/// A directory that merely exists may have been made by a process that died before syncing it.
#[derive(Debug, Default)]
pub(super) struct Directories(Mutex<HashMap<String, Identity>>);

/// Inode and time of birth; inodes alone are reused at once.
type Identity = (u64, i64, u32);

impl Directories {
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Identity>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn is_durable(&self, path: &str, directory: &OwnedFd) -> bool {
        let known = self.known().get(path).copied();
        known.is_some() && known == identity(directory)
    }

    fn remember(&self, path: &str, directory: &OwnedFd) {
        let Some(identity) = identity(directory) else { return };
        let mut known = self.known();
        if known.len() >= DIRECTORIES_KNOWN_MAX {
            known.clear();
        }
        known.insert(path.to_owned(), identity);
    }
}

/// Nothing where the file system does not tell when a directory was made: such directories are synced each time.
fn identity(directory: &OwnedFd) -> Option<Identity> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let found = rustix::fs::statx(directory, "", AtFlags::EMPTY_PATH, wanted).ok()?;
    let told = StatxFlags::from_bits_retain(found.stx_mask);
    told.contains(wanted)
        .then_some((found.stx_ino, found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}

/// Makes `name` with this body, unless it exists.
pub(super) fn create(root: &Path, directories: &Directories, name: &ObjectName, body: &Payload) -> Result<Created> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match create_once(root, directories, name, body) {
            // Ours are locked against that, but somebody may be clearing up by hand.
            Err(error) if error.kind() == ErrorKind::NotFound && attempt < ATTEMPTS => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(error.with_kind(ErrorKind::Conflict)),
            done => return done,
        }
    }
}

fn create_once(root: &Path, directories: &Directories, name: &ObjectName, body: &Payload) -> Result<Created> {
    failpoint::at("store.file.begin").map_err(io_error)?;
    let root = open_root(root)?;
    // Where locks don't work, `delete` gets none either, and leaves directories alone.
    let _ = rustix::fs::flock(&root, FlockOperation::LockShared);
    let opened = open_directory(&root, directories, name.directory())?;
    let directory = opened.as_ref().unwrap_or(&root);
    let created = match rustix::fs::statat(directory, name.file_name(), AtFlags::empty()) {
        Ok(_) => Created::AlreadyThere,
        Err(_) => Staged::write(directory, body)?.publish(name.file_name())?,
    };
    if created == Created::AlreadyThere {
        failpoint::at("store.file.sync-existing").map_err(io_error)?;
        sync_existing(directory, name.file_name())?;
    }
    // Both for our own entry and for one that somebody else may not have synced yet.
    failpoint::at("store.file.sync-directory")
        .map_err(io_error)
        .and_then(|()| sync(directory))
        .during(|| "make the new name durable; it may or may not be: running again is safe")?;
    failpoint::at("store.file.created").map_err(io_error)?;
    Ok(created)
}

/// Removes an object, and the directories that become empty by that unless somebody is writing.
pub(super) fn delete(root: &Path, directories: &Directories, name: &ObjectName) -> Result<()> {
    let at = open_root(root)?;
    failpoint::at("store.file.delete").map_err(io_error)?;
    match rustix::fs::unlinkat(&at, name.as_str(), AtFlags::empty()) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => return Ok(()),
        Err(error) => return Err(errno(error)),
    }
    // Declared before the descriptor that holds the lock on disk, so that it outlives that.
    let _one_at_a_time = directories.known();
    let at = open_root(root)?;
    if rustix::fs::flock(&at, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    let mut directory = name.directory();
    while !directory.is_empty() && rustix::fs::unlinkat(&at, directory, AtFlags::REMOVEDIR).is_ok() {
        directory = directory.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    Ok(())
}

fn open_root(root: &Path) -> Result<OwnedFd> {
    rustix::fs::open(root, DIRECTORY, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => missing_root(root),
        other => errno(other),
    })
}

/// Makes the root directory of a `file:` store, and its parents, durably. Nothing to do for other stores.
///
/// # Errors
/// `Denied` or `Io` when the directory can't be made; `Invalid` for a URL that is no store's.
pub async fn create_root(config: &StoreConfig) -> Result<()> {
    let Some(path) = config.url.strip_prefix("file://") else {
        return Ok(());
    };
    let root = super::root_path(&config.url, path)?;
    let what = format!("make the directory {}", root.display());
    let made = tokio::task::spawn_blocking(move || make_durably(&root)).await;
    made.map_err(|error| Error::internal("a disk task failed").source(error))
        .and_then(|result| result)
        .during(|| what)
}

fn make_durably(path: &Path) -> Result<()> {
    match rustix::fs::mkdir(path, DIRECTORY_MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(Errno::NOENT) => {
            let parent = path.parent().expect("`/` exists, so a path that doesn't has a parent");
            make_durably(parent)?;
            return make_durably(path);
        }
        Err(error) => return Err(errno(error)),
    }
    let directory = rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(errno)?;
    sync(&directory)?;
    match path
        .parent()
        .map(|parent| rustix::fs::open(parent, DIRECTORY, Mode::empty()))
    {
        Some(Ok(parent)) => sync(&parent),
        // A parent that we may not open is not one that we made.
        _ => Ok(()),
    }
}

/// Opens the directory `path` below the root, making and syncing what is missing on the way; `None` is the root.
fn open_directory(root: &OwnedFd, directories: &Directories, path: &str) -> Result<Option<OwnedFd>> {
    if path.is_empty() {
        return Ok(None);
    }
    if let Ok(directory) = rustix::fs::openat(root, path, DIRECTORY, Mode::empty())
        && directories.is_durable(path, &directory)
    {
        return Ok(Some(directory));
    }
    let mut at: Option<OwnedFd> = None;
    let mut end = 0;
    for segment in path.split('/') {
        end += segment.len() + usize::from(end > 0);
        let parent = at.as_ref().unwrap_or(root);
        let child = enter(parent, segment)?;
        if !directories.is_durable(&path[..end], &child) {
            failpoint::at("store.file.sync-parent").map_err(io_error)?;
            sync(parent)?;
            directories.remember(&path[..end], &child);
        }
        at = Some(child);
    }
    Ok(at)
}

/// Opens a directory in `parent`, which is made if it's missing; not synced yet.
fn enter(parent: &OwnedFd, segment: &str) -> Result<OwnedFd> {
    failpoint::at("store.file.mkdir").map_err(io_error)?;
    match rustix::fs::mkdirat(parent, segment, DIRECTORY_MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(Errno::NOENT) => return Err(vanished()),
        Err(error) => return Err(errno(error)),
    }
    rustix::fs::openat(parent, segment, DIRECTORY, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => vanished(),
        Errno::NOTDIR => Error::invalid(format!("\"{segment}\" is an object here, so nothing can lie below it")),
        other => errno(other),
    })
}

/// A synced body that has no final name yet. Dropping it removes it.
struct Staged<'a> {
    directory: &'a OwnedFd,
    file: File,
    /// Where the file system has no unnamed files, or no `/proc` to link them from.
    temporary: Option<String>,
}

impl<'a> Staged<'a> {
    fn write(directory: &'a OwnedFd, body: &Payload) -> Result<Staged<'a>> {
        failpoint::at("store.file.open").map_err(io_error)?;
        let mut staged = Staged::open(directory)?;
        for part in body.parts() {
            failpoint::at("store.file.write").map_err(io_error)?;
            staged.file.write_all(part).map_err(io_error)?;
        }
        failpoint::at("store.file.sync").map_err(io_error)?;
        staged.file.sync_all().map_err(io_error)?;
        Ok(staged)
    }

    fn open(directory: &'a OwnedFd) -> Result<Staged<'a>> {
        Staged::open_as(directory, Path::new("/proc/self/fd").exists())
    }

    /// An unnamed file is linked by way of `/proc`, which a container may lack.
    fn open_as(directory: &'a OwnedFd, may_be_unnamed: bool) -> Result<Staged<'a>> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let unnamed = match may_be_unnamed {
            true => rustix::fs::openat(directory, ".", flags | OFlags::TMPFILE, FILE_MODE),
            false => Err(Errno::OPNOTSUPP),
        };
        let (fd, temporary) = match unnamed {
            Ok(fd) => (fd, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
                let name = format!("{UNFINISHED}{:016x}", rand::random::<u64>());
                let flags = flags | OFlags::CREATE | OFlags::EXCL;
                (
                    rustix::fs::openat(directory, &name, flags, FILE_MODE).map_err(|error| inside(directory, error))?,
                    Some(name),
                )
            }
            Err(error) => return Err(inside(directory, error)),
        };
        Ok(Staged {
            directory,
            file: File::from(fd),
            temporary,
        })
    }

    /// Gives the body its name, in one step, or finds that name taken.
    fn publish(mut self, name: &str) -> Result<Created> {
        failpoint::at("store.file.link").map_err(io_error)?;
        let done = match &self.temporary {
            None => {
                let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, unnamed, self.directory, name, AtFlags::SYMLINK_FOLLOW)
            }
            Some(temporary) => {
                let moved =
                    rustix::fs::renameat_with(self.directory, temporary, self.directory, name, RenameFlags::NOREPLACE);
                match moved {
                    // NFS, for one, can only link.
                    Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                        rustix::fs::linkat(self.directory, temporary, self.directory, name, AtFlags::empty())
                    }
                    Ok(()) => {
                        self.temporary = None;
                        Ok(())
                    }
                    other => other,
                }
            }
        };
        match done {
            Ok(()) => Ok(Created::New),
            Err(Errno::EXIST) => Ok(Created::AlreadyThere),
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Err(Error::unsupported(
                "this file system can neither link nor move a file without replacing another",
            )
            .hint("Use a file system with hard links; `pgkeep store check` tries it.")),
            Err(error) => Err(inside(self.directory, error)),
        }
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // What can't be removed is never listed, and never taken for an object.
            let _ = rustix::fs::unlinkat(self.directory, temporary, AtFlags::empty());
        }
    }
}

/// Syncs a file that is already there: it may have been copied by hand.
fn sync_existing(directory: &OwnedFd, name: &str) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(|error| inside(directory, error))?;
    let file = File::from(fd);
    if !file.metadata().map_err(io_error)?.is_file() {
        return Err(Error::invalid(
            "a directory or something else that is no object has this name",
        ));
    }
    file.sync_all().map_err(io_error)
}

fn sync(directory: &OwnedFd) -> Result<()> {
    match rustix::fs::fsync(directory) {
        Ok(()) => Ok(()),
        // Some file systems have nothing to sync in a directory, and say so.
        Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(errno(error)),
    }
}

/// An error from inside a directory that was there a moment ago.
fn inside(directory: &OwnedFd, error: Errno) -> Error {
    // ext4 says EPERM where others say ENOENT.
    let removed = || rustix::fs::fstat(directory).is_ok_and(|found| found.st_nlink == 0);
    match error {
        Errno::NOENT => vanished(),
        Errno::PERM if removed() => vanished(),
        other => errno(other),
    }
}

fn vanished() -> Error {
    Error::not_found("directories here are removed as fast as they are made")
}

fn errno(error: Errno) -> Error {
    io_error(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_file_system_without_unnamed_files_is_served_by_names_that_no_listing_shows() {
        let folder = tempfile::tempdir().unwrap();
        let directory = open_root(folder.path()).unwrap();
        let staged = || Staged::open_as(&directory, false).unwrap();

        let unfinished = staged();
        assert!(files(folder.path())[0].starts_with(UNFINISHED));
        drop(unfinished);
        assert_eq!(files(folder.path()).len(), 0);

        assert_eq!(staged().publish("a").unwrap(), Created::New);
        assert_eq!(staged().publish("a").unwrap(), Created::AlreadyThere);
        assert_eq!(files(folder.path()), ["a"]);
    }

    #[test]
    fn a_directory_is_known_by_more_than_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = open_root(folder.path()).unwrap();
        let directories = Directories::default();
        let first = open_directory(&root, &directories, "a/b").unwrap().unwrap();
        assert!(directories.is_durable("a/b", &first));
        std::fs::remove_dir(folder.path().join("a/b")).unwrap();
        std::fs::create_dir(folder.path().join("a/b")).unwrap();
        let second = rustix::fs::openat(&root, "a/b", DIRECTORY, Mode::empty()).unwrap();
        assert!(!directories.is_durable("a/b", &second));
        open_directory(&root, &directories, "a/b").unwrap();
        assert!(directories.is_durable("a/b", &second));
    }
}
