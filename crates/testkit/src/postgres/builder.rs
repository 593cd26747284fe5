//! How a test says which cluster it wants.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::cluster::Cluster;
use super::install::program;
use crate::scratch::Scratch;
use crate::user::OsUser;

/// Settings of every test cluster: small, quick to start, everything that a standby or two-phase commit asks for.
const SETTINGS: &str = "\
shared_buffers = '16MB'
max_connections = 60
max_wal_senders = 10
max_prepared_transactions = 20
wal_level = replica
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
";

/// A cluster to be made by `initdb`; see [`Cluster::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    major: u16,
    segment_mib: u32,
    checksums: bool,
    group_access: bool,
    fsync: bool,
    settings: String,
    environment: Vec<(String, String)>,
    wal_dir: Option<PathBuf>,
}

impl Builder {
    pub(super) fn new(major: u16) -> Builder {
        Builder {
            major,
            segment_mib: 16,
            checksums: true,
            group_access: false,
            fsync: false,
            settings: SETTINGS.to_owned(),
            environment: Vec::new(),
            wal_dir: None,
        }
    }

    /// Size of a WAL segment, 1 to 1024 MiB, a power of two; 16 by default as in PostgreSQL.
    #[must_use]
    pub fn segment_mib(mut self, mib: u32) -> Builder {
        self.segment_mib = mib;
        self
    }

    /// Page checksums, on by default (in every major).
    #[must_use]
    pub fn checksums(mut self, on: bool) -> Builder {
        self.checksums = on;
        self
    }

    /// A data directory that its group may read (`initdb --allow-group-access`).
    #[must_use]
    pub fn group_access(mut self) -> Builder {
        self.group_access = true;
        self
    }

    /// Makes PostgreSQL durable; off by default, because only a power cut could tell.
    #[must_use]
    pub fn fsync(mut self, on: bool) -> Builder {
        self.fsync = on;
        self
    }

    /// Adds lines to `postgresql.conf`; of two for the same setting the later counts.
    #[must_use]
    pub fn conf(mut self, lines: &str) -> Builder {
        writeln!(self.settings, "{}", lines.trim()).expect("a string takes any text");
        self
    }

    /// Turns archiving on with this `archive_command`.
    #[must_use]
    pub fn archive_command(self, command: &str) -> Builder {
        self.conf("archive_mode = on")
            .conf(&format!("archive_command = '{}'", command.replace('\'', "''")))
    }

    /// Sets an environment variable of the postmaster, and so of its `archive_command`.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts `pg_wal` elsewhere, as `initdb --waldir` does: `dir` is absent or empty, and the cluster's user may write it.
    #[must_use]
    pub fn wal_dir(mut self, dir: impl Into<PathBuf>) -> Builder {
        self.wal_dir = Some(dir.into());
        self
    }

    /// Runs `initdb`, writes the settings, starts nothing. Takes about 0.4 s.
    ///
    /// A copied template would be quicker, but its copies would share one system identifier.
    pub fn init(self) -> Cluster {
        let scratch = Scratch::new();
        let data = scratch.join("data");
        let user = OsUser::unprivileged();
        let mut initdb = program(self.major, "initdb")
            .as_user(user)
            .args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "--no-locale",
                "-E",
                "UTF8",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .arg(format!("--wal-segsize={}", self.segment_mib));
        if self.checksums {
            initdb = initdb.arg("--data-checksums");
        } else if self.major >= 18 {
            initdb = initdb.arg("--no-data-checksums");
        }
        if let Some(dir) = &self.wal_dir {
            initdb = initdb.arg("--waldir").arg(dir);
        }
        if self.group_access {
            initdb = initdb.arg("--allow-group-access");
        }
        initdb.run().ok();
        append(&data.join("postgresql.conf"), &self.settings);
        Cluster::new(self.major, data, scratch, user)
            .with_fsync(self.fsync)
            .with_environment(self.environment)
    }

    /// [`Builder::init`], then [`Cluster::start`].
    pub fn start(self) -> Cluster {
        let mut cluster = self.init();
        cluster.start();
        cluster
    }
}

/// Appends to a file that keeps its owner.
pub(super) fn append(path: &std::path::Path, lines: &str) {
    use std::io::Write as _;
    fs::OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| writeln!(file, "{}", lines.trim_end()))
        .unwrap_or_else(|error| panic!("append to {}: {error}", path.display()));
}
