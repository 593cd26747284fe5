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
use pgkeep_repo::wal::{Longer, Relation, WalFacts, compare, open_wal, parse_object_name, read_wal_header};
use pgkeep_store::{ObjectName, Store};

use crate::engine::Engine;
use crate::path::Tree;

/// What the archive offers under a name.
pub enum Offer {
    /// One content, or the longest of several that are beginnings of each other.
    One(ObjectName),
    /// Proven: nothing.
    Nothing,
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
            match parse_object_name(&object.name) {
                Some(parsed) if &parsed.file == file => {
                    if parsed.part.is_none() {
                        found.push((parsed.hash, object.name));
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
        let mut best: Option<(ObjectName, WalFacts)> = None;
        for name in names {
            let header = read_wal_header(&stores, self.engine.opener(), &name, None)
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
    /// What listing and reading give; a history that is bad in every place is left out, its timeline is then named.
    pub async fn tree_above(&self, timeline: TimelineId) -> Result<Tree> {
        let (mut histories, mut seen) = (Vec::new(), Vec::new());
        let mut found: BTreeMap<TimelineId, Vec<ObjectName>> = BTreeMap::new();
        for place in self.engine.places() {
            for newer in self
                .timelines(&*place.store)
                .await?
                .into_iter()
                .filter(|found| *found >= timeline)
            {
                seen.push(newer);
                let history = WalFile::History(newer);
                let contents = self.contents(&*place.store, newer, &history).await?;
                found
                    .entry(newer)
                    .or_default()
                    .extend(contents.into_iter().map(|(_, name)| name));
            }
        }
        for (timeline, mut names) in found {
            names.sort();
            names.dedup();
            if let [name] = names.as_slice() {
                histories.extend(self.read_history(timeline, name).await?);
            }
        }
        Ok(Tree::new(histories, seen))
    }

    async fn read_history(&self, timeline: TimelineId, name: &ObjectName) -> Result<Option<TimelineHistory>> {
        match open_wal(&self.engine.stores(), self.engine.opener(), self.engine.naming(), name).await {
            Ok((_, content)) => Ok(TimelineHistory::parse(timeline, &content).ok()),
            Err(why) => match why.into_error(name) {
                error if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied) => Err(error),
                _ => Ok(None),
            },
        }
    }

    async fn timelines(&self, store: &dyn Store) -> Result<Vec<TimelineId>> {
        let directory = format!("wal/{}", self.lineage);
        match store.list_directories(&directory).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            names => Ok(names?.iter().filter_map(|name| TimelineId::from_hex(name)).collect()),
        }
    }

    /// True if a segment after `file` exists on its timeline or a descendant of it.
    pub async fn goes_on_after(&self, file: &WalFile, tree: &Tree) -> Result<bool> {
        let size = self.segment_size()?;
        let (Some(segment), Some(own)) = (file.segment(size), file.timeline()) else {
            return Ok(false);
        };
        let descendants = tree
            .timelines()
            .filter(|history| history.is_ancestor(own))
            .map(TimelineHistory::timeline);
        for timeline in descendants.chain([own]) {
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
                let file = parse_object_name(&object.name).map(|parsed| parsed.file);
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
