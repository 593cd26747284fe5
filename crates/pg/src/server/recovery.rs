//! Watches a restored server until its recovery has ended.
//!
//! Invariant: recovery has ended when `pg_is_in_recovery()` says so, not when the server first accepts connections
//! (that is consistency only); and a server that dies, or pauses for another reason than its target, is an error.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use pgkeep_base::{Error, ErrorKind, Lsn, Result, ResultExt, TimelineId};

use super::{Server, log};
use crate::connect::{Connection, column};
use crate::facts::optional_lsn;

/// The shortest and the longest pause between two looks.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// How recovery ended (`recovery_target_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryEnd {
    /// The server is open for writing, on a new timeline.
    Promoted,
    /// It reached its target and waits for someone's decision, open for reading.
    Paused,
    /// It reached its target and shut down.
    ShutDown,
}

/// Where recovery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryOutcome {
    /// What the server did then.
    pub end: RecoveryEnd,
    /// End of the last record that was replayed; `None` after a shutdown.
    pub end_lsn: Option<Lsn>,
    /// Time of the last commit or abort that was replayed, if there was one.
    pub last_commit_at: Option<Timestamp>,
    /// The timeline that is being written, after a promotion.
    pub timeline: Option<TimelineId>,
    /// How long this was waited for.
    pub waited: Duration,
}

/// How far recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// End of the last record that was replayed.
    pub lsn: Lsn,
    /// Time of the last commit or abort that was replayed, if there was one.
    pub last_commit_at: Option<Timestamp>,
}

/// One look at the server.
struct Look {
    in_recovery: bool,
    paused: bool,
    lsn: Option<Lsn>,
    last_commit_at: Option<Timestamp>,
}

impl Server {
    /// Waits until recovery has ended; `observe` hears how far it is, a few times a second.
    ///
    /// `conninfo` must lead to this server, with a role that may log in while it is a standby.
    ///
    /// # Errors
    /// `Io` with the log's last words when the server dies; `Unavailable` when `limit` is over, and it still
    /// recovers; `Denied` and `Invalid` when the server doesn't let us in; `Refused` when it paused because its
    /// settings are lower than its source's.
    pub async fn wait_recovery_end(
        &mut self,
        conninfo: &str,
        environment: &(dyn Fn(&str) -> Option<String> + Sync),
        limit: Duration,
        observe: &mut (dyn FnMut(Replay) + Send),
    ) -> Result<RecoveryOutcome> {
        let began = Instant::now();
        let mut pause = PAUSE.0;
        let mut conn: Option<Connection> = None;
        loop {
            if !self.is_alive() {
                return self.outcome_of_death(began);
            }
            let look = match &conn {
                Some(conn) => Look::take(conn).await,
                None => match Connection::open(conninfo, environment).await {
                    Ok(opened) => Look::take(conn.insert(opened)).await,
                    Err(error) => Err(error),
                },
            };
            match look {
                Ok(look) if !look.in_recovery || look.paused => {
                    let conn = conn.as_ref().expect("the look was taken through it");
                    return self.outcome(conn, &look, began).await;
                }
                Ok(Look {
                    lsn, last_commit_at, ..
                }) => {
                    if let Some(lsn) = lsn {
                        observe(Replay { lsn, last_commit_at });
                    }
                }
                // Not open yet, or gone: the next look at the process tells.
                Err(error) if error.kind() == ErrorKind::Unavailable => conn = None,
                Err(error) => return Err(error).during(|| "watch recovery"),
            }
            if began.elapsed() > limit {
                let error = Error::unavailable(format!("recovery did not end within {} s", limit.as_secs()));
                return Err(self.with_complaints(error));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(PAUSE.1);
        }
    }

    /// A server whose action is `shutdown` ends well; any other end is a failure.
    fn outcome_of_death(&self, began: Instant) -> Result<RecoveryOutcome> {
        if !self.exited_well {
            return Err(self.died("recovering"));
        }
        Ok(RecoveryOutcome {
            end: RecoveryEnd::ShutDown,
            end_lsn: None,
            last_commit_at: None,
            timeline: None,
            waited: began.elapsed(),
        })
    }

    async fn outcome(&self, conn: &Connection, look: &Look, began: Instant) -> Result<RecoveryOutcome> {
        if look.in_recovery && log::tail(&self.log_file, self.log_offset).contains("insufficient parameter settings") {
            let error = Error::refused("recovery paused because this server's settings are lower than its source's");
            return Err(self.with_complaints(error));
        }
        let timeline = match look.in_recovery {
            true => None,
            false => Some(timeline(conn).await?),
        };
        Ok(RecoveryOutcome {
            end: if look.in_recovery {
                RecoveryEnd::Paused
            } else {
                RecoveryEnd::Promoted
            },
            end_lsn: look.lsn,
            last_commit_at: look.last_commit_at,
            timeline,
            waited: began.elapsed(),
        })
    }
}

impl Look {
    async fn take(conn: &Connection) -> Result<Look> {
        let sql = "SELECT standby, CASE WHEN standby THEN pg_catalog.pg_get_wal_replay_pause_state() = 'paused' END, \
            pg_catalog.pg_last_wal_replay_lsn()::text, pg_catalog.pg_last_xact_replay_timestamp() \
            FROM (SELECT pg_catalog.pg_is_in_recovery() AS standby OFFSET 0) AS role";
        let row = match conn.query_one(sql, &[]).await {
            // Promoted between two columns: the next look is clear.
            Err(error) if error.kind() == ErrorKind::Refused => {
                return Err(error.with_kind(ErrorKind::Unavailable));
            }
            row => row?,
        };
        Ok(Look {
            in_recovery: column(&row, 0)?,
            paused: column::<Option<bool>>(&row, 1)? == Some(true),
            lsn: optional_lsn(column(&row, 2)?)?,
            last_commit_at: column(&row, 3)?,
        })
    }
}

/// The timeline that is being written.
async fn timeline(conn: &Connection) -> Result<TimelineId> {
    let sql = "SELECT pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)";
    let row = conn.query_one(sql, &[]).await?;
    let digits: &str = column(&row, 0)?;
    TimelineId::from_hex(digits).ok_or_else(|| Error::internal(format!("the server named a WAL file \"{digits}…\"")))
}
