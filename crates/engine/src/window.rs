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
use pgkeep_repo::wal::WalFacts;

use crate::catalogue::{self, Backup, Catalogue};
use crate::engine::Engine;
use crate::path::archive::HeadTimelines;
use crate::path::contents::segment_facts;
use crate::path::{Archive, route};
use crate::wal::map::Holder;

mod gaps;

pub use gaps::{Gap, gaps};

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
    /// It is the newest, and there is nothing but its history: nothing was archived yet, or all of it is lost.
    NoWal,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NoHistory(why) => f.write_str(why),
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
    /// Segments under whose name different contents were archived.
    pub doubles: Vec<WalSegment>,
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
                doubles: Vec::new(),
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
    let backups: Vec<&Backup> = catalogue.physical(lineage).collect();
    let Some(first) = backups.first() else { return Ok(()) };
    let size = first.head().physical()?.segment_bytes;
    let archive = Archive::load(engine, lineage, size, 0, head_timelines(&backups)).await?;
    let mut spans = Spans {
        engine,
        archive: &archive,
        spans: BTreeMap::new(),
    };
    for backup in &backups {
        spans.add_backup(backup)?;
    }
    for (timeline, list) in std::mem::take(&mut spans.spans) {
        for span in list {
            window.ranges.push(spans.range(lineage, timeline, span).await?);
        }
    }
    window.gaps.extend(gaps(engine, &archive, &backups).await?);
    window.unreachable.extend(unreachable(&archive));
    let double = |(timeline, number)| WalSegment { timeline, number, size };
    window.doubles.extend(archive.doubles().map(double));
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
        .map(|timeline| told(timeline, Why::NoHistory(archive.why_unexplained(timeline))))
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
        let text = physical
            .history
            .as_deref()
            .map(|text| TimelineHistory::parse(physical.timeline, text.as_bytes()));
        known.histories.extend(text.and_then(Result::ok));
    }
    known
}

/// A run of moments, before its times are known.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Span {
    from: Lsn,
    from_time: Option<Timestamp>,
    /// The last segment of the run.
    last: WalSegment,
    /// The run ends here, where a switch point ends it.
    until: Option<Lsn>,
}

struct Spans<'a> {
    engine: &'a Engine,
    archive: &'a Archive,
    spans: BTreeMap<TimelineId, Vec<Span>>,
}

impl Spans<'_> {
    fn add_backup(&mut self, backup: &Backup) -> Result<()> {
        let head = backup.head().physical()?;
        let needed = head.needed_wal();
        let Some(run) = self.run_from(head.timeline, *needed.start()) else {
            return Ok(());
        };
        if run.last.number < *needed.end() {
            return Ok(());
        }
        let span = Span {
            from: head.stop_lsn,
            from_time: Some(backup.head().finished_at),
            ..run
        };
        self.add(head.timeline, span);
        self.follow(head.timeline, head.stop_lsn, run.last.end());
        Ok(())
    }

    /// Adds what can be reached on timelines forked from `timeline` between two positions.
    fn follow(&mut self, timeline: TimelineId, from: Lsn, to: Lsn) {
        let archive = self.archive;
        for (child, fork) in archive
            .tree
            .children(timeline)
            .filter(|(_, fork)| from <= *fork && *fork <= to)
        {
            let own = child.timeline();
            let Some(run) = self.run_from(own, archive.segment_size.number_of(fork)) else {
                continue;
            };
            self.add(
                own,
                Span {
                    from: fork,
                    from_time: None,
                    ..run
                },
            );
            self.follow(own, fork, run.last.end());
        }
    }

    /// The unbroken run of segments on the way to `timeline`, from a segment number on.
    fn run_from(&self, timeline: TimelineId, first: u64) -> Option<Span> {
        let history = self.archive.tree.history(timeline)?;
        let mut found: Option<Span> = None;
        let mut number = first;
        loop {
            let Some(choice) = self.choice(history, number) else {
                return found;
            };
            found = Some(Span {
                from: Lsn::INVALID,
                from_time: None,
                last: choice.segment,
                until: choice.until,
            });
            // Nothing follows what is only the beginning of a segment.
            if choice.until.is_some() || self.is_partial(&choice.segment) {
                return found;
            }
            number += 1;
        }
    }

    /// Adds a span; spans of one timeline that end in the same segment are one.
    fn add(&mut self, timeline: TimelineId, span: Span) {
        let list = self.spans.entry(timeline).or_default();
        match list.iter_mut().find(|known| known.last == span.last) {
            Some(known) if span.from < known.from => *known = span,
            Some(_) => {}
            None => list.push(span),
        }
    }

    async fn range(&self, lineage: &Lineage, timeline: TimelineId, span: Span) -> Result<Range> {
        let last = self.facts(span.last).await?;
        let end = last.and_then(|facts| facts.segment.last_record_end);
        let to_lsn = span.until.or(end).unwrap_or(span.last.start());
        let from = match span.from_time {
            Some(time) => Some(time),
            None => self.first_time(timeline, span.from).await?,
        };
        let to = self.last_time(timeline, &span).await?.max(from);
        Ok(Range {
            lineage: lineage.clone(),
            timeline,
            from,
            to,
            from_lsn: span.from,
            to_lsn,
        })
    }

    /// The earliest time in the segment with which a timeline begins.
    async fn first_time(&self, timeline: TimelineId, from: Lsn) -> Result<Option<Timestamp>> {
        let first = self
            .facts(WalSegment::at(timeline, from, self.archive.segment_size))
            .await?;
        Ok(first.and_then(|facts| facts.segment.min_time.or(facts.segment.last_known_time)))
    }

    /// The latest time that a record of the last segments bears. Where another timeline shares the last of them, nobody
    /// can tell without an identity whose time that is: then the one before it counts.
    async fn last_time(&self, timeline: TimelineId, span: &Span) -> Result<Option<Timestamp>> {
        let (size, last) = (self.archive.segment_size, span.last.number);
        let first = size.number_of(span.from).max(last.saturating_sub(TIME_SEARCH_SEGMENTS));
        let Some(history) = self.archive.tree.history(timeline) else {
            return Ok(None);
        };
        for number in (first..=last).rev() {
            let Some(choice) = self.choice(history, number).filter(|choice| choice.until.is_none()) else {
                continue;
            };
            let known = self.facts(choice.segment).await?;
            if let Some(time) = known.and_then(|facts| facts.segment.last_known_time) {
                return Ok(Some(time));
            }
        }
        Ok(None)
    }

    /// What serves a segment number on the way to a timeline.
    fn choice(&self, history: &TimelineHistory, number: u64) -> Option<route::Choice> {
        let archive = self.archive;
        let choices = route::choices(&archive.tree, history, number, archive.segment_size);
        let there = |choice: &route::Choice| {
            let timeline = choice.segment.timeline;
            !archive.contents(timeline, number).is_empty() && !archive.is_cut(timeline, number)
        };
        choices.into_iter().find(there)
    }

    fn is_partial(&self, segment: &WalSegment) -> bool {
        let contents = self.archive.contents(segment.timeline, segment.number);
        contents.iter().all(|content| content.holder == Holder::Partial)
    }

    /// Facts of a segment, where it is there under its own timeline and readable.
    async fn facts(&self, segment: WalSegment) -> Result<Option<WalFacts>> {
        segment_facts(self.engine, self.archive, segment).await
    }
}
