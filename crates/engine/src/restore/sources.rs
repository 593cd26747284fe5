//! Where the WAL of a restore comes from: the archive, and what the target directory has beside it.
//!
//! Invariant: the archive as it was listed is kept apart, so that what was added to it can be taken back.

use pgkeep_base::{Result, SegmentSize, TargetTimeline, TimelineId};
use pgkeep_repo::lineage::Lineage;

use super::existing::Existing;
use super::request::RestoreRequest;
use super::saved::{SavedWal, Terms, reconcile};
use crate::catalogue::Backup;
use crate::engine::Engine;
use crate::path::Archive;
use crate::wal::local::LocalWal;
use crate::window::head_timelines;

/// The archive and the target's own WAL.
#[derive(Debug)]
pub struct Sources {
    /// What was listed, with what continues it.
    pub archive: Archive,
    /// What becomes of the target's own WAL.
    pub saved: SavedWal,
    local: Option<LocalWal>,
    /// The first segment that any backup needs.
    first: u64,
}

/// Lists the archive, as far back as any backup or the target's own WAL goes.
///
/// # Errors
/// As [`Archive::load`].
pub async fn load(engine: &Engine, lineage: &Lineage, backups: &[&Backup], local: Option<LocalWal>) -> Result<Sources> {
    let heads = backups.iter().filter_map(|backup| backup.head().physical().ok());
    let first = heads.clone().map(|head| *head.needed_wal().start()).min().unwrap_or(0);
    let size = heads
        .map(|head| head.segment_bytes)
        .next()
        .unwrap_or(SegmentSize::DEFAULT);
    let numbers = local
        .iter()
        .flat_map(|local| local.segments.iter().map(|found| found.segment.number));
    let from = numbers.min().unwrap_or(first).min(first);
    let archive = Archive::load(engine, lineage, size, from, head_timelines(backups)).await?;
    Ok(Sources {
        archive,
        saved: SavedWal::default(),
        local: local.filter(|local| local.segment_size == size),
        first,
    })
}

impl Sources {
    /// Adds the target's own WAL to the archive, where it continues that and may be used for what was asked;
    /// `archived_only` leaves out timelines of which the archive knows nothing.
    ///
    /// # Errors
    /// As [`reconcile`].
    pub async fn use_local(
        &mut self,
        engine: &Engine,
        asked: &RestoreRequest,
        existing: Option<&Existing>,
        archived_only: bool,
    ) -> Result<()> {
        let Some(local) = &self.local else { return Ok(()) };
        let own = std::mem::take(&mut self.saved).own_timelines;
        let excluded = |timeline: TimelineId, of_copy: bool| match asked.timeline {
            _ if asked.standby => Some("a standby follows the archive".to_owned()),
            TargetTimeline::Numbered(wanted) if wanted == timeline => None,
            _ if of_copy => Some(format!(
                "a restored copy wrote it that was never adopted, so that this is not the cluster's own; \
                 `--timeline {timeline}` uses it"
            )),
            _ if archived_only && own.contains(&timeline) => Some(format!(
                "the archive goes on past the point where timeline {timeline} begins; `--timeline {timeline}` uses it"
            )),
            _ => None,
        };
        self.archive.forget_saved();
        let terms = Terms {
            first: self.first,
            never_adopted: existing.is_some_and(|existing| existing.never_adopted),
            excluded: &excluded,
        };
        self.saved = reconcile(engine, &mut self.archive, local, terms).await?;
        Ok(())
    }
}
