//! Starts a restored cluster and watches its recovery until it has ended.
//!
//! Invariant: recovery has ended when the server says so, not when it first accepts connections. The server is the
//! operator's from the first moment: it outlives pgkeep, also where watching it fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pgkeep_base::{Event, Lsn, PgMajor, Result, ResultExt, TimelineId};
use pgkeep_pg::binaries::{Binaries, Purpose, Search};
use pgkeep_pg::server::{Account, RecoveryEnd, Server, StartOptions, free_port};
use pgkeep_pg::settings::STANDBY_SIGNAL;

use super::recovery::OWN_DIRECTORY;
use crate::engine::Engine;

mod watch;

use watch::{Seen, Watch, watch_as};

/// Where sockets are, unless said otherwise.
const SOCKET_DIRECTORY: &str = "/tmp";
/// Where the server's first words go, below [`OWN_DIRECTORY`].
const LOG: &str = "server.log";

/// Looks an environment variable up.
type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// How to start.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// The restored data directory.
    pub data_directory: PathBuf,
    /// Its major.
    pub major: PgMajor,
    /// Where PostgreSQL's programs are, if not where they are usually found.
    pub postgres_bin: Option<PathBuf>,
    /// The port; `None`: any that is free.
    pub port: Option<u16>,
    /// The only directory of sockets; `None`: `/tmp`.
    pub socket_directory: Option<PathBuf>,
    /// Ask the server whether it works, and in which state it is.
    pub check: bool,
    /// Who connects; `None`: the names that are likely, one after the other.
    pub user: Option<String>,
    /// How long recovery may take before watching it is given up.
    pub limit: Duration,
}

impl StartRequest {
    /// With everything as it is by default.
    pub fn new(data_directory: &Path, major: PgMajor) -> StartRequest {
        StartRequest {
            data_directory: data_directory.to_owned(),
            major,
            postgres_bin: None,
            port: None,
            socket_directory: None,
            check: false,
            user: None,
            limit: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// A part of a start, and how long it took.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StartPhase {
    /// What it was.
    pub name: &'static str,
    /// How long it took.
    pub seconds: f64,
}

/// One question to the server, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StartCheck {
    /// What was asked.
    pub name: &'static str,
    /// Whether the answer was as expected.
    pub ok: bool,
    /// What was expected.
    pub expected: String,
    /// What came.
    pub actual: String,
}

/// A cluster whose recovery has ended.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Started {
    /// How recovery ended: `promoted`, `paused` or `shut-down`; `following` for a standby that is consistent.
    pub end: &'static str,
    /// End of the last record that was replayed; `None` after a shutdown.
    pub end_lsn: Option<Lsn>,
    /// Time of the last commit or abort that was replayed, if there was one.
    pub last_commit_at: Option<Timestamp>,
    /// When the end was seen.
    pub ended_at: Timestamp,
    /// The timeline that is being written, after a promotion.
    pub timeline: Option<TimelineId>,
    /// The server's process; `None` after a shutdown.
    pub pid: Option<i32>,
    /// Its port.
    pub port: u16,
    /// Its socket directory.
    pub socket_directory: PathBuf,
    /// The role that got in.
    pub user: String,
    /// Where its first words went.
    pub log_file: PathBuf,
    /// What took how long, in order.
    pub phases: Vec<StartPhase>,
    /// The answers, where they were asked for.
    pub checks: Vec<StartCheck>,
}

/// Starts a restored cluster and waits until its recovery has promoted, paused or shut it down. A standby is waited
/// for until it is consistent: its recovery never ends.
///
/// # Errors
/// `NotFound` without programs of that major; `Refused` where root owns the directory; `Conflict` where it runs
/// already; `Io` with the server's last errors as detail when it dies; `Unavailable` when `limit` is over, and it
/// still recovers; `Denied` where no role gets in: the server runs on.
pub async fn start(engine: &Engine, request: &StartRequest) -> Result<Started> {
    let phase = |name: &str| {
        let name = name.to_owned();
        engine.setup().progress.event(Event::Phase {
            name,
            bytes_total: None,
        });
    };
    let environment = engine.setup().environment.clone();
    let account = Account::for_data_directory(&request.data_directory)?;
    let options = options(request)?;
    let binaries = find_binaries(request, &environment)?;
    phase("start the server");
    let began = Instant::now();
    let server = Server::start(&binaries, &account, &options).or_hint(|| server_hint(request))?;
    let watch = Watch {
        users: likely_users(request, &account),
        environment,
        limit: request.limit,
        check: request.check,
        standby: request.data_directory.join(STANDBY_SIGNAL).exists(),
        began,
    };
    phase("recover");
    let seen = watch_as(account, server, watch).await?;
    Ok(started(engine, seen, &options))
}

fn server_hint(request: &StartRequest) -> String {
    format!(
        "The files are restored; start the server on {} with `pg_ctl start`, or see `pgkeep doctor`.",
        request.data_directory.display()
    )
}

fn options(request: &StartRequest) -> Result<StartOptions> {
    let directory = &request.data_directory;
    let sockets = request
        .socket_directory
        .as_deref()
        .unwrap_or(Path::new(SOCKET_DIRECTORY));
    let port = match request.port {
        Some(port) => port,
        None => free_port()?,
    };
    let log = directory.join(OWN_DIRECTORY).join(LOG);
    // The copy keeps the source's pg_hba.conf: with `trust` in it, everybody on this host could get in.
    Ok(StartOptions::new(directory, sockets, port, &log).set("unix_socket_permissions", "0700"))
}

fn find_binaries(request: &StartRequest, environment: &Environment) -> Result<Binaries> {
    let path = environment("PATH").map(std::ffi::OsString::from);
    let mut search = Search::new(Purpose::Server, Some(request.major));
    search.configured = request.postgres_bin.as_deref();
    search.path = path.as_deref();
    search.find()
}

/// The role that initdb makes is `postgres`, or has the name of the user that ran it.
fn likely_users(request: &StartRequest, account: &Account) -> Vec<String> {
    if let Some(user) = &request.user {
        return vec![user.clone()];
    }
    let own = account.name().filter(|name| *name != "postgres");
    std::iter::once("postgres").chain(own).map(str::to_owned).collect()
}

fn started(engine: &Engine, seen: Seen, options: &StartOptions) -> Started {
    let outcome = seen.outcome.as_ref();
    let end = match outcome.map(|outcome| outcome.end) {
        Some(RecoveryEnd::Promoted) => "promoted",
        Some(RecoveryEnd::Paused) => "paused",
        Some(RecoveryEnd::ShutDown) => "shut-down",
        None => "following",
    };
    Started {
        end,
        end_lsn: outcome.and_then(|outcome| outcome.end_lsn),
        last_commit_at: outcome.and_then(|outcome| outcome.last_commit_at),
        ended_at: engine.now(),
        timeline: outcome.and_then(|outcome| outcome.timeline),
        pid: (end != "shut-down").then_some(seen.pid),
        port: options.port,
        socket_directory: options.socket_dir.clone(),
        user: seen.user,
        log_file: options.log_file.clone(),
        phases: seen.phases,
        checks: seen.checks,
    }
}
