//! The timelines of a lineage and how they descend from each other.
//!
//! Invariant: a history is used only if it was stored, repeated in a head, or is the beginning of a descendant's; it
//! is never guessed. A timeline of which something exists but whose history can't be had is *unexplained*: nothing is
//! planned across it, and `wal fetch` stops PostgreSQL that asks for it.

use std::collections::{BTreeMap, BTreeSet};

use pgkeep_base::{Lsn, TimelineId};
use pgkeep_pg::history::TimelineHistory;

/// All timelines of which anything is known.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    histories: BTreeMap<TimelineId, TimelineHistory>,
    seen: BTreeSet<TimelineId>,
}

impl Tree {
    /// From the histories that were found, and the timelines of which there are segments or heads.
    pub fn new(found: impl IntoIterator<Item = TimelineHistory>, seen: impl IntoIterator<Item = TimelineId>) -> Tree {
        let mut histories = BTreeMap::new();
        for history in found {
            for switch in history.switches() {
                let rebuilt = history.ancestor(switch.timeline).expect("a switch names an ancestor");
                histories.entry(switch.timeline).or_insert(rebuilt);
            }
            histories.insert(history.timeline(), history);
        }
        histories
            .entry(TimelineId::FIRST)
            .or_insert_with(|| TimelineHistory::root(TimelineId::FIRST));
        Tree {
            histories,
            seen: seen.into_iter().collect(),
        }
    }

    /// The same with a history more; what it says of its ancestors counts only where nothing was known of them.
    #[must_use]
    pub fn with(&self, history: &TimelineHistory) -> Tree {
        let known = self.histories.values().cloned();
        let ancestors = history.switches().iter();
        let rebuilt = ancestors.filter_map(|switch| history.ancestor(switch.timeline));
        let news = rebuilt.chain([history.clone()]);
        let news = news.filter(|new| !self.histories.contains_key(&new.timeline()));
        Tree::new(known.chain(news), self.seen.iter().copied().chain([history.timeline()]))
    }

    /// The history of a timeline: stored, or rebuilt from a descendant's.
    pub fn history(&self, timeline: TimelineId) -> Option<&TimelineHistory> {
        self.histories.get(&timeline)
    }

    /// True if there are segments, heads or histories of it, or a history names it.
    pub fn is_named(&self, timeline: TimelineId) -> bool {
        self.seen.contains(&timeline) || (timeline != TimelineId::FIRST && self.histories.contains_key(&timeline))
    }

    /// Timelines of which something exists but that no history explains.
    pub fn unexplained(&self) -> impl Iterator<Item = TimelineId> {
        self.seen
            .iter()
            .copied()
            .filter(|timeline| !self.histories.contains_key(timeline))
    }

    /// Every timeline with a history, oldest first.
    pub fn timelines(&self) -> impl Iterator<Item = &TimelineHistory> {
        self.histories.values()
    }

    /// The newest timeline that a cluster which has replayed `timeline` up to `lsn` can go on to.
    pub fn newest_from(&self, timeline: TimelineId, lsn: Lsn) -> Option<&TimelineHistory> {
        self.histories
            .values()
            .rev()
            .find(|history| history.contains(timeline, lsn))
    }

    /// Timelines forked directly from `parent`, with the switch point, oldest first.
    pub fn children(&self, parent: TimelineId) -> impl Iterator<Item = (&TimelineHistory, Lsn)> {
        self.histories
            .values()
            .filter(move |history| history.parent() == Some(parent))
            .map(move |history| {
                (
                    history,
                    history.switch_point(parent).expect("a parent is left somewhere"),
                )
            })
    }

    /// The newest timeline that descends from `timeline`, or itself.
    pub fn newest_descendant(&self, timeline: TimelineId) -> TimelineId {
        let newest = self
            .histories
            .values()
            .rev()
            .find(|history| history.is_ancestor(timeline));
        newest.map_or(timeline, TimelineHistory::timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    /// Aim: with the history of timeline 2 lost, nothing about timeline 3 is lost.
    #[test]
    fn a_lost_history_is_rebuilt_from_a_descendant() {
        let second = TimelineHistory::root(timeline(1))
            .child(timeline(2), Lsn(100), "a")
            .unwrap();
        let third = second.child(timeline(3), Lsn(200), "b").unwrap();
        let tree = Tree::new([third], [timeline(1), timeline(2), timeline(5)]);
        assert_eq!(tree.history(timeline(2)), Some(&second));
        assert_eq!(tree.newest_from(timeline(1), Lsn(50)).unwrap().timeline(), timeline(3));
        assert_eq!(
            tree.newest_from(timeline(1), Lsn(150)).unwrap().timeline(),
            timeline(1),
            "past the fork there is no way on"
        );
        assert_eq!(tree.unexplained().collect::<Vec<_>>(), [timeline(5)]);
        assert!(tree.is_named(timeline(5)) && !tree.is_named(timeline(4)));
        assert_eq!(tree.newest_descendant(timeline(1)), timeline(3));
    }
}
