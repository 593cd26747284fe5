//! How the pieces of a backup flow: one walks along the manifest, others look what is there already, others read and write.
//!
//! Invariant: every queue is bounded, also in the directories that it holds open, and what is wanted is gathered in the order of the manifest, in which it lies in the
//! packs, so that a request brings neighbours.

use futures::StreamExt;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use pgkeep_base::{Error, Result};
use tokio::sync::mpsc;

use super::entries::{Entries, Walked};
use super::jobs::{DIRECTORIES_MAX, Done, Job, JobBuilder};
use super::known::Remembered;
use super::sift::{Sifted, Together, sift};
use super::target::Piece;
use super::{Run, syncfs_reports};

/// Pieces that are looked at together where something may be there: many small files, or a part of a large one.
const SIFTED_PIECES: usize = 512;
/// How much waits between two of them: what waits holds directories open.
const WAITING: usize = 1;
/// As many bytes of files are looked at together, at least; at most a file's span, 1 GiB.
const SIFTED_BYTES: u64 = 16 << 20;

impl Run<'_> {
    /// Copies everything but the last entries.
    pub(super) async fn copy(&self, jobs: usize) -> Result<(Walked, Done)> {
        let (pieces, gathered) = mpsc::channel(WAITING);
        let (wanted, queue) = mpsc::channel(WAITING);
        let walk = async {
            match self.places.over {
                true => self.walk(pieces, SIFTED_PIECES, SIFTED_BYTES).await,
                false => self.walk(pieces, 1, 0).await,
            }
        };
        let gather = async {
            match self.places.over {
                true => self.sift(gathered, wanted, jobs).await,
                false => self.gather(gathered, wanted).await,
            }
        };
        let (walked, kept, mut done) = futures::try_join!(walk, gather, self.work(queue, jobs))?;
        done.bytes += kept;
        Ok((walked, done))
    }

    /// Goes along the manifest; hands pieces over when so many have come together, at the end of a file's span, or when
    /// they lie in many directories.
    async fn walk(&self, to: mpsc::Sender<Together>, pieces_least: usize, bytes_least: u64) -> Result<Walked> {
        let mut stream = self.reader.entries();
        let mut entries = Entries::new(self.places, self.ownership);
        let over = self.places.over.then(|| self.reader.verified_head());
        let mut remembered = over.and_then(|head| Remembered::of(self.engine, head));
        let (mut together, mut bytes, mut holes, mut directories) = (Together::default(), 0, 0, 0);
        while let Some(block) = stream.next_block().await? {
            for entry in block {
                let described = remembered.as_ref().map(|_| entry.clone());
                let pieces = entries.next(entry)?;
                bytes += pieces.iter().map(Piece::bytes).sum::<u64>();
                if let (Some(remembered), Some(entry), Some(first)) = (&mut remembered, described, pieces.first()) {
                    together.add_known(remembered, &entry, &first.target);
                }
                together.pieces.extend(pieces);
                let entered = entries.counts().directories - directories;
                let large = bytes > bytes_least || entered >= DIRECTORIES_MAX as u64;
                if together.pieces.len() >= pieces_least || (large && !together.pieces.is_empty()) {
                    (bytes, directories) = (0, entries.counts().directories);
                    to.send(std::mem::take(&mut together)).await.map_err(gone)?;
                }
            }
            self.advance(entries.counts().holes - holes);
            holes = entries.counts().holes;
        }
        to.send(together).await.map_err(gone)?;
        Ok(entries.finish())
    }

    /// Makes jobs of everything.
    async fn gather(&self, mut from: mpsc::Receiver<Together>, to: mpsc::Sender<Job>) -> Result<u64> {
        let mut builder = JobBuilder::default();
        while let Some(together) = from.recv().await {
            self.push(&mut builder, together.pieces, &to).await?;
        }
        self.push_rest(builder, &to).await.map(|()| 0)
    }

    /// Makes jobs of what is not there already; gives how many bytes are.
    async fn sift(&self, mut from: mpsc::Receiver<Together>, to: mpsc::Sender<Job>, at_once: usize) -> Result<u64> {
        let synced = !syncfs_reports();
        let mut builder = JobBuilder::default();
        let mut looking = FuturesOrdered::new();
        let (mut open, mut kept) = (true, 0);
        loop {
            tokio::select! {
                pieces = from.recv(), if open && looking.len() < at_once => match pieces {
                    Some(pieces) => looking.push_back(tokio::task::spawn_blocking(move || sift(pieces, synced))),
                    None => open = false,
                },
                Some(sifted) = looking.next(), if !looking.is_empty() => {
                    let failed = |source| Error::internal("looking at files failed").source(source);
                    let Sifted { wanted, kept: there } = sifted.map_err(failed)??;
                    kept += there;
                    self.advance(there);
                    self.push(&mut builder, wanted, &to).await?;
                },
                else => break,
            }
        }
        self.push_rest(builder, &to).await.map(|()| kept)
    }

    async fn push(&self, builder: &mut JobBuilder, pieces: Vec<Piece>, to: &mpsc::Sender<Job>) -> Result<()> {
        for piece in pieces {
            if let Some(job) = builder.push(piece) {
                to.send(job).await.map_err(gone)?;
            }
        }
        Ok(())
    }

    async fn push_rest(&self, mut builder: JobBuilder, to: &mpsc::Sender<Job>) -> Result<()> {
        match builder.finish() {
            Some(job) => to.send(job).await.map_err(gone),
            None => Ok(()),
        }
    }

    /// Does jobs, so many at once, until there are no more.
    async fn work(&self, mut queue: mpsc::Receiver<Job>, jobs: usize) -> Result<Done> {
        let synced = !syncfs_reports();
        let mut running = FuturesUnordered::new();
        let (mut open, mut all) = (true, Done::default());
        loop {
            tokio::select! {
                job = queue.recv(), if open && running.len() < jobs => match job {
                    Some(job) => running.push(job.run(self.reader.source(), synced)),
                    None => open = false,
                },
                Some(done) = running.next(), if !running.is_empty() => {
                    let done: Done = done?;
                    self.advance(done.bytes);
                    all += done;
                }
                else => return Ok(all),
            }
        }
    }
}

/// A closed channel means that a job failed: its error is the one to report.
fn gone<T>(_: T) -> Error {
    Error::cancelled("the restore has failed already")
}
