//! The fold: one record after the other becomes the facts of a segment.
//!
//! Invariant: everything counted comes from records that the walk showed, so their checksums matched; what the facts
//! promise is written in [`pgkeep_base::facts`].

use jiff::Timestamp;
use pgkeep_base::facts::{
    BackupEndFact, CheckpointFact, DatabaseDirectory, DatabaseFilesFact, RestorePointFact, SegmentFacts, WalLevel,
};
use pgkeep_base::{TimelineId, WalSegment};

use crate::wal::meaning::{Meaning, meaning};
use crate::wal::page::SegmentHeader;
use crate::wal::record::Record;
use crate::wal::walker::WalkEnd;

/// What is known of a record that goes on into the segment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spanning {
    /// Its beginning was read.
    Known,
    /// It began before the walk.
    Unknown,
}

/// The facts of a segment that is being read.
#[derive(Debug)]
pub(super) struct Gathering {
    name: WalSegment,
    spanning: Spanning,
    facts: SegmentFacts,
}

impl Gathering {
    pub(super) fn new(name: &WalSegment, header: &SegmentHeader, spanning: Spanning) -> Gathering {
        Gathering {
            name: *name,
            spanning,
            facts: nothing_yet(header),
        }
    }

    /// Counts a record that ends in this segment.
    pub(super) fn add(&mut self, record: &Record) {
        if self.facts.first_record.is_none() && record.start >= self.facts.start {
            self.facts.first_record = Some(record.start);
            self.facts.first_record_prev = Some(record.prev);
        }
        self.facts.last_record = Some(record.start);
        self.facts.last_record_end = Some(record.end);
        match meaning(record, self.facts.major) {
            Meaning::Commit { xid, time, .. } => {
                self.facts.commits += 1;
                self.facts.first_commit_time.get_or_insert(time);
                self.facts.last_commit_time = Some(time);
                self.add_transaction(xid, time);
            }
            Meaning::Abort { xid, time, .. } => {
                self.facts.aborts += 1;
                self.add_transaction(xid, time);
            }
            Meaning::RestorePoint { name, time } => {
                self.add_time(time);
                let lsn = record.start;
                self.facts.restore_points.push(RestorePointFact { name, lsn, time });
            }
            Meaning::BackupEnd { start_lsn } => self.facts.backup_ends.push(BackupEndFact {
                start_lsn,
                record: record.start,
                end: record.end,
            }),
            Meaning::Checkpoint { redo, time, .. } => {
                self.add_time(time);
                self.facts.checkpoints += 1;
                let record = record.start;
                self.facts.last_checkpoint = Some(CheckpointFact { record, redo });
            }
            Meaning::EndOfRecovery { time, .. } => self.add_time(time),
            Meaning::ParameterChange { wal_level } => {
                self.facts.wal_level = Some(wal_level);
                if wal_level == WalLevel::Minimal {
                    self.facts.minimal_at.get_or_insert(record.start);
                }
            }
            Meaning::Switch => self.facts.switched = true,
            Meaning::Unreadable => self.facts.unreadable_records += 1,
            Meaning::DatabaseCopied { from, to } => self.add_database_files(record, to, Some(from)),
            Meaning::DatabaseRemoved { directories } => {
                let remove = |directory| self.add_database_files(record, directory, None);
                directories.into_iter().for_each(remove);
            }
            Meaning::OverwriteContrecord { .. }
            | Meaning::CheckpointRedo
            | Meaning::TablespaceCreate { .. }
            | Meaning::Prepare
            | Meaning::Other => {}
        }
    }

    fn add_database_files(&mut self, record: &Record, directory: DatabaseDirectory, from: Option<DatabaseDirectory>) {
        self.facts.database_files.push(DatabaseFilesFact {
            record: record.start,
            directory,
            copied_from: from,
        });
    }

    fn add_transaction(&mut self, xid: Option<u32>, time: Timestamp) {
        self.facts.min_time = Some(self.facts.min_time.map_or(time, |min| min.min(time)));
        self.facts.max_time = self.facts.max_time.max(Some(time));
        self.add_time(time);
        match xid {
            Some(xid) => {
                self.facts.xid_min = Some(self.facts.xid_min.map_or(xid, |min| min.min(xid)));
                self.facts.xid_max = self.facts.xid_max.max(Some(xid));
            }
            None => self.facts.xid_unknown = true,
        }
    }

    fn add_time(&mut self, time: Timestamp) {
        self.facts.last_known_time = self.facts.last_known_time.max(Some(time));
    }

    /// Adds how the segment ended.
    pub(super) fn conclude(mut self, end: &WalkEnd, last_page: Option<TimelineId>) -> SegmentFacts {
        if let Some(timeline) = last_page {
            self.facts.last_page_timeline = timeline;
        }
        self.facts.valid_to = self.name.end();
        let mut spans_on = false;
        match end {
            WalkEnd::Continues {
                start,
                bytes_missing,
                prev,
            } => {
                self.facts.missing_bytes = *bytes_missing;
                if *start >= self.facts.start {
                    self.facts.unfinished_record = Some(*start);
                    if self.facts.first_record.is_none() {
                        self.facts.first_record = Some(*start);
                        self.facts.first_record_prev = *prev;
                    }
                }
            }
            WalkEnd::ContinuesUnknown { bytes_missing } => {
                self.facts.missing_bytes = *bytes_missing;
                spans_on = true;
            }
            WalkEnd::Stopped { at, reason } => {
                self.facts.valid_to = (*at).max(self.facts.start);
                self.facts.stopped = Some(reason.clone());
            }
            WalkEnd::SegmentFull { .. } | WalkEnd::Switched { .. } | WalkEnd::Interrupted { .. } => {}
        }
        self.facts.spanning_unknown =
            self.facts.continued_bytes > 0 && matches!(self.spanning, Spanning::Unknown) && !spans_on;
        self.facts
    }
}

/// Facts about a segment of which only the header was read.
fn nothing_yet(header: &SegmentHeader) -> SegmentFacts {
    SegmentFacts {
        page_magic: header.page_magic,
        segment_bytes: header.segment_size.into(),
        block_bytes: header.block_bytes,
        continued_bytes: header.continued_bytes,
        drops_unfinished: header.drops_unfinished(),
        ..SegmentFacts::nothing_yet(header.system_id, header.major, header.page_timeline, header.start)
    }
}
