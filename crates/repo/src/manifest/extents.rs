//! Arithmetic of extents: cut, join, replace, and measure how fragmented a file has become.
//!
//! Invariant: every function keeps the bytes that a list of extents stands for, except [`splice`], which replaces
//! exactly the range it is told. No list that leaves this module has an empty extent.

use std::ops::Range;
use std::sync::Arc;

use super::entry::{Chunk, Extent, Source};

/// The stretch of a file in which fragmentation is measured.
pub const NEIGHBOURHOOD_BYTES: u64 = 1 << 20;
/// A neighbourhood of more extents than this is stored anew.
pub const NEIGHBOURHOOD_EXTENTS_MAX: u32 = 16;

impl Extent {
    /// So many zeros.
    pub fn zeros(bytes: u64) -> Extent {
        Extent {
            bytes,
            source: Source::Zeros,
        }
    }

    /// `bytes` of a chunk's content from `offset` on.
    pub fn of_chunk(chunk: Arc<Chunk>, offset: u32, bytes: u64) -> Extent {
        Extent {
            bytes,
            source: Source::Chunk { chunk, offset },
        }
    }

    /// A part of this extent. `range` must lie within it.
    fn part(&self, range: Range<u64>) -> Extent {
        debug_assert!(range.start < range.end && range.end <= self.bytes);
        let source = match &self.source {
            Source::Zeros => Source::Zeros,
            Source::Chunk { chunk, offset } => Source::Chunk {
                chunk: chunk.clone(),
                // A valid extent ends within its chunk, whose length is a u32.
                offset: offset + range.start as u32,
            },
        };
        Extent {
            bytes: range.end - range.start,
            source,
        }
    }

    /// Whether `next` begins where this one ends, so that both are one.
    fn continues_with(&self, next: &Extent) -> bool {
        match (&self.source, &next.source) {
            (Source::Zeros, Source::Zeros) => true,
            (Source::Chunk { chunk: a, offset: x }, Source::Chunk { chunk: b, offset: y }) => {
                u64::from(*x) + self.bytes == u64::from(*y) && same_chunk(a, b)
            }
            _ => false,
        }
    }
}

/// Whether two addresses name the same frame.
pub fn same_chunk(a: &Arc<Chunk>, b: &Arc<Chunk>) -> bool {
    Arc::ptr_eq(a, b) || (a.offset == b.offset && a.pack == b.pack)
}

/// How many bytes the extents stand for.
pub fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.bytes).sum()
}

/// Adds an extent at the end, joining it with the last one where it continues that. Empty ones vanish.
pub fn push(extents: &mut Vec<Extent>, next: Extent) {
    match extents.last_mut() {
        _ if next.bytes == 0 => {}
        Some(last) if last.continues_with(&next) => last.bytes += next.bytes,
        _ => extents.push(next),
    }
}

/// Joins neighbours that continue each other.
pub fn coalesce(extents: Vec<Extent>) -> Vec<Extent> {
    let mut joined = Vec::with_capacity(extents.len());
    for extent in extents {
        push(&mut joined, extent);
    }
    joined
}

/// The extents of `range`, counted from the first extent's first byte; cut off where the extents end.
pub fn slice(extents: &[Extent], range: Range<u64>) -> Vec<Extent> {
    let mut parts = Vec::new();
    let mut at = 0;
    for extent in extents {
        let end = at + extent.bytes;
        let (from, to) = (range.start.max(at), range.end.min(end));
        if from < to {
            push(&mut parts, extent.part(from - at..to - at));
        }
        if end >= range.end {
            break;
        }
        at = end;
    }
    parts
}

/// Replaces `range` by `with`, which need not be as long; a gap before `range` is filled with zeros.
pub fn splice(extents: &[Extent], range: Range<u64>, with: &[Extent]) -> Vec<Extent> {
    let mut result = slice(extents, 0..range.start);
    let gap = range.start.saturating_sub(total(&result));
    push(&mut result, Extent::zeros(gap));
    for extent in with.iter().cloned().chain(slice(extents, range.end..u64::MAX)) {
        push(&mut result, extent);
    }
    result
}

/// For each MiB of the file (the last may be shorter), how many extents touch it.
pub fn count_per_neighbourhood(extents: &[Extent]) -> Vec<u32> {
    let mut counts = vec![0; total(extents).div_ceil(NEIGHBOURHOOD_BYTES) as usize];
    let mut at = 0;
    for extent in extents.iter().filter(|extent| extent.bytes > 0) {
        let last = (at + extent.bytes - 1) / NEIGHBOURHOOD_BYTES;
        for count in &mut counts[(at / NEIGHBOURHOOD_BYTES) as usize..=last as usize] {
            *count += 1;
        }
        at += extent.bytes;
    }
    counts
}

/// The numbers of the MiB of the file that consist of too many extents.
pub fn fragmented(extents: &[Extent]) -> Vec<u64> {
    let counts = count_per_neighbourhood(extents).into_iter().enumerate();
    counts
        .filter(|&(_, count)| count > NEIGHBOURHOOD_EXTENTS_MAX)
        .map(|(i, _)| i as u64)
        .collect()
}

/// Which extent holds the byte at `at`, and how far into it that byte is.
pub fn find(extents: &[Extent], at: u64) -> Option<(&Extent, u64)> {
    let mut before = at;
    for extent in extents {
        if before < extent.bytes {
            return Some((extent, before));
        }
        before -= extent.bytes;
    }
    None
}

/// The chunks that extents refer to, each once, in order of first use.
pub fn chunks(extents: &[Extent]) -> Vec<Arc<Chunk>> {
    let mut seen = std::collections::HashSet::new();
    let sources = extents.iter().filter_map(|extent| match &extent.source {
        Source::Zeros => None,
        Source::Chunk { chunk, .. } => Some(chunk),
    });
    sources
        .filter(|chunk| seen.insert((&chunk.pack, chunk.offset)))
        .cloned()
        .collect()
}
