//! What this host may reuse: the cache of its last finished backup, and the journals of those interrupted since.
//!
//! Invariant (docs/format.md, "Reuse"): only packs sealed to exactly the current recipients, present in every place
//! that this backup will be in, and young: named by a head within the horizon, or stored within the length of a lease.
//! Whatever is doubtful is no base: the backup then stores more. Which files these are: `journals`.

use std::path::Path;
use std::sync::Mutex;

use jiff::{SignedDuration, Timestamp};
use pgkeep_base::BackupId;
use pgkeep_repo::digest::Digest;
use pgkeep_repo::lease::LEASE_DURATION;
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::packlist::PackInfo;
use pgkeep_repo::paths::DataPath;
use pgkeep_repo::reuse::{BlockRecord, NoCache, Piece, ReuseReader, ReuseStart};
use pgkeep_store::ObjectName;

use super::journals::{self, cache_path};
use crate::engine::Engine;

/// The sources that a backup reuses from, newest first.
#[derive(Default)]
pub struct Base {
    sources: Mutex<Vec<ReuseReader>>,
    now: Timestamp,
    /// The finished backup among them.
    pub backup: Option<BackupId>,
    /// The places that have everything that may be reused; `None` where nothing is.
    pub places: Option<Vec<String>>,
    /// Why nothing, or not everything, is reused.
    pub notes: Vec<String>,
}

impl Base {
    /// Opens what may be reused by a run that would begin with `start`.
    pub fn open(engine: &Engine, directory: &Path, start: &ReuseStart, full: bool) -> Base {
        let mut base = Base {
            now: engine.now(),
            ..Base::default()
        };
        if full {
            base.notes.push("everything is stored anew, as asked".to_owned());
            return base;
        }
        base.add_cache(engine, ReuseReader::open(&cache_path(directory)), start);
        for (reader, missed) in journals::open_all(directory) {
            base.add_journal(reader, &missed, start);
        }
        // Journals are newer than the cache.
        base.sources.get_mut().expect("nobody else has it yet").reverse();
        base
    }

    /// Not used where that would cost a place its head, which only a full backup could give back.
    fn add_journal(&mut self, reader: ReuseReader, missed: &[String], start: &ReuseStart) {
        let theirs = reader.start();
        if self.now.duration_since(theirs.started_at) >= LEASE_DURATION || !fits(theirs, start) {
            return;
        }
        let has = |place: &String| theirs.places.contains(place) && !missed.contains(place);
        let wanted = self.places.get_or_insert_with(|| start.places.clone());
        if wanted.iter().all(has) {
            let id = &theirs.backup;
            self.notes
                .push(format!("what the interrupted backup {id} stored is reused"));
            self.sources.get_mut().expect("nobody else has it yet").push(reader);
        }
    }

    fn add_cache(&mut self, engine: &Engine, opened: Result<ReuseReader, NoCache>, start: &ReuseStart) {
        let reader = match opened {
            Ok(reader) => reader,
            Err(NoCache::Absent) => return self.notes.push("this host has no earlier backup to reuse".to_owned()),
            Err(NoCache::Unusable(why)) => return self.notes.push(format!("the reuse cache can't be used: {why}")),
        };
        let theirs = reader.start();
        let Some(end) = reader.end() else { return };
        let horizon: SignedDuration = engine.setup().repository.reuse_horizon;
        let why = if self.now.duration_since(end.finished_at) >= horizon {
            Some("is older than the reuse horizon")
        } else if !fits(theirs, start) {
            Some("has other recipients, or is of another repository or cluster")
        } else if !covers_required(engine, &end.places) {
            Some("is not in every required repository")
        } else {
            None
        };
        match why {
            Some(why) => self.notes.push(format!(
                "backup {} {why}, so that nothing of it is reused",
                theirs.backup
            )),
            None => {
                self.backup = Some(theirs.backup.clone());
                self.places = Some(end.places.clone());
                self.sources.get_mut().expect("nobody else has it yet").push(reader);
            }
        }
    }

    /// The piece of a file at this place, from the newest source that has it. Ask in the order of the manifest.
    pub fn piece(&self, path: &DataPath, at: u64) -> Option<Piece> {
        let mut sources = self.lock();
        let found: Vec<Option<Piece>> = sources.iter_mut().map(|source| source.take(path, at)).collect();
        found.into_iter().flatten().next()
    }

    /// The manifest block with this content.
    pub fn block(&self, blake3: &Digest) -> Option<BlockRecord> {
        self.lock().iter_mut().find_map(|source| source.take_block(blake3))
    }

    /// What is known of a pack that was given out.
    pub fn pack(&self, name: &ObjectName) -> Option<PackInfo> {
        self.lock().iter().find_map(|source| source.pack(name).cloned())
    }

    /// Whether a pack may be referred to: it is known, enough of it is still needed, and no sweep can take it.
    ///
    /// What only a journal knows is named by no head; interrupted runs that reuse from each other could carry it on
    /// for ever, so its own age counts.
    pub fn may_reuse(&self, name: &ObjectName) -> bool {
        let young =
            || Lineage::of_pack(name).is_ok_and(|(_, id, _)| self.now.duration_since(id.time()) < LEASE_DURATION);
        let sources = self.lock();
        let mut knowing = sources.iter().filter_map(|source| Some((source, source.pack(name)?)));
        knowing.any(|(source, pack)| !pack.is_mostly_dead() && (source.end().is_some() || young()))
    }

    /// Why the rest of a source could not be used, if that happened.
    pub fn damage(&self) -> Vec<String> {
        self.lock()
            .iter()
            .filter_map(|source| source.damage().map(str::to_owned))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ReuseReader>> {
        self.sources.lock().expect("no holder of the sources panics")
    }
}

fn fits(theirs: &ReuseStart, ours: &ReuseStart) -> bool {
    theirs.repository == ours.repository
        && theirs.cluster == ours.cluster
        && theirs.system_identifier == ours.system_identifier
        && theirs.recipients == ours.recipients
        && theirs.block_bytes == ours.block_bytes
}

fn covers_required(engine: &Engine, places: &[String]) -> bool {
    engine
        .places()
        .iter()
        .filter(|place| place.required)
        .all(|place| places.contains(&place.name))
}
