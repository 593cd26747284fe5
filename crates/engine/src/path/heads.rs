//! What backups say of timelines.
//!
//! Invariant: where two servers took one number, a backup says whose it is; where there are backups of both, nobody does
//! who names none.

use pgkeep_base::{Lsn, TimelineId};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_repo::head::PhysicalHead;

use super::tree::Tree;

/// The history that a backup repeats of its timeline; of the first timeline the empty one.
pub fn history_of(head: &PhysicalHead) -> Option<TimelineHistory> {
    match &head.history {
        Some(text) => TimelineHistory::parse(head.timeline, text.as_bytes()).ok(),
        None => (head.timeline == TimelineId::FIRST).then(|| TimelineHistory::root(TimelineId::FIRST)),
    }
}

/// Whether recovery can go on from a backup to a timeline: its history says so, and says of the backup's timeline what
/// that itself says. Two servers may have been promoted to one number.
pub fn leads(tree: &Tree, head: &PhysicalHead, history: &TimelineHistory) -> bool {
    let same_past = match history_of(head) {
        Some(own) => history.ancestor(head.timeline) == Some(own),
        None => tree.is_past_of(head.timeline, history),
    };
    same_past && history.contains(head.timeline, head.stop_lsn)
}

/// The history of a timeline; of those of a number that two servers took, the one that all of these backups on it have.
pub fn history_meant<'a>(
    tree: &Tree,
    heads: impl Iterator<Item = &'a PhysicalHead>,
    timeline: TimelineId,
) -> Option<TimelineHistory> {
    if !tree.is_begun_twice(timeline) {
        return tree.history(timeline).cloned();
    }
    let mut own = heads.filter(|head| head.timeline == timeline).filter_map(history_of);
    let first = own.next()?;
    own.all(|other| other == first).then_some(first)
}

/// Whether a backup on the way to a timeline ends behind a position: there was more than what is there.
pub fn ends_behind<'a>(
    tree: &Tree,
    mut heads: impl Iterator<Item = &'a PhysicalHead>,
    history: &TimelineHistory,
    end: Lsn,
) -> bool {
    heads.any(|head| head.stop_lsn > end && leads(tree, head, history))
}
