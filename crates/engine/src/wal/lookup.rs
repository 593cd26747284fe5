//! Finds files of the archive by their PostgreSQL name, for `wal fetch` outside of a plan.
//!
//! Invariant: "nothing" is answered only when every place was listed; a place that can't be listed is an error.

use std::collections::BTreeMap;
use std::path::Path;

use futures::TryStreamExt;
use pgkeep_base::{Error, ErrorKind, Result, SegmentSize, TimelineId, WalFile};
use pgkeep_pg::control::ControlFile;
use pgkeep_pg::history::TimelineHistory;
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::names::logical;
use pgkeep_repo::wal::{Longer, Relation, WalFacts, compare, parse_object_name, read_wal_header};
use pgkeep_store::{ObjectName, Store};

use crate::catalogue;
use crate::engine::Engine;
use crate::path::Tree;
use crate::path::archive::read_history;
use crate::window::head_timelines;

/// What the archive offers under a name.
pub enum Offer {
    /// One content, or the longest of several that are beginnings of each other.
    One(ObjectName),
    /// Proven: nothing.
    Nothing,
}

/// Timelines as far as they could be read.
pub struct Timelines {
    /// What is known of them.
    pub tree: Tree,
    /// Those whose history file can't be used, and can't be had from elsewhere, with the reason.
    unusable: Vec<(TimelineId, Error)>,
}

impl Timelines {
    /// Why the history of a timeline can't be used, if something is there.
    pub fn take_reason(&mut self, timeline: TimelineId) -> Option<Error> {
        let at = self.unusable.iter().position(|(unusable, _)| *unusable == timeline)?;
        Some(self.unusable.swap_remove(at).1)
    }

    /// The tree, where it is known as far as anyone can know it.
    ///
    /// # Errors
    /// Why a history that may be good could not be read now.
    pub fn complete(self) -> Result<Tree> {
        let now = |error: &Error| !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Conflict);
        match self.unusable.into_iter().find(|(_, error)| now(error)) {
            Some((_, error)) => Err(error),
            None => Ok(self.tree),
        }
    }
}

/// Looks into the archive of one lineage.
pub struct Lookup<'a> {
    engine: &'a Engine,
    lineage: Lineage,
    data_directory: &'a Path,
}

impl<'a> Lookup<'a> {
    /// Looks into the archive of `lineage`, whose cluster is being recovered in `data_directory`.
    pub fn new(engine: &'a Engine, lineage: Lineage, data_directory: &'a Path) -> Lookup<'a> {
        Lookup {
            engine,
            lineage,
            data_directory,
        }
    }

    /// The engine that it looks with.
    pub fn engine(&self) -> &'a Engine {
        self.engine
    }

    /// What is there under the name of `file`.
    ///
    /// # Errors
    /// `Corrupt` where two contents contradict each other; what listing gives.
    pub async fn offer(&self, file: &WalFile) -> Result<Offer> {
        let Some(timeline) = file.timeline() else {
            return Ok(Offer::Nothing);
        };
        let mut names: BTreeMap<String, ObjectName> = BTreeMap::new();
        for place in self.engine.places() {
            for (hash, name) in self.contents(&*place.store, timeline, file).await? {
                names.insert(hash, name);
            }
        }
        match names.len() {
            0 => Ok(Offer::Nothing),
            1 => Ok(Offer::One(names.into_values().next().expect("there is one"))),
            _ => self.longest(file, names.into_values().collect()).await.map(Offer::One),
        }
    }

    async fn contents(
        &self,
        store: &dyn Store,
        timeline: TimelineId,
        file: &WalFile,
    ) -> Result<Vec<(String, ObjectName)>> {
        let directory = self.directory(timeline);
        let after = ObjectName::new(format!("{directory}/{file}"))?;
        let mut listing = store.list(&directory, Some(&after));
        let mut found = Vec::new();
        while let Some(object) = next(&mut listing).await? {
            let name = logical(&object.name);
            match parse_object_name(&name) {
                Some(parsed) if &parsed.file == file => {
                    if parsed.part.is_none() {
                        found.push((parsed.hash, name));
                    }
                }
                Some(parsed) if parsed.file.to_string() < file.to_string() => {}
                _ => break,
            }
        }
        Ok(found)
    }

    /// Of several contents the one that is the longer tail of all others, by their facts.
    async fn longest(&self, file: &WalFile, names: Vec<ObjectName>) -> Result<ObjectName> {
        let stores = self.engine.stores();
        let opener = self.engine.opener().await?;
        let mut best: Option<(ObjectName, WalFacts)> = None;
        for name in names {
            let header = read_wal_header(&stores, opener, &name, None)
                .await
                .map_err(|why| why.into_error(&name))?;
            let facts = header.facts.ok_or_else(|| contradiction(file))?;
            best = match best {
                None => Some((name, facts)),
                Some((known_name, known)) => match compare(&known, &facts) {
                    Relation::Same | Relation::LongerTail(Longer::First) => Some((known_name, known)),
                    Relation::LongerTail(Longer::Second) => Some((name, facts)),
                    Relation::Fork | Relation::Unknown => return Err(contradiction(file)),
                },
            };
        }
        best.map(|(name, _)| name)
            .ok_or_else(|| Error::internal("no content to choose from"))
    }

    /// The timelines from `timeline` up: their histories, and which of them exist.
    ///
    /// # Errors
    /// What listing gives.
    pub async fn timelines_above(&self, timeline: TimelineId) -> Result<Timelines> {
        let (mut histories, mut seen, mut unusable) = (Vec::new(), Vec::new(), Vec::new());
        for (timeline, names) in self.histories_above(timeline).await? {
            seen.push(timeline);
            match self.read_histories(timeline, &names).await {
                Ok(history) => histories.extend(history),
                Err(error) => unusable.push((timeline, error)),
            }
        }
        let mut tree = Tree::new(histories.clone(), seen.clone());
        if tree.unexplained().next().is_some() {
            // Heads repeat histories; they are many, and not needed otherwise.
            let catalogue = catalogue::load(self.engine, Some(&self.lineage.cluster)).await?;
            let heads = catalogue.physical(&self.lineage);
            tree = Tree::new(head_timelines(&heads).histories.into_iter().chain(histories), seen);
        }
        unusable.retain(|(timeline, _)| tree.history(*timeline).is_none());
        Ok(Timelines { tree, unusable })
    }

    /// Each timeline from `timeline` up, with the objects of its history file.
    async fn histories_above(&self, timeline: TimelineId) -> Result<BTreeMap<TimelineId, Vec<ObjectName>>> {
        let mut found: BTreeMap<TimelineId, Vec<ObjectName>> = BTreeMap::new();
        for place in self.engine.places() {
            let listed = self.timelines(&*place.store).await?.into_iter();
            for newer in listed.filter(|listed| *listed >= timeline) {
                let contents = self.contents(&*place.store, newer, &WalFile::History(newer)).await?;
                let names = found.entry(newer).or_default();
                names.extend(contents.into_iter().map(|(_, name)| name));
                names.sort();
                names.dedup();
            }
        }
        Ok(found)
    }

    /// The one history that all of these say.
    async fn read_histories(&self, timeline: TimelineId, names: &[ObjectName]) -> Result<Option<TimelineHistory>> {
        let mut found: Option<TimelineHistory> = None;
        for name in names {
            let history = read_history(self.engine, &self.engine.stores(), timeline, name).await?;
            if found.as_ref().is_some_and(|found| *found != history) {
                return Err(contradiction(&WalFile::History(timeline)));
            }
            found = Some(history);
        }
        Ok(found)
    }

    async fn timelines(&self, store: &dyn Store) -> Result<Vec<TimelineId>> {
        let directory = format!("wal/{}", self.lineage);
        match store.list_directories(&directory).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            names => Ok(names?.iter().filter_map(|name| TimelineId::from_hex(name)).collect()),
        }
    }

    /// True if a segment after `file` exists on its timeline or a descendant of it, or on one that may be a descendant.
    pub async fn goes_on_after(&self, file: &WalFile, tree: &Tree) -> Result<bool> {
        let size = self.segment_size()?;
        let (Some(segment), Some(own)) = (file.segment(size), file.timeline()) else {
            return Ok(false);
        };
        let descendants = tree
            .timelines()
            .filter(|history| history.is_ancestor(own))
            .map(TimelineHistory::timeline);
        for timeline in descendants.chain(tree.unexplained()).chain([own]) {
            let from = pgkeep_base::WalSegment { timeline, ..segment };
            if self.has_segment_after(timeline, &from.name()).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn has_segment_after(&self, timeline: TimelineId, name: &str) -> Result<bool> {
        let directory = self.directory(timeline);
        for place in self.engine.places() {
            let after = ObjectName::new(format!("{directory}/{name}"))?;
            let mut listing = place.store.list(&directory, Some(&after));
            while let Some(object) = next(&mut listing).await? {
                let file = parse_object_name(&logical(&object.name)).map(|parsed| parsed.file);
                if matches!(file, Some(WalFile::Segment(found)) if found.as_str() > name) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The cluster's segment size, from the control file of the data directory.
    pub fn segment_size(&self) -> Result<SegmentSize> {
        ControlFile::read(self.data_directory).map(|control| control.segment_size)
    }

    fn directory(&self, timeline: TimelineId) -> String {
        format!("wal/{}/{}", self.lineage, timeline.hex())
    }
}

type Listing<'a> = futures::stream::BoxStream<'a, Result<pgkeep_store::ObjectMeta>>;

/// The next object; a directory that does not exist is an empty listing.
async fn next(listing: &mut Listing<'_>) -> Result<Option<pgkeep_store::ObjectMeta>> {
    match listing.try_next().await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        item => item,
    }
}

fn contradiction(file: &WalFile) -> Error {
    Error::corrupt(format!("two different files were archived as {file}"))
        .detail("neither is the beginning of the other: two servers archived as one cluster")
        .hint("`pgkeep wal list` shows both.")
}
