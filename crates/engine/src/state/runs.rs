//! What this host did, and the heads that it wrote.
//!
//! Invariant: job history informs people; no verdict on what can be restored is computed from it.

use jiff::Timestamp;
use pgkeep_base::{BackupId, ClusterName, Result, failpoint};
use rusqlite::{OptionalExtension, params};

use super::{State, sql};
use pgkeep_repo::lineage::Lineage;

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunOutcome {
    /// As it should.
    Ok,
    /// Finished, but its result is impaired.
    Impaired,
    /// It did not do what it was for.
    Failed,
}

impl RunOutcome {
    fn as_str(self) -> &'static str {
        match self {
            RunOutcome::Ok => "ok",
            RunOutcome::Impaired => "impaired",
            RunOutcome::Failed => "failed",
        }
    }
}

/// One run of an operation.
#[derive(Clone, Debug)]
pub struct Run {
    /// Names the run; a backup's run has the backup's id.
    pub id: BackupId,
    /// The operation, by its command's name.
    pub kind: &'static str,
    /// What it worked on.
    pub cluster: ClusterName,
    /// When it began.
    pub started_at: Timestamp,
}

/// A head that this host wrote.
#[derive(Clone, Debug)]
pub struct HeadRecord {
    /// The backup.
    pub id: BackupId,
    /// Count of heads by this writer in the lineage.
    pub sequence: u64,
    /// Hash of the head.
    pub blake3: String,
    /// When the backup finished.
    pub finished_at: Timestamp,
    /// The places that have the head.
    pub places: Vec<String>,
}

impl State {
    /// Records that a run began.
    pub fn begin_run(&self, run: &Run) -> Result<()> {
        let row = params![
            run.id.as_str(),
            run.kind,
            run.cluster.as_str(),
            run.started_at.to_string()
        ];
        failpoint::at("engine.state.write")?;
        self.connection
            .execute(
                "INSERT OR REPLACE INTO run (id, kind, cluster, started_at) VALUES (?1, ?2, ?3, ?4)",
                row,
            )
            .map_err(sql)?;
        Ok(())
    }

    /// Records how a run ended.
    pub fn end_run(&self, id: &BackupId, at: Timestamp, outcome: RunOutcome, message: &str) -> Result<()> {
        let row = params![id.as_str(), at.to_string(), outcome.as_str(), message];
        failpoint::at("engine.state.write")?;
        self.connection
            .execute(
                "UPDATE run SET finished_at = ?2, outcome = ?3, message = ?4 WHERE id = ?1",
                row,
            )
            .map_err(sql)?;
        Ok(())
    }

    /// The newest head that this host wrote in a lineage.
    pub fn last_head(&self, lineage: &Lineage) -> Result<Option<HeadRecord>> {
        let key = params![lineage.cluster.as_str(), lineage.system_identifier.to_string()];
        let row = self
            .connection
            .query_row(
                "SELECT id, sequence, blake3, finished_at, places FROM head
                 WHERE cluster = ?1 AND system_identifier = ?2
                 AND digest = row_digest(cluster, system_identifier, id, sequence, blake3, finished_at, places)
                 ORDER BY sequence DESC LIMIT 1",
                key,
                |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, i64>(1)?,
                        row.get(2)?,
                        row.get::<_, String>(3)?,
                        row.get::<_, String>(4)?,
                    ))
                },
            )
            .optional()
            .map_err(sql)?;
        let Some((id, sequence, blake3, finished_at, places)) = row else {
            return Ok(None);
        };
        Ok(Some(HeadRecord {
            id: id.parse()?,
            sequence: sequence.unsigned_abs(),
            blake3,
            finished_at: finished_at.parse().unwrap_or(Timestamp::UNIX_EPOCH),
            places: places
                .split(',')
                .filter(|place| !place.is_empty())
                .map(str::to_owned)
                .collect(),
        }))
    }

    /// Remembers a head that this host wrote.
    pub fn remember_head(&self, lineage: &Lineage, head: &HeadRecord) -> Result<()> {
        let row = params![
            lineage.cluster.as_str(),
            lineage.system_identifier.to_string(),
            head.id.as_str(),
            head.sequence as i64,
            head.blake3,
            head.finished_at.to_string(),
            head.places.join(",")
        ];
        failpoint::at("engine.state.write")?;
        self.connection
            .execute(
                "INSERT OR REPLACE INTO head
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, row_digest(?1, ?2, ?3, ?4, ?5, ?6, ?7))",
                row,
            )
            .map_err(sql)?;
        Ok(())
    }
}
