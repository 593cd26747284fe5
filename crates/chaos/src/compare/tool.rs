//! What both tools can do, as far as the comparison goes.

use std::path::{Path, PathBuf};

use pgkeep_base::Lsn;
use pgkeep_testkit::{Cluster, Output};

/// A tool with a cluster that archives by it.
pub trait Tool {
    /// As it calls itself.
    fn name(&self) -> &'static str;
    /// What it says of its version.
    fn version(&self) -> String;
    /// The cluster.
    fn cluster(&self) -> &Cluster;
    /// The cluster, to stop and start it.
    fn cluster_mut(&mut self) -> &mut Cluster;
    /// Takes a full backup.
    fn back_up(&self);
    /// The directory that holds its repository, and nothing else.
    fn repository(&self) -> PathBuf;
    /// The file in the repository that holds an archived file of this name.
    fn archived(&self, name: &str) -> PathBuf;
    /// The ways to restore everything that are compared, by a name; the first is the default.
    fn restores(&self) -> Vec<Restore>;
    /// Restores into `target`, in that way; the last committed row's record ends at `last`.
    fn restore(&self, target: &Path, way: &Restore, last: Lsn) -> Output;
    /// Its own looks at the repository, at their most talkative: the command, and what came of it.
    fn inspect(&self) -> Vec<(&'static str, Output)>;
}

/// One way to restore everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restore {
    /// As the tool does it unless told otherwise.
    Default,
    /// Told by hand which LSN must be reached.
    ToLastLsn,
}
