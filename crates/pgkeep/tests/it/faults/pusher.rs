//! A host that archives into places of its own: fresh for every trial, around one cluster that is stopped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::postgres::Builder;
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
    SOURCE.get_or_init(|| Source::new(1, 12))
}

/// One whose segments are so large that they are stored in parts.
pub fn large_source() -> &'static Source {
    static SOURCE: OnceLock<Source> = OnceLock::new();
    SOURCE.get_or_init(|| Source::new(128, 1))
}

impl Source {
    fn new(segment_mib: u32, count: usize) -> Source {
        let server = S3Server::shared();
        let bucket = server.bucket("faults");
        let builder = shop(17).directory("main").directory("second");
        let builder = builder.s3("bucket", server, &bucket, "made", "admin");
        let settings = |cluster: Builder| cluster.segment_mib(segment_mib).conf("wal_keep_size = '1GB'");
        let mut shop = builder.cluster(settings).start();
        let table = "CREATE TABLE t AS SELECT i, md5(i::text) AS content FROM generate_series(1, 30000) i";
        shop.cluster.sql(table);
        shop.pgkeep(["backup"]).ok();
        let later = "INSERT INTO t SELECT i, 'later' FROM generate_series(30001, 30100) i";
        shop.cluster.sql(later);
        let segments = (0..count).map(|number| write_segment(&shop.cluster, number)).collect();
        let rows = digest(&shop.cluster, "t");
        shop.cluster.archive_all();
        shop.cluster.stop(StopMode::Fast);
        let restored = shop.restore("restored", ["--latest"]).data_dir().to_owned();
        for kind in [Kind::Directory, Kind::Directories, Kind::Bucket] {
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
    }

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

/// Completes a segment that is like no other, and gives its name.
fn write_segment(cluster: &Cluster, number: usize) -> String {
    let word = format!("segment {number} ");
    cluster.sql(&format!(
        "SELECT pg_logical_emit_message(true, 'test', repeat('{word}', 30000))"
    ));
    cluster.switch_wal()
}

/// The kind of place that a trial archives into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One directory.
    Directory,
    /// Two directories, both required.
    Directories,
    /// A bucket.
    Bucket,
}

impl Kind {
    /// The places, all of them required.
    pub fn places(self) -> &'static [&'static str] {
        match self {
            Kind::Directory => &["main"],
            Kind::Directories => &["main", "second"],
            Kind::Bucket => &["bucket"],
        }
    }

    fn configuration(self) -> &'static str {
        match self {
            Kind::Directory => "directory.toml",
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
    /// Holds its directories.
    places: PathBuf,
    /// Holds state and key.
    own: PathBuf,
    prefix: String,
    scratch: Scratch,
}

/// Bodies of objects, by the name of the place and their own.
pub type Bodies = BTreeMap<(String, String), Vec<u8>>;

impl Pusher {
    /// One that pushes what [`source`] has.
    pub fn new(kind: Kind) -> Pusher {
        Pusher::of(source(), kind)
    }

    pub fn of(source: &'static Source, kind: Kind) -> Pusher {
        let scratch = Scratch::new();
        let here = scratch.path().to_owned();
        Pusher::at(source, kind, here.clone(), here, scratch)
    }

    /// One that has all of its own in a directory of somebody else's.
    pub fn on(directory: &Path) -> Pusher {
        let here = directory.to_owned();
        Pusher::at(source(), Kind::Directories, here.clone(), here, Scratch::new())
    }

    /// One that has nothing but its one place in a directory of somebody else's.
    pub fn to(directory: &Path) -> Pusher {
        let scratch = Scratch::new();
        let own = scratch.path().to_owned();
        Pusher::at(source(), Kind::Directory, directory.to_owned(), own, scratch)
    }

    fn at(source: &'static Source, kind: Kind, places: PathBuf, own: PathBuf, scratch: Scratch) -> Pusher {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        for place in kind.places() {
            let path = places.join(place);
            fs::create_dir_all(&path).unwrap();
            OsUser::unprivileged().own(&path);
        }
        // Making them is not the pusher's business.
        fs::File::open(&places).and_then(|places| places.sync_all()).unwrap();
        let prefix = format!("trial-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Pusher {
            source,
            kind,
            places,
            own,
            prefix,
            scratch,
        }
    }

    /// The directory of a place that is one.
    pub fn directory(&self, place: &str) -> PathBuf {
        self.places.join(place)
    }

    /// Whether a line of a trace is about a file of one of its places.
    pub fn is_in_a_place(&self, line: &str) -> bool {
        let is_in = |place: &&str| line.contains(&format!("<{}", self.directory(place).display()));
        self.places().iter().any(is_in)
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
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
                Kind::Directory | Kind::Directories => format!("file://{}", self.directory(place).display()),
                Kind::Bucket => format!("s3://{}/{}", self.source.bucket.name(), self.prefix),
            };
            run = run
                .env(format!("PGKEEP_REPOSITORY__{}__URL", place.to_uppercase()), url)
                .env(format!("PGKEEP_REPOSITORY__{}__REQUIRED", place.to_uppercase()), "true");
        }
        run.cwd(self.source.shop.cluster.data_dir())
            .env("PGKEEP_STATE_DIR", self.own.join("state"))
            .env("PGKEEP_SIGNING_KEY_FILE", self.own.join("signing.key"))
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
                Kind::Directory | Kind::Directories => objects(&self.directory(place)),
                Kind::Bucket => self.source.bucket.list(&format!("{}/", self.prefix)),
            };
            for name in names {
                let body = match self.kind {
                    Kind::Directory | Kind::Directories => fs::read(self.directory(place).join(&name)).unwrap(),
                    Kind::Bucket => self.source.bucket.get(&name),
                };
                bodies.insert((place.to_string(), name), body);
            }
        }
        bodies
    }

    /// Which places have the object of a segment; parts alone are none. More than one in a place is wrong.
    #[track_caller]
    pub fn places_with(&self, segment: &str, bodies: &Bodies, context: &str) -> Vec<&str> {
        let count = |place: &&str| {
            let of_segment = |(at, name): &&(String, String)| {
                // A part ends in `.p0000`.
                at == place && name.contains(&format!("/{segment}-")) && !name.contains(".p")
            };
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
