//! Claims about reading WAL, on segments written by a small writer of our own; real ones are in `tests/it/wal`.

mod corruption;
mod facts;
mod meanings;
mod walks;
mod writer;

use std::ops::ControlFlow;

use pgkeep_base::Lsn;

use super::{WalkEnd, Walker};
use writer::{Shown, Writer};

/// Walks the writer's segments until valid WAL ends; what was shown, and how each segment ended.
fn walk(segments: &[Vec<u8>], writer: &Writer, start_at: Option<Lsn>) -> (Vec<Shown>, Vec<WalkEnd>) {
    let mut walker = Walker::new(start_at);
    let mut shown = Vec::new();
    let mut ends = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let end = walker
            .feed(segment, &writer.name(index), &mut |record| {
                shown.push(Shown::from(record));
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
