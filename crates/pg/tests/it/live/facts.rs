//! Facts agree with PostgreSQL's own tools; a backup role needs exactly the grants that are printed.

use pgkeep_base::{Error, ErrorKind, PgMajor};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::facts::{ArchiveBacklog, ArchiverFacts, ServerFacts, grants_sql, privileges, required};
use pgkeep_pg::session::{AdvisoryKey, BackupSession};

use super::rig::{Rig, every_major, until};

every_major!(
    facts_agree_with_pg_controldata,
    the_archivers_counters_tell_failure_from_success,
    a_role_needs_exactly_the_printed_grants,
);

async fn facts_agree_with_pg_controldata(major: PgMajor) {
    let rig = Rig::start(major, &[("archive_mode", "on"), ("archive_timeout", "2min")]).await;
    let facts = ServerFacts::gather(&rig.connect().await).await.unwrap();
    let output = rig
        .binaries
        .command("pg_controldata")
        .unwrap()
        .arg(rig.server.data_dir())
        .output()
        .unwrap();
    let control = String::from_utf8(output.stdout).unwrap();
    let line = |name: &str| {
        let line = control.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    assert_eq!(facts.system_identifier.to_string(), line("Database system identifier"));
    assert_eq!(
        facts.wal_segment_size.bytes().to_string(),
        line("Bytes per WAL segment")
    );
    assert_eq!(facts.block_size.to_string(), line("Database block size"));
    assert_eq!(facts.timeline.to_string(), line("Latest checkpoint's TimeLineID"));
    assert_eq!(facts.data_checksums, line("Data page checksum version") != "0");
    assert_eq!(facts.data_directory, rig.server.data_dir());
    assert_eq!(
        facts.config_file().unwrap(),
        rig.server.data_dir().join("postgresql.conf")
    );
    assert_eq!(facts.hba_file().unwrap(), rig.server.data_dir().join("pg_hba.conf"));
    assert_eq!(
        (facts.major, facts.in_recovery, facts.is_superuser),
        (major, false, true)
    );
    assert_eq!(
        (facts.archive_mode.as_str(), facts.archive_timeout_seconds),
        ("on", 120)
    );
    assert_eq!((facts.archive_command, facts.archive_library), (None, None));
    assert_eq!((facts.wal_level.as_str(), facts.full_page_writes), ("replica", true));
    assert_eq!(facts.bindir.as_deref(), Some(rig.binaries.bin_dir()));
    assert_eq!(facts.server_encoding, "UTF8");
    assert!(facts.wal_lsn.is_valid() && facts.insert_lsn.unwrap() >= facts.wal_lsn);
    assert!(facts.started_at <= jiff::Timestamp::now());
}

async fn the_archivers_counters_tell_failure_from_success(major: PgMajor) {
    let rig = Rig::start(major, &[("archive_mode", "on")]).await;
    let conn = rig.connect().await;
    let set = async |command: &str| {
        rig.run(&format!("ALTER SYSTEM SET archive_command = '{command}'"))
            .await;
        rig.run("SELECT pg_reload_conf()").await;
    };
    set("false").await;
    conn.create_restore_point("something to archive").await.unwrap();
    conn.switch_wal().await.unwrap();
    let gather = async || ArchiverFacts::gather(&conn).await.unwrap();
    let failed = until("a failure", async || {
        Some(gather().await).filter(|facts| facts.failed_count > 0)
    })
    .await;
    assert!(failed.is_failing());
    assert_eq!(failed.last_failed.unwrap().file.len(), 24);
    let backlog = ArchiveBacklog::gather(&conn).await.unwrap();
    assert!(backlog.waiting >= 1 && backlog.oldest.is_some());
    set("true").await;
    let archived = until("a success", async || {
        Some(gather().await).filter(|facts| facts.archived_count > 0)
    })
    .await;
    assert!(!archived.is_failing(), "{archived:?}");
}

/// Aim: the printed statements are sufficient and each is necessary.
/// Method: everything they grant is taken from PUBLIC; a session goes through all that a backup does, first with all
/// grants, then without each one in turn.
async fn a_role_needs_exactly_the_printed_grants(major: PgMajor) {
    let rig = Rig::start(major, &[]).await;
    let role = "back\"up";
    for statement in grants_sql(role, major) {
        rig.run(&statement).await;
        if let Some(function) = function_in(&statement) {
            rig.run(&format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC"))
                .await;
        }
    }
    let conn = rig.connect_as(role).await;
    assert_eq!(privileges(&conn).await.unwrap(), []);
    everything(conn).await.unwrap();

    for grant in required(major) {
        let statement = grant.sql(role, major);
        let without = statement.replace(" WITH INHERIT TRUE", "");
        rig.run(&without.replacen("GRANT", "REVOKE", 1).replace(" TO ", " FROM "))
            .await;
        let conn = rig.connect_as(role).await;
        let missing = privileges(&conn).await.unwrap();
        assert_eq!(missing.len(), 1, "{statement}");
        assert_eq!((missing[0].grant, &missing[0].sql), (grant, &statement));
        let error = everything(conn).await.expect_err(&statement);
        assert_eq!(error.kind(), ErrorKind::Denied, "{statement}: {error:?}");
        assert!(
            error.hint_text().unwrap().ends_with(&statement),
            "{statement}: {error:?}"
        );
        rig.run(&statement).await;
    }
}

fn function_in(statement: &str) -> Option<&str> {
    statement
        .strip_prefix("GRANT EXECUTE ON FUNCTION ")?
        .split(" TO ")
        .next()
}

/// All that pgkeep does with a role's session.
async fn everything(conn: Connection) -> Result<(), Error> {
    ServerFacts::gather(&conn).await?;
    ArchiverFacts::gather(&conn).await?;
    ArchiveBacklog::gather(&conn).await?;
    conn.create_restore_point("a point").await?;
    conn.switch_wal().await?;
    conn.current_wal_lsn().await?;
    let key = AdvisoryKey::for_backups_of(&"main".parse().unwrap());
    let session = BackupSession::begin(conn, "pgkeep test", true, key).await?;
    session.ping().await?;
    session.finish().await?;
    Ok(())
}
