//! What a WAL file on PostgreSQL's side is: facts about its records, or why it is not what its name says.
//!
//! Invariant: facts come from records that were read here and now; a file whose header contradicts its name is
//! `Corrupt`, never archived under that name.

use std::path::Path;

use pgkeep_base::facts::SegmentFacts;
use pgkeep_base::{Error, Result, TimelineId, WalFile, WalSegment, limits};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::wal::{FactsWalk, SegmentHeader, read_segment_header, segment_facts};
use pgkeep_repo::wal::WalSource;

use super::content::Content;

/// Enough for the first page of any `wal_block_size`.
pub(crate) const FIRST_PAGE_BYTES: usize = 64 << 10;

/// Facts of a segment or partial segment; a check of a history file; nothing for `.backup` files.
pub(super) fn inspect(path: &Path, file: &WalFile, content: &Content) -> Result<Option<SegmentFacts>> {
    match file {
        WalFile::Segment(_) | WalFile::Partial(_) => inspect_segment(path, file, content).map(Some),
        WalFile::History(timeline) => {
            let text = content.beginning(limits::HEADER_BYTES_MAX)?;
            TimelineHistory::parse(*timeline, &text).map(|_| None)
        }
        WalFile::BackupHistory(_) => Ok(None),
    }
}

fn inspect_segment(path: &Path, file: &WalFile, content: &Content) -> Result<SegmentFacts> {
    let (header, segment) = identify(file, &content.beginning(FIRST_PAGE_BYTES)?)?;
    let bytes = content.source().bytes();
    if bytes != header.segment_size.bytes() {
        let says = header.segment_size.bytes();
        return Err(Error::corrupt("it is not as long as a segment must be")
            .detail(format!("{bytes} bytes, and its header says {says}")));
    }
    check_timeline(path, segment, header.page_timeline)?;
    match content {
        Content::Memory(bytes) => {
            let previous = read_previous(path, segment, header.continued_bytes);
            segment_facts(bytes, &segment, previous.as_deref())
        }
        Content::Disk(file) => facts_in_parts(file, &segment),
    }
}

/// The header of a segment, and which one its name says it is; `first_page` is its beginning.
///
/// # Errors
/// `Corrupt` where the two contradict each other.
pub(super) fn identify(file: &WalFile, first_page: &[u8]) -> Result<(SegmentHeader, WalSegment)> {
    let header = read_segment_header(first_page)?;
    let segment = file.segment(header.segment_size).ok_or_else(|| {
        Error::corrupt("its name can't be, with the segment size in its header").detail(format!(
            "the header says segments of {} bytes",
            header.segment_size.bytes()
        ))
    })?;
    if header.start != segment.start() {
        return Err(Error::corrupt("its content belongs to another segment").detail(format!(
            "the first page says {}, the name says {}",
            header.start,
            segment.start()
        )));
    }
    Ok((header, segment))
}

/// Facts of a segment too large for memory; a record that continues into it stays unknown.
pub(super) fn facts_in_parts(source: &dyn WalSource, segment: &WalSegment) -> Result<SegmentFacts> {
    let mut walk = FactsWalk::new();
    walk.begin(segment)?;
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < source.bytes() {
        let length = (source.bytes() - at).min(limits::CHUNK_BYTES_MAX);
        walk.part(source.read(at, length as usize, &mut buffer)?)?;
        at += length;
    }
    walk.finish()
}

/// The first page's timeline must be the name's, or an ancestor of it (the first segment after a promotion).
fn check_timeline(path: &Path, segment: WalSegment, page_timeline: TimelineId) -> Result<()> {
    if page_timeline == segment.timeline {
        return Ok(());
    }
    let wrong = || {
        Error::corrupt("its content belongs to another timeline").detail(format!(
            "the first page says timeline {page_timeline}, the name says timeline {}",
            segment.timeline
        ))
    };
    if page_timeline > segment.timeline {
        return Err(wrong());
    }
    let history_path = path.with_file_name(WalFile::History(segment.timeline).to_string());
    let Ok(text) = std::fs::read_to_string(history_path) else {
        return Ok(());
    };
    let history = TimelineHistory::parse(segment.timeline, text.as_bytes())?;
    if history.is_ancestor(page_timeline) {
        Ok(())
    } else {
        Err(wrong())
    }
}

/// The segment before, if a record continues from it and PostgreSQL still has it.
fn read_previous(path: &Path, segment: WalSegment, continued_bytes: u32) -> Option<Vec<u8>> {
    if continued_bytes == 0 || segment.number == 0 {
        return None;
    }
    let previous = WalSegment {
        number: segment.number - 1,
        ..segment
    };
    let content = std::fs::read(path.with_file_name(previous.name())).ok()?;
    let header = read_segment_header(&content).ok()?;
    let whole = content.len() as u64 == segment.size.bytes() && header.start == previous.start();
    whole.then_some(content)
}
