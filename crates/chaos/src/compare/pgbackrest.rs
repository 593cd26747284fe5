//! pgBackRest in the comparison: the configuration of its own quick start, and `pgbackrest restore`.

use std::path::{Path, PathBuf};

use pgkeep_base::Lsn;
use pgkeep_testkit::corrupt::objects_like;
use pgkeep_testkit::{Cluster, OsUser, Output, Run, Scratch};

use crate::tool::{Restore, Tool};

const STANZA: &str = "demo";

/// What is run, for the record.
pub const COMMANDS: &str = "\
# pgbackrest.conf, as in the quick start of its user guide:
#   [global]  repo1-path, repo1-retention-full=2, start-fast=y
#   [demo]    pg1-path, pg1-port, pg1-socket-path, pg1-user
# besides, only places that an ordinary user may write to: log-path, lock-path, spool-path
pgbackrest --config=… --stanza=demo stanza-create
# postgresql.conf: archive_mode = on, archive_command = 'pgbackrest --config=… --stanza=demo archive-push %p'
pgbackrest --config=… --stanza=demo check
pgbackrest --config=… --stanza=demo --type=full backup
pgbackrest --config=… --stanza=demo --pg1-path=… restore
pgbackrest --config=… --stanza=demo --pg1-path=… --type=lsn --target=LSN --target-action=promote restore
pgbackrest --config=… --stanza=demo --log-level-console=info verify --output=text --verbose
pgbackrest --config=… --stanza=demo info";

/// An installation of pgBackRest.
pub struct PgBackRest {
    program: PathBuf,
    cluster: Cluster,
    home: Scratch,
}

impl PgBackRest {
    /// A running cluster that archives.
    pub fn make(program: &Path, major: u16) -> PgBackRest {
        assert!(
            program.exists(),
            "{} is not there: install Debian's package pgbackrest, or name the program",
            program.display()
        );
        let home = Scratch::new();
        let mut cluster = Cluster::builder(major)
            .segment_mib(16)
            .conf("archive_mode = on")
            .start();
        let dirs = ["repository", "log", "lock", "spool"].map(|name| home.dir(name).display().to_string());
        let [repository, log, lock, spool] = dirs;
        home.file(
            "pgbackrest.conf",
            format!(
                "[global]\nrepo1-path={repository}\nrepo1-retention-full=2\nstart-fast=y\n\
                 log-path={log}\nlock-path={lock}\nspool-path={spool}\n\n\
                 [{STANZA}]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
                cluster.data_dir().display(),
                cluster.port(),
                cluster.socket_dir().display()
            ),
        );
        let command = format!(
            "{} --config={} --stanza={STANZA} archive-push %p",
            program.display(),
            home.join("pgbackrest.conf").display()
        );
        cluster.set_conf("archive_command", "");
        let tool = PgBackRest {
            program: program.to_owned(),
            cluster,
            home,
        };
        tool.run(["stanza-create"]).run().ok();
        let mut tool = tool;
        tool.cluster.set_conf("archive_command", &command);
        tool.run(["check"]).run().ok();
        tool
    }

    fn run<const N: usize>(&self, args: [&str; N]) -> Run {
        Run::new(&self.program)
            .arg(format!("--config={}", self.home.join("pgbackrest.conf").display()))
            .arg(format!("--stanza={STANZA}"))
            .args(args)
            .as_user(OsUser::unprivileged())
    }

    fn archive(&self) -> PathBuf {
        self.repository().join("archive").join(STANZA)
    }
}

impl Tool for PgBackRest {
    fn name(&self) -> &'static str {
        "pgBackRest"
    }

    fn version(&self) -> String {
        Run::new(&self.program)
            .arg("version")
            .run()
            .ok()
            .stdout
            .trim()
            .to_owned()
    }

    fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    fn back_up(&self) {
        self.run(["--type=full", "backup"]).run().ok();
    }

    fn repository(&self) -> PathBuf {
        self.home.join("repository")
    }

    fn archived(&self, name: &str) -> PathBuf {
        let found = objects_like(&self.archive(), &format!("/{name}"));
        assert_eq!(found.len(), 1, "{found:?}");
        self.archive().join(&found[0])
    }

    fn restores(&self) -> Vec<Restore> {
        vec![Restore::Default, Restore::ToLastLsn]
    }

    fn restore(&self, target: &Path, way: &Restore, last: Lsn) -> Output {
        std::fs::create_dir(target).unwrap();
        OsUser::unprivileged().own(target);
        let path = format!("--pg1-path={}", target.display());
        let run = match way {
            Restore::Default => self.run([&path, "restore"]),
            Restore::ToLastLsn => {
                let target = format!("--target={last}");
                self.run([&path, "--type=lsn", &target, "--target-action=promote", "restore"])
            }
        };
        run.run()
    }

    fn inspect(&self) -> Vec<(&'static str, Output)> {
        let look = |command: &'static str| {
            // Without the times, so that two runs can be compared.
            let run = self.run(["--log-level-console=info", "--log-timestamp=n"]);
            (command, run.args(command.split(' ')).run())
        };
        ["verify --output=text --verbose", "info"].map(look).into()
    }
}
