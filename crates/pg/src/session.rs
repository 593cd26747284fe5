//! A backup's session with the server, and the small orders that go with it.
//!
//! Invariant: a backup is over only when [`BackupSession::finish`] returned; a session that is dropped or lost earlier
//! leaves nothing behind, because the server ends its backup mode and frees the lock together with the session. One
//! session of a cluster's key exists in a database at a time. Which files are read in between: `datadir`.

use jiff::Timestamp;
use pgkeep_base::{ClusterName, Error, Lsn, Result, ResultExt, TimelineId};

use tokio_postgres::types::{FromSql, Type};

use crate::connect::{Connection, column};
use crate::facts;

/// The first half of every advisory lock of pgkeep: "pgkp" as a number.
const LOCK_CLASS: i32 = 0x7067_6B70;
/// How often a lock is tried for whose holder has just left.
const LOCK_ATTEMPTS: usize = 3;
/// The longest label, in bytes: `MAXPGPATH - 1`.
pub const LABEL_BYTES_MAX: usize = 1023;
/// The longest restore point's name, in bytes: `MAXFNAMELEN - 1`.
pub const RESTORE_POINT_BYTES_MAX: usize = 63;

/// The advisory lock that makes backups of one cluster exclude each other.
///
/// Held as `pg_try_advisory_lock(1885825904, n)` with n = CRC-32C of the cluster's configured name as a signed
/// number. PostgreSQL keeps such locks per database: all pgkeeps of a cluster must connect to the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvisoryKey {
    class: i32,
    object: i32,
}

impl AdvisoryKey {
    /// The key for backups of `cluster`.
    pub fn for_backups_of(cluster: &ClusterName) -> AdvisoryKey {
        AdvisoryKey {
            class: LOCK_CLASS,
            object: crc32c::crc32c(cluster.as_str().as_bytes()).cast_signed(),
        }
    }
}

/// Where a backup began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The redo point: WAL is needed from here.
    pub start_lsn: Lsn,
    /// The timeline of the checkpoint that the backup starts from.
    pub timeline: TimelineId,
    /// By the server's clock.
    pub started_at: Timestamp,
}

/// Where a backup ended, and what belongs into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// WAL is needed up to here.
    pub stop_lsn: Lsn,
    /// Bytes of the file `backup_label`.
    pub backup_label: Vec<u8>,
    /// Bytes of the file `tablespace_map`; empty without tablespaces.
    pub tablespace_map: Vec<u8>,
    /// By the server's clock.
    pub stopped_at: Timestamp,
}

/// A server in backup mode.
///
/// Dropping it closes the connection, whereupon the server leaves backup mode by itself.
#[derive(Debug)]
pub struct BackupSession {
    conn: Connection,
    started: Started,
}

impl BackupSession {
    /// Takes the lock and puts the server into backup mode, on this very connection.
    ///
    /// `fast` asks for an immediate checkpoint; otherwise the server spreads it over minutes, and this waits.
    ///
    /// # Errors
    /// `Invalid` for a label of several lines, `Conflict` when another session holds the lock, `Unsupported` on a standby, `Denied` with the grant in the
    /// hint, `Refused` where the server can't back up (`wal_level = minimal`).
    pub async fn begin(conn: Connection, label: &str, fast: bool, key: AdvisoryKey) -> Result<BackupSession> {
        check_label(label)?;
        refuse_standby(&conn).await?;
        take_lock(&conn, key).await?;
        let (grant, sql) = match conn.major().has_pg_backup_start() {
            true => (facts::START, "SELECT pg_catalog.pg_backup_start($1, $2)::text"),
            false => (
                facts::START_14,
                "SELECT pg_catalog.pg_start_backup($1, $2, false)::text",
            ),
        };
        let row = conn
            .query_one(sql, &[&label, &fast])
            .await
            .map_err(|error| grant.explain(&conn, error))
            .during(|| "put the server into backup mode")?;
        let start_lsn: Lsn = column::<&str>(&row, 0)?.parse()?;
        let timeline = conn.checkpoint_timeline().await?;
        let row = conn.query_one("SELECT pg_catalog.clock_timestamp()", &[]).await?;
        let started_at = column(&row, 0)?;
        Ok(BackupSession {
            conn,
            started: Started {
                start_lsn,
                timeline,
                started_at,
            },
        })
    }

    /// Where the backup began.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// The connection, for questions in between.
    pub fn connection(&self) -> &Connection {
        &self.conn
    }

    /// Notices within 10 seconds that the session is gone, and the backup with it.
    ///
    /// # Errors
    /// `Unavailable` with the server's last words.
    pub async fn ping(&self) -> Result<()> {
        self.conn.ping().await.during(|| "keep the backup session alive")
    }

    /// Ends backup mode, without waiting for the archiver, and closes the session.
    ///
    /// # Errors
    /// Any error means that there is no backup.
    pub async fn finish(self) -> Result<Stopped> {
        let (grant, call) = match self.conn.major().has_pg_backup_start() {
            true => (facts::STOP, "pg_backup_stop(false)"),
            false => (facts::STOP_14, "pg_stop_backup(false, false)"),
        };
        // The files must be written byte for byte: to a client that speaks no encoding the server converts nothing,
        // not even a tablespace's path that is no text in the database's encoding.
        let unconverted = self.conn.batch("SET client_encoding = 'SQL_ASCII'").await;
        unconverted.during(|| "end the server's backup mode")?;
        let sql =
            format!("SELECT lsn::text, labelfile, spcmapfile, pg_catalog.clock_timestamp() FROM pg_catalog.{call}");
        let row = self
            .conn
            .query_one(&sql, &[])
            .await
            .map_err(|error| grant.explain(&self.conn, error))
            .during(|| "end the server's backup mode")?;
        let stopped = Stopped {
            stop_lsn: column::<&str>(&row, 0)?.parse()?,
            backup_label: column::<RawText>(&row, 1)?.0,
            tablespace_map: column::<RawText>(&row, 2)?.0,
            stopped_at: column(&row, 3)?,
        };
        check(&self.started, &stopped)?;
        // The server frees the lock with the session too, but a moment after we have gone.
        if let Err(error) = self.conn.query("SELECT pg_catalog.pg_advisory_unlock_all()", &[]).await {
            tracing::debug!(error = %error, "the lock goes with the session");
        }
        self.conn.close().await;
        Ok(stopped)
    }
}

/// A text as the bytes that the server sent.
struct RawText(Vec<u8>);

impl FromSql<'_> for RawText {
    fn from_sql(_: &Type, raw: &[u8]) -> std::result::Result<RawText, Box<dyn std::error::Error + Sync + Send>> {
        Ok(RawText(raw.to_owned()))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::TEXT
    }
}

/// What the server said at the beginning and at the end must be about the same backup.
fn check(started: &Started, stopped: &Stopped) -> Result<()> {
    let first = format!("START WAL LOCATION: {} ", started.start_lsn);
    if stopped.backup_label.starts_with(first.as_bytes()) && stopped.stop_lsn > started.start_lsn {
        return Ok(());
    }
    Err(
        Error::corrupt("the server's backup label is not about this backup").detail(format!(
            "it began at {}, ended at {}, and the label says: {}",
            started.start_lsn,
            stopped.stop_lsn,
            String::from_utf8_lossy(&stopped.backup_label).trim_end()
        )),
    )
}

/// The label is a line of `backup_label`.
fn check_label(label: &str) -> Result<()> {
    match label.len() <= LABEL_BYTES_MAX && !label.chars().any(char::is_control) {
        true => Ok(()),
        false => Err(Error::invalid("the label can't be a backup's")
            .detail(format!("a label is one line of at most {LABEL_BYTES_MAX} bytes"))
            .hint("Choose another label for `pgkeep backup`.")),
    }
}

async fn refuse_standby(conn: &Connection) -> Result<()> {
    let row = conn.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await?;
    match column::<bool>(&row, 0)? {
        false => Ok(()),
        true => Err(Error::unsupported("the server is a standby, or still recovering")
            .detail("pgkeep takes backups from primaries only")
            .hint("Point `connection` at the primary (`target_session_attrs=primary` finds it), then run `pgkeep backup`.")),
    }
}

/// Tries again only if the holder was gone by the time it was looked for.
async fn take_lock(conn: &Connection, key: AdvisoryKey) -> Result<()> {
    for _ in 0..LOCK_ATTEMPTS {
        let sql = "SELECT pg_catalog.pg_try_advisory_lock($1, $2)";
        let row = conn.query_one(sql, &[&key.class, &key.object]).await?;
        if column::<bool>(&row, 0)? {
            return Ok(());
        }
        if let Some(holder) = holder_of(conn, key).await? {
            return Err(Error::conflict("another backup of this cluster is running")
                .detail(holder)
                .hint("Wait for it to finish, then run `pgkeep backup` again."));
        }
    }
    Err(Error::conflict("other backups of this cluster come and go").hint("Run `pgkeep backup` again."))
}

/// Who holds the lock, in words; `None` if nobody does any more.
async fn holder_of(conn: &Connection, key: AdvisoryKey) -> Result<Option<String>> {
    let sql = "SELECT l.pid, a.application_name, a.usename::text, a.client_addr::text, a.backend_start \
        FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 \
        AND l.classid::int8 = $1 AND l.objid::int8 = $2 \
        AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())";
    let unsigned = |half: i32| i64::from(half.cast_unsigned());
    let rows = conn.query(sql, &[&unsigned(key.class), &unsigned(key.object)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let pid: Option<i32> = column(row, 0)?;
    let mut words = format!("server process {}", pid.unwrap_or_default());
    // Null where our role may not look into other roles' sessions.
    let Some(began) = column::<Option<Timestamp>>(row, 4)? else {
        return Ok(Some(words + " (another role's: details are hidden from ours)"));
    };
    for (name, index) in [("application", 1), ("role", 2), ("from", 3)] {
        if let Some(value) = column::<Option<&str>>(row, index)?.filter(|value| !value.is_empty()) {
            words += &format!(", {name} {value}");
        }
    }
    Ok(Some(words + &format!(", connected since {began:.0}")))
}

impl Connection {
    /// The timeline of the last checkpoint or restartpoint.
    pub async fn checkpoint_timeline(&self) -> Result<TimelineId> {
        let sql = "SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()";
        let row = self
            .query_one(sql, &[])
            .await
            .map_err(|error| facts::CONTROL_CHECKPOINT.explain(self, error))?;
        let number: i32 = column(&row, 0)?;
        TimelineId::new(number.cast_unsigned()).ok_or_else(|| Error::corrupt("the server is on timeline 0"))
    }

    /// Where the last checkpoint's record begins, as the server's own control file says.
    ///
    /// # Errors
    /// `Denied` with the grant in the hint.
    pub async fn checkpoint_lsn(&self) -> Result<Lsn> {
        let sql = "SELECT checkpoint_lsn::text FROM pg_catalog.pg_control_checkpoint()";
        let row = self
            .query_one(sql, &[])
            .await
            .map_err(|error| facts::CONTROL_CHECKPOINT.explain(self, error))?;
        column::<&str>(&row, 0)?.parse()
    }

    /// Ends the current WAL segment, so that it can be archived; the LSN is the end of its last record.
    ///
    /// Does nothing, and returns the start of the segment, when nothing was written since the last switch.
    ///
    /// # Errors
    /// `Denied` with the grant in the hint; `Refused` in recovery.
    pub async fn switch_wal(&self) -> Result<Lsn> {
        let row = self
            .query_one("SELECT pg_catalog.pg_switch_wal()::text", &[])
            .await
            .map_err(|error| facts::SWITCH_WAL.explain(self, error))
            .during(|| "switch to a new WAL segment")?;
        column::<&str>(&row, 0)?.parse()
    }

    /// Makes a restore point; the LSN is the end of its record.
    ///
    /// # Errors
    /// `Invalid` for a name that PostgreSQL can't keep; `Denied` with the grant in the hint; `Refused` in recovery and
    /// with `wal_level = minimal`.
    pub async fn create_restore_point(&self, name: &str) -> Result<Lsn> {
        check_restore_point_name(name)?;
        let row = self
            .query_one("SELECT pg_catalog.pg_create_restore_point($1)::text", &[&name])
            .await
            .map_err(|error| facts::RESTORE_POINT.explain(self, error))
            .during(|| format!("make restore point \"{name}\""))?;
        column::<&str>(&row, 0)?.parse()
    }

    /// End of the WAL that was written to the operating system.
    ///
    /// # Errors
    /// `Refused` in recovery.
    pub async fn current_wal_lsn(&self) -> Result<Lsn> {
        let row = self
            .query_one("SELECT pg_catalog.pg_current_wal_lsn()::text", &[])
            .await?;
        column::<&str>(&row, 0)?.parse()
    }
}

/// 1 to 63 bytes, and nothing that would break a line of the settings in which recovery names it.
fn check_restore_point_name(name: &str) -> Result<()> {
    if (1..=RESTORE_POINT_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(
        Error::invalid(format!("\"{}\" can't be a restore point's name", name.escape_debug()))
            .detail(format!(
                "a name is 1 to {RESTORE_POINT_BYTES_MAX} bytes without control characters; this has {}",
                name.len()
            ))
            .hint("Choose another name for `pgkeep mark`."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_a_cluster_is_forever_the_same() {
        let key = AdvisoryKey::for_backups_of(&"main".parse().unwrap());
        assert_eq!((key.class, key.object), (1_885_825_904, 607_339_321));
        assert_eq!(key, AdvisoryKey::for_backups_of(&"main".parse().unwrap()));
        assert_ne!(key, AdvisoryKey::for_backups_of(&"other".parse().unwrap()));
    }

    #[test]
    fn a_label_is_one_line() {
        assert!(check_label("pgkeep 20261120T101512Z-0123456789").is_ok());
        assert!(check_label("a\nSTART TIMELINE: 7").is_err() && check_label(&"x".repeat(1024)).is_err());
    }

    #[test]
    fn restore_points_have_names_that_postgresql_can_keep() {
        assert!(check_restore_point_name(&"x".repeat(63)).is_ok());
        for bad in ["", "a\nb", "a\0b", &"x".repeat(64), &"ä".repeat(32)] {
            assert!(check_restore_point_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_label_of_another_backup_is_refused() {
        let started = Started {
            start_lsn: Lsn(0x200_0028),
            timeline: TimelineId::FIRST,
            started_at: Timestamp::UNIX_EPOCH,
        };
        let stopped = |label: &str| Stopped {
            stop_lsn: Lsn(0x200_0100),
            backup_label: label.into(),
            tablespace_map: Vec::new(),
            stopped_at: Timestamp::UNIX_EPOCH,
        };
        assert!(
            check(
                &started,
                &stopped("START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n")
            )
            .is_ok()
        );
        assert!(
            check(
                &started,
                &stopped("START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n")
            )
            .is_err()
        );
    }
}
