//! What a server says about itself: identity, place, WAL, archiver; and what our role may not see.
//!
//! Invariant: a fact that the role may not see is an error naming the grant, or `None` where the field says so; it is
//! never guessed. Grants: `facts/grants.rs`.

mod grants;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pgkeep_base::{Error, Lsn, PgMajor, Result, ResultExt, SegmentSize, SystemId, TimelineId};

pub(crate) use grants::{CONTROL_CHECKPOINT, RESTORE_POINT, START, START_14, STOP, STOP_14, SWITCH_WAL};
pub use grants::{Grant, MissingGrant, grants_sql, privileges, required};

use crate::connect::{Connection, column};

/// The settings that [`ServerFacts`] reads.
const SETTINGS: &[&str] = &[
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "block_size",
    "cluster_name",
    "config_file",
    "data_checksums",
    "data_directory",
    "external_pid_file",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "log_directory",
    "logging_collector",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_wal_size",
    "max_worker_processes",
    "port",
    "restore_command",
    "server_encoding",
    "shared_preload_libraries",
    "summarize_wal",
    "unix_socket_directories",
    "wal_compression",
    "wal_keep_size",
    "wal_level",
    "wal_segment_size",
];

/// A server's word about itself, all of one moment.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// Such as 170011.
    pub version_num: u32,
    /// The major in it.
    pub major: PgMajor,
    /// Made by `initdb`.
    pub system_identifier: SystemId,
    /// As the server sees it: another machine's, unless the connection is local.
    pub data_directory: PathBuf,
    /// True for a standby, and while a restored copy still replays.
    pub in_recovery: bool,
    /// The timeline that is being written; in recovery, of the last restartpoint.
    pub timeline: TimelineId,
    /// The unit of archiving.
    pub wal_segment_size: SegmentSize,
    /// Of a relation, in bytes: 8192 almost everywhere.
    pub block_size: u32,
    /// End of the WAL that was written to the operating system; in recovery, of the WAL that was replayed.
    pub wal_lsn: Lsn,
    /// End of the WAL that was inserted, perhaps in memory only; `None` in recovery.
    pub insert_lsn: Option<Lsn>,
    /// `minimal`, `replica` or `logical`.
    pub wal_level: String,
    /// `off`, `on` or `always`.
    pub archive_mode: String,
    /// `None` when it is empty, and while `archive_mode` is off: the server hides it then.
    pub archive_command: Option<String>,
    /// `None` when it is empty and before 15.
    pub archive_library: Option<String>,
    /// In seconds; 0 is never.
    pub archive_timeout_seconds: u32,
    /// Off is dangerous for backups, except on file systems that never tear pages.
    pub full_page_writes: bool,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// When the postmaster started.
    pub started_at: Timestamp,
    /// Where the server's programs are, where our role may see it (superuser, or a grant on `pg_config`).
    pub bindir: Option<PathBuf>,
    /// Whether our role is superuser.
    pub is_superuser: bool,
    /// Such as `UTF8`; of the database that we are in.
    pub server_encoding: String,
    settings: BTreeMap<String, String>,
}

/// Counters of the archiver process (`pg_stat_archiver`). They survive a clean restart, not a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiverFacts {
    /// Files archived since the reset.
    pub archived_count: u64,
    /// The last file that was archived.
    pub last_archived: Option<ArchiverEvent>,
    /// Attempts that failed since the reset.
    pub failed_count: u64,
    /// The last file that could not be archived; an old one, once later attempts succeeded.
    pub last_failed: Option<ArchiverEvent>,
    /// When the counters began.
    pub stats_reset: Option<Timestamp>,
    /// The server's clock when it was asked.
    pub asked_at: Timestamp,
}

impl ArchiverFacts {
    /// True while the last thing that happened is a failure.
    pub fn is_failing(&self) -> bool {
        match (&self.last_failed, &self.last_archived) {
            (Some(failed), Some(archived)) => failed.at > archived.at && !self.went_past(failed, archived),
            (failed, _) => failed.is_some(),
        }
    }

    /// A failure that lies in the future came before the clock was set back; whether it is over is told by the files
    /// then: the archiver takes those of a timeline in order and goes past none that fails.
    fn went_past(&self, failed: &ArchiverEvent, archived: &ArchiverEvent) -> bool {
        let same_timeline = failed.file.get(..8) == archived.file.get(..8);
        failed.at > self.asked_at && same_timeline && archived.file > failed.file
    }
}

/// Something that happened to a file of the WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiverEvent {
    /// The file's name: a segment, or a `.history`, `.backup` or `.partial` file.
    pub file: String,
    /// When.
    pub at: Timestamp,
}

/// What waits for the archiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveBacklog {
    /// Files marked `.ready`.
    pub waiting: u64,
    /// Since when the longest-waiting one is.
    pub oldest: Option<Timestamp>,
}

impl ServerFacts {
    /// Asks the server. Three statements; nothing is changed.
    ///
    /// # Errors
    /// `Denied`, with the grant in the hint, when our role may not read the control file or all settings.
    pub async fn gather(conn: &Connection) -> Result<ServerFacts> {
        gather(conn)
            .await
            .during(|| format!("ask the server at {}", conn.place()))
    }

    /// One of the settings that were read, in its base unit (`pg_settings.setting`), such as `max_connections`.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// `postgresql.conf`, wherever it lies (Debian keeps it outside the data directory).
    pub fn config_file(&self) -> Option<&Path> {
        self.setting("config_file").map(Path::new)
    }

    /// `pg_hba.conf`, wherever it lies.
    pub fn hba_file(&self) -> Option<&Path> {
        self.setting("hba_file").map(Path::new)
    }
}

async fn gather(conn: &Connection) -> Result<ServerFacts> {
    let settings = read_settings(conn).await?;
    let setting = |name: &str| {
        settings
            .get(name)
            .cloned()
            .ok_or_else(|| Error::internal(format!("the server does not tell its setting {name}")))
    };
    let filled = |name: &str| settings.get(name).filter(|value| !value.is_empty()).cloned();
    let system_identifier = system_identifier(conn).await?;
    let state = State::read(conn).await?;
    Ok(ServerFacts {
        version_num: conn.version_num(),
        major: conn.major(),
        system_identifier,
        data_directory: setting("data_directory")?.into(),
        in_recovery: state.in_recovery,
        timeline: state.timeline,
        wal_segment_size: SegmentSize::new(number(&setting("wal_segment_size")?)?)?,
        block_size: number(&setting("block_size")?)?,
        wal_lsn: state.wal_lsn,
        insert_lsn: state.insert_lsn,
        wal_level: setting("wal_level")?,
        archive_mode: setting("archive_mode")?,
        archive_command: filled("archive_command").filter(|command| command != "(disabled)"),
        archive_library: filled("archive_library"),
        archive_timeout_seconds: number(&setting("archive_timeout")?)?,
        full_page_writes: setting("full_page_writes")? == "on",
        data_checksums: setting("data_checksums")? == "on",
        started_at: state.started_at,
        bindir: bindir(conn).await?,
        is_superuser: state.is_superuser,
        server_encoding: setting("server_encoding")?,
        settings,
    })
}

/// Settings that our role may not see are simply not among the rows.
async fn read_settings(conn: &Connection) -> Result<BTreeMap<String, String>> {
    let sql = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY ($1) AND setting IS NOT NULL";
    let mut settings = BTreeMap::new();
    for row in conn.query(sql, &[&SETTINGS]).await? {
        settings.insert(column(&row, 0)?, column(&row, 1)?);
    }
    if !settings.contains_key("data_directory") {
        let error = Error::denied("our role may not see the setting data_directory").detail(format!(
            "role {} needs {}",
            conn.user(),
            grants::READ_SETTINGS.label()
        ));
        return Err(grants::READ_SETTINGS.explain(conn, error));
    }
    Ok(settings)
}

fn number(text: &str) -> Result<u32> {
    text.parse()
        .map_err(|_| Error::internal(format!("the server gave \"{text}\" where a number was expected")))
}

/// The files that the server's configuration is read from, as far as our role may see them.
pub async fn configuration_files(conn: &Connection) -> Result<Vec<PathBuf>> {
    let sql = "SELECT setting FROM pg_catalog.pg_settings
        WHERE name IN ('config_file', 'hba_file', 'ident_file') AND setting <> ''
        UNION SELECT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL ORDER BY 1";
    let rows = conn.query(sql, &[]).await?;
    rows.iter()
        .map(|row| Ok(PathBuf::from(column::<&str>(row, 0)?)))
        .collect()
}

/// What kind of server answers: its system identifier alone, which needs no other privilege.
///
/// # Errors
/// `Denied`, with the grant in the hint, where `pg_control_system()` was taken from everyone.
pub async fn system_identifier(conn: &Connection) -> Result<SystemId> {
    let sql = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
    let row = conn
        .query_one(sql, &[])
        .await
        .map_err(|error| grants::CONTROL_SYSTEM.explain(conn, error))?;
    // The server shows the unsigned number as a signed one.
    Ok(SystemId(column::<i64>(&row, 0)?.cast_unsigned()))
}

/// What changes while a server runs.
struct State {
    in_recovery: bool,
    timeline: TimelineId,
    wal_lsn: Lsn,
    insert_lsn: Option<Lsn>,
    started_at: Timestamp,
    is_superuser: bool,
}

impl State {
    async fn read(conn: &Connection) -> Result<State> {
        // `standby` is asked once, so that all columns agree even while a promotion happens.
        let sql = "SELECT standby, \
                CASE WHEN standby THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END::text, \
                CASE WHEN NOT standby THEN pg_catalog.pg_current_wal_insert_lsn() END::text, \
                CASE WHEN NOT standby THEN pg_catalog.substr(pg_catalog.pg_walfile_name( \
                    pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END, \
                pg_catalog.pg_postmaster_start_time(), pg_catalog.current_setting('is_superuser') = 'on' \
            FROM (SELECT pg_catalog.pg_is_in_recovery() AS standby OFFSET 0) AS role";
        let row = conn.query_one(sql, &[]).await?;
        let in_recovery: bool = column(&row, 0)?;
        let timeline = match column::<Option<&str>>(&row, 3)? {
            Some(digits) => TimelineId::from_hex(digits)
                .ok_or_else(|| Error::internal(format!("the server named a WAL file \"{digits}…\"")))?,
            None => conn.checkpoint_timeline().await?,
        };
        Ok(State {
            in_recovery,
            timeline,
            wal_lsn: optional_lsn(column(&row, 1)?)?.unwrap_or(Lsn::INVALID),
            insert_lsn: optional_lsn(column(&row, 2)?)?,
            started_at: column(&row, 4)?,
            is_superuser: column(&row, 5)?,
        })
    }
}

pub(crate) fn optional_lsn(text: Option<&str>) -> Result<Option<Lsn>> {
    text.map(str::parse).transpose()
}

/// The server's own program directory, where our role may read the view.
async fn bindir(conn: &Connection) -> Result<Option<PathBuf>> {
    let allowed = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_config()', 'EXECUTE') \
        AND pg_catalog.has_table_privilege('pg_catalog.pg_config', 'SELECT')";
    if !column::<bool>(&conn.query_one(allowed, &[]).await?, 0)? {
        return Ok(None);
    }
    let sql = "SELECT setting FROM pg_catalog.pg_config WHERE name = 'BINDIR'";
    match conn.query(sql, &[]).await?.first() {
        Some(row) => Ok(column::<Option<String>>(row, 0)?.map(PathBuf::from)),
        None => Ok(None),
    }
}

impl ArchiverFacts {
    /// Asks the server; any role may.
    pub async fn gather(conn: &Connection) -> Result<ArchiverFacts> {
        let sql = "SELECT archived_count, last_archived_wal, last_archived_time, failed_count, last_failed_wal, \
            last_failed_time, stats_reset, pg_catalog.clock_timestamp() FROM pg_catalog.pg_stat_archiver";
        let row = conn
            .query_one(sql, &[])
            .await
            .during(|| "read the archiver's counters")?;
        let event = |index: usize| -> Result<Option<ArchiverEvent>> {
            let file: Option<String> = column(&row, index)?;
            let at: Option<Timestamp> = column(&row, index + 1)?;
            Ok(file.zip(at).map(|(file, at)| ArchiverEvent { file, at }))
        };
        Ok(ArchiverFacts {
            archived_count: column::<i64>(&row, 0)?.unsigned_abs(),
            last_archived: event(1)?,
            failed_count: column::<i64>(&row, 3)?.unsigned_abs(),
            last_failed: event(4)?,
            stats_reset: column(&row, 6)?,
            asked_at: column(&row, 7)?,
        })
    }
}

impl ArchiveBacklog {
    /// Counts what waits for the archiver.
    ///
    /// # Errors
    /// `Denied`, with the grant in the hint.
    pub async fn gather(conn: &Connection) -> Result<ArchiveBacklog> {
        let sql = "SELECT pg_catalog.count(*), pg_catalog.min(modification) \
            FROM pg_catalog.pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
        let row = conn
            .query_one(sql, &[])
            .await
            .map_err(|error| grants::ARCHIVE_STATUS.explain(conn, error))
            .during(|| "count the WAL files that wait for the archiver")?;
        Ok(ArchiveBacklog {
            waiting: column::<i64>(&row, 0)?.unsigned_abs(),
            oldest: column(&row, 1)?,
        })
    }
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
