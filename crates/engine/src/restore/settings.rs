//! Writes what steers the first start of a restored data directory: settings, signal file, the plan of the recovery.
//!
//! Invariant: after this, exactly one of `recovery.signal` and `standby.signal` is there, pgkeep's settings stand in
//! their marked blocks at the end of `postgresql.auto.conf`, and a plan lies in `.pgkeep` if and only if the recovery
//! has one. Written to a directory that can't be started yet: `files::write_all` calls this before `pg_control` is there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pgkeep_base::{Error, PgMajor, Result, ResultExt, failpoint};
use pgkeep_pg::control::ControlFile;
use pgkeep_pg::settings::guc::SettingsFile;
use pgkeep_pg::settings::{
    AUTO_CONF, ArchiveChoice, RECOVERY_SIGNAL, RecoverySettings, STANDBY_SIGNAL, with_archive_block,
    with_recovery_block,
};

use pgkeep_repo::head::Head;

use super::files::{Directory, Ids, Making, WAITING_CONTROL};
use super::recovery::{OWN_DIRECTORY, RecoveryPlan};

const POSTGRESQL_CONF: &[u8] = b"postgresql.conf";
const HBA_CONF: &[u8] = b"pg_hba.conf";
/// Longer settings files are not PostgreSQL's.
const SETTINGS_BYTES_MAX: u64 = 16 << 20;

/// Writes everything into the data directory at `target`, owned as that directory is. Returns what an operator should
/// read.
///
/// `plan` is `None` for a standby; `head` is that of the restored backup. Where the source kept its configuration elsewhere (as Debian does), the directory
/// has no `postgresql.conf`: then a minimal one is written, so that the server can start.
///
/// # Errors
/// `Invalid` for settings that PostgreSQL could not hold; `Io` and `Conflict` where a file can't be written.
pub fn write_settings(
    target: &Path,
    settings: &RecoverySettings,
    archive: &ArchiveChoice,
    major: PgMajor,
    plan: Option<&RecoveryPlan>,
    head: &Head,
) -> Result<Vec<String>> {
    let directory = Directory::open(target)?;
    let making = file_making(&directory)?;
    let inherited = directory
        .read(AUTO_CONF.as_bytes(), SETTINGS_BYTES_MAX)?
        .unwrap_or_default();
    let settings = RecoverySettings {
        in_place_tablespaces: has_in_place_tablespaces(&directory)?,
        ..settings.clone()
    };
    let content = with_recovery_block(&inherited, &settings, major)?;
    let content = with_archive_block(&content, archive, major)?;
    failpoint::at("engine.settings.blocks")?;
    directory
        .replace(AUTO_CONF.as_bytes(), &content, making)
        .during(|| "write the recovery settings")?;
    failpoint::at("engine.settings.signal")?;
    write_signal(&directory, settings.standby.is_some(), making)?;
    failpoint::at("engine.settings.plan")?;
    write_plan(&directory, plan, making)?;
    failpoint::at("engine.settings.configuration")?;
    let notes = write_configuration(&directory, head, making)?;
    directory.sync()?;
    Ok(notes)
}

/// Whether a tablespace is a directory where others are links.
fn has_in_place_tablespaces(directory: &Directory) -> Result<bool> {
    match directory.enter(b"pg_tblspc")? {
        Some(tablespaces) => tablespaces.holds_directories(),
        None => Ok(false),
    }
}

/// Owner as the directory; readable by the group where the directory is.
fn file_making(directory: &Directory) -> Result<Making> {
    let stat = directory.stat()?;
    let ids = rustix::process::geteuid().is_root().then(|| Ids::of(&stat));
    let mode = 0o600 | (stat.st_mode & 0o040);
    Ok(Making { mode, ids })
}

fn write_signal(directory: &Directory, standby: bool, making: Making) -> Result<()> {
    let (wanted, other) = match standby {
        true => (STANDBY_SIGNAL, RECOVERY_SIGNAL),
        false => (RECOVERY_SIGNAL, STANDBY_SIGNAL),
    };
    directory.remove(other.as_bytes())?;
    directory.replace(wanted.as_bytes(), b"", making)
}

fn write_plan(directory: &Directory, plan: Option<&RecoveryPlan>, making: Making) -> Result<()> {
    let name = RecoveryPlan::path(Path::new(""));
    let name = name.file_name().expect("a plan has a name").as_encoded_bytes().to_vec();
    let own = directory.enter(OWN_DIRECTORY.as_bytes())?;
    match (own, plan) {
        (Some(own), None) => own.remove(&name),
        (None, None) => Ok(()),
        (Some(own), Some(plan)) => own.replace(&name, &plan.to_json(), making),
        (None, Some(plan)) => {
            let own = directory.make(OWN_DIRECTORY.as_bytes(), Making { mode: 0o700, ..making })?;
            own.replace(&name, &plan.to_json(), making)
        }
    }
    .during(|| "write the plan of the recovery")
}

/// Makes a server startable whose configuration was not in its data directory.
fn write_configuration(directory: &Directory, head: &Head, making: Making) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let content = match directory.read(POSTGRESQL_CONF, SETTINGS_BYTES_MAX)? {
        Some(content) => content,
        None => {
            let content = minimal_configuration(directory, head)?;
            directory.write(POSTGRESQL_CONF, content.as_bytes(), making)?;
            notes.push(format!(
                "{} was not in the data directory that was backed up; a minimal one was written: compare it with the \
                 source's before the cluster goes into use",
                String::from_utf8_lossy(POSTGRESQL_CONF)
            ));
            content.into_bytes()
        }
    };
    let settings = SettingsFile::parse(&content);
    notes.extend(missing_files(directory, &settings));
    if settings.get("hba_file").is_none() && !directory.has("pg_hba.conf")? {
        directory.write(HBA_CONF, MINIMAL_HBA.as_bytes(), making)?;
        notes.push(
            "pg_hba.conf was not in the data directory that was backed up; one was written that lets only local users \
             in, each under their own name"
                .to_owned(),
        );
    }
    Ok(notes)
}

/// Files without which PostgreSQL does not start, and which were outside of the data directory.
fn missing_files(directory: &Directory, settings: &SettingsFile) -> Vec<String> {
    let files = ["hba_file", "ident_file"]
        .into_iter()
        .filter_map(|name| settings.get(name));
    let includes = settings
        .includes
        .iter()
        .filter(|include| include.name != "include_if_exists");
    let missing = files.chain(includes).filter(|named| {
        let path = Path::new(OsStr::from_bytes(&named.value));
        !path.as_os_str().is_empty() && !directory.path().join(path).exists()
    });
    missing
        .map(|named| {
            format!(
                "{} = '{}' in postgresql.conf is not here, because it was not in the data directory that was backed up: \
                 PostgreSQL does not start without it",
                named.name,
                named.text()
            )
        })
        .collect()
}

const MINIMAL_HBA: &str = "\
# pg_hba.conf was not in the data directory when it was backed up. Written by `pgkeep restore`, so that the server can
# be reached by local users under their own names; replace it by the source's.
local   all             all                                     peer
local   replication     all                                     peer
";

/// Recovery refuses to run with lower limits than the source had, and `pg_control` knows those.
fn minimal_configuration(directory: &Directory, head: &Head) -> Result<String> {
    let mut text = format!(
        "# postgresql.conf was not in the data directory when it was backed up (on Debian it is below \
         /etc/postgresql).\n# Written by `pgkeep restore` of backup {}, so that the server can start; replace it by \
         the source's.\n",
        head.id
    );
    let Some(control) = read_control(directory)? else {
        return Ok(text);
    };
    let limits = [
        ("max_connections", control.max_connections),
        ("max_worker_processes", control.max_worker_processes),
        ("max_wal_senders", control.max_wal_senders),
        ("max_prepared_transactions", control.max_prepared_transactions),
        ("max_locks_per_transaction", control.max_locks_per_transaction),
    ];
    text += "# The source's limits: recovery stops where they are lower.\n";
    for (name, value) in limits {
        text += &format!("{name} = {value}\n");
    }
    Ok(text)
}

/// The control file, under the name that it has until the restore is complete, or its own.
fn read_control(directory: &Directory) -> Result<Option<ControlFile>> {
    let Some(global) = directory.enter(b"global")? else {
        return Ok(None);
    };
    let bytes_max = pgkeep_pg::control::FILE_BYTES as u64 + 1;
    let bytes = match global.read(WAITING_CONTROL, bytes_max)? {
        Some(bytes) => Some(bytes),
        None => global.read(b"pg_control", bytes_max)?,
    };
    bytes
        .map(|bytes| ControlFile::from_bytes(&bytes))
        .transpose()
        .map_err(|error: Error| error.during("read the backup's pg_control"))
}

#[cfg(test)]
mod tests;
