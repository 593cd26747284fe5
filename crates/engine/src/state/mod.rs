//! This host's local state: an SQLite database beside the reuse caches and locks.
//!
//! Invariant: nothing here is needed to restore, and losing it never stops archiving. It is what a writer that may
//! only create objects knows of its own doing (docs/roles.md, "What a writer can know"). Times are RFC 3339 text. Each
//! row that decides something bears a digest of itself: what a disk changed in it counts as not there, and never as a
//! lineage or a push that never was.

mod pushed;
mod runs;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::{Error, Result, ResultExt, failpoint};
use pgkeep_repo::lineage::Lineage;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode as SqliteCode};

pub use pushed::PushedFile;
pub use runs::{HeadRecord, Run, RunOutcome};

const DATABASE: &str = "state.db";
const VERSION: i64 = 2;
/// How long another process may keep the database locked.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between attempts to open it.
const PAUSE: Duration = Duration::from_millis(10);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS lineage (
        cluster TEXT NOT NULL, system_identifier TEXT NOT NULL, first_seen TEXT NOT NULL, digest TEXT,
        PRIMARY KEY (cluster, system_identifier)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS pushed (
        cluster TEXT NOT NULL, system_identifier TEXT NOT NULL, timeline INTEGER NOT NULL, file TEXT NOT NULL,
        hash TEXT NOT NULL, pushed_at TEXT NOT NULL, facts TEXT, places TEXT NOT NULL, digest TEXT,
        PRIMARY KEY (cluster, system_identifier, file, hash)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS head (
        cluster TEXT NOT NULL, system_identifier TEXT NOT NULL, id TEXT NOT NULL, sequence INTEGER NOT NULL,
        blake3 TEXT NOT NULL, finished_at TEXT NOT NULL, places TEXT NOT NULL, digest TEXT,
        PRIMARY KEY (cluster, system_identifier, id)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS run (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, cluster TEXT NOT NULL, started_at TEXT NOT NULL,
        finished_at TEXT, outcome TEXT, message TEXT) WITHOUT ROWID;
    PRAGMA user_version = 2;
";

/// Version 1 had no digests: its rows are believed once more.
const FROM_VERSION_1: &str = "
    ALTER TABLE lineage ADD COLUMN digest TEXT;
    ALTER TABLE pushed ADD COLUMN digest TEXT;
    ALTER TABLE head ADD COLUMN digest TEXT;
    UPDATE lineage SET digest = row_digest(cluster, system_identifier, first_seen);
    UPDATE pushed SET digest =
        row_digest(cluster, system_identifier, timeline, file, hash, pushed_at, facts, places);
    UPDATE head SET digest = row_digest(cluster, system_identifier, id, sequence, blake3, finished_at, places);
    PRAGMA user_version = 2;
";

/// An open local state. Several processes may have it open at once.
#[derive(Debug)]
pub struct State {
    connection: Connection,
    directory: PathBuf,
}

impl State {
    /// Opens the state in `directory`, making both where they don't exist yet.
    ///
    /// # Errors
    /// `Io` where the directory can't be made or written; `Corrupt` where the file is no database;
    /// `Unsupported` where a newer pgkeep wrote it.
    pub fn open(directory: &Path) -> Result<State> {
        failpoint::at("engine.state.open")?;
        create_private_directory(directory).during(|| format!("create {}", directory.display()))?;
        let connection = open_database(&directory.join(DATABASE)).map_err(cannot_open)?;
        let version: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(sql)?;
        if version > VERSION {
            return Err(
                Error::unsupported("the local state was written by a newer pgkeep").detail(format!(
                    "{}: version {version}, this pgkeep knows {VERSION}",
                    directory.display()
                )),
            );
        }
        Ok(State {
            connection,
            directory: directory.to_owned(),
        })
    }

    /// Looks through the whole database, as [`State::open`] does not: for operations that take long anyway.
    ///
    /// # Errors
    /// `Corrupt` where any of it is damaged.
    pub fn check(&self) -> Result<()> {
        let said: rusqlite::Result<String> = self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        match said {
            Ok(said) if said == "ok" => Ok(()),
            Ok(said) => Err(Error::corrupt("the local state is damaged").detail(said)),
            Err(source) => Err(Error::corrupt("the local state is damaged").source(source)),
        }
    }

    /// Takes a damaged database out of the way, for the next [`State::open`] to begin anew; gives its new path.
    pub fn set_aside(directory: &Path, now: Timestamp) -> Result<PathBuf> {
        let aside = directory.join(format!("{DATABASE}.damaged-{}", now.as_millisecond()));
        std::fs::rename(directory.join(DATABASE), &aside)
            .during(|| format!("rename {DATABASE} to {}", aside.display()))?;
        for journal in ["-wal", "-shm"] {
            // They belong to the damaged file, and SQLite would apply them to the new one.
            match std::fs::remove_file(directory.join(format!("{DATABASE}{journal}"))) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(aside)
    }

    /// Where the reuse caches and journals of a lineage live; made where it doesn't exist yet.
    pub fn reuse_directory(&self, lineage: &Lineage) -> Result<PathBuf> {
        let path = reuse_path(&self.directory, lineage);
        create_private_directory(&path).during(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// The lock file that keeps two backups of one cluster on this host apart.
    pub fn backup_lock_path(&self, cluster: &pgkeep_base::ClusterName) -> PathBuf {
        self.directory.join(format!("backup-{cluster}.lock"))
    }
}

/// Where the reuse caches and journals of a lineage live, below the state directory.
pub fn reuse_path(state_dir: &Path, lineage: &Lineage) -> PathBuf {
    let cluster = state_dir.join("reuse").join(lineage.cluster.as_str());
    cluster.join(lineage.system_identifier.to_string())
}

fn cannot_open(source: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let damaged = matches!(source.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase));
    let error = match damaged {
        true => Error::corrupt("the local state is damaged"),
        false => Error::io("the local state can't be opened"),
    };
    error.source(source).hint(
        "Check the owner of `state_dir`; it may be removed: the next backup then stores everything anew (`pgkeep doctor`).",
    )
}

/// Opens it, and makes it where it is new. Where several processes come to a new one at once, SQLite tells all but one
/// that it is locked, at once: its own patience is for what is made.
fn open_database(path: &Path) -> rusqlite::Result<Connection> {
    let mut attempts = PATIENCE.as_millis() / PAUSE.as_millis();
    loop {
        match prepare_database(path) {
            Err(error) if attempts > 0 && error.sqlite_error_code() == Some(SqliteCode::DatabaseBusy) => {
                attempts -= 1;
                std::thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

fn prepare_database(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("row_digest", -1, flags, |row| {
        let values = (0..row.len()).map(|column| row.get_raw(column));
        Ok(row_digest(values))
    })?;
    let version = |connection: &Connection| connection.query_row("PRAGMA user_version", [], |row| row.get(0));
    if version(&connection)? < VERSION {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        // Another process may have done it meanwhile.
        match version(&connection)? {
            0 => connection.execute_batch(SCHEMA)?,
            1 => connection.execute_batch(FROM_VERSION_1)?,
            _ => {}
        }
        connection.execute_batch("COMMIT")?;
    }
    Ok(connection)
}

/// 32 digits of a hash over the values of a row, each with its length, so that no two rows have the same text.
fn row_digest<'a>(values: impl Iterator<Item = ValueRef<'a>>) -> String {
    let mut hasher = blake3::Hasher::new();
    for value in values {
        let bytes = match value {
            ValueRef::Null => None,
            ValueRef::Integer(number) => Some(number.to_string().into_bytes()),
            ValueRef::Real(number) => Some(number.to_string().into_bytes()),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
        };
        let length = bytes.as_ref().map_or(-1, |bytes| bytes.len() as i64);
        hasher.update(&length.to_le_bytes());
        hasher.update(&bytes.unwrap_or_default());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

fn create_private_directory(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Wraps an SQLite error; the caller adds what it was doing.
fn sql(source: rusqlite::Error) -> Error {
    Error::io("the local state can't be read or written").source(source)
}
