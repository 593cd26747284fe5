//! Checks everything that a backup needs, and changes nothing.
//!
//! Invariant: making a plan writes nothing, except that the local state takes note of the lineage (`wal::lineage`).
//! What is refused here is refused before the server is put into backup mode; `run` takes it from there.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgkeep_base::{Error, ErrorKind, Result, ResultExt};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::control::ClusterState;
use pgkeep_pg::datadir::DataDir;
use pgkeep_pg::facts::{ServerFacts, configuration_files, privileges};
use pgkeep_repo::lineage::Lineage;

use super::BackupRequest;
use crate::engine::Engine;
use crate::wal::lineage::admit_backup;

const JOBS_MAX: usize = 16;
/// More workers than this are asked for explicitly.
const JOBS_DEFAULT_MAX: usize = 4;
/// How often the control file is compared with what the server says of it.
const CONTROL_READS: usize = 5;

/// A backup that can be run.
#[derive(Debug)]
pub struct BackupPlan {
    /// What was asked for.
    pub request: BackupRequest,
    /// Its lineage.
    pub lineage: Lineage,
    /// The server.
    pub facts: ServerFacts,
    /// Where the cluster's files are.
    pub data_directory: PathBuf,
    /// Workers.
    pub jobs: usize,
    /// How long to wait for the archiver.
    pub archive_timeout: Duration,
    /// The connection that will hold the backup session.
    pub(super) connection: Connection,
    /// The open data directory.
    pub(super) data_dir: DataDir,
}

/// Checks the server, our rights, the data directory and the lineage.
///
/// # Errors
/// `Refused` for what must be mended first, each with its fix; `Unavailable` and `Denied` from the connection.
pub async fn plan(engine: &Engine, request: BackupRequest) -> Result<BackupPlan> {
    let cluster = engine.setup().cluster(request.cluster.as_ref())?.clone();
    let environment = std::sync::Arc::clone(&engine.setup().environment);
    let connection = Connection::open(&cluster.connection, &*environment)
        .await
        .during(|| format!("connect to cluster \"{}\"", cluster.name))?;
    let facts = ServerFacts::gather(&connection).await?;
    check_server(&facts)?;
    check_privileges(&connection).await?;
    let data_dir = open_data_directory(&connection, &facts, "backup")?;
    check_sibling(&connection, &data_dir).await?;
    note_configuration(engine, &connection, data_dir.path()).await?;
    let lineage = Lineage {
        cluster: cluster.name.clone(),
        system_identifier: facts.system_identifier,
    };
    admit_backup(engine, &engine.checked_state()?, &lineage, request.new_lineage).await?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = request
        .jobs
        .unwrap_or(processors.min(JOBS_DEFAULT_MAX))
        .clamp(1, JOBS_MAX);
    let data_directory = data_dir.path().to_owned();
    let archive_timeout = cluster.archive_timeout;
    Ok(BackupPlan {
        request,
        lineage,
        facts,
        data_directory,
        jobs,
        archive_timeout,
        connection,
        data_dir,
    })
}

fn check_server(facts: &ServerFacts) -> Result<()> {
    if facts.in_recovery {
        return Err(Error::unsupported("the server is a standby")
            .detail("backups are taken from the primary by this version")
            .hint("Run `pgkeep backup` on the primary's host."));
    }
    let need = |setting: &str, value: &str, wanted: &str| {
        Error::refused(format!("the server can't be backed up with {setting} = {value}")).hint(format!(
            "Set {setting} = {wanted} and restart PostgreSQL; `pgkeep doctor` checks all settings."
        ))
    };
    if facts.wal_level == "minimal" {
        return Err(need("wal_level", "minimal", "replica"));
    }
    if facts.archive_mode == "off" {
        return Err(need("archive_mode", "off", "on"));
    }
    if facts.archive_command.is_none() && facts.archive_library.is_none() {
        return Err(Error::refused("the server has no archive_command").hint(
            "Set archive_command = 'pgkeep wal push %p' and reload PostgreSQL; `pgkeep doctor` prints the full line.",
        ));
    }
    Ok(())
}

async fn check_privileges(connection: &Connection) -> Result<()> {
    let missing = privileges(connection).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let labels: Vec<String> = missing.iter().map(|missing| missing.grant.label()).collect();
    let sql: Vec<&str> = missing.iter().map(|missing| missing.sql.as_str()).collect();
    Err(Error::refused("the role may not do all that a backup needs")
        .detail(format!("missing: {}", labels.join(", ")))
        .hint(format!("As a superuser: {}", sql.join(" "))))
}

/// Configuration outside of the data directory (Debian's is) is not in a backup, which should surprise nobody.
async fn note_configuration(engine: &Engine, connection: &Connection, data_directory: &Path) -> Result<()> {
    let is_inside = |path: &PathBuf| path.canonicalize().is_ok_and(|real| real.starts_with(data_directory));
    let files = configuration_files(connection).await?;
    let outside: Vec<String> = files
        .iter()
        .filter(|path| !is_inside(path))
        .map(|path| path.display().to_string())
        .collect();
    if !outside.is_empty() {
        let list = outside.join(", ");
        engine.note(format!(
            "not in the backup, because outside of the data directory: {list}; keep copies of them"
        ));
    }
    Ok(())
}

/// A standby of the server, or a primary of old, has the same system identifier, and on another host often the same
/// path. Its control file says something else than the server's own.
async fn check_sibling(connection: &Connection, data_dir: &DataDir) -> Result<()> {
    let mut seen = None;
    for _ in 0..CONTROL_READS {
        let (on_disk, _) = data_dir.read_control()?;
        let told = connection.checkpoint_lsn().await?;
        if on_disk.state == ClusterState::InProduction && on_disk.checkpoint.lsn == told {
            return Ok(());
        }
        // A checkpoint may have come in between.
        seen = Some((on_disk, told));
    }
    let (on_disk, told) = seen.expect("it is read at least once");
    Err(
        Error::refused("the data directory on this host is not the one of the server that answers")
            .detail(format!(
                "the server's last checkpoint is {told}; in {} it is {}, of a cluster that is {}",
                data_dir.path().display(),
                on_disk.checkpoint.lsn,
                on_disk.state
            ))
            .hint("Another server of the same cluster answers, maybe on another host: check `connection`, and run `pgkeep backup` on the primary's host."),
    )
}

/// Opens the server's data directory, which must be on this host, ours, and that of the cluster that answers.
pub(crate) fn open_data_directory(connection: &Connection, facts: &ServerFacts, command: &str) -> Result<DataDir> {
    let path = &facts.data_directory;
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if !connection.is_local() || error.kind() == std::io::ErrorKind::NotFound => {
            return Err(
                Error::refused(format!("the data directory {} is not on this host", path.display()))
                    .source(error)
                    .hint(format!("Run `pgkeep {command}` on the database host.")),
            );
        }
        Err(error) => {
            return Err(Error::from(error)
                .with_kind(ErrorKind::Refused)
                .during(format!("look at {}", path.display())));
        }
    };
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        let owner = crate::owners::Owners::of_this_machine((0, 0)).user(metadata.uid());
        return Err(Error::refused(format!(
            "the data directory belongs to {owner}, and this is another user"
        ))
        .detail(format!(
            "{} belongs to user number {}, pgkeep runs as {me}",
            path.display(),
            metadata.uid()
        ))
        .hint(format!("Run it as that user: `sudo -u {owner} pgkeep {command}`.")));
    }
    let data_dir = DataDir::open(path)?;
    let on_disk = data_dir.control().system_id;
    if on_disk != facts.system_identifier {
        return Err(
            Error::refused("the data directory belongs to another cluster than the one that answers")
                .detail(format!(
                    "system identifier {on_disk} in {}, {} by SQL",
                    path.display(),
                    facts.system_identifier
                ))
                .hint("Check `connection`: port and socket directory; `pgkeep config show` prints it."),
        );
    }
    Ok(data_dir)
}
