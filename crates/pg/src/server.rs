//! Runs PostgreSQL on this machine: creates clusters, starts, watches and stops servers.
//!
//! Invariant: a server that pgkeep started is its child in a process group of its own (a Ctrl-C for pgkeep doesn't
//! reach it), never runs as root, and its death is noticed at the next look, with the last words of its log. Whether
//! someone else's server runs: `server/postmaster.rs`; the end of recovery: `server/recovery.rs`.

mod account;
mod initdb;
mod log;
mod place;
mod postmaster;
mod recovery;

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use pgkeep_base::{Error, PgMajor, Result, ResultExt};
use rustix::process::{Pid, Signal, kill_process};

pub use account::Account;
pub use initdb::{InitOptions, initdb};
pub use log::last_complaints;
pub use place::{SOCKET_DIR_BYTES_MAX, SocketDir, free_port};
pub use postmaster::{Postmaster, Status, is_running, postmaster_file, server_using};
pub use recovery::{RecoveryEnd, RecoveryOutcome, Replay};

use crate::binaries::Binaries;

/// How often a server that starts or stops is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How long a server that is stopped because its handle was dropped gets before it is killed.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// How to start a server.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// The cluster.
    pub data_dir: PathBuf,
    /// The port, also in the name of the socket.
    pub port: u16,
    /// The only directory of sockets, at most [`SOCKET_DIR_BYTES_MAX`] bytes long.
    pub socket_dir: PathBuf,
    /// `listen_addresses`; empty means sockets only.
    pub listen_addresses: String,
    /// Where its output goes; appended to.
    pub log_file: PathBuf,
    /// `config_file`, where it isn't in the data directory (Debian).
    pub config_file: Option<PathBuf>,
    /// More settings, given on the command line: they outrank every file.
    pub settings: Vec<(String, String)>,
    /// Stop the server (immediate shutdown) when its handle is dropped: for scratch clusters.
    pub stop_on_drop: bool,
}

impl StartOptions {
    /// A server on sockets only, without other settings, that outlives its handle.
    pub fn new(data_dir: &Path, socket_dir: &Path, port: u16, log_file: &Path) -> StartOptions {
        StartOptions {
            data_dir: data_dir.to_owned(),
            port,
            socket_dir: socket_dir.to_owned(),
            listen_addresses: String::new(),
            log_file: log_file.to_owned(),
            config_file: None,
            settings: Vec::new(),
            stop_on_drop: false,
        }
    }

    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> StartOptions {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments = vec!["-D".into(), self.data_dir.clone().into_os_string()];
        let mut set = |name: &str, value: &std::ffi::OsStr| {
            let mut setting = std::ffi::OsString::from(format!("{name}="));
            setting.push(value);
            arguments.extend(["-c".into(), setting]);
        };
        if let Some(file) = &self.config_file {
            set("config_file", file.as_os_str());
        }
        set("port", self.port.to_string().as_ref());
        // A list setting: quotes keep commas and blanks of a path.
        let quoted = format!("\"{}\"", self.socket_dir.display());
        set("unix_socket_directories", quoted.as_ref());
        set("listen_addresses", self.listen_addresses.as_ref());
        for (name, value) in &self.settings {
            set(name, value.as_ref());
        }
        arguments
    }
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Waits until everyone has left.
    Smart,
    /// Ends sessions, writes a checkpoint.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
}

/// What a server that came up can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Accepts connections; it may still be in recovery.
    Connections,
    /// Recovers with `hot_standby = off`: accepts connections when recovery has ended.
    RecoveryOnly,
}

/// A server on this machine, started by us or found running.
#[derive(Debug)]
pub struct Server {
    data_dir: PathBuf,
    pid: i32,
    child: Option<Child>,
    port: u16,
    socket_dir: PathBuf,
    log_file: PathBuf,
    /// Where in the log this run begins.
    log_offset: u64,
    exit: Option<String>,
    exited_well: bool,
    stop_on_drop: bool,
}

impl Server {
    /// Starts a server and returns at once; [`Server::wait_until_ready`] waits for it.
    ///
    /// # Errors
    /// `Conflict` if one runs there already; `Invalid` if the data directory is of another major than `binaries`.
    pub fn start(binaries: &Binaries, account: &Account, options: &StartOptions) -> Result<Server> {
        let dir = &options.data_dir;
        place::check_socket_dir(&options.socket_dir)?;
        check_major(dir, binaries)?;
        if let Some(found) = is_running(dir)? {
            return Err(Error::conflict(format!("a server runs on {} already", dir.display()))
                .detail(format!("process {}", found.pid)));
        }
        let log = open_log(&options.log_file, account)?;
        let log_offset = log.metadata().during(|| "look at the log")?.len();
        let mut command = binaries.command("postgres")?;
        command
            .args(options.arguments())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().during(|| "share the log")?)
            .stderr(log)
            .process_group(0);
        for variable in ["PGPORT", "PGDATA", "PGDATESTYLE", "PGCLIENTENCODING"] {
            command.env_remove(variable);
        }
        account.apply(&mut command);
        let child = command
            .spawn()
            .during(|| format!("start PostgreSQL on {}", dir.display()))?;
        Ok(Server {
            data_dir: dir.clone(),
            pid: child.id().cast_signed(),
            child: Some(child),
            port: options.port,
            socket_dir: options.socket_dir.clone(),
            log_file: options.log_file.clone(),
            log_offset,
            exit: None,
            exited_well: false,
            stop_on_drop: options.stop_on_drop,
        })
    }

    /// A handle on a server that runs already, whoever started it; `None` if none does.
    pub fn attach(data_dir: &Path) -> Result<Option<Server>> {
        let Some(found) = is_running(data_dir)? else {
            return Ok(None);
        };
        let log_file = log::collected(data_dir).unwrap_or_default();
        Ok(Some(Server {
            data_dir: data_dir.to_owned(),
            pid: found.pid,
            child: None,
            port: found.port.unwrap_or_default(),
            socket_dir: found.socket_dir.unwrap_or_default(),
            log_offset: std::fs::metadata(&log_file).map_or(0, |meta| meta.len()),
            log_file,
            exit: None,
            exited_well: false,
            stop_on_drop: false,
        }))
    }

    /// The connection string of a superuser or other role, for [`crate::connect::Connection::open`] and for programs.
    pub fn conninfo(&self, user: &str, database: &str) -> String {
        let quote = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
        format!(
            "host={} port={} user={} dbname={}",
            quote(&self.socket_dir.display().to_string()),
            self.port,
            quote(user),
            quote(database)
        )
    }

    /// Its postmaster's process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its first socket directory.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Lets the server outlive this handle.
    pub fn keep(&mut self) {
        self.stop_on_drop = false;
    }

    /// Whether the postmaster lives. Cheap; reaps it when it is our child.
    pub fn is_alive(&mut self) -> bool {
        if self.exit.is_some() {
            return false;
        }
        match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(None) => return true,
                Ok(Some(status)) => {
                    self.exited_well = status.success();
                    self.exit = Some(status.to_string());
                }
                // Reaped by someone else: it is gone, how is unknown.
                Err(error) => self.exit = Some(error.to_string()),
            },
            None if postmaster::is_alive(self.pid) => return true,
            None => self.exit = Some("exit status unknown".into()),
        }
        false
    }

    /// The last errors that this run of the server has logged, oldest first.
    pub fn complaints(&self) -> Vec<String> {
        let mut found = log::complaints_since(&self.log_file, self.log_offset);
        if let Some(file) = log::collected(&self.data_dir).filter(|file| *file != self.log_file) {
            found.extend(log::last_complaints(&file));
        }
        found
    }

    /// Waits until the server accepts connections, or recovers without doing so.
    ///
    /// # Errors
    /// `Io` with the log's last words when it dies; `Unavailable` when `limit` is over: it still runs then.
    pub async fn wait_until_ready(&mut self, limit: Duration) -> Result<Readiness> {
        let deadline = Instant::now() + limit;
        loop {
            if !self.is_alive() {
                return Err(self.died("starting"));
            }
            // The file is another server's, or half written, until it names our process.
            let found = is_running(&self.data_dir)
                .ok()
                .flatten()
                .filter(|found| found.pid == self.pid);
            match found.map(|found| found.status) {
                Some(Status::Ready) => return Ok(Readiness::Connections),
                Some(Status::Standby) => return Ok(Readiness::RecoveryOnly),
                _ if Instant::now() > deadline => {
                    let error = Error::unavailable(format!(
                        "PostgreSQL on {} was not ready within {} s",
                        self.data_dir.display(),
                        limit.as_secs()
                    ));
                    return Err(self.with_complaints(error));
                }
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Stops the server and waits for its end. Does nothing if it is gone.
    ///
    /// # Errors
    /// `Unavailable` when it still runs after `limit`: it was asked, and a stronger mode may follow.
    pub async fn stop(&mut self, mode: StopMode, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        if self.is_alive() {
            self.signal(match mode {
                StopMode::Smart => Signal::TERM,
                StopMode::Fast => Signal::INT,
                StopMode::Immediate => Signal::QUIT,
            })?;
        }
        while self.is_alive() {
            if Instant::now() > deadline {
                return Err(Error::unavailable(format!(
                    "PostgreSQL on {} still runs {} s after it was asked to stop",
                    self.data_dir.display(),
                    limit.as_secs()
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        // A child's number can't be taken by another process before we reap it; a stranger's can.
        let ours = self.child.is_some() || is_running(&self.data_dir)?.is_some_and(|found| found.pid == self.pid);
        match Pid::from_raw(self.pid).filter(|_| ours) {
            Some(pid) => match kill_process(pid, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => {
                    Err(std::io::Error::from(error)).during(|| format!("signal PostgreSQL's process {}", self.pid))
                }
            },
            None => Ok(()),
        }
    }

    /// Why the server isn't there any more.
    fn died(&self, while_doing: &str) -> Error {
        let exit = self.exit.as_deref().unwrap_or("exit status unknown");
        let error = Error::io(format!(
            "PostgreSQL on {} ended while {while_doing} ({exit})",
            self.data_dir.display()
        ));
        self.with_complaints(error)
    }

    fn with_complaints(&self, error: Error) -> Error {
        let complaints = self.complaints();
        let error = match complaints.is_empty() {
            true => error,
            false => error.detail(complaints.join(" | ")),
        };
        match self.log_file.as_os_str().is_empty() {
            true => error,
            false => error.hint(format!(
                "Its log is {}; when the cause is mended, run `pgkeep` again.",
                self.log_file.display()
            )),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.stop_on_drop || !self.is_alive() {
            return;
        }
        let deadline = Instant::now() + DROP_TIMEOUT;
        // A scratch cluster: if even the last signal fails, nothing is lost but tidiness.
        let _ = self.signal(Signal::QUIT);
        while self.is_alive() {
            if Instant::now() > deadline {
                let _ = self.signal(Signal::KILL);
            }
            if Instant::now() > deadline + DROP_TIMEOUT {
                break;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn check_major(data_dir: &Path, binaries: &Binaries) -> Result<()> {
    let file = data_dir.join("PG_VERSION");
    let text = std::fs::read_to_string(&file).during(|| format!("read {}", file.display()))?;
    let major = text.trim().parse().map_err(|_| {
        Error::corrupt(format!("{} is not a data directory", data_dir.display()))
            .detail(format!("its PG_VERSION says \"{}\"", text.trim().escape_debug()))
    })?;
    let major = PgMajor::new(major)?;
    if major == binaries.major() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the programs in {} are of PostgreSQL {}, data directory {} is of {major}",
        binaries.bin_dir().display(),
        binaries.major(),
        data_dir.display()
    )))
}

/// Opens the log for appending, owned by the server's user and closed to others.
fn open_log(file: &Path, account: &Account) -> Result<File> {
    let log = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)
        .during(|| format!("open log {}", file.display()))?;
    account.own(file)?;
    Ok(log)
}
