//! Replication, as far as it endangers the primary or makes a standby useless: slots that hold WAL back, and lag.

use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::{ByteSize, Result, ResultExt};
use pgkeep_pg::connect::{Connection, column};

use super::ask::{Answers, Asked, ago, unasked};
use super::findings::{Findings, Verdict};
use crate::engine::Engine;

/// A standby later than this gets a warning.
const LAG_MAX: Duration = Duration::from_secs(300);
/// WAL that an unused slot may hold back before it gets one.
const HELD_MAX: ByteSize = ByteSize::mib(1024);

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub active: bool,
    /// WAL that it holds back; `None` before its first use.
    pub held: Option<ByteSize>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
}

/// A standby that streams from this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// `None` where our role may not see it.
    pub name: Option<String>,
    /// WAL that it has not replayed.
    pub behind: Option<ByteSize>,
    /// How late its replay is.
    pub late: Option<Duration>,
}

/// How far a standby has replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayLag {
    /// Time of the last commit that was replayed.
    pub replayed: Option<Timestamp>,
    /// All that was received is replayed.
    pub caught_up: bool,
    pub paused: bool,
}

fn bytes(number: Option<i64>) -> Option<ByteSize> {
    number.map(|number| ByteSize(number.max(0).unsigned_abs()))
}

const CURRENT: &str = "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
    ELSE pg_catalog.pg_current_wal_lsn() END";

impl Slot {
    /// Asks the server; any role may.
    pub async fn gather(connection: &Connection) -> Result<Vec<Slot>> {
        let sql = format!(
            "SELECT slot_name::text, active, pg_catalog.pg_wal_lsn_diff({CURRENT}, restart_lsn)::int8, wal_status \
             FROM pg_catalog.pg_replication_slots ORDER BY slot_name"
        );
        let rows = connection
            .query(&sql, &[])
            .await
            .during(|| "read the replication slots")?;
        let slot = |row| {
            let (name, active) = (column(row, 0)?, column(row, 1)?);
            Ok(Slot {
                name,
                active,
                held: bytes(column(row, 2)?),
                wal_status: column(row, 3)?,
            })
        };
        rows.iter().map(slot).collect()
    }
}

impl Sender {
    /// Asks the server; what our role may not see is `None`.
    pub async fn gather(connection: &Connection) -> Result<Vec<Sender>> {
        let sql = format!(
            "SELECT application_name, pg_catalog.pg_wal_lsn_diff({CURRENT}, replay_lsn)::int8, \
             EXTRACT(epoch FROM replay_lag)::float8 FROM pg_catalog.pg_stat_replication \
             WHERE state IS NULL OR state IN ('streaming', 'catchup') ORDER BY pid"
        );
        let rows = connection
            .query(&sql, &[])
            .await
            .during(|| "read the state of replication")?;
        let sender = |row| {
            let seconds: Option<f64> = column(row, 2)?;
            let late = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            Ok(Sender {
                name: column(row, 0)?,
                behind: bytes(column(row, 1)?),
                late,
            })
        };
        rows.iter().map(sender).collect()
    }
}

impl ReplayLag {
    /// Asks the server; `None` for a primary.
    pub async fn gather(connection: &Connection) -> Result<Option<ReplayLag>> {
        let sql = "SELECT pg_catalog.pg_last_xact_replay_timestamp(), \
            pg_catalog.pg_last_wal_receive_lsn() IS NOT DISTINCT FROM pg_catalog.pg_last_wal_replay_lsn(), \
            pg_catalog.pg_is_wal_replay_paused() WHERE pg_catalog.pg_is_in_recovery()";
        let rows = connection.query(sql, &[]).await.during(|| "read the state of replay")?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(ReplayLag {
            replayed: column(row, 0)?,
            caught_up: column(row, 1)?,
            paused: column(row, 2)?,
        }))
    }
}

/// Judges slots and lag.
pub fn check(engine: &Engine, one: &Asked, findings: &mut Findings) {
    let Ok(answers) = &one.answers else {
        return findings.put_all(&["replication-slots", "replication-lag"], &unasked());
    };
    findings.put(
        "replication-slots",
        match &answers.slots {
            Ok(slots) => judge_slots(slots),
            Err(error) => Verdict::untold(error, "See PostgreSQL's log."),
        },
    );
    findings.put("replication-lag", judge_lag(answers, engine.now()));
}

fn judge_slots(slots: &[Slot]) -> Verdict {
    let bad: Vec<&Slot> = slots.iter().filter(|slot| is_harmful(slot)).collect();
    if bad.is_empty() {
        return match slots.len() {
            0 => Verdict::skip("there are none"),
            number => Verdict::pass(format!("{number}, none holds back much WAL unused")),
        };
    }
    let evidence: Vec<String> = bad.iter().map(|slot| describe(slot)).collect();
    let drop = |slot: &&Slot| format!("SELECT pg_drop_replication_slot('{}');", slot.name.replace('\'', "''"));
    let fix: Vec<String> = bad.iter().map(drop).collect();
    Verdict::warn(
        evidence.join("; "),
        format!(
            "If nobody needs them: {} Or bound what they hold: ALTER SYSTEM SET max_slot_wal_keep_size = '10GB';",
            fix.join(" ")
        ),
    )
}

fn is_harmful(slot: &Slot) -> bool {
    let lost = matches!(slot.wal_status.as_deref(), Some("lost" | "unreserved"));
    lost || !slot.active && slot.held.is_some_and(|held| held > HELD_MAX)
}

fn describe(slot: &Slot) -> String {
    match (slot.wal_status.as_deref(), slot.held) {
        (Some("lost"), _) => format!("slot {} has lost the WAL that it needs", slot.name),
        (_, Some(held)) => format!("slot {} is unused and holds back {held} of pg_wal", slot.name),
        _ => format!("slot {} is about to lose the WAL that it needs", slot.name),
    }
}

fn judge_lag(answers: &Answers, now: Timestamp) -> Verdict {
    match (&answers.replay, &answers.senders) {
        (Err(error), _) | (_, Err(error)) => Verdict::untold(error, "See PostgreSQL's log."),
        (Ok(Some(lag)), _) => judge_standby(lag, now),
        (Ok(None), Ok(senders)) => judge_senders(senders, &answers.user),
    }
}

fn judge_standby(lag: &ReplayLag, now: Timestamp) -> Verdict {
    let since = lag
        .replayed
        .map(|replayed| format!("the last commit replayed is of {}", ago(now, replayed)));
    let evidence = since.unwrap_or_else(|| "no commit was replayed yet".to_owned());
    let late = lag
        .replayed
        .is_some_and(|replayed| now.duration_since(replayed).as_secs() > LAG_MAX.as_secs().cast_signed());
    match lag {
        ReplayLag { paused: true, .. } => Verdict::warn(
            format!("replay is paused; {evidence}"),
            "SELECT pg_wal_replay_resume();",
        ),
        ReplayLag { caught_up: false, .. } if late => Verdict::warn(
            evidence,
            "Look at the standby's log: it replays slower than it receives, or waits for a query (max_standby_streaming_delay).",
        ),
        _ => Verdict::pass(evidence),
    }
}

fn judge_senders(senders: &[Sender], user: &str) -> Verdict {
    if senders.is_empty() {
        return Verdict::skip("no standby streams from this server");
    }
    if senders.iter().all(|sender| sender.behind.is_none()) {
        return Verdict::skip(format!(
            "role {user} may not see how far the {} standbys are (GRANT pg_monitor would let it)",
            senders.len()
        ));
    }
    let describe = |sender: &Sender| {
        let name = sender
            .name
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or("a standby");
        let late = sender
            .late
            .map(|late| format!(", {} s late", late.as_secs()))
            .unwrap_or_default();
        format!("{name} is {} behind{late}", sender.behind.unwrap_or_default())
    };
    let evidence = senders.iter().map(describe).collect::<Vec<_>>().join("; ");
    let is_late = |sender: &Sender| {
        sender.late.is_some_and(|late| late > LAG_MAX) || sender.behind.is_some_and(|behind| behind > HELD_MAX)
    };
    match senders.iter().any(is_late) {
        true => Verdict::warn(
            evidence,
            "Look at that standby's log and network; it can't take over without losing that.",
        ),
        false => Verdict::pass(evidence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn slot(active: bool, held_mib: u64, wal_status: &str) -> Slot {
        let (name, held) = ("it's".to_owned(), Some(ByteSize::mib(held_mib)));
        Slot {
            name,
            active,
            held,
            wal_status: Some(wal_status.to_owned()),
        }
    }

    #[test]
    fn a_slot_is_harmful_when_unused_and_holding_or_when_it_lost_its_wal() {
        assert_eq!(judge_slots(&[]).status, Status::Skip);
        assert_eq!(
            judge_slots(&[slot(true, 5000, "extended"), slot(false, 3, "reserved")]).status,
            Status::Pass
        );
        let held = judge_slots(&[slot(false, 5000, "extended")]);
        assert_eq!(held.status, Status::Warn);
        assert!(held.fix.contains("pg_drop_replication_slot('it''s')"), "{}", held.fix);
        assert_eq!(judge_slots(&[slot(true, 0, "lost")]).status, Status::Warn);
    }

    #[test]
    fn a_quiet_standby_is_not_late() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let lag = |hours: i64, caught_up, paused| ReplayLag {
            replayed: Some(Timestamp::from_second(1_800_000_000 - hours * 3600).unwrap()),
            caught_up,
            paused,
        };
        assert_eq!(judge_standby(&lag(9, true, false), now).status, Status::Pass);
        assert_eq!(judge_standby(&lag(9, false, false), now).status, Status::Warn);
        assert_eq!(judge_standby(&lag(0, false, true), now).status, Status::Warn);
    }

    #[test]
    fn standbys_that_can_not_be_seen_are_no_trouble() {
        let hidden = Sender {
            name: None,
            behind: None,
            late: None,
        };
        let late = Sender {
            name: Some("b".into()),
            behind: Some(ByteSize(1)),
            late: Some(Duration::from_secs(3600)),
        };
        assert_eq!(judge_senders(&[], "u").status, Status::Skip);
        assert_eq!(judge_senders(std::slice::from_ref(&hidden), "u").status, Status::Skip);
        assert_eq!(judge_senders(&[hidden, late], "u").status, Status::Warn);
    }
}
