//! What was asked of a restore.
//!
//! Defaults that follow from other parts of the request (action, archiving) are decided here and nowhere else.

use std::path::PathBuf;

use pgkeep_base::{BackupId, ClusterName, RecoveryTarget, TargetTimeline};
use pgkeep_pg::settings::TargetAction;

/// Whether the restored cluster archives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Archiving {
    /// No: a copy must not pollute its source's archive. `pgkeep adopt` turns it on.
    #[default]
    Off,
    /// Yes, to this configuration's repositories.
    On,
    /// Whatever the restored settings say.
    Keep,
}

/// A restore as it was asked for.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// The cluster; may be left out where only one is configured.
    pub cluster: Option<ClusterName>,
    /// The data directory to be.
    pub into: PathBuf,
    /// This backup, instead of the one that fits.
    pub backup: Option<BackupId>,
    /// Where recovery shall stop.
    pub target: RecoveryTarget,
    /// Stop just before the target.
    pub exclusive: bool,
    /// On which timeline.
    pub timeline: TargetTimeline,
    /// What to do there; `None`: promote for the end of WAL, else pause.
    pub action: Option<TargetAction>,
    /// Whether the copy archives; `None`: off, or keep for a standby.
    pub archive: Option<Archiving>,
    /// Make a standby that follows the archive.
    pub standby: bool,
    /// Tablespace locations, old to new.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
    /// Over the cluster that is there: keep what fits.
    pub delta: bool,
    /// Files of this installation: nothing that they lie in is restored over.
    pub precious: Vec<PathBuf>,
}

impl RestoreRequest {
    /// The action in force.
    pub fn action(&self) -> TargetAction {
        match (self.action, &self.target) {
            (Some(action), _) => action,
            (None, RecoveryTarget::EndOfWal) => TargetAction::Promote,
            (None, _) => TargetAction::Pause,
        }
    }

    /// The archiving in force.
    pub fn archive(&self) -> Archiving {
        self.archive
            .unwrap_or(if self.standby { Archiving::Keep } else { Archiving::Off })
    }
}
