//! A host that archives into places of its own: fresh for every trial, around one cluster that is stopped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Bucket, Cluster, OsUser, Output, Run, S3Server, Scratch, StopMode};

use crate::backup::digest;
use crate::shop;

/// A stopped cluster with complete segments in `pg_wal`, and its archive, which has a backup, too.
pub struct Source {
    /// Its places are `main`, `second` and `bucket`.
    pub shop: Shop,
    /// The backup, restored and not started: a recovery that is planned.
    pub restored: PathBuf,
    /// What the cluster held at its end: [`Source::rows`].
    pub rows: String,
    /// Complete segments, in order.
    pub segments: Vec<String>,
    bucket: Bucket,
}

/// The one of this test process.
pub fn source() -> &'static Source {
    static SOURCE: OnceLock<Source> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let server = S3Server::shared();
        let bucket = server.bucket("faults");
        let shop = shop(17)
            .directory("main")
            .directory("second")
            .s3("bucket", server, &bucket, "made", "admin");
        let mut shop = shop.cluster(|cluster| cluster.conf("wal_keep_size = '1GB'")).start();
        let write = |number: usize| {
            let word = format!("segment {number} ");
            shop.cluster.sql(&format!(
                "SELECT pg_logical_emit_message(true, 'test', repeat('{word}', 30000))"
            ));
            shop.cluster.switch_wal()
        };
        shop.cluster
            .sql("CREATE TABLE t AS SELECT i, md5(i::text) AS content FROM generate_series(1, 30000) i");
        shop.pgkeep(["backup"]).ok();
        shop.cluster
            .sql("INSERT INTO t SELECT i, 'later' FROM generate_series(30001, 30100) i");
        let segments: Vec<String> = (0..12).map(write).collect();
        let rows = digest(&shop.cluster, "t");
        shop.cluster.archive_all();
        shop.cluster.stop(StopMode::Fast);
        let restored = shop.restore("restored", ["--latest"]).data_dir().to_owned();
        for kind in [Kind::Directories, Kind::Bucket] {
            let toml = fs::read_to_string(shop.config_file()).unwrap();
            shop.home().file(kind.configuration(), only(&toml, kind.places()));
        }
        Source {
            shop,
            restored,
            rows,
            segments,
            bucket,
        }
    })
}

impl Source {
    /// What a cluster holds, as one line.
    pub fn rows(&self, cluster: &Cluster) -> String {
        digest(cluster, "t")
    }

    /// What PostgreSQL has under the name of a segment.
    pub fn content(&self, segment: &str) -> Vec<u8> {
        fs::read(self.path(segment)).unwrap()
    }

    /// Where PostgreSQL has it.
    pub fn path(&self, segment: &str) -> PathBuf {
        self.shop.cluster.data_dir().join("pg_wal").join(segment)
    }
}

/// The kind of place that a trial archives into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Two directories, both required.
    Directories,
    /// A bucket.
    Bucket,
}

impl Kind {
    /// The places, all of them required.
    pub fn places(self) -> &'static [&'static str] {
        match self {
            Kind::Directories => &["main", "second"],
            Kind::Bucket => &["bucket"],
        }
    }

    fn configuration(self) -> &'static str {
        match self {
            Kind::Directories => "directories.toml",
            Kind::Bucket => "bucket.toml",
        }
    }
}

/// The configuration without the repositories that are not in `places`.
fn only(toml: &str, places: &[&str]) -> String {
    let is_wanted = |table: &&str| match table.strip_prefix("repository.") {
        Some(rest) => places.iter().any(|place| rest.starts_with(&format!("{place}]"))),
        None => true,
    };
    let tables: Vec<&str> = toml.split("\n[").filter(is_wanted).collect();
    tables.join("\n[")
}

/// A host with its own state and signing key, and empty places.
pub struct Pusher {
    source: &'static Source,
    kind: Kind,
    /// Holds places, state and key.
    home: PathBuf,
    prefix: String,
    scratch: Scratch,
}

/// Bodies of objects, by the name of the place and their own.
pub type Bodies = BTreeMap<(String, String), Vec<u8>>;

impl Pusher {
    pub fn new(kind: Kind) -> Pusher {
        let scratch = Scratch::new();
        Pusher::at(kind, scratch.path().to_owned(), scratch)
    }

    /// One that has everything in a directory of somebody else's.
    pub fn on(home: &Path) -> Pusher {
        Pusher::at(Kind::Directories, home.to_owned(), Scratch::new())
    }

    fn at(kind: Kind, home: PathBuf, scratch: Scratch) -> Pusher {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        for place in ["main", "second"] {
            let path = home.join(place);
            fs::create_dir_all(&path).unwrap();
            OsUser::unprivileged().own(&path);
        }
        // Making them is not the pusher's business.
        fs::File::open(&home).and_then(|home| home.sync_all()).unwrap();
        let prefix = format!("trial-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Pusher {
            source: source(),
            kind,
            home,
            prefix,
            scratch,
        }
    }

    /// Whether a line of a trace is about a file of one of its places.
    pub fn is_in_a_place(&self, line: &str) -> bool {
        let is_in = |place: &&str| line.contains(&format!("<{}", self.home.join(place).display()));
        self.places().iter().any(is_in)
    }

    /// Where the directories of its places are.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The places, all of them required.
    pub fn places(&self) -> &'static [&'static str] {
        self.kind.places()
    }

    /// pgkeep with this host's places, in the data directory.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        let configuration = self.source.shop.home().join(self.kind.configuration());
        let mut run = self.source.shop.bare().arg("--config").arg(configuration).args(args);
        for place in self.places() {
            let url = match self.kind {
                Kind::Directories => format!("file://{}", self.home.join(place).display()),
                Kind::Bucket => format!("s3://{}/{}", self.source.bucket.name(), self.prefix),
            };
            run = run
                .env(format!("PGKEEP_REPOSITORY__{}__URL", place.to_uppercase()), url)
                .env(format!("PGKEEP_REPOSITORY__{}__REQUIRED", place.to_uppercase()), "true");
        }
        run.cwd(self.source.shop.cluster.data_dir())
            .env("PGKEEP_STATE_DIR", self.home.join("state"))
            .env("PGKEEP_SIGNING_KEY_FILE", self.home.join("signing.key"))
    }

    /// `wal push` of a segment.
    pub fn push(&self, segment: &str) -> Run {
        self.run(["wal", "push", &format!("pg_wal/{segment}")])
    }

    /// `wal fetch` of a segment from one place, with what it delivered.
    pub fn fetch(&self, segment: &str, place: &str) -> (Output, Option<Vec<u8>>) {
        let destination = self.scratch.join("fetched");
        let run = self
            .run(["wal", "fetch", "--repository", place, segment])
            .arg(&destination);
        let output = run.run();
        let delivered = fs::read(&destination).ok();
        if delivered.is_some() {
            fs::remove_file(destination).unwrap();
        }
        (output, delivered)
    }

    /// All objects of the trial's places.
    pub fn bodies(&self) -> Bodies {
        let mut bodies = Bodies::new();
        for place in self.places() {
            let names = match self.kind {
                Kind::Directories => objects(&self.home.join(place)),
                Kind::Bucket => self.source.bucket.list(&format!("{}/", self.prefix)),
            };
            for name in names {
                let body = match self.kind {
                    Kind::Directories => fs::read(self.home.join(place).join(&name)).unwrap(),
                    Kind::Bucket => self.source.bucket.get(&name),
                };
                bodies.insert((place.to_string(), name), body);
            }
        }
        bodies
    }

    /// Which places have an object of a segment. More than one in a place is wrong.
    #[track_caller]
    pub fn places_with(&self, segment: &str, bodies: &Bodies, context: &str) -> Vec<&str> {
        let count = |place: &&str| {
            let of_segment = |(at, name): &&(String, String)| at == place && name.contains(&format!("/{segment}-"));
            let count = bodies.keys().filter(of_segment).count();
            assert!(count <= 1, "{context}: {segment} has {count} objects in {place}");
            count == 1
        };
        self.places().iter().copied().filter(count).collect()
    }

    /// A segment that was acknowledged: every place gives it, whole.
    ///
    /// No object has become another since `before`: so what had a name then was whole, too.
    #[track_caller]
    pub fn check_acknowledged(&self, segment: &str, before: &Bodies, context: &str) {
        let after = self.bodies();
        assert_eq!(
            self.places_with(segment, &after, context),
            self.places(),
            "{context}: {segment} was acknowledged"
        );
        for (name, body) in before {
            assert!(
                after.get(name) == Some(body),
                "{context}: {name:?} has another body, or none, now"
            );
        }
        for place in self.places() {
            let (output, delivered) = self.fetch(segment, place);
            assert_eq!(output.code, Some(0), "{context}: {output}");
            assert!(
                delivered == Some(self.source.content(segment)),
                "{context}: {place} gives other bytes"
            );
        }
    }
}
