//! What the archive of one lineage holds: names, gathered by listing all places.
//!
//! Invariant: a listing only ever says "there is"; that something is *not* there is proven by asking for it by name.
//! Memory: about 150 bytes for each segment from the first one asked for; a recovery names each of them anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::TryStreamExt;
use pgkeep_base::{Error, ErrorKind, Result, ResultExt, SegmentSize, TimelineId, WalFile, WalSegment};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_repo::names::logical;
use pgkeep_repo::open::Unread;
use pgkeep_repo::wal::{WalFacts, WalObjectName, object_name, open_wal, parse_object_name, read_wal_header};
use pgkeep_store::{ObjectMeta, ObjectName, Store};

use super::tree::Tree;
use pgkeep_repo::lineage::Lineage;

use crate::engine::Engine;
use crate::wal::local::LocalSegment;
use crate::wal::map::Holder;

/// No sealed object is shorter: its header alone is longer. What is, was cut off: no content, but proof that there was
/// one, so that nobody takes the segment before for the last.
const OBJECT_BYTES_MIN: u64 = 256;

/// One content of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content {
    /// Whether it was archived as the segment, or as its `.partial` file, or not at all.
    pub holder: Holder,
    /// Keyed hash of the plaintext.
    pub hash: String,
    /// Length of the object, by the listing.
    pub bytes: u64,
    /// Index of the places that list it, as bits.
    pub places: u64,
    /// A file outside of the archive that has it, too, or alone.
    pub local: Option<LocalSegment>,
}

/// The archive of a lineage, from some segment on.
#[derive(Debug)]
pub struct Archive {
    /// Whose it is.
    pub lineage: Lineage,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// Its timelines.
    pub tree: Tree,
    /// Those that the archive itself tells of.
    listed_tree: Tree,
    /// Timelines whose stored history can't be used or read, with the reason. The tree may have it from elsewhere.
    pub bad_histories: Vec<(TimelineId, Error)>,
    segments: BTreeMap<(TimelineId, u64), Vec<Content>>,
    cut: BTreeMap<(TimelineId, u64), Vec<Cut>>,
}

/// An object of which no place has more than its first bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Cut {
    holder: Holder,
    hash: String,
}

/// What is known of a lineage's timelines from elsewhere: its heads.
#[derive(Debug, Default)]
pub struct HeadTimelines {
    /// Histories that heads repeat.
    pub histories: Vec<TimelineHistory>,
    /// Timelines on which backups were taken.
    pub seen: Vec<TimelineId>,
}

impl Archive {
    /// Lists the lineage's WAL in every place, from segment number `from` on.
    ///
    /// # Errors
    /// `Unavailable` or `Denied` where a required place can't be listed: what is in the others may not be all.
    pub async fn load(
        engine: &Engine,
        lineage: &Lineage,
        segment_size: SegmentSize,
        from: u64,
        heads: HeadTimelines,
    ) -> Result<Archive> {
        let mut found = Found::new(segment_size);
        for (index, place) in engine.places().iter().enumerate() {
            let listed = found
                .list_place(&*place.store, lineage, from, 1 << index)
                .await
                .during(|| format!("list the WAL of {lineage} in repository \"{}\"", place.name));
            match listed {
                // Whatever an optional place has, the required ones have too.
                Err(error) if !place.required => {
                    let why = error.detail_text().unwrap_or_default();
                    engine.note(format!("without the optional repository \"{}\": {why}", place.name));
                }
                listed => listed?,
            }
        }
        let (histories, bad_histories) = read_histories(engine, found.histories).await;
        let seen = found.timelines.into_iter().chain(heads.seen);
        let tree = Tree::new(heads.histories.into_iter().chain(histories), seen);
        Ok(Archive {
            lineage: lineage.clone(),
            segment_size,
            listed_tree: tree.clone(),
            tree,
            bad_histories,
            segments: found.segments,
            cut: found.cut,
        })
    }

    /// What was archived of segment `number` of `timeline`: contents of the segment first, then of its `.partial` file.
    pub fn contents(&self, timeline: TimelineId, number: u64) -> &[Content] {
        self.segments.get(&(timeline, number)).map_or(&[], Vec::as_slice)
    }

    /// Whether more was archived of a segment than any place has: of an object nothing but its first bytes are left. The
    /// segment is lost then, not absent; a `.partial` file is not all of it.
    pub fn is_cut(&self, timeline: TimelineId, number: u64) -> bool {
        let contents = self.contents(timeline, number);
        let is_lost = |cut: &Cut| {
            let instead = |content: &Content| content.holder <= cut.holder || content.hash == cut.hash;
            !contents.iter().any(instead)
        };
        let cut = self.cut.get(&(timeline, number));
        cut.into_iter().flatten().any(is_lost)
    }

    /// Whether a content is the one that was cut off: its name tells.
    pub fn was_cut(&self, timeline: TimelineId, number: u64, hash: &str) -> bool {
        let cut = self.cut.get(&(timeline, number));
        cut.into_iter().flatten().any(|cut| cut.hash == hash)
    }

    /// Such segments, in order.
    pub fn cut_segments(&self) -> impl Iterator<Item = (TimelineId, u64)> {
        let all = self.cut.keys().copied();
        all.filter(|(timeline, number)| self.is_cut(*timeline, *number))
    }

    /// Adds a content that the archive doesn't have.
    pub fn add_saved(&mut self, local: &LocalSegment, hash: String) {
        let segment = local.segment;
        let contents = self.segments.entry((segment.timeline, segment.number)).or_default();
        contents.push(Content {
            holder: Holder::Saved,
            hash,
            bytes: segment.size.bytes(),
            places: 0,
            local: Some(local.clone()),
        });
    }

    /// Forgets all contents that the archive doesn't have, and what only they told of timelines.
    pub fn forget_saved(&mut self) {
        for contents in self.segments.values_mut() {
            contents.retain(|content| content.holder != Holder::Saved);
        }
        self.segments.retain(|_, contents| !contents.is_empty());
        self.tree.clone_from(&self.listed_tree);
    }

    /// Takes note of a file that has the same content as something archived. False where nothing archived has it.
    pub fn note_local(&mut self, local: &LocalSegment, hash: &str) -> bool {
        let key = (local.segment.timeline, local.segment.number);
        let contents = self.segments.get_mut(&key).into_iter().flatten();
        let mut same = contents.filter(|content| content.hash == hash);
        same.next()
            .map(|content| content.local.get_or_insert_with(|| local.clone()))
            .is_some()
    }

    /// The largest segment number of a timeline of which anything was archived.
    pub fn last_number(&self, timeline: TimelineId) -> Option<u64> {
        self.segments
            .range((timeline, 0)..=(timeline, u64::MAX))
            .next_back()
            .map(|((_, number), _)| *number)
    }

    /// Numbers behind one of which anything is there under a timeline on the way to that of a history, or under one that
    /// descends from it; in order.
    pub fn numbers_behind(&self, history: &TimelineHistory, number: u64) -> BTreeSet<u64> {
        let ancestors = history.switches().iter().map(|switch| switch.timeline);
        let descendants = self.tree.descendants(history).map(TimelineHistory::timeline);
        let timelines = ancestors.chain([history.timeline()]).chain(descendants);
        let behind = |timeline| self.segments.range((timeline, number + 1)..=(timeline, u64::MAX));
        timelines.flat_map(behind).map(|((_, number), _)| *number).collect()
    }

    /// Numbers of a timeline's archived segments, in order; a `.partial` file alone is none.
    pub fn numbers(&self, timeline: TimelineId) -> impl Iterator<Item = u64> {
        let whole = |contents: &[Content]| contents.iter().any(|content| content.holder == Holder::Segment);
        self.numbers_where(timeline, whole)
    }

    /// Numbers of a timeline's segments of which only a `.partial` file was archived, in order.
    pub fn partials(&self, timeline: TimelineId) -> impl Iterator<Item = u64> {
        let partial = |contents: &[Content]| contents.iter().all(|content| content.holder == Holder::Partial);
        self.numbers_where(timeline, partial)
    }

    fn numbers_where(&self, timeline: TimelineId, wanted: fn(&[Content]) -> bool) -> impl Iterator<Item = u64> {
        self.segments
            .range((timeline, 0)..=(timeline, u64::MAX))
            .filter(move |(_, contents)| wanted(contents))
            .map(|((_, number), _)| *number)
    }

    /// Segment names under which different contents were archived; one may be the beginning of the other.
    pub fn doubles(&self) -> impl Iterator<Item = (TimelineId, u64)> {
        let whole = |contents: &[Content]| {
            let held = contents.iter().map(|content| content.holder);
            held.filter(|holder| *holder == Holder::Segment).count()
        };
        self.segments
            .iter()
            .filter(move |(_, contents)| whole(contents) > 1)
            .map(|(key, _)| *key)
    }

    /// Why a timeline has no history that can be used.
    pub fn why_unexplained(&self, timeline: TimelineId) -> String {
        if self.tree.is_begun_twice(timeline) {
            return format!("two servers were promoted to timeline {timeline}: different histories of it are known");
        }
        let found = self.bad_histories.iter().find(|(bad, _)| *bad == timeline);
        found.map_or_else(
            || "its history file is not in the archive and no other history names it".to_owned(),
            |(_, error)| format!("its history can't be used: {error}"),
        )
    }

    /// Timelines that have segments here, also partial ones, oldest first.
    pub fn timelines(&self) -> Vec<TimelineId> {
        let mut timelines: Vec<_> = self.segments.keys().map(|(timeline, _)| *timeline).collect();
        timelines.dedup();
        timelines
    }

    /// What the header of a content says of its records; `None` where it can't be read, or says nothing.
    pub async fn facts(&self, engine: &Engine, segment: WalSegment, content: &Content) -> Option<WalFacts> {
        let name = self.object_name(&segment, content).ok()?;
        let header = read_wal_header(
            &engine.stores(),
            engine.opener().await.ok()?,
            &name,
            Some(content.bytes),
        )
        .await;
        header.ok()?.facts
    }

    /// The name of the object that holds a content of a segment.
    pub fn object_name(&self, segment: &WalSegment, content: &Content) -> Result<ObjectName> {
        let Lineage {
            cluster,
            system_identifier,
        } = &self.lineage;
        object_name(
            cluster,
            *system_identifier,
            &content.holder.file(segment),
            &content.hash,
        )
    }
}

struct Found {
    segment_size: SegmentSize,
    segments: BTreeMap<(TimelineId, u64), Vec<Content>>,
    cut: BTreeMap<(TimelineId, u64), Vec<Cut>>,
    histories: BTreeMap<(TimelineId, String), ObjectName>,
    timelines: Vec<TimelineId>,
}

impl Found {
    fn new(segment_size: SegmentSize) -> Found {
        Found {
            segment_size,
            segments: BTreeMap::new(),
            cut: BTreeMap::new(),
            histories: BTreeMap::new(),
            timelines: Vec::new(),
        }
    }

    async fn list_place(&mut self, store: &dyn Store, lineage: &Lineage, from: u64, place: u64) -> Result<()> {
        let directory = format!("wal/{}/{}", lineage.cluster, lineage.system_identifier);
        let timelines = match store.list_directories(&directory).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            listed => listed?,
        };
        for timeline in timelines.iter().filter_map(|name| TimelineId::from_hex(name)) {
            self.timelines.push(timeline);
            self.list_timeline(store, &format!("{directory}/{}", timeline.hex()), from, place)
                .await?;
        }
        Ok(())
    }

    async fn list_timeline(&mut self, store: &dyn Store, directory: &str, from: u64, place: u64) -> Result<()> {
        let mut listing = store.list(directory, None);
        while let Some(object) = listing.try_next().await? {
            // An alternate stands for the object that it heals, also where that is gone.
            let logical = logical(&object.name);
            if let Some(name) = parse_object_name(&logical).filter(|name| name.part.is_none()) {
                let object = ObjectMeta {
                    name: logical,
                    ..object
                };
                self.take(name, object, from, place);
            }
        }
        Ok(())
    }

    fn take(&mut self, name: WalObjectName, object: ObjectMeta, from: u64, place: u64) {
        let holder = match &name.file {
            WalFile::History(timeline) => {
                self.histories.insert((*timeline, name.hash), object.name);
                return;
            }
            WalFile::Segment(_) => Holder::Segment,
            WalFile::Partial(_) => Holder::Partial,
            WalFile::BackupHistory(_) => return,
        };
        let segment = name.file.segment(self.segment_size);
        let Some(segment) = segment.filter(|segment| segment.number >= from) else {
            return;
        };
        let key = (segment.timeline, segment.number);
        if object.bytes < OBJECT_BYTES_MIN {
            let cut = self.cut.entry(key).or_default();
            let lost = Cut {
                holder,
                hash: name.hash,
            };
            if !cut.contains(&lost) {
                cut.push(lost);
            }
            return;
        }
        let contents = self.segments.entry(key).or_default();
        let same = |content: &&mut Content| content.hash == name.hash && content.holder == holder;
        match contents.iter_mut().find(same) {
            Some(content) => content.places |= place,
            None => {
                contents.push(Content {
                    holder,
                    hash: name.hash,
                    bytes: object.bytes,
                    places: place,
                    local: None,
                });
                contents.sort_by_key(|content| content.holder);
            }
        }
    }
}

type Histories = (Vec<TimelineHistory>, Vec<(TimelineId, Error)>);

/// Reads the stored history files, also different ones of one timeline.
async fn read_histories(engine: &Engine, names: BTreeMap<(TimelineId, String), ObjectName>) -> Histories {
    let stores: Vec<Arc<dyn Store>> = engine.stores();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for ((timeline, _), name) in names {
        match read_history(engine, &stores, timeline, &name).await {
            Ok(history) => good.push(history),
            Err(error) => bad.push((timeline, error)),
        }
    }
    (good, bad)
}

/// Reads a history file: from the object's header, for which no identity is needed, or from its content.
pub(crate) async fn read_history(
    engine: &Engine,
    stores: &[Arc<dyn Store>],
    timeline: TimelineId,
    name: &ObjectName,
) -> Result<TimelineHistory> {
    let header = read_wal_header(stores, engine.opener().await?, name, None).await;
    let header = header.map_err(|why| why.into_error(name))?;
    if let Some(text) = header.history {
        return TimelineHistory::parse(timeline, text.as_bytes());
    }
    let opened = open_wal(stores, engine.opener().await?, engine.naming(), name).await;
    let (_, content) = opened.map_err(|why: Unread| why.into_error(name))?;
    TimelineHistory::parse(timeline, &content)
}
