//! A copy taken in a backup session recovers, and its end is seen for what it is.

use std::path::Path;
use std::time::Instant;

use pgkeep_base::{ErrorKind, PgMajor, Result};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::facts::ServerFacts;
use pgkeep_pg::server::{Readiness, RecoveryEnd, RecoveryOutcome};
use pgkeep_pg::session::{AdvisoryKey, BackupSession};
use rustix::process::{Pid, Signal, kill_process};

use super::rig::{Rig, Room, SECONDS, every_major, newest, no_environment, until};

every_major!(
    recovery_ends_as_its_action_says,
    a_target_that_is_never_reached_is_an_error,
    a_standby_is_known_and_not_backed_up,
);

/// A backup with WAL after it: rows 1 before the restore point "here", 2 after it.
struct Source {
    room: Room,
    point: pgkeep_base::Lsn,
}

impl Source {
    async fn make(major: PgMajor) -> Source {
        let room = Room::new();
        let archive = room.directory("archive");
        let copy = format!("cp %p {}/%f", archive.display());
        let settings = [("archive_mode", "on"), ("archive_command", copy.as_str())];
        let empty = Rig::start(major, &[]).await;
        let data = empty.stop().await;
        let data = room.copy(&data.path("data"), "source");
        let rig = Rig::serve(room, major, &data, &settings).await;
        rig.run("CREATE TABLE public.t (n int)").await;
        let key = AdvisoryKey::for_backups_of(&"main".parse().unwrap());
        let session = BackupSession::begin(rig.connect().await, "copy", true, key)
            .await
            .unwrap();
        let base = rig.room.copy(&data, "base");
        let stopped = session.finish().await.unwrap();
        for name in ["postmaster.pid", "postmaster.opts"] {
            let _ = std::fs::remove_file(base.join(name));
        }
        std::fs::remove_dir_all(base.join("pg_wal")).unwrap();
        std::fs::create_dir(base.join("pg_wal")).unwrap();
        std::fs::write(base.join("backup_label"), &stopped.backup_label).unwrap();
        std::fs::write(base.join("recovery.signal"), "").unwrap();
        for name in ["pg_wal", "backup_label", "recovery.signal"] {
            rig.room.account.own(&base.join(name)).unwrap();
        }
        rig.run("INSERT INTO public.t VALUES (1)").await;
        let conn = rig.connect().await;
        let point = conn.create_restore_point("here").await.unwrap();
        rig.run("INSERT INTO public.t VALUES (2)").await;
        conn.switch_wal().await.unwrap();
        drop(conn);
        Source {
            room: rig.stop().await,
            point,
        }
    }

    /// A server that recovers a copy of the base.
    fn recover(self, major: PgMajor, name: &str, settings: &[(&str, &str)]) -> Rig {
        let data = self.room.copy(&self.room.path("base"), name);
        let fetch = format!("cp {}/%f %p", self.room.path("archive").display());
        let mut all = vec![("restore_command", fetch.as_str())];
        all.extend_from_slice(settings);
        Rig::launch(self.room, major, &data, &all)
    }
}

async fn recovery_end(rig: &mut Rig, limit: u64) -> Result<RecoveryOutcome> {
    let conninfo = rig.conninfo();
    rig.server
        .wait_recovery_end(&conninfo, &no_environment, SECONDS(limit), &mut |_| {})
        .await
}

async fn recovery_ends_as_its_action_says(major: PgMajor) {
    let mut source = Source::make(major).await;
    let point = source.point;
    for (action, end) in [
        ("promote", RecoveryEnd::Promoted),
        ("pause", RecoveryEnd::Paused),
        ("shutdown", RecoveryEnd::ShutDown),
    ] {
        let target = [("recovery_target_name", "here"), ("recovery_target_action", action)];
        let mut rig = source.recover(major, action, &target);
        let outcome = recovery_end(&mut rig, 60).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{action}: {error:?}"));
        assert_eq!(outcome.end, end);
        if end == RecoveryEnd::ShutDown {
            assert!(!rig.server.is_alive());
        } else {
            assert_eq!(outcome.end_lsn, Some(point), "{action}");
            assert!(outcome.last_commit_at.is_some());
            assert_eq!(
                outcome.timeline.map(|timeline| timeline.get()),
                (action == "promote").then_some(2)
            );
            assert_eq!(rig.ask("SELECT array_agg(n) FROM public.t").await, "{1}", "{action}");
        }
        let room = if rig.server.is_alive() {
            rig.stop().await
        } else {
            rig.room
        };
        source = Source { room, point };
    }
    // A copy that accepts no connections while it recovers.
    let mut rig = source.recover(
        major,
        "cold",
        &[("hot_standby", "off"), ("recovery_target_timeline", "1")],
    );
    let outcome = recovery_end(&mut rig, 60).await.unwrap();
    assert_eq!(outcome.end, RecoveryEnd::Promoted);
    assert_eq!(rig.ask("SELECT array_agg(n ORDER BY n) FROM public.t").await, "{1,2}");
}

async fn a_target_that_is_never_reached_is_an_error(major: PgMajor) {
    let source = Source::make(major).await;
    let mut rig = source.recover(major, "copy", &[("recovery_target_name", "nowhere")]);
    let error = recovery_end(&mut rig, 60).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let words = error.detail_text().unwrap();
    assert!(
        words.contains("FATAL: recovery ended before configured recovery target was reached"),
        "{words}"
    );
    assert!(error.hint_text().unwrap().contains("/log"), "{error:?}");
}

async fn a_standby_is_known_and_not_backed_up(major: PgMajor) {
    let source = Source::make(major).await;
    let base = source.room.path("base");
    std::fs::rename(base.join("recovery.signal"), base.join("standby.signal")).unwrap();
    let mut rig = source.recover(major, "standby", &[]);
    assert_eq!(
        rig.server.wait_until_ready(SECONDS(60)).await.unwrap(),
        Readiness::Connections
    );
    let conn = Connection::open(
        &format!("{} target_session_attrs=standby", rig.conninfo()),
        &no_environment,
    );
    let conn = conn.await.unwrap();
    assert!(conn.was_in_recovery());
    let facts = ServerFacts::gather(&conn).await.unwrap();
    assert!(facts.in_recovery && facts.insert_lsn.is_none() && facts.wal_lsn.is_valid());
    assert_eq!(facts.timeline.get(), 1);
    assert_eq!(
        conn.create_restore_point("here").await.unwrap_err().kind(),
        ErrorKind::Refused
    );
    assert_eq!(conn.switch_wal().await.unwrap_err().kind(), ErrorKind::Refused);
    let key = AdvisoryKey::for_backups_of(&"main".parse().unwrap());
    let error = BackupSession::begin(conn, "standby", true, key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// Aim: a server that is killed while it recovers is missed at the next look, not at the end of the limit.
#[tokio::test]
async fn a_server_killed_in_recovery_is_missed_at_once() {
    let source = Source::make(newest()).await;
    let asked = source.room.path("asked");
    let slow = format!("touch {}; sleep 3; false", asked.display());
    let mut rig = source.recover(
        newest(),
        "killed",
        &[("restore_command", slow.as_str()), ("hot_standby", "off")],
    );
    let pid = Pid::from_raw(rig.server.pid()).unwrap();
    let kill = async {
        until("recovery to ask for WAL", async || asked.exists().then_some(())).await;
        kill_process(pid, Signal::KILL).unwrap();
        Instant::now()
    };
    let (outcome, killed) = tokio::join!(recovery_end(&mut rig, 60), kill);
    assert!(killed.elapsed() < SECONDS(2));
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(
        error.message().contains("ended while recovering (signal: 9"),
        "{error:?}"
    );
}

#[tokio::test]
async fn recovery_that_takes_too_long_is_left_alone() {
    let source = Source::make(newest()).await;
    let slow = format!("sleep 1; cp {}/%f %p", source.room.path("archive").display());
    let mut rig = source.recover(
        newest(),
        "slow",
        &[("restore_command", slow.as_str()), ("hot_standby", "off")],
    );
    let error = recovery_end(&mut rig, 1).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Unavailable, "recovery did not end within 1 s")
    );
    assert!(rig.server.is_alive());
}

/// Aim: a pause that isn't the target's is no success.
/// Method: the source raises `max_connections` after the backup; the copy keeps the lower number.
#[tokio::test]
async fn a_pause_for_lack_of_settings_is_an_error() {
    let source = Source::make(newest()).await;
    let (source_data, archive) = (source.room.path("source"), source.room.path("archive"));
    let copy = format!("cp %p {}/%f", archive.display());
    let settings = [
        ("archive_mode", "on"),
        ("archive_command", copy.as_str()),
        ("max_connections", "60"),
    ];
    let rig = Rig::serve(source.room, newest(), Path::new(&source_data), &settings).await;
    rig.connect().await.switch_wal().await.unwrap();
    let source = Source {
        room: rig.stop().await,
        point: source.point,
    };
    let mut rig = source.recover(newest(), "small", &[]);
    let error = recovery_end(&mut rig, 60).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    assert!(matches!(
        rig.server.wait_until_ready(SECONDS(5)).await,
        Ok(Readiness::Connections)
    ));
}
