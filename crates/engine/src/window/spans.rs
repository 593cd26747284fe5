//! Which runs of segments can be recovered across, by listings and facts alone.
//!
//! Invariant: what is promised here, a restore's plan keeps, unless a body that nobody looked at is bad, or does not go
//! on from the one before it. Where contents of which none is the beginning of the other were archived under one name,
//! nothing is promised inside of them or behind, up to the next backup.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use pgkeep_base::facts::BackupEndFact;
use pgkeep_base::{Lsn, Result, SegmentFacts, TimelineId, WalSegment};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_repo::head::PhysicalHead;
use pgkeep_repo::lineage::Lineage;

use super::{Range, TIME_SEARCH_SEGMENTS};
use crate::catalogue::Backup;
use crate::engine::Engine;
use crate::path::Archive;
use crate::path::contents::{is_contested, segment_facts};
use crate::path::heads::{ends_behind, history_meant, history_of};
use crate::path::route::{Choice, choices};
use crate::wal::map::Holder;

/// A run of moments, before its times are known.
#[derive(Clone, PartialEq, Debug)]
struct Span {
    /// Of its timeline, as the way says.
    history: TimelineHistory,
    from: Lsn,
    from_time: Option<Timestamp>,
    /// When the backup was finished that leads here. The first segment of a timeline holds older times, too.
    not_before: Timestamp,
    run: Run,
}

/// A run of segments without a gap and without a dispute.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Run {
    last: WalSegment,
    /// The run ends here, where a switch point ends it.
    until: Option<Lsn>,
}

/// Gathers the runs of a lineage.
pub(super) struct Spans<'a> {
    engine: &'a Engine,
    archive: &'a Archive,
    heads: Vec<&'a PhysicalHead>,
    spans: BTreeMap<TimelineId, Vec<Span>>,
}

impl<'a> Spans<'a> {
    pub fn new(engine: &'a Engine, archive: &'a Archive, backups: &[&'a Backup]) -> Spans<'a> {
        Spans {
            engine,
            archive,
            heads: backups
                .iter()
                .filter_map(|backup| backup.head().physical().ok())
                .collect(),
            spans: BTreeMap::new(),
        }
    }

    /// Adds what a backup leads to.
    pub async fn add_backup(&mut self, backup: &Backup) -> Result<()> {
        let head = backup.head().physical()?;
        let needed = head.needed_wal();
        let of_tree = || self.archive.tree.history(head.timeline).cloned();
        let Some(history) = history_of(head).or_else(of_tree) else {
            return Ok(());
        };
        let run = self.run_from(&history, *needed.start()).await?;
        let Some(run) = run.filter(|run| run.last.number >= *needed.end()) else {
            return Ok(());
        };
        if !self.may_end_here(head).await? {
            return Ok(());
        }
        let span = Span {
            history,
            from: head.stop_lsn,
            from_time: Some(backup.head().finished_at),
            not_before: backup.head().finished_at,
            run,
        };
        // Without a backup named, the timeline of this number is another one.
        let meant = history_meant(&self.archive.tree, self.heads.iter().copied(), head.timeline);
        if meant.as_ref() == Some(&span.history) {
            self.add(span.clone());
        }
        self.follow(span).await
    }

    /// Whether the segment with a backup's end says so; where it says something else, it is another server's.
    async fn may_end_here(&self, head: &PhysicalHead) -> Result<bool> {
        let last = WalSegment {
            timeline: head.timeline,
            number: *head.needed_wal().end(),
            size: head.segment_bytes,
        };
        let is_end = |end: &BackupEndFact| (end.start_lsn, end.end) == (head.start_lsn, head.stop_lsn);
        let facts = self.facts(last).await?;
        Ok(facts.is_none_or(|facts| facts.backup_ends.iter().any(is_end)))
    }

    /// Adds what can be reached on timelines forked within a span.
    async fn follow(&mut self, span: Span) -> Result<()> {
        let archive = self.archive;
        let mut ahead = vec![span];
        while let Some(span) = ahead.pop() {
            let (from, to) = (span.from, span.run.until.unwrap_or(span.run.last.end()));
            let (timeline, mut found) = (span.history.timeline(), Vec::new());
            // Another server may have been promoted to this number.
            let forks = archive.tree.forks(&span.history);
            let forks = forks.filter(|(child, _)| archive.tree.is_past_of(timeline, child));
            for (child, fork) in forks.filter(|(_, fork)| from <= *fork && *fork <= to) {
                let Some(run) = self.run_from(child, archive.segment_size.number_of(fork)).await? else {
                    continue;
                };
                let forked = Span {
                    history: child.clone(),
                    from: fork,
                    from_time: None,
                    run,
                    ..span
                };
                found.push(forked);
            }
            found.iter().for_each(|forked| self.add(forked.clone()));
            ahead.append(&mut found);
        }
        Ok(())
    }

    /// The run of segments on the way to a timeline, from a segment number on, up to the first that is missing or in
    /// dispute.
    async fn run_from(&self, history: &TimelineHistory, first: u64) -> Result<Option<Run>> {
        let mut run = None;
        for number in first.. {
            let Some(choice) = self.choice(history, number) else {
                break;
            };
            if is_contested(self.engine, self.archive, choice.segment).await? {
                break;
            }
            run = Some(Run {
                last: choice.segment,
                until: choice.until,
            });
            // Nothing follows what is only the beginning of a segment.
            if choice.until.is_some() || self.is_partial(&choice.segment) {
                break;
            }
        }
        Ok(run)
    }

    /// What serves a segment number on the way to a timeline.
    fn choice(&self, history: &TimelineHistory, number: u64) -> Option<Choice> {
        let archive = self.archive;
        let there = |choice: &Choice| {
            let timeline = choice.segment.timeline;
            !archive.contents(timeline, number).is_empty() && !archive.is_cut(timeline, number)
        };
        let found = choices(&archive.tree, history, number, archive.segment_size);
        found.into_iter().find(there)
    }

    fn is_partial(&self, segment: &WalSegment) -> bool {
        let contents = self.archive.contents(segment.timeline, segment.number);
        contents.iter().all(|content| content.holder == Holder::Partial)
    }

    /// Adds a span; spans of one timeline that end in the same segment are one.
    fn add(&mut self, span: Span) {
        let list = self.spans.entry(span.history.timeline()).or_default();
        let same = |known: &&mut Span| known.history == span.history && known.run.last == span.run.last;
        match list.iter_mut().find(same) {
            Some(known) if span.from < known.from => *known = span,
            Some(_) => {}
            None => list.push(span),
        }
    }

    /// All runs with their times.
    pub async fn ranges(&self, lineage: &Lineage) -> Result<Vec<Range>> {
        let mut found = Vec::new();
        for span in self.spans.values().flatten() {
            let range = self.range(lineage, span).await?;
            // Where only the ancestor's last segment is there, nothing of the timeline itself is.
            found.extend(Some(range).filter(|range| range.from_lsn < range.to_lsn));
        }
        Ok(found)
    }

    async fn range(&self, lineage: &Lineage, span: &Span) -> Result<Range> {
        let Run { last, until } = span.run;
        let history = &span.history;
        let from = match span.from_time {
            Some(time) => Some(time),
            None => {
                let first = self.first_time(history.timeline(), span.from).await?;
                first.map(|time| time.max(span.not_before))
            }
        };
        let end = self.facts(last).await?.and_then(|facts| facts.last_record_end);
        let (from, to) = if self.goes_on_after(history, span.run, end.unwrap_or(last.end())) {
            let to = self.last_certain_time(span).await?;
            (from.filter(|from| to.is_some_and(|to| *from <= to)), to)
        } else {
            (from, self.last_time(span).await?.max(from))
        };
        Ok(Range {
            lineage: lineage.clone(),
            timeline: history.timeline(),
            to: to.filter(|_| from.is_some()),
            from,
            from_lsn: span.from,
            to_lsn: until.or(end).unwrap_or(last.start()),
        })
    }

    /// The archive goes on behind a run, or a descendant left the timeline there, or a backup ended there: the run's end is a
    /// gap or a dispute, and what lies there is unknown.
    fn goes_on_after(&self, history: &TimelineHistory, run: Run, end: Lsn) -> bool {
        let (tree, own) = (&self.archive.tree, history.timeline());
        let end = run.until.unwrap_or(end);
        let is_left = |other: &TimelineHistory| other.switch_point(own).is_some_and(|left| left > end);
        if tree.descendants(history).any(is_left) || ends_behind(tree, self.heads.iter().copied(), history, end) {
            return true;
        }
        let behind = self.archive.numbers_behind(history, run.last.number);
        behind.into_iter().any(|number| self.choice(history, number).is_some())
    }

    /// The earliest time in the segment with which a timeline begins.
    async fn first_time(&self, timeline: TimelineId, from: Lsn) -> Result<Option<Timestamp>> {
        let segment = WalSegment::at(timeline, from, self.archive.segment_size);
        let first = self.facts(segment).await?;
        Ok(first.and_then(|facts| facts.min_time.or(facts.last_known_time)))
    }

    /// The latest time that a record of the last segments bears.
    async fn last_time(&self, span: &Span) -> Result<Option<Timestamp>> {
        self.last_fact(span, |facts| facts.last_known_time).await
    }

    /// The latest time that can be asked for where nobody knows what comes after: just before the last commit or abort.
    async fn last_certain_time(&self, span: &Span) -> Result<Option<Timestamp>> {
        let latest = self.last_fact(span, |facts| facts.max_time).await?;
        Ok(latest.and_then(|latest| latest.checked_sub(SignedDuration::from_micros(1)).ok()))
    }

    /// The last of a fact that a segment of the span bears. Where another timeline shares the last of them, nobody can
    /// tell without an identity whose it is: then the one before it counts.
    async fn last_fact<T>(&self, span: &Span, of: impl Fn(&SegmentFacts) -> Option<T>) -> Result<Option<T>> {
        let (size, last) = (self.archive.segment_size, span.run.last.number);
        let first = size.number_of(span.from).max(last.saturating_sub(TIME_SEARCH_SEGMENTS));
        for number in (first..=last).rev() {
            let choice = self
                .choice(&span.history, number)
                .filter(|choice| choice.until.is_none());
            let Some(choice) = choice else { continue };
            let facts = self.facts(choice.segment).await?;
            if let Some(found) = facts.as_ref().and_then(&of) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Facts of a segment, where it is there under its own timeline and readable.
    async fn facts(&self, segment: WalSegment) -> Result<Option<SegmentFacts>> {
        let facts = segment_facts(self.engine, self.archive, segment).await?;
        Ok(facts.map(|facts| facts.segment))
    }
}
