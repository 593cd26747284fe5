//! What backups say of timelines.
//!
//! Invariant: where two servers took one number, a backup says whose it is; the newest one is meant where none is named.

use pgkeep_base::TimelineId;
use pgkeep_pg::history::TimelineHistory;
use pgkeep_repo::head::PhysicalHead;

use super::tree::Tree;
use crate::catalogue::history_of;

/// Whether recovery can go on from a backup to a timeline: its history says so, and says of the backup's timeline what
/// that itself says. Two servers may have been promoted to one number.
pub fn leads(tree: &Tree, head: &PhysicalHead, history: &TimelineHistory) -> bool {
    let same_past = match history_of(head) {
        Some(own) => history.ancestor(head.timeline) == Some(own),
        None => tree.is_past_of(head.timeline, history),
    };
    same_past && history.contains(head.timeline, head.stop_lsn)
}

/// The history of a timeline; of those of a number that two servers took, the newest backup's.
pub fn history_meant<'a>(
    tree: &Tree,
    heads: impl Iterator<Item = &'a PhysicalHead>,
    timeline: TimelineId,
) -> Option<TimelineHistory> {
    if !tree.is_begun_twice(timeline) {
        return tree.history(timeline).cloned();
    }
    let own = heads.filter(|head| head.timeline == timeline);
    own.max_by_key(|head| head.stop_lsn).and_then(history_of)
}
