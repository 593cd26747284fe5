//! Tells a server that works for long from a connection that has gone silent.
//!
//! TCP notices a dead peer, but not one that acknowledges bytes and passes none on, nor a backend that hangs. Whoever
//! has waited for an answer asks in a second session what the backend of the first one is doing.
//! Invariant: a statement is given up only if the server can't be reached anew, or says that it is not at work on it;
//! a checkpoint may take its hours. What the server is at work on is told (log, level warning).

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use pgkeep_base::{Error, Result};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Connection, open};

/// How long an answer is waited for before the first question, and at most between two.
const QUIET: Duration = Duration::from_secs(10);
const QUIET_MAX: Duration = Duration::from_secs(60);
/// How long the second session may take, and an answer that the server says it has given.
const ANSWER: Duration = Duration::from_secs(10);
/// How soon a server that could not be reached is tried again, and how often in a row before it counts as gone.
const AGAIN: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 2;

const SQL: &str =
    "SELECT state, concat_ws(' ', wait_event_type, wait_event) FROM pg_catalog.pg_stat_activity WHERE pid = $1";

/// What a second session found out about the first one.
enum Finding {
    /// It is at work, or waits for what these words say.
    Works(String),
    /// It waits for us, or isn't there any more: what we said or what it answered is lost.
    Done,
    /// The server answered, but not this.
    Unclear,
    /// Nobody answered.
    Unreachable,
}

impl Connection {
    /// Waits for the answer to a statement as long as there is reason to.
    pub(super) async fn answered<T>(
        &self,
        answer: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let mut answer = pin!(answer);
        let began = Instant::now();
        let (mut quiet, mut wait, mut failed) = (QUIET, QUIET, 0);
        loop {
            if let Ok(answered) = timeout(wait, &mut answer).await {
                return answered.map_err(|error| self.fault(error));
            }
            let finding = self.inquire().await;
            failed = if matches!(finding, Finding::Unreachable) {
                failed + 1
            } else {
                0
            };
            wait = match finding {
                Finding::Unreachable if failed >= ATTEMPTS => {
                    return Err(self.silent(began, "and doesn't answer a new connection either"));
                }
                Finding::Unreachable => AGAIN,
                Finding::Done => {
                    return match timeout(ANSWER, &mut answer).await {
                        Ok(answered) => answered.map_err(|error| self.fault(error)),
                        Err(_) => Err(self.silent(
                            began,
                            "although our session there is not at work: the connection is lost",
                        )),
                    };
                }
                Finding::Works(waits_for) => {
                    let seconds = began.elapsed().as_secs();
                    tracing::warn!(seconds, waits_for, "PostgreSQL is still at work on a statement of ours");
                    quiet
                }
                Finding::Unclear => quiet,
            };
            quiet = (quiet * 2).min(QUIET_MAX);
        }
    }

    /// Asks the same server, in a session of its own.
    async fn inquire(&self) -> Finding {
        let asked = async {
            let Some((params, target)) = &self.origin else {
                return Finding::Unclear;
            };
            let Ok(reached) = open::attempt(&params.targets[*target], params).await else {
                return Finding::Unreachable;
            };
            let rows = match reached {
                Ok(session) => {
                    session
                        .client
                        .query_typed(SQL, &[(&self.backend_pid, Type::INT4)])
                        .await
                }
                Err(error) => Err(error),
            };
            match rows {
                Ok(rows) => self.understand(rows.first()),
                Err(error) if error.as_db_error().is_some() => Finding::Unclear,
                Err(_) => Finding::Unreachable,
            }
        };
        timeout(ANSWER, asked).await.unwrap_or(Finding::Unreachable)
    }

    fn understand(&self, row: Option<&Row>) -> Finding {
        let Some(row) = row else { return Finding::Done };
        let state = row.try_get::<_, Option<&str>>(0).ok().flatten().unwrap_or_default();
        let waits_for = row.try_get::<_, &str>(1).unwrap_or_default();
        match state {
            // Half of what we sent has arrived there, or its answer doesn't leave.
            "active" if waits_for.starts_with("Client ") => Finding::Done,
            "active" => Finding::Works(waits_for.to_owned()),
            // Hidden from us, or `track_activities` is off.
            "" | "disabled" => Finding::Unclear,
            _ => Finding::Done,
        }
    }

    fn silent(&self, began: Instant, why: &str) -> Error {
        let seconds = began.elapsed().as_secs();
        Error::unavailable(format!("PostgreSQL has not answered for {seconds} s, {why}")).detail(self.place.clone())
    }
}
