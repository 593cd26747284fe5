//! A throw-away cluster with everything that makes WAL worth reading.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pgkeep_base::{Lsn, PgMajor};

pub const TRANSACTIONS: &str = "
create table t (id int, v text);
create index on t (id);
insert into t select g, repeat('v', g % 200) from generate_series(1, 5000) g;
update t set v = v || 'w' where id % 7 = 0;
begin; insert into t values (-1); savepoint s; insert into t values (-2); rollback to s; commit;
begin; create table gone (id int); insert into gone values (1); rollback;
do $$ begin for i in 1..3000 loop
  begin
    insert into t values (i, 'sub');
    if i % 3 = 0 then raise exception 'no'; end if;
  exception when raise_exception then null; end;
end loop; end $$;
create table dropped (id int primary key, v text);
begin; drop table dropped; savepoint s; insert into t values (-3); prepare transaction 'one';
begin; insert into t values (-4); prepare transaction 'two';
commit prepared 'one';
rollback prepared 'two';
select pg_create_restore_point('before the storm');
select pg_switch_wal();
create table u as select * from t;
vacuum full t;
truncate u;
checkpoint;
";

pub const BIG_RECORDS: &str = "
select length(pg_logical_emit_message(true, 'big', repeat('x', 3500000))::text);
select length(pg_logical_emit_message(false, 'big', repeat('y', 300000))::text);
insert into t select g, repeat('v', g % 200) from generate_series(1, 20000) g;
checkpoint;
";

pub const TRANSACTIONS_AGAIN: &str = "
insert into t select g, repeat('w', g % 100) from generate_series(1, 2000) g;
begin; insert into t values (-5); rollback;
vacuum t;
";

pub struct Cluster {
    pub major: PgMajor,
    pub segment_bytes: u32,
    bin: PathBuf,
    dir: tempfile::TempDir,
    running: bool,
}

impl Cluster {
    pub fn create(major: u16, segment_mib: u32) -> Cluster {
        let Some(all) = std::env::var_os("PGKEEP_PG_DIR") else {
            panic!("run scripts/fetch-postgres DIR and set PGKEEP_PG_DIR=DIR: these tests need PostgreSQL 14 to 18");
        };
        let bin = Path::new(&all).join(major.to_string()).join("bin");
        assert!(
            bin.join("postgres").exists(),
            "no PostgreSQL {major} in {}",
            bin.display()
        );
        let dir = tempfile::Builder::new()
            .prefix("pgkeep-wal-")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let cluster = Cluster {
            major: PgMajor::new(major).unwrap(),
            segment_bytes: segment_mib << 20,
            bin,
            dir,
            running: false,
        };
        let data = cluster.data();
        let segment = format!("--wal-segsize={segment_mib}");
        cluster.must(
            "initdb",
            &[
                "-D",
                data.to_str().unwrap(),
                "-U",
                "postgres",
                "-A",
                "trust",
                "-N",
                &segment,
            ],
        );
        cluster.configure(&format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nwal_level = logical\n\
             wal_compression = on\nmax_prepared_transactions = 10\nwal_keep_size = '1GB'\nmax_wal_size = '2GB'\n\
             min_wal_size = '32MB'\nautovacuum = off\nlog_checkpoints = on\n",
            cluster.dir.path().display()
        ));
        cluster
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn wal_dir(&self) -> PathBuf {
        self.data().join("pg_wal")
    }

    /// The segments whose names begin with these digits, in order; the last ones may be recycled.
    pub fn segments(&self, timeline: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.wal_dir()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names
            .filter(|name| name.len() == 24 && name.starts_with(timeline))
            .collect();
        names.sort();
        names
    }

    /// Runs a tool of this major, as another user if we are root: PostgreSQL refuses to run as root.
    pub fn run(&self, tool: &str, arguments: &[&str]) -> Output {
        let tool = self.bin.join(tool);
        let mut command = match rustix::process::geteuid().is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
                    .arg(tool);
                command
            }
            false => Command::new(tool),
        };
        command
            .args(arguments)
            .current_dir("/tmp")
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .env("PGTZ", "UTC");
        command.output().unwrap()
    }

    fn must(&self, tool: &str, arguments: &[&str]) -> String {
        let output = self.run(tool, arguments);
        let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        assert!(output.status.success(), "{tool} {arguments:?}: {output:?}\n{}", log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn configure(&self, lines: &str) {
        use std::io::Write;
        let path = self.data().join("postgresql.conf");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }

    pub fn start(&mut self) {
        let (data, log) = (self.data(), self.dir.path().join("log"));
        self.running = true;
        // Output goes to the log: an inherited pipe would stay open for as long as the server runs.
        self.must(
            "pg_ctl",
            &[
                "start",
                "-w",
                "-s",
                "-D",
                data.to_str().unwrap(),
                "-l",
                log.to_str().unwrap(),
            ],
        );
    }

    pub fn stop(&mut self, mode: &str) {
        self.must(
            "pg_ctl",
            &["stop", "-w", "-s", "-m", mode, "-D", self.data().to_str().unwrap()],
        );
        self.running = false;
    }

    pub fn sql(&self, script: &str) -> String {
        let socket = self.dir.path().to_str().unwrap();
        let file = self.dir.path().join("script.sql");
        std::fs::write(&file, script).unwrap();
        let script = file.to_str().unwrap();
        let options = [
            "-X",
            "-q",
            "-At",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            socket,
            "-U",
            "postgres",
            "-d",
            "postgres",
        ];
        self.must("psql", &[&options[..], &["-f", script]].concat())
    }

    /// Full page images by every method of compression that this server offers.
    pub fn compression_script(&self) -> String {
        let offered = self.sql("select unnest(enumvals) from pg_settings where name = 'wal_compression'");
        let script = |method: &str| format!("set wal_compression = {method}; checkpoint; update t set v = v || 'c';");
        offered.split_whitespace().chain(["on", "off"]).map(script).collect()
    }

    /// A base backup that copies nothing: for its `XLOG_BACKUP_END`.
    pub fn backup_script(&self) -> String {
        match self.major.has_pg_backup_start() {
            true => "select pg_backup_start('b', true); select * from pg_backup_stop(false);".into(),
            false => "select pg_start_backup('b', true, false); select * from pg_stop_backup(false, false);".into(),
        }
    }

    /// Cuts a record off as a crash would that lost the segments after its first one, and recovers from that.
    pub fn lose_the_end_of_a_record(&mut self) -> Lsn {
        self.sql("checkpoint");
        let file = self.sql(
            "select pg_switch_wal() \\g /dev/null
             insert into t values (-6);
             select pg_current_wal_insert_lsn() || ' ' || pg_walfile_name(pg_current_wal_insert_lsn());
             select pg_logical_emit_message(true, 'lost', repeat('z', 2500000)) \\g /dev/null",
        );
        let (lsn, kept) = file.trim().split_once(' ').unwrap();
        self.stop("immediate");
        for entry in std::fs::read_dir(self.wal_dir()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.len() == 24 && name.as_str() > kept {
                std::fs::remove_file(self.wal_dir().join(name)).unwrap();
            }
        }
        self.start();
        lsn.parse().unwrap()
    }

    /// Starts as a standby without a primary, and promotes.
    pub fn promote(&mut self) {
        let data = self.data();
        std::fs::write(data.join("standby.signal"), "").unwrap();
        std::fs::set_permissions(data.join("standby.signal"), std::fs::Permissions::from_mode(0o666)).unwrap();
        self.start();
        self.must("pg_ctl", &["promote", "-w", "-s", "-D", data.to_str().unwrap()]);
    }

    /// Lets checkpoints rename old segments to later names, then writes a little more.
    pub fn recycle_segments(&self) {
        self.sql("alter system set wal_keep_size = 0");
        self.sql("select pg_reload_conf()");
        for _ in 0..3 {
            self.sql("insert into t select g, repeat('r', 500) from generate_series(1, 3000) g; checkpoint");
        }
        self.sql(TRANSACTIONS_AGAIN);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.running {
            self.run(
                "pg_ctl",
                &["stop", "-m", "immediate", "-D", self.data().to_str().unwrap()],
            );
        }
    }
}
