//! A cluster under test: a data directory and, while it runs, its postmaster.
//!
//! Invariant: it listens on loopback and a socket of its own only, whatever its `postgresql.conf` says, so that a
//! restored copy never meets its source; and it is ended when dropped.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::builder::{Builder, append};
use super::install::{bin_dir, library_dir};
use super::process::{Postmaster, Readiness};
use crate::scratch::Scratch;
use crate::user::OsUser;
use crate::{matrix, wait};

/// `pg_ctl stop`'s modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopMode {
    /// Waits for sessions to end.
    Smart,
    /// Ends sessions, writes a checkpoint, archives what is left.
    Fast,
    /// Ends at once: the next start is crash recovery.
    Immediate,
}

/// How a recovery that was waited for ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// The database is open for writing.
    Opened,
    /// Replay has paused at its target.
    Paused,
    /// PostgreSQL ended, by FATAL or on request: the log of this start.
    Ended(String),
}

/// A cluster of one major; see [`Cluster::builder`] for new ones, [`Cluster::adopt_dir`] for restored ones.
#[derive(Debug)]
pub struct Cluster {
    pub(super) major: u16,
    data: PathBuf,
    /// Socket, log and, unless adopted, the data directory.
    scratch: Scratch,
    pub(super) user: OsUser,
    port: u16,
    fsync: bool,
    environment: Vec<(String, String)>,
    postmaster: Option<Postmaster>,
    /// Length of the log before the last start.
    log_before: u64,
}

impl Cluster {
    /// A new cluster of `major`, to be configured and started.
    pub fn builder(major: u16) -> Builder {
        Builder::new(major)
    }

    /// Takes over a data directory that something else made (a restore, a base backup) without starting it yet.
    ///
    /// PostgreSQL will run as the owner of `dir`, with sockets, log and port outside of it. Dropping the cluster ends
    /// PostgreSQL and leaves `dir` where it is.
    pub fn adopt_dir(major: u16, dir: impl Into<PathBuf>) -> Cluster {
        let data = dir.into();
        let user = OsUser::owner_of(&data);
        let scratch = Scratch::new();
        user.own(scratch.path());
        Cluster::new(major, data, scratch, user)
    }

    pub(super) fn new(major: u16, data: PathBuf, scratch: Scratch, user: OsUser) -> Cluster {
        Cluster {
            major,
            data,
            scratch,
            user,
            port: 0,
            fsync: false,
            environment: Vec::new(),
            postmaster: None,
            log_before: 0,
        }
    }

    pub(super) fn with_fsync(mut self, on: bool) -> Cluster {
        self.fsync = on;
        self
    }

    /// Adds to the environment of its next postmasters, and so of their `archive_command`.
    #[must_use]
    pub fn with_environment(mut self, environment: Vec<(String, String)>) -> Cluster {
        self.environment.extend(environment);
        self
    }

    /// Starts PostgreSQL and returns when it takes connections: in recovery that is at consistency, see
    /// [`Cluster::wait_recovered`] for its end.
    ///
    /// # Panics
    /// When it ends instead, with its log.
    #[track_caller]
    pub fn start(&mut self) {
        if let Err(log) = self.try_start() {
            panic!(
                "PostgreSQL {} did not start on {}:\n{log}",
                self.major,
                self.data.display()
            );
        }
    }

    /// Like [`Cluster::start`], but gives the log of this start when PostgreSQL ends instead.
    ///
    /// # Errors
    /// The log.
    pub fn try_start(&mut self) -> Result<(), String> {
        // Between choosing a free port and listening on it, another program may take it.
        for _ in 0..5 {
            self.spawn();
            let ready = wait::until("PostgreSQL to start", wait::LIMIT, || match self.readiness() {
                Some(Readiness::Busy) => None,
                other => Some(other.is_some()),
            });
            if ready {
                matrix::note(&format!("postgres {}", self.version()));
                return Ok(());
            }
            self.postmaster = None;
            if !self.log_of_this_start().contains("Address already in use") {
                return Err(self.log_of_this_start());
            }
            self.port = 0;
        }
        Err(self.log_of_this_start())
    }

    /// Starts PostgreSQL where it must not open: gives the log of a start that ended in failure, be it at once or,
    /// as with a target that is never reached, at the end of recovery.
    ///
    /// # Panics
    /// When the database opens, or nothing has happened after a minute.
    #[track_caller]
    pub fn start_expect_failure(&mut self) -> String {
        match self.try_start() {
            Err(log) => log,
            Ok(()) => match self.wait_recovery() {
                Recovery::Ended(log) => log,
                other => panic!("PostgreSQL must not get here: {other:?}\n{}", self.log_of_this_start()),
            },
        }
    }

    /// Waits until recovery has ended and the database is open.
    ///
    /// # Panics
    /// When it pauses or ends instead, with the log of this start.
    #[track_caller]
    pub fn wait_recovered(&mut self) {
        let outcome = self.wait_recovery();
        assert_eq!(outcome, Recovery::Opened, "{}", self.log_of_this_start());
    }

    /// Waits until replay has paused at its target.
    ///
    /// # Panics
    /// When the database opens or PostgreSQL ends instead.
    #[track_caller]
    pub fn wait_paused(&mut self) {
        let outcome = self.wait_recovery();
        assert_eq!(outcome, Recovery::Paused, "{}", self.log_of_this_start());
    }

    /// Waits until recovery has ended in one way or another; at most a minute.
    pub fn wait_recovery(&mut self) -> Recovery {
        wait::until("recovery to end", wait::LIMIT, || match self.readiness() {
            None => {
                self.postmaster = None;
                Some(Recovery::Ended(self.log_of_this_start()))
            }
            Some(Readiness::Busy) => None,
            Some(_) => match self.try_sql(
                "SELECT pg_is_in_recovery() AND pg_get_wal_replay_pause_state() = 'paused', pg_is_in_recovery()",
            ) {
                Ok(row) if row == "f|f" => Some(Recovery::Opened),
                Ok(row) if row == "t|t" => Some(Recovery::Paused),
                _ => None,
            },
        })
    }

    /// Starts it as a standby that has no primary; [`Cluster::promote`] takes it to the next timeline.
    #[track_caller]
    pub fn start_as_standby(&mut self) {
        self.put_file("standby.signal", "");
        self.start();
    }

    /// Writes a file of the data directory, owned by the cluster's user.
    #[track_caller]
    pub fn put_file(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.data.join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        self.user.own(&path);
    }

    /// Stops it in the given mode, then starts it again.
    #[track_caller]
    pub fn restart(&mut self, mode: StopMode) {
        self.stop(mode);
        self.start();
    }

    /// Stops it; nothing to do if it isn't running.
    ///
    /// # Panics
    /// When that takes more than a minute.
    #[track_caller]
    pub fn stop(&mut self, mode: StopMode) {
        let Some(mut postmaster) = self.postmaster.take() else {
            return;
        };
        postmaster.signal(match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        });
        assert!(
            postmaster.wait(wait::LIMIT),
            "PostgreSQL did not stop:\n{}",
            self.log_of_this_start()
        );
    }

    /// `kill -9` of all its processes, as if the machine had lost them; the files stay as they are.
    pub fn kill9(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            postmaster.kill();
        }
    }

    /// Ends recovery of a standby and waits until it is open for writing.
    #[track_caller]
    pub fn promote(&mut self) {
        assert_eq!(
            self.sql("SELECT pg_promote(true, 60)"),
            "t",
            "{}",
            self.log_of_this_start()
        );
        self.wait_recovered();
    }

    /// Appends a setting to `postgresql.conf` and, if PostgreSQL runs, reloads and waits until that has happened.
    /// What needs a restart takes effect with [`Cluster::restart`].
    #[track_caller]
    pub fn set_conf(&mut self, name: &str, value: &str) {
        append(
            &self.data.join("postgresql.conf"),
            &format!("{name} = '{}'", value.replace('\'', "''")),
        );
        if self.is_running() {
            let loaded = self.sql("SELECT pg_conf_load_time()");
            self.sql("SELECT pg_reload_conf()");
            wait::until("the configuration to be reloaded", wait::LIMIT, || {
                (self.sql("SELECT pg_conf_load_time()") != loaded).then_some(())
            });
        }
    }

    /// Whether its postmaster lives.
    pub fn is_running(&mut self) -> bool {
        self.postmaster
            .as_mut()
            .is_some_and(|postmaster| postmaster.ended().is_none())
    }

    /// Pid of its postmaster, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Postmaster::pid)
    }

    /// The major that it runs under.
    pub fn major(&self) -> u16 {
        self.major
    }

    /// The operating-system user that owns it.
    pub fn user(&self) -> OsUser {
        self.user
    }

    /// `PGDATA`.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The directory of its socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.scratch.join("sock")
    }

    /// A directory for the test's own files, owned by the cluster's user, removed with the cluster.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The port that it listens on, also after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A libpq connection string for the superuser, over the socket.
    pub fn conninfo(&self) -> String {
        self.conninfo_in("postgres")
    }

    /// [`Cluster::conninfo`] for another database.
    pub fn conninfo_in(&self, database: &str) -> String {
        let (sockets, port) = (self.socket_dir(), self.port);
        format!("host={} port={port} user=postgres dbname={database}", sockets.display())
    }

    /// All that PostgreSQL has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// What PostgreSQL has logged since it was last started.
    pub fn log_of_this_start(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_before as usize..).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.join("log")
    }

    fn readiness(&mut self) -> Option<Readiness> {
        self.postmaster.as_mut()?.readiness(&self.data)
    }

    fn spawn(&mut self) {
        assert!(!self.is_running(), "it runs already");
        self.log_before = fs::metadata(self.log_path()).map_or(0, |meta| meta.len());
        if self.port == 0 {
            self.port = free_port();
        }
        let sockets = self.socket_dir();
        fs::create_dir_all(&sockets).unwrap_or_else(|error| panic!("create {}: {error}", sockets.display()));
        self.user.own(&sockets);
        let mut command = Command::new(bin_dir(self.major).join("postgres"));
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .env("HOME", self.scratch.path())
            .env("LD_LIBRARY_PATH", library_dir(self.major))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .arg("-D")
            .arg(&self.data);
        for (name, value) in [
            ("port", self.port.to_string()),
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", sockets.display().to_string()),
            ("logging_collector", "off".to_owned()),
            ("log_destination", "stderr".to_owned()),
            ("fsync", if self.fsync { "on" } else { "off" }.to_owned()),
        ] {
            command.args(["-c", &format!("{name}={value}")]);
        }
        self.postmaster = Some(Postmaster::spawn(command, self.user, &self.log_path()));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            postmaster.signal(Signal::QUIT);
            postmaster.wait(Duration::from_secs(5));
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!(
                "--- log of PostgreSQL {} on {}:\n{tail}",
                self.major,
                self.data.display()
            );
        }
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
        .port()
}
