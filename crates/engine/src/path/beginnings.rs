//! Whether records are of the way to a timeline, or of another server that was promoted to the same number.
//!
//! PostgreSQL 14 to 18 begin a timeline where its history says, with `END_OF_RECOVERY` or, where nobody promoted, with a
//! shutdown checkpoint; either names the timeline that was replayed before (`StartupXLOG` in `xlog.c`). Every checkpoint
//! names its own. Replay of anything else ends in PANIC, or in another history.

use pgkeep_base::{Lsn, TimelineId};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::wal::{Meaning, Record};

/// Follows a way from record to record.
#[derive(Debug)]
pub struct Beginnings<'a> {
    history: &'a TimelineHistory,
    on: Option<Stretch>,
}

/// Where the way was when the last record was seen.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    timeline: TimelineId,
    /// First record of it that was seen.
    from: Lsn,
    /// Where the way leaves it.
    until: Lsn,
}

impl<'a> Beginnings<'a> {
    /// Along a history, from any record of it on.
    pub fn new(history: &'a TimelineHistory) -> Beginnings<'a> {
        Beginnings { history, on: None }
    }

    /// Takes the next record, of a segment with pages of so many bytes. `Err` says what is not as the history has it.
    pub fn take(&mut self, record: &Record<'_>, meaning: &Meaning, block: u32) -> Result<(), String> {
        let here = match self.on {
            Some(on) if record.start < on.until => on,
            before => self.enter(before, record, meaning)?,
        };
        self.on = Some(here);
        if record.end > here.until {
            return Err(format!(
                "timeline {} should be left at {}, and a record goes over that",
                here.timeline, here.until
            ));
        }
        if !self.is_on_page(here, record, block) {
            return Err(format!(
                "timeline {} should be at {}, and the page is of timeline {}",
                here.timeline, record.start, record.timeline
            ));
        }
        match made_on(meaning).filter(|(timeline, _)| *timeline != here.timeline) {
            Some((timeline, _)) => Err(format!(
                "timeline {} should be at {}, and a record of timeline {timeline} is there",
                here.timeline, record.start
            )),
            None => Ok(()),
        }
    }

    /// The first record of a walk, or behind a switch.
    fn enter(&self, before: Option<Stretch>, record: &Record<'_>, meaning: &Meaning) -> Result<Stretch, String> {
        let timeline = self.history.timeline_at(record.start);
        let begins = |before: Stretch| made_on(meaning) == Some((timeline, before.timeline));
        if before.is_some_and(|before| !begins(before)) {
            return Err(format!(
                "timeline {timeline} should begin at {}, and another record is there",
                record.start
            ));
        }
        Ok(Stretch {
            timeline,
            from: record.start,
            until: self.history.switch_point(timeline).unwrap_or(Lsn(u64::MAX)),
        })
    }

    /// Whether a record lies on pages of the timeline that the way has there. The page on which a timeline begins keeps its
    /// header; that of `XLOG_SWITCH` is the one on which it begins, whatever its end.
    fn is_on_page(&self, here: Stretch, record: &Record<'_>, block: u32) -> bool {
        let page = |at: u64| Lsn(at - at % u64::from(block));
        let last = page(record.end.0 - 1);
        if record.timeline == here.timeline && last >= here.from {
            return true;
        }
        let of_page = |page: Lsn| record.timeline == self.history.timeline_at(page);
        of_page(page(record.start.0)) || of_page(last)
    }
}

/// The timeline that a record says to be made on, and the one before.
fn made_on(meaning: &Meaning) -> Option<(TimelineId, TimelineId)> {
    match meaning {
        Meaning::EndOfRecovery {
            timeline,
            prev_timeline,
            ..
        }
        | Meaning::Checkpoint {
            timeline,
            prev_timeline,
            ..
        } => Some((*timeline, *prev_timeline)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
