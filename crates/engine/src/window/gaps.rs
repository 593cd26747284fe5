//! WAL that was written after the oldest that a lineage has, and that no place has whole.
//!
//! Invariant: a timeline counts from where it is known on to its last segment, and to each point at which a history
//! leaves it. It is known from its oldest segment or backup on; from its very beginning where anything of its ancestors
//! is known. So nothing is lost unseen, also not in front of a fork, whose last segments no timeline has behind them.
//! Only what came after the last thing that is there can't be missed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use jiff::Timestamp;
use pgkeep_base::{Lsn, Result, SegmentFacts, SegmentSize, TimelineId, WalSegment};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_repo::lineage::Lineage;

use super::TIME_SEARCH_SEGMENTS;
use crate::catalogue::Backup;
use crate::engine::Engine;
use crate::path::contents::segment_facts;
use crate::path::{Archive, route};

/// Segments that were written and are missing.
#[derive(Clone, PartialEq, Debug)]
pub struct Gap {
    /// Whose.
    pub lineage: Lineage,
    /// On which timeline.
    pub timeline: TimelineId,
    /// First missing segment.
    pub first_missing: WalSegment,
    /// Last missing segment.
    pub last_missing: WalSegment,
    /// Where it begins: with its first segment, or inside of that where the timeline begins there.
    pub from_lsn: Lsn,
    /// Where it ends: with its last segment.
    pub to_lsn: Lsn,
    /// The last time before it that a record bears.
    pub from: Option<Timestamp>,
    /// The first time behind it that a record bears, on its timeline or on one that descends from it there.
    pub to: Option<Timestamp>,
    history: Option<TimelineHistory>,
}

impl Gap {
    /// Whether a cluster that has replayed `timeline` up to `lsn` would have to cross it to go on.
    pub fn is_ahead_of(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        let leads_here = match &self.history {
            Some(history) => history.contains(timeline, lsn),
            None => self.timeline == timeline,
        };
        leads_here && lsn < self.to_lsn
    }
}

/// The gaps of a lineage's archive.
///
/// # Errors
/// Where trust in signers can't be established.
pub async fn gaps(engine: &Engine, archive: &Archive, backups: &[&Backup]) -> Result<Vec<Gap>> {
    let written = Written::of(archive, backups);
    let mut found = Vec::new();
    for timeline in written.timelines() {
        let Some(stretch) = written.stretch(timeline) else {
            continue;
        };
        for (first, last) in holes(&stretch, archive.numbers(timeline)) {
            found.push(gap(engine, archive, timeline, first, last).await?);
        }
    }
    Ok(found)
}

async fn gap(engine: &Engine, archive: &Archive, timeline: TimelineId, first: u64, last: u64) -> Result<Gap> {
    let size = archive.segment_size;
    let segment = |number| WalSegment { timeline, number, size };
    let history = archive.tree.history(timeline);
    let begin = history.and_then(|history| history.begin_of(timeline));
    let around = Around {
        engine,
        archive,
        timeline,
    };
    Ok(Gap {
        lineage: archive.lineage.clone(),
        timeline,
        first_missing: segment(first),
        last_missing: segment(last),
        from_lsn: begin.unwrap_or(Lsn::INVALID).max(segment(first).start()),
        to_lsn: segment(last).end(),
        from: around.time_before(first).await?,
        to: around.time_behind(last).await?,
        history: history.cloned(),
    })
}

/// What is known to have been written, in numbers of segments, by the archive and the backups of each timeline.
struct Written<'a> {
    archive: &'a Archive,
    /// First, and how far all must be there: `None` where only a beginning of the first is known.
    known: BTreeMap<TimelineId, (u64, Option<u64>)>,
}

impl<'a> Written<'a> {
    fn of(archive: &'a Archive, backups: &[&Backup]) -> Written<'a> {
        let known = BTreeMap::new();
        let mut written = Written { archive, known };
        for timeline in archive.timelines() {
            archive
                .numbers(timeline)
                .for_each(|number| written.add(timeline, number, Some(number)));
            let partials = archive.partials(timeline);
            partials.for_each(|number| written.add(timeline, number, number.checked_sub(1)));
        }
        for (timeline, number) in archive.cut_segments() {
            written.add(timeline, number, Some(number));
        }
        for head in backups.iter().filter_map(|backup| backup.head().physical().ok()) {
            let needed = head.needed_wal();
            written.add(head.timeline, *needed.start(), Some(*needed.end()));
        }
        written
    }

    fn add(&mut self, timeline: TimelineId, first: u64, last: Option<u64>) {
        let (known_first, known_last) = self.known.entry(timeline).or_insert((first, last));
        *known_first = first.min(*known_first);
        *known_last = last.max(*known_last);
    }

    /// Everything of which anything is known, oldest first.
    fn timelines(&self) -> BTreeSet<TimelineId> {
        let explained = self.archive.tree.timelines().map(TimelineHistory::timeline);
        self.known.keys().copied().chain(explained).collect()
    }

    /// The segments of a timeline that must be there.
    fn stretch(&self, timeline: TimelineId) -> Option<RangeInclusive<u64>> {
        let known = self.known.get(&timeline);
        let first = known.map(|(first, _)| *first).into_iter().chain(self.begin(timeline));
        let last = known.and_then(|(_, last)| *last).into_iter().chain(self.left(timeline));
        Some(first.min()?..=last.max()?)
    }

    /// The first segment of a timeline, where it was reached from something known.
    fn begin(&self, timeline: TimelineId) -> Option<u64> {
        let (size, history) = (self.size(), self.archive.tree.history(timeline)?);
        let is_known = |ancestor: TimelineId| {
            let left = history.switch_point(ancestor).map(|left| size.number_of(left));
            let first = self.known.get(&ancestor).map(|(first, _)| *first);
            first.zip(left).is_some_and(|(first, left)| first < left)
        };
        let reached = history.switches().iter().any(|switch| is_known(switch.timeline));
        reached.then(|| history.begin_of(timeline).map(|begin| size.number_of(begin)))?
    }

    /// The last segment of a timeline that another one, which left it later, can't have in its place.
    fn left(&self, timeline: TimelineId) -> Option<u64> {
        let tree = &self.archive.tree;
        let left = tree.timelines().filter_map(|history| history.switch_point(timeline));
        left.filter_map(|left| self.size().number_of(left).checked_sub(1)).max()
    }

    fn size(&self) -> SegmentSize {
        self.archive.segment_size
    }
}

/// First and last of each run of numbers that are not among those in order.
fn holes(required: &RangeInclusive<u64>, there: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut holes = Vec::new();
    let mut next = *required.start();
    for number in there.filter(|number| required.contains(number)) {
        if next < number {
            holes.push((next, number - 1));
        }
        next = number + 1;
    }
    if next <= *required.end() {
        holes.push((next, *required.end()));
    }
    holes
}

/// Looks for times around a gap.
struct Around<'a> {
    engine: &'a Engine,
    archive: &'a Archive,
    timeline: TimelineId,
}

impl Around<'_> {
    async fn time_before(&self, number: u64) -> Result<Option<Timestamp>> {
        let own = self.archive.tree.history(self.timeline);
        for number in (number.saturating_sub(TIME_SEARCH_SEGMENTS)..number).rev() {
            let time = self.fact(own, number, |facts| facts.last_known_time).await?;
            if time.is_some() {
                return Ok(time);
            }
        }
        Ok(None)
    }

    async fn time_behind(&self, number: u64) -> Result<Option<Timestamp>> {
        let (tree, size) = (&self.archive.tree, self.archive.segment_size);
        let ways_on = tree.timelines().filter(|history| {
            let left = history.switch_point(self.timeline);
            history.timeline() == self.timeline || left.is_some_and(|left| size.number_of(left) > number)
        });
        let mut earliest: Option<Timestamp> = None;
        for way in ways_on
            .map(Some)
            .chain(tree.history(self.timeline).is_none().then_some(None))
        {
            for number in number + 1..=number + TIME_SEARCH_SEGMENTS {
                let time = self
                    .fact(way, number, |facts| facts.min_time.or(facts.last_known_time))
                    .await?;
                if time.is_some() {
                    earliest = time.into_iter().chain(earliest).min();
                    break;
                }
            }
        }
        Ok(earliest)
    }

    /// What a segment's facts say, by whatever serves its number on a way; without a history, by the timeline's own.
    async fn fact(
        &self,
        way: Option<&TimelineHistory>,
        number: u64,
        of: impl Fn(&SegmentFacts) -> Option<Timestamp>,
    ) -> Result<Option<Timestamp>> {
        let Archive {
            tree,
            segment_size: size,
            ..
        } = self.archive;
        let own = WalSegment {
            timeline: self.timeline,
            number,
            size: *size,
        };
        let segment = match way.map(|way| route::choices(tree, way, number, *size)) {
            None => Some(own),
            Some(choices) => {
                let there = |choice: &route::Choice| !self.archive.contents(choice.segment.timeline, number).is_empty();
                // Whose the times in a segment are that another timeline shares, nobody can tell without an identity.
                let choice = choices.into_iter().find(there).filter(|choice| choice.until.is_none());
                choice.map(|choice| choice.segment)
            }
        };
        let Some(segment) = segment else { return Ok(None) };
        let facts = segment_facts(self.engine, self.archive, segment).await?;
        Ok(facts.and_then(|facts| of(&facts.segment)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_what_is_required_and_not_there() {
        for (required, there, expected) in [
            (2..=4, "  xxx", vec![]),
            (0..=5, "xx  xx", vec![(2, 3)]),
            (0..=2, "xx", vec![(2, 2)]),
            (0..=2, " xx", vec![(0, 0)]),
            (0..=9, "xx    .xx", vec![(2, 6), (9, 9)]),
            (1..=3, "", vec![(1, 3)]),
            (2..=3, "xxxxxx", vec![]),
        ] {
            let numbers = there
                .chars()
                .enumerate()
                .filter(|(_, c)| *c == 'x')
                .map(|(at, _)| at as u64);
            assert_eq!(holes(&required, numbers), expected, "{there}");
        }
    }
}
