//! Targets that can't be reached: refused before anything is touched, with the nearest moments that can be, and those
//! moments are true.

use pgkeep_base::Lsn;
use pgkeep_testkit::every_major;

use crate::life::{Branch, Life, life, offered};

/// Restores to an offered moment, starts and compares.
#[track_caller]
fn keeps_its_word(life: &Life, branch: &Branch, moment: Lsn, options: &[&str], expected: &[i64]) {
    let moment = moment.to_string();
    let options = [options, &["--lsn", &moment, "--action", "promote"]].concat();
    life.assert_holds(&branch.restore(&options).opened(), expected);
}

every_major! {
    /// Aim: before the first backup's end nothing can be reached; the offered first moment can.
    fn what_lies_before_the_first_backup(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let first = life.commit(1);
        for target in [["--at", &first.time.to_string()], ["--lsn", &first.record.to_string()]] {
            let refused = branch.refuse(4, &target);
            assert!(refused.stderr.contains("The earliest moment is"), "{refused}");
            let offered = offered(&refused);
            keeps_its_word(life, &branch, offered[0], &[], &life.up_to(1, 2));
        }
        let refused = branch.refuse(4, &["--xid", &first.xid.to_string()]);
        assert!(refused.stderr.contains("hint:"), "{refused}");
    }

    /// Aim: beyond the archive's end nothing can be reached; the offered last moment can.
    fn what_lies_beyond_the_archive(major: u16) {
        let life = life(major);
        let branch = life.branch();
        for target in [["--at", "2199-01-01T00:00:00Z"], ["--lsn", "FF/0"], ["--xid", "4000000"]] {
            let refused = branch.refuse(4, &target);
            assert!(refused.stderr.contains("Recovery is possible up to"), "{refused}");
            let offered = offered(&refused);
            assert_eq!(offered.len(), 1, "{refused}");
            if target[0] == "--at" {
                keeps_its_word(life, &branch, offered[0], &[], &life.up_to(3, 3003));
            }
        }
        branch.refuse(4, &["--restore-point", "nosuch"]);
    }

    /// Aim: inside a gap nothing can be reached; what is offered on both sides can, exactly.
    fn what_lies_in_a_gap(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let missing = life.segment(1, life.commit(6).record);
        branch.remove(missing);
        let (inside, behind) = (life.commit(6), life.commit(9));
        let targets = [
            ["--at", &inside.time.to_string()],
            ["--lsn", &inside.record.to_string()],
            ["--xid", &inside.xid.to_string()],
            ["--at", &behind.time.to_string()],
        ];
        for target in targets {
            let refused = branch.refuse(4, &target);
            assert!(refused.stderr.contains(&missing.name()), "{refused}");
            let offered = offered(&refused);
            assert_eq!(offered.len(), 2, "both sides: {refused}");
            if target == targets[0] {
                keeps_its_word(life, &branch, offered[0], &[], &life.up_to(1, 4));
                keeps_its_word(life, &branch, offered[1], &[], &life.up_to(1, 9));
                // By time only what is certain is offered: the gap may hold a commit of the last one's very time.
                let time = refused.stderr.split("--at ").nth(1).unwrap().split([',', ';', ' ']).next().unwrap();
                life.assert_holds(&branch.restore(&["--at", time, "--action", "promote"]).opened(), &life.up_to(1, 3));
                branch.refuse(4, &["--at", &life.commit(4).time.to_string()]);
            }
        }
        // The same moment by its name: the backup before the gap does not get there, the one behind it begins later.
        let refused = branch.refuse(4, &["--restore-point", "alpha"]);
        assert!(refused.stderr.contains(&missing.name()), "{refused}");
        life.assert_holds(&branch.restore(&[]).opened(), &life.up_to(3, 3003));
    }

    /// Aim: what lies on another timeline than the one asked for is refused, and found where it is.
    fn what_lies_on_another_timeline(major: u16) {
        let life = life(major);
        let branch = life.branch();
        // The old primary marked it after the failover.
        let refused = branch.refuse(4, &["--restore-point", "gamma"]);
        assert!(refused.stderr.contains("restore point \"gamma\" can't be reached"), "{refused}");
        let found = branch.restore(&["--restore-point", "gamma", "--timeline", "1", "--action", "promote"]).opened();
        life.assert_holds(&found, &life.up_to(1, 1001));
        branch.refuse(4, &["--timeline", "1", "--backup", &life.backups[2]]);
        let refused = branch.refuse(4, &["--timeline", "7"]);
        assert!(refused.stderr.contains("timeline 7 can't be reached"), "{refused}");
        branch.refuse(4, &["--backup", &life.backups[2], "--at", &life.commit(12).time.to_string()]);
    }

    /// Aim: `window` and `restore` agree: both ends of every range can be reached on its timeline, as times and, at the
    /// beginning, as an LSN. Just before a gap that is so up to, not at, the last time: behind it there might be another
    /// commit of that very microsecond.
    fn the_window_is_true(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let gap = life.segment(1, life.commit(6).record);
        for with_gap in [false, true] {
            if with_gap {
                branch.remove(gap);
            }
            let window = branch.run(["--json", "window"]).run().ok().json();
            let cluster = &window["clusters"][0];
            let ranges = cluster["ranges"].as_array().unwrap();
            assert!(ranges.len() >= 3, "{window}");
            for range in ranges {
                let timeline = range["timeline"].to_string();
                for target in [["--at", "from"], ["--at", "to"], ["--lsn", "from_lsn"]] {
                    let moment = range[target[1]].as_str().unwrap_or_else(|| panic!("{range} has no {}", target[1]));
                    let moment = match (target[1], moment.parse::<jiff::Timestamp>()) {
                        ("to", Ok(time)) if with_gap => (time - jiff::SignedDuration::from_micros(1)).to_string(),
                        _ => moment.to_owned(),
                    };
                    let options = ["--timeline", &timeline, target[0], &moment];
                    let run = branch.run(["restore", "--dry-run", "--into"]).arg(branch.home().join("nothing"));
                    let output = run.args(options).run();
                    assert_eq!(output.code, Some(0), "{range} {target:?}: {output}");
                }
            }
            let gaps = cluster["gaps"].as_array().unwrap();
            assert_eq!(gaps.len(), usize::from(with_gap), "{window}");
            assert!(!with_gap || gaps[0]["first_missing"] == gap.name(), "{window}");
        }
    }
}
