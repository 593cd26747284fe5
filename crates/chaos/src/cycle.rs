//! One cycle: load and faults, the end of the host, restores, and on.
//!
//! A safety phase, in which anything may fail but nothing that was reported may get lost; a liveness phase, in which
//! no fault is left and archiving and backups must be healthy within [`HEALTHY_WITHIN`], by themselves.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use pgkeep_testkit::wait;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::audit::Audited;
use crate::draw::{Cycle, Installation, Kind};
use crate::inventory::Inventory;
use crate::killer::Killer;
use crate::world::{World, patient};

/// Without faults, all must be well again within this time, also on a machine that has much else to do.
const HEALTHY_WITHIN: Duration = Duration::from_secs(300);

/// What a cycle works with, and what it found out so far; kept where a failure can be looked at.
#[derive(Debug, Default)]
pub struct Stage {
    /// The installation, between cycles that share it.
    pub world: Option<World>,
    /// The cycle that it was made in.
    pub since: Option<u64>,
    /// Of the present cycle.
    pub found: Found,
}

/// What one cycle found out.
#[derive(Debug, Default)]
pub struct Found {
    /// Commits that were acknowledged in it.
    pub commits: u64,
    /// Processes that were killed at random moments.
    pub kills: u64,
    /// What the restores came to.
    pub audited: Audited,
    /// How long it took until all was well again, each time.
    pub healthy_after: Vec<Duration>,
    /// What was done to storage.
    pub harm: Option<String>,
    /// Objects in directories that were seen unchanged.
    pub objects: usize,
    /// How commands ended, by name and code.
    pub codes: BTreeMap<String, u64>,
    /// Where the time went, in order.
    pub steps: Vec<(String, Duration)>,
}

impl Found {
    /// Does a step, and notes how long it took.
    fn timed<T>(&mut self, step: impl Into<String>, work: impl FnOnce(&mut Found) -> T) -> T {
        let begun = Instant::now();
        let done = work(self);
        self.steps.push((step.into(), begun.elapsed()));
        done
    }
}

impl Stage {
    /// How the commands of the present cycle ended.
    pub fn codes(&self) -> &BTreeMap<String, u64> {
        match &self.world {
            Some(world) if self.found.codes.is_empty() => &world.codes,
            _ => &self.found.codes,
        }
    }

    /// The installation of a cycle, with writers at work: the one before's, or a new one.
    fn set(&mut self, cycle: &Cycle, installation: &Installation, binary: &Path) {
        let goes_on = self.world.take().filter(|_| !cycle.is_fresh());
        let world = match goes_on {
            Some(mut world) => {
                let ledger = world.ledger(world.way.timeline()).clone();
                world.start_oracle(Some(ledger));
                world
            }
            None => {
                // Also where the one before ended early.
                self.since = Some(cycle.number);
                World::make(binary, installation.clone(), cycle.seed)
            }
        };
        self.world = Some(world);
    }
}

/// Runs one cycle of that installation.
///
/// # Panics
/// When anything is wrong.
pub fn run(stage: &mut Stage, cycle: &Cycle, installation: &Installation, binary: &Path) {
    stage.found = Found::default();
    let begun = Instant::now();
    stage.set(cycle, installation, binary);
    stage.found.steps.push(("set".to_owned(), begun.elapsed()));
    let world = stage.world.as_mut().expect("it was set just now");
    let goes_on = go_through(world, cycle, &mut stage.found);
    stage.found.codes = std::mem::take(&mut world.codes);
    if !goes_on {
        stage.world = None;
    }
}

/// True where the next cycle may go on from what came back.
fn go_through(world: &mut World, cycle: &Cycle, found: &mut Found) -> bool {
    let mut rng = StdRng::seed_from_u64(cycle.seed);
    world.acknowledged = 0;
    let inventory = Inventory::of(world);
    endure(world, cycle, found);
    found.timed("destroy", |_| world.destroy(cycle));
    found.commits = world.acknowledged;
    let later = Inventory::of(world);
    inventory.check(&later);
    world.check_buckets();
    found.objects = later.len();
    let harm = world.harm(cycle, &mut rng);
    found.harm = harm.as_ref().map(|harm| harm.what.clone());
    let goes_on = found.timed("come back", |found| {
        world.come_back(cycle, &mut rng, harm.as_ref(), &mut found.audited)
    });
    if goes_on {
        found.healthy_after.push(world.become_healthy());
    }
    goes_on
}

/// Load and faults; with a calm cycle, what comes after them.
fn endure(world: &mut World, cycle: &Cycle, found: &mut Found) {
    let killer = cycle.kinds.contains(&Kind::KillPush);
    let killer = killer.then(|| Killer::start(world.shop.binary(), cycle.seed));
    world.killing = killer.is_some();
    for action in &cycle.actions {
        found.timed(format!("{action:?}"), |_| world.do_action(*action));
    }
    found.kills = killer.as_ref().map_or(0, Killer::kills);
    drop(killer);
    world.killing = false;
    if cycle.calm {
        world.heal();
        found.healthy_after.push(world.become_healthy());
    }
}

impl World {
    /// I6: waits until archiving has caught up and a backup succeeds, and tells how long that took.
    ///
    /// # Panics
    /// When it takes too long.
    fn become_healthy(&mut self) -> Duration {
        let begun = Instant::now();
        // A server that was in a crash restart a moment ago is not ready for a switch yet.
        let segment = wait::until("the server to take work", HEALTHY_WITHIN, || {
            let switched = self.shop.cluster.try_sql("SELECT pg_walfile_name(pg_switch_wal())");
            switched.ok().map(|name| name.trim().to_owned())
        });
        let status = self.shop.cluster.data_dir().join("pg_wal/archive_status");
        let archived = wait::try_until(HEALTHY_WITHIN, || {
            let waiting = std::fs::read_dir(&status).ok()?.filter_map(Result::ok);
            let names = waiting.filter_map(|entry| entry.file_name().into_string().ok());
            let older = |name: &String| name.strip_suffix(".ready").is_some_and(|name| *name <= *segment);
            (names.filter(older).count() == 0).then_some(())
        });
        let archiver = || self.shop.cluster.sql("SELECT row_to_json(a) FROM pg_stat_archiver a");
        assert!(
            archived.is_some(),
            "I6: archiving did not catch up within {} s: {}\n{}",
            HEALTHY_WITHIN.as_secs(),
            archiver(),
            self.shop.cluster.log_of_this_start()
        );
        self.look();
        self.back_up_in_peace();
        begun.elapsed()
    }

    fn back_up_in_peace(&mut self) {
        let mut output = self.act("backup-in-peace", patient(self.run(["--json", "backup"])));
        if output.code == Some(3) && self.installation.places().iter().any(|(_, required)| !required) {
            // What an optional place missed is stored there by a full backup only, as status says.
            self.claims.backup(&output.json());
            output = self.act("backup-in-peace", patient(self.run(["--json", "backup", "--full"])));
        }
        assert_eq!(output.code, Some(0), "I6: {output}");
        self.claims.backup(&output.json());
        let status = self.act("status-in-peace", self.run(["--json", "status"])).ok().json();
        let health = status["clusters"][0]["health"].as_str().unwrap_or_default();
        assert!(
            matches!(health, "ok" | "warn"),
            "I6: a healthy cluster is {health}: {status}"
        );
    }
}
