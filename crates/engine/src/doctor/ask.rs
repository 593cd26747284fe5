//! Asks a server and its data directory everything that the checks look at, once.
//!
//! Invariant: each answer is kept with its own error, so that one privilege that is missing spoils one check only.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::{Error, ErrorKind, PgMajor, Result, ResultExt, SystemId};
use pgkeep_pg::connect::{Connection, column};
use pgkeep_pg::control::ControlFile;
use pgkeep_pg::datadir::DataDir;
use pgkeep_pg::facts::{ArchiveBacklog, ArchiverFacts, MissingGrant, ServerFacts, privileges, system_identifier};
use pgkeep_pg::settings::read_auto_conf;

use super::access::Who;
use super::findings::Verdict;
use super::standbys::{ReplayLag, Sender, Slot};
use crate::engine::Engine;
use crate::setup::ClusterConfig;

/// How long a server may take for all answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster of the configuration, and what was heard of it.
#[derive(Debug)]
pub struct Asked {
    pub config: ClusterConfig,
    pub answers: Result<Answers>,
}

/// What a server answered.
#[derive(Debug)]
pub struct Answers {
    /// Where the session went, for people.
    pub place: String,
    pub user: String,
    pub major: PgMajor,
    pub version_num: u32,
    pub in_recovery: bool,
    pub system_identifier: Result<SystemId>,
    pub missing_grants: Result<Vec<MissingGrant>>,
    pub facts: Result<ServerFacts>,
    pub archiver: Result<ArchiverFacts>,
    pub backlog: Result<ArchiveBacklog>,
    /// Recovery targets that the server has in force; they change with a restart only.
    pub recovery_settings: Result<Vec<RecoverySetting>>,
    pub slots: Result<Vec<Slot>>,
    pub senders: Result<Vec<Sender>>,
    pub replay: Result<Option<ReplayLag>>,
    pub disk: Disk,
}

/// Settings that end a recovery; timeline, action and the like do no harm.
const TARGETS: &[&str] = &[
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// A recovery target that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverySetting {
    pub name: String,
    pub value: String,
    /// The file that set it, where our role may see that.
    pub file: Option<PathBuf>,
}

/// Whether the server's files are at hand.
#[derive(Debug)]
pub enum Disk {
    /// The server did not say where they are.
    Untold,
    /// On another host.
    Elsewhere(PathBuf),
    /// They should be on this host and can't be looked at.
    Gone(PathBuf, Error),
    Here(Box<DataDirectory>),
}

/// A data directory on this host.
#[derive(Debug)]
pub struct DataDirectory {
    pub path: PathBuf,
    /// Who owns it: the user that runs the server and its `archive_command`.
    pub owner: Who,
    pub control: Result<ControlFile>,
    pub auto_conf: Result<Vec<u8>>,
}

impl Asked {
    /// What the server says of itself, if it said anything.
    pub fn facts(&self) -> Option<&ServerFacts> {
        self.answers.as_ref().ok()?.facts.as_ref().ok()
    }

    /// The data directory, where it is on this host.
    pub fn here(&self) -> Option<&DataDirectory> {
        match &self.answers.as_ref().ok()?.disk {
            Disk::Here(directory) => Some(directory),
            _ => None,
        }
    }

    /// The facts, or else the verdict for a check that needs them.
    pub fn facts_or_verdict(&self) -> std::result::Result<&ServerFacts, Verdict> {
        let answers = self.answers.as_ref().map_err(|_| unasked())?;
        answers.facts.as_ref().map_err(|error| match error.kind() {
            ErrorKind::Denied => {
                Verdict::unknown("our role may not ask the server for its settings", "See `role-grants`.")
            }
            _ => Verdict::untold(error, "See PostgreSQL's log."),
        })
    }
}

/// The verdict of whatever only a server that answers can tell.
pub fn unasked() -> Verdict {
    Verdict::unknown("the server could not be asked", "See `server-reachable`.")
}

/// Asks.
pub async fn ask(engine: &Engine, config: &ClusterConfig) -> Asked {
    let asking = tokio::time::timeout(PATIENCE, answers(engine, config)).await;
    let silent = || {
        Err(Error::unavailable(format!(
            "the server did not answer within {} s",
            PATIENCE.as_secs()
        )))
    };
    Asked {
        config: config.clone(),
        answers: asking.unwrap_or_else(|_| silent()),
    }
}

async fn answers(engine: &Engine, config: &ClusterConfig) -> Result<Answers> {
    let environment = Arc::clone(&engine.setup().environment);
    let connection = Connection::open(&config.connection, &*environment).await?;
    let facts = ServerFacts::gather(&connection).await;
    let disk = match &facts {
        Ok(facts) => look(&connection, facts),
        Err(_) => Disk::Untold,
    };
    let answers = Answers {
        place: connection.place().to_owned(),
        user: connection.user().to_owned(),
        major: connection.major(),
        version_num: connection.version_num(),
        in_recovery: connection.was_in_recovery(),
        system_identifier: system_identifier(&connection).await,
        missing_grants: privileges(&connection).await,
        archiver: ArchiverFacts::gather(&connection).await,
        backlog: ArchiveBacklog::gather(&connection).await,
        recovery_settings: recovery_settings(&connection).await,
        slots: Slot::gather(&connection).await,
        senders: Sender::gather(&connection).await,
        replay: ReplayLag::gather(&connection).await,
        facts,
        disk,
    };
    connection.close().await;
    Ok(answers)
}

async fn recovery_settings(connection: &Connection) -> Result<Vec<RecoverySetting>> {
    let sql = "SELECT name, setting, sourcefile FROM pg_catalog.pg_settings WHERE name = ANY ($1) \
        AND setting <> '' AND NOT pending_restart ORDER BY name";
    let rows = connection
        .query(sql, &[&TARGETS])
        .await
        .during(|| "read the recovery settings")?;
    let setting = |row| {
        let file: Option<String> = column(row, 2)?;
        Ok(RecoverySetting {
            name: column(row, 0)?,
            value: column(row, 1)?,
            file: file.map(PathBuf::from),
        })
    };
    rows.iter().map(setting).collect()
}

/// Looks for the data directory on this host. A remote server's path may exist here by chance: then the system
/// identifier tells.
fn look(connection: &Connection, facts: &ServerFacts) -> Disk {
    let path = &facts.data_directory;
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(_) if !connection.is_local() => return Disk::Elsewhere(path.clone()),
        Err(error) => return Disk::Gone(path.clone(), error.into()),
    };
    let control = DataDir::open(path).map(|directory| directory.control().clone());
    let ours = control
        .as_ref()
        .is_ok_and(|control| control.system_id == facts.system_identifier);
    if !connection.is_local() && !ours {
        return Disk::Elsewhere(path.clone());
    }
    Disk::Here(Box::new(DataDirectory {
        path: path.clone(),
        owner: Who::of(metadata.uid(), metadata.gid()),
        control,
        auto_conf: read_auto_conf(path),
    }))
}

/// Minutes, hours or days, as people say it.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// How the owner of the data directory runs a command.
pub fn as_user(owner: &Who, command: &str) -> String {
    if owner.is_me() {
        command.to_owned()
    } else {
        format!("sudo -u {} {command}", owner.name)
    }
}

/// How a server is restarted.
pub fn restart(directory: &Path) -> String {
    format!(
        "then restart PostgreSQL: `pg_ctl restart -D {}`, or through its service",
        directory.display()
    )
}
