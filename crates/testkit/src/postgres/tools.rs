//! What tests ask of a cluster through PostgreSQL's own programs.

use std::fs;
use std::path::Path;

use pgkeep_base::{Lsn, SegmentSize, SystemId, TimelineId, WalSegment};

use super::cluster::Cluster;
use super::install::program;
use crate::run::{Output, Run};
use crate::wait;

impl Cluster {
    /// Runs `statements` in the database `postgres`, one by one, and gives unaligned rows without headers.
    ///
    /// # Panics
    /// When one of them fails.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        self.sql_in("postgres", statements)
    }

    /// [`Cluster::sql`] in another database.
    ///
    /// # Panics
    /// When a statement fails.
    #[track_caller]
    pub fn sql_in(&self, database: &str, statements: &str) -> String {
        self.psql(database, statements).ok().stdout.trim_end().to_owned()
    }

    /// Runs statements of which one must fail, and gives the message.
    ///
    /// # Panics
    /// When none fails.
    #[track_caller]
    pub fn sql_err(&self, statements: &str) -> String {
        let output = self.psql("postgres", statements);
        assert_ne!(output.code, Some(0), "should have failed: {output}");
        output.stderr
    }

    /// [`Cluster::sql`] for when nobody knows whether the server answers.
    ///
    /// # Errors
    /// psql's messages.
    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        let output = self.psql("postgres", statements);
        match output.code {
            Some(0) => Ok(output.stdout.trim_end().to_owned()),
            _ => Err(output.stderr),
        }
    }

    fn psql(&self, database: &str, statements: &str) -> Output {
        program(self.major, "psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"])
            .arg(self.socket_dir())
            .arg("-p")
            .arg(self.port().to_string())
            .args(["-f", "-"])
            .stdin(statements)
            .run()
    }

    /// A client program of this major (`pg_dump`, `pg_amcheck`, …) with the connection in its environment.
    pub fn program(&self, name: &str) -> Run {
        program(self.major, name)
            .env("PGHOST", self.socket_dir())
            .env("PGPORT", self.port().to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .as_user(self.user)
    }

    /// A value of any type, `None` for no row.
    ///
    /// # Panics
    /// When the statement fails or its answer isn't a `T`.
    #[track_caller]
    pub fn value<T: std::str::FromStr>(&self, query: &str) -> T {
        let text = self.sql(query);
        text.parse().ok().unwrap_or_else(|| panic!("{query} gave {text}"))
    }

    /// `SHOW server_version` up to its first blank, such as `17.11`.
    pub fn version(&self) -> String {
        let output = program(self.major, "postgres").arg("--version").run().ok();
        output.stdout.trim().rsplit(' ').next().unwrap_or_default().to_owned()
    }

    /// The system identifier, from the running server.
    pub fn system_id(&self) -> SystemId {
        self.value("SELECT system_identifier FROM pg_control_system()")
    }

    /// Where the next WAL record will go; the last replayed one's end in recovery.
    pub fn lsn(&self) -> Lsn {
        self.value(
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END",
        )
    }

    /// The timeline that is being written.
    pub fn timeline(&self) -> TimelineId {
        let name = self.sql("SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)");
        TimelineId::from_hex(&name).expect("PostgreSQL names its own timeline")
    }

    /// The cluster's WAL segment size.
    pub fn segment_size(&self) -> SegmentSize {
        let bytes = self.value("SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'");
        SegmentSize::new(bytes).expect("PostgreSQL knows its own segment size")
    }

    /// The segment that is being written.
    pub fn current_segment(&self) -> WalSegment {
        let size = self.segment_size();
        WalSegment {
            timeline: self.timeline(),
            number: size.number_before(self.lsn()),
            size,
        }
    }

    /// Fills the current segment and gives its name: it is complete and will be archived.
    /// Something is always written first, since PostgreSQL does not switch out of an empty segment.
    pub fn switch_wal(&self) -> String {
        let text = self.sql(
            "SELECT pg_logical_emit_message(false, 'testkit', 'switch') \\g /dev/null\n\
             SELECT pg_walfile_name(pg_switch_wal() - 1)",
        );
        text.lines().last().unwrap_or_default().to_owned()
    }

    /// Waits until PostgreSQL has archived `segment` (a 24-digit name).
    ///
    /// # Panics
    /// After a minute, with what the archiver says.
    #[track_caller]
    pub fn wait_archived(&self, segment: &str) {
        let status = self.data_dir().join("pg_wal/archive_status");
        let done = wait::try_until(wait::LIMIT, || {
            if status.join(format!("{segment}.done")).exists() {
                return Some(());
            }
            // Once it is recycled too, neither file is left: then only the archiver itself can tell.
            let waiting = status.join(format!("{segment}.ready")).exists();
            let last = || self.sql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver");
            (!waiting && last().as_str() >= segment).then_some(())
        });
        let archiver = || self.sql("SELECT row_to_json(a) FROM pg_stat_archiver a");
        assert!(
            done.is_some(),
            "{segment} was not archived: {}\n{}",
            archiver(),
            self.log_of_this_start()
        );
    }

    /// [`Cluster::switch_wal`] and [`Cluster::wait_archived`] together.
    #[track_caller]
    pub fn archive_all(&self) -> String {
        let segment = self.switch_wal();
        self.wait_archived(&segment);
        segment
    }

    /// Copies the cluster with `pg_basebackup -X stream` into `dir`, which its user must be able to create, ready to
    /// be started as it is or, with `standby`, as a standby of this one. Tablespaces go to `<dir>.<oid>`.
    #[track_caller]
    pub fn base_backup_to(&self, dir: &Path, standby: bool) {
        let mut run = self
            .program("pg_basebackup")
            .args(["-X", "stream", "-c", "fast", "--no-sync", "-D"])
            .arg(dir);
        if standby {
            run = run.arg("-R");
        }
        let tablespaces = self
            .sql("SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''");
        for line in tablespaces.lines() {
            let (oid, location) = line.split_once('|').expect("two columns");
            run = run.arg(format!("--tablespace-mapping={location}={}.{oid}", dir.display()));
        }
        run.run().ok();
    }

    /// A standby of this cluster, streaming from it, in a directory of its own inside this cluster's scratch.
    #[track_caller]
    pub fn standby(&self, name: &str) -> Cluster {
        let dir = self.scratch().join(name);
        self.base_backup_to(&dir, true);
        let mut standby = Cluster::adopt_dir(self.major, dir);
        standby.start();
        standby
    }

    /// Waits until this standby has replayed what is committed on its primary.
    #[track_caller]
    pub fn catch_up_with(&self, primary: &Cluster) {
        // What is inserted and not flushed is not sent.
        let reached: Lsn = primary.value("SELECT pg_current_wal_flush_lsn()");
        wait::until("the standby to catch up", wait::LIMIT, || {
            (self.lsn() >= reached).then_some(())
        });
    }

    /// Makes a tablespace in a directory of its own inside the scratch.
    #[track_caller]
    pub fn create_tablespace(&self, name: &str) -> std::path::PathBuf {
        let dir = self.scratch().dir(&format!("tablespace-{name}"));
        self.user.own(&dir);
        self.sql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", dir.display()));
        dir
    }

    /// The records that `pg_waldump` shows for these arguments, such as a path of a segment.
    #[track_caller]
    pub fn waldump<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        program(self.major, "pg_waldump")
            .as_user(self.user)
            .args(args)
            .run()
            .ok()
            .stdout
    }

    /// Lets PostgreSQL compare every heap with its TOAST and every B-tree with its heap, in all databases. What is prepared
    /// is rolled back first: it holds locks that the comparison would wait for, without end.
    ///
    /// # Panics
    /// With what `pg_amcheck` found.
    #[track_caller]
    pub fn check_structure(&self) {
        let options = [
            "--all",
            "--install-missing",
            "--heapallindexed",
            "--parent-check",
            "--rootdescend",
        ];
        let prepared = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";
        for name in self.sql(prepared).lines().filter(|name| !name.is_empty()) {
            self.sql(&format!("ROLLBACK PREPARED '{name}'"));
        }
        self.program("pg_amcheck").args(options).run().ok();
    }

    /// Lets PostgreSQL verify the checksum of every page. It must be stopped, and made with checksums.
    ///
    /// # Panics
    /// With what `pg_checksums` found.
    #[track_caller]
    pub fn check_pages(&self) {
        let run = program(self.major, "pg_checksums").as_user(self.user);
        run.args(["--check", "-D"]).arg(self.data_dir()).run().ok();
    }

    /// One value of `pg_controldata`, such as `Latest checkpoint's REDO location`.
    #[track_caller]
    pub fn control(&self, label: &str) -> String {
        let output = program(self.major, "pg_controldata")
            .as_user(self.user)
            .arg(self.data_dir())
            .run()
            .ok();
        let found = output
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
        found
            .unwrap_or_else(|| panic!("no {label} in {output}"))
            .trim()
            .to_owned()
    }

    /// Names of the complete segments and other files in `pg_wal`, sorted.
    pub fn wal_files(&self) -> Vec<String> {
        let dir = self.data_dir().join("pg_wal");
        let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("list {}: {error}", dir.display()));
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.path().is_file())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}
