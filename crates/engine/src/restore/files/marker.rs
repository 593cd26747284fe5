//! The mark of an unfinished restore, in the data directory and in each tablespace.
//!
//! Invariant: pgkeep empties only a directory that holds this mark, made for that very path, of a restore that began where
//! nothing was. All marks of one restore
//! have the same random number: a tablespace belongs to the unfinished restore whose number it bears, and to no other.
//! The mark is made before the first file and removed after `pg_control` is durable.

use std::path::Path;

use jiff::Timestamp;
use pgkeep_base::{BackupId, Error, RepositoryId, Result, ResultExt, SystemId};
use pgkeep_repo::head::Head;
use pgkeep_repo::paths::escape;

use super::directory::{Directory, Making, OWN};
use crate::restore::layout::Layout;
use crate::wal::local::SAVED_DIRECTORY;

/// Name of the mark, below `.pgkeep` in the data directory.
const FILE: &[u8] = b"restore-in-progress";
/// Name of the mark in a tablespace, where `.pgkeep*` is left out of backups, too.
const TABLESPACE_FILE: &[u8] = b".pgkeep-restore-in-progress";
/// No mark is longer: a few paths.
const BYTES_MAX: u64 = 1 << 20;

/// What a mark says.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Marker {
    /// The random number of the restore.
    restore: RepositoryId,
    backup: BackupId,
    started_at: Timestamp,
    /// Escaped, as a path need not be text.
    target: String,
    /// Locations of the tablespaces, escaped.
    tablespaces: Vec<String>,
    /// Of the cluster that is being restored; marks of earlier versions don't say.
    #[serde(default)]
    system_identifier: Option<SystemId>,
    /// It was begun over a cluster: not all that is there is pgkeep's own.
    #[serde(default)]
    over: bool,
}

impl Marker {
    /// A mark for a restore that begins now. It continues `before`, so that what that one claimed stays claimed.
    pub(in crate::restore) fn new(
        head: &Head,
        now: Timestamp,
        layout: &Layout,
        before: Option<&Marker>,
        over: bool,
    ) -> Marker {
        Marker {
            restore: before.map_or_else(RepositoryId::random, |before| before.restore),
            backup: head.id.clone(),
            system_identifier: Some(head.system_identifier),
            over,
            started_at: now,
            target: escaped(&layout.target),
            tablespaces: layout.tablespaces.iter().map(|t| escaped(&t.to)).collect(),
        }
    }

    /// Reads what [`Marker::to_json`] wrote, and what earlier versions did.
    ///
    /// # Errors
    /// `Corrupt` where it lacks what a mark says.
    pub fn from_json(bytes: &[u8]) -> Result<Marker> {
        serde_json::from_slice(bytes)
            .map_err(|source| Error::corrupt("a mark of a restore can't be understood").source(source))
    }

    /// The mark of a data directory, if it has one that can be read.
    pub(in crate::restore) fn of_target(target: &Directory) -> Result<Option<Marker>> {
        match target.enter(OWN.as_bytes()) {
            Ok(Some(own)) => read(&own, FILE),
            Ok(None) => Ok(None),
            // A file or link of that name is not ours.
            Err(error) if error.kind() == pgkeep_base::ErrorKind::Refused => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it was made for a data directory at this path: one that was moved is not to be emptied.
    pub fn is_for(&self, target: &Path) -> bool {
        self.target == escaped(target)
    }

    /// The cluster that was being restored, if the mark says.
    pub(in crate::restore) fn system_identifier(&self) -> Option<SystemId> {
        self.system_identifier
    }

    /// Whether the restore was begun over a cluster. Then its places may hold what is somebody else's, and are never emptied.
    pub(in crate::restore) fn is_over(&self) -> bool {
        self.over
    }

    /// The path that it was made for, escaped.
    pub(in crate::restore) fn target(&self) -> &str {
        &self.target
    }

    /// Whether a tablespace's directory bears the mark of the same restore.
    pub(in crate::restore) fn claims(&self, tablespace: &Directory) -> Result<bool> {
        Ok(read(tablespace, TABLESPACE_FILE)?.is_some_and(|theirs| theirs.restore == self.restore))
    }

    /// Locations of tablespaces that this restore claimed and `layout` doesn't use.
    pub(in crate::restore) fn abandoned<'a>(&'a self, layout: &Layout) -> impl Iterator<Item = &'a str> {
        let used: Vec<String> = layout.tablespaces.iter().map(|t| escaped(&t.to)).collect();
        let names = self.tablespaces.iter().map(String::as_str);
        names.filter(move |name| !used.iter().any(|used| used == name))
    }

    /// Marks a data directory, durably.
    pub(in crate::restore) fn put(&self, target: &Directory, making: Making) -> Result<()> {
        let own = match target.enter(OWN.as_bytes())? {
            Some(own) => own,
            None => target.make(OWN.as_bytes(), making)?,
        };
        own.own(making)?;
        own.replace(FILE, &self.to_json()?, file(making))
            .during(|| "mark the restore as unfinished")?;
        target.sync()
    }

    /// Marks a tablespace, durably.
    pub(in crate::restore) fn put_in_tablespace(&self, tablespace: &Directory, making: Making) -> Result<()> {
        tablespace
            .replace(TABLESPACE_FILE, &self.to_json()?, file(making))
            .during(|| "mark the restore as unfinished")
    }

    /// Empties a data directory, but for the mark and saved WAL. What makes it startable goes first.
    pub(in crate::restore) fn clear_target(target: &Directory) -> Result<()> {
        if let Some(global) = target.enter(b"global")? {
            global.remove(b"pg_control")?;
            global.sync()?;
        }
        target.clear(&[OWN.as_bytes()])?;
        Marker::clear_own(target)
    }

    /// Empties pgkeep's own directory in a data directory, but for the mark and for WAL that was saved: the only copy.
    pub(in crate::restore) fn clear_own(target: &Directory) -> Result<()> {
        match target.enter(OWN.as_bytes())? {
            Some(own) => own.clear(&[FILE, SAVED_DIRECTORY.as_bytes()]),
            None => Ok(()),
        }
    }

    /// Empties a tablespace, but for the mark.
    pub(in crate::restore) fn clear_tablespace(tablespace: &Directory) -> Result<()> {
        tablespace.clear(&[TABLESPACE_FILE])
    }

    /// Takes the mark off a data directory: the restore is complete.
    pub(in crate::restore) fn lift(target: &Directory) -> Result<()> {
        let Some(own) = target.enter(OWN.as_bytes())? else {
            return Err(Error::conflict(format!(
                "the mark of the unfinished restore in {} has vanished",
                target.path().display()
            )));
        };
        own.remove(FILE)
    }

    /// Makes [`Marker::lift`] durable.
    pub(in crate::restore) fn settle(target: &Directory) -> Result<()> {
        target.enter(OWN.as_bytes())?.map_or(Ok(()), |own| own.sync())
    }

    /// Takes the mark off a tablespace, durably.
    pub(in crate::restore) fn lift_from_tablespace(tablespace: &Directory) -> Result<()> {
        tablespace.remove(TABLESPACE_FILE)?;
        tablespace.sync()
    }

    /// As it is kept.
    ///
    /// # Errors
    /// None but `Internal`.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|source| Error::internal("a mark is plain data").source(source))
    }
}

/// A mark that can't be read is none: what it stands in is then not pgkeep's to empty.
fn read(directory: &Directory, name: &[u8]) -> Result<Option<Marker>> {
    match directory.read(name, BYTES_MAX) {
        Ok(bytes) => Ok(bytes.and_then(|bytes| Marker::from_json(&bytes).ok())),
        Err(error) if error.kind() == pgkeep_base::ErrorKind::Refused => Ok(None),
        Err(error) => Err(error),
    }
}

fn file(directory: Making) -> Making {
    Making {
        mode: 0o600,
        ..directory
    }
}

fn escaped(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    escape(path.as_os_str().as_bytes()).into_owned()
}
