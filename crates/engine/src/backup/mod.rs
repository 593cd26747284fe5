//! `backup`: a base backup of a running cluster, from its data directory.
//!
//! Invariants: every backup restores alone; a head is written only when everything that it names, and all WAL from its
//! start to its stop, is durable in that place. The data directory is read once, however many places there are.
//! `plan` checks and changes nothing; `run` copies: `copy` reads in parallel, `slice` decides what is new, `assemble`
//! writes packs and manifest in order, `finish` makes the backup exist.

mod archiving;
mod assemble;
mod base;
mod context;
mod copy;
mod finish;
mod gather;
mod journals;
mod lock;
mod plan;
mod rate;
mod run;
mod slice;
mod upload;

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgkeep_base::{BackupId, ByteSize, ClusterName};
use pgkeep_repo::lineage::Lineage;

pub(crate) use archiving::Archiving;
pub(crate) use journals::cache_path;
pub(crate) use plan::open_data_directory;
pub use plan::{BackupPlan, plan};
pub use run::run;

/// A backup as it was asked for.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// The cluster; may be left out where only one is configured.
    pub cluster: Option<ClusterName>,
    /// Store everything anew.
    pub full: bool,
    /// Labels for the operator's use.
    pub labels: BTreeMap<String, String>,
    /// The tier, such as `daily`.
    pub tier: Option<String>,
    /// Workers that read, hash and compress; `None`: the number of processors, at most 4. From 1 to 16.
    pub jobs: Option<usize>,
    /// Bytes read per second, at most.
    pub rate: Option<ByteSize>,
    /// Let the server spread its checkpoint instead of doing it at once.
    pub spread_checkpoint: bool,
    /// Fail on a bad page.
    pub strict: bool,
    /// Accept a new system identifier under a known cluster name.
    pub new_lineage: bool,
}

/// A backup that exists.
#[derive(Clone, Debug)]
pub struct BackedUp {
    /// Its id.
    pub id: BackupId,
    /// Its lineage.
    pub lineage: Lineage,
    /// When it began.
    pub started_at: Timestamp,
    /// When its head was written.
    pub finished_at: Timestamp,
    /// What its head says.
    pub head: pgkeep_repo::head::Head,
    /// Places that have it.
    pub places: Vec<String>,
    /// Optional places that don't, with the reason: exit 3.
    pub missed: Vec<(String, String)>,
    /// Files with bad pages and their number: exit 3.
    pub bad_files: Vec<(String, u64)>,
}

impl BackedUp {
    /// True if something is wrong with it although it exists.
    pub fn is_impaired(&self) -> bool {
        !self.missed.is_empty() || !self.bad_files.is_empty()
    }
}
