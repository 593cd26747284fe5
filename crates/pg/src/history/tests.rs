//! Tests of histories; files that PostgreSQL wrote are compared in `tests/it/files`.

use pgkeep_base::ErrorKind;

use super::*;

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

const FIVE: &str = "1\t0/3000060\tno recovery target specified\n\
    \n2\t0/5000000\tbefore 2026-11-20 10:15:12+00\n\
    \n\n4\t0/5000000\tat restore point \"a b\"\n";

fn five() -> TimelineHistory {
    TimelineHistory::parse(timeline(5), FIVE.as_bytes()).unwrap()
}

#[test]
fn a_history_is_written_as_it_was_read() {
    assert_eq!(five().format(), FIVE);
    assert_eq!(five().parent(), Some(timeline(4)));
    assert_eq!(TimelineHistory::root(TimelineId::FIRST).format(), "");
}

#[test]
fn comments_blank_lines_and_other_blanks_are_read_over() {
    let text = "# a comment\r\n\r\n  1   0/3000060   why  \r\n\t# another\n2 0/5000000";
    let history = TimelineHistory::parse(timeline(3), text.as_bytes()).unwrap();
    assert_eq!(history.switches().len(), 2);
    assert_eq!(history.switches()[0].reason, "why");
    assert_eq!(history.switches()[1].reason, "");
}

#[test]
fn a_history_that_recovery_would_misread_is_refused() {
    for bad in [
        "",
        "\n# nothing\n",
        "x\t0/1\ty\n",
        "1\n",
        "1\t\n",
        "1\tno\n",
        "0\t0/3000060\tx\n",
        "-1\t0/3000060\tx\n",
        "1\t0/0\tx\n",
        "2\t0/3000060\tx\n1\t0/4000000\tx\n",
        "1\t0/3000060\tx\n1\t0/4000000\tx\n",
        "5\t0/3000060\tx\n",
        "6\t0/3000060\tx\n",
    ] {
        let error = TimelineHistory::parse(timeline(5), bad.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad:?}");
    }
}

#[test]
fn a_switch_point_belongs_to_the_newer_timeline() {
    let history = five();
    assert_eq!(history.timeline_at(Lsn(0x300_005F)), timeline(1));
    assert_eq!(history.timeline_at(Lsn(0x300_0060)), timeline(2));
    assert_eq!(history.timeline_at(Lsn(0x4FF_FFFF)), timeline(2));
    assert_eq!(
        history.timeline_at(Lsn(0x500_0000)),
        timeline(5),
        "4 was left where it began"
    );
    assert_eq!(history.switch_point(timeline(2)), Some(Lsn(0x500_0000)));
    assert_eq!(history.switch_point(timeline(5)), None);
    assert_eq!(history.switch_point(timeline(3)), None);
}

#[test]
fn what_ended_at_the_switch_point_can_go_on() {
    let history = five();
    assert!(history.contains(timeline(1), Lsn(0x300_0060)));
    assert!(!history.contains(timeline(1), Lsn(0x300_0061)));
    assert!(history.contains(timeline(2), Lsn(0x300_0060)));
    assert!(
        !history.contains(timeline(2), Lsn(0x300_005F)),
        "timeline 2 had not begun"
    );
    assert!(history.contains(timeline(5), Lsn(u64::MAX)));
    assert!(!history.contains(timeline(3), Lsn(0x400_0000)), "a sibling");
    assert!(history.is_ancestor(timeline(4)) && !history.is_ancestor(timeline(5)));
}

#[test]
fn a_lost_history_is_rebuilt_from_a_descendants() {
    let rebuilt = five().ancestor(timeline(4)).unwrap();
    assert_eq!(rebuilt.format(), FIVE[..FIVE.rfind("\n4\t").unwrap()]);
    assert_eq!(
        TimelineHistory::parse(timeline(4), rebuilt.format().as_bytes()).unwrap(),
        rebuilt
    );
    assert_eq!(five().ancestor(timeline(1)), Some(TimelineHistory::root(timeline(1))));
    assert_eq!(five().ancestor(timeline(5)), Some(five()));
    assert_eq!(five().ancestor(timeline(3)), None);
}

/// Aim: recovery that aimed at timeline 2 and stopped on timeline 1, before 2 began, is on 1's records up to there.
#[test]
fn a_switch_point_may_run_backwards() {
    let text = "1\t0/4000000\tx\n\n2\t0/3000060\tx\n";
    let third = TimelineHistory::parse(timeline(3), text.as_bytes()).unwrap();
    assert_eq!(third.timeline_at(Lsn(0x300_0000)), timeline(1));
    assert_eq!(third.timeline_at(Lsn(0x300_0060)), timeline(3));
    assert_eq!(third.switch_point(timeline(1)), Some(Lsn(0x300_0060)));
    assert!(!third.contains(timeline(1), Lsn(0x380_0000)));
    assert_eq!(third.format(), text, "what is served is what PostgreSQL wrote");
    assert_eq!(
        third.ancestor(timeline(2)).unwrap().switch_point(timeline(1)),
        Some(Lsn(0x400_0000))
    );
}

#[test]
fn a_child_adds_one_switch() {
    let child = five().child(timeline(7), Lsn(0x600_0000), "why").unwrap();
    assert_eq!(child.format(), format!("{FIVE}\n5\t0/6000000\twhy\n"));
    assert!(five().child(timeline(5), Lsn(0x600_0000), "why").is_err());
    assert!(five().child(timeline(6), Lsn(0x4FF_FFFF), "why").is_err());
    assert!(five().child(timeline(6), Lsn(0x600_0000), "two\nlines").is_err());
}

#[test]
fn siblings_share_their_past_up_to_the_earlier_fork() {
    let two = five().ancestor(timeline(2)).unwrap();
    let three = two.child(timeline(3), Lsn(0x450_0000), "").unwrap();
    assert_eq!(three.fork_point(&five()), Some((timeline(2), Some(Lsn(0x450_0000)))));
    assert_eq!(two.fork_point(&five()), Some((timeline(2), Some(Lsn(0x500_0000)))));
    assert_eq!(five().fork_point(&five()), Some((timeline(5), None)));
    let stranger = TimelineHistory::root(timeline(9));
    assert_eq!(stranger.fork_point(&five()), None);
}

/// Aim: a file is written again byte for byte as PostgreSQL wrote it, whatever recovery stopped at.
#[test]
fn a_file_is_formatted_as_it_was_read() {
    for reason in [
        "no recovery target specified",
        "reached consistency",
        "at restore point \"before deploy\"",
        "after transaction 734",
        "after LSN 0/160000A8\n",
        "before 2026-11-20 10:15:12.345678+00\n",
    ] {
        let text = format!("1\t0/3000000\t{reason}\n\n2\t0/5000000\tno recovery target specified\n");
        let read = TimelineHistory::parse(TimelineId::new(3).unwrap(), text.as_bytes()).unwrap();
        assert_eq!(read.format(), text);
    }
}
