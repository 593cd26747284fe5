//! Whether one WAL segment follows another, by their facts alone (docs/format.md, section 7).
//!
//! Invariant: `Broken` is said only where the facts contradict each other, `Follows` only where at least the lengths at
//! the border agree and nothing contradicts. Who needs more opens both and walks them.

use pgkeep_base::SegmentFacts;

/// How two consecutive segments of one path relate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// The second follows the first.
    Follows,
    /// It does not: another history, or WAL is missing between them.
    Broken,
    /// The border is silent: no record of either side names one of the other.
    Unknown,
}

/// Whether `after` follows `before`; the two may be of different timelines.
pub fn link(before: &SegmentFacts, after: &SegmentFacts) -> Link {
    let cluster = |facts: &SegmentFacts| (facts.system_identifier, facts.segment_bytes, facts.block_bytes);
    let adjacent = before.start.0.checked_add(u64::from(before.segment_bytes)) == Some(after.start.0);
    let forward = before.last_page_timeline <= after.page_timeline;
    if cluster(before) != cluster(after) || !adjacent || !forward || before.stopped.is_some() {
        return Link::Broken;
    }
    let dropped = after.drops_unfinished && after.continued_bytes == 0;
    if !dropped && before.missing_bytes != after.continued_bytes {
        return Link::Broken;
    }
    let continued = after.continued_bytes > 0;
    let expected = if continued {
        before.unfinished_record
    } else {
        before.last_record
    };
    match (expected, after.first_record_prev) {
        (Some(expected), Some(prev)) if expected == prev => Link::Follows,
        (Some(_), Some(_)) => Link::Broken,
        // The lengths agree, and are as good as a hash of four bytes unless they are 0.
        _ if continued => Link::Follows,
        _ => Link::Unknown,
    }
}
