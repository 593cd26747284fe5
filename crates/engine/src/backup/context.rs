//! What stays the same while one backup runs.
//!
//! Only `gather` changes it, once: optional places that lack what is reused leave `places` before the first pack.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::{BackupId, Error, Event, Result};
use pgkeep_pg::datadir::Entry as Found;
use pgkeep_pg::facts::ServerFacts;
use pgkeep_repo::lease::LEASE_DURATION;
use pgkeep_repo::lineage::Lineage;

use super::BackupRequest;
use super::archiving::Archiving;
use super::upload::{Durable, Places};
use crate::engine::Engine;
use crate::state::State;

/// One run.
pub(super) struct Context {
    pub engine: Engine,
    pub state: State,
    pub id: BackupId,
    pub started_at: Timestamp,
    pub lineage: Lineage,
    pub request: BackupRequest,
    pub facts: ServerFacts,
    /// The data directory itself: its owner and mode.
    pub root: Found,
    pub archive_timeout: Duration,
    pub reuse_directory: PathBuf,
    pub places: Arc<Places>,
    pub durable: Arc<Durable>,
}

impl Context {
    /// Tells that a phase begins.
    pub fn phase(&self, name: &str) {
        phase(&self.engine, name);
    }

    /// A run that is older than its lease gives up: what it stored may be swept.
    pub fn check_lease(&self) -> Result<()> {
        if self.engine.now().duration_since(self.started_at) < LEASE_DURATION {
            return Ok(());
        }
        Err(Error::refused("the backup took longer than 48 hours")
            .detail("after that its lease has expired, and what it stored may be swept")
            .hint("Run `pgkeep backup` again, with more `--jobs` or a higher `--rate`; it reuses what was stored."))
    }

    /// Looks for archived segments of this cluster.
    pub fn archiving(&self) -> Archiving<'_> {
        Archiving {
            engine: &self.engine,
            state: &self.state,
            lineage: &self.lineage,
            size: self.facts.wal_segment_size,
            data_directory: &self.facts.data_directory,
            timeout: self.archive_timeout,
        }
    }
}

/// Tells that a phase begins.
pub(super) fn phase(engine: &Engine, name: &str) {
    engine.setup().progress.event(Event::Phase {
        name: name.to_owned(),
        bytes_total: None,
    });
}
