//! Keeps WAL in pgkeep's own directory of a data directory, before anything else there is changed.
//!
//! Invariant: a file is kept once it has its name there, is durable, and was read back with the hash that the plan names.
//! Nothing is taken from `pg_wal` by that: a hard link costs no space, a copy is made where the disk is another.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use pgkeep_base::{Error, Result, ResultExt, WalFile, failpoint};
use rustix::fs::{AtFlags, CWD, OFlags};

use super::{SavedFile, SavedWal};
use crate::engine::Engine;
use crate::restore::OWN_DIRECTORY;
use crate::restore::files::{Directory, Making};
use crate::wal::Content;
use crate::wal::local::SAVED_DIRECTORY;

/// Copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Keeps everything that the plan names.
///
/// # Errors
/// `Refused` where a file is no longer what it was when the restore was planned; `Io`. Nothing else was changed.
pub fn keep(engine: &Engine, saved: &SavedWal, target: &Directory, making: Making) -> Result<()> {
    if saved.files.iter().all(|file| file.in_place) {
        return Ok(());
    }
    let private = Making { mode: 0o700, ..making };
    let own = target.take_over(OWN_DIRECTORY.as_bytes(), private)?;
    let directory = own.take_over(SAVED_DIRECTORY.as_bytes(), private)?;
    let kept = saved.files.iter().filter(|file| !file.in_place).try_for_each(|file| {
        let kept = keep_file(&directory, file, making).during(|| format!("save {}", file.from.display()));
        kept.and_then(|()| check(engine, &directory, file)).inspect_err(|_| {
            // Half a copy would only take space.
            let _ = directory.remove(file.name.as_bytes());
        })
    });
    kept.and_then(|()| directory.sync())
        .and_then(|()| own.sync())
        .and_then(|()| target.sync())
        .map_err(|error| explain(error, target))
}

fn explain(error: Error, target: &Directory) -> Error {
    let target = target.path().display();
    error.or_hint(format!(
        "Nothing in {target} was changed: its WAL is saved first. Make space or see what is wrong there, or store that \
         WAL in the archive with `pgkeep wal salvage {target}`; then run the same `pgkeep restore` again."
    ))
}

fn keep_file(directory: &Directory, file: &SavedFile, making: Making) -> Result<()> {
    let name = file.name.as_bytes();
    // What an earlier run left may be half a copy.
    directory.remove(name)?;
    failpoint::at("engine.restore.save")?;
    let linked = rustix::fs::linkat(CWD, &file.from, directory.as_fd(), name, AtFlags::empty());
    let kept = match linked {
        Ok(()) => directory.open_any(name)?,
        Err(_) => copy(directory, file, making)?,
    };
    kept.sync_all().map_err(Error::from)
}

/// Where a link can't be made: another file system, or one that has none.
fn copy(directory: &Directory, file: &SavedFile, making: Making) -> Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut from = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(&file.from)?;
    let mut to = directory.create(file.name.as_bytes(), Making { mode: 0o600, ..making })?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(to),
            read => to.write_all(&buffer[..read])?,
        }
    }
}

fn check(engine: &Engine, directory: &Directory, file: &SavedFile) -> Result<()> {
    let path = directory.path().join(&file.name);
    let kind = match file.segment {
        Some(segment) => WalFile::Segment(segment.name()),
        None => WalFile::parse(file.name.split('-').next().unwrap_or_default())
            .ok_or_else(|| Error::internal("saved WAL has the name of WAL"))?,
    };
    let content = Content::open(&path, &kind).during(|| format!("read {}", path.display()))?;
    if engine.naming().digest(content.source())?.hash == file.hash {
        return Ok(());
    }
    Err(Error::refused(format!("{} is not as it was", file.from.display()))
        .detail("it was changed since the restore was planned")
        .hint("See that no server runs there; then run the same `pgkeep restore` again."))
}
