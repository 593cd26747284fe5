//! Whether records are of the way to a timeline, or of another server that was promoted to the same number.
//!
//! PostgreSQL begins a timeline where its history says with `END_OF_RECOVERY`, or with the checkpoint of a recovery that
//! nobody promoted (`StartupXLOG` in `xlog.c`). By that source a change of `full_page_writes` and the mark over an
//! unfinished record may come before; the servers that were tried, 14 to 18, wrote neither. What bears the number and
//! begins elsewhere has another history.

use pgkeep_base::{PgMajor, TimelineId};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::wal::{Meaning, Record, meaning};

/// Follows a way from record to record.
#[derive(Debug)]
pub struct Beginnings<'a> {
    history: &'a TimelineHistory,
    major: PgMajor,
    /// The timeline of the last record, once that has begun.
    on: Option<TimelineId>,
}

impl<'a> Beginnings<'a> {
    /// Along a history, from any record of it on.
    pub fn new(history: &'a TimelineHistory, major: PgMajor) -> Beginnings<'a> {
        let on = None;
        Beginnings { history, major, on }
    }

    /// Takes the next record, of a segment with pages of so many bytes. `Err` says how it is another server's.
    pub fn take(&mut self, record: &Record<'_>, block: u32) -> Result<(), String> {
        if !self.is_on_page(record, block) {
            return Err(format!("it goes on with timeline {}", record.timeline));
        }
        let here = self.history.timeline_at(record.start);
        match self.on {
            Some(on) if on != here => match begins(&meaning(record, self.major)) {
                Begins::Timeline(begun) if begun == here => {}
                Begins::Later => return Ok(()),
                _ => return Err(format!("timeline {here} does not begin at {}", record.start)),
            },
            _ => {}
        }
        self.on = Some(here);
        Ok(())
    }

    /// Whether a record lies on a page of the timeline that the way has there. The page on which a timeline begins keeps
    /// its header.
    fn is_on_page(&self, record: &Record<'_>, block: u32) -> bool {
        let of_page = |at: u64| self.history.timeline_at(pgkeep_base::Lsn(at - at % u64::from(block)));
        record.timeline == of_page(record.start.0) || record.timeline == of_page(record.end.0 - 1)
    }
}

/// What a record says of the beginning of a timeline.
enum Begins {
    Timeline(TimelineId),
    /// It may come before.
    Later,
    Nothing,
}

fn begins(meaning: &Meaning) -> Begins {
    match meaning {
        Meaning::EndOfRecovery { timeline, .. } => Begins::Timeline(*timeline),
        Meaning::Checkpoint {
            timeline,
            shutdown: true,
            ..
        } => Begins::Timeline(*timeline),
        Meaning::FullPageWrites | Meaning::OverwriteContrecord { .. } => Begins::Later,
        _ => Begins::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use pgkeep_base::Lsn;
    use pgkeep_pg::wal::Walker;
    use pgkeep_testkit::wal::Writer;

    use super::*;

    /// A record by resource manager, info and main data.
    type Plan = (u8, u8, Vec<u8>);

    fn end_of_recovery(timeline: u32) -> Plan {
        let mut main = 7i64.to_le_bytes().to_vec();
        main.extend(timeline.to_le_bytes());
        main.extend(1u32.to_le_bytes());
        (0, 0x90, main)
    }

    fn shutdown_checkpoint(timeline: u32) -> Plan {
        let mut main = vec![0; 88];
        main[8..12].copy_from_slice(&timeline.to_le_bytes());
        main[12..16].copy_from_slice(&1u32.to_le_bytes());
        (0, 0x00, main)
    }

    fn full_page_writes() -> Plan {
        (0, 0x80, vec![1])
    }

    fn commit() -> Plan {
        (1, 0x00, 7i64.to_le_bytes().to_vec())
    }

    /// What is said of two records of timeline 1 and these, where a history says that timeline 2 begins behind so many.
    fn told(leave_after: usize, records: &[Plan]) -> Result<(), String> {
        let mut writer = Writer::new(8192);
        for (rmgr, info, main) in [commit(), commit()].iter().chain(records) {
            writer.record(*rmgr, *info, 700, main);
        }
        let fork = writer.written[leave_after - 1].end;
        let root = TimelineHistory::root(TimelineId::FIRST);
        let history = root.child(TimelineId::new(2).unwrap(), fork, "").unwrap();
        let mut beginnings = Beginnings::new(&history, PgMajor::NEWEST);
        let mut told = Ok(());
        let mut walker = Walker::new(Some(Lsn(writer.written[0].start.0)));
        let segment = writer.name(0);
        walker
            .feed(&writer.segments()[0], &segment, &mut |record| {
                told = told.clone().and_then(|()| beginnings.take(record, 8192));
                ControlFlow::Continue(())
            })
            .unwrap();
        told
    }

    #[test]
    fn a_timeline_begins_where_its_history_says() {
        for first in [end_of_recovery(2), shutdown_checkpoint(2)] {
            assert_eq!(told(2, &[first.clone(), commit()]), Ok(()));
            assert_eq!(told(2, &[full_page_writes(), first.clone(), commit()]), Ok(()));
            assert!(told(1, std::slice::from_ref(&first)).is_err(), "a commit comes before");
            assert!(told(2, &[commit(), first]).is_err(), "a commit comes before");
        }
        assert!(told(2, &[end_of_recovery(3)]).is_err(), "another one begins there");
        assert!(told(2, &[full_page_writes(), commit()]).is_err(), "none begins");
    }
}
