//! An installation on its host: what the cycles work with until it ends.
//!
//! Invariant: everything that pgkeep does here is done by the real binary, and how it ended is counted; an end that the
//! contract does not know is a failure of the cycle, whatever came of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgkeep_base::{Lsn, SegmentSize, TimelineId};
use pgkeep_testkit::faults::disk::Disk;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::oracle::Oracle;
use pgkeep_testkit::{Bucket, Clock, Cluster, Ledger, Output, Run, S3Proxy, S3Server, Scratch, TcpProxy, wait};

use crate::claims::{Claims, Way};
use crate::draw::Installation;

/// No command may take longer, whatever happens to it: it hangs then. Generous, since the machine may be busy.
pub const BOUND: Duration = Duration::from_secs(300);
/// Kinds of ends that no command has.
const IMPOSSIBLE: [i32; 3] = [2, 101, 134];
/// Patience with a bucket: short, so that faults that stay are met within seconds.
const IMPATIENT: &str = "retries = 4\nretry_timeout_s = 6\nprogress_timeout_s = 2\nconnect_timeout_s = 2\n";
const WRITERS: u32 = 3;
/// Of each writer after each transaction: an archiver that is killed now and then must be able to keep up.
const PAUSE: Duration = Duration::from_millis(5);
const SEGMENT_MIB: u32 = 1;
/// Disks are a little larger than what fits into them in some cycles.
const PLACE_MIB: u64 = 256;

/// A place of the repository.
#[derive(Debug)]
pub struct Place {
    pub name: &'static str,
    pub storage: Storage,
}

/// What holds it.
#[derive(Debug)]
pub enum Storage {
    /// A directory, maybe on a disk of its own.
    Directory {
        path: PathBuf,
        disk: Option<Disk>,
        _home: Option<Scratch>,
    },
    /// Everything in a bucket, behind two proxies.
    Bucket {
        bucket: Bucket,
        answers: S3Proxy,
        bytes: TcpProxy,
    },
}

/// The installation.
#[derive(Debug)]
pub struct World {
    pub installation: Installation,
    pub shop: Shop,
    pub places: Vec<Place>,
    pub state_disk: Option<Disk>,
    pub wal_disk: Option<Disk>,
    pub clock: Option<Clock>,
    pub oracle: Option<Oracle>,
    /// What was acknowledged, on each timeline up to its end.
    pub ledgers: BTreeMap<TimelineId, Ledger>,
    pub way: Way,
    pub claims: Claims,
    /// Servers of earlier failovers, whose directories hold those of their heirs.
    pub dead: Vec<Cluster>,
    /// How commands ended.
    pub codes: BTreeMap<String, u64>,
    /// Processes of pgkeep's are killed at random: their ends tell nothing.
    pub killing: bool,
    /// Commits that were acknowledged since somebody set this to zero.
    pub acknowledged: u64,
    /// How many hosts there were.
    pub hosts: u32,
    /// Commits that the present writers were told of by their predecessors.
    resumed: u64,
    seed: u64,
    names: u32,
}

impl World {
    /// Makes an installation and takes its first backup, all in peace, and lets writers write.
    pub fn make(binary: &Path, installation: Installation, seed: u64) -> World {
        let memory = |wanted: bool, size, what| wanted.then(|| Disk::memory(size, what)).flatten();
        let state_disk = memory(installation.state_disk, "size=64m", "a full disk of the local state");
        let wal_disk = memory(installation.wal_disk, "size=192m", "a full disk of pg_wal");
        let places = places(&installation, seed);
        let clock = installation.clock.then(Clock::new);
        let mut builder = Shop::builder(binary, installation.major).cluster(|cluster| {
            let mut cluster = cluster
                .segment_mib(SEGMENT_MIB)
                .checksums(installation.checksums)
                .conf("max_wal_size = '48MB'\ncheckpoint_timeout = '30s'\nwal_keep_size = 0");
            if let Some(disk) = &wal_disk {
                cluster = cluster.wal_dir(disk.path().join("wal"));
            }
            for (name, value) in clock.iter().flat_map(Clock::environment) {
                cluster = cluster.env(&name, &value);
            }
            cluster
        });
        for place in &places {
            builder = match &place.storage {
                Storage::Directory { path, .. } => builder.directory_at(place.name, path),
                Storage::Bucket { bucket, bytes, .. } => builder.s3_at(
                    place.name,
                    &format!("http://127.0.0.1:{}", bytes.port()),
                    bucket,
                    "shop",
                    "admin",
                ),
            };
        }
        if !installation.encrypted {
            builder = builder.unencrypted();
        }
        if let Some(disk) = &state_disk {
            builder = builder.state_dir(disk.path().join("state"));
        }
        let shop = builder.start();
        let mut world = World {
            installation,
            shop,
            places,
            state_disk,
            wal_disk,
            clock,
            oracle: None,
            ledgers: BTreeMap::new(),
            way: Way::default(),
            claims: Claims::new(SegmentSize::new(SEGMENT_MIB << 20).expect("a power of two")),
            dead: Vec::new(),
            codes: BTreeMap::new(),
            killing: false,
            acknowledged: 0,
            hosts: 0,
            resumed: 0,
            seed,
            names: 0,
        };
        world.configure();
        world.create_tablespace();
        world.start_oracle(None);
        let done = world.act("backup", patient(world.run(["--json", "backup"]))).ok();
        world.claims.backup(&done.json());
        world
    }

    fn configure(&self) {
        self.shop
            .reconfigure("[cluster.shop]\n", "[cluster.shop]\narchive_timeout = \"5 seconds\"\n");
        for ((name, required), place) in self.installation.places().iter().zip(&self.places) {
            let mut settings = format!("required = {required}\n");
            if matches!(place.storage, Storage::Bucket { .. }) {
                settings += IMPATIENT;
            }
            let table = format!("[repository.{name}]\n");
            self.shop.reconfigure(&table, &format!("{table}{settings}"));
        }
    }

    /// Below the home of the installation, which outlives its hosts: a restore looks whether the old place could be
    /// used again.
    fn create_tablespace(&self) {
        let dir = self.shop.home().dir("tablespace");
        self.shop
            .cluster
            .sql(&format!("CREATE TABLESPACE second LOCATION '{}'", dir.display()));
    }

    /// Lets writers write, on from what `before` says.
    pub fn start_oracle(&mut self, before: Option<Ledger>) {
        let oracle = Oracle::builder(&self.shop.cluster)
            .writers(WRITERS)
            .pause(PAUSE)
            .seed(self.seed.wrapping_add(u64::from(self.hosts)))
            .heavy()
            .tablespace("second");
        self.resumed = before.as_ref().map_or(0, |ledger| ledger.commits().len() as u64);
        let oracle = match before {
            Some(ledger) => oracle.resume(ledger),
            None => oracle,
        };
        self.oracle = Some(oracle.start());
    }

    /// A number that no name here has yet.
    pub fn next_name(&mut self) -> u32 {
        self.names += 1;
        self.names
    }

    /// Lets the writers end, and keeps what was acknowledged on the present timeline.
    pub fn stop_oracle(&mut self) -> &Ledger {
        if let Some(oracle) = self.oracle.take() {
            let ledger = oracle.stop();
            self.acknowledged += ledger.commits().len() as u64 - self.resumed;
            self.ledgers.insert(self.way.timeline(), ledger);
        }
        &self.ledgers[&self.way.timeline()]
    }

    /// Lets the load go on for so many commits, at most three seconds: it may stand still.
    pub fn load(&mut self, commits: u64) {
        let Some(oracle) = &self.oracle else { return };
        let goal = oracle.commits() + commits;
        wait::try_until(Duration::from_secs(3), || (oracle.commits() >= goal).then_some(()));
        self.look();
    }

    /// Notes what PostgreSQL has been told.
    pub fn look(&mut self) {
        self.claims.look(self.shop.cluster.data_dir(), self.way.timeline());
    }

    /// pgkeep with this installation's configuration and clock, to be run by [`World::act`].
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        let run = self.shop.run(args).limit(BOUND);
        match &self.clock {
            Some(clock) => clock.apply(run),
            None => run,
        }
    }

    /// Runs a command to its end.
    pub fn act(&mut self, what: &str, run: Run) -> Output {
        let output = run.run();
        self.count(what, &output);
        output
    }

    /// Counts an end.
    ///
    /// # Panics
    /// When the contract knows no such end.
    pub fn count(&mut self, what: &str, output: &Output) {
        let end = match (output.code, output.signal) {
            (Some(code), _) => format!("{what}:{code}"),
            (None, signal) => format!("{what}:signal-{}", signal.unwrap_or(0)),
        };
        *self.codes.entry(end).or_default() += 1;
        let killed = self.killing && output.signal == Some(9);
        let known = output.code.is_some_and(|code| !IMPOSSIBLE.contains(&code));
        assert!(killed || known, "an end outside of the contract: {output}");
        assert!(!output.stderr.contains("panicked at"), "{output}");
    }

    /// What was acknowledged on a timeline.
    pub fn ledger(&self, timeline: TimelineId) -> &Ledger {
        let found = self.ledgers.get(&timeline);
        found.unwrap_or_else(|| panic!("nobody ever wrote on timeline {timeline}"))
    }

    /// Up to where everything was reported as durable.
    pub fn durable(&self) -> Lsn {
        self.claims.durable(&self.way)
    }

    /// Puts another server in the place of the one that is gone.
    pub fn replace_server(&mut self, heir: Cluster) -> Cluster {
        let (old, new) = (self.shop.cluster.conninfo(), heir.conninfo());
        let dead = std::mem::replace(&mut self.shop.cluster, heir);
        self.shop.reconfigure(&old, &new);
        dead
    }

    /// Directories worth a look after a failure, by a name.
    pub fn belongings(&self) -> Vec<(String, PathBuf)> {
        let mut all = vec![
            ("home".to_owned(), self.shop.home().path().to_owned()),
            ("data".to_owned(), self.shop.cluster.data_dir().to_owned()),
            ("state".to_owned(), self.shop.state_dir()),
        ];
        for place in &self.places {
            if let Storage::Directory { path, .. } = &place.storage {
                all.push((format!("place-{}", place.name), path.clone()));
            }
        }
        all.into_iter().filter(|(_, path)| path.exists()).collect()
    }

    /// A new server process sees the same clock as its predecessor.
    pub fn with_clock(&self, cluster: Cluster) -> Cluster {
        cluster.with_environment(self.clock.iter().flat_map(Clock::environment).collect())
    }
}

/// A command that shall succeed, with time for an archiver that has a queue, on a machine that may be busy.
pub fn patient(run: Run) -> Run {
    run.env("PGKEEP_CLUSTER__SHOP__ARCHIVE_TIMEOUT", "120 seconds")
}

fn places(installation: &Installation, seed: u64) -> Vec<Place> {
    let make = |(name, _): &(&'static str, bool)| {
        let storage = if installation.is_bucket(name) {
            let server = S3Server::shared();
            let bucket = server.bucket("chaos");
            let answers = S3Proxy::start(server, seed);
            let bytes = TcpProxy::start(answers.port());
            Storage::Bucket { bucket, answers, bytes }
        } else {
            directory(installation)
        };
        Place { name, storage }
    };
    installation.places().iter().map(make).collect()
}

fn directory(installation: &Installation) -> Storage {
    let disk = match installation {
        Installation { power: true, .. } => Disk::ext4(PLACE_MIB, "power cuts of a place"),
        Installation { place_disk: true, .. } => Disk::memory(&format!("size={PLACE_MIB}m"), "a full place"),
        _ => None,
    };
    match disk {
        Some(disk) => Storage::Directory {
            path: disk.path().join("place"),
            disk: Some(disk),
            _home: None,
        },
        None => {
            let home = Scratch::new();
            Storage::Directory {
                path: home.join("place"),
                disk: None,
                _home: Some(home),
            }
        }
    }
}
