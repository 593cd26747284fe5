//! Watches a server that was just started, as the user that it runs as.
//!
//! Invariant: whatever happens to the watching, the server runs on: it is stopped by nobody but its operator.

use std::time::{Duration, Instant};

use pgkeep_base::{Error, Result, ResultExt};
use pgkeep_pg::connect::{Connection, column};
use pgkeep_pg::server::{Account, Readiness, RecoveryEnd, RecoveryOutcome, Server};

use super::{Environment, StartCheck, StartPhase};

/// What is needed to watch a server.
pub(super) struct Watch {
    pub users: Vec<String>,
    pub environment: Environment,
    pub limit: Duration,
    pub check: bool,
    pub standby: bool,
    pub began: Instant,
}

/// What was seen of one.
pub(super) struct Seen {
    /// `None` for a standby, whose recovery does not end.
    pub outcome: Option<RecoveryOutcome>,
    pub user: String,
    pub pid: i32,
    pub phases: Vec<StartPhase>,
    pub checks: Vec<StartCheck>,
}

/// Watches from a thread of its own that is the server's user, because `peer` in `pg_hba.conf` lets nobody else in.
pub(super) async fn watch_as(account: Account, server: Server, watch: Watch) -> Result<Seen> {
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
        let mut phases = Vec::new();
        let mut phase = |name, since: Instant| {
            let seconds = since.elapsed().as_secs_f64();
            phases.push(StartPhase { name, seconds });
        };
        let readiness = match server.wait_until_ready(self.limit).await {
            Ok(readiness) => Some(readiness),
            // It may have reached its target, and shut down as it was told, between two looks.
            Err(_) if !self.standby && !server.is_alive() => None,
            Err(error) => return Err(error),
        };
        phase("start and reach consistency", self.began);
        let since = Instant::now();
        let mut user = self.users.first().cloned().unwrap_or_default();
        let mut outcome = None;
        if !self.standby {
            let (ended, who) = self.wait_for_end(&mut server).await?;
            (outcome, user) = (Some(ended), who);
            phase("recover", since);
        }
        let end = outcome.as_ref().map(|outcome| outcome.end);
        let mut checks = Vec::new();
        let open = match end {
            Some(end) => end != RecoveryEnd::ShutDown,
            None => readiness == Some(Readiness::Connections),
        };
        if self.check && open {
            let since = Instant::now();
            (checks, user) = self.ask(&server, end).await?;
            phase("check", since);
        }
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

    /// Asks as the first role that gets in.
    async fn ask(&self, server: &Server, end: Option<RecoveryEnd>) -> Result<(Vec<StartCheck>, String)> {
        let mut refused = None;
        for user in &self.users {
            match Connection::open(&server.conninfo(user, "template1"), &*self.environment).await {
                Ok(connection) => {
                    let one = connection.query_one("SELECT 1", &[]).await?;
                    let recovering = connection
                        .query_one("SELECT pg_catalog.pg_is_in_recovery()", &[])
                        .await?;
                    let (one, recovering): (i32, bool) = (column(&one, 0)?, column(&recovering, 0)?);
                    connection.close().await;
                    let promoted = end == Some(RecoveryEnd::Promoted);
                    let checks = vec![
                        check("SELECT 1", 1, one),
                        check("pg_is_in_recovery()", !promoted, recovering),
                    ];
                    return Ok((checks, user.clone()));
                }
                Err(error) if is_refusal(&error) => refused = Some(error),
                Err(error) => return Err(error.during("check the restored server")),
            }
        }
        let error = refused.unwrap_or_else(|| Error::internal("there is no role to connect as"));
        Err(error.during("check the restored server"))
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
