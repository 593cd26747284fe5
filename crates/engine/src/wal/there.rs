//! What the archive has already of the WAL in a data directory.
//!
//! Invariant: "there" is said only where every required place listed the very content, or this host's own record says
//! that it stored it there. Where neither can be asked, nothing is there: storing it again costs time, not truth.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use pgkeep_base::{ErrorKind, Result, ResultExt, WalFile, WalSegment};
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::wal::{
    Longer, Relation, WalFacts, WalNaming, WalSource, compare, object_name, parse_object_name, read_wal_header,
};
use pgkeep_store::Store;

use super::local::{Inspected, LocalWal};
use super::map::Holder;
use crate::engine::Engine;
use crate::setup::Place;
use crate::state::State;

/// Names of archived files, with the hashes of their contents.
type Listed = BTreeMap<WalFile, BTreeSet<String>>;

/// The archive's side.
pub(crate) struct There<'a> {
    engine: &'a Engine,
    state: Option<&'a State>,
    lineage: &'a Lineage,
    /// One for each required place; `None` where it may not be listed.
    places: Vec<(&'a Place, Option<Listed>)>,
}

impl<'a> There<'a> {
    /// Lists the names that matter in every required place.
    ///
    /// # Errors
    /// `Unavailable` where one does not answer.
    pub async fn look(
        engine: &'a Engine,
        state: Option<&'a State>,
        lineage: &'a Lineage,
        local: &LocalWal,
    ) -> Result<There<'a>> {
        let mut places = Vec::new();
        for place in engine.places().iter().filter(|place| place.required) {
            let listed = match list(&*place.store, lineage, local).await {
                Err(error) if error.kind() == ErrorKind::Denied => None,
                listed => Some(listed.during(|| format!("list the WAL in repository \"{}\"", place.name))?),
            };
            places.push((place, listed));
        }
        Ok(There {
            engine,
            state,
            lineage,
            places,
        })
    }

    /// Whether every required place has this content of a file.
    pub fn has(&self, file: &WalFile, hash: &str) -> bool {
        self.places.iter().all(|(place, listed)| match listed {
            Some(listed) => listed.get(file).is_some_and(|hashes| hashes.contains(hash)),
            None => self.has_pushed(place, file, hash),
        })
    }

    fn has_pushed(&self, place: &Place, file: &WalFile, hash: &str) -> bool {
        let pushed = self.state.map(|state| state.pushed(self.lineage, &file.to_string()));
        let pushed = pushed.and_then(Result::ok).unwrap_or_default();
        pushed
            .iter()
            .any(|pushed| pushed.hash == hash && pushed.places.contains(&place.name))
    }

    /// What the archive has of a segment that would be stored as `file`, as far as facts tell; no identity is needed.
    pub async fn of(
        &self,
        segment: &WalSegment,
        file: &WalFile,
        naming: &WalNaming,
        inspected: &Inspected,
    ) -> Result<OfSegment> {
        let (beginning, whole) = (inspected.beginning(), inspected.content.source());
        let content: &dyn WalSource = match file {
            WalFile::Partial(_) => &beginning,
            _ => whole,
        };
        let digest = naming.digest(content)?;
        if self.has(file, &digest.hash) {
            return Ok(OfSegment::AsMuch);
        }
        let facts = WalFacts {
            segment: inspected.facts.clone(),
            prefix: digest.prefix,
        };
        self.of_segment(segment, &facts).await
    }

    async fn of_segment(&self, segment: &WalSegment, facts: &WalFacts) -> Result<OfSegment> {
        let mut everywhere = !self.places.is_empty();
        let mut forks = false;
        for (place, listed) in &self.places {
            let mut enough = false;
            for holder in [Holder::Segment, Holder::Partial] {
                let file = holder.file(segment);
                for hash in listed.iter().filter_map(|listed| listed.get(&file)).flatten() {
                    match self.relation(place, &file, hash, facts).await? {
                        Relation::Same | Relation::LongerTail(Longer::First) => enough = true,
                        Relation::Fork if holder == Holder::Segment => return Ok(OfSegment::OtherSegment),
                        Relation::Fork => forks = true,
                        Relation::LongerTail(Longer::Second) | Relation::Unknown => {}
                    }
                }
            }
            everywhere &= enough;
        }
        Ok(match (everywhere, forks) {
            (true, _) => OfSegment::AsMuch,
            (false, true) => OfSegment::OtherTail,
            (false, false) => OfSegment::Less,
        })
    }

    async fn relation(&self, place: &Place, file: &WalFile, hash: &str, facts: &WalFacts) -> Result<Relation> {
        let name = object_name(&self.lineage.cluster, self.lineage.system_identifier, file, hash)?;
        let stores = [place.store.clone()];
        // What can't be read proves nothing.
        let Ok(opener) = self.engine.opener().await else {
            return Ok(Relation::Unknown);
        };
        let header = read_wal_header(&stores, opener, &name, None).await;
        let theirs = header.ok().and_then(|header| header.facts);
        Ok(theirs.map_or(Relation::Unknown, |theirs| compare(&theirs, facts)))
    }
}

/// What the archive has of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OfSegment {
    /// Records that agree and go at least as far.
    AsMuch,
    /// The segment, with other records: what is to be stored would make it useless for every restore.
    OtherSegment,
    /// A `.partial` file with other records.
    OtherTail,
    /// Less, or nothing, or nobody can tell.
    Less,
}

async fn list(store: &dyn Store, lineage: &Lineage, local: &LocalWal) -> Result<Listed> {
    let mut wanted: BTreeSet<WalFile> = BTreeSet::new();
    for segment in &local.segments {
        wanted.extend([
            Holder::Segment.file(&segment.segment),
            Holder::Partial.file(&segment.segment),
        ]);
    }
    let histories = local.histories.iter().map(|history| history.history.timeline());
    wanted.extend(histories.map(WalFile::History));
    let mut found = Listed::new();
    let timelines: BTreeSet<_> = wanted.iter().filter_map(WalFile::timeline).collect();
    for timeline in timelines {
        let directory = format!("wal/{lineage}/{}", timeline.hex());
        let mut listing = store.list(&directory, None);
        loop {
            let object = match listing.try_next().await {
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                object => object?,
            };
            let Some(object) = object else { break };
            if let Some(name) = parse_object_name(&object.name).filter(|name| name.part.is_none())
                && wanted.contains(&name.file)
            {
                found.entry(name.file).or_default().insert(name.hash);
            }
        }
    }
    Ok(found)
}
