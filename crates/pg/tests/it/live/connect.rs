//! Connections: who is let in, what a session is like, and what is said when it ends.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use pgkeep_base::{ErrorKind, PgMajor};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::server::{StopMode, free_port};

use super::rig::{Rig, SECONDS, every_major, newest, no_environment, until};

every_major!(
    a_session_is_safe_whatever_the_role_says,
    last_words_survive_the_connection
);

async fn a_session_is_safe_whatever_the_role_says(major: PgMajor) {
    let rig = Rig::start(major, &[]).await;
    rig.run(
        "CREATE ROLE odd LOGIN; CREATE SCHEMA evil; ALTER ROLE odd SET search_path = evil, pg_catalog; \
         ALTER ROLE odd SET statement_timeout = 1; ALTER ROLE odd SET idle_session_timeout = 1; \
         ALTER ROLE odd SET client_encoding = latin1; ALTER ROLE odd SET standard_conforming_strings = off",
    )
    .await;
    let conn = rig.connect_as("odd").await;
    assert_eq!(conn.major(), major);
    assert!(conn.is_local() && !conn.was_in_recovery());
    let rows = conn
        .text_rows(
            "SELECT current_setting('search_path'), current_setting('statement_timeout'), \
             current_setting('idle_session_timeout'), current_setting('client_encoding'), \
             current_setting('application_name'), pg_backend_pid()",
        )
        .await
        .unwrap();
    let row: Vec<&str> = rows[0].iter().map(|value| value.as_deref().unwrap()).collect();
    assert_eq!(row[..5], ["pg_catalog,pg_temp", "0", "0", "UTF8", "pgkeep"]);
    assert_eq!(row[5], conn.backend_pid().to_string());
    conn.ping().await.unwrap();
    conn.close().await;
}

async fn last_words_survive_the_connection(major: PgMajor) {
    let mut rig = Rig::start(major, &[]).await;
    let (idle, busy, last) = (rig.connect().await, rig.connect().await, rig.connect().await);
    let (idle_pid, busy_pid) = (idle.backend_pid(), busy.backend_pid());
    let kill = async {
        let running =
            format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {busy_pid} AND wait_event = 'PgSleep'");
        until("a query that sleeps", async || {
            (rig.ask(&running).await == "1").then_some(())
        })
        .await;
        rig.ask(&format!("SELECT pg_terminate_backend({idle_pid}, 30000)"))
            .await;
        rig.ask(&format!("SELECT pg_terminate_backend({busy_pid}, 30000)"))
            .await;
    };
    let (pending, ()) = tokio::join!(busy.batch("SELECT pg_sleep(60)"), kill);
    let words = "terminating connection due to administrator command";
    let error = pending.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Unavailable, words));
    for conn in [&idle, &busy] {
        let error = conn.ping().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.detail_text().unwrap().contains(words), "{error:?}");
    }
    rig.server.stop(StopMode::Immediate, SECONDS(30)).await.unwrap();
    let error = last.ping().await.unwrap_err();
    assert_eq!(error.message(), "the connection to PostgreSQL was lost");
    assert!(error.detail_text().unwrap().contains("immediate shutdown"), "{error:?}");
}

#[tokio::test]
async fn who_may_not_in_is_told_why() {
    let rig = Rig::start(newest(), &[]).await;
    rig.run(
        "SET password_encryption = 'scram-sha-256'; CREATE ROLE scrammy LOGIN PASSWORD 'right'; \
         CREATE ROLE barred LOGIN",
    )
    .await;
    rig.set_hba("local all scrammy scram-sha-256\nlocal all barred reject\nlocal all all trust\n")
        .await;
    let kind_of = async |conninfo: String| match Connection::open(&conninfo, &no_environment).await {
        Ok(_) => None,
        Err(error) => {
            assert!(error.message().starts_with("connect to socket /tmp/"), "{error:?}");
            Some((error.kind(), error.detail_text().unwrap()))
        }
    };
    let scrammy = rig.server.conninfo("scrammy", "postgres");
    assert_eq!(kind_of(format!("{scrammy} password=right")).await, None);
    let (kind, words) = kind_of(format!("{scrammy} password=wrong")).await.unwrap();
    assert_eq!(kind, ErrorKind::Denied);
    assert!(
        words.contains("password authentication failed for user \"scrammy\""),
        "{words}"
    );
    let (kind, words) = kind_of(scrammy.clone()).await.unwrap();
    assert_eq!(
        (kind, words.as_str()),
        (ErrorKind::Denied, "the server asks for a password: password missing")
    );
    let (kind, words) = kind_of(rig.server.conninfo("barred", "postgres")).await.unwrap();
    assert_eq!(kind, ErrorKind::Denied);
    assert!(words.contains("pg_hba.conf rejects connection"), "{words}");
    let (kind, _) = kind_of(rig.server.conninfo("postgres", "nowhere")).await.unwrap();
    assert_eq!(kind, ErrorKind::Invalid);

    let file = rig.room.path("pgpass");
    std::fs::write(
        &file,
        format!("{}:*:*:scrammy:right\n", rig.server.socket_dir().display()),
    )
    .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let environment = move |name: &str| (name == "PGPASSFILE").then(|| file.display().to_string());
    Connection::open(&scrammy, &environment).await.unwrap();
    let environment = |name: &str| (name == "PGPASSWORD").then(|| "right".to_owned());
    Connection::open(&scrammy, &environment).await.unwrap();
}

#[tokio::test]
async fn silence_moves_on_to_the_next_address() {
    let rig = Rig::start(newest(), &[("listen_addresses", "127.0.0.1")]).await;
    let closed = free_port().unwrap();
    let uri = |query: &str| {
        format!(
            "postgresql://postgres@127.0.0.1:{closed},localhost:{}/postgres{query}",
            rig.server.port()
        )
    };
    let conn = Connection::open(&uri(""), &no_environment).await.unwrap();
    assert!(conn.place().starts_with("host localhost, port "));
    Connection::open(&uri("?target_session_attrs=primary"), &no_environment)
        .await
        .unwrap();
    Connection::open(&uri("?target_session_attrs=prefer-standby"), &no_environment)
        .await
        .unwrap();
    let error = Connection::open(&uri("?target_session_attrs=standby"), &no_environment)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let words = error.detail_text().unwrap();
    assert!(
        words.contains("Connection refused") && words.contains("target_session_attrs"),
        "{words}"
    );
}

#[tokio::test]
async fn a_listener_that_never_answers_costs_the_timeout_and_no_more() {
    let mute = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let conninfo = format!(
        "host=127.0.0.1 port={} user=u connect_timeout=1",
        mute.local_addr().unwrap().port()
    );
    let began = Instant::now();
    let error = Connection::open(&conninfo, &no_environment).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.detail_text().unwrap(), "no answer within 1 s");
    assert!(began.elapsed() < SECONDS(5));
}

#[tokio::test]
async fn errors_keep_the_servers_words() {
    let rig = Rig::start(newest(), &[]).await;
    rig.run("CREATE ROLE plain LOGIN").await;
    let conn = rig.connect_as("plain").await;
    let error = conn.batch("SELECT pg_switch_wal()").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(error.message(), "permission denied for function pg_switch_wal");
    assert!(error.detail_text().unwrap().contains("SQLSTATE 42501"));
    let error = conn.query("SELECT 1/0", &[]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Invalid, "division by zero")
    );
    conn.ping().await.unwrap();
}
