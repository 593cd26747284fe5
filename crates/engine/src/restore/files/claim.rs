//! Takes the places of a layout: opens or creates them, locks, marks and empties them, or takes over what is there.
//!
//! Invariants: what is emptied bears the mark of an unfinished restore for this very path, is locked, and no server
//! runs in it. All places are judged before the first is changed. What is taken over (`claim/over.rs`) can't be started
//! from before its first change on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use pgkeep_base::{Error, Result};
use pgkeep_pg::server::is_running;
use pgkeep_repo::head::Head;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::directory::{Directory, Making, failed};
use super::marker::Marker;
use crate::restore::layout::{Layout, TargetState, state_of};

mod over;

pub(super) use over::Held;

/// The open places of a restore. The lock lasts as long as this does.
#[derive(Debug)]
pub(in crate::restore) struct Places {
    /// The data directory.
    pub target: Arc<Directory>,
    /// The tablespaces that are links, by OID.
    pub tablespaces: BTreeMap<u32, Arc<Directory>>,
    /// Locations that an earlier try used and this one doesn't.
    pub abandoned: Vec<String>,
    /// What is there is taken over.
    pub over: bool,
    /// Where `pg_wal` leads, if it is a link that stays.
    pub wal_elsewhere: Option<Arc<Directory>>,
}

/// Takes all places of a layout for the restore of a backup.
///
/// # Errors
/// `Refused` where one holds something else, or a server runs; `Conflict` where another restore is at work; `Io`.
pub(super) fn claim(layout: &Layout, head: &Head, now: Timestamp, making: Making) -> Result<Places> {
    let target = open_or_make(&layout.target, making)?;
    lock(&target)?;
    let before = judge_target(&target, &layout.target)?;
    let mut tablespaces = BTreeMap::new();
    for tablespace in &layout.tablespaces {
        let directory = open_or_make(&tablespace.to, Making { mode: 0o700, ..making })?;
        judge_tablespace(&directory, before.as_ref())?;
        tablespaces.insert(tablespace.oid, Arc::new(directory));
    }
    // What is claimed already is emptied first: on a full disk there is no room for a new mark.
    if before.is_some() {
        Marker::clear_target(&target)?;
    }
    let marker = Marker::new(head, now, layout, before.as_ref(), false);
    marker.put(&target, Making { mode: 0o700, ..making })?;
    Marker::clear_target(&target)?;
    target.own(making)?;
    for tablespace in tablespaces.values() {
        if marker.claims(tablespace)? {
            Marker::clear_tablespace(tablespace)?;
        }
        marker.put_in_tablespace(tablespace, making)?;
        Marker::clear_tablespace(tablespace)?;
    }
    let abandoned = before.iter().flat_map(|before| before.abandoned(layout));
    Ok(Places {
        abandoned: abandoned.map(str::to_owned).collect(),
        target: Arc::new(target),
        tablespaces,
        over: false,
        wal_elsewhere: None,
    })
}

impl Places {
    /// Makes it durable that the data directory has no mark any more, and takes those of the tablespaces off.
    pub fn settle_marks(&self) -> Result<()> {
        Marker::settle(&self.target)?;
        self.tablespaces
            .values()
            .try_for_each(|t| Marker::lift_from_tablespace(t))
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Directory> {
        let others = self.tablespaces.values().chain(&self.wal_elsewhere);
        std::iter::once(&*self.target).chain(others.map(|directory| &**directory))
    }
}

fn open_or_make(path: &Path, making: Making) -> Result<Directory> {
    use std::os::unix::ffi::OsStrExt;
    if path.symlink_metadata().is_ok() {
        return Directory::open(path);
    }
    let (parent, name) = path
        .parent()
        .zip(path.file_name())
        .ok_or_else(|| Error::refused(format!("can't restore into {}", path.display())))?;
    let real = parent.canonicalize();
    let parent = Directory::open(&real.map_err(|source| failed(format!("open {}", parent.display()), source))?)?;
    let made = parent.make(name.as_bytes(), making)?;
    parent.sync()?;
    Ok(made)
}

/// Two restores into one place would each take the other's files for the leavings of an earlier try.
fn lock(target: &Directory) -> Result<()> {
    match rustix::fs::flock(target.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(Error::conflict(format!(
            "another restore into {} is at work",
            target.path().display()
        ))
        .hint("Wait for it, or stop it; then run `pgkeep restore` again.")),
        // Some network file systems can't lock directories.
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::BADF | Errno::NOLCK | Errno::INVAL) | Ok(()) => Ok(()),
        Err(errno) => Err(failed(format!("lock {}", target.path().display()), errno.into())),
    }
}

fn judge_target(target: &Directory, path: &Path) -> Result<Option<Marker>> {
    if is_running(path)?.is_some() {
        return Err(Error::refused(format!("a server runs on {}", path.display()))
            .hint("Choose another directory with `--into`."));
    }
    match state_of(target, path)? {
        TargetState::Unfinished => match Marker::of_target(target)? {
            Some(before) if before.is_over() => Err(taken(path)),
            before => Ok(before),
        },
        TargetState::Occupied | TargetState::Existing => Err(taken(path)),
        TargetState::Absent | TargetState::Empty => Ok(None),
    }
}

fn judge_tablespace(directory: &Directory, before: Option<&Marker>) -> Result<()> {
    let ours = match before {
        Some(before) => before.claims(directory)?,
        None => false,
    };
    match ours || directory.is_vacant()? {
        true => Ok(()),
        false => Err(taken(directory.path())),
    }
}

fn taken(path: &Path) -> Error {
    Error::refused(format!("{} is not empty", path.display()))
        .detail("something came to be in it since the restore was planned")
        .hint("Choose another place with `--into` or `--tablespace OLD=NEW`.")
}
