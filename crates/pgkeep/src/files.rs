//! Writes the few files that the binary makes: keys, identities, configurations.
//!
//! Invariant: nothing that exists is ever overwritten, and a file is durable, and its directory too, before it is
//! reported. A file that could not be finished is removed.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use pgkeep_base::{Error, Result, ResultExt};

/// Only its owner may read it.
pub const PRIVATE: u32 = 0o600;
/// Everybody may read it, as far as the directory lets them.
pub const PUBLIC: u32 = 0o644;

/// Makes a file that must not exist yet.
///
/// # Errors
/// `Conflict` where it exists.
pub fn create_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::conflict(format!(
                "{} exists already, and is never overwritten",
                path.display()
            )));
        }
        Err(error) => return Err(error).during(|| format!("create {}", path.display())),
    };
    let written = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_directory(path));
    if let Err(error) = written {
        // What is left would be taken for a whole file.
        let _ = std::fs::remove_file(path);
        return Err(error).during(|| format!("write {}", path.display()));
    }
    Ok(())
}

/// Makes the directory that a file shall be in, where it is missing.
pub fn create_directory_of(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .during(|| format!("create {}", directory.display()))
}

/// Why a secret file is not safe where it is, if others can read it.
pub fn readable_by_others(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o777;
    (mode & 0o077 != 0).then(|| {
        format!(
            "{} has mode {mode:04o}; only its owner should be able to read it",
            path.display()
        )
    })
}

/// False where a user surely can't read a file: it is another's, and closed to others. Groups count as others' yes.
pub fn may_be_read_by(path: &Path, uid: u32) -> bool {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.uid() == uid => metadata.mode() & 0o400 != 0,
        Ok(metadata) => metadata.mode() & 0o044 != 0,
        Err(_) => true,
    }
}

/// Gives a file that root made to the owner of its directory, so that PostgreSQL's user can read its own files.
///
/// Without effect for others than root, and where the directory is root's.
pub fn give_to_owner_of_directory(path: &Path) {
    let Some(directory) = path.parent() else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    if let Ok(owner) = std::fs::metadata(directory) {
        // Where this fails the next command says that it can't read the file.
        let _ = std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()));
    }
}

/// Calls `act` for a directory and everything below it, links left out.
pub fn for_each_below(path: &Path, act: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    let metadata = path
        .symlink_metadata()
        .during(|| format!("look at {}", path.display()))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    act(path)?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).during(|| format!("list {}", path.display()))? {
            for_each_below(&entry.during(|| format!("list {}", path.display()))?.path(), act)?;
        }
    }
    Ok(())
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/secret");
        create_directory_of(&path, 0o700).unwrap();
        create_new(&path, b"one", PRIVATE).unwrap();
        assert_eq!(readable_by_others(&path), None);
        let error = create_new(&path, b"two", PUBLIC).unwrap_err();
        assert_eq!(error.kind(), pgkeep_base::ErrorKind::Conflict);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        create_new(&directory.path().join("open"), b"", PUBLIC).unwrap();
        assert!(readable_by_others(&directory.path().join("open")).is_some());
    }
}
