//! What this host pushed to the WAL archive, and the lineages that it knows.
//!
//! Invariant: a row says what was durable when it was written. It proves a push, never that the object is still there.

use jiff::{SignedDuration, Timestamp};
use pgkeep_base::{ClusterName, Error, Result, SystemId, TimelineId, failpoint};
use pgkeep_repo::wal::WalFacts;
use rusqlite::{OptionalExtension, params};

use super::{State, sql};
use pgkeep_repo::lineage::Lineage;

/// A row of pushed files is as it was written.
const INTACT: &str = "digest = row_digest(cluster, system_identifier, timeline, file, hash, pushed_at, facts, places)";

/// A file that this host pushed.
#[derive(Clone, Debug)]
pub struct PushedFile {
    /// Name as PostgreSQL gave it.
    pub file: String,
    /// Keyed hash of its content, as in its object's name.
    pub hash: String,
    /// Timeline in its name.
    pub timeline: TimelineId,
    /// When it was durable in every required place.
    pub pushed_at: Timestamp,
    /// Facts, for segments and partial segments.
    pub facts: Option<WalFacts>,
    /// The places that have it.
    pub places: Vec<String>,
}

impl State {
    /// System identifiers that this host has seen under a cluster's name, in the order in which it accepted them.
    pub fn lineages(&self, cluster: &ClusterName) -> Result<Vec<SystemId>> {
        let mut seen = self.first_seen(cluster)?;
        seen.sort();
        Ok(seen
            .into_iter()
            .map(|(_, system_identifier)| system_identifier)
            .collect())
    }

    fn first_seen(&self, cluster: &ClusterName) -> Result<Vec<(Timestamp, SystemId)>> {
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT first_seen, system_identifier FROM lineage WHERE cluster = ?1
                 AND digest = row_digest(cluster, system_identifier, first_seen)",
            )
            .map_err(sql)?;
        let rows = statement
            .query_map([cluster.as_str()], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })
            .map_err(sql)?;
        rows.map(|row| {
            let (first_seen, system_identifier) = row.map_err(sql)?;
            let bad = |source: jiff::Error| Error::corrupt("the local state has a time that is none").source(source);
            Ok((first_seen.parse().map_err(bad)?, system_identifier.parse()?))
        })
        .collect()
    }

    /// The cluster that this host knows by that system identifier.
    pub fn cluster_of(&self, system_identifier: SystemId) -> Result<Option<ClusterName>> {
        let name: Option<String> = self
            .connection
            .query_row(
                "SELECT cluster FROM lineage WHERE system_identifier = ?1
                 AND digest = row_digest(cluster, system_identifier, first_seen)",
                [system_identifier.to_string()],
                |row| row.get(0),
            )
            .optional()
            .map_err(sql)?;
        name.map(|name| name.parse()).transpose()
    }

    /// Remembers a lineage as the newest of its cluster, whatever the clock says; repeating it changes nothing.
    pub fn remember_lineage(&self, lineage: &Lineage, now: Timestamp) -> Result<()> {
        self.write_lineage(
            lineage,
            now,
            "WHERE digest IS NOT row_digest(cluster, system_identifier, first_seen)",
        )
    }

    /// Makes a lineage that is known the newest of its cluster.
    pub fn accept_again(&self, lineage: &Lineage, now: Timestamp) -> Result<()> {
        self.write_lineage(lineage, now, "")
    }

    fn write_lineage(&self, lineage: &Lineage, now: Timestamp, unless_known: &str) -> Result<()> {
        let last = self
            .first_seen(&lineage.cluster)?
            .into_iter()
            .map(|(seen, _)| seen)
            .max();
        let behind = last.map(|last| last + SignedDuration::from_micros(1));
        let row = params![
            lineage.cluster.as_str(),
            lineage.system_identifier.to_string(),
            behind.map_or(now, |behind| now.max(behind)).to_string()
        ];
        failpoint::at("engine.state.write")?;
        let insert = "INSERT INTO lineage VALUES (?1, ?2, ?3, row_digest(?1, ?2, ?3))
                      ON CONFLICT DO UPDATE SET first_seen = excluded.first_seen, digest = excluded.digest";
        self.connection
            .execute(&format!("{insert} {unless_known}"), row)
            .map_err(sql)?;
        Ok(())
    }

    /// Every content that this host pushed under one file name.
    pub fn pushed(&self, lineage: &Lineage, file: &str) -> Result<Vec<PushedFile>> {
        self.pushed_where(lineage, "AND file = ?3 ORDER BY pushed_at", file)
    }

    /// The segment that this host pushed last on a timeline, by name.
    pub fn last_pushed_segment(&self, lineage: &Lineage, timeline: TimelineId) -> Result<Option<PushedFile>> {
        let rows = self.pushed_where(
            lineage,
            "AND length(file) = 24 AND file >= ?3 AND file < ?3 || 'G' ORDER BY file DESC, pushed_at DESC LIMIT 1",
            &timeline.hex(),
        )?;
        Ok(rows.into_iter().next())
    }

    /// The newest timeline that this host pushed a segment of.
    pub fn newest_pushed_timeline(&self, lineage: &Lineage) -> Result<Option<TimelineId>> {
        let number: Option<u32> = self
            .connection
            .query_row(
                &format!(
                    "SELECT max(timeline) FROM pushed WHERE cluster = ?1 AND system_identifier = ?2 AND length(file) = 24 AND {INTACT}"
                ),
                params![lineage.cluster.as_str(), lineage.system_identifier.to_string()],
                |row| row.get(0),
            )
            .map_err(sql)?;
        Ok(number.and_then(TimelineId::new))
    }

    fn pushed_where(&self, lineage: &Lineage, tail: &str, argument: &str) -> Result<Vec<PushedFile>> {
        let query = format!(
            "SELECT file, hash, timeline, pushed_at, facts, places FROM pushed WHERE cluster = ?1 AND system_identifier = ?2 AND {INTACT} {tail}"
        );
        let mut statement = self.connection.prepare_cached(&query).map_err(sql)?;
        let key = params![
            lineage.cluster.as_str(),
            lineage.system_identifier.to_string(),
            argument
        ];
        let mut rows = statement.query(key).map_err(sql)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(sql)? {
            found.push(read_row(row).map_err(sql)?);
        }
        Ok(found)
    }

    /// Remembers a push; a repeated push of the same content renews its time and places.
    pub fn remember_push(&self, lineage: &Lineage, pushed: &PushedFile) -> Result<()> {
        let facts = pushed
            .facts
            .as_ref()
            .map(|facts| serde_json::to_string(facts).expect("facts are plain data"));
        failpoint::at("engine.state.write")?;
        self.connection
            .execute(
                "INSERT INTO pushed (cluster, system_identifier, timeline, file, hash, pushed_at, facts, places, digest)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, row_digest(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8))
                 ON CONFLICT DO UPDATE SET timeline = excluded.timeline, pushed_at = excluded.pushed_at,
                     facts = excluded.facts, places = excluded.places, digest = excluded.digest",
                params![
                    lineage.cluster.as_str(),
                    lineage.system_identifier.to_string(),
                    pushed.timeline.get(),
                    pushed.file,
                    pushed.hash,
                    pushed.pushed_at.to_string(),
                    facts,
                    pushed.places.join(",")
                ],
            )
            .map_err(sql)?;
        Ok(())
    }
}

fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<PushedFile> {
    let text = |index| row.get::<_, String>(index);
    let facts: Option<String> = row.get(4)?;
    Ok(PushedFile {
        file: text(0)?,
        hash: text(1)?,
        timeline: TimelineId::new(row.get(2)?).unwrap_or(TimelineId::FIRST),
        pushed_at: text(3)?.parse().unwrap_or(Timestamp::UNIX_EPOCH),
        facts: facts.and_then(|json| serde_json::from_str(&json).ok()),
        places: text(5)?
            .split(',')
            .filter(|place| !place.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}
