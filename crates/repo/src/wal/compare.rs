//! What two WAL objects of one file name are to each other (docs/format.md, section 7).
//!
//! Invariant: "fork" and "longer tail" are said only where they are proven; everything between is `Unknown`, never a
//! guess, because a restore that picks the wrong one loses commits silently.

use pgkeep_base::Lsn;

use super::WalFacts;
use super::digest::{PREFIXES, prefix_border};

/// Which of two goes on where the other ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Longer {
    /// The first.
    First,
    /// The second.
    Second,
}

/// How two objects of one file name relate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// They hold the same WAL; either may be used. (Bytes behind the end of valid WAL may differ.)
    Same,
    /// They agree as far as one of them goes, and the other goes on: use that one.
    LongerTail(Longer),
    /// They hold different WAL: two primaries wrote it.
    Fork,
    /// Facts can't tell; whoever has an identity can, with [`compare_contents`].
    Unknown,
}

/// Compares by facts alone, without an identity.
pub fn compare(a: &WalFacts, b: &WalFacts) -> Relation {
    if !comparable(a, b) {
        return Relation::Fork;
    }
    if a.prefix[PREFIXES - 1] == b.prefix[PREFIXES - 1] {
        return Relation::Same;
    }
    let bytes = u64::from(a.segment.segment_bytes);
    let valid = valid_bytes(a).min(valid_bytes(b));
    let agree = (0..PREFIXES).take_while(|&i| a.prefix[i] == b.prefix[i]).count() as u64;
    if prefix_border(bytes, agree) >= valid {
        return longer(a, b);
    }
    // The next sixteenth differs. That is a fork only if all of it is valid in both.
    if prefix_border(bytes, agree + 1) <= valid {
        Relation::Fork
    } else {
        Relation::Unknown
    }
}

/// Compares the contents that belong to these facts.
pub fn compare_contents(a: (&WalFacts, &[u8]), b: (&WalFacts, &[u8])) -> Relation {
    if !comparable(a.0, b.0) || a.1.len() != b.1.len() {
        return Relation::Fork;
    }
    let valid = valid_bytes(a.0).min(valid_bytes(b.0)) as usize;
    match (a.1.get(..valid), b.1.get(..valid)) {
        (Some(first), Some(second)) if first == second => longer(a.0, b.0),
        _ => Relation::Fork,
    }
}

fn comparable(a: &WalFacts, b: &WalFacts) -> bool {
    let what = |facts: &WalFacts| {
        (
            facts.segment.system_identifier,
            facts.segment.segment_bytes,
            facts.segment.start,
        )
    };
    what(a) == what(b) && a.prefix.len() == PREFIXES && b.prefix.len() == PREFIXES
}

/// How many bytes of the segment are valid WAL.
fn valid_bytes(facts: &WalFacts) -> u64 {
    facts
        .segment
        .valid_to
        .0
        .saturating_sub(facts.segment.start.0)
        .min(u64::from(facts.segment.segment_bytes))
}

fn longer(a: &WalFacts, b: &WalFacts) -> Relation {
    let end = |facts: &WalFacts| -> Lsn { facts.segment.valid_to };
    match end(a).cmp(&end(b)) {
        std::cmp::Ordering::Equal => Relation::Same,
        std::cmp::Ordering::Greater => Relation::LongerTail(Longer::First),
        std::cmp::Ordering::Less => Relation::LongerTail(Longer::Second),
    }
}
