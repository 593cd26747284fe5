//! Writes the files of a backup into a layout.
//!
//! Invariants: nothing is written outside of the places of the layout, whatever a manifest says (`files/directory.rs`);
//! what is read was verified by the reader; `pg_control` gets its name when all else is durable, so that a restore that
//! was killed can't be started, and the next one starts over (`files/marker.rs`).
//! Read next: `files/entries.rs` for the walk, `files/jobs.rs` for the work, `files/finish.rs` for the end.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pgkeep_base::{ByteSize, Error, Event, Result};
use pgkeep_repo::head::PhysicalHead;
use pgkeep_repo::reader::BackupReader;
use tokio::sync::mpsc;

use crate::engine::Engine;
use crate::restore::layout::{Layout, free_bytes};

mod claim;
mod directory;
mod entries;
mod finish;
mod jobs;
mod marker;
mod owner;
mod target;

pub(super) use directory::{Directory, Making};
pub(super) use finish::WAITING_CONTROL;
pub(super) use marker::Marker;
pub use owner::{Ids, Ownership};

use claim::Places;
use entries::{Entries, Walked};
use jobs::{JOBS_MAX, Job};

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
    let began = Instant::now();
    let head = reader.head().physical()?;
    let ownership = Ownership::of_backup(head)?;
    let making = Making {
        mode: directory_mode(head),
        ids: ownership.usual(),
    };
    let needed = reader.head().source_bytes;
    let places = claim::claim(layout, &reader.head().id, engine.now(), making)
        .map_err(|error| explain(layout, needed, 0, error))?;
    let run = Run {
        engine,
        reader,
        layout,
        places: &places,
        ownership: &ownership,
        making,
        done: AtomicU64::new(0),
    };
    let written = run.write(jobs.clamp(1, JOBS_MAX), before_control).await;
    let done = run.done.load(Ordering::Relaxed);
    let mut written = written.map_err(|error| explain(layout, needed, done, error))?;
    written.seconds = began.elapsed().as_secs_f64();
    Ok(written)
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
    places: &'a Places,
    ownership: &'a Ownership,
    making: Making,
    done: AtomicU64,
}

impl Run<'_> {
    async fn write<F>(&self, jobs: usize, before_control: F) -> Result<Written>
    where
        F: AsyncFnOnce(&Path) -> Result<()>,
    {
        let Walked {
            tops, skipped, counts, ..
        } = self.copy(jobs).await?;
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
        Ok(Written {
            files: counts.files + last.len() as u64,
            bytes: counts.bytes
                + last
                    .iter()
                    .filter_map(|entry| entry.file())
                    .map(|span| span.bytes)
                    .sum::<u64>(),
            hole_bytes: counts.holes,
            directories: counts.directories,
            seconds: 0.0,
            sync_seconds: syncing.elapsed().as_secs_f64(),
            notes: self.notes(&skipped).into_iter().chain(unsettled).collect(),
        })
    }

    /// Copies everything but the last entries: one walks along the manifest, the others read and write.
    async fn copy(&self, jobs: usize) -> Result<Walked> {
        let (sender, receiver) = mpsc::channel(jobs);
        let (walked, ()) = futures::try_join!(self.walk(sender), self.work(receiver, jobs))?;
        Ok(walked)
    }

    /// Does jobs, so many at once, until there are no more.
    async fn work(&self, mut queue: mpsc::Receiver<Job>, jobs: usize) -> Result<()> {
        let synced = !syncfs_reports();
        let mut running = FuturesUnordered::new();
        let mut open = true;
        loop {
            tokio::select! {
                job = queue.recv(), if open && running.len() < jobs => match job {
                    Some(job) => running.push(self.job(job, synced)),
                    None => open = false,
                },
                Some(done) = running.next(), if !running.is_empty() => done?,
                else => return Ok(()),
            }
        }
    }

    async fn job(&self, job: Job, synced: bool) -> Result<()> {
        let bytes = job.run(self.reader.source(), synced).await?;
        self.advance(bytes);
        Ok(())
    }

    async fn walk(&self, jobs: mpsc::Sender<Job>) -> Result<Walked> {
        let mut stream = self.reader.entries();
        let mut entries = Entries::new(self.places, self.ownership);
        // A closed channel means that a job failed: its error is the one to report.
        let gone = |_| Error::cancelled("the restore has failed already");
        let mut holes = 0;
        while let Some(block) = stream.next_block().await? {
            for entry in block {
                for job in entries.next(entry)? {
                    jobs.send(job).await.map_err(gone)?;
                }
            }
            self.advance(entries.counts().holes - holes);
            holes = entries.counts().holes;
        }
        let mut walked = entries.finish();
        if let Some(job) = walked.rest.take() {
            jobs.send(job).await.map_err(gone)?;
        }
        Ok(walked)
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.engine.setup().progress.event(Event::Bytes { done });
    }

    fn notes(&self, skipped: &std::collections::BTreeSet<u32>) -> Vec<String> {
        let mut notes: Vec<String> = self.ownership.note().into_iter().collect();
        for oid in skipped {
            notes.push(format!(
                "tablespace {oid} was created and dropped while the backup ran; its files were left out"
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

/// Says what became of the target, and what a full disk lacks.
fn explain(layout: &Layout, needed: u64, done: u64, error: Error) -> Error {
    if !is_full(&error) {
        return error
            .or_hint("What was written can't be started; the same `pgkeep restore` empties it and begins anew.");
    }
    let size = |bytes| ByteSize(bytes).to_string();
    let places = std::iter::once(&layout.target).chain(layout.tablespaces.iter().map(|tablespace| &tablespace.to));
    let free: Vec<String> = places
        .map(|place| {
            let free = free_bytes(place).map_or("an unknown amount".to_owned(), size);
            format!("{free} free at {}", place.display())
        })
        .collect();
    Error::io(format!(
        "there is no space left for the restore into {}",
        layout.target.display()
    ))
    .detail(format!(
        "the backup has {}, {} were written; {}",
        size(needed),
        size(done),
        free.join(", ")
    ))
    .hint("Make space and run the same `pgkeep restore` again, or choose a larger place with `--into`.")
    .source(error)
}

/// Runs what may block for long. On a runtime of one thread everything waits.
fn block<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Whether the operating system said that there is no space, or that the quota is used up.
fn is_full(error: &Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(
            kind,
            Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        ) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Older kernels forget write errors that `syncfs` should report: then each file is synced by itself.
fn syncfs_reports() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next());
    version.is_some_and(|version| version >= SYNCFS_REPORTS_SINCE)
}

#[cfg(test)]
pub(super) mod fixture;
#[cfg(test)]
mod tests;
