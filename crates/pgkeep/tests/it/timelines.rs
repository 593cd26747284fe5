//! Restores over failovers: the ends of three timelines, moments around the point where the old primary was left, what
//! the failover lost, and standbys that follow the archive.

use std::fs;

use pgkeep_testkit::{Cluster, every_major, wait};

use crate::life::{commit, life};

/// The timelines that a running cluster's own history names, oldest first.
fn ancestors(cluster: &Cluster) -> Vec<String> {
    let file = cluster
        .data_dir()
        .join(format!("pg_wal/{}.history", cluster.timeline().hex()));
    let history = fs::read_to_string(file).unwrap();
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    history.lines().filter_map(first).collect()
}

every_major! {
    /// Aim: what a failover lost is still there for who asks for the old timeline, and a promoted copy takes a number
    /// that nobody has, and names its parents rightly.
    fn the_old_primarys_commits_are_restored_when_asked_for(major: u16) {
        let life = life(major);
        let restored = life.restore(&["--timeline", "1"]).opened();
        life.assert_holds(&restored, &life.up_to(1, 1002));
        assert_eq!(restored.timeline().get(), 4);
        assert_eq!(ancestors(&restored), ["1"]);
        let xid = life.commit(1001).xid.to_string();
        let restored = life.restore(&["--timeline", "1", "--xid", &xid, "--action", "promote"]).opened();
        life.assert_holds(&restored, &life.up_to(1, 1001));
    }

    /// Aim: the timeline in the middle is restored to its own end, which a descendant's first segment may hold.
    fn the_middle_timeline_is_restored_to_its_end(major: u16) {
        let life = life(major);
        let restored = life.restore(&["--timeline", "2"]).opened();
        life.assert_holds(&restored, &life.up_to(2, 2004));
        assert_eq!(restored.timeline().get(), 4);
        let current = life.restore(&["--timeline", "current", "--backup", &life.backups[0]]).opened();
        life.assert_holds(&current, &life.up_to(1, 1002));
    }

    /// Aim: a restore that follows the newer timeline says how many commits the older one holds past the fork.
    fn commits_that_a_failover_lost_are_told(major: u16) {
        let life = life(major);
        let scratch = pgkeep_testkit::Scratch::new();
        let target = scratch.join("data");
        let run = life.shop.run(["--json", "restore", "--dry-run", "--into"]).arg(&target);
        let plan = run.run().ok();
        assert!(plan.stderr.contains("timeline 1 holds 2 commits past"), "{plan}");
        let left = &plan.json()["left_behind"][0];
        assert_eq!(left["commits"], 2, "{plan}");
        assert_eq!(left["left_at"], life.forks[0].to_string(), "{plan}");
        assert!(!target.exists(), "{plan}");
    }

    /// Aim: the moments on both sides of a failover are exact, although the segment of the switch exists under two
    /// names with different ends.
    fn the_moments_around_a_failover_are_exact(major: u16) {
        let life = life(major);
        let before = life.restore(&["--xid", &life.commit(17).xid.to_string(), "--action", "promote"]).opened();
        life.assert_holds(&before, &life.up_to(1, 17));
        assert_eq!(ancestors(&before), ["1"]);
        let after = life.restore(&["--lsn", &life.commit(2001).record.to_string(), "--action", "promote"]).opened();
        life.assert_holds(&after, &life.up_to(2, 2001));
        assert_eq!(ancestors(&after), ["1", "2"]);
        let lost = life.commit(1002).time.to_string();
        let between = life.restore(&["--at", &lost, "--action", "promote"]).opened();
        life.assert_holds(&between, &life.up_to(1, 17));
    }

    /// Aim: a moment on the old timeline is reached by the new one's copy of the segment where the old one's is lost,
    /// and never the other way round: past the fork the old copy is another history.
    fn a_lost_switch_segment_is_replaced_only_up_to_the_fork(major: u16) {
        let life = life(major);
        let (old, new) = (life.segment(1, life.forks[0]), life.segment(2, life.forks[0]));
        let branch = life.branch();
        branch.remove(old);
        let xid = life.commit(17).xid.to_string();
        for timeline in ["1", "latest"] {
            let restored = branch.restore(&["--xid", &xid, "--timeline", timeline, "--action", "promote"]).opened();
            life.assert_holds(&restored, &life.up_to(1, 17));
            assert_eq!(restored.timeline().get(), 4);
        }

        let branch = life.branch();
        branch.remove(new);
        let refused = branch.refuse(4, &["--lsn", &life.commit(2001).record.to_string()]);
        assert!(refused.stderr.contains(&new.name()), "{refused}");
        assert!(refused.stderr.contains("Recovery is possible up to"), "{refused}");
        let restored = branch.restore(&["--xid", &xid, "--action", "promote"]).opened();
        life.assert_holds(&restored, &life.up_to(1, 17));
    }

    /// Aim: what a promotion archived as `.partial` counts as the beginning of its segment where nothing else has that: a
    /// restore to the end of the archive holds its commits, and no listing calls the segment whole.
    fn a_partial_segment_ends_an_archive(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let (old, new) = (life.segment(1, life.forks[0]), life.segment(2, life.forks[0]));
        let last = branch.last_number(1);
        for number in old.number..=last {
            branch.remove(pgkeep_base::WalSegment { number, ..old });
        }
        branch.remove(new);
        let window = branch.run(["window", "--json"]).run().ok().json();
        let ranges = window["clusters"][0]["ranges"].as_array().unwrap();
        let first = ranges.iter().find(|range| range["timeline"] == 1).unwrap();
        let to: pgkeep_base::Lsn = first["to_lsn"].as_str().unwrap().parse().unwrap();
        assert!(to > life.commit(17).record, "{window}");
        let listed = branch.run(["wal", "list"]).run().ok();
        assert!(listed.stdout.contains(&format!("{old}.partial")), "{listed}");

        let restored = branch.restore(&["--timeline", "1"]).opened();
        life.assert_holds(&restored, &life.up_to(1, 17));
    }

    /// Aim: with the history of the middle timeline lost, the newest one still says all that is needed.
    fn a_lost_history_is_rebuilt_from_the_next_one(major: u16) {
        let life = life(major);
        let branch = life.branch();
        branch.remove("00000002.history");
        let restored = branch.restore(&["--backup", &life.backups[0]]).opened();
        life.assert_holds(&restored, &life.up_to(3, 3003));
        assert_eq!(ancestors(&restored), ["1", "2", "3"]);
    }

    /// Aim: a restored standby follows the archive over two failovers, goes past an old primary's segments without
    /// replaying what was lost, and takes a free timeline when it is promoted.
    fn a_standby_follows_the_archive_over_failovers(major: u16) {
        let life = life(major);
        let options = ["--standby", "--archive", "off", "--backup", &life.backups[0]];
        let mut standby = life.restore(&options);
        standby.start();
        let newest = "SELECT count(*) FROM ledger WHERE id = 3003";
        wait::until("the standby to follow", wait::LIMIT, || (standby.sql(newest) == "1").then_some(()));
        life.assert_holds(&standby, &life.up_to(3, 3003));
        assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");
        standby.promote();
        life.assert_holds(&standby, &life.up_to(3, 3003));
        assert_eq!(standby.timeline().get(), 4);
    }

    /// Aim: of two transactions with one number on two timelines the one on the way is meant.
    fn a_number_that_two_transactions_have(major: u16) {
        let life = life(major);
        let (lost, kept) = (life.commit(1001), life.commit(2001));
        assert_eq!(lost.xid, kept.xid, "both sides of the failover count on from the same number");
        let xid = kept.xid.to_string();
        let restored = life.restore(&["--xid", &xid, "--action", "promote"]).opened();
        life.assert_holds(&restored, &life.up_to(2, 2001));
    }

    /// Aim: an old primary is rewound with WAL from the archive and follows the new one over both failovers. Method: its
    /// own WAL is removed, so that `pg_rewind` and then the standby ask `wal fetch`, which has no plan to answer by.
    fn an_old_primary_is_rewound_with_wal_from_the_archive(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let (old, new) = (branch.home().join("old"), branch.home().join("new"));
        for (from, to) in [(&life.shop.cluster, &old), (&life.heir, &new)] {
            pgkeep_testkit::Run::new("/bin/cp").arg("-a").arg(from.data_dir()).arg(to).run().ok();
        }
        let last = life.shop.cluster.control("Latest checkpoint's REDO WAL file");
        for entry in fs::read_dir(old.join("pg_wal")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.len() == 24 && name < last {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        let conf = old.join("postgresql.conf");
        let settings = fs::read_to_string(&conf).unwrap();
        let command = format!("{} wal fetch %f %p", branch.command_line());
        fs::write(&conf, format!("{settings}\narchive_mode = off\nrestore_command = '{command}'\n")).unwrap();
        let rewind = pgkeep_testkit::postgres::program(major, "pg_rewind").as_user(life.heir.user());
        let rewind = rewind.args(["--restore-target-wal", "--no-sync", "--source-pgdata"]).arg(&new);
        let rewound = rewind.arg("--target-pgdata").arg(&old).run().ok();
        assert!(rewound.stderr.contains("Done!"), "{rewound}");
        fs::write(&conf, format!("{settings}\narchive_mode = off\nrestore_command = '{command}'\n")).unwrap();
        let mut standby = Cluster::adopt_dir(major, old);
        standby.start_as_standby();
        let newest = "SELECT count(*) FROM ledger WHERE id = 3003";
        wait::until("the old primary to follow", wait::LIMIT, || (standby.sql(newest) == "1").then_some(()));
        life.assert_holds(&standby, &life.up_to(3, 3003));
    }

    /// Aim: a copy whose own history runs backwards, because recovery had to aim at a descendant of the timeline that it
    /// stopped on, archives, is restored and is compared like any other.
    fn a_copy_that_aimed_too_far_is_restored_again(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let copy = life.copy_that_aimed_too_far(&branch);
        life.assert_holds(&copy, &life.up_to(1, 16));
        assert_eq!(ancestors(&copy), ["1", "2"]);
        commit(&copy, [4001]);
        copy.archive_all();
        commit(&copy, [4002]);
        copy.archive_all();
        let expected = [life.up_to(1, 16), vec![4001, 4002]].concat();
        let again = branch.restore(&[]).opened();
        life.assert_holds(&again, &expected);
        assert_eq!(again.timeline().get(), 5);
        let mut standby = branch.restore(&["--standby", "--archive", "off"]);
        standby.start();
        let newest = "SELECT count(*) FROM ledger WHERE id = 4002";
        wait::until("the standby to follow", wait::LIMIT, || (standby.sql(newest) == "1").then_some(()));
        life.assert_holds(&standby, &expected);
        life.assert_holds(&branch.restore(&["--timeline", "3"]).opened(), &life.up_to(3, 3003));
    }
}
