//! `wal list`: which segments are archived, timeline by timeline.
//!
//! Invariant: from listings, heads and facts, without an identity: that a segment is listed does not prove that it is
//! good.

use pgkeep_base::{ClusterName, ErrorKind, Result, SegmentSize, TimelineId, WalSegment};
use pgkeep_repo::catalogue::lineages;
use pgkeep_repo::lineage::Lineage;

use crate::catalogue;
use crate::engine::Engine;
use crate::path::Archive;
use crate::path::contents::conflicts;
use crate::window::{Gap, gaps, head_timelines};

/// A run of segments without a gap.
#[derive(Clone, Debug)]
pub struct SegmentRun {
    /// First segment.
    pub first: WalSegment,
    /// Last segment.
    pub last: WalSegment,
}

/// The segments of one timeline.
#[derive(Clone, Debug)]
pub struct TimelineListing {
    /// The timeline.
    pub timeline: TimelineId,
    /// Its parent and the switch point, by its history; `None` for one without, or where the history is missing.
    pub forked_from: Option<(TimelineId, pgkeep_base::Lsn)>,
    /// False where something of the timeline exists but no history can be had.
    pub explained: bool,
    /// Runs of segments, in order.
    pub runs: Vec<SegmentRun>,
    /// Segments of which only the beginning was archived, as a `.partial` file.
    pub partials: Vec<WalSegment>,
}

/// The archive of one lineage.
#[derive(Clone, Debug)]
pub struct LineageListing {
    /// Whose.
    pub lineage: Lineage,
    /// Its timelines, oldest first.
    pub timelines: Vec<TimelineListing>,
    /// Holes.
    pub gaps: Vec<Gap>,
    /// Segments under whose name two histories were archived.
    pub conflicts: Vec<WalSegment>,
}

/// Lists the archives of one cluster, or of all.
///
/// # Errors
/// What listing gives.
pub async fn list(engine: &Engine, cluster: Option<&ClusterName>) -> Result<Vec<LineageListing>> {
    let mut found = Vec::new();
    for place in engine.places() {
        match lineages(&*place.store).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            known => found.extend(known?),
        }
    }
    found.sort();
    found.dedup();
    let catalogue = catalogue::load(engine, cluster).await?;
    let mut listings = Vec::new();
    for lineage in found
        .into_iter()
        .filter(|lineage| cluster.is_none_or(|wanted| *wanted == lineage.cluster))
    {
        let backups = catalogue.physical(&lineage);
        let size = backups
            .first()
            .and_then(|backup| backup.head().physical().ok())
            .map(|head| head.segment_bytes);
        let archive = Archive::load(
            engine,
            &lineage,
            size.unwrap_or(SegmentSize::DEFAULT),
            0,
            head_timelines(&backups),
        )
        .await?;
        let gaps = gaps(engine, &archive, &backups).await?;
        let conflicts = conflicts(engine, &archive).await?;
        listings.push(of_archive(&archive, gaps, conflicts));
    }
    Ok(listings)
}

fn of_archive(archive: &Archive, gaps: Vec<Gap>, conflicts: Vec<WalSegment>) -> LineageListing {
    let size = archive.segment_size;
    let timelines = archive.timelines().into_iter().map(|timeline| {
        let history = archive.tree.history(timeline);
        let parent = history.and_then(|history| Some((history.parent()?, history)));
        TimelineListing {
            timeline,
            forked_from: parent.and_then(|(parent, history)| Some((parent, history.switch_point(parent)?))),
            explained: history.is_some(),
            runs: runs(archive.numbers(timeline), timeline, size),
            partials: archive
                .partials(timeline)
                .map(|number| WalSegment { timeline, number, size })
                .collect(),
        }
    });
    LineageListing {
        lineage: archive.lineage.clone(),
        timelines: timelines.collect(),
        gaps,
        conflicts,
    }
}

fn runs(numbers: impl Iterator<Item = u64>, timeline: TimelineId, size: SegmentSize) -> Vec<SegmentRun> {
    let mut found: Vec<SegmentRun> = Vec::new();
    for number in numbers {
        let segment = WalSegment { timeline, number, size };
        match found.last_mut() {
            Some(run) if run.last.number + 1 == number => run.last = segment,
            _ => found.push(SegmentRun {
                first: segment,
                last: segment,
            }),
        }
    }
    found
}
