//! The data directory that a restore is to be put over.
//!
//! Invariant: looking changes nothing. Only a directory that says which cluster it is, by its `pg_control` or by the mark
//! of pgkeep's own unfinished restore, is ever taken over.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pgkeep_base::{Error, ErrorKind, PgMajor, Result, SystemId};
use pgkeep_pg::control::ControlFile;
use pgkeep_pg::settings::{keeps_silent, read_auto_conf};

use super::files::{Directory, Marker};

/// What is known of it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Existing {
    /// Whose it is; `None` where an unfinished restore of an earlier version doesn't say.
    pub system_identifier: Option<SystemId>,
    /// Which PostgreSQL ran it; `None` without a `pg_control`.
    pub major: Option<PgMajor>,
    /// It is what an unfinished restore left, not a cluster.
    pub unfinished: bool,
    /// Where its links to tablespaces lead, by OID, as far as they lead to directories.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Where its `pg_wal` leads, if that is a link.
    pub wal_elsewhere: Option<PathBuf>,
    /// Another directory of the same cluster in which this one was run last: this one is a copy of that, or was moved
    /// from there, and its links may be those of the other.
    pub run_at: Option<PathBuf>,
    /// It is a copy that pgkeep restored and that was never adopted: its own WAL is not the cluster's.
    pub never_adopted: bool,
}

impl Existing {
    /// Looks at a directory; `None` if there is nothing, or nothing in it.
    ///
    /// # Errors
    /// `Refused` where it is neither a cluster nor an unfinished restore of pgkeep's into this very place, or where its
    /// `pg_wal` leads nowhere; `Corrupt` and `Unsupported` for a `pg_control` that can't be used.
    pub fn look(target: &Path) -> Result<Option<Existing>> {
        let directory = match target.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            _ => Directory::open(target)?,
        };
        if directory.is_vacant()? {
            return Ok(None);
        }
        let mark = Marker::of_target(&directory)?.filter(|mark| mark.is_for(target));
        let control = match ControlFile::read(target) {
            Ok(control) => Some(control),
            // The mark says whose it is, however little else is left.
            Err(_) if mark.is_some() && !directory.has("global/pg_control")? => None,
            Err(error) => return Err(not_a_cluster(target, error)),
        };
        let marked = mark.and_then(|mark| mark.system_identifier());
        let system_identifier = control.as_ref().map(|control| control.system_id).or(marked);
        Ok(Some(Existing {
            system_identifier,
            major: control.as_ref().map(|control| control.major),
            run_at: run_at(target).filter(|other| is_another(other, target, system_identifier)),
            unfinished: control.is_none(),
            tablespaces: links(&directory)?,
            wal_elsewhere: wal_elsewhere(&directory, target)?,
            never_adopted: never_adopted(target),
        }))
    }

    /// What an unfinished restore left that was begun over a cluster: it is gone on with, also without `--delta`, because
    /// its places are never emptied.
    ///
    /// # Errors
    /// As [`Existing::look`].
    pub fn unfinished_over(target: &Path) -> Result<Option<Existing>> {
        let over = Marker::of_target(&Directory::open(target)?)?.is_some_and(|mark| mark.is_over());
        if over { Existing::look(target) } else { Ok(None) }
    }

    /// Whether the link of a tablespace leads to this very directory.
    pub fn links_to(&self, oid: u32, location: &Path) -> bool {
        let place = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
        let here = self.tablespaces.get(&oid).and_then(|path| place(path));
        here.is_some() && here == place(location)
    }

    /// Refuses another cluster than this one.
    ///
    /// # Errors
    /// `Refused`, naming both.
    pub fn must_be(&self, system_identifier: SystemId, target: &Path) -> Result<()> {
        match self.system_identifier {
            Some(found) if found != system_identifier => Err(Error::refused(format!(
                "{} is another cluster than the one that was backed up",
                target.display()
            ))
            .detail(format!(
                "its system identifier is {found}, that of the backup {system_identifier}"
            ))
            .hint("Choose another directory with `--into`; `pgkeep list` shows which clusters there are backups of.")),
            _ => Ok(()),
        }
    }

    /// Refuses a directory of another major than the backup's.
    ///
    /// # Errors
    /// `Refused`, naming both.
    pub fn must_be_of(&self, major: PgMajor, target: &Path) -> Result<()> {
        match self.major {
            Some(found) if found != major => Err(Error::refused(format!(
                "{} is of PostgreSQL {found}, and the backup of PostgreSQL {major}",
                target.display()
            ))
            .hint("Choose another directory with `--into`; `pgkeep list` shows which backups there are.")),
            _ => Ok(()),
        }
    }
}

/// Where the directory's server was run last, by the options that it left.
fn run_at(target: &Path) -> Option<PathBuf> {
    let options = std::fs::read_to_string(target.join("postmaster.opts")).ok()?;
    let (_, rest) = options.split_once("\"-D\" \"")?;
    let (path, _) = rest.split_once('"')?;
    Path::new(path).is_absolute().then(|| PathBuf::from(path))
}

fn is_another(other: &Path, target: &Path, system_identifier: Option<SystemId>) -> bool {
    let place = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    let theirs = ControlFile::read(other).ok().map(|control| control.system_id);
    theirs.is_some() && theirs == system_identifier && place(other) != place(target)
}

fn not_a_cluster(target: &Path, source: Error) -> Error {
    let kind = match source.kind() {
        ErrorKind::NotFound | ErrorKind::Corrupt => ErrorKind::Refused,
        kind => kind,
    };
    Error::new(kind, format!("{} can't be restored over", target.display()))
        .detail(format!(
            "nothing says that it is a cluster of this system identifier: {}",
            source.detail_text().unwrap_or_else(|| source.to_string())
        ))
        .hint(
            "Save its WAL with `pgkeep wal salvage`, move it away, and restore into an empty directory, without `--delta`.",
        )
}

fn links(directory: &Directory) -> Result<BTreeMap<u32, PathBuf>> {
    let mut found = BTreeMap::new();
    // Something else of that name holds no links that PostgreSQL made.
    let links = match directory.is_directory(b"pg_tblspc")? {
        true => directory.enter(b"pg_tblspc")?,
        false => None,
    };
    let Some(links) = links else { return Ok(found) };
    let mut names = links.sorted_names()?;
    while let Some(name) = names.advance() {
        let oid = name.to_str().ok().and_then(|name| name.parse().ok());
        if let (Some(oid), Some(location)) = (oid, links.read_link(name.to_bytes())?)
            && location.is_absolute()
            && location.is_dir()
        {
            found.insert(oid, location.components().collect());
        }
    }
    Ok(found)
}

fn wal_elsewhere(directory: &Directory, target: &Path) -> Result<Option<PathBuf>> {
    let Some(link) = directory.read_link(b"pg_wal")? else {
        return Ok(None);
    };
    let real = target.join(&link).canonicalize().ok().filter(|path| path.is_dir());
    real.map(Some).ok_or_else(|| {
        Error::refused(format!("pg_wal of {} leads nowhere", target.display()))
            .detail(format!(
                "it is a link to {}, and there is no such directory",
                link.display()
            ))
            .hint("Mount the disk that it was on, or make that directory; then run the same `pgkeep restore` again.")
    })
}

/// A copy that doesn't archive bears pgkeep's block of settings until it is adopted.
fn never_adopted(target: &Path) -> bool {
    read_auto_conf(target).is_ok_and(|settings| keeps_silent(&settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_cluster_of_the_same_major_is_restored_over() {
        let existing = Existing {
            system_identifier: Some(SystemId(7)),
            major: PgMajor::new(17).ok(),
            unfinished: false,
            tablespaces: BTreeMap::new(),
            wal_elsewhere: None,
            run_at: None,
            never_adopted: false,
        };
        let target = Path::new("/data");
        existing.must_be(SystemId(7), target).unwrap();
        let other = existing.must_be(SystemId(8), target).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Refused);
        existing.must_be_of(PgMajor::new(17).unwrap(), target).unwrap();
        let newer = existing.must_be_of(PgMajor::new(18).unwrap(), target).unwrap_err();
        assert_eq!(newer.kind(), ErrorKind::Refused);
    }
}
