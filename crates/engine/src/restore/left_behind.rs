//! Commits that a failover lost: what an older timeline holds past the point where the path leaves it.
//!
//! Invariant: a restore that follows the newer timeline says so, with number, time and the way to get at them.

use std::ops::ControlFlow;

use jiff::Timestamp;
use pgkeep_base::{Lsn, Result, TimelineId, WalSegment};
use pgkeep_pg::wal::{Meaning, WalkEnd, Walker, meaning, read_segment_header};

use crate::engine::Engine;
use crate::path::Archive;
use crate::path::contents::open_segment;
use crate::restore::resolve::Resolved;

/// Segments past a fork that are read to count commits.
const SEGMENTS_MAX: u64 = 1024;

/// Commits on a timeline after the point where the path left it.
#[derive(Clone, PartialEq, Debug)]
pub struct LeftBehind {
    /// The timeline that holds them.
    pub timeline: TimelineId,
    /// Where the path leaves it.
    pub left_at: Lsn,
    /// How many there are.
    pub commits: u64,
    /// Time of the first.
    pub first: Option<Timestamp>,
    /// Time of the last.
    pub last: Option<Timestamp>,
}

impl std::fmt::Display for LeftBehind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (commits, timeline) = (self.commits, self.timeline);
        write!(
            f,
            "timeline {timeline} holds {commits} commits past {}, where the newer timeline left it",
            self.left_at
        )?;
        if let (Some(first), Some(last)) = (self.first, self.last) {
            write!(f, ", from {first} to {last}")?;
        }
        write!(
            f,
            "; they are not part of this restore: `--timeline {timeline}` restores them instead"
        )
    }
}

/// Looks at every timeline that the path leaves on its way to the stop; all of them, where the stop is the path's end.
pub async fn left_behind(engine: &Engine, archive: &Archive, resolved: &Resolved<'_>) -> Result<Vec<LeftBehind>> {
    let at_end = resolved.walked.search.stop().is_none();
    let end = resolved.stop.end;
    let mut found = Vec::new();
    for switch in resolved
        .history
        .switches()
        .iter()
        .filter(|switch| at_end || switch.lsn <= end)
        .filter(|switch| archive.tree.is_past_of(switch.timeline, &resolved.history))
    {
        let left = count(engine, archive, switch.timeline, switch.lsn).await?;
        found.extend(left.filter(|left| left.commits > 0));
    }
    Ok(found)
}

/// Counts commits on `timeline` from `from` on; whatever can't be read ends the count.
async fn count(engine: &Engine, archive: &Archive, timeline: TimelineId, from: Lsn) -> Result<Option<LeftBehind>> {
    let size = archive.segment_size;
    let first = size.number_of(from);
    let mut walker = Walker::new(Some(from));
    let mut left = LeftBehind {
        timeline,
        left_at: from,
        commits: 0,
        first: None,
        last: None,
    };
    for number in first..first + SEGMENTS_MAX {
        let segment = WalSegment { timeline, number, size };
        let Some(content) = read(engine, archive, segment).await? else {
            break;
        };
        let Ok(header) = read_segment_header(&content) else {
            break;
        };
        let end = walker.feed(&content, &segment, &mut |record| {
            if let Meaning::Commit { time, .. } = meaning(record, header.major) {
                left.commits += 1;
                left.first.get_or_insert(time);
                left.last = Some(time);
            }
            ControlFlow::Continue(())
        })?;
        if matches!(end, WalkEnd::Stopped { .. } | WalkEnd::Interrupted { .. }) {
            break;
        }
    }
    Ok(Some(left))
}

async fn read(engine: &Engine, archive: &Archive, segment: WalSegment) -> Result<Option<Vec<u8>>> {
    let opened = open_segment(engine, &engine.stores(), archive, segment, None).await;
    match opened.and_then(Option::transpose) {
        Ok(chosen) => Ok(chosen.map(|chosen| chosen.bytes)),
        Err(error) => {
            engine.note(format!(
                "commits left behind on timeline {} can't be counted: {error}",
                segment.timeline
            ));
            Ok(None)
        }
    }
}
