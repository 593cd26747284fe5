//! Looks at the places of a layout and refuses what a restore must not touch.
//!
//! Invariant: looking changes nothing, and what can't be looked at is an error, never taken for free.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pgkeep_base::{Error, Result, ResultExt};
use pgkeep_pg::server::{is_running, server_using};
use rustix::fs::{Access, AtFlags, CWD};

use super::{Layout, TablespaceTarget};
use crate::restore::existing::Existing;
use crate::restore::files::{Directory, Marker};

/// What is at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetState {
    /// Nothing; it will be created.
    Absent,
    /// An empty directory.
    Empty,
    /// What an unfinished restore of pgkeep left: it will be emptied.
    Unfinished,
    /// The cluster that was backed up, or an unfinished restore: what fits will be kept.
    Existing,
    /// Something else.
    Occupied,
}

/// What is at `target`. Links on the way to it are followed.
///
/// # Errors
/// `Refused` where it is not a directory; `Denied` or `Io` where it can't be looked into.
pub fn inspect(target: &Path) -> Result<TargetState> {
    let real = resolve(&std::path::absolute(target).during(|| format!("find {}", target.display()))?);
    match look(&real)? {
        None => Ok(TargetState::Absent),
        Some(directory) => state_of(&directory, &real),
    }
}

/// The state of a data directory to be that is open.
pub(in crate::restore) fn state_of(directory: &Directory, target: &Path) -> Result<TargetState> {
    if directory.is_vacant()? {
        return Ok(TargetState::Empty);
    }
    let ours = Marker::of_target(directory)?.is_some_and(|marker| marker.is_for(target));
    // With pg_control it can be started. Then it is pgkeep's only while nobody did that.
    let begun =
        directory.has("global/pg_control")? && (directory.has("postmaster.opts")? || !directory.has("backup_label")?);
    Ok(if ours && !begun {
        TargetState::Unfinished
    } else {
        TargetState::Occupied
    })
}

/// Bytes that an unprivileged user may still write at `path`, or where it would be created.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let found = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

impl Layout {
    /// Looks at every place and changes nothing.
    ///
    /// # Errors
    /// `Refused` for a running server, a place that holds something, is no directory, can't be created or written,
    /// or lies inside another place, a data directory or a tablespace.
    pub fn check(&self, existing: Option<&Existing>) -> Result<TargetState> {
        self.check_nesting()?;
        self.check_surroundings()?;
        let state = check_target(&self.target, existing)?;
        let marker = match state {
            TargetState::Unfinished | TargetState::Existing => Marker::of_target(&Directory::open(&self.target)?)?,
            _ => None,
        };
        let marker = marker.filter(|marker| marker.is_for(&self.target));
        for tablespace in &self.tablespaces {
            match existing {
                Some(existing) if existing.links_to(tablespace.oid, &tablespace.to) => {
                    check_linked(&tablespace.to, &self.target, existing)
                        .during(|| format!("place tablespace {}", tablespace.oid))?;
                }
                _ => check_tablespace(tablespace, marker.as_ref())?,
            }
        }
        if let Some(existing) = existing {
            let dropped = self.dropped.iter().map(|(_, location)| location);
            dropped
                .chain(&existing.wal_elsewhere)
                .try_for_each(|place| check_linked(place, &self.target, existing))?;
        }
        Ok(state)
    }

    fn places(&self) -> impl Iterator<Item = (String, &Path)> {
        let target = std::iter::once(("the target".to_owned(), self.target.as_path()));
        let tablespaces = self.tablespaces.iter();
        target.chain(tablespaces.map(|t| (format!("tablespace {}", t.oid), t.to.as_path())))
    }

    fn check_nesting(&self) -> Result<()> {
        let places: Vec<_> = self.places().map(|(what, path)| (what, path, resolve(path))).collect();
        for (number, (what, path, real)) in places.iter().enumerate() {
            for (other, other_path, other_real) in &places[..number] {
                let relation = match (real == other_real, real.starts_with(other_real)) {
                    (true, _) => "is in the same place as",
                    (_, true) => "lies inside",
                    _ if other_real.starts_with(real) => "would hold",
                    _ => continue,
                };
                return Err(Error::refused(format!("{what} {relation} {other}"))
                    .detail(format!("{} and {}", path.display(), other_path.display()))
                    .hint("Give each tablespace a place of its own with `--tablespace OLD=NEW`."));
            }
        }
        Ok(())
    }

    /// A place inside a data directory or a tablespace would be backed up, or removed, with it.
    fn check_surroundings(&self) -> Result<()> {
        for (what, path) in self.places() {
            let real = resolve(path);
            for above in real.ancestors().skip(1) {
                let found = if above.join("PG_VERSION").exists() && above.join("global").is_dir() {
                    "the data directory"
                } else if is_version_directory(above) {
                    "a tablespace's directory"
                } else if above.join("control/genesis").exists() {
                    "the repository"
                } else {
                    continue;
                };
                return Err(Error::refused(format!(
                    "{what} {} lies inside {found} {}",
                    path.display(),
                    above.display()
                ))
                .detail("its files would be taken for what belongs there")
                .hint("Choose another place with `--into` or `--tablespace OLD=NEW`."));
            }
        }
        Ok(())
    }
}

/// `PG_17_202406281`
fn is_version_directory(path: &Path) -> bool {
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    let mut parts = name.split(|byte| *byte == b'_');
    let number = |part: Option<&[u8]>| part.is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit));
    parts.next() == Some(b"PG") && number(parts.next()) && number(parts.next()) && parts.next().is_none()
}

/// The path without links, as far as it exists.
pub fn resolve(path: &Path) -> PathBuf {
    let known = path.ancestors().find_map(|above| {
        let real = above.canonicalize().ok()?;
        let rest = path.strip_prefix(above).ok()?;
        Some(real.join(rest).components().collect())
    });
    known.unwrap_or_else(|| path.to_owned())
}

fn look(path: &Path) -> Result<Option<Directory>> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => Directory::open(path).map(Some),
        Ok(found) => {
            let what = if found.is_symlink() {
                "a symbolic link"
            } else {
                "a file"
            };
            Err(Error::refused(format!("can't restore into {}", path.display()))
                .detail(format!("it is {what}, not a directory"))
                .hint("Choose another place with `--into` or `--tablespace OLD=NEW`."))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).during(|| format!("look at {}", path.display())),
    }
}

fn check_target(target: &Path, existing: Option<&Existing>) -> Result<TargetState> {
    let state = match existing {
        Some(_) => TargetState::Existing,
        None => inspect(target)?,
    };
    if state == TargetState::Absent {
        check_parent(target)?;
        return Ok(state);
    }
    if let Some(server) = is_running(target)? {
        return Err(Error::refused(format!("a server runs on {}", target.display()))
            .detail(format!("process {}", server.pid))
            .hint("Choose another directory with `--into`; `pgkeep restore` never touches a running cluster."));
    }
    if state == TargetState::Occupied {
        return Err(occupied(target));
    }
    check_own(target)?;
    Ok(state)
}

fn occupied(target: &Path) -> Error {
    let cluster = target.join("PG_VERSION").exists();
    let marked = Directory::open(target).and_then(|directory| Marker::of_target(&directory));
    let detail = match marked {
        Ok(Some(marker)) if marker.is_for(target) => "it holds a finished restore".to_owned(),
        Ok(Some(marker)) => format!("it holds an unfinished restore into {}", marker.target()),
        _ if cluster => "it holds a PostgreSQL cluster".to_owned(),
        _ => "nothing in it was made by an unfinished `pgkeep restore`".to_owned(),
    };
    let hint = match cluster {
        true => {
            "Choose another directory with `--into`; or, if it is the cluster that was backed up, keep what fits and \
                 replace the rest with `--delta` (`--dry-run` shows what)."
        }
        false => "Choose another directory with `--into`, or move this one away; `pgkeep restore` replaces nothing.",
    };
    Error::refused(format!("{} is not empty", target.display()))
        .detail(detail)
        .hint(hint)
}

/// A place that the existing directory links to. A copy of a data directory has the links of the original, whose files are
/// there.
fn check_linked(place: &Path, target: &Path, existing: &Existing) -> Result<()> {
    let running = server_using(place, target);
    let Some(other) = running.as_ref().or(existing.run_at.as_ref()) else {
        return check_own(place);
    };
    let which = match running.is_some() {
        true => "a running server uses that place",
        false => "it was run there last, so that this is a copy, and what it links to may be the original's",
    };
    Err(Error::refused(format!(
        "{} links to {}, which may be another cluster's",
        target.display(),
        place.display()
    ))
    .detail(format!("{which}: {}", other.display()))
    .hint(
        "Restore the tablespace elsewhere with `--tablespace OLD=NEW`, or make pg_wal a directory; or move the other \
         data directory away, if it is one no more.",
    ))
}

fn check_tablespace(tablespace: &TablespaceTarget, marker: Option<&Marker>) -> Result<()> {
    let (oid, to) = (tablespace.oid, tablespace.to.as_path());
    let during = || format!("place tablespace {oid}");
    let Some(directory) = look(to).during(during)? else {
        return check_parent(to).during(during);
    };
    let ours = marker.is_some_and(|marker| marker.claims(&directory).unwrap_or(false));
    if !ours && !directory.is_vacant()? {
        return Err(taken(tablespace));
    }
    check_own(to).during(during)
}

fn taken(tablespace: &TablespaceTarget) -> Error {
    let TablespaceTarget { oid, from, to, made_at } = tablespace;
    let error = Error::refused(format!("the place of tablespace {oid}, {}, is not empty", to.display()));
    match made_at {
        None => error
            .detail("the source, or another cluster, may use it")
            .hint(format!("Restore it elsewhere with `--tablespace {}=NEW`.", from.display())),
        Some(record) => error
            .detail(format!(
                "recovery makes this tablespace anew, by the record at {record}, always at this place; PostgreSQL would \
                 write into what is there, and the source, or another cluster, may use it"
            ))
            .hint(format!(
                "Stop before it with `--lsn {record} --exclusive`, restore on another host, or move away what is there if \
                 nobody uses it; a `pgkeep backup` that is taken now can be restored with `--tablespace {}=NEW`.",
                from.display()
            )),
    }
}

/// A directory that exists must be ours, or we root, because PostgreSQL runs as its owner.
fn check_own(path: &Path) -> Result<()> {
    let owner = path.metadata().during(|| format!("look at {}", path.display()))?.uid();
    let current = rustix::process::geteuid();
    if current.is_root() || current.as_raw() == owner {
        return Ok(());
    }
    Err(Error::refused(format!("{} belongs to another user", path.display()))
        .detail(format!(
            "its owner is user {owner}, and this is user {}",
            current.as_raw()
        ))
        .hint("Run `pgkeep restore` as the user that shall run PostgreSQL, or as root."))
}

fn check_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    let refuse = |detail: String| {
        Error::refused(format!("can't create {}", path.display()))
            .detail(detail)
            .hint(format!(
                "Create {} for the user that runs PostgreSQL, then run `pgkeep restore` again.",
                parent.display()
            ))
    };
    if !parent.is_dir() {
        return Err(refuse(format!("there is no directory {}", parent.display())));
    }
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, parent, wanted, AtFlags::EACCESS).map_err(|errno| {
        refuse(format!(
            "{} can't be written to: {}",
            parent.display(),
            std::io::Error::from(errno)
        ))
    })
}
