//! The backup session: what it returns, whom it excludes, and how it ends.

use std::time::Instant;

use pgkeep_base::{ErrorKind, Lsn, PgMajor};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::session::{AdvisoryKey, BackupSession};
use pgkeep_testkit::{TcpProxy, Trouble};
use rustix::process::{Pid, Signal, kill_process};

use super::rig::{Rig, SECONDS, every_major, newest, no_environment, until};

every_major!(
    a_session_returns_what_belongs_into_the_backup,
    one_backup_of_a_cluster_at_a_time,
    a_lost_session_is_no_backup,
    orders_return_where_the_wal_ends,
);

fn key(name: &str) -> AdvisoryKey {
    AdvisoryKey::for_backups_of(&name.parse().unwrap())
}

async fn a_session_returns_what_belongs_into_the_backup(major: PgMajor) {
    let rig = Rig::start(major, &[]).await;
    let space = rig.room.directory("a space, é");
    rig.connect()
        .await
        .batch(&format!("CREATE TABLESPACE far LOCATION '{}'", space.display()))
        .await
        .unwrap();
    let before: Lsn = rig.connect().await.current_wal_lsn().await.unwrap();
    let session = BackupSession::begin(rig.connect().await, "a label", true, key("main"))
        .await
        .unwrap();
    let started = session.started().clone();
    assert!(started.start_lsn >= before);
    assert_eq!(started.timeline.get(), 1);
    session.ping().await.unwrap();
    let stopped = session.finish().await.unwrap();
    assert!(stopped.stop_lsn > started.start_lsn && stopped.stopped_at >= started.started_at);
    let label = String::from_utf8(stopped.backup_label).unwrap();
    assert!(
        label.starts_with(&format!("START WAL LOCATION: {} (file ", started.start_lsn)),
        "{label}"
    );
    assert!(
        label.contains("\nLABEL: a label\n") && label.contains("\nSTART TIMELINE: 1\n"),
        "{label}"
    );
    let map = String::from_utf8(stopped.tablespace_map).unwrap();
    assert!(map.trim_end().ends_with(&space.display().to_string()), "{map}");
}

async fn one_backup_of_a_cluster_at_a_time(major: PgMajor) {
    let rig = Rig::start(major, &[]).await;
    let begin = async |name: &str| BackupSession::begin(rig.connect().await, "one", true, key(name)).await;
    let first = begin("main").await.unwrap();
    let error = begin("main").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let words = error.detail_text().unwrap();
    let pid = format!(
        "server process {}, application pgkeep, role postgres",
        first.connection().backend_pid()
    );
    assert!(
        words.starts_with(&pid) && words.contains("connected since 20"),
        "{words}"
    );
    begin("other").await.unwrap().finish().await.unwrap();
    // A session that is dropped leaves backup mode and frees the lock by itself.
    drop(first);
    let second = until("the lock", async || begin("main").await.ok()).await;
    second.finish().await.unwrap();
    begin("main").await.unwrap().finish().await.unwrap();
}

async fn a_lost_session_is_no_backup(major: PgMajor) {
    let rig = Rig::start(major, &[]).await;
    let begin = async || {
        BackupSession::begin(rig.connect().await, "lost", true, key("main"))
            .await
            .unwrap()
    };
    let session = begin().await;
    rig.ask(&format!(
        "SELECT pg_terminate_backend({}, 30000)",
        session.connection().backend_pid()
    ))
    .await;
    let error = session.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.detail_text().unwrap().contains("administrator command"),
        "{error:?}"
    );

    let session = begin().await;
    let backend = Pid::from_raw(session.connection().backend_pid()).unwrap();
    kill_process(backend, Signal::KILL).unwrap();
    let error = session.ping().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Unavailable, "keep the backup session alive")
    );
}

async fn orders_return_where_the_wal_ends(major: PgMajor) {
    let rig = Rig::start(major, &[]).await;
    let conn = rig.connect().await;
    let point = conn.create_restore_point(&"ü".repeat(31)).await.unwrap();
    let end = conn.switch_wal().await.unwrap();
    assert!(end > point);
    assert_eq!(
        conn.switch_wal().await.unwrap(),
        Lsn(end.0.next_multiple_of(16 << 20)),
        "nothing to switch away from"
    );
    assert!(conn.current_wal_lsn().await.unwrap() > end);
    assert_eq!(conn.checkpoint_timeline().await.unwrap().get(), 1);
    let error = conn.create_restore_point(&"x".repeat(64)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// Sessions are driven from tasks of their own.
#[tokio::test]
async fn a_session_can_move_to_another_task() {
    let rig = Rig::start(newest(), &[]).await;
    let conn = rig.connect().await;
    let work = tokio::spawn(async move {
        let session = BackupSession::begin(conn, "moved", true, key("main")).await?;
        session.ping().await?;
        session.finish().await
    });
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_silent_backend_is_noticed_in_time() {
    let rig = Rig::start(newest(), &[]).await;
    let session = BackupSession::begin(rig.connect().await, "mute", true, key("main"))
        .await
        .unwrap();
    let backend = Pid::from_raw(session.connection().backend_pid()).unwrap();
    kill_process(backend, Signal::STOP).unwrap();
    let began = Instant::now();
    let error = session.ping().await.unwrap_err();
    kill_process(backend, Signal::CONT).unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.detail_text().unwrap().contains("did not answer within 10 s"),
        "{error:?}"
    );
    assert!(began.elapsed() < SECONDS(15));
}

/// Aim: a statement whose answer never comes is given up, one at which the server works for long is not.
/// Method: a backend that is stopped before it reads its question, a black hole around the server, and a question that
/// takes longer than the first pause.
#[tokio::test]
async fn a_silent_connection_is_told_from_long_work() {
    let rig = Rig::start(newest(), &[("listen_addresses", "127.0.0.1")]).await;
    let stopped = async {
        let conn = rig.connect().await;
        let backend = Pid::from_raw(conn.backend_pid()).unwrap();
        kill_process(backend, Signal::STOP).unwrap();
        let error = conn.query("SELECT 1", &[]).await.unwrap_err();
        kill_process(backend, Signal::CONT).unwrap();
        error
    };
    let proxy = TcpProxy::start(rig.server.port());
    let lost = async {
        let conninfo = format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=disable",
            proxy.port()
        );
        let conn = Connection::open(&conninfo, &no_environment).await.unwrap();
        proxy.set(Trouble::BlackHole { after: 0 });
        conn.batch("SELECT 1").await.unwrap_err()
    };
    let long = async { rig.connect().await.batch("SELECT pg_sleep(25)").await };
    let (stopped, lost, long) = tokio::join!(stopped, lost, long);
    long.unwrap();
    for (error, words) in [
        (stopped, "our session there is not at work"),
        (lost, "doesn't answer a new connection"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains(words), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_cant_back_up_is_refused() {
    let rig = Rig::start(newest(), &[("wal_level", "minimal"), ("max_wal_senders", "0")]).await;
    let error = BackupSession::begin(rig.connect().await, "minimal", true, key("main"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.detail_text().unwrap().contains("WAL level"), "{error:?}");
}

/// Aim: the files of a backup come byte for byte, whatever the database's encoding makes of them.
#[tokio::test]
async fn tablespace_paths_survive_odd_encodings() {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let rig = Rig::start(newest(), &[]).await;
    let mut name = rig.room.path("").into_os_string().into_vec();
    name.extend(b"sp\xE9ce");
    let space = std::path::PathBuf::from(std::ffi::OsString::from_vec(name));
    std::fs::create_dir(&space).unwrap();
    rig.room.account.own(&space).unwrap();
    rig.run("CREATE DATABASE latin ENCODING latin1 TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        .await;
    let conninfo = rig.server.conninfo("postgres", "latin");
    let conn = pgkeep_pg::connect::Connection::open(&conninfo, &crate::live::rig::no_environment)
        .await
        .unwrap();
    // In this session é is two bytes, in the database one: the path on disk gets the database's.
    let path = String::from_utf8_lossy(space.as_os_str().as_bytes()).replace('\u{FFFD}', "é");
    conn.batch(&format!("CREATE TABLESPACE odd LOCATION '{path}'"))
        .await
        .unwrap();
    for database in ["latin", "postgres"] {
        let conninfo = rig.server.conninfo("postgres", database);
        let conn = pgkeep_pg::connect::Connection::open(&conninfo, &crate::live::rig::no_environment)
            .await
            .unwrap();
        let session = BackupSession::begin(conn, "odd", true, key("main")).await.unwrap();
        let stopped = session.finish().await.unwrap();
        assert!(
            stopped
                .tablespace_map
                .trim_ascii_end()
                .ends_with(space.as_os_str().as_bytes()),
            "{database}"
        );
    }
}
