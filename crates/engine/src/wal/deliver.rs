//! Puts a file where PostgreSQL asked for it: whole, verified, and only for the server that asked.
//!
//! Invariants: nothing unverified ever has the destination's name. A fetch that outlived its server (the startup process
//! was killed, its `restore_command` was not) delivers nothing: by then the next server may be asking for another
//! segment under the same destination.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use pgkeep_base::{Error, Result, ResultExt, failpoint};
use pgkeep_pg::server::postmaster_file;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// The lines of `postmaster.pid` that say which server it is: pid, directory, start time.
const LINES: usize = 3;
/// What the server's umask leaves of it.
const MODE: Mode = Mode::from_raw_mode(0o666);

/// A file on its way.
pub(super) struct Delivery {
    destination: PathBuf,
    /// Where the file system has no files without a name. What has none vanishes with a process that is killed.
    temporary: Option<PathBuf>,
    out: File,
    data_directory: PathBuf,
    server: Option<Vec<u8>>,
}

impl Delivery {
    /// Begins one to `destination`, for the server of `data_directory`, if one runs.
    pub(super) fn begin(destination: &Path, data_directory: &Path) -> Result<Delivery> {
        let server = server_of(data_directory);
        let (out, temporary) = open_beside(destination).during(|| format!("write {}", destination.display()))?;
        Ok(Delivery {
            destination: destination.to_owned(),
            temporary,
            out,
            data_directory: data_directory.to_owned(),
            server,
        })
    }

    /// Takes the next bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        failpoint::at("engine.fetch.write")
            .and_then(|()| self.out.write_all(bytes))
            .during(|| format!("write {}", self.destination.display()))
    }

    /// Gives the file its name: all of it was verified.
    pub(super) fn finish(mut self) -> Result<()> {
        if server_of(&self.data_directory) != self.server {
            return Err(Error::cancelled("the server that asked for the file is gone")
                .detail("another one has been started meanwhile"));
        }
        self.publish()
            .during(|| format!("write {}", self.destination.display()))?;
        failpoint::at("engine.fetch.delivered")?;
        Ok(())
    }

    fn publish(&mut self) -> io::Result<()> {
        failpoint::at("engine.fetch.name")?;
        if self.temporary.is_none() {
            match link(&self.out, &self.destination) {
                // PostgreSQL removes what is there before it asks; others may not.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    link(&self.out, self.temporary.insert(name_beside(&self.destination)))?;
                }
                linked => return linked,
            }
        }
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.destination)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Why it was not delivered matters more than a leftover.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// A new file in the directory of `destination`: without a name, or with that one.
fn open_beside(destination: &Path) -> io::Result<(File, Option<PathBuf>)> {
    failpoint::at("engine.fetch.create")?;
    let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    // Without `/proc` it could never be given a name.
    let unnamed = match Path::new("/proc/self/fd").exists() {
        true => rustix::fs::open(parent.unwrap_or(Path::new(".")), flags, MODE),
        false => Err(Errno::OPNOTSUPP),
    };
    match unnamed {
        Ok(fd) => Ok((File::from(fd), None)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
            let temporary = name_beside(destination);
            Ok((File::create(&temporary)?, Some(temporary)))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Another fetch to the same destination may still be at work.
fn name_beside(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(format!(".pgkeep-{}", std::process::id()));
    destination.with_file_name(name)
}

fn link(file: &File, name: &Path) -> io::Result<()> {
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, unnamed, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

/// Which server runs in a directory; `None` where none does, as for `pg_rewind`.
fn server_of(data_directory: &Path) -> Option<Vec<u8>> {
    let file = postmaster_file(data_directory).ok()??;
    let lines = file.split(|byte| *byte == b'\n').take(LINES);
    Some(lines.collect::<Vec<_>>().join(&b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: the last word of a fetch that outlived its server does not overwrite what the next server asked for, also
    /// where the path of the data directory is not text.
    #[test]
    fn a_fetch_that_outlived_its_server_delivers_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let pid = |text: &[u8]| std::fs::write(directory.path().join("postmaster.pid"), text).unwrap();
        let destination = directory.path().join("RECOVERYXLOG");
        pid(b"11\n/d\xe4ta\n1000\n5432\n/tmp\n");
        let mut late = Delivery::begin(&destination, directory.path()).unwrap();
        late.write(b"old").unwrap();
        let mut same = Delivery::begin(&destination, directory.path()).unwrap();
        same.write(b"same").unwrap();
        pid(b"11\n/d\xe4ta\n1000\n5432\n/tmp\n\n  54001\nready\n");
        same.finish().unwrap();
        assert_eq!(
            std::fs::read(&destination).unwrap(),
            b"same",
            "its status line may change"
        );
        pid(b"12\n/d\xe4ta\n1001\n5432\n/tmp\n");
        assert!(late.finish().is_err());
        assert_eq!(std::fs::read(&destination).unwrap(), b"same");
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            2,
            "nothing is left over"
        );
    }
}
