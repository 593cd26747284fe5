//! Puts a file where PostgreSQL asked for it: whole, verified, and only for the server that asked.
//!
//! Invariants: nothing unverified ever has the destination's name. A fetch that outlived its server (the startup process
//! was killed, its `restore_command` was not) delivers nothing: by then the next server may be asking for another
//! segment under the same destination.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use pgkeep_base::{Error, Result, ResultExt};

/// The lines of `postmaster.pid` that say which server it is: pid, directory, start time.
const LINES: usize = 3;

/// A file on its way.
pub(super) struct Delivery {
    destination: PathBuf,
    temporary: PathBuf,
    out: File,
    data_directory: PathBuf,
    server: Option<String>,
    delivered: bool,
}

impl Delivery {
    /// Begins one to `destination`, for the server of `data_directory`, if one runs.
    pub(super) fn begin(destination: &Path, data_directory: &Path) -> Result<Delivery> {
        let server = server_of(data_directory);
        let mut name = destination.file_name().unwrap_or_default().to_owned();
        // Another fetch to the same destination may still be at work.
        name.push(format!(".pgkeep-{}", std::process::id()));
        let temporary = destination.with_file_name(name);
        let out = File::create(&temporary).during(|| format!("create {}", temporary.display()))?;
        Ok(Delivery {
            destination: destination.to_owned(),
            temporary,
            out,
            data_directory: data_directory.to_owned(),
            server,
            delivered: false,
        })
    }

    /// Takes the next bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out
            .write_all(bytes)
            .during(|| format!("write {}", self.temporary.display()))
    }

    /// Gives the file its name: all of it was verified.
    pub(super) fn finish(mut self) -> Result<()> {
        if server_of(&self.data_directory) != self.server {
            return Err(Error::cancelled("the server that asked for the file is gone")
                .detail("another one has been started meanwhile"));
        }
        std::fs::rename(&self.temporary, &self.destination)
            .during(|| format!("write {}", self.destination.display()))?;
        self.delivered = true;
        Ok(())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.delivered {
            // Why it was not delivered matters more than a leftover.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Which server runs in a directory; `None` where none does, as for `pg_rewind`.
fn server_of(data_directory: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data_directory.join("postmaster.pid")).ok()?;
    Some(text.lines().take(LINES).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: the last word of a fetch that outlived its server does not overwrite what the next server asked for.
    #[test]
    fn a_fetch_that_outlived_its_server_delivers_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let pid = |text: &str| std::fs::write(directory.path().join("postmaster.pid"), text).unwrap();
        let destination = directory.path().join("RECOVERYXLOG");
        pid("11\n/data\n1000\n5432\n/tmp\n");
        let mut late = Delivery::begin(&destination, directory.path()).unwrap();
        late.write(b"old").unwrap();
        let mut same = Delivery::begin(&destination, directory.path()).unwrap();
        same.write(b"same").unwrap();
        pid("11\n/data\n1000\n5432\n/tmp\n\n  54001\nready\n");
        same.finish().unwrap();
        assert_eq!(
            std::fs::read(&destination).unwrap(),
            b"same",
            "its status line may change"
        );
        pid("12\n/data\n1001\n5432\n/tmp\n");
        assert!(late.finish().is_err());
        assert_eq!(std::fs::read(&destination).unwrap(), b"same");
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            2,
            "nothing is left over"
        );
    }
}
