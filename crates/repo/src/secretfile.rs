//! Files that only their owner may read: repository file, signing key, identity.
//!
//! Invariant: such a file has mode 0600 from its first byte on, is on disk before anyone is told so, and an existing
//! one is replaced only by whoever says what was in it: a lost naming key or identity can't be made again.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pgkeep_base::{Error, Result, ResultExt, failpoint};
use zeroize::Zeroizing;

/// None of these files is longer.
const BYTES_MAX: u64 = 1 << 20;

/// Writes a new file with mode 0600, durably.
///
/// # Errors
/// `Conflict` where the file exists; `Io`.
pub fn create(path: &Path, text: &str) -> Result<()> {
    let during = || format!("write {}", path.display());
    let temporary = temporary_name(path);
    // A rest of an earlier attempt: not linked to the real name, so that nobody uses it.
    match std::fs::remove_file(&temporary) {
        Err(source) if source.kind() != ErrorKind::NotFound => return Err(source).during(during),
        _ => {}
    }
    let staged = write_synced(&temporary, text).and_then(|()| failpoint::at("repo.secret.link"));
    let written = staged.and_then(|()| match std::fs::hard_link(&temporary, path) {
        // Not every file system has links; there a crash may leave a short file, which no parser takes.
        Err(source) if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            write_synced(path, text)
        }
        linked => linked,
    });
    let _ = std::fs::remove_file(&temporary);
    match written {
        Err(source) if source.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::conflict(format!("{} exists already", path.display()))
                .hint("pgkeep never replaces such a file. Move it away first if you are sure."));
        }
        result => result.during(during)?,
    }
    sync_directory(path).during(during)
}

/// Replaces a file that holds `before`, in one step and durably. It keeps its owner, group and mode.
///
/// # Errors
/// `Conflict` where it holds something else by now; `NotFound`; `Io`.
pub fn replace(path: &Path, before: &str, text: &str) -> Result<()> {
    let during = || format!("write {}", path.display());
    // A link stays one.
    let path = &std::fs::canonicalize(path).during(during)?;
    let metadata = std::fs::metadata(path).during(during)?;
    if *read(path)? != before {
        return Err(
            Error::conflict(format!("{} was changed by somebody else", path.display()))
                .hint("Run the command again: it reads the file anew."),
        );
    }
    let temporary = temporary_name(path);
    match std::fs::remove_file(&temporary) {
        Err(source) if source.kind() != ErrorKind::NotFound => return Err(source).during(during),
        _ => {}
    }
    let written = write_synced(&temporary, text)
        .and_then(|()| take_after(&temporary, &metadata))
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(source) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(source).during(during);
    }
    sync_directory(path).during(during)
}

/// Gives a file the owner, group and mode of another.
fn take_after(path: &Path, other: &Metadata) -> std::io::Result<()> {
    let own = std::fs::metadata(path)?;
    if (own.uid(), own.gid()) != (other.uid(), other.gid()) {
        std::os::unix::fs::chown(path, Some(other.uid()), Some(other.gid()))?;
    }
    std::fs::set_permissions(path, other.permissions())?;
    File::open(path)?.sync_all()
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    path.with_file_name(name)
}

fn write_synced(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    failpoint::at("repo.secret.write")?;
    file.write_all(text.as_bytes())?;
    failpoint::at("repo.secret.sync")?;
    file.sync_all()
}

/// Reads such a file.
///
/// # Errors
/// `NotFound`; `Invalid` where it isn't text, or longer than 1 MiB; `Io`.
pub fn read(path: &Path) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(16 << 10));
    let read = File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Err(source) if source.kind() == ErrorKind::InvalidData => {
            Err(Error::invalid(format!("{} is not a text file", path.display())))
        }
        Ok(bytes) if bytes as u64 > BYTES_MAX => {
            Err(Error::invalid(format!("{} is longer than 1 MiB", path.display())))
        }
        result => result.during(|| format!("read {}", path.display())).map(|_| text),
    }
}

/// Whether others than the owner may read or write it.
///
/// # Errors
/// `NotFound`, `Io`.
pub fn is_open_to_others(path: &Path) -> Result<bool> {
    let metadata = std::fs::metadata(path).during(|| format!("look at {}", path.display()))?;
    Ok(metadata.mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_file_is_private_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signing.key");
        create(&path, "one\n").unwrap();
        assert!(!is_open_to_others(&path).unwrap());
        let error = create(&path, "two\n").unwrap_err();
        assert_eq!(error.kind(), pgkeep_base::ErrorKind::Conflict);
        assert_eq!(*read(&path).unwrap(), "one\n");
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn what_is_no_secret_file_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        assert_eq!(read(&path).unwrap_err().kind(), pgkeep_base::ErrorKind::NotFound);
        std::fs::write(&path, [0xFF]).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), pgkeep_base::ErrorKind::Invalid);
        std::fs::write(&path, vec![b'x'; BYTES_MAX as usize + 1]).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), pgkeep_base::ErrorKind::Invalid);
    }
}
