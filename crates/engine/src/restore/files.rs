//! Writes the files of a backup into a layout, or brings what is there to what they are.
//!
//! Invariants: nothing is written outside of the places of the layout, whatever a manifest says (`files/directory.rs`);
//! what is read was verified by the reader; `pg_control` gets its name when all else is durable, so that a restore that
//! was killed can't be started, and the next one starts over, or goes on (`files/marker.rs`).
//! Read next: `files/entries.rs` for the walk, `files/flow.rs` for how pieces become jobs, `files/jobs.rs` for the work,
//! `files/finish.rs` for the end. Over an existing cluster: `files/claim/over.rs`, `files/survey.rs`, `files/sift.rs`.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pgkeep_base::{Event, Result};
use pgkeep_repo::head::PhysicalHead;
use pgkeep_repo::reader::BackupReader;

use crate::engine::Engine;
use crate::restore::existing::Existing;
use crate::restore::layout::Layout;

mod claim;
mod directory;
mod ending;
mod entries;
mod finish;
mod flow;
mod jobs;
mod known;
mod marker;
mod owner;
mod sift;
mod survey;
mod target;

pub(super) use directory::{Directory, Making};
pub(super) use entries::{name as entry_name, pieces};
pub(super) use finish::WAITING_CONTROL;
pub(super) use jobs::JobBuilder;
pub(super) use known::Remembered;
pub use marker::Marker;
pub use owner::{Ids, Ownership};
pub(super) use sift::{Together, sift};
pub(super) use survey::{Findings, Sites, Surplus, is, survey};
pub(super) use target::{Piece, Taking, Target};

use claim::{Held, Places};
use ending::Ending;
use entries::Walked;
use jobs::JOBS_MAX;

/// The first Linux whose `syncfs` reports what could not be written.
const SYNCFS_REPORTS_SINCE: (u32, u32) = (5, 8);

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Written {
    /// How many files.
    pub files: u64,
    /// Their lengths.
    pub bytes: u64,
    /// How many of these bytes take no space, because they are zeros.
    pub hole_bytes: u64,
    /// How many directories, those of tablespaces included.
    pub directories: u64,
    /// How long everything took.
    pub seconds: f64,
    /// How much of that went into making it durable.
    pub sync_seconds: f64,
    /// Of the bytes of files, how many were there already.
    pub kept_bytes: u64,
    /// Bytes that were read from the repository, as they are stored.
    pub fetched_bytes: u64,
    /// Bytes of files that had to be written.
    pub written_bytes: u64,
    /// How many files and directories were removed, each with all that was in it.
    pub removed: u64,
    /// What an operator should read.
    pub notes: Vec<String>,
}

/// Restores all files of a backup.
///
/// `jobs` is how many requests are in work at once, 1 to 6. `before_control` runs when everything but `pg_control` is
/// written, and writes what else shall be in the data directory; then all of it is made durable.
///
/// # Errors
/// `Refused` where a place is occupied or an owner unknown: nothing was changed. `Conflict` where somebody else writes
/// there, too. `Corrupt` where no place has a good copy of something, or the backup has an entry that can't be;
/// `Unavailable` or `Denied` where one that did not answer may have it. `Io`, also for a full disk.
///
/// Whatever ends it early leaves a directory that PostgreSQL won't start, marked as unfinished: running the same
/// restore again empties it and begins anew. Dropping the future leaves writes of a few files running for a moment.
pub async fn write_all<F>(
    engine: &Engine,
    reader: &BackupReader,
    layout: &Layout,
    jobs: usize,
    before_control: F,
) -> Result<Written>
where
    F: AsyncFnOnce(&Path) -> Result<()>,
{
    let begun = Begun::new(engine, reader, layout, false)?;
    let Begun { making, ending, .. } = begun;
    let places = claim::claim(layout, reader.head(), engine.now(), making).map_err(|error| ending.explain(0, error))?;
    let run = begun.run(&places);
    let mut written = run.finish(jobs, before_control).await?;
    written.seconds = begun.at.elapsed().as_secs_f64();
    Ok(written)
}

/// Brings an existing cluster to the files of a backup: what fits is kept, what differs is fetched, what is too much is
/// removed. `before_change` runs when the cluster is locked and judged, and before anything in it is changed, with its
/// open directory: it saves what must not get lost.
///
/// Otherwise as [`write_all`].
///
/// # Errors
/// As [`write_all`]. Whatever ends it early leaves a directory that PostgreSQL won't start, marked as unfinished: running
/// it again goes on.
pub(super) async fn write_over<S, F>(
    engine: &Engine,
    reader: &BackupReader,
    layout: &Layout,
    existing: &Existing,
    jobs: usize,
    before_change: S,
    before_control: F,
) -> Result<Written>
where
    S: AsyncFnOnce(&Directory, Making) -> Result<()>,
    F: AsyncFnOnce(&Path) -> Result<()>,
{
    let begun = Begun::new(engine, reader, layout, true)?;
    let Begun { making, ending, .. } = begun;
    let held = Held::hold(layout, existing, making)?;
    before_change(&held.target, making).await?;
    let places = held
        .take(reader.head(), engine.now(), making)
        .map_err(|error| ending.explain(0, error))?;
    let run = begun.run(&places);
    let removed = run.remove_surplus().await.map_err(|error| ending.explain(0, error))?;
    let mut written = run.finish(jobs, before_control).await?;
    written.removed = removed;
    written.seconds = begun.at.elapsed().as_secs_f64();
    Ok(written)
}

/// What is known before a place is taken.
struct Begun<'a> {
    at: Instant,
    engine: &'a Engine,
    reader: &'a BackupReader,
    layout: &'a Layout,
    ending: Ending<'a>,
    ownership: Ownership,
    making: Making,
}

impl<'a> Begun<'a> {
    fn new(engine: &'a Engine, reader: &'a BackupReader, layout: &'a Layout, over: bool) -> Result<Begun<'a>> {
        let at = Instant::now();
        let head = reader.head().physical()?;
        let ownership = Ownership::of_backup(head)?;
        let making = Making {
            mode: directory_mode(head),
            ids: ownership.usual(),
        };
        let ending = Ending {
            layout,
            needed: reader.head().source_bytes,
            over,
        };
        Ok(Begun {
            at,
            engine,
            reader,
            layout,
            ending,
            ownership,
            making,
        })
    }

    fn run<'b>(&'b self, places: &'b Places) -> Run<'b> {
        Run {
            engine: self.engine,
            reader: self.reader,
            layout: self.layout,
            ending: self.ending,
            places,
            ownership: &self.ownership,
            making: self.making,
            done: AtomicU64::new(0),
        }
    }
}

/// PostgreSQL starts on a data directory of mode 0700 or 0750 only.
fn directory_mode(head: &PhysicalHead) -> u32 {
    match head.directory_mode.0 & 0o050 {
        0o050 => 0o750,
        _ => 0o700,
    }
}

/// One restore at work.
struct Run<'a> {
    engine: &'a Engine,
    reader: &'a BackupReader,
    layout: &'a Layout,
    ending: Ending<'a>,
    places: &'a Places,
    ownership: &'a Ownership,
    making: Making,
    done: AtomicU64,
}

impl Run<'_> {
    async fn finish<F>(&self, jobs: usize, before_control: F) -> Result<Written>
    where
        F: AsyncFnOnce(&Path) -> Result<()>,
    {
        let written = self.write(jobs.clamp(1, JOBS_MAX), before_control).await;
        let done = self.done.load(Ordering::Relaxed);
        written.map_err(|error| self.ending.explain(done, error))
    }

    async fn write<F>(&self, jobs: usize, before_control: F) -> Result<Written>
    where
        F: AsyncFnOnce(&Path) -> Result<()>,
    {
        let (walked, done) = self.copy(jobs).await?;
        let Walked { tops, skipped, counts } = walked;
        finish::complete(self.places, &tops, self.layout, self.making)?;
        finish::write_last(self.places, &tops, self.reader.last(), self.layout, self.ownership)?;
        before_control(&self.layout.target).await?;
        let phase = "make files durable".to_owned();
        self.engine.setup().progress.event(Event::Phase {
            name: phase,
            bytes_total: None,
        });
        let syncing = Instant::now();
        block(|| finish::sync_all(self.places))?;
        let unsettled = finish::publish(self.places, &tops)?;
        let last = self.reader.last();
        let last_bytes: u64 = last
            .iter()
            .filter_map(|entry| entry.file())
            .map(|span| span.bytes)
            .sum();
        Ok(Written {
            files: counts.files + last.len() as u64,
            bytes: counts.bytes + last_bytes,
            hole_bytes: counts.holes,
            directories: counts.directories,
            sync_seconds: syncing.elapsed().as_secs_f64(),
            kept_bytes: done.bytes - done.written,
            fetched_bytes: done.fetched,
            written_bytes: done.written + last_bytes,
            notes: self.notes(&skipped).into_iter().chain(unsettled).collect(),
            ..Written::default()
        })
    }

    /// Removes what the backup doesn't have, first of all: it may take the space that is needed.
    async fn remove_surplus(&self) -> Result<u64> {
        survey::clear_dropped(&self.layout.dropped, self.reader.head())?;
        let sites = Sites {
            target: self.places.target.clone(),
            tablespaces: self.places.tablespaces.clone(),
            wal_elsewhere: self.places.wal_elsewhere.clone(),
        };
        let mut removal = survey::Removal { removed: 0 };
        survey(self.reader, &sites, &mut removal).await?;
        Ok(removal.removed)
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.engine.setup().progress.event(Event::Bytes { done });
    }

    fn notes(&self, skipped: &std::collections::BTreeSet<u32>) -> Vec<String> {
        let mut notes: Vec<String> = self.ownership.note().into_iter().collect();
        for oid in skipped {
            notes.push(format!(
                "tablespace {oid} was created while the backup ran: its files come from the WAL, if it is still there"
            ));
        }
        for place in &self.places.abandoned {
            notes.push(format!(
                "an earlier try put a tablespace into {place}; what it left there can be removed"
            ));
        }
        notes
    }
}

/// Runs what may block for long. On a runtime of one thread everything waits.
pub(super) fn block<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Older kernels forget write errors that `syncfs` should report: then each file is synced by itself.
fn syncfs_reports() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next());
    version.is_some_and(|version| version >= SYNCFS_REPORTS_SINCE)
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
