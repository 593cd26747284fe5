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
    /// Timelines of which different histories were found, with one of them: servers were promoted to one number.
    begun_twice: BTreeMap<TimelineId, TimelineHistory>,
    seen: BTreeSet<TimelineId>,
}

impl Tree {
    /// From the histories that were found, and the timelines of which there are segments or heads.
    ///
    /// What a history says of an ancestor makes up for one that was lost, but never decides between two.
    pub fn new(found: impl IntoIterator<Item = TimelineHistory>, seen: impl IntoIterator<Item = TimelineId>) -> Tree {
        let mut tree = Tree {
            seen: seen.into_iter().collect(),
            ..Tree::default()
        };
        let mut ancestors = Vec::new();
        for history in found {
            let switches = history.switches().iter();
            ancestors.extend(switches.filter_map(|switch| history.ancestor(switch.timeline)));
            tree.add(history);
        }
        let stored: BTreeSet<TimelineId> = tree.histories.keys().chain(tree.begun_twice.keys()).copied().collect();
        ancestors.retain(|history| !stored.contains(&history.timeline()));
        ancestors.into_iter().for_each(|ancestor| tree.add(ancestor));
        tree.histories
            .entry(TimelineId::FIRST)
            .or_insert_with(|| TimelineHistory::root(TimelineId::FIRST));
        tree
    }

    fn add(&mut self, history: TimelineHistory) {
        let timeline = history.timeline();
        if self.begun_twice.contains_key(&timeline) {
            return;
        }
        match self.histories.get(&timeline) {
            Some(known) if *known != history => {
                self.histories.remove(&timeline);
                self.begun_twice.insert(timeline, history);
            }
            _ => {
                self.histories.insert(timeline, history);
            }
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
        let mut tree = Tree::new(known.chain(news), self.seen.iter().copied().chain([history.timeline()]));
        tree.histories
            .retain(|timeline, _| !self.begun_twice.contains_key(timeline));
        tree.begun_twice.extend(self.begun_twice.clone());
        tree
    }

    /// The history of a timeline: stored, or rebuilt from a descendant's.
    pub fn history(&self, timeline: TimelineId) -> Option<&TimelineHistory> {
        self.histories.get(&timeline)
    }

    /// Whether different histories of it were found. Nobody can tell whose a segment or a backup of that name is.
    pub fn is_begun_twice(&self, timeline: TimelineId) -> bool {
        self.begun_twice.contains_key(&timeline)
    }

    /// One history each of such numbers: enough for whoever looks for a number that is free.
    pub fn begun_twice(&self) -> impl Iterator<Item = &TimelineHistory> {
        self.begun_twice.values()
    }

    /// Whether an ancestor of a timeline is known as what the timeline's own history says of it. If not, another server was
    /// promoted to its number, and what was archived under it is that one's, or both's.
    pub fn is_past_of(&self, ancestor: TimelineId, history: &TimelineHistory) -> bool {
        let known = self.histories.get(&ancestor);
        known.is_some() && known == history.ancestor(ancestor).as_ref()
    }

    /// True if there are segments, heads or histories of it, or a history names it.
    pub fn is_named(&self, timeline: TimelineId) -> bool {
        self.seen.contains(&timeline) || (timeline != TimelineId::FIRST && self.histories.contains_key(&timeline))
    }

    /// Timelines of which something exists but that no history explains.
    pub fn unexplained(&self) -> impl Iterator<Item = TimelineId> {
        let all: BTreeSet<TimelineId> = self.seen.iter().chain(self.begun_twice.keys()).copied().collect();
        all.into_iter()
            .filter(|timeline| !self.histories.contains_key(timeline))
    }

    /// Every timeline with a history, oldest first.
    pub fn timelines(&self) -> impl DoubleEndedIterator<Item = &TimelineHistory> {
        self.histories.values()
    }

    /// Timelines that descend from the one of a history, and say of it what that says; oldest first.
    pub fn descendants<'a>(&'a self, history: &'a TimelineHistory) -> impl Iterator<Item = &'a TimelineHistory> {
        let own = history.timeline();
        let others = self.histories.values().filter(move |other| other.timeline() != own);
        others.filter(move |other| other.ancestor(own).as_ref() == Some(history))
    }

    /// Those of them whose first record follows one of that timeline, with the point where it is left. Their parent may be
    /// another one, which recovery aimed at and never reached.
    pub fn forks<'a>(&'a self, history: &'a TimelineHistory) -> impl Iterator<Item = (&'a TimelineHistory, Lsn)> {
        self.descendants(history).filter_map(move |other| {
            let begin = other.begin_of(other.timeline())?;
            let before = Lsn(begin.0.checked_sub(1)?);
            (other.timeline_at(before) == history.timeline()).then_some((other, begin))
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
        assert_eq!(tree.unexplained().collect::<Vec<_>>(), [timeline(5)]);
        assert!(tree.is_named(timeline(5)) && !tree.is_named(timeline(4)));
        assert_eq!(tree.newest_descendant(timeline(1)), timeline(3));
    }
}
