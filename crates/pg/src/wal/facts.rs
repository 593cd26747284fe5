//! What a repository stores about one segment in plaintext: the fold over the records that end in it.
//!
//! Invariant: facts never claim more than was proven. Everything counted comes from records whose CRC matched; a
//! record whose beginning was not at hand is counted nowhere and shows as `spanning_unknown`.
//!
//! The chain is proven without keys: segment N+1 follows N when its `continued_bytes` equals N's `missing_bytes` (or
//! it `drops_unfinished`), and its `first_record_prev` is N's `unfinished_record`, or else N's `last_record`.

use std::ops::ControlFlow;

use jiff::Timestamp;
use pgkeep_base::facts::WalLevel;
pub use pgkeep_base::facts::{BackupEndFact, CheckpointFact, RestorePointFact, SegmentFacts};
use pgkeep_base::{Error, Result, WalSegment};

use super::meaning::{Meaning, meaning};
use super::page::{SegmentHeader, read_segment_header};
use super::record::Record;
use super::walker::{WalkEnd, Walker};

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

/// How the facts come about; what they are is in [`pgkeep_base::facts`].
trait Gather {
    fn new(header: &SegmentHeader) -> Self;
    fn add(&mut self, record: &Record);
    fn add_transaction(&mut self, xid: Option<u32>, time: Timestamp);
    fn add_time(&mut self, time: Timestamp);
    fn conclude(&mut self, end: &WalkEnd, name: &WalSegment, spanning: Spanning);
}

impl Gather for SegmentFacts {
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
