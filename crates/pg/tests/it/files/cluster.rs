//! A throw-away cluster of one major, in a directory of its own, reached by its socket only.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// PostgreSQL refuses to run as root: then it runs as `nobody`.
const NOBODY: u32 = 65534;

pub struct Cluster {
    pub major: u16,
    bin: PathBuf,
    dir: tempfile::TempDir,
    data: PathBuf,
}

impl Cluster {
    /// A cluster with data checksums that has not been started.
    pub fn create(major: u16) -> Cluster {
        let Some(all) = std::env::var_os("PGKEEP_PG_DIR") else {
            panic!("set PGKEEP_PG_DIR to a directory that holds PostgreSQL 14 to 18 as <major>/bin");
        };
        let bin = Path::new(&all).join(major.to_string()).join("bin");
        assert!(
            bin.join("postgres").exists(),
            "no PostgreSQL {major} in {}",
            bin.display()
        );
        let dir = tempfile::Builder::new()
            .prefix("pgkeep-files-")
            .tempdir_in("/tmp")
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let data = dir.path().join("data");
        let cluster = Cluster { major, bin, dir, data };
        cluster.must(
            "initdb",
            ["-D", cluster.data_str(), "-U", "postgres", "-A", "trust", "-N", "-k"],
        );
        cluster.configure(&format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nautovacuum = off\n\
             max_wal_size = '4GB'\nlog_min_messages = 'info'\n",
            cluster.dir.path().display()
        ));
        cluster
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    fn data_str(&self) -> &str {
        self.data.to_str().unwrap()
    }

    /// Goes on with another data directory, such as a restored copy.
    pub fn switch_to(&mut self, data: PathBuf) {
        self.stop();
        self.data = data;
    }

    /// Adds lines to `postgresql.conf`.
    pub fn configure(&self, lines: &str) {
        let path = self.data.join("postgresql.conf");
        let content = fs::read_to_string(&path).unwrap();
        fs::write(path, content + lines).unwrap();
    }

    /// A program of this major, as the user that runs the server.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir(self.dir.path())
            .env_clear()
            .env("LC_ALL", "C")
            .env("PGHOST", self.dir.path());
        command.env("PGUSER", "postgres").env("TZ", "UTC").stdin(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    pub fn run<I: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = I>) -> Output {
        self.command(program).args(args).output().unwrap()
    }

    pub fn must<I: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = I>) -> String {
        let output = self.run(program, args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} of {}: {said}\n{}",
            self.major,
            self.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn try_start(&self) -> bool {
        let log = self.dir.path().join("log");
        let mut command = self.command("pg_ctl");
        command
            .args(["start", "-w", "-t", "60", "-s", "-D", self.data_str(), "-l"])
            .arg(log);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    pub fn start(&self) {
        assert!(
            self.try_start(),
            "PostgreSQL {} does not start: {}",
            self.major,
            self.log()
        );
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn stop(&self) {
        if self.data.join("postmaster.pid").exists() {
            self.run("pg_ctl", ["stop", "-w", "-s", "-m", "fast", "-D", self.data_str()]);
        }
    }

    pub fn promote(&self) {
        self.must("pg_ctl", ["promote", "-w", "-s", "-D", self.data_str()]);
    }

    /// Waits for the end of recovery: `pg_ctl start` returns when a standby can be read.
    pub fn wait_until_writable(&self) {
        for _ in 0..600 {
            if self.sql("select pg_is_in_recovery()") == "f" {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("recovery does not end: {}", self.log());
    }

    /// Runs a script; the last line of what it prints.
    pub fn sql(&self, script: &str) -> String {
        let args = [
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            "postgres",
            "-c",
            script,
        ];
        self.must("psql", args)
            .trim_end()
            .lines()
            .last()
            .unwrap_or("")
            .to_owned()
    }

    /// Runs a psql script with backslash commands from a file.
    pub fn script(&self, script: &str) -> String {
        let path = self.dir.path().join("script.sql");
        fs::write(&path, script).unwrap();
        self.must(
            "psql",
            [
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                "postgres",
                "-f",
                path.to_str().unwrap(),
            ],
        )
    }

    /// Makes a directory that the server may use, outside of the data directory.
    pub fn location(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.dir.path().join(name);
        let status = self.plain("mkdir").arg(&path).status().unwrap();
        assert!(status.success());
        path
    }

    /// A program of the system, as the user that runs the server.
    pub fn plain(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a claim on every major, or says which one it failed on.
pub fn for_majors(majors: impl IntoIterator<Item = u16>, claim: impl Fn(Cluster)) {
    for major in majors {
        claim(Cluster::create(major));
    }
}
