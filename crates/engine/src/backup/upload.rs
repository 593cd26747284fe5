//! Writes closed packs to all places, a few at a time.
//!
//! Invariant: a pack counts as durable once every required place has it. An optional place that fails once is out for
//! the rest of the run, and gets no head.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt, stream};
use pgkeep_base::limits::PACKS_IN_FLIGHT;
use pgkeep_base::{Error, Result, ResultExt, failpoint};
use pgkeep_repo::pack::{ClosedPack, PackWatermark};
use pgkeep_store::{Created, ObjectName, Payload};
use tokio::sync::mpsc;

use super::journals::note_missed;
use crate::setup::Place;

/// How far uploads have come; shared with the assembler, which releases the journal by it.
#[derive(Debug, Default)]
pub struct Durable {
    below: AtomicU32,
    bytes: AtomicU64,
    watermark: Mutex<PackWatermark>,
}

impl Durable {
    /// All packs with smaller numbers are durable.
    pub fn below(&self) -> u32 {
        self.below.load(Ordering::Acquire)
    }

    /// Bytes of all objects that were written.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts an object.
    pub fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn note(&self, pack: &ClosedPack) {
        self.count(pack.object.bytes);
        let below = self.watermark.lock().expect("no holder panics").durable(pack.number);
        self.below.store(below, Ordering::Release);
    }
}

/// The places of a run, and those that dropped out.
#[derive(Debug)]
pub struct Places {
    all: Vec<Place>,
    missed: Mutex<Vec<(String, String)>>,
    note_to: Option<PathBuf>,
}

impl Places {
    /// All places, except those in `missed` from the start.
    pub fn new(all: Vec<Place>, missed: Vec<(String, String)>) -> Places {
        Places {
            all,
            missed: Mutex::new(missed),
            note_to: None,
        }
    }

    /// The same, noting places that drop out in this file, beside the journal of the run.
    pub fn noting_missed_in(self, path: PathBuf) -> Places {
        Places {
            note_to: Some(path),
            ..self
        }
    }

    /// Those that have everything so far.
    pub fn standing(&self) -> Vec<Place> {
        let missed = self.missed();
        let stands = |place: &&Place| !missed.iter().any(|(name, _)| *name == place.name);
        self.all.iter().filter(stands).cloned().collect()
    }

    /// Optional places that dropped out, with the reason.
    pub fn missed(&self) -> Vec<(String, String)> {
        self.missed.lock().expect("no holder panics").clone()
    }

    /// Creates an object in every place that stands.
    ///
    /// # Errors
    /// What a required place says; `Conflict` where the name is taken, since it is this run's own.
    pub async fn create(&self, name: &ObjectName, payload: &Payload) -> Result<()> {
        let places = self.standing();
        let writes = places.iter().map(|place| place.store.create(name, payload.clone()));
        for (place, result) in places.iter().zip(futures::future::join_all(writes).await) {
            match result {
                // A retry of ours whose first answer was lost: names of a run are unguessable, so it is our own.
                Ok(Created::New | Created::AlreadyThere) => {}
                Err(error) if place.required => {
                    return Err(error.during(format!("store {name} in repository \"{}\"", place.name)));
                }
                Err(error) => self.drop_out(place, &error)?,
            }
        }
        Ok(())
    }

    /// Noted before anything that the place lacks counts as durable, so that a later run does not take it to be there.
    ///
    /// # Errors
    /// `Io` where that can't be noted.
    pub fn drop_out(&self, place: &Place, error: &Error) -> Result<()> {
        if let Some(path) = &self.note_to {
            note_missed(path, &place.name).during(|| format!("note that repository \"{}\" is missed", place.name))?;
        }
        let why = error
            .detail_text()
            .map_or_else(|| error.to_string(), |detail| format!("{error}: {detail}"));
        self.missed
            .lock()
            .expect("no holder panics")
            .push((place.name.clone(), why));
        Ok(())
    }
}

/// Writes packs until the assembler closes the channel.
pub async fn upload(places: &Places, durable: &Durable, packs: mpsc::Receiver<ClosedPack>) -> Result<()> {
    let packs = stream::unfold(packs, |mut packs| async move {
        packs.recv().await.map(|pack| (pack, packs))
    });
    packs
        .map(|pack| async move {
            failpoint::at("engine.pack.upload")?;
            places.create(&pack.object.name, &pack.object.payload).await?;
            failpoint::at("engine.pack.uploaded")?;
            durable.note(&pack);
            Ok(())
        })
        .buffer_unordered(PACKS_IN_FLIGHT)
        .try_collect()
        .await
}
