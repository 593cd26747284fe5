//! The plan of a recovery, as it lies in the restored data directory for `wal fetch` to answer by.
//!
//! Invariant: it counts only while pgkeep's block of recovery settings in the same directory is as it was written;
//! a copy of the directory that is started with other settings is a recovery without a plan.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pgkeep_base::{BackupId, Error, Lsn, Result, ResultExt, TimelineId, failpoint};
use pgkeep_pg::settings::{BlockState, Purpose, find_block, read_auto_conf};
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::sign::TrustList;

use crate::wal::map::SegmentMap;

/// Directory of pgkeep's own files in a restored data directory; never part of a backup.
pub const OWN_DIRECTORY: &str = ".pgkeep";
const FILE: &str = "recovery-plan.json";
const VERSION: u32 = 1;

/// What `wal fetch` needs to know of a recovery.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct RecoveryPlan {
    version: u32,
    /// Whose WAL it is.
    pub lineage: Lineage,
    /// The backup that was restored.
    pub backup: BackupId,
    /// `recovery_target_timeline`.
    pub timeline: TimelineId,
    /// `recovery_target_lsn`: start of the last record to replay.
    pub target_lsn: Lsn,
    /// Exactly one object for each segment.
    pub segments: SegmentMap,
    /// The history files that recovery may ask for, stored or rebuilt.
    pub histories: BTreeMap<TimelineId, String>,
    /// Timelines of which something exists but no history can be had.
    pub unexplained: Vec<TimelineId>,
    /// Who was trusted when the plan was made; absent in plans of earlier programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustList>,
}

impl RecoveryPlan {
    /// A plan of this version.
    pub fn new(
        lineage: Lineage,
        backup: BackupId,
        timeline: TimelineId,
        target_lsn: Lsn,
        segments: SegmentMap,
    ) -> RecoveryPlan {
        let (histories, unexplained) = (BTreeMap::new(), Vec::new());
        RecoveryPlan {
            version: VERSION,
            lineage,
            backup,
            timeline,
            target_lsn,
            segments,
            histories,
            unexplained,
            trust: None,
        }
    }

    /// Where the plan of a data directory lies.
    pub fn path(data_directory: &Path) -> PathBuf {
        data_directory.join(OWN_DIRECTORY).join(FILE)
    }

    /// The bytes of the file.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a plan is plain data")
    }

    /// The plan of the recovery that runs in `data_directory`, if there is one that counts.
    ///
    /// # Errors
    /// `Corrupt` for a plan that can't be read: recovery must stop, not go on without it.
    pub fn in_force(data_directory: &Path) -> Result<Option<RecoveryPlan>> {
        failpoint::at("engine.fetch.plan")?;
        let path = RecoveryPlan::path(data_directory);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::from(error).during(format!("read {}", path.display()))),
        };
        let settings = read_auto_conf(data_directory).during(|| "read the recovery settings")?;
        if find_block(&settings, Purpose::Recovery).state != BlockState::Intact {
            return Ok(None);
        }
        let plan = RecoveryPlan::from_json(&bytes);
        plan.during(|| format!("read {}", path.display())).map(Some)
    }

    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// `Corrupt` for what no restore of this version wrote.
    pub fn from_json(bytes: &[u8]) -> Result<RecoveryPlan> {
        let damaged = || {
            Error::corrupt("the recovery plan can't be read")
                .hint("Run the same `pgkeep restore` again; it writes the plan anew.")
        };
        let plan: RecoveryPlan = serde_json::from_slice(bytes).map_err(|error| damaged().source(error))?;
        match plan.version == VERSION && !plan.segments.is_empty() {
            true => Ok(plan),
            false => Err(damaged()),
        }
    }
}
