//! Walks the WAL of a route, segment by segment, until a target's stop or the end of what is there.
//!
//! Invariants: the walk ends at the first thing that PostgreSQL could not replay either; why it ended is always told
//! apart (missing, bad, unknown, two histories). At most [`SEGMENTS_IN_FLIGHT`] segments are opened at once.

use std::ops::ControlFlow;
use std::sync::Arc;

use futures::{StreamExt, stream};
use pgkeep_base::limits::SEGMENTS_IN_FLIGHT;
use pgkeep_base::{Error, Lsn, PgMajor, RecoveryTarget, Result, SegmentSize, TimelineId, WalSegment};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::wal::{WalkEnd, Walker, meaning, read_segment_header};
use pgkeep_store::Store;

use super::archive::Archive;
use super::beginnings::Beginnings;
use super::contents::{Chosen, open_segment, two_histories};
use super::route::{Choice, choices};
use super::search::{Position, Search, Stop};
use crate::engine::Engine;
use crate::wal::map::SegmentMap;

/// Where a walk begins: a base backup.
#[derive(Clone, Copy, Debug)]
pub struct From {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Its redo point.
    pub start_lsn: Lsn,
    /// End of its backup-end record.
    pub stop_lsn: Lsn,
    /// Of the cluster.
    pub major: PgMajor,
}

/// Why a walk ended.
#[derive(Debug)]
pub enum PathEnd {
    /// The target's stop was found.
    Stop,
    /// No place has this segment; `later` is the first segment of the route that is there after it.
    Missing {
        /// Under the name that PostgreSQL would ask for first.
        segment: WalSegment,
        /// The gap's other side, if there is one.
        later: Option<WalSegment>,
    },
    /// No good copy of this segment exists, or none could be read now.
    Bad {
        /// The segment.
        segment: WalSegment,
        /// What is wrong with each copy; `Unavailable` where a place did not answer.
        error: Error,
    },
    /// Valid records end here, in a segment that is there and whole: a crash, or an old primary's last segment.
    Invalid {
        /// Where.
        at: Lsn,
        /// Why.
        reason: String,
        /// Later segments of the route are there.
        later: Option<WalSegment>,
    },
    /// The server ran with `wal_level = minimal` from here on, and PostgreSQL refuses to recover across that.
    Minimal {
        /// Where.
        at: Lsn,
    },
    /// The route ends at this switch point: only an older timeline's copy of the segment is there.
    Left {
        /// The switch point.
        at: Lsn,
        /// The segment that is missing.
        missing: WalSegment,
        /// Later segments of the route are there.
        later: Option<WalSegment>,
    },
}

/// The outcome of a walk.
#[derive(Debug)]
pub struct Walked {
    /// What was seen, and the stop if it was found.
    pub search: Search,
    /// Why the walk ended.
    pub end: PathEnd,
    /// The segments walked.
    pub map: SegmentMap,
    /// The timeline that recovery must be told to aim at.
    pub aim: TimelineId,
    /// What was passed over on the way, in words.
    pub notes: Vec<String>,
}

impl PathEnd {
    /// Takes note of WAL that comes after an end behind which the route itself has nothing.
    fn goes_on_with(&mut self, segment: Option<WalSegment>) {
        if let PathEnd::Missing { later, .. } | PathEnd::Invalid { later, .. } | PathEnd::Left { later, .. } = self {
            *later = later.or(segment);
        }
    }

    /// True where nothing of the route is left behind: the archive simply goes no further.
    pub fn is_natural(&self) -> bool {
        match self {
            PathEnd::Stop => true,
            PathEnd::Missing { later, .. } | PathEnd::Invalid { later, .. } | PathEnd::Left { later, .. } => {
                later.is_none()
            }
            PathEnd::Bad { .. } | PathEnd::Minimal { .. } => false,
        }
    }
}

impl Walked {
    /// The stop of the target: found on the way, or the end of the archive where that is what was asked for.
    ///
    /// "Latest" is an answer only where the archive ends by itself: a gap or a bad segment with more behind it is not
    /// its end.
    pub fn stop(&self) -> Option<Stop> {
        let at_end = || self.search.stop_at_end().filter(|_| self.end.is_natural());
        self.search.stop().or_else(at_end)
    }
}

/// Walks from a backup towards `target` on the timeline of `history`.
///
/// # Errors
/// `Refused` where a segment is there and whole, but its signer is not trusted, or no identity opens it.
pub async fn walk(
    engine: &Engine,
    archive: &Archive,
    from: From,
    history: &TimelineHistory,
    target: RecoveryTarget,
    exclusive: bool,
) -> Result<Walked> {
    let search = Search::new(target, exclusive, (from.start_lsn, from.stop_lsn))?;
    let first = archive.segment_size.number_of(from.start_lsn);
    let last = last_number(archive, history).unwrap_or(first);
    let source = Source {
        engine,
        archive,
        history,
        stores: engine.stores(),
    };
    let mut segments = stream::iter(first..=last.max(first) + 1)
        .map(|number| source.open(number))
        .buffered(SEGMENTS_IN_FLIGHT);
    let mut progress = Progressing::new(archive.segment_size, from, search, history);
    while let Some(opened) = segments.next().await {
        if let Some(mut end) = progress.take(opened?, &source)? {
            end.goes_on_with(source.known_behind(progress.search.last()));
            return Ok(Walked {
                search: progress.search,
                end,
                map: progress.map,
                aim: progress.aim,
                notes: progress.notes,
            });
        }
    }
    Err(Error::internal("a walk through the WAL ended without a reason"))
}

/// The largest segment number that any timeline of the route has.
fn last_number(archive: &Archive, history: &TimelineHistory) -> Option<u64> {
    let ancestors = history.switches().iter().map(|switch| switch.timeline);
    ancestors
        .chain([history.timeline()])
        .filter_map(|timeline| archive.last_number(timeline))
        .max()
}

struct Progressing<'a> {
    walker: Walker,
    beginnings: Beginnings<'a>,
    major: PgMajor,
    search: Search,
    map: SegmentMap,
    aim: TimelineId,
    notes: Vec<String>,
}

impl<'a> Progressing<'a> {
    fn new(size: SegmentSize, from: From, search: Search, history: &'a TimelineHistory) -> Progressing<'a> {
        Progressing {
            walker: Walker::new(Some(from.start_lsn)),
            beginnings: Beginnings::new(history),
            major: from.major,
            search,
            map: SegmentMap::new(size),
            aim: history.timeline(),
            notes: Vec::new(),
        }
    }

    /// Walks one segment; `Some` when the path ends in it.
    fn take(&mut self, opened: Opened, source: &Source<'_>) -> Result<Option<PathEnd>> {
        let (choice, chosen) = match opened {
            Opened::Good(choice, chosen) => (choice, chosen),
            Opened::Missing(segment) => {
                return Ok(Some(PathEnd::Missing {
                    segment,
                    later: source.later_than(segment.number),
                }));
            }
            Opened::Bad(segment, error) => return Ok(Some(PathEnd::Bad { segment, error })),
        };
        let fed = self.feed(&choice, &chosen)?;
        if let Some(why) = fed.stranger {
            let error = Error::corrupt(why).detail("another server was promoted to the same number");
            let segment = choice.segment;
            return Ok(Some(PathEnd::Bad { segment, error }));
        }
        // WAL of its own that does not go on where the segment before ended: another server's. That is no end.
        let valid_to = chosen
            .facts
            .as_ref()
            .map(|facts| facts.segment.valid_to.min(end_of(&choice)));
        if !fed.left || self.search.last().is_some_and(|last| last.end > choice.segment.start()) {
            self.map.push(choice.segment, chosen.hash, chosen.holder)?;
            self.notes.extend(chosen.notes);
            self.aim = choice.aim.unwrap_or(self.aim);
        }
        Ok(match (fed.end, choice.until) {
            (WalkEnd::Interrupted { .. }, _) if !fed.left => Some(match self.search.minimal_at() {
                Some(at) => PathEnd::Minimal { at },
                None => PathEnd::Stop,
            }),
            (WalkEnd::Stopped { at, reason }, until) if until.is_none_or(|until| at < until) => {
                let is_strange = valid_to.is_some_and(|valid_to| valid_to > at);
                let later = source.later_than(choice.segment.number);
                let later = later.or(is_strange.then_some(choice.segment));
                Some(PathEnd::Invalid { at, reason, later })
            }
            (_, Some(until)) => Some(source.left_at(until, choice.segment)),
            (_, None) => None,
        })
    }

    /// Shows the records of a segment to the search, as far as they are of the way.
    fn feed(&mut self, choice: &Choice, chosen: &Chosen) -> Result<Fed> {
        let (mut left, mut stranger) = (false, None);
        // Without a header no record is read from it.
        let block = read_segment_header(&chosen.bytes).map_or(1, |header| header.block_bytes);
        let (search, beginnings, major) = (&mut self.search, &mut self.beginnings, self.major);
        let end = self.walker.feed(&chosen.bytes, &choice.segment, &mut |record| {
            left = choice.until.is_some_and(|until| record.end > until);
            if left {
                return ControlFlow::Break(());
            }
            let meaning = meaning(record, major);
            stranger = beginnings.take(record, &meaning, block).err();
            match stranger {
                Some(_) => ControlFlow::Break(()),
                None => search.visit(record, &meaning),
            }
        })?;
        Ok(Fed { end, left, stranger })
    }
}

/// What was seen of a segment.
struct Fed {
    end: WalkEnd,
    /// A record lies behind the point where the way leaves the segment's timeline.
    left: bool,
    /// Why the records are not of the way.
    stranger: Option<String>,
}

enum Opened {
    Good(Choice, Box<Chosen>),
    Missing(WalSegment),
    Bad(WalSegment, Error),
}

struct Source<'a> {
    engine: &'a Engine,
    archive: &'a Archive,
    history: &'a TimelineHistory,
    stores: Vec<Arc<dyn Store>>,
}

impl Source<'_> {
    /// The first segment of the route after `number` that is listed.
    fn later_than(&self, number: u64) -> Option<WalSegment> {
        let is_there = |segment: &WalSegment| !self.archive.contents(segment.timeline, segment.number).is_empty();
        let mut numbers = self.archive.numbers_behind(self.history, number).into_iter();
        numbers.find_map(|number| {
            let found = choices(&self.archive.tree, self.history, number, self.archive.segment_size);
            found.iter().map(|choice| choice.segment).find(is_there)
        })
    }

    /// What histories say of WAL behind the last record that was seen: where a descendant leaves the route's timeline, and
    /// where that begins.
    fn known_behind(&self, last: Option<Position>) -> Option<WalSegment> {
        let own = self.history.timeline();
        let descendants = self.archive.tree.descendants(self.history);
        let left = descendants.filter_map(|history| Some((history.switch_point(own)?, history.timeline())));
        let (at, timeline) = left.chain(self.history.begin_of(own).zip(Some(own))).max()?;
        let end = last.map_or(Lsn::INVALID, |last| last.end);
        (at > end).then(|| WalSegment::at(timeline, at, self.archive.segment_size))
    }

    fn left_at(&self, until: Lsn, segment: WalSegment) -> PathEnd {
        let missing = WalSegment {
            timeline: self.history.timeline_at(until),
            ..segment
        };
        PathEnd::Left {
            at: until,
            missing,
            later: self.later_than(segment.number),
        }
    }

    async fn open(&self, number: u64) -> Result<Opened> {
        let options = choices(&self.archive.tree, self.history, number, self.archive.segment_size);
        let first = options.first().map(|choice| choice.segment).unwrap_or(WalSegment {
            timeline: self.history.timeline(),
            number,
            size: self.archive.segment_size,
        });
        let mut best: Option<(Choice, Box<Chosen>)> = None;
        for choice in options {
            // Sorted by how far each may go: no later one goes further.
            let goes_so_far = |(known, chosen): &(Choice, Box<Chosen>)| reach(known, chosen) >= end_of(&choice);
            if best.as_ref().is_some_and(goes_so_far) {
                break;
            }
            let opened = open_segment(self.engine, &self.stores, self.archive, choice.segment, choice.until).await?;
            match (opened, &best) {
                (None, _) => {}
                (Some(Err(error)), _) => return Ok(Opened::Bad(choice.segment, error)),
                (Some(Ok(chosen)), None) => best = Some((choice, Box::new(chosen))),
                (Some(Ok(chosen)), Some((known, shorter))) => {
                    let both = reach(known, shorter).min(reach(&choice, &chosen));
                    if !agree(shorter, &chosen, both.0.saturating_sub(choice.segment.start().0)) {
                        return Ok(Opened::Bad(known.segment, two_histories(known.segment)));
                    }
                    if both < reach(&choice, &chosen) {
                        best = Some((choice, Box::new(chosen)));
                    }
                }
            }
        }
        Ok(match best {
            Some((choice, chosen)) => Opened::Good(choice, chosen),
            None => Opened::Missing(first),
        })
    }
}

/// Where a choice ends at the latest.
fn end_of(choice: &Choice) -> Lsn {
    choice.until.unwrap_or(choice.segment.end())
}

/// How far a choice goes: a `.partial` file ends before its segment, and a descendant's copy may have more of it.
fn reach(choice: &Choice, chosen: &Chosen) -> Lsn {
    match &chosen.facts {
        Some(facts) if !chosen.is_complete() => facts.segment.valid_to.min(end_of(choice)),
        _ => end_of(choice),
    }
}

fn agree(a: &Chosen, b: &Chosen, bytes: u64) -> bool {
    a.bytes.get(..bytes as usize) == b.bytes.get(..bytes as usize)
}
