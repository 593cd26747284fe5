//! What the steps work with: the programs, the servers, and what earlier steps learnt.
//!
//! Invariant: a command that is recorded is the command that was run. Questions that only check something are not
//! recorded.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pgkeep_base::{Error, ErrorKind, Lsn, Result, ResultExt};
use pgkeep_pg::binaries::{Binaries, Purpose, Search};
use pgkeep_pg::server::{Account, free_port};
use serde::Serialize;
use serde_json::Value;

use super::program::{self, Said, expect_success, quote};
use super::scratch::Scratch;
use crate::context::Context;

/// Names the directory of PostgreSQL's programs, as it does everywhere.
pub const POSTGRES_BIN: &str = "PGKEEP_POSTGRES_BIN";
/// The cluster's name in the configuration, and its database.
pub const SHOP: &str = "shop";

/// What a step has to tell.
#[derive(Debug)]
pub struct Told {
    /// What it did, in a line.
    pub what: String,
    /// The words of a refusal.
    pub said: Vec<String>,
}

impl Told {
    /// What was done.
    pub fn new(what: impl Into<String>) -> Told {
        Told {
            what: what.into(),
            said: Vec::new(),
        }
    }

    /// Why nothing came of it.
    pub fn failed(error: &Error) -> Told {
        Told::new(error.message())
    }
}

/// Something that `--keep` leaves, and the command for it.
#[derive(Debug, Serialize)]
pub struct Look {
    /// What it is, or what the command does.
    pub what: &'static str,
    /// For a shell.
    pub command: String,
}

/// A server of the demo.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its data directory.
    pub data: PathBuf,
    /// Where its socket is.
    pub socket_dir: PathBuf,
    /// The number in the socket's name.
    pub port: u16,
}

/// What the steps work with.
#[derive(Debug)]
pub struct Stage {
    scratch: Arc<Scratch>,
    binaries: Binaries,
    program: PathBuf,
    /// Whether that is a copy.
    pub is_copy: bool,
    commands: Vec<String>,
    /// The cluster that is lost.
    pub source: Server,
    /// Where the restored one is to run.
    pub restored: Server,
    /// The moment before the disaster, as PostgreSQL's clock told it.
    pub moment: String,
    /// Where the last backup ended.
    pub backup_end: Lsn,
    /// What the first backup stored.
    pub first_backup_bytes: u64,
}

impl Stage {
    /// Finds the programs.
    ///
    /// # Errors
    /// `NotFound` where there is no PostgreSQL.
    pub fn set(scratch: Arc<Scratch>, context: &Context) -> Result<Stage> {
        let configured = context.environment.get(POSTGRES_BIN).map(PathBuf::from);
        let path = std::env::var_os("PATH");
        let mut search = Search::new(Purpose::Server, None);
        search.configured = configured.as_deref();
        search.path = path.as_deref();
        let binaries = search.find()?;
        let (program, is_copy) = reachable_program(&scratch)?;
        let port = free_port()?;
        let server = |data: &str, port: u16| Server {
            data: scratch.path(data),
            socket_dir: scratch.path("run"),
            port,
        };
        Ok(Stage {
            source: server("data", port),
            restored: server("restored", if port == u16::MAX { port - 1 } else { port + 1 }),
            scratch,
            binaries,
            program,
            is_copy,
            commands: Vec::new(),
            moment: String::new(),
            backup_end: Lsn::INVALID,
            first_backup_bytes: 0,
        })
    }

    /// The temporary directory.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// PostgreSQL's programs.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// This program, where the user that runs PostgreSQL can run it.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.scratch.path("pgkeep.toml")
    }

    /// The commands that were recorded since the last time.
    pub fn take_commands(&mut self) -> Vec<String> {
        std::mem::take(&mut self.commands)
    }

    /// Records a command that was not run as a program.
    pub fn record(&mut self, command: String) {
        self.commands.push(command);
    }

    /// Runs pgkeep, however it ends.
    pub async fn pgkeep(&mut self, arguments: &[&OsStr]) -> Result<Said> {
        let command = self.pgkeep_command(arguments);
        self.recorded(command, true).await
    }

    /// Runs pgkeep, which has to succeed.
    pub async fn pgkeep_well(&mut self, arguments: &[&OsStr]) -> Result<Said> {
        let said = self.pgkeep(arguments).await?;
        expect_success(said, &format!("pgkeep {}", arguments[0].to_string_lossy()))
    }

    /// Runs pgkeep with `--json`, and reads what it prints.
    pub async fn pgkeep_json(&mut self, arguments: &[&OsStr]) -> Result<Value> {
        let arguments = [arguments, &[OsStr::new("--json")]].concat();
        let said = self.pgkeep_well(&arguments).await?;
        serde_json::from_str(&said.stdout)
            .map_err(|error| Error::internal("pgkeep printed something else than JSON").source(error))
    }

    /// Runs one of PostgreSQL's programs, which has to succeed; as the user that runs the servers, or as ourselves.
    pub async fn postgres(&mut self, name: &str, arguments: &[&OsStr], as_server: bool) -> Result<Said> {
        let mut command = self.binaries.command(name)?;
        command.args(arguments);
        let said = self.recorded(command, as_server).await?;
        expect_success(said, name)
    }

    /// Runs a file of SQL in a server.
    pub async fn psql_file(
        &mut self,
        server: &Server,
        database: &str,
        file: &Path,
        variables: &[(&str, &Path)],
    ) -> Result<Said> {
        let variables: Vec<String> = variables
            .iter()
            .map(|(name, value)| format!("{name}={}", value.display()))
            .collect();
        let mut arguments = connection(server, database);
        arguments.extend(["-qAt", "-v", "ON_ERROR_STOP=1"].map(String::from));
        arguments.extend(variables.into_iter().flat_map(|variable| ["-v".to_owned(), variable]));
        arguments.extend(["-f".to_owned(), file.display().to_string()]);
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        self.postgres("psql", &arguments, false).await
    }

    /// What a server answers to a question; not recorded.
    pub async fn ask(&self, server: &Server, database: &str, sql: &str) -> Result<String> {
        let mut command = self.binaries.command("psql")?;
        command
            .args(connection(server, database))
            .args(["-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        command.current_dir(self.scratch.root());
        let said = expect_success(program::run(command, &Account::current()).await?, "psql")?;
        Ok(said.stdout.trim().to_owned())
    }

    /// What there is to look at, and how it ends.
    pub fn how_to_look(&self) -> Vec<Look> {
        let psql = |server: &Server| {
            let words: Vec<String> = connection(server, SHOP).iter().map(|word| quote(word)).collect();
            format!("{} {}", self.show_program("psql"), words.join(" "))
        };
        let pgkeep = |arguments: &[&str]| {
            let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
            program::shell(&self.pgkeep_command(&arguments), self.scratch.account())
        };
        let stop = |server: &Server| {
            let mut command = Command::new(self.show_program("pg_ctl"));
            command.arg("-D").arg(&server.data).args(["-m", "fast", "stop"]);
            program::shell(&command, self.scratch.account())
        };
        let root = quote(&self.scratch.root().display().to_string());
        let pairs = [
            ("all files", format!("ls -l {root}")),
            ("the lost cluster", psql(&self.source)),
            ("the restored one", psql(&self.restored)),
            ("backups", pgkeep(&["list"])),
            ("moments", pgkeep(&["window"])),
            ("stop", format!("{}; {}", stop(&self.source), stop(&self.restored))),
            ("remove", format!("rm -r {root}")),
        ];
        pairs.map(|(what, command)| Look { what, command }).into()
    }

    fn show_program(&self, name: &str) -> String {
        quote(&self.binaries.bin_dir().join(name).display().to_string())
    }

    fn pgkeep_command(&self, arguments: &[&OsStr]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.config()).args(arguments);
        command
    }

    async fn recorded(&mut self, mut command: Command, as_server: bool) -> Result<Said> {
        let account = match as_server {
            true => self.scratch.account().clone(),
            false => Account::current(),
        };
        self.commands.push(program::shell(&command, &account));
        command.current_dir(self.scratch.root());
        program::run(command, &account).await
    }
}

/// `-h … -p … -U postgres -d …`, without the user's own psqlrc.
fn connection(server: &Server, database: &str) -> Vec<String> {
    let socket_dir = server.socket_dir.display().to_string();
    let port = server.port.to_string();
    ["-X", "-h", &socket_dir, "-p", &port, "-U", "postgres", "-d", database]
        .map(String::from)
        .to_vec()
}

/// This program, or a copy (then true) in the temporary directory where the user that runs PostgreSQL can't get at it.
fn reachable_program(scratch: &Scratch) -> Result<(PathBuf, bool)> {
    let program = std::env::current_exe().during(|| "find this program")?;
    let mut trial = Command::new(&program);
    trial
        .arg("--version")
        .current_dir("/")
        .stdout(std::process::Stdio::null());
    scratch.account().apply(&mut trial);
    match trial.status() {
        Ok(_) => return Ok((program, false)),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
        Err(error) => return Err(Error::from(error).during(format!("run {}", program.display()))),
    }
    let copy = scratch.path("pgkeep");
    std::fs::copy(&program, &copy).during(|| format!("copy {} to {}", program.display(), copy.display()))?;
    scratch.account().own(&copy)?;
    Ok((copy, true))
}

/// A failure that shows the product at fault: exit 8.
pub fn unproven(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}
