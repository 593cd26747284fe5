//! Follows the chain of records over consecutive segments, page by page.
//!
//! Invariant: every record shown had a good CRC-32C, a link to the record before it that holds (except the first one
//! of the walk, whose link can only be earlier than itself), and page headers that belong to this cluster, this place
//! and a timeline that never goes back. Rules as in PostgreSQL's `xlogreader.c`; where they differ is said in words.
//!
//! Memory: the bytes given, and [`WAL_RECORD_BYTES_KEPT`] for a record that spans pages.

mod step;

use std::ops::ControlFlow;

use pgkeep_base::limits::WAL_RECORD_BYTES_KEPT;
use pgkeep_base::{Error, Lsn, PgMajor, Result, TimelineId, WalSegment};

use self::step::Page;
use super::bytes::{max_align, u32_at};
use super::page::{LongHeader, PageHeader, SegmentHeader, describe_magic, read_segment_header};
use super::record::{CHECKED_HEADER_BYTES, HEADER_BYTES, RECORD_BYTES_MAX, Record, RecordHeader};

/// Receives each record in order; `Break` ends the walk after it.
type Visit<'v> = dyn FnMut(&Record) -> ControlFlow<()> + 'v;

/// Where the valid records of one segment end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WalkEnd {
    /// The last record ends exactly where the segment does.
    SegmentFull {
        /// The segment's end; the next record begins after the page header there.
        next: Lsn,
    },
    /// The last record goes on in the next segment.
    Continues {
        /// Where it begins; may be in an earlier segment.
        start: Lsn,
        /// Its bytes beyond this segment: what the next one's header calls `continued_bytes`.
        bytes_missing: u32,
        /// Its link to the record before it; `None` when its header itself is split at the segment's end.
        prev: Option<Lsn>,
    },
    /// As `Continues`, for a record that began before the walk did, so that nothing is known of it.
    ContinuesUnknown {
        /// Its bytes beyond this segment.
        bytes_missing: u32,
    },
    /// The rest of the segment is unused after an `XLOG_SWITCH` record.
    Switched {
        /// Where that record begins.
        record: Lsn,
    },
    /// The end of valid WAL: whatever is here is no record. The walk is over.
    Stopped {
        /// Where the first thing that is not valid begins: the end of the last valid record, or the start of an
        /// unfinished one (in an earlier segment, maybe), or a page whose header is wrong.
        at: Lsn,
        /// Why, in words.
        reason: String,
    },
    /// The visitor said `Break`. The walk is over.
    Interrupted {
        /// The end of the last record that it saw.
        next: Lsn,
    },
}

/// A walk over consecutive segments. Each is given whole to [`Walker::feed`], or in parts to [`Walker::begin`],
/// [`Walker::part`] and [`Walker::finish`].
#[derive(Debug)]
pub struct Walker {
    start_at: Option<Lsn>,
    identity: Option<SegmentHeader>,
    segment: Option<WalSegment>,
    /// The next byte that is expected.
    at: Lsn,
    state: State,
    /// Where the last record shown begins.
    last: Option<Lsn>,
    /// The timeline of the last page.
    timeline: Option<TimelineId>,
    /// The first bytes of the record being put together; reused.
    kept: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// Nothing was read yet.
    Seeking,
    /// A record may begin here.
    Between,
    /// Inside a record.
    Assembling(Assembly),
    /// Inside a record that began before the walk.
    Skipping { remaining: u32 },
    /// After `XLOG_SWITCH`, up to the segment's end.
    Switched { record: Lsn },
    /// Stopped or interrupted.
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Assembly {
    start: Lsn,
    total: u32,
    got: u32,
    header: Option<RecordHeader>,
    crc: u32,
}

/// Why a page was left early.
enum Halt {
    Stopped { at: Lsn, reason: String },
    Interrupted { next: Lsn },
}

fn stop<T>(at: Lsn, reason: impl Into<String>) -> Result<T, Halt> {
    Err(Halt::Stopped {
        at,
        reason: reason.into(),
    })
}

impl Walker {
    /// A walk from the record that begins at `start_at` (which must lie in the first segment given; the start of a
    /// page stands for the record right after its header), or from the first record that begins in the first segment.
    pub fn new(start_at: Option<Lsn>) -> Walker {
        Walker {
            start_at,
            identity: None,
            segment: None,
            at: Lsn::INVALID,
            state: State::Seeking,
            last: None,
            timeline: None,
            kept: Vec::new(),
        }
    }

    /// Reads a whole segment: `begin`, `part` and `finish` in one.
    ///
    /// A segment that is shorter than its size is read as far as it goes, and then `Stopped`.
    ///
    /// # Errors
    /// `Invalid` when segments are not given in order or the walk is over; `Corrupt` when there are more bytes than a
    /// segment has. Bad content is no error: it is where valid WAL ends.
    pub fn feed(
        &mut self,
        segment: &[u8],
        expected_name: &WalSegment,
        visit: &mut dyn FnMut(&Record) -> ControlFlow<()>,
    ) -> Result<WalkEnd> {
        self.begin(expected_name)?;
        match self.part(segment, visit)? {
            Some(end) => Ok(end),
            None => self.finish(),
        }
    }

    /// Announces the next segment.
    ///
    /// # Errors
    /// As [`Walker::feed`].
    pub fn begin(&mut self, expected_name: &WalSegment) -> Result<()> {
        let misuse = |why: &str| Err(Error::invalid(format!("can't read WAL segment {expected_name} now")).detail(why));
        if matches!(self.state, State::Ended) {
            return misuse("the walk is over");
        }
        match (self.segment, self.start_at) {
            (Some(last), _) if last.next().start() != expected_name.start() || last.size != expected_name.size => {
                return misuse(&format!("the segment before was {last}"));
            }
            (Some(last), _) if self.at != last.end() && !matches!(self.state, State::Switched { .. }) => {
                return misuse(&format!("segment {last} was not read to its end"));
            }
            (None, Some(lsn)) if lsn < expected_name.start() || lsn >= expected_name.end() => {
                return misuse(&format!("the walk was to begin at {lsn}"));
            }
            _ => {}
        }
        if matches!(self.state, State::Switched { .. }) {
            self.state = State::Between;
        }
        self.segment = Some(*expected_name);
        self.at = expected_name.start();
        Ok(())
    }

    /// Reads the next bytes of the segment: a multiple of 64 KiB, except at its end.
    ///
    /// `Some` when the rest of the segment is of no interest: it need not be given.
    ///
    /// # Errors
    /// As [`Walker::feed`].
    pub fn part(&mut self, bytes: &[u8], visit: &mut Visit) -> Result<Option<WalkEnd>> {
        let segment = self.announced()?;
        if bytes.len() as u64 > segment.end().0.saturating_sub(self.at.0) {
            return Err(Error::corrupt(format!(
                "WAL segment {segment} is longer than {} bytes",
                segment.size.bytes()
            )));
        }
        match self.pages(bytes, &segment, visit) {
            Ok(()) => Ok(match self.state {
                State::Switched { record } => Some(WalkEnd::Switched { record }),
                _ => None,
            }),
            Err(halt) => Ok(Some(self.end(halt))),
        }
    }

    /// Ends the segment.
    ///
    /// # Errors
    /// As [`Walker::feed`].
    pub fn finish(&mut self) -> Result<WalkEnd> {
        let segment = self.announced()?;
        if let State::Switched { record } = self.state {
            return Ok(WalkEnd::Switched { record });
        }
        if self.at < segment.end() {
            let read = self.at.0 - segment.start().0;
            let halt = self.cut_short(self.at, format!("the segment ends after {read} bytes"));
            return Ok(self.end(halt));
        }
        Ok(match &self.state {
            State::Assembling(record) => WalkEnd::Continues {
                start: record.start,
                bytes_missing: record.total - record.got,
                prev: record.header.map(|header| header.prev),
            },
            State::Skipping { remaining } => WalkEnd::ContinuesUnknown {
                bytes_missing: *remaining,
            },
            _ => WalkEnd::SegmentFull { next: segment.end() },
        })
    }

    fn announced(&self) -> Result<WalSegment> {
        match self.segment {
            _ if matches!(self.state, State::Ended) => Err(Error::invalid("can't read more WAL: the walk is over")),
            Some(segment) => Ok(segment),
            None => Err(Error::invalid("can't read WAL: no segment was announced")),
        }
    }

    /// Bytes that the record at hand still lacks: what the next segment's header must call `continued_bytes`.
    pub fn bytes_missing(&self) -> u32 {
        match &self.state {
            State::Assembling(record) => record.total - record.got,
            State::Skipping { remaining } => *remaining,
            _ => 0,
        }
    }

    /// True if the record at hand began before the walk did, so that its meaning will stay unknown.
    pub fn is_skipping(&self) -> bool {
        matches!(self.state, State::Skipping { .. })
    }

    /// The header of the first segment of the walk, once it was read.
    pub fn header(&self) -> Option<&SegmentHeader> {
        self.identity.as_ref()
    }

    /// The timeline of the last page that was read.
    pub fn page_timeline(&self) -> Option<TimelineId> {
        self.timeline
    }

    fn end(&mut self, halt: Halt) -> WalkEnd {
        self.state = State::Ended;
        match halt {
            Halt::Stopped { at, reason } => WalkEnd::Stopped { at, reason },
            Halt::Interrupted { next } => WalkEnd::Interrupted { next },
        }
    }

    /// A stop that belongs to the unfinished record if there is one.
    fn cut_short(&self, at: Lsn, reason: impl Into<String>) -> Halt {
        match &self.state {
            State::Assembling(record) => Halt::Stopped {
                at: record.start,
                reason: format!("the record at {} is unfinished: {}", record.start, reason.into()),
            },
            _ => Halt::Stopped {
                at,
                reason: reason.into(),
            },
        }
    }

    fn pages(&mut self, bytes: &[u8], segment: &WalSegment, visit: &mut Visit) -> Result<(), Halt> {
        if bytes.is_empty() || matches!(self.state, State::Switched { .. }) {
            return Ok(());
        }
        let identity = match self.identity {
            Some(identity) => identity,
            None => self.identify(bytes, segment)?,
        };
        let block = identity.block_bytes as usize;
        for page in bytes.chunks(block) {
            if !self.at.0.is_multiple_of(block as u64) {
                return Err(self.cut_short(self.at, format!("the segment ends inside the page before {}", self.at)));
            }
            let at = self.at;
            self.at = Lsn(at.0 + page.len() as u64);
            if self.starts_beyond(self.at) && at != segment.start() {
                continue;
            }
            let page = Page {
                bytes: page,
                at,
                block,
                segment,
                major: identity.major,
            };
            self.page(&page, &identity, visit)?;
            if matches!(self.state, State::Switched { .. }) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// True while the walk is to begin at a later page.
    fn starts_beyond(&self, page_end: Lsn) -> bool {
        matches!(self.state, State::Seeking) && self.start_at.is_some_and(|start| start >= page_end)
    }

    fn identify(&mut self, bytes: &[u8], segment: &WalSegment) -> Result<SegmentHeader, Halt> {
        let identity = match read_segment_header(bytes) {
            Ok(identity) => identity,
            Err(error) => return stop(self.at, error.detail_text().unwrap_or_else(|| error.to_string())),
        };
        if identity.segment_size != segment.size {
            return stop(
                self.at,
                format!(
                    "its segment size is {}, expected {}",
                    identity.segment_size.bytes(),
                    segment.size.bytes()
                ),
            );
        }
        self.identity = Some(identity);
        Ok(identity)
    }
}
