//! What the seed decides: which installation, which faults, in which order, and how the host ends.
//!
//! Invariant: everything here follows from the seed, the number of the cycle and what the machine allows, never from
//! what happened in earlier cycles; only the moments at which faults strike are the machine's own. Swarm-style: each
//! cycle draws which kinds of faults are on at all, so that rare mixtures come up as well as single faults.

use std::collections::BTreeSet;
use std::ops::Range;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

/// A cluster goes through at most so many cycles.
const GENERATIONS_MAX: u64 = 6;
/// What brief cycles follow from unless told otherwise: a gate shall fail by what was changed, not by what it drew.
pub const BRIEF_SEED: u64 = 7187;
/// So many kinds of faults at most strike in a brief cycle.
const BRIEF_KINDS_MAX: usize = 3;

/// One kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `wal push` is killed at any moment, again and again.
    KillPush,
    /// A backup or a mark is killed.
    KillCommand,
    /// A backup is stopped for a while, and another one tried meanwhile.
    StopCommand,
    /// The server dies with all its processes, and starts again.
    Crash,
    /// The archiver is killed.
    KillArchiver,
    /// A standby is promoted; the old primary dies, goes on, or comes back.
    Failover,
    /// The disk of a place is full.
    FullPlace,
    /// The disk of the local state is full.
    FullState,
    /// The disk of `pg_wal` is full.
    FullWal,
    /// The disk of a place loses power.
    PowerCut,
    /// A place can't be reached.
    Unreachable,
    /// The S3 server answers wrongly.
    S3Answers,
    /// Connections to the S3 server break.
    S3Bytes,
    /// Connections to PostgreSQL break.
    PgBytes,
    /// The local state is lost.
    StateLost,
    /// The host's clock jumps.
    ClockJump,
    /// A place is lost with the host.
    PlaceLost,
    /// Objects of a place are damaged while the host is lost.
    ObjectsDamaged,
}

/// What draws: a seed, and what there is to draw from.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// What decides.
    pub seed: u64,
    /// At most [`BRIEF_KINDS_MAX`] kinds of faults in a cycle, and little work.
    pub brief: bool,
    /// The machine lets us mount file systems in memory.
    pub mounts: bool,
    /// The machine lets us mount file systems on loop devices.
    pub loops: bool,
}

/// Where the repository is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// In one directory.
    Directory,
    /// In two directories, both required.
    TwoDirectories,
    /// In two directories, the second optional.
    OptionalDirectory,
    /// In a bucket.
    Bucket,
    /// In a directory and a bucket, both required.
    DirectoryAndBucket,
}

/// An installation.
#[derive(Clone, Debug, Serialize)]
pub struct Installation {
    /// Of PostgreSQL.
    pub major: u16,
    /// Page checksums.
    pub checksums: bool,
    /// Sealed to an identity.
    pub encrypted: bool,
    /// Where the repository is.
    pub layout: Layout,
    /// Directories of the repository are on disks that can lose power.
    pub power: bool,
    /// Directories of the repository are on disks that can be full.
    pub place_disk: bool,
    /// The local state has a disk of its own.
    pub state_disk: bool,
    /// `pg_wal` has a disk of its own.
    pub wal_disk: bool,
    /// Everything sees a clock that can jump.
    pub clock: bool,
}

impl Installation {
    /// Names of the places, and whether each is required.
    pub fn places(&self) -> &'static [(&'static str, bool)] {
        match self.layout {
            Layout::Directory | Layout::Bucket => &[("main", true)],
            Layout::TwoDirectories | Layout::DirectoryAndBucket => &[("main", true), ("second", true)],
            Layout::OptionalDirectory => &[("main", true), ("second", false)],
        }
    }

    /// Whether that place is in a bucket.
    pub fn is_bucket(&self, place: &str) -> bool {
        match self.layout {
            Layout::Bucket => true,
            Layout::DirectoryAndBucket => place == "second",
            _ => false,
        }
    }

    fn allows(&self, kind: Kind) -> bool {
        let bucket = self.is_bucket("main") || self.is_bucket("second");
        let directory = !self.is_bucket("main");
        match kind {
            Kind::FullPlace => directory && self.place_disk,
            Kind::PowerCut => directory && self.power,
            Kind::FullState => self.state_disk,
            Kind::FullWal => self.wal_disk,
            Kind::S3Answers | Kind::S3Bytes => bucket,
            Kind::ClockJump => self.clock,
            Kind::PlaceLost => self.places().iter().all(|(_, required)| *required) && self.places().len() > 1,
            _ => true,
        }
    }
}

/// What is done while the load runs.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Takes a backup.
    Backup {
        /// With `--full`.
        full: bool,
    },
    /// Makes a restore point.
    Mark,
    /// Completes the segment that is being written.
    Switch,
    /// Asks for status, list and window.
    Look,
    /// Does a fault of this kind; the number decides on what is left open.
    Fault(Kind, u64),
}

/// How the host ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Nothing of it is left.
    Destroyed,
    /// Its server is dead for good, but the disk can be read once more: `wal salvage`.
    Salvaged,
}

/// Which earlier moment is restored, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// The record that begins at or before an LSN.
    Lsn,
    /// A time.
    Time,
    /// A restore point that was reported as durable, if there is one.
    Mark,
}

/// One cycle.
#[derive(Clone, Debug, Serialize)]
pub struct Cycle {
    /// Its number.
    pub number: u64,
    /// The cycle that its installation was made in.
    pub since: u64,
    /// Kinds of faults that are on.
    pub kinds: BTreeSet<Kind>,
    /// What is done while the load runs, in order.
    pub actions: Vec<Action>,
    /// Faults end, and all must be well again, before the host ends; else it ends in the middle of them.
    pub calm: bool,
    /// How the host ends.
    pub end: End,
    /// Which of the places the newest state is restored from: all, or only one.
    pub from: Option<&'static str>,
    /// Which earlier moment is restored.
    pub moment: Moment,
    /// The restored host is made a protected one by `adopt`; else by `--archive on`.
    pub adopt: bool,
    /// Every page, heap and index is looked at.
    pub deep: bool,
    /// For what the machine's own course leaves open.
    pub seed: u64,
}

impl Cycle {
    /// Whether it needs an installation of its own.
    pub fn is_fresh(&self) -> bool {
        self.since == self.number
    }

    /// What it leaves can't go on: storage was lost or damaged, and nothing mends it yet.
    fn ends_installation(&self) -> bool {
        self.kinds.contains(&Kind::PlaceLost) || self.kinds.contains(&Kind::ObjectsDamaged)
    }
}

impl Draw {
    /// Numbers of one purpose, from the seed and the cycle.
    fn rng(&self, cycle: u64, purpose: u64) -> StdRng {
        let mut hasher = blake3::Hasher::new();
        for part in [self.seed, cycle, purpose] {
            hasher.update(&part.to_le_bytes());
        }
        StdRng::from_seed(*hasher.finalize().as_bytes())
    }

    /// The installation of the cycles that began with `cycle`.
    pub fn installation(&self, cycle: u64) -> Installation {
        let mut rng = self.rng(cycle, 1);
        let layouts = [
            (Layout::Directory, 25),
            (Layout::TwoDirectories, 25),
            (Layout::OptionalDirectory, 15),
            (Layout::Bucket, 20),
            (Layout::DirectoryAndBucket, 15),
        ];
        let layout = layouts.choose_weighted(&mut rng, |(_, weight)| *weight);
        let major = rng.random_range(14..=18);
        let checksums = rng.random_ratio(3, 4);
        let encrypted = rng.random_ratio(4, 5);
        let power = rng.random_ratio(1, 3);
        Installation {
            major,
            checksums,
            encrypted,
            layout: layout.expect("the weights are positive").0,
            power: power && self.loops,
            place_disk: !power && self.mounts,
            state_disk: rng.random_ratio(1, 3) && self.mounts,
            wal_disk: rng.random_ratio(1, 4) && self.mounts,
            clock: rng.random_ratio(1, 4),
        }
    }

    /// One cycle of a run.
    pub fn cycle(&self, number: u64) -> Cycle {
        let since = self.since(number);
        self.plan(number, since)
    }

    /// The cycle of the installation that `number` works on.
    fn since(&self, number: u64) -> u64 {
        // From a cycle that is certainly fresh, forwards: whether one is depends on the one before.
        let mut since = number - number % GENERATIONS_MAX;
        for next in since + 1..=number {
            let before = self.plan(next - 1, since);
            if before.ends_installation() || self.rng(next, 2).random_ratio(1, 4) {
                since = next;
            }
        }
        since
    }

    fn plan(&self, number: u64, since: u64) -> Cycle {
        let installation = self.installation(since);
        let mut rng = self.rng(number, 3);
        let kinds = self.kinds(&mut rng, &installation);
        let actions = actions(&mut rng, &kinds, if self.brief { 1..2 } else { 2..5 });
        let places = installation.places();
        let calm = rng.random_ratio(1, 3);
        let single = rng
            .random_ratio(1, 3)
            .then(|| places.choose(&mut rng).expect("there is one").0);
        Cycle {
            number,
            since,
            actions,
            calm,
            end: if rng.random_ratio(1, 4) {
                End::Salvaged
            } else {
                End::Destroyed
            },
            from: single.filter(|_| !kinds.contains(&Kind::PlaceLost) && !kinds.contains(&Kind::ObjectsDamaged)),
            moment: match rng.random_range(0..4) {
                0 if !installation.clock => Moment::Time,
                1 => Moment::Mark,
                _ => Moment::Lsn,
            },
            adopt: rng.random(),
            deep: rng.random_ratio(1, 2),
            seed: rng.random(),
            kinds,
        }
    }

    fn kinds(&self, rng: &mut StdRng, installation: &Installation) -> BTreeSet<Kind> {
        // What an installation was made for comes up more often in it.
        let drawn = EVERYWHERE
            .iter()
            .map(|kind| (*kind, 5))
            .chain(SPECIAL.iter().map(|kind| (*kind, 2)));
        let mut kinds: Vec<Kind> = drawn
            .filter(|(_, one_in)| rng.random_ratio(1, *one_in))
            .map(|(kind, _)| kind)
            .filter(|kind| installation.allows(*kind))
            .collect();
        if kinds.is_empty() {
            kinds.push(Kind::Crash);
        }
        if self.brief {
            kinds.shuffle(rng);
            kinds.truncate(BRIEF_KINDS_MAX);
        }
        kinds.into_iter().collect()
    }
}

/// Kinds that any installation can meet.
const EVERYWHERE: [Kind; 11] = [
    Kind::KillPush,
    Kind::KillCommand,
    Kind::StopCommand,
    Kind::Crash,
    Kind::KillArchiver,
    Kind::Failover,
    Kind::Unreachable,
    Kind::PgBytes,
    Kind::StateLost,
    Kind::PlaceLost,
    Kind::ObjectsDamaged,
];

/// Kinds that an installation must be made for.
const SPECIAL: [Kind; 7] = [
    Kind::FullPlace,
    Kind::FullState,
    Kind::FullWal,
    Kind::PowerCut,
    Kind::S3Answers,
    Kind::S3Bytes,
    Kind::ClockJump,
];

fn actions(rng: &mut StdRng, kinds: &BTreeSet<Kind>, ordinary: Range<u32>) -> Vec<Action> {
    let background = [Kind::KillPush, Kind::PlaceLost, Kind::ObjectsDamaged];
    let mut actions: Vec<Action> = kinds
        .iter()
        .filter(|kind| !background.contains(kind))
        .map(|kind| Action::Fault(*kind, rng.random()))
        .collect();
    for _ in 0..rng.random_range(ordinary) {
        actions.push(match rng.random_range(0..6) {
            0 => Action::Mark,
            1 => Action::Switch,
            2 => Action::Look,
            full => Action::Backup { full: full == 3 },
        });
    }
    actions.shuffle(rng);
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Draw = Draw {
        seed: 7,
        brief: false,
        mounts: true,
        loops: true,
    };

    #[test]
    fn a_cycle_is_the_same_whenever_it_is_drawn() {
        let drawn = |number| serde_json::to_string(&ALL.cycle(number)).unwrap();
        let forwards: Vec<String> = (0..60).map(drawn).collect();
        let backwards: Vec<String> = (0..60).rev().map(drawn).collect();
        assert!(forwards.iter().eq(backwards.iter().rev()));
        let other = Draw { seed: 8, ..ALL };
        assert_ne!(drawn(3), serde_json::to_string(&other.cycle(3)).unwrap());
    }

    #[test]
    fn every_kind_comes_up_and_none_where_it_can_not_be_done() {
        let mut seen = BTreeSet::new();
        let mut fresh = 0;
        for number in 0..300 {
            let cycle = ALL.cycle(number);
            let installation = ALL.installation(cycle.since);
            assert!(cycle.kinds.iter().all(|kind| installation.allows(*kind)), "{cycle:?}");
            fresh += u32::from(cycle.is_fresh());
            seen.extend(cycle.kinds);
        }
        assert_eq!(seen.len(), EVERYWHERE.len() + SPECIAL.len(), "{seen:?}");
        assert!((75..250).contains(&fresh), "{fresh} of 300 cycles began anew");
        let nothing = Draw {
            mounts: false,
            loops: false,
            ..ALL
        };
        for number in 0..100 {
            let kinds = nothing.cycle(number).kinds;
            let impossible = [Kind::FullPlace, Kind::FullState, Kind::FullWal, Kind::PowerCut];
            assert!(impossible.iter().all(|kind| !kinds.contains(kind)), "{kinds:?}");
        }
    }

    #[test]
    fn what_lost_its_storage_does_not_go_on() {
        for number in 1..200 {
            let before = ALL.cycle(number - 1);
            assert!(!before.ends_installation() || ALL.cycle(number).is_fresh());
        }
    }

    #[test]
    fn the_gates_cycles_have_every_kind_and_every_major() {
        let gate = Draw {
            seed: BRIEF_SEED,
            brief: true,
            ..ALL
        };
        let cycles: Vec<Cycle> = (0..10).map(|number| gate.cycle(number)).collect();
        let kinds: BTreeSet<Kind> = cycles.iter().flat_map(|cycle| cycle.kinds.clone()).collect();
        assert_eq!(kinds.len(), EVERYWHERE.len() + SPECIAL.len(), "{kinds:?}");
        let majors: BTreeSet<u16> = cycles
            .iter()
            .map(|cycle| gate.installation(cycle.since).major)
            .collect();
        assert_eq!(majors.len(), 5, "{majors:?}");
        assert!(cycles.iter().all(|cycle| cycle.kinds.len() <= BRIEF_KINDS_MAX));
    }
}
