//! The host is gone; what comes back is compared with what was acknowledged and what was reported as durable.
//!
//! Invariants (docs/reliability.md): nothing that was reported as durable is missing (I1), no later commit without the
//! earlier ones (I2), exactly what the plan announced (I3), never wrong data (I5), sound pages and indexes (I9). A
//! refusal is right only where it names WAL that nobody was ever told to be archived, or where storage was damaged.

use std::fs;
use std::path::PathBuf;

use pgkeep_base::{Lsn, TimelineId};
use pgkeep_testkit::postgres::Recovery;
use pgkeep_testkit::{Cluster, Output, StopMode, Upto, wait};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::claims::{lsn, number, text};
use crate::damage::Harm;
use crate::draw::{Cycle, End, Moment};
use crate::world::{World, patient};

/// What came of the restores of one cycle.
#[derive(Debug, Default)]
pub struct Audited {
    /// Restores that were started and compared.
    pub restores: u64,
    /// Commits that were looked for, over all of them.
    pub compared: u64,
    /// Commits that had to come back, since they had been reported as durable.
    pub promised: u64,
    /// Refusals, each with what justified it.
    pub refusals: Vec<String>,
    /// Restores that went on without a place that was gone, as the hint said.
    pub elsewhere: u64,
}

/// A restored cluster that was compared, and the timeline that it came from.
struct Restored {
    cluster: Cluster,
    timeline: TimelineId,
    /// The start of the last record, as the plan has it.
    announced: Lsn,
}

/// How a restore went.
enum Came {
    Back(Restored),
    /// It was refused, rightly, as the text says.
    Refused(String),
}

impl World {
    /// The host ends. What was reported as durable until now is what must come back.
    pub fn destroy(&mut self, cycle: &Cycle) {
        self.shop.cluster.kill9();
        self.look();
        self.stop_oracle();
        // Faults end with the host that they struck; its archiver may have been in the middle of one until now.
        self.heal();
        if cycle.end == End::Salvaged {
            self.salvage();
        }
        for dead in &mut self.dead {
            dead.kill9();
            remove_data(dead.data_dir());
        }
        remove_data(self.shop.cluster.data_dir());
        remove(&self.shop.state_dir());
    }

    /// The disk of the dead host is read once more: all that was acknowledged is in the archive then.
    fn salvage(&mut self) {
        let directory = self.shop.cluster.data_dir().to_owned();
        let output = self.act("salvage", self.run(["--json", "wal", "salvage"]).arg(directory));
        if output.code != Some(0) {
            return;
        }
        let done = output.json();
        let (timeline, end) = (number(&done["end"], "timeline"), lsn(&done["end"], "lsn"));
        let reachable = done["reachable"].as_array().cloned().unwrap_or_default();
        let reached = |range: &Value| number(range, "timeline") == timeline && lsn(range, "to_lsn") >= end;
        if timeline == u64::from(self.way.timeline().get()) && reachable.iter().any(reached) {
            self.claims.salvaged(self.way.timeline());
        }
    }

    /// Restores the newest state and an earlier moment, compares both, and goes on from the newest. False where the
    /// installation ends with this.
    pub fn come_back(&mut self, cycle: &Cycle, rng: &mut StdRng, harm: Option<&Harm>, audited: &mut Audited) -> bool {
        self.hosts += 1;
        let durable = self.durable();
        let archive = if cycle.adopt { "off" } else { "on" };
        let mut options = vec!["--latest".to_owned(), "--archive".to_owned(), archive.to_owned()];
        options.extend(
            cycle
                .from
                .iter()
                .flat_map(|place| ["--repository".to_owned(), (*place).to_owned()]),
        );
        let promised = cycle
            .from
            .is_none_or(|place| self.installation.places().contains(&(place, true)));
        let damaged = harm.is_some_and(|harm| !harm.another_is_whole);
        let name = format!("host-{}", self.hosts);
        let newest = match self.restore(&name, &options, damaged || !promised, audited) {
            Came::Back(restored) => restored,
            Came::Refused(why) => {
                audited.refusals.push(why);
                self.earlier(cycle, rng, durable, damaged, audited);
                return false;
            }
        };
        if promised && !damaged {
            audited.promised += self.check_claims(&newest, durable);
        }
        self.know_timeline_of(&newest, promised);
        self.earlier(cycle, rng, newest.announced, damaged, audited);
        if let Some(harm) = harm {
            // What it archives until then goes into that place, too.
            let _ = newest.cluster.try_sql("SELECT pg_switch_wal()");
            self.restore_from_harmed(harm, audited);
        }
        self.check_deeply(&newest.cluster, cycle);
        if harm.is_some() || !promised {
            return false;
        }
        self.settle_on(newest, cycle);
        true
    }

    /// A restored server begins a timeline and may archive it at once: further restores may lead there, and hold what it
    /// holds. From a place that promised nothing it may have taken the number of one that other places know.
    fn know_timeline_of(&mut self, restored: &Restored, promised: bool) {
        let timeline = restored.cluster.timeline();
        if !promised && self.ledgers.contains_key(&timeline) {
            return;
        }
        let settled = self.ledger(restored.timeline).settle(&restored.cluster);
        let settled = settled.unwrap_or_else(|wrong| panic!("{wrong}"));
        self.ledgers.insert(timeline, settled);
    }

    /// The place that was harmed, alone, gives what it announces or nothing.
    fn restore_from_harmed(&mut self, harm: &Harm, audited: &mut Audited) {
        let options = ["--latest", "--repository", harm.place].map(str::to_owned);
        if let Came::Refused(why) = self.restore("harmed", &options, true, audited) {
            audited.refusals.push(why);
        }
    }

    /// I1: everything that was reported as durable is there; how many commits that was.
    fn check_claims(&self, restored: &Restored, durable: Lsn) -> u64 {
        let newer = self.way.timeline() != restored.timeline && durable > self.way.begin();
        assert!(
            !newer,
            "WAL of timeline {} was archived up to {durable}, and timeline {} was restored",
            self.way.timeline(),
            restored.timeline
        );
        let ledger = self.ledger(restored.timeline);
        let checked = ledger.check(&restored.cluster, Upto::AtLeast(durable));
        let checked = checked.unwrap_or_else(|wrong| panic!("reported as durable up to {durable}: {wrong}"));
        checked.required as u64
    }

    /// An earlier moment, in a directory of its own, that is looked at and thrown away.
    fn earlier(&mut self, cycle: &Cycle, rng: &mut StdRng, until: Lsn, damaged: bool, audited: &mut Audited) {
        let Some((options, upto)) = self.choose_moment(cycle.moment, until, rng) else {
            return;
        };
        let name = format!("moment-{}", self.hosts);
        let options: Vec<String> = options
            .into_iter()
            .chain(["--action", "promote"].map(str::to_owned))
            .collect();
        match self.restore(&name, &options, damaged, audited) {
            Came::Refused(why) => audited.refusals.push(why),
            Came::Back(mut restored) => {
                let checked = self.ledger(restored.timeline).check(&restored.cluster, upto);
                checked.unwrap_or_else(|wrong| panic!("{options:?}: {wrong}"));
                if cycle.deep && self.installation.checksums {
                    restored.cluster.stop(StopMode::Fast);
                    restored.cluster.check_pages();
                }
                restored.cluster.kill9();
                self.forget(&name);
            }
        }
    }

    /// Removes what a restore made.
    fn forget(&self, name: &str) {
        let home = fs::read_dir(self.shop.home().path())
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        let made = home.filter(|entry| entry.file_name().to_string_lossy().starts_with(name));
        made.for_each(|entry| remove(&entry.path()));
    }

    /// A moment before `until` and after a backup that is on the way, and what must be there then.
    fn choose_moment(&self, moment: Moment, until: Lsn, rng: &mut StdRng) -> Option<(Vec<String>, Upto)> {
        let pick = |count: usize, rng: &mut StdRng| (count > 0).then(|| rng.random_range(0..count.max(1)));
        let marks: Vec<_> = self.claims.marks(&self.way).collect();
        if moment == Moment::Mark
            && let Some(at) = pick(marks.len(), rng)
        {
            let mark = marks[at];
            return Some((
                vec!["--restore-point".to_owned(), mark.name.clone()],
                Upto::AtLeast(mark.lsn),
            ));
        }
        let first = self.claims.backups(&self.way).map(|backup| backup.stop).min()?;
        let commits = self.ledger(self.way.timeline()).commits();
        let within: Vec<_> = commits
            .iter()
            .filter(|commit| commit.from_lsn > first && commit.to_lsn < until)
            .collect();
        let commit = within[pick(within.len(), rng)?];
        if moment == Moment::Time {
            return Some((
                vec!["--at".to_owned(), commit.to_time.to_string()],
                Upto::Time(commit.to_time),
            ));
        }
        Some((
            vec!["--lsn".to_owned(), commit.to_lsn.to_string()],
            Upto::Lsn(commit.to_lsn),
        ))
    }

    /// Restores, recovers, and holds the result against the plan. `may_refuse` where storage was damaged, or the place
    /// promised nothing.
    fn restore(&mut self, name: &str, options: &[String], may_refuse: bool, audited: &mut Audited) -> Came {
        let target = self.shop.target(name);
        let command = ["--json", "restore", "--dry-run", "--into"];
        let planned = self.act("plan", self.run(command).arg(&target).args(options));
        if planned.code != Some(0) {
            if let Some(elsewhere) = elsewhere(&planned, options) {
                audited.elsewhere += 1;
                return self.restore(name, &elsewhere, may_refuse, audited);
            }
            return Came::Refused(self.justify(&planned, may_refuse));
        }
        let moves = moves(&planned.json(), &self.shop.target(&format!("{name}.tablespace")));
        let run = self
            .run(["--json", "restore", "--into"])
            .arg(&target)
            .args(options)
            .args(moves);
        let output = self.act("restore", run);
        if output.code != Some(0) {
            assert!(
                !target.join("global/pg_control").exists(),
                "a refused restore can be started: {output}"
            );
            return Came::Refused(self.justify(&output, may_refuse));
        }
        let plan = output.json();
        let mut cluster = self.with_clock(Cluster::adopt_dir(self.installation.major, &target));
        if let Err(log) = recover(&mut cluster) {
            assert!(may_refuse, "recovery did not arrive: {log}\n{output}");
            return Came::Refused("recovery stopped at damaged storage".to_owned());
        }
        let timeline = number(&plan["target"], "timeline") as u32;
        let announced = lsn(&plan["target"], "lsn");
        let restored = Restored {
            cluster,
            timeline: TimelineId::new(timeline).expect("a timeline is not 0"),
            announced,
        };
        let ledger = self.ledger(restored.timeline);
        let checked = ledger.check(&restored.cluster, Upto::Lsn(announced));
        let checked = checked.unwrap_or_else(|wrong| panic!("the plan announced {announced}: {wrong}\n{output}"));
        audited.restores += 1;
        audited.compared += checked.required.max(checked.rows) as u64;
        check_unlogged(&restored.cluster);
        Came::Back(restored)
    }

    /// Why a refusal is right.
    ///
    /// # Panics
    /// When it isn't.
    fn justify(&self, output: &Output, may_refuse: bool) -> String {
        let said = output
            .stderr
            .lines()
            .find(|line| line.starts_with("error:"))
            .unwrap_or_default();
        assert!(
            output.stderr.contains("\"hint\":"),
            "a refusal without a way on: {output}"
        );
        if may_refuse {
            return format!("damaged or unpromised: {said}");
        }
        let missing = segments_in(&output.stderr).find(|name| !self.claims.is_archived(name));
        match missing {
            Some(name) => format!("never archived: {name}: {said}"),
            None => panic!("refused for no reason: {output}"),
        }
    }

    /// I9, by PostgreSQL's own tools.
    fn check_deeply(&self, cluster: &Cluster, cycle: &Cycle) {
        if cycle.deep {
            cluster.check_structure();
        }
    }

    /// The restored cluster is this installation's server from now on.
    fn settle_on(&mut self, restored: Restored, cycle: &Cycle) {
        let cluster = restored.cluster;
        let settled = self.ledger(cluster.timeline()).clone();
        let (parent, begin) = crate::failover::fork_of(&cluster);
        self.way.fork(parent, cluster.timeline(), begin);
        drop(self.replace_server(cluster));
        self.dead.clear();
        if cycle.adopt {
            self.adopt();
        }
        self.ledgers.insert(self.way.timeline(), settled);
    }

    fn adopt(&mut self) {
        let directory = self.shop.cluster.data_dir().to_owned();
        let output = self.act("adopt", patient(self.run(["--json", "adopt"]).arg(&directory)));
        assert_eq!(output.code, Some(0), "{output}");
        // It was restarted by pg_ctl: taken over again, so that it ends with us.
        let pg_ctl = self
            .shop
            .cluster
            .program("pg_ctl")
            .args(["stop", "-m", "fast", "-w", "-D"]);
        pg_ctl.arg(&directory).run().ok();
        self.shop.cluster.start();
        let timeline = self.shop.cluster.timeline();
        if timeline != self.way.timeline() {
            let (parent, begin) = crate::failover::fork_of(&self.shop.cluster);
            self.way.fork(parent, timeline, begin);
        }
        let done = output.json();
        self.claims.backup(&done["backup"]);
    }
}

/// Starts a restored cluster until it is open; the log where it isn't.
fn recover(cluster: &mut Cluster) -> Result<(), String> {
    cluster.try_start()?;
    match cluster.wait_recovery() {
        Recovery::Opened => Ok(()),
        Recovery::Ended(log) => Err(log),
        Recovery::Paused => Err(cluster.log_of_this_start()),
    }
}

/// With a place that does not tell: the same from the place that the hint names.
fn elsewhere(refused: &Output, options: &[String]) -> Option<Vec<String>> {
    const OPTION: &str = "--repository";
    if refused.code != Some(7) || options.iter().any(|option| option == OPTION) {
        return None;
    }
    let (_, behind) = refused.stderr.split_once("`--repository ")?;
    let (place, _) = behind.split_once('`')?;
    let more = [OPTION, place].map(str::to_owned);
    Some(options.iter().cloned().chain(more).collect())
}

/// Where each tablespace of a plan goes instead.
fn moves(plan: &Value, beside: &std::path::Path) -> Vec<String> {
    let tablespaces = plan["tablespaces"].as_array().cloned().unwrap_or_default();
    let moved = |tablespace: &Value| {
        let to = PathBuf::from(format!("{}-{}", beside.display(), number(tablespace, "oid")));
        [
            "--tablespace".to_owned(),
            format!("{}={}", text(tablespace, "from"), to.display()),
        ]
    };
    tablespaces.iter().flat_map(moved).collect()
}

/// An unlogged table is there and empty after any recovery.
fn check_unlogged(cluster: &Cluster) {
    let exists = cluster.sql("SELECT to_regclass('oracle_unlogged') IS NOT NULL");
    if exists == "t" {
        assert_eq!(
            cluster.sql("SELECT count(*) FROM oracle_unlogged"),
            "0",
            "an unlogged table came back"
        );
    }
}

/// Names of WAL segments in a text.
fn segments_in(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_hexdigit())
        .filter(|word| word.len() == 24)
}

/// A data directory and its tablespaces.
fn remove_data(data_dir: &std::path::Path) {
    let links = fs::read_dir(data_dir.join("pg_tblspc")).into_iter().flatten();
    for link in links.filter_map(Result::ok) {
        remove(&fs::read_link(link.path()).unwrap_or_default());
    }
    remove(data_dir);
}

/// A server that was killed just now may still have a child that writes.
fn remove(path: &std::path::Path) {
    if path.as_os_str().is_empty() {
        return;
    }
    wait::until("a directory to be gone", wait::LIMIT, || {
        let gone = fs::remove_dir_all(path);
        let missing = gone
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        (gone.is_ok() || missing).then_some(())
    });
}
