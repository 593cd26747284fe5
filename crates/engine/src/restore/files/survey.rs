//! Goes through the entries of a backup and an existing data directory side by side: what is there, what is too much.
//!
//! Invariants: every name of the directory is met once, either as something that the backup has, or as surplus; nothing
//! is reached by following a link, but for `pg_wal` and the tablespaces, whose places were opened before. Of what lies
//! outside of the data directory only PostgreSQL's own is met: the version's directory of a tablespace, WAL by its names.
//! Memory: the names of the directories on the way to the current entry.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;

use pgkeep_base::{PgMajor, Result};
use pgkeep_pg::datadir::{Names, is_postgresqls_own};
use pgkeep_repo::head::Head;
use pgkeep_repo::manifest::{Entry, EntryKind};
use pgkeep_repo::paths::DataPath;
use pgkeep_repo::reader::BackupReader;
use rustix::fs::{FileType, Stat};

use super::directory::{Directory, LOST_AND_FOUND, OWN};
use super::entries::name;

/// Receives what is met.
pub(in crate::restore) trait Findings {
    /// Something that the backup doesn't have, or has as another kind of thing.
    fn surplus(&mut self, surplus: &Surplus<'_>) -> Result<()>;

    /// A file of the backup, or a span of it, and where it would be; `None` where its directory is not there.
    fn file(&mut self, entry: &Entry, there: Option<(&Arc<Directory>, Option<Stat>)>) -> Result<()>;
}

/// Something that is too much.
pub(in crate::restore) struct Surplus<'a> {
    /// Where it is.
    pub directory: &'a Directory,
    /// Its name there.
    pub name: &'a [u8],
    /// Its path in the data directory.
    pub path: Vec<u8>,
    /// What the system says of it.
    pub stat: Stat,
}

/// The open places of an existing cluster.
pub(in crate::restore) struct Sites {
    pub target: Arc<Directory>,
    pub tablespaces: BTreeMap<u32, Arc<Directory>>,
    pub wal_elsewhere: Option<Arc<Directory>>,
}

/// Goes through everything.
///
/// # Errors
/// What reading the manifest gives; `Io` where the directory can't be looked at; what `findings` return.
pub(in crate::restore) async fn survey(
    reader: &BackupReader,
    sites: &Sites,
    findings: &mut (dyn Findings + Send),
) -> Result<()> {
    let mut walk = Walk::begin(reader.head(), sites)?;
    let mut stream = reader.entries();
    while let Some(block) = stream.next_block().await? {
        for entry in &block {
            walk.next(entry, findings)?;
        }
    }
    walk.leave(None, findings)
}

struct Walk<'a> {
    sites: &'a Sites,
    version_directory: Vec<u8>,
    levels: Vec<Level>,
    /// The file whose spans are coming in, and what was there.
    open: Option<(DataPath, Option<Stat>)>,
}

/// A directory on the way to the current entry; the first is the data directory.
struct Level {
    path: Option<DataPath>,
    directory: Option<Arc<Directory>>,
    names: Names,
    next: Option<CString>,
    /// Only these of its names are PostgreSQL's, in a place outside of the data directory.
    only: Only,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    All,
    /// What PostgreSQL makes by itself.
    Own,
}

impl<'a> Walk<'a> {
    fn begin(head: &Head, sites: &'a Sites) -> Result<Walk<'a>> {
        let major = PgMajor::from_version_num(head.pg_version_num)?;
        let catalog = head.physical()?.catalog_version;
        let mut walk = Walk {
            sites,
            version_directory: format!("PG_{major}_{catalog}").into_bytes(),
            levels: Vec::new(),
            open: None,
        };
        let names = sites.target.sorted_names()?;
        walk.enter(None, Some(sites.target.clone()), names, Only::All);
        Ok(walk)
    }

    fn next(&mut self, entry: &Entry, findings: &mut (dyn Findings + Send)) -> Result<()> {
        if self.open.as_ref().is_some_and(|(path, _)| *path == entry.path) {
            return self.file(entry, findings);
        }
        self.leave(Some(&entry.path), findings)?;
        let there = self.advance_to(name(&entry.path), findings)?;
        match &entry.kind {
            EntryKind::File(_) => {
                let there = match there {
                    Some(stat) if is(&stat, FileType::RegularFile) => Some(stat),
                    Some(stat) => {
                        self.surplus(name(&entry.path), stat, findings)?;
                        None
                    }
                    None => None,
                };
                self.open = Some((entry.path.clone(), there));
                self.file(entry, findings)
            }
            _ => self.directory(entry, there, findings),
        }
    }

    fn file(&mut self, entry: &Entry, findings: &mut (dyn Findings + Send)) -> Result<()> {
        let stat = self.open.as_ref().and_then(|(_, stat)| *stat);
        let level = self.levels.last().expect("the first level is never left");
        findings.file(entry, level.directory.as_ref().map(|directory| (directory, stat)))
    }

    fn directory(&mut self, entry: &Entry, there: Option<Stat>, findings: &mut (dyn Findings + Send)) -> Result<()> {
        self.open = None;
        let path = entry.path.clone();
        let linked = match &entry.kind {
            EntryKind::Tablespace { location: Some(_) } => {
                let oid = path.tablespace_oid().unwrap_or_default();
                let version = self.version_directory.as_slice();
                let directory = self.sites.tablespaces.get(&oid).cloned();
                let names = match &directory {
                    Some(directory) if directory.stat_of(version)?.is_some() => Names::of([version])?,
                    _ => Names::default(),
                };
                Some((directory, names, Only::Own))
            }
            _ if path.as_bytes() == b"pg_wal" => match &self.sites.wal_elsewhere {
                Some(directory) => Some((Some(directory.clone()), directory.sorted_names()?, Only::Own)),
                None => None,
            },
            _ => None,
        };
        if let Some((directory, names, only)) = linked {
            self.enter(Some(path), directory, names, only);
            return Ok(());
        }
        let entered = match there {
            Some(stat) if is(&stat, FileType::Directory) => {
                let above = self.levels.last().and_then(|level| level.directory.clone());
                above.map(|above| above.enter(name(&path))).transpose()?.flatten()
            }
            Some(stat) => {
                self.surplus(name(&path), stat, findings)?;
                None
            }
            None => None,
        };
        let names = entered.as_ref().map(Directory::sorted_names).transpose()?;
        self.enter(Some(path), entered.map(Arc::new), names.unwrap_or_default(), Only::All);
        Ok(())
    }

    fn enter(&mut self, path: Option<DataPath>, directory: Option<Arc<Directory>>, mut names: Names, only: Only) {
        let next = names.advance().map(CString::from);
        self.levels.push(Level {
            path,
            directory,
            names,
            next,
            only,
        });
    }

    /// Leaves every directory that `path` does not lie below, and what remains in them is surplus; all, for `None`.
    fn leave(&mut self, path: Option<&DataPath>, findings: &mut (dyn Findings + Send)) -> Result<()> {
        let outside = |level: &Level| match (path, &level.path) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(path), Some(above)) => !path.is_below(above.as_bytes()),
        };
        while self.levels.last().is_some_and(outside) {
            while let Some(name) = self.take_name() {
                self.meet(&name, findings)?;
            }
            self.levels.pop();
        }
        Ok(())
    }

    /// Passes the names before `wanted`, which are surplus; gives what is there under that name.
    fn advance_to(&mut self, wanted: &[u8], findings: &mut (dyn Findings + Send)) -> Result<Option<Stat>> {
        loop {
            let level = self.levels.last().expect("the first level is never left");
            match level.next.as_ref().map(|next| next.to_bytes().cmp(wanted)) {
                Some(std::cmp::Ordering::Less) => {
                    let name = self.take_name().expect("it was just looked at");
                    self.meet(&name, findings)?;
                }
                Some(std::cmp::Ordering::Equal) => {
                    self.take_name();
                    let level = self.levels.last().expect("the first level is never left");
                    return match &level.directory {
                        Some(directory) => directory.stat_of(wanted),
                        None => Ok(None),
                    };
                }
                _ => return Ok(None),
            }
        }
    }

    fn take_name(&mut self) -> Option<CString> {
        let level = self.levels.last_mut()?;
        let next = level.names.advance().map(CString::from);
        std::mem::replace(&mut level.next, next)
    }

    /// A name that the backup doesn't have.
    fn meet(&mut self, name: &CString, findings: &mut (dyn Findings + Send)) -> Result<()> {
        let level = self.levels.last().expect("the first level is never left");
        let (name, top) = (name.to_bytes(), level.path.is_none());
        if name == LOST_AND_FOUND || (top && name == OWN.as_bytes()) {
            return Ok(());
        }
        let Some(directory) = &level.directory else {
            return Ok(());
        };
        match directory.stat_of(name)? {
            Some(stat) => self.surplus(name, stat, findings),
            None => Ok(()),
        }
    }

    fn surplus(&self, name: &[u8], stat: Stat, findings: &mut (dyn Findings + Send)) -> Result<()> {
        let level = self.levels.last().expect("the first level is never left");
        let Some(directory) = &level.directory else {
            return Ok(());
        };
        let path = join(level.path.as_ref().map(DataPath::as_bytes), name);
        if level.only == Only::Own && !is_postgresqls_own(&path) {
            return Ok(());
        }
        findings.surplus(&Surplus {
            directory,
            name,
            path,
            stat,
        })
    }
}

pub(in crate::restore) fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

fn join(above: Option<&[u8]>, name: &[u8]) -> Vec<u8> {
    match above {
        Some(above) => [above, b"/", name].concat(),
        None => name.to_vec(),
    }
}

/// Removes what is too much.
pub(super) struct Removal {
    /// How many files and directories, each with all that was in it.
    pub removed: u64,
}

impl Findings for Removal {
    fn surplus(&mut self, surplus: &Surplus<'_>) -> Result<()> {
        surplus.directory.remove_any(surplus.name)?;
        self.removed += 1;
        Ok(())
    }

    fn file(&mut self, _: &Entry, _: Option<(&Arc<Directory>, Option<Stat>)>) -> Result<()> {
        Ok(())
    }
}

/// Empties the places of tablespaces that the backup doesn't have: replay that makes them anew must find them empty.
pub(super) fn clear_dropped(dropped: &[(u32, std::path::PathBuf)], head: &Head) -> Result<()> {
    let major = PgMajor::from_version_num(head.pg_version_num)?;
    let version = format!("PG_{major}_{}", head.physical()?.catalog_version);
    for (_, location) in dropped {
        open(location)?.remove_any(version.as_bytes())?;
    }
    Ok(())
}

fn open(location: &Path) -> Result<Directory> {
    Directory::open(&super::super::layout::resolve(location))
}

#[cfg(test)]
mod tests;
