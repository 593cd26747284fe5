//! Claims about reading WAL, on segments written by the testkit's small writer; real ones are in `tests/it/wal`.

mod corruption;
mod facts;
mod meanings;
mod walks;

use std::ops::ControlFlow;

use pgkeep_base::Lsn;
use pgkeep_testkit::wal::{Shown, Writer};

use super::{Record, WalkEnd, Walker};

/// A record as it was shown.
fn shown_as(record: &Record<'_>) -> Shown {
    Shown {
        start: record.start,
        end: record.end,
        prev: record.prev,
        xid: record.xid,
        rmgr: record.rmgr,
        info: record.info,
        total_bytes: record.total_bytes,
        kept_hash: crc32c::crc32c(record.kept),
    }
}

/// Walks the writer's segments until valid WAL ends; what was shown, and how each segment ended.
fn walk(segments: &[Vec<u8>], writer: &Writer, start_at: Option<Lsn>) -> (Vec<Shown>, Vec<WalkEnd>) {
    let mut walker = Walker::new(start_at);
    let mut shown = Vec::new();
    let mut ends = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let end = walker
            .feed(segment, &writer.name(index), &mut |record| {
                shown.push(shown_as(record));
                ControlFlow::Continue(())
            })
            .unwrap();
        let over = matches!(end, WalkEnd::Stopped { .. });
        ends.push(end);
        if over {
            break;
        }
    }
    (shown, ends)
}
