//! From bytes to [`SegmentFacts`]: of one segment, or of one after the other.
//!
//! Invariant: a segment before that does not lead here never changes what is said about this one; one that does is
//! believed even where the record that spans both turns out damaged, so that damage is not hidden.
//!
//! The chain is proven without keys: segment N+1 follows N when its `continued_bytes` equals N's `missing_bytes` (or
//! it `drops_unfinished`), and its `first_record_prev` is N's `unfinished_record`, or else N's `last_record`.

mod gather;

use std::ops::ControlFlow;

pub use pgkeep_base::facts::{BackupEndFact, CheckpointFact, RestorePointFact, SegmentFacts};
use pgkeep_base::{Error, Result, ResultExt, WalSegment};

use self::gather::{Gathering, Spanning};
use super::page::{SegmentHeader, read_segment_header};
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
    let header = read_segment_header(segment).during(|| format!("read WAL segment {name}"))?;
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
        let knows = self.walker.header().is_some() && !self.walker.is_skipping();
        self.walker.begin(name)?;
        self.fold = Some(Fold {
            name: *name,
            spanning: if knows { Spanning::Known } else { Spanning::Unknown },
            gathering: None,
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
            return Err(not_announced());
        };
        if fold.end.is_some() {
            return Ok(());
        }
        let gathering = match &mut fold.gathering {
            Some(gathering) => gathering,
            none => {
                let header = header_named(bytes, &fold.name)?;
                none.insert(Gathering::new(&fold.name, &header, fold.spanning))
            }
        };
        fold.end = self.walker.part(bytes, &mut |record| {
            gathering.add(record);
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    /// The facts of the segment whose bytes were given.
    ///
    /// # Errors
    /// As [`FactsWalk::feed`]; `Corrupt` when no bytes were given.
    pub fn finish(&mut self) -> Result<SegmentFacts> {
        let fold = self.fold.take().ok_or_else(not_announced)?;
        let Some(gathering) = fold.gathering else {
            return Err(Error::corrupt(format!("WAL segment {} is empty", fold.name)));
        };
        let end = match fold.end {
            Some(end) => end,
            None => self.walker.finish()?,
        };
        Ok(gathering.conclude(&end, self.walker.page_timeline()))
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

/// The segment at hand.
#[derive(Debug)]
struct Fold {
    name: WalSegment,
    spanning: Spanning,
    gathering: Option<Gathering>,
    end: Option<WalkEnd>,
}

fn not_announced() -> Error {
    Error::invalid("can't read WAL: no segment was announced")
}
