//! Proves that WAL arrives in the repository: before copying, and for the WAL of the backup itself.
//!
//! Invariant: what counts is this host's record of pushes, or the object in the store, of the very content that
//! PostgreSQL has; never the word of `archive_command` alone, and never a name.

use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use pgkeep_base::{Error, ErrorKind, Lsn, Result, SegmentSize, TimelineId, WalFile, WalSegment};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::facts::{ArchiverFacts, ServerFacts};
use pgkeep_pg::wal::read_segment_header;
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::names::logical;
use pgkeep_repo::wal::parse_object_name;
use pgkeep_store::ObjectName;

use crate::engine::Engine;
use crate::setup::Place;
use crate::state::State;
use crate::wal::{Content, FIRST_PAGE_BYTES};

/// Longer than a push waits for an optional place.
const OPTIONAL_PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(200);
/// A push this recent proves that archiving works; otherwise the backup makes WAL move.
const RECENT_SECONDS: i64 = 3600;

/// Looks for archived segments of one lineage.
pub struct Archiving<'a> {
    pub engine: &'a Engine,
    pub state: &'a State,
    pub lineage: &'a Lineage,
    pub size: SegmentSize,
    /// Where PostgreSQL says that its files are; this host need not be able to see it.
    pub data_directory: &'a Path,
    pub timeout: Duration,
}

impl Archiving<'_> {
    /// Proves that archiving works now: by a recent push, or by completing a segment and seeing it arrive.
    pub async fn prove(&self, connection: &Connection, facts: &ServerFacts) -> Result<()> {
        let current = WalSegment::at(facts.timeline, facts.wal_lsn, self.size);
        if self.has_recent_push(current)? && !ArchiverFacts::gather(connection).await?.is_failing() {
            return Ok(());
        }
        connection.create_restore_point("pgkeep: is WAL archived?").await?;
        let switched_to = connection.switch_wal().await?;
        let segment = WalSegment {
            timeline: facts.timeline,
            number: self.size.number_before(switched_to),
            size: self.size,
        };
        self.wait_for(connection, segment).await
    }

    fn has_recent_push(&self, current: WalSegment) -> Result<bool> {
        let Some(last) = self.state.last_pushed_segment(self.lineage, current.timeline)? else {
            return Ok(false);
        };
        let age = self.engine.now().duration_since(last.pushed_at).as_secs();
        // One that is not even written yet is of another history of this cluster.
        let number = WalSegment::parse(&last.file, self.size).map_or(0, |segment| segment.number);
        let is_last = number + 1 == current.number;
        Ok(age < RECENT_SECONDS && is_last && self.covers_required(&last.places))
    }

    /// Waits until every segment from `start` to the byte before `stop` is in every required place.
    pub async fn wait_for_range(
        &self,
        connection: &Connection,
        timeline: TimelineId,
        start: Lsn,
        stop: Lsn,
    ) -> Result<()> {
        for segment in self.segments(timeline, start, stop) {
            self.wait_for(connection, segment).await?;
        }
        Ok(())
    }

    /// The segments from `start` to the byte before `stop`.
    pub fn segments(&self, timeline: TimelineId, start: Lsn, stop: Lsn) -> impl Iterator<Item = WalSegment> {
        let size = self.size;
        let numbers = size.number_of(start)..=size.number_before(stop);
        numbers.map(move |number| WalSegment { timeline, number, size })
    }

    /// Waits for one segment; the patience begins anew for each.
    pub async fn wait_for(&self, connection: &Connection, segment: WalSegment) -> Result<()> {
        let before = ArchiverFacts::gather(connection).await?.failed_count;
        let deadline = tokio::time::Instant::now() + self.timeout;
        loop {
            if self.is_durable(segment).await? {
                return Ok(());
            }
            let archiver = ArchiverFacts::gather(connection).await?;
            let failing = archiver.is_failing() && archiver.failed_count > before + 1;
            if failing || tokio::time::Instant::now() >= deadline {
                return Err(self.not_arriving(segment, &archiver));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn not_arriving(&self, segment: WalSegment, archiver: &ArchiverFacts) -> Error {
        let why = match (&archiver.last_failed, &archiver.last_archived) {
            (Some(failed), _) if archiver.is_failing() => {
                format!(
                    "PostgreSQL's archiver fails on {} since {} failures",
                    failed.file, archiver.failed_count
                )
            }
            (_, Some(archived)) if archived.file >= segment.name() => format!(
                "archive_command reported success for {}, but no required repository has it",
                archived.file
            ),
            _ => format!("it did not arrive within {} s", self.timeout.as_secs()),
        };
        Error::refused("WAL archiving does not work")
            .detail(format!("segment {segment}: {why}"))
            .hint("`pgkeep doctor` tells what is wrong; PostgreSQL's log has what `pgkeep wal push` said.")
    }

    /// True if every required place has the segment.
    async fn is_durable(&self, segment: WalSegment) -> Result<bool> {
        if self.covers_required(&self.pushed_to(segment)?) {
            return Ok(true);
        }
        for place in self.engine.places().iter().filter(|place| place.required) {
            match self.is_listed(place, segment).await {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                // A writer that may not list knows from its own record only.
                Err(error) if error.kind() == ErrorKind::Denied => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The first segment of a range that an optional place does not have.
    pub async fn first_missing_in(
        &self,
        place: &Place,
        timeline: TimelineId,
        start: Lsn,
        stop: Lsn,
    ) -> Result<Option<WalSegment>> {
        for segment in self.segments(timeline, start, stop) {
            if !self.arrives_in(place, segment).await? {
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }

    /// Waits, while the push of the segment may still be on its way to an optional place.
    async fn arrives_in(&self, place: &Place, segment: WalSegment) -> Result<bool> {
        let deadline = tokio::time::Instant::now() + OPTIONAL_PATIENCE;
        loop {
            let pushed = self.pushed_to(segment)?;
            if pushed.contains(&place.name) || self.is_listed(place, segment).await.unwrap_or(false) {
                return Ok(true);
            }
            // The record is written when the push has ended everywhere.
            if !pushed.is_empty() || tokio::time::Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The places to which this host pushed what PostgreSQL has. What it no longer has, it gave to the last push.
    fn pushed_to(&self, segment: WalSegment) -> Result<Vec<String>> {
        let pushed = self.state.pushed(self.lineage, &segment.name())?;
        let Some(last) = pushed.last() else {
            return Ok(Vec::new());
        };
        let own = self.hash_in_pg_wal(segment).unwrap_or_else(|| last.hash.clone());
        let same = pushed.iter().filter(|pushed| pushed.hash == own);
        Ok(same.flat_map(|pushed| pushed.places.clone()).collect())
    }

    /// True if the place has the segment with the very content that PostgreSQL has, whoever pushed it. Where that is
    /// gone, which it is only after `archive_command` took it, the one content that is there must be it.
    async fn is_listed(&self, place: &Place, segment: WalSegment) -> Result<bool> {
        let stored = self.stored_contents(place, segment).await?;
        Ok(!stored.is_empty()
            && match self.hash_in_pg_wal(segment) {
                Some(own) => stored.contains(&own),
                None => stored.len() == 1,
            })
    }

    /// Hashes of the contents that a place has of a segment.
    async fn stored_contents(&self, place: &Place, segment: WalSegment) -> Result<Vec<String>> {
        let directory = format!("wal/{}/{}", self.lineage, segment.timeline.hex());
        let after = ObjectName::new(format!("{directory}/{segment}"))?;
        let mut listing = place.store.list(&directory, Some(&after));
        let wanted = WalFile::Segment(segment.name());
        let mut hashes = Vec::new();
        loop {
            let object = match listing.try_next().await {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(hashes),
                object => object?,
            };
            match object.and_then(|object| parse_object_name(&logical(&object.name))) {
                Some(name) if name.file != wanted => return Ok(hashes),
                Some(name) if name.part.is_none() => hashes.push(name.hash),
                Some(_) => {}
                None => return Ok(hashes),
            }
        }
    }

    /// The hash of a complete segment that PostgreSQL still has; `None` where it doesn't, or where this host can't see.
    fn hash_in_pg_wal(&self, segment: WalSegment) -> Option<String> {
        let path = self.data_directory.join("pg_wal").join(segment.name());
        let content = Content::open(&path, &WalFile::Segment(segment.name())).ok()?;
        let header = read_segment_header(&content.beginning(FIRST_PAGE_BYTES).ok()?).ok()?;
        let is_ours = header.start == segment.start() && header.system_id == self.lineage.system_identifier;
        let digest = is_ours.then(|| self.engine.naming().digest(content.source()))?;
        digest.ok().map(|digest| digest.hash)
    }

    fn covers_required(&self, places: &[String]) -> bool {
        self.engine
            .places()
            .iter()
            .filter(|place| place.required)
            .all(|place| places.contains(&place.name))
    }
}
