//! pgkeep in the comparison: an installation as `pgkeep init` makes it, and `pgkeep restore`.

use std::path::{Path, PathBuf};

use pgkeep_base::Lsn;
use pgkeep_testkit::corrupt::objects_like;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, Output};

use crate::tool::{Restore, Tool};

/// What is run, for the record.
pub const COMMANDS: &str = "\
# pgkeep.toml: state_dir, recipients, one repository (url = \"file://…\"), one cluster (connection), identity_file
pgkeep repository create
# postgresql.conf: archive_mode = on, archive_command = 'pgkeep --config … wal push %p'
pgkeep backup
pgkeep restore --into …            # recovers to the end of the archive
pgkeep status --check; pgkeep window; pgkeep wal list";

/// An installation of pgkeep.
pub struct PgKeep(Shop);

impl PgKeep {
    /// A running cluster that archives.
    pub fn make(binary: &Path, major: u16) -> PgKeep {
        PgKeep(
            Shop::builder(binary, major)
                .cluster(|cluster| cluster.segment_mib(16))
                .start(),
        )
    }
}

impl Tool for PgKeep {
    fn name(&self) -> &'static str {
        "pgkeep"
    }

    fn version(&self) -> String {
        self.0.pgkeep(["--version"]).ok().stdout.trim().to_owned()
    }

    fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.0.cluster
    }

    fn back_up(&self) {
        self.0.pgkeep(["backup", "--full"]).ok();
    }

    fn repository(&self) -> PathBuf {
        self.0.repository_dir("main")
    }

    fn archived(&self, name: &str) -> PathBuf {
        let found = objects_like(&self.repository(), &format!("/{name}-"));
        assert_eq!(found.len(), 1, "{found:?}");
        self.repository().join(&found[0])
    }

    fn restores(&self) -> Vec<Restore> {
        vec![Restore::Default]
    }

    fn restore(&self, target: &Path, _: &Restore, _: Lsn) -> Output {
        self.0.run(["restore", "--into"]).arg(target).run()
    }

    fn inspect(&self) -> Vec<(&'static str, Output)> {
        let look = |command: &'static str| (command, self.0.pgkeep(command.split(' ')));
        ["status --check", "window", "wal list"].map(look).into()
    }
}
