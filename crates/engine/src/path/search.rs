//! Finds the record at which a recovery target makes PostgreSQL stop, and what replay up to there does to files.
//!
//! Every target becomes "inclusive, *start* LSN of the last record to replay" (`recoveryStopsBefore` and
//! `recoveryStopsAfter` in `xlogrecovery.c`). The search sees each record once, in WAL order, from the backup's start.

use std::ops::ControlFlow;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use pgkeep_base::{Error, Lsn, RecoveryTarget, Result, TimelineId};
use pgkeep_pg::wal::{Meaning, Record, WalLevel};

use super::copies::{DatabaseCopies, LostCopy};

/// A record, and what was known of the time when it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// Start of the record.
    pub record: Lsn,
    /// First byte after it.
    pub end: Lsn,
    /// Timeline of the page that it ends on.
    pub timeline: TimelineId,
    /// Latest time in any record up to and with this one.
    pub time: Option<Timestamp>,
}

/// A tablespace that recovery makes, at the recorded location whatever a restore maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MadeTablespace {
    /// Its OID.
    pub oid: u32,
    /// Where it is made.
    pub location: PathBuf,
    /// Start of the record that makes it.
    pub record: Lsn,
}

/// Looks for the stop of one target.
#[derive(Clone, Debug)]
pub struct Search {
    target: RecoveryTarget,
    exclusive: bool,
    /// Its redo point, and the end of its backup-end record.
    backup: (Lsn, Lsn),
    consistent: Option<Position>,
    last: Option<Position>,
    last_finished: Option<Timestamp>,
    last_known_time: Option<Timestamp>,
    /// The latest time of a commit or abort, and the first record that bears it.
    latest_finished: Option<(Timestamp, Lsn)>,
    tablespaces: Vec<MadeTablespace>,
    stop: Option<Stop>,
    early: bool,
    minimal_at: Option<Lsn>,
    copies: DatabaseCopies,
}

/// Where a search ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Replay ends with this record.
    At(Position),
    /// The target lies before the backup is consistent.
    BeforeConsistency,
}

impl Search {
    /// A search in the WAL of a backup, from its redo point to the end of its backup-end record. Two servers that went on
    /// from one state may both have begun a backup at the same position: only the end tells whose WAL this is.
    ///
    /// # Errors
    /// `Invalid` for an exclusive target that has no exclusive form.
    pub fn new(target: RecoveryTarget, exclusive: bool, backup: (Lsn, Lsn)) -> Result<Search> {
        let has_exclusive = matches!(
            target,
            RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_) | RecoveryTarget::Xid(_)
        );
        if exclusive && !has_exclusive {
            return Err(Error::invalid("--exclusive goes with --at, --lsn and --xid only")
                .detail("PostgreSQL knows `recovery_target_inclusive = off` for these three targets"));
        }
        Ok(Search {
            target,
            exclusive,
            backup,
            consistent: None,
            last: None,
            last_finished: None,
            last_known_time: None,
            latest_finished: None,
            tablespaces: Vec::new(),
            stop: None,
            early: false,
            minimal_at: None,
            copies: DatabaseCopies::default(),
        })
    }

    /// Takes the next record; breaks once the stop is known.
    pub fn visit(&mut self, record: &Record<'_>, meaning: &Meaning) -> ControlFlow<()> {
        // PostgreSQL refuses to recover across WAL that says too little.
        if matches!(
            meaning,
            Meaning::ParameterChange {
                wal_level: WalLevel::Minimal
            }
        ) {
            self.minimal_at = Some(record.start);
            return ControlFlow::Break(());
        }
        if self.stops_before(record, meaning) {
            let stop = match (self.consistent, self.last) {
                (Some(_), Some(last)) => Stop::At(last),
                _ => Stop::BeforeConsistency,
            };
            self.stop = Some(stop);
            return ControlFlow::Break(());
        }
        self.take_note(record, meaning);
        if self.stops_after(record, meaning) {
            let here = self.last.expect("this record was just noted");
            match (self.consistent, &self.target) {
                (Some(_), _) => self.stop = Some(Stop::At(here)),
                // A later restore point of that name may be meant: ours is a target by LSN, so this one does not stop it.
                (None, RecoveryTarget::Name(_)) => {
                    self.early = true;
                    return ControlFlow::Continue(());
                }
                (None, _) => self.stop = Some(Stop::BeforeConsistency),
            }
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn take_note(&mut self, record: &Record<'_>, meaning: &Meaning) {
        let time = match meaning {
            Meaning::Commit { time, .. } | Meaning::Abort { time, .. } => {
                self.last_finished = Some(*time);
                if self.latest_finished.is_none_or(|(latest, _)| *time > latest) {
                    self.latest_finished = Some((*time, record.start));
                }
                Some(*time)
            }
            Meaning::TablespaceCreate { oid, location } if !location.as_os_str().is_empty() => {
                self.tablespaces.push(MadeTablespace {
                    oid: *oid,
                    location: location.clone(),
                    record: record.start,
                });
                None
            }
            Meaning::RestorePoint { time, .. }
            | Meaning::Checkpoint { time, .. }
            | Meaning::EndOfRecovery { time, .. } => Some(*time),
            _ => None,
        };
        self.last_known_time = self.last_known_time.max(time);
        let here = Position {
            record: record.start,
            end: record.end,
            timeline: record.timeline,
            time: self.last_known_time,
        };
        self.last = Some(here);
        if matches!(meaning, Meaning::BackupEnd { start_lsn } if (*start_lsn, record.end) == self.backup) {
            self.consistent = Some(here);
        }
        self.note_databases(record, meaning);
    }

    /// Until the backup is consistent; from then on the files are what replay itself has made of them.
    fn note_databases(&mut self, record: &Record<'_>, meaning: &Meaning) {
        match meaning {
            _ if self.consistent.is_some() => {}
            Meaning::DatabaseCopied { from, to } => self.copies.copied(record.start, *from, *to),
            Meaning::DatabaseRemoved { directories } => {
                directories.iter().for_each(|directory| self.copies.removed(*directory));
            }
            _ => {}
        }
    }

    /// PostgreSQL's `recoveryStopsBefore`.
    fn stops_before(&self, record: &Record<'_>, meaning: &Meaning) -> bool {
        match (&self.target, meaning) {
            (RecoveryTarget::Time(target), Meaning::Commit { time, .. } | Meaning::Abort { time, .. }) => {
                if self.exclusive { time >= target } else { time > target }
            }
            (RecoveryTarget::Lsn(target), _) => self.exclusive && record.start >= *target,
            (RecoveryTarget::Xid(target), Meaning::Commit { xid, .. } | Meaning::Abort { xid, .. }) => {
                self.exclusive && *xid == Some(*target)
            }
            _ => false,
        }
    }

    /// PostgreSQL's `recoveryStopsAfter`.
    fn stops_after(&self, record: &Record<'_>, meaning: &Meaning) -> bool {
        match (&self.target, meaning) {
            (RecoveryTarget::Immediate, _) => self.consistent.is_some(),
            (RecoveryTarget::Lsn(target), _) => !self.exclusive && record.start >= *target,
            (RecoveryTarget::Xid(target), Meaning::Commit { xid, .. } | Meaning::Abort { xid, .. }) => {
                !self.exclusive && *xid == Some(*target)
            }
            (RecoveryTarget::Name(target), Meaning::RestorePoint { name, .. }) => name == target,
            _ => false,
        }
    }

    /// The stop, once the search broke off.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// The restore point was seen, but only before the backup is consistent.
    pub fn seen_too_early(&self) -> bool {
        self.early && self.stop.is_none()
    }

    /// The stop when the WAL has ended without a break: "latest", and a time after the last commit but not after the
    /// last time that any record bears.
    pub fn stop_at_end(&self) -> Option<Stop> {
        let reached = match &self.target {
            RecoveryTarget::EndOfWal => true,
            RecoveryTarget::Time(target) => self.last_known_time.is_some_and(|known| *target <= known),
            _ => false,
        };
        let stop = match (self.consistent, self.last) {
            (Some(_), Some(last)) => Stop::At(last),
            _ => return None,
        };
        reached.then_some(stop)
    }

    /// The latest time that can be asked for while nobody knows what comes after the records seen: just before the
    /// latest commit or abort, where recovery to that time stops for certain. A later one may hold more commits.
    pub fn latest_certain_time(&self) -> Option<Timestamp> {
        let (latest, record) = self.latest_finished?;
        let consistent = self.consistent?;
        let before = latest.checked_sub(SignedDuration::from_micros(1)).ok()?;
        (record >= consistent.end).then_some(before)
    }

    /// Tablespaces that recovery makes on the way.
    pub fn tablespaces(&self) -> &[MadeTablespace] {
        &self.tablespaces
    }

    /// Where the server began to run with `wal_level = minimal`: recovery can't go past that.
    pub fn minimal_at(&self) -> Option<Lsn> {
        self.minimal_at
    }

    /// A database that this backup can't give back, because replay would copy it from files that are gone.
    pub fn lost_copy(&self) -> Option<LostCopy> {
        self.copies.lost()
    }

    /// The record that makes the backup consistent, once it was seen.
    pub fn consistent(&self) -> Option<Position> {
        self.consistent
    }

    /// The last record that was seen and is to be replayed.
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    /// Time of the last commit or abort that is to be replayed.
    pub fn last_finished(&self) -> Option<Timestamp> {
        self.last_finished
    }
}

#[cfg(test)]
mod tests {
    use pgkeep_base::PgMajor;
    use pgkeep_pg::wal::meaning;

    use super::*;

    /// Aim: a backup-end record makes a backup consistent only if it is that backup's: another server that went on from the
    /// same state may have begun one at the same position.
    #[test]
    fn another_servers_backup_end_makes_nothing_consistent() {
        let (start, stop) = (Lsn(0xA0_0028), Lsn(0xA0_0070));
        let mut kept = vec![34, 0, 0, 0];
        kept.resize(24, 0);
        kept.extend([255, 8]);
        kept.extend(start.0.to_le_bytes());
        let consistent = |end: Lsn| {
            let target = RecoveryTarget::Immediate;
            let mut search = Search::new(target, false, (start, stop)).unwrap();
            let record = Record {
                start: Lsn(end.0 - 0x28),
                end,
                prev: start,
                xid: 0,
                rmgr: 0,
                info: 0x50,
                total_bytes: kept.len() as u32,
                kept: &kept,
                timeline: TimelineId::FIRST,
            };
            let flow = search.visit(&record, &meaning(&record, PgMajor::NEWEST));
            assert_eq!(flow.is_break(), search.consistent().is_some());
            search.consistent().is_some()
        };
        assert!(consistent(stop));
        assert!(!consistent(Lsn(0xA0_09E0)));
    }
}
