//! Where a restore puts the data directory and the tablespaces, checked before anything is touched.
//!
//! Invariant: a layout that passed [`Layout::check`] names places that are absent, empty, hold pgkeep's own unfinished
//! restore, or (with `--delta`) the cluster that was backed up, none inside another or inside somebody's data directory.
//! The same is checked once more, through open descriptors, when the places are claimed: `files/claim.rs`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use pgkeep_base::{Error, Lsn, Result, ResultExt};
use pgkeep_pg::label::{TABLESPACE_MAP, parse_tablespace_map};
use pgkeep_repo::manifest::{Content, EntryKind};
use pgkeep_repo::paths::DataPath;
use pgkeep_repo::reader::BackupReader;

use super::existing::Existing;
use crate::path::MadeTablespace;

mod check;

pub(super) use check::state_of;
pub use check::{TargetState, free_bytes, inspect, resolve};

/// Where everything goes.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Layout {
    /// The data directory: absolute, without links.
    pub target: PathBuf,
    /// The tablespaces that are links, by ascending OID.
    pub tablespaces: Vec<TablespaceTarget>,
    /// Tablespaces that the directory links to and the backup doesn't have: OID and location. They are emptied.
    pub dropped: Vec<(u32, PathBuf)>,
}

/// Where one tablespace goes.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct TablespaceTarget {
    /// Its OID.
    pub oid: u32,
    /// Its location when the backup was taken.
    pub from: PathBuf,
    /// Its location to be: what the link says.
    pub to: PathBuf,
    /// Not in the backup: recovery makes it, by the record that begins here, and always where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_at: Option<Lsn>,
}

impl TablespaceTarget {
    /// Whether it goes elsewhere.
    pub fn is_moved(&self) -> bool {
        self.from != self.to
    }
}

/// The layout of a backup below `target`, with tablespaces moved as `moves` say (old location, new location), else where
/// the links of an existing directory lead, checked against what is on disk. Costs one or two ranged reads per tablespace; changes nothing.
///
/// `made` are those that recovery makes: PostgreSQL demands that their locations exist, and writes into what is there, be
/// it a living cluster's. So they get places like all others, and can't be moved.
///
/// # Errors
/// `Refused` for a target without a parent directory, for moves that name no recorded location, for relative new
/// ones, and for all that [`Layout::check`] refuses; `Corrupt` for recorded locations that can't be.
pub async fn plan(
    target: &Path,
    moves: &[(PathBuf, PathBuf)],
    made: &[MadeTablespace],
    reader: &BackupReader,
    existing: Option<&Existing>,
) -> Result<Layout> {
    let recorded = recorded_locations(reader).await?;
    let target = resolve_target(target)?;
    refuse_moving(moves, made)?;
    let mut tablespaces = apply_moves(&recorded, moves)?;
    add_made(&mut tablespaces, made)?;
    let mut dropped = Vec::new();
    for (oid, location) in existing.iter().flat_map(|existing| &existing.tablespaces) {
        match tablespaces.iter_mut().find(|tablespace| tablespace.oid == *oid) {
            // Recovery makes it anew, and would take stale files for its own.
            Some(tablespace) if tablespace.made_at.is_some() => dropped.push((*oid, location.clone())),
            // What the directory itself links to is its own, wherever the backed up cluster had it.
            Some(tablespace) if tablespace.from == tablespace.to => tablespace.to.clone_from(location),
            Some(_) => {}
            None => dropped.push((*oid, location.clone())),
        }
    }
    let layout = Layout {
        target,
        tablespaces,
        dropped,
    };
    layout.check(existing)?;
    Ok(layout)
}

impl Layout {
    /// The tablespace of that OID.
    pub fn tablespace(&self, oid: u32) -> Option<&TablespaceTarget> {
        self.tablespaces.iter().find(|tablespace| tablespace.oid == oid)
    }
}

/// Locations by OID: those in `tablespace_map`, and those that were made while the backup ran.
async fn recorded_locations(reader: &BackupReader) -> Result<BTreeMap<u32, PathBuf>> {
    let mut recorded = BTreeMap::new();
    for oid in &reader.head().physical()?.tablespaces {
        let path = DataPath::new(format!("pg_tblspc/{oid}"))?;
        for entry in reader.find(&path).await? {
            if let EntryKind::Tablespace {
                location: Some(location),
            } = entry.kind
            {
                recorded.insert(*oid, PathBuf::from(OsStr::from_bytes(&location)));
            }
        }
    }
    for tablespace in recorded_map(reader)? {
        // One in place has a relative location, and lies in the data directory.
        if tablespace.location.is_absolute() {
            recorded.insert(tablespace.oid, tablespace.location);
        }
    }
    recorded
        .iter()
        .try_for_each(|(oid, location)| check_recorded(*oid, location))?;
    Ok(recorded)
}

fn recorded_map(reader: &BackupReader) -> Result<Vec<pgkeep_pg::datadir::Tablespace>> {
    let map = reader
        .last()
        .iter()
        .find(|entry| entry.path.as_bytes() == TABLESPACE_MAP.as_bytes());
    match map.and_then(|entry| entry.file()).map(|span| &span.content) {
        Some(Content::Inline(bytes)) => parse_tablespace_map(bytes),
        _ => Ok(Vec::new()),
    }
}

fn check_recorded(oid: u32, location: &Path) -> Result<()> {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if location.is_absolute() && location.components().all(plain) && location.parent().is_some() {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "tablespace {oid} can't have been at \"{}\"",
        location.display()
    ))
    .hint("Restore from another backup; `pgkeep list` shows them."))
}

/// Absolute and without links, as far as it exists; all but its last name must.
fn resolve_target(target: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(target).during(|| format!("find {}", target.display()))?;
    if absolute.symlink_metadata().is_ok() || absolute.file_name().is_none() {
        return absolute
            .canonicalize()
            .map_err(|source| no_such_place(&absolute, source));
    }
    let (parent, name) = (absolute.parent(), absolute.file_name());
    let (parent, name) = parent.zip(name).expect("a path with a last name has a parent");
    let parent = parent
        .canonicalize()
        .map_err(|source| no_such_place(&absolute, source))?;
    Ok(parent.join(name))
}

fn no_such_place(path: &Path, source: std::io::Error) -> Error {
    let parent = path.parent().unwrap_or(path).display();
    Error::refused(format!("can't restore into {}", path.display()))
        .detail(format!("its parent directory can't be reached: {source}"))
        .hint(format!(
            "Create {parent} for the user that runs PostgreSQL, then run `pgkeep restore` again."
        ))
}

fn apply_moves(recorded: &BTreeMap<u32, PathBuf>, moves: &[(PathBuf, PathBuf)]) -> Result<Vec<TablespaceTarget>> {
    let same = |a: &Path, b: &Path| a.components().eq(b.components());
    for (number, (old, new)) in moves.iter().enumerate() {
        if !recorded.values().any(|location| same(location, old)) {
            return Err(unknown_location(old, recorded));
        }
        let is_plain = !new.components().any(|part| part == Component::ParentDir);
        if !new.is_absolute() || new.parent().is_none() || !is_plain {
            return Err(
                Error::refused(format!("\"{}\" can't be the location of a tablespace", new.display()))
                    .detail("PostgreSQL takes absolute paths, without `..`")
                    .hint("Write `--tablespace OLD=NEW` with an absolute NEW."),
            );
        }
        if moves[..number].iter().any(|(before, _)| same(before, old)) {
            return Err(
                Error::refused(format!("tablespace location {} is moved twice", old.display()))
                    .hint("Give `--tablespace OLD=NEW` once for each location."),
            );
        }
    }
    let place = |(oid, from): (&u32, &PathBuf)| {
        let moved = moves.iter().find(|(old, _)| same(old, from));
        TablespaceTarget {
            oid: *oid,
            from: from.clone(),
            to: moved.map_or(from, |(_, new)| new).components().collect(),
            made_at: None,
        }
    };
    Ok(recorded.iter().map(place).collect())
}

/// What recovery makes can't be moved.
fn refuse_moving(moves: &[(PathBuf, PathBuf)], made: &[MadeTablespace]) -> Result<()> {
    let same = |a: &Path, b: &Path| a.components().eq(b.components());
    let moved = made.iter().find(|made| {
        moves
            .iter()
            .any(|(old, new)| same(old, &made.location) && !same(old, new))
    });
    moved.map_or(Ok(()), |made| {
        Err(
            Error::refused(format!("the tablespace at {} can't be moved", made.location.display()))
                .detail(format!(
                    "it was made after the backup began, at {}, and PostgreSQL makes it again at the same place",
                    made.record
                ))
                .hint(
                    "Restore it without moving it, on another host if need be, or stop before that with `--lsn`; a                      backup that is taken now can be restored with it moved.",
                ),
        )
    })
}

/// Gives what recovery makes a place, unless it has one.
fn add_made(tablespaces: &mut Vec<TablespaceTarget>, made: &[MadeTablespace]) -> Result<()> {
    for MadeTablespace { oid, location, record } in made {
        check_recorded(*oid, location)?;
        let to: PathBuf = location.components().collect();
        let shared = |known: &TablespaceTarget| known.to == to && (known.made_at.is_some() || !known.is_moved());
        if !tablespaces.iter().any(shared) {
            tablespaces.push(TablespaceTarget {
                oid: *oid,
                from: location.clone(),
                to,
                made_at: Some(*record),
            });
        }
    }
    Ok(())
}

fn unknown_location(old: &Path, recorded: &BTreeMap<u32, PathBuf>) -> Error {
    let list: Vec<String> = recorded
        .iter()
        .map(|(oid, location)| format!("{} ({oid})", location.display()))
        .collect();
    let detail = match list.is_empty() {
        true => "it has no tablespaces".to_owned(),
        false => format!("its tablespaces were at {}", list.join(", ")),
    };
    Error::refused(format!("the backup has no tablespace at {}", old.display()))
        .detail(detail)
        .hint("Write `--tablespace OLD=NEW` with an OLD of this list.")
}

#[cfg(test)]
mod tests;
