//! Which timelines can serve a segment number on the way to a timeline.
//!
//! PostgreSQL looks for a segment under the newest timeline of the target's history that had begun by then, and falls
//! back to older ones (`XLogFileReadAnyTLI`). The segment of a switch exists under the old timeline, the new one, or
//! both; the old one's copy is right only up to the switch point, because the old primary may have gone on.

use std::cmp::Reverse;

use pgkeep_base::{Lsn, SegmentSize, TimelineId, WalSegment};
use pgkeep_pg::history::TimelineHistory;

use super::tree::Tree;

/// One way to have a segment of the route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// The segment, under the timeline that serves it.
    pub segment: WalSegment,
    /// Records from here on are not of this route: the route ends here if this choice is taken.
    pub until: Option<Lsn>,
    /// The timeline that recovery must be told to aim at, where it is not the route's own.
    pub aim: Option<TimelineId>,
}

/// The choices for segment `number` on the way to the timeline of `history`, best first.
pub fn choices(tree: &Tree, history: &TimelineHistory, number: u64, size: SegmentSize) -> Vec<Choice> {
    let mut found = own_choices(history, number, size);
    // Of a number that two servers took, the archive may have the other one's WAL.
    let is_own = |timeline| timeline == history.timeline() || tree.is_past_of(timeline, history);
    found.retain(|choice| is_own(choice.segment.timeline));
    found.extend(descendant_choices(tree, history, number, size));
    // A descendant's first segment may go on where that of an ancestor ends.
    found.sort_by_key(|choice| Reverse(choice.until.unwrap_or(Lsn(u64::MAX))));
    found
}

/// Under the timeline itself and its ancestors, newest first.
fn own_choices(history: &TimelineHistory, number: u64, size: SegmentSize) -> Vec<Choice> {
    let mut found = Vec::new();
    let newest_first = std::iter::once(history.timeline()).chain(history.switches().iter().rev().map(|s| s.timeline));
    for timeline in newest_first {
        let begin = history.begin_of(timeline).expect("it is of this history");
        let left = history.switch_point(timeline);
        let begun = size.number_of(begin) <= number;
        let not_left = left.is_none_or(|left| number <= size.number_before(left));
        if begun && not_left {
            let segment = WalSegment { timeline, number, size };
            found.push(Choice {
                segment,
                until: left.filter(|left| *left < segment.end()),
                aim: None,
            });
        }
    }
    found
}

/// A segment of the timeline's own end may exist only as the beginning of a descendant's first one.
fn descendant_choices<'a>(
    tree: &'a Tree,
    history: &'a TimelineHistory,
    number: u64,
    size: SegmentSize,
) -> impl Iterator<Item = Choice> + 'a {
    let own = history.timeline();
    let begin = history.begin_of(own).expect("it is of itself");
    let descendants = tree.descendants(history);
    descendants.filter_map(move |descendant| {
        let timeline = descendant.timeline();
        let left = descendant.switch_point(own).filter(|left| *left >= begin)?;
        let begins_here = |begun| size.number_of(begun) == number;
        let shares = descendant.begin_of(timeline).is_some_and(begins_here) && Lsn(number * size.bytes()) < left;
        let segment = WalSegment { timeline, number, size };
        shares.then_some(Choice {
            segment,
            until: Some(left),
            aim: Some(timeline),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn names(tree: &Tree, target: u32, number: u64) -> Vec<(u32, bool, Option<u32>)> {
        let history = tree.history(timeline(target)).unwrap();
        let found = choices(tree, history, number, SegmentSize::new(SIZE as u32).unwrap());
        found
            .iter()
            .map(|c| (c.segment.timeline.get(), c.until.is_some(), c.aim.map(TimelineId::get)))
            .collect()
    }

    /// Aim: the segment of a switch is taken from the new timeline, from the old one only up to the switch point, and
    /// after that the old timeline is no choice at all.
    #[test]
    fn the_segment_of_a_switch_has_two_names() {
        let fork = Lsn(5 * SIZE + 77);
        let second = TimelineHistory::root(timeline(1))
            .child(timeline(2), fork, "promoted")
            .unwrap();
        let tree = Tree::new([second], []);
        assert_eq!(names(&tree, 2, 4), [(1, false, None)]);
        assert_eq!(names(&tree, 2, 5), [(2, false, None), (1, true, None)]);
        assert_eq!(names(&tree, 2, 6), [(2, false, None)]);
        assert_eq!(
            names(&tree, 1, 5),
            [(1, false, None), (2, true, Some(2))],
            "it may exist only on the descendant"
        );
        assert_eq!(names(&tree, 1, 6), [(1, false, None)]);
    }

    /// Aim: of a timeline that began and was left within one segment the descendant's copy has all, the ancestor's nothing.
    #[test]
    fn a_descendants_copy_goes_further_than_an_ancestors() {
        let child = |number, at, of: &TimelineHistory| of.child(timeline(number), Lsn(5 * SIZE + at), "").unwrap();
        let second = child(2, 77, &TimelineHistory::root(timeline(1)));
        let tree = Tree::new([second.clone(), child(3, 99, &second)], []);
        assert_eq!(
            names(&tree, 2, 5),
            [(2, false, None), (3, true, Some(3)), (1, true, None)]
        );
    }

    /// Aim: where recovery aimed at timeline 3 and stopped before that began, 1 was left there, and nowhere else.
    #[test]
    fn a_history_that_runs_backwards_leaves_its_ancestor_once() {
        let parse = |number, text: String| TimelineHistory::parse(timeline(number), text.as_bytes()).unwrap();
        let (left, aimed) = (Lsn(5 * SIZE + 200), Lsn(7 * SIZE));
        let third = parse(3, format!("1\t{aimed}\tno\n"));
        let fourth = parse(4, format!("1\t{aimed}\tno\n3\t{left}\tno\n"));
        let tree = Tree::new([third.clone(), fourth.clone()], []);
        assert_eq!(names(&tree, 4, 5), [(4, false, None), (1, true, None)]);
        assert_eq!(names(&tree, 4, 6), [(4, false, None)]);
        let root = tree.history(timeline(1)).unwrap();
        assert_eq!(tree.forks(root).collect::<Vec<_>>(), [(&third, aimed), (&fourth, left)]);
        assert_eq!(tree.forks(&third).count(), 0);
    }

    /// Aim: after two promotions within one segment the second one's copy may be all that there is of the first timeline.
    #[test]
    fn a_grandchilds_copy_has_the_end_of_a_timeline() {
        let second = TimelineHistory::root(timeline(1))
            .child(timeline(2), Lsn(5 * SIZE + 77), "")
            .unwrap();
        let third = second.child(timeline(3), Lsn(5 * SIZE + 99), "").unwrap();
        let tree = Tree::new([second, third], []);
        assert!(names(&tree, 1, 5).contains(&(3, true, Some(3))));
        assert!(!names(&tree, 1, 6).contains(&(3, true, Some(3))));
    }

    #[test]
    fn a_switch_on_a_border_shares_no_segment() {
        let second = TimelineHistory::root(timeline(1))
            .child(timeline(2), Lsn(5 * SIZE), "promoted")
            .unwrap();
        let tree = Tree::new([second], []);
        assert_eq!(names(&tree, 2, 4), [(1, false, None)]);
        assert_eq!(names(&tree, 2, 5), [(2, false, None)]);
        assert_eq!(names(&tree, 1, 5), [(1, false, None)]);
    }
}
