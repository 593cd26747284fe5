//! `window`: the moments to which a cluster can be returned, and the gaps between them.
//!
//! Invariant: computed from what the places list now and from signed heads and facts; no identity is needed, and no
//! job history is asked. That a segment is listed does not prove that it is good: a restore's plan walks it.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use pgkeep_base::{ClusterName, Lsn, Result, TimelineId, WalSegment};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_repo::lineage::Lineage;

use crate::catalogue::{self, Backup, Catalogue};
use crate::engine::Engine;
use crate::path::Archive;
use crate::path::archive::HeadTimelines;
use crate::path::contents::conflicts;
use crate::path::heads::history_of;

mod gaps;
mod spans;

pub use gaps::{Gap, gaps};
use spans::Spans;

/// Segments that are looked at, from the end backwards, for a record that bears a time.
const TIME_SEARCH_SEGMENTS: u64 = 64;

/// A run of moments on one timeline.
#[derive(Clone, PartialEq, Debug)]
pub struct Range {
    /// Whose.
    pub lineage: Lineage,
    /// On which timeline.
    pub timeline: TimelineId,
    /// Earliest moment, as a time.
    pub from: Option<Timestamp>,
    /// Latest moment, as a time: of the last record that bears one.
    pub to: Option<Timestamp>,
    /// Earliest moment: the first backup is consistent, or the timeline begins.
    pub from_lsn: Lsn,
    /// Latest moment: end of the last complete record of the gap-free archive.
    pub to_lsn: Lsn,
}

/// A timeline of which something is there, and no moment can be reached.
#[derive(Clone, PartialEq, Debug)]
pub struct Unreachable {
    /// Whose.
    pub lineage: Lineage,
    /// Which.
    pub timeline: TimelineId,
    /// Why.
    pub why: Why,
}

/// Why nothing leads to a timeline.
#[derive(Clone, PartialEq, Debug)]
pub enum Why {
    /// No history that could be used says what it descends from.
    NoHistory(String),
    /// Two servers were promoted to its number: only a backup on it leads to what follows that.
    TwoHistories,
    /// It is the newest, and there is nothing but its history: nothing was archived yet, or all of it is lost.
    NoWal,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NoHistory(why) => f.write_str(why),
            Why::TwoHistories => f.write_str("two servers were promoted to it: different histories of it are known"),
            Why::NoWal => f.write_str("no segment of it was archived yet, or all are lost"),
        }
    }
}

/// The window of one cluster in one repository.
#[derive(Clone, Debug)]
pub struct ClusterWindow {
    /// The cluster.
    pub cluster: ClusterName,
    /// The repository, by its configured name.
    pub repository: String,
    /// Moments that can be reached.
    pub ranges: Vec<Range>,
    /// Holes.
    pub gaps: Vec<Gap>,
    /// Segments under whose name two histories were archived, and whose.
    pub conflicts: Vec<(Lineage, WalSegment)>,
    /// Timelines that nothing leads to.
    pub unreachable: Vec<Unreachable>,
}

/// The windows of one cluster, or of all, in each place.
///
/// # Errors
/// What listing and reading heads give.
pub async fn window(engine: &Engine, cluster: Option<&ClusterName>) -> Result<Vec<ClusterWindow>> {
    let mut windows = Vec::new();
    // What any place says of signers holds for each of them.
    engine.controls().await?;
    for place in engine.places() {
        match of_place(engine, &place.name, cluster).await {
            Err(error) if !place.required => {
                let why = error.detail_text().unwrap_or_default();
                engine.note(format!("without the optional repository \"{}\": {why}", place.name));
            }
            found => windows.extend(found?),
        }
    }
    Ok(windows)
}

async fn of_place(engine: &Engine, place: &str, cluster: Option<&ClusterName>) -> Result<Vec<ClusterWindow>> {
    let single = engine.only_place(place)?;
    let catalogue = catalogue::load(&single, cluster).await?;
    let mut lineages: Vec<Lineage> = catalogue.backups.iter().map(|backup| backup.head().lineage()).collect();
    lineages.sort();
    lineages.dedup();
    let mut of_cluster: BTreeMap<ClusterName, ClusterWindow> = BTreeMap::new();
    for lineage in lineages {
        let window = of_cluster
            .entry(lineage.cluster.clone())
            .or_insert_with(|| ClusterWindow {
                cluster: lineage.cluster.clone(),
                repository: place.to_owned(),
                ranges: Vec::new(),
                gaps: Vec::new(),
                conflicts: Vec::new(),
                unreachable: Vec::new(),
            });
        add_lineage(&single, &catalogue, &lineage, window).await?;
    }
    Ok(of_cluster.into_values().collect())
}

async fn add_lineage(
    engine: &Engine,
    catalogue: &Catalogue,
    lineage: &Lineage,
    window: &mut ClusterWindow,
) -> Result<()> {
    let backups = catalogue.physical(lineage);
    let Some(first) = backups.first() else { return Ok(()) };
    let size = first.head().physical()?.segment_bytes;
    let archive = Archive::load(engine, lineage, size, 0, head_timelines(&backups)).await?;
    let mut spans = Spans::new(engine, &archive, &backups);
    for backup in &backups {
        spans.add_backup(backup).await?;
    }
    window.ranges.extend(spans.ranges(lineage).await?);
    window.gaps.extend(gaps(engine, &archive, &backups).await?);
    window.unreachable.extend(unreachable(&archive));
    let conflicts = conflicts(engine, &archive).await?;
    let told = |segment| (lineage.clone(), segment);
    window.conflicts.extend(conflicts.into_iter().map(told));
    Ok(())
}

fn unreachable(archive: &Archive) -> Vec<Unreachable> {
    let told = |timeline, why| Unreachable {
        lineage: archive.lineage.clone(),
        timeline,
        why,
    };
    let tree = &archive.tree;
    let unexplained = tree.unexplained();
    let mut found: Vec<_> = unexplained
        .map(|timeline| match tree.is_begun_twice(timeline) {
            true => told(timeline, Why::TwoHistories),
            false => told(timeline, Why::NoHistory(archive.why_unexplained(timeline))),
        })
        .collect();
    let newest = tree.timelines().last().map(TimelineHistory::timeline);
    let is_empty = |timeline: &TimelineId| *timeline != TimelineId::FIRST && archive.last_number(*timeline).is_none();
    found.extend(newest.filter(is_empty).map(|timeline| told(timeline, Why::NoWal)));
    found
}

/// What the heads of a lineage tell of its timelines.
pub fn head_timelines(backups: &[&Backup]) -> HeadTimelines {
    let mut known = HeadTimelines::default();
    for physical in backups.iter().filter_map(|backup| backup.head().physical().ok()) {
        known.seen.push(physical.timeline);
        known.histories.extend(history_of(physical));
    }
    known
}
