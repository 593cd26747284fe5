//! What a repository stores about one segment in plaintext: the fold over the records that end in it.
//!
//! Invariant: facts never claim more than was proven. Everything counted comes from records whose CRC matched; a
//! record whose beginning was not at hand is counted nowhere and shows as `spanning_unknown`.
//!
//! The chain is proven without keys: segment N+1 follows N when its `continued_bytes` equals N's `missing_bytes` (or
//! it `drops_unfinished`), and its `first_record_prev` is N's `unfinished_record`, or else N's `last_record`.

use std::ops::ControlFlow;

use jiff::Timestamp;
use pgkeep_base::{Error, Lsn, PgMajor, Result, SystemId, TimelineId, WalSegment};

use super::meaning::{Meaning, WalLevel, meaning};
use super::page::{SegmentHeader, read_segment_header};
use super::record::Record;
use super::walker::{WalkEnd, Walker};

/// The facts about one segment. A record counts where it ends; times are the server's clock in WAL records.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct SegmentFacts {
    /// The cluster that wrote it.
    pub system_identifier: SystemId,
    /// The major that wrote it, from the page magic.
    pub major: PgMajor,
    /// `XLOG_PAGE_MAGIC`.
    pub page_magic: u16,
    /// `wal_segment_size`.
    pub segment_bytes: u32,
    /// `XLOG_BLCKSZ`.
    pub block_bytes: u32,
    /// Timeline of the first page: an ancestor of the file's in the first segment after a promotion.
    pub page_timeline: TimelineId,
    /// Timeline of the last valid page.
    pub last_page_timeline: TimelineId,
    /// LSN of its first byte.
    pub start: Lsn,
    /// Bytes at its beginning that belong to a record from an earlier segment, page headers not counted.
    pub continued_bytes: u32,
    /// The record that was unfinished before this segment was given up by a crash; another one stands in its place.
    pub drops_unfinished: bool,
    /// The first record that begins here (complete, or the unfinished one).
    pub first_record: Option<Lsn>,
    /// Where the record before it begins, as it says itself; `None` also when its header is split at the segment's end.
    pub first_record_prev: Option<Lsn>,
    /// Start of the last complete record that ends here; it may begin in an earlier segment.
    pub last_record: Option<Lsn>,
    /// The end of that record (`EndRecPtr`: the segment's end if `switched`).
    pub last_record_end: Option<Lsn>,
    /// A record that begins here and ends in a later segment.
    pub unfinished_record: Option<Lsn>,
    /// Bytes of the last record that lie in later segments; also when it begins in an earlier one.
    pub missing_bytes: u32,
    /// The rest of the segment is unused after an `XLOG_SWITCH` record.
    pub switched: bool,
    /// Nothing wrong was found before this LSN: the segment's end unless `stopped`. Bytes of an unfinished record
    /// count, though their checksum is known only where it ends.
    pub valid_to: Lsn,
    /// Why valid WAL ends before the segment does; `None` when it does not.
    pub stopped: Option<String>,
    /// Transactions that committed.
    pub commits: u64,
    /// Transactions and subtransactions that were rolled back, of those that left a record.
    pub aborts: u64,
    /// Time of the first commit in WAL order.
    pub first_commit_time: Option<Timestamp>,
    /// Time of the last commit in WAL order. Times need not rise in WAL order.
    pub last_commit_time: Option<Timestamp>,
    /// The earliest time of a commit or abort.
    pub min_time: Option<Timestamp>,
    /// The latest time of a commit or abort.
    pub max_time: Option<Timestamp>,
    /// The latest time of any record that has one: commit, abort, checkpoint, restore point, end of recovery.
    pub last_known_time: Option<Timestamp>,
    /// The smallest id of a transaction that ended here, as a plain number. Ids wrap around after 2^32, so that a
    /// segment in which that happens seems to hold nearly all of them: fit for excluding segments, not for ordering.
    pub xid_min: Option<u32>,
    /// The largest, as a plain number.
    pub xid_max: Option<u32>,
    /// A transaction ended here whose id lies beyond what was kept of its huge record.
    pub xid_unknown: bool,
    /// Restore points in WAL order.
    pub restore_points: Vec<RestorePointFact>,
    /// Ends of base backups in WAL order.
    pub backup_ends: Vec<BackupEndFact>,
    /// Checkpoints that were completed.
    pub checkpoints: u64,
    /// The last of them.
    pub last_checkpoint: Option<CheckpointFact>,
    /// The last `wal_level` that a server announced here.
    pub wal_level: Option<WalLevel>,
    /// Where a server announced `wal_level = minimal`: PostgreSQL refuses to recover across it.
    pub minimal_at: Option<Lsn>,
    /// A record that ends here began in an earlier segment that was not at hand, so that its meaning (maybe a commit)
    /// and its checksum are unknown.
    pub spanning_unknown: bool,
    /// Records of a kind that matters here whose content could not be read.
    pub unreadable_records: u64,
}

/// A restore point.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct RestorePointFact {
    /// Its name.
    pub name: String,
    /// Start of its record.
    pub lsn: Lsn,
    /// When it was made.
    pub time: Timestamp,
}

/// The end of a base backup.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct BackupEndFact {
    /// The start LSN (redo point) of that backup.
    pub start_lsn: Lsn,
    /// Start of the record.
    pub record: Lsn,
    /// End of the record.
    pub end: Lsn,
}

/// A checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct CheckpointFact {
    /// Start of the record.
    pub record: Lsn,
    /// Where replay from it begins.
    pub redo: Lsn,
}

/// Reads one segment; `previous` is the whole segment before it if that is at hand.
///
/// With `previous`, a record that spans the border is put together (one segment back; use [`FactsWalk`] for more).
/// A `previous` that does not lead here (another size, another cluster, the end of valid WAL inside it) is ignored.
/// Works for `.partial` files and for segments with an unused or recycled tail: these end with `stopped`.
///
/// # Errors
/// `Corrupt` when this is not the segment that `name` says; `Unsupported` when it is from a major before 14.
pub fn segment_facts(segment: &[u8], name: &WalSegment, previous: Option<&[u8]>) -> Result<SegmentFacts> {
    let header = header_named(segment, name)?;
    let mut walk = match previous.and_then(|bytes| walk_up_to(bytes, name)) {
        Some(walk) if walk.leads_to(&header) => walk,
        _ => FactsWalk::new(),
    };
    walk.feed(segment, name)
}

/// Walks the segment before `name`; `None` if valid WAL ends in it.
fn walk_up_to(previous: &[u8], name: &WalSegment) -> Option<FactsWalk> {
    let before = WalSegment {
        number: name.number.checked_sub(1)?,
        ..*name
    };
    let mut walker = Walker::new(None);
    let end = walker
        .feed(previous, &before, &mut |_| ControlFlow::Continue(()))
        .ok()?;
    match end {
        WalkEnd::Stopped { .. } | WalkEnd::Interrupted { .. } => None,
        _ => Some(FactsWalk { walker, fold: None }),
    }
}

fn header_named(segment: &[u8], name: &WalSegment) -> Result<SegmentHeader> {
    let header = read_segment_header(segment).map_err(|error| error.during(format!("read WAL segment {name}")))?;
    let wrong = |why: String| Err(Error::corrupt(format!("WAL segment {name} is not what its name says")).detail(why));
    if header.segment_size != name.size {
        return wrong(format!(
            "its segment size is {}, expected {}",
            header.segment_size.bytes(),
            name.size.bytes()
        ));
    }
    if header.start != name.start() {
        return wrong(format!("it begins at {}, expected {}", header.start, name.start()));
    }
    if header.page_timeline > name.timeline {
        return wrong(format!("its first page is of timeline {}", header.page_timeline));
    }
    Ok(header)
}

/// Gathers the facts of consecutive segments, so that a record is understood however many of them it spans.
///
/// Each segment is given whole to [`FactsWalk::feed`], or in parts to `begin`, `part` and `finish`.
#[derive(Debug)]
pub struct FactsWalk {
    walker: Walker,
    fold: Option<Fold>,
}

impl Default for FactsWalk {
    fn default() -> FactsWalk {
        FactsWalk::new()
    }
}

impl FactsWalk {
    /// A walk that has seen nothing yet.
    pub fn new() -> FactsWalk {
        FactsWalk {
            walker: Walker::new(None),
            fold: None,
        }
    }

    /// The facts of the next segment, given whole.
    ///
    /// # Errors
    /// As [`segment_facts`]; `Invalid` when segments are not given in order, or after one that `stopped`.
    pub fn feed(&mut self, segment: &[u8], name: &WalSegment) -> Result<SegmentFacts> {
        self.begin(name)?;
        self.part(segment)?;
        self.finish()
    }

    /// Announces the next segment.
    ///
    /// # Errors
    /// As [`FactsWalk::feed`].
    pub fn begin(&mut self, name: &WalSegment) -> Result<()> {
        let spanning = if self.walker.header().is_some() {
            Spanning::from(&self.walker)
        } else {
            Spanning::Unknown
        };
        self.walker.begin(name)?;
        self.fold = Some(Fold {
            name: *name,
            spanning,
            facts: None,
            end: None,
        });
        Ok(())
    }

    /// Reads the next bytes of the segment: a multiple of 64 KiB, except at its end.
    ///
    /// # Errors
    /// As [`FactsWalk::feed`].
    pub fn part(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(fold) = &mut self.fold else {
            return Err(Error::invalid("no WAL segment was announced"));
        };
        if fold.end.is_some() {
            return Ok(());
        }
        if fold.facts.is_none() {
            fold.facts = Some(SegmentFacts::new(&header_named(bytes, &fold.name)?));
        }
        let facts = fold.facts.as_mut().expect("just set");
        fold.end = self.walker.part(bytes, &mut |record| {
            facts.add(record);
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    /// The facts of the segment whose bytes were given.
    ///
    /// # Errors
    /// As [`FactsWalk::feed`]; `Corrupt` when no bytes were given.
    pub fn finish(&mut self) -> Result<SegmentFacts> {
        let Some(fold) = self.fold.take() else {
            return Err(Error::invalid("no WAL segment was announced"));
        };
        let Some(mut facts) = fold.facts else {
            return Err(Error::corrupt(format!("WAL segment {} is empty", fold.name)));
        };
        let end = match fold.end {
            Some(end) => end,
            None => self.walker.finish()?,
        };
        if let Some(timeline) = self.walker.page_timeline() {
            facts.last_page_timeline = timeline;
        }
        facts.conclude(&end, &fold.name, fold.spanning);
        Ok(facts)
    }

    /// True if `header` can be that of the segment after those that were read.
    fn leads_to(&self, header: &SegmentHeader) -> bool {
        let same_cluster = self.walker.header().is_some_and(|before| {
            before.system_id == header.system_id
                && before.page_magic == header.page_magic
                && before.block_bytes == header.block_bytes
        });
        let missing = self.walker.bytes_missing();
        let continued = header.continued_bytes == missing || (header.drops_unfinished() && header.continued_bytes == 0);
        let timeline = self.walker.page_timeline() <= Some(header.page_timeline);
        same_cluster && continued && timeline
    }
}

/// What is known of a record that goes on into the segment.
#[derive(Clone, Copy, Debug)]
enum Spanning {
    Known,
    Unknown,
}

impl From<&Walker> for Spanning {
    fn from(walker: &Walker) -> Spanning {
        if walker.is_skipping() {
            Spanning::Unknown
        } else {
            Spanning::Known
        }
    }
}

/// The segment at hand.
#[derive(Debug)]
struct Fold {
    name: WalSegment,
    spanning: Spanning,
    facts: Option<SegmentFacts>,
    end: Option<WalkEnd>,
}

impl SegmentFacts {
    fn new(header: &SegmentHeader) -> SegmentFacts {
        SegmentFacts {
            system_identifier: header.system_id,
            major: header.major,
            page_magic: header.page_magic,
            segment_bytes: header.segment_size.into(),
            block_bytes: header.block_bytes,
            page_timeline: header.page_timeline,
            last_page_timeline: header.page_timeline,
            start: header.start,
            continued_bytes: header.continued_bytes,
            drops_unfinished: header.drops_unfinished(),
            first_record: None,
            first_record_prev: None,
            last_record: None,
            last_record_end: None,
            unfinished_record: None,
            missing_bytes: 0,
            switched: false,
            valid_to: header.start,
            stopped: None,
            commits: 0,
            aborts: 0,
            first_commit_time: None,
            last_commit_time: None,
            min_time: None,
            max_time: None,
            last_known_time: None,
            xid_min: None,
            xid_max: None,
            xid_unknown: false,
            restore_points: Vec::new(),
            backup_ends: Vec::new(),
            checkpoints: 0,
            last_checkpoint: None,
            wal_level: None,
            minimal_at: None,
            spanning_unknown: false,
            unreadable_records: 0,
        }
    }

    /// Counts a record that ends in this segment.
    fn add(&mut self, record: &Record) {
        if self.first_record.is_none() && record.start >= self.start {
            self.first_record = Some(record.start);
            self.first_record_prev = Some(record.prev);
        }
        self.last_record = Some(record.start);
        self.last_record_end = Some(record.end);
        match meaning(record, self.major) {
            Meaning::Commit { xid, time, .. } => {
                self.commits += 1;
                self.first_commit_time.get_or_insert(time);
                self.last_commit_time = Some(time);
                self.add_transaction(xid, time);
            }
            Meaning::Abort { xid, time, .. } => {
                self.aborts += 1;
                self.add_transaction(xid, time);
            }
            Meaning::RestorePoint { name, time } => {
                self.add_time(time);
                let lsn = record.start;
                self.restore_points.push(RestorePointFact { name, lsn, time });
            }
            Meaning::BackupEnd { start_lsn } => self.backup_ends.push(BackupEndFact {
                start_lsn,
                record: record.start,
                end: record.end,
            }),
            Meaning::Checkpoint { redo, time, .. } => {
                self.add_time(time);
                self.checkpoints += 1;
                let record = record.start;
                self.last_checkpoint = Some(CheckpointFact { record, redo });
            }
            Meaning::EndOfRecovery { time, .. } => self.add_time(time),
            Meaning::ParameterChange { wal_level } => {
                self.wal_level = Some(wal_level);
                if wal_level == WalLevel::Minimal {
                    self.minimal_at.get_or_insert(record.start);
                }
            }
            Meaning::Switch => self.switched = true,
            Meaning::Unreadable => self.unreadable_records += 1,
            Meaning::OverwriteContrecord { .. } | Meaning::CheckpointRedo | Meaning::Prepare | Meaning::Other => {}
        }
    }

    fn add_transaction(&mut self, xid: Option<u32>, time: Timestamp) {
        self.min_time = Some(self.min_time.map_or(time, |min| min.min(time)));
        self.max_time = self.max_time.max(Some(time));
        self.add_time(time);
        match xid {
            Some(xid) => {
                self.xid_min = Some(self.xid_min.map_or(xid, |min| min.min(xid)));
                self.xid_max = self.xid_max.max(Some(xid));
            }
            None => self.xid_unknown = true,
        }
    }

    fn add_time(&mut self, time: Timestamp) {
        self.last_known_time = self.last_known_time.max(Some(time));
    }

    /// Adds how the segment ended.
    fn conclude(&mut self, end: &WalkEnd, name: &WalSegment, spanning: Spanning) {
        self.valid_to = name.end();
        let mut spans_on = false;
        match end {
            WalkEnd::Continues {
                start,
                bytes_missing,
                prev,
            } => {
                self.missing_bytes = *bytes_missing;
                if *start >= self.start {
                    self.unfinished_record = Some(*start);
                    if self.first_record.is_none() {
                        self.first_record = Some(*start);
                        self.first_record_prev = *prev;
                    }
                }
            }
            WalkEnd::ContinuesUnknown { bytes_missing } => {
                self.missing_bytes = *bytes_missing;
                spans_on = true;
            }
            WalkEnd::Stopped { at, reason } => {
                self.valid_to = (*at).max(self.start);
                self.stopped = Some(reason.clone());
            }
            WalkEnd::SegmentFull { .. } | WalkEnd::Switched { .. } | WalkEnd::Interrupted { .. } => {}
        }
        self.spanning_unknown = self.continued_bytes > 0 && matches!(spanning, Spanning::Unknown) && !spans_on;
    }
}
