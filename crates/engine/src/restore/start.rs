//! Starts a restored cluster and watches its recovery until it has ended.
//!
//! Invariant: recovery has ended when the server says so, not when it first accepts connections. The server is the
//! operator's from the first moment: it outlives pgkeep, also where watching it fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pgkeep_base::{Error, Event, Lsn, PgMajor, Result, ResultExt, TimelineId};
use pgkeep_pg::binaries::{Binaries, Purpose, Search};
use pgkeep_pg::connect::{Connection, column};
use pgkeep_pg::server::{Account, RecoveryEnd, RecoveryOutcome, Server, StartOptions, free_port};

use super::recovery::OWN_DIRECTORY;
use crate::engine::Engine;

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
    /// How recovery ended: `promoted`, `paused` or `shut-down`.
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

/// Starts a restored cluster and waits until its recovery has promoted, paused or shut it down.
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
    Ok(StartOptions::new(directory, sockets, port, &log))
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

/// What is needed to watch a server.
struct Watch {
    users: Vec<String>,
    environment: Environment,
    limit: Duration,
    check: bool,
    began: Instant,
}

/// What was seen of one.
struct Seen {
    outcome: RecoveryOutcome,
    user: String,
    pid: i32,
    phases: Vec<StartPhase>,
    checks: Vec<StartCheck>,
}

/// Watches from a thread of its own that is the server's user, because `peer` in `pg_hba.conf` lets nobody else in.
async fn watch_as(account: Account, server: Server, watch: Watch) -> Result<Seen> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let work = move || {
        let seen = become_user(&account).and_then(|()| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(watch.run(server))
        });
        // Nobody listens where the restore was cancelled: the server runs on.
        let _ = sender.send(seen);
    };
    std::thread::Builder::new()
        .name("watch-recovery".to_owned())
        .spawn(work)
        .during(|| "start a thread that watches recovery")?;
    receiver
        .await
        .map_err(|source| Error::internal("watching recovery failed").source(source))?
}

/// Takes a user's identity for this thread alone.
fn become_user(account: &Account) -> Result<()> {
    use rustix::thread::set_thread_uid;
    if account.uid() == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    set_thread_uid(rustix::fs::Uid::from_raw(account.uid()))
        .map_err(std::io::Error::from)
        .during(|| format!("act as user {}", account.uid()))
}

impl Watch {
    async fn run(self, mut server: Server) -> Result<Seen> {
        server.wait_until_ready(self.limit).await?;
        let mut phases = vec![StartPhase {
            name: "start and reach consistency",
            seconds: self.began.elapsed().as_secs_f64(),
        }];
        let consistent = Instant::now();
        let (outcome, user) = self.wait_for_end(&mut server).await?;
        phases.push(StartPhase {
            name: "recover",
            seconds: consistent.elapsed().as_secs_f64(),
        });
        let mut checks = Vec::new();
        if self.check && outcome.end != RecoveryEnd::ShutDown {
            let asking = Instant::now();
            checks = self.ask(&server, &user, outcome.end).await?;
            phases.push(StartPhase {
                name: "check",
                seconds: asking.elapsed().as_secs_f64(),
            });
        }
        server.keep();
        Ok(Seen {
            outcome,
            user,
            pid: server.pid(),
            phases,
            checks,
        })
    }

    /// Tries the likely roles until one gets in.
    async fn wait_for_end(&self, server: &mut Server) -> Result<(RecoveryOutcome, String)> {
        let environment = &*self.environment;
        let mut refused = None;
        for user in &self.users {
            let conninfo = server.conninfo(user, "template1");
            let left = self.limit.saturating_sub(self.began.elapsed());
            match server
                .wait_recovery_end(&conninfo, environment, left, &mut |_| {})
                .await
            {
                Ok(outcome) => return Ok((outcome, user.clone())),
                Err(error) if server.is_alive() && is_refusal(&error) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        let error = refused.unwrap_or_else(|| Error::internal("there is no role to connect as"));
        Err(error
            .during("watch recovery")
            .or_hint("The server runs; see its log for how recovery goes, or let its owner in through pg_hba.conf."))
    }

    async fn ask(&self, server: &Server, user: &str, end: RecoveryEnd) -> Result<Vec<StartCheck>> {
        let open = Connection::open(&server.conninfo(user, "template1"), &*self.environment);
        let connection = open.await.during(|| "check the restored server")?;
        let one = connection.query_one("SELECT 1", &[]).await?;
        let recovering = connection
            .query_one("SELECT pg_catalog.pg_is_in_recovery()", &[])
            .await?;
        let (one, recovering): (i32, bool) = (column(&one, 0)?, column(&recovering, 0)?);
        connection.close().await;
        Ok(vec![
            check("SELECT 1", 1, one),
            check("pg_is_in_recovery()", end == RecoveryEnd::Paused, recovering),
        ])
    }
}

/// Whether another role might get in.
fn is_refusal(error: &Error) -> bool {
    use pgkeep_base::ErrorKind::{Denied, Invalid, NotFound};
    matches!(error.kind(), Denied | Invalid | NotFound)
}

fn check<T: PartialEq + std::fmt::Display>(name: &'static str, expected: T, actual: T) -> StartCheck {
    StartCheck {
        name,
        ok: expected == actual,
        expected: expected.to_string(),
        actual: actual.to_string(),
    }
}

fn started(engine: &Engine, seen: Seen, options: &StartOptions) -> Started {
    let end = match seen.outcome.end {
        RecoveryEnd::Promoted => "promoted",
        RecoveryEnd::Paused => "paused",
        RecoveryEnd::ShutDown => "shut-down",
    };
    Started {
        end,
        end_lsn: seen.outcome.end_lsn,
        last_commit_at: seen.outcome.last_commit_at,
        ended_at: engine.now(),
        timeline: seen.outcome.timeline,
        pid: (seen.outcome.end != RecoveryEnd::ShutDown).then_some(seen.pid),
        port: options.port,
        socket_directory: options.socket_dir.clone(),
        user: seen.user,
        log_file: options.log_file.clone(),
        phases: seen.phases,
        checks: seen.checks,
    }
}
