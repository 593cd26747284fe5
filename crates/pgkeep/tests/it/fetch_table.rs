//! Every cell of the table of `wal fetch` (the WAL contract), through the binary in a restored data directory.
//!
//! The columns are states of the repository: the file is there and good, there and bad, proven absent, or nobody can
//! tell. The rows are what PostgreSQL asks for in relation to the plan. What PostgreSQL itself does with the dangerous
//! answers: `fetch_judged`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use pgkeep_testkit::{Damage, Damaged, Output, Run};

use crate::life::{Branch, Copy, Life, oldest_and_newest};

/// A column of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Column {
    Good,
    Bad(Damage),
    Absent,
    CantTell,
}

use Column::{Absent, Bad, CantTell, Good};

const FLIPPED: Column = Bad(Damage::FlipBit { at: 400, bit: 3 });
const CUT: Column = Bad(Damage::Truncate { to: 500 });
const UNREADABLE: Column = Bad(Damage::Unreadable);

/// Makes a directory unreadable until it is dropped, so that nobody can tell what is in it.
struct Shut(PathBuf);

impl Shut {
    fn new(directory: PathBuf) -> Shut {
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o000)).unwrap();
        Shut(directory)
    }
}

impl Drop for Shut {
    fn drop(&mut self) {
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// A restored data directory that asks its repository.
struct Asker<'a> {
    branch: &'a Branch,
    directory: PathBuf,
    flags: &'static [&'static str],
}

impl Asker<'_> {
    fn of<'a>(branch: &'a Branch, copy: &Copy) -> Asker<'a> {
        Asker {
            branch,
            directory: copy.data_dir().to_owned(),
            flags: &[],
        }
    }

    /// What `wal fetch` does when asked for `name` now. A file is delivered exactly when the answer is 0.
    #[track_caller]
    fn ask(&self, name: &str) -> Output {
        let wanted = Path::new("pg_wal/RECOVERYXLOG");
        let run = self.branch.run(["wal", "fetch", name]).arg(wanted).args(self.flags);
        let output = run.cwd(&self.directory).run();
        let path = self.directory.join(wanted);
        assert_eq!(path.exists(), output.code == Some(0), "{output}");
        if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        let left: Vec<_> = fs::read_dir(self.directory.join("pg_wal"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert!(
            !left.iter().any(|name| name.to_string_lossy().contains("tmp")),
            "{left:?}\n{output}"
        );
        output
    }

    /// Brings about a column for `name`, asks, compares the code, and restores the repository.
    #[track_caller]
    fn cell(&self, name: &str, column: Column, code: i32) -> Output {
        let _damaged = match column {
            Good | CantTell => None,
            Bad(damage) => Some(self.branch.damage(name, damage)),
            Absent => Some(self.branch.damage(name, Damage::Delete)),
        };
        let _shut = (column == CantTell).then(|| Shut::new(self.branch.wal_directory()));
        let output = self.ask(name);
        assert_eq!(output.code, Some(code), "{name} {column:?}: {output}");
        assert!(
            code != 255 || output.stderr.contains("error:"),
            "{name} {column:?} is silent: {output}"
        );
        output
    }

    /// A row of the table: there and good, bad in three ways, absent, can't tell.
    #[track_caller]
    fn row(&self, name: &str, good: i32, bad: i32, absent: i32, cant_tell: i32) {
        self.cell(name, Good, good);
        for damage in [FLIPPED, CUT, UNREADABLE] {
            let output = self.cell(name, damage, bad);
            let silent = good != 0 || bad == 0;
            assert!(
                silent || output.stderr.contains("error:"),
                "{name} {damage:?} is silent: {output}"
            );
        }
        self.cell(name, Absent, absent);
        self.cell(name, CantTell, cant_tell);
    }
}

oldest_and_newest! {
    /// Aim: a segment that the plan names is delivered byte for byte or PostgreSQL stops; another good copy counts.
    fn a_segment_that_the_plan_names(life: &Life) {
        let branch = life.branch();
        let copy = branch.restore(&["--xid", &life.commit(12).xid.to_string()]);
        let asker = Asker::of(&branch, &copy);
        let name = life.segment(1, life.commit(11).record).name();
        asker.row(&name, 0, 255, 255, 255);

        asker.branch.run(["wal", "fetch", &name, "pg_wal/x"]).cwd(&asker.directory).run().ok();
        let original = fs::read(life.shop.cluster.data_dir().join("pg_wal").join(&name)).unwrap();
        assert!(fs::read(asker.directory.join("pg_wal/x")).unwrap() == original, "{name} was altered");

        let (repository, object) = (branch.repository(), branch.object(&name));
        let healed = repository.join(format!("{object}.r1"));
        fs::copy(repository.join(&object), &healed).unwrap();
        fs::set_permissions(&healed, fs::Permissions::from_mode(0o644)).unwrap();
        for damage in [Damage::FlipBit { at: 700, bit: 3 }, Damage::Delete, Damage::Unreadable] {
            let _damaged = Damaged::new(&repository, &object, damage);
            assert_eq!(asker.ask(&name).code, Some(0), "{damage:?}");
        }
        fs::remove_file(&healed).unwrap();

        // A second repository that has it all.
        let second = branch.home().join("second");
        Run::new("/bin/cp").arg("-al").arg(&repository).arg(&second).run().ok();
        branch.configure(&format!("[repository.second]\nurl = \"file://{}\"\n", second.display()));
        for column in [FLIPPED, CUT, UNREADABLE, Absent, CantTell] {
            asker.cell(&name, column, 0);
        }
        let _damaged = Damaged::new(&second, &object, Damage::Delete);
        asker.row(&name, 0, 255, 255, 255);
    }

    /// Aim: what lies behind the plan's last segment never stops PostgreSQL, which only looks ahead.
    fn a_segment_after_the_plans_last(life: &Life) {
        let branch = life.branch();
        let copy = branch.restore(&["--xid", &life.commit(7).xid.to_string()]);
        let asker = Asker::of(&branch, &copy);
        let last = life.segment(1, life.commit(7).record);
        for number in [last.number + 1, last.number + 2] {
            asker.row(&pgkeep_base::WalSegment { number, ..last }.name(), 0, 1, 1, 1);
        }
    }

    /// Aim: a number that the plan takes from one timeline is never taken from another: a newer one is denied, so that
    /// PostgreSQL goes on to the planned one, an older one stops it.
    fn a_number_in_the_plan_under_another_timeline(life: &Life) {
        let branch = life.branch();
        let (old, new) = (life.segment(1, life.forks[0]), life.segment(2, life.forks[0]));
        let before = branch.restore(&["--xid", &life.commit(17).xid.to_string()]);
        Asker::of(&branch, &before).row(&new.name(), 1, 1, 1, 1);
        let latest = branch.restore(&["--backup", &life.backups[0]]);
        let asker = Asker::of(&branch, &latest);
        asker.row(&old.name(), 255, 255, 255, 255);
        let lost = life.segment(1, life.commit(1002).record);
        asker.row(&lost.name(), 255, 255, 255, 255);
        let early = pgkeep_base::WalSegment { number: life.segment(1, life.commit(3).record).number - 2, ..old };
        assert_eq!(asker.ask(&early.name()).code, Some(255), "before the backup");
    }

    /// Aim: a history is delivered as stored, or rebuilt; "there is none" is said only where that is proven.
    fn a_history_with_a_plan(life: &Life) {
        let branch = life.branch();
        let copy = branch.restore(&[]);
        let asker = Asker::of(&branch, &copy);
        asker.row("00000002.history", 0, 0, 0, 0);
        asker.row("00000003.history", 0, 0, 0, 0);
        assert_eq!(asker.ask("00000004.history").code, Some(1));
        let shut = Shut::new(branch.wal_directory());
        assert_eq!(asker.ask("00000004.history").code, Some(255), "nobody can tell");
        drop(shut);

        // Planned when the history was gone already.
        for column in [FLIPPED, CUT, UNREADABLE, Absent] {
            let branch = life.branch();
            let damage = if let Bad(damage) = column { damage } else { Damage::Delete };
            branch.damage("00000002.history", damage).keep();
            branch.damage("00000003.history", damage).keep();
            let copy = branch.restore(&["--timeline", "2"]);
            let asker = Asker::of(&branch, &copy);
            assert_eq!(asker.ask("00000002.history").code, Some(0), "{column:?}: from the head of a backup");
            assert_eq!(asker.ask("00000003.history").code, Some(255), "{column:?}: it has segments");
            assert_eq!(asker.ask("00000004.history").code, Some(1), "{column:?}");
        }
    }

    /// Aim: a standby is never stopped, and never led down a branch that the newest timeline has left.
    fn a_segment_in_standby_mode(life: &Life) {
        let branch = life.branch();
        let standby = branch.restore(&["--standby", "--archive", "off", "--backup", &life.backups[0]]);
        let planned = branch.restore(&["--backup", &life.backups[0]]);
        let by_flag = Asker { flags: &["--standby"], ..Asker::of(&branch, &planned) };
        for asker in [Asker::of(&branch, &standby), by_flag] {
            asker.row(&life.segment(1, life.commit(11).record).name(), 0, 1, 1, 1);
            asker.row(&life.segment(1, life.forks[0]).name(), 1, 1, 1, 1);
            asker.row(&life.segment(1, life.commit(1002).record).name(), 1, 1, 1, 1);
            asker.row(&life.segment(2, life.forks[0]).name(), 0, 1, 1, 1);
            asker.row(&life.segment(3, life.commit(3002).record).name(), 0, 1, 1, 1);
            let last = life.segment(3, life.commit(3003).record);
            let next = pgkeep_base::WalSegment { number: branch.last_number(3) + 1, ..last };
            assert_eq!(asker.ask(&next.name()).code, Some(1));
        }
    }

    /// Aim: a standby gets a history, from whatever says what it must have been, or asks again by itself.
    fn a_history_in_standby_mode(life: &Life) {
        let branch = life.branch();
        let standby = branch.restore(&["--standby", "--archive", "off"]);
        let asker = Asker::of(&branch, &standby);
        asker.row("00000002.history", 0, 0, 0, 1);
        asker.row("00000003.history", 0, 1, 1, 1);
        assert_eq!(asker.ask("00000004.history").code, Some(1));
        // Timeline 2 has a backup, whose head repeats its history.
        branch.remove("00000003.history");
        assert_eq!(asker.ask("00000003.history").code, Some(1));
        branch.remove("00000002.history");
        assert_eq!(asker.ask("00000002.history").code, Some(0));
    }

    /// Aim: without a plan the archive ends only where nothing comes after it.
    fn a_file_without_a_plan(life: &Life) {
        let branch = life.branch();
        let copy = branch.restore(&[]);
        let asker = Asker::of(&branch, &copy);
        let early = life.segment(1, life.commit(3).record).name();
        // Before the plan's backup, so that the plan, while it counts, stops PostgreSQL.
        assert_eq!(asker.ask(&early).code, Some(255));
        let auto = copy.data_dir().join("postgresql.auto.conf");
        let settings = fs::read_to_string(&auto).unwrap();
        let unplanned = settings.replace("recovery_target_timeline", "#recovery_target_timeline");
        fs::write(&auto, &unplanned).unwrap();
        asker.row(&early, 0, 255, 255, 255);
        // Behind the point where the newest timeline, at which PostgreSQL aims by itself, left this one (ADR 10).
        let left = life.segment(1, life.commit(1002).record).name();
        asker.row(&left, 255, 255, 255, 255);
        fs::write(&auto, format!("{unplanned}\nrecovery_target_timeline = 1\n")).unwrap();
        asker.row(&left, 0, 255, 255, 255);
        fs::write(&auto, &unplanned).unwrap();
        let last = life.segment(3, life.commit(3003).record);
        let last = pgkeep_base::WalSegment { number: branch.last_number(3), ..last };
        asker.row(&last.name(), 0, 255, 1, 255);
        asker.row("00000002.history", 0, 0, 0, 255);
        asker.row("00000003.history", 0, 255, 255, 255);
        assert_eq!(asker.ask("00000004.history").code, Some(1));
    }

    /// Aim: whatever is wrong with the question or the installation stops PostgreSQL; nothing means "end of archive".
    fn a_question_that_has_no_answer(life: &Life) {
        let branch = life.branch();
        let copy = branch.restore(&[]);
        let asker = Asker::of(&branch, &copy);
        for name in ["", "nonsense", "00000001000000000000000", "../00000002.history"] {
            assert_eq!(asker.ask(name).code, Some(255), "{name:?}");
        }
        let name = life.segment(3, life.commit(3002).record).name();
        let ask = |config: &str, rest: &[&str]| {
            let run = branch.bare().args(["--config", config, "wal", "fetch", &name, "pg_wal/x"]);
            run.args(rest).cwd(copy.data_dir()).run().code
        };
        assert_eq!(ask("/nowhere.toml", &[]), Some(255));
        assert_eq!(ask(&branch.config(), &["--no-such-flag"]), Some(255));
        assert_eq!(ask(&branch.config(), &["--identity", "/nowhere"]), Some(255));
        assert_eq!(ask(&branch.config(), &["--repository", "nosuch"]), Some(255));
        let plan = copy.data_dir().join(".pgkeep/recovery-plan.json");
        let sound = fs::read_to_string(&plan).unwrap();
        fs::write(&plan, &sound[..sound.len() / 2]).unwrap();
        assert_eq!(asker.ask(&name).code, Some(255), "half a plan");
        fs::write(&plan, &sound).unwrap();
        assert_eq!(asker.ask(&name).code, Some(0));
    }
}
