//! Whether a moment on an ancestor belongs to the past of the timeline that was asked for.
//!
//! What is archived under an ancestor's number need not be what the timeline went on from: two servers may have been
//! promoted to that number at one moment, or a copy of a server went on under the number of its original. The walk to a
//! stop proves the way up to the stop; behind it only the borders between timelines are looked at: by facts, and by the
//! records of a segment behind which nothing is there.
//!
//! Invariant: a stop on an ancestor is refused where the archive contradicts that the wanted timeline went on from it.

use std::ops::ControlFlow;

use pgkeep_base::{Error, ErrorKind, Lsn, Result, WalSegment};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::wal::Walker;
use pgkeep_repo::wal::{Link, WalFacts, link};

use super::archive::Archive;
use super::contents::{is_contested, open_segment, segment_facts};
use super::route::{Choice, choices};
use crate::engine::Engine;

/// What the archive says of the way from a stop on an ancestor to the wanted timeline.
#[derive(Clone, Debug, PartialEq)]
pub enum Past {
    /// Nothing speaks against it.
    Agrees,
    /// This segment between them is missing, so that nothing proves that one led to the other.
    Unproven(WalSegment),
}

/// Looks from a stop to the beginning of the timeline of `history`.
///
/// Costs a look at each listed segment between them, two requests for each border, and the segment in which the way ends
/// if the next one is not there.
///
/// # Errors
/// `Refused` where segments between them don't follow each other, or the last one has no record that ends where the way
/// leaves it.
pub async fn prove(engine: &Engine, archive: &Archive, history: &TimelineHistory, stop: Lsn) -> Result<Past> {
    let size = archive.segment_size;
    let begin = history.begin_of(history.timeline()).unwrap_or(Lsn::INVALID);
    let way = Way {
        engine,
        archive,
        history,
    };
    let mut before: Option<WalSegment> = None;
    for number in size.number_before(stop)..=size.number_of(begin) {
        let (segment, until) = match way.choice(number) {
            Some(choice) => (choice.segment, choice.until),
            None => return Ok(way.unproven(number, None)),
        };
        // The way goes on in the newer timeline's copy of this segment, which is not there.
        if let Some(left) = until {
            if way.may_be_left_at(segment, left).await? {
                return Ok(way.unproven(number, until));
            }
            let why = format!("no record of WAL segment {segment} ends at {left}, where it was left");
            return Err(way.contradicted(stop, &why));
        }
        // What lies before the stop was walked.
        let is_contested = before.is_some() && is_contested(engine, archive, segment).await?;
        let border = before.filter(|before| is_contested || before.timeline != segment.timeline);
        if let Some(before) = border
            && !way.follows(before, segment, is_contested).await?
        {
            return Err(way.contradicted(stop, &format!("WAL segment {segment} does not follow {before}")));
        }
        // Whoever wrote these went on from what is before them.
        if is_contested {
            return Ok(Past::Agrees);
        }
        before = Some(segment);
    }
    Ok(Past::Agrees)
}

struct Way<'a> {
    engine: &'a Engine,
    archive: &'a Archive,
    history: &'a TimelineHistory,
}

impl Way<'_> {
    /// What serves a number on the way.
    fn choice(&self, number: u64) -> Option<Choice> {
        let mut found = choices(&self.archive.tree, self.history, number, self.archive.segment_size).into_iter();
        found.find(|choice| !self.archive.contents(choice.segment.timeline, number).is_empty())
    }

    /// The segment that is missing: under the timeline that the way has behind `until`, or at the segment's end.
    fn unproven(&self, number: u64, until: Option<Lsn>) -> Past {
        let size = self.archive.segment_size;
        let start = Lsn(number * size.bytes());
        let behind = until.unwrap_or(Lsn(start.0 + size.bytes() - 1));
        Past::Unproven(WalSegment {
            timeline: self.history.timeline_at(behind),
            number,
            size,
        })
    }

    /// Whether nothing contradicts that a timeline went on from this position of a segment: it is the end of a record.
    async fn may_be_left_at(&self, segment: WalSegment, left: Lsn) -> Result<bool> {
        let Way { engine, archive, .. } = self;
        // What can't be opened contradicts nothing.
        let chosen = match open_segment(engine, &engine.stores(), archive, segment, Some(left)).await {
            Ok(Some(Ok(chosen))) => chosen,
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::Refused => return Ok(true),
            Err(error) => return Err(error),
        };
        let mut crossed = false;
        Walker::new(None).feed(&chosen.bytes, &segment, &mut |record| {
            crossed = record.start < left && left < record.end;
            if record.end < left {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Ok(!crossed)
    }

    /// Whether nothing contradicts that `after` follows `before`; of several contents, that each of them does.
    async fn follows(&self, before: WalSegment, after: WalSegment, is_contested: bool) -> Result<bool> {
        let before = segment_facts(self.engine, self.archive, before).await?;
        // What was archived before it was complete says nothing of what came after.
        let Some(before) = before.filter(|before| before.segment.stopped.is_none()) else {
            return Ok(true);
        };
        let is_broken = |after: &WalFacts| link(&before.segment, &after.segment) == Link::Broken;
        if !is_contested {
            let after = segment_facts(self.engine, self.archive, after).await?;
            return Ok(!after.as_ref().is_some_and(is_broken));
        }
        for content in self.archive.contents(after.timeline, after.number) {
            let facts = self.archive.facts(self.engine, after, content).await;
            if facts.as_ref().is_some_and(is_broken) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn contradicted(&self, stop: Lsn, why: &str) -> Error {
        let (own, wanted) = (self.history.timeline_at(stop), self.history.timeline());
        Error::refused(format!(
            "what was archived as timeline {own} at {stop} is not the past of timeline {wanted}"
        ))
        .detail(format!("{why}: two servers wrote timeline {own}"))
        .hint(format!(
            "`--timeline {own}` restores what was archived as timeline {own}; `pgkeep wal list` shows both."
        ))
    }
}
