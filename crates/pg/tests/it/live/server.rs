//! Servers on this machine: starting, stopping, and telling whether one runs.

use pgkeep_base::{ErrorKind, PgMajor, SegmentSize};
use pgkeep_pg::facts::ServerFacts;
use pgkeep_pg::server::{
    Account, InitOptions, Readiness, Server, SocketDir, StartOptions, Status, StopMode, free_port, initdb, is_running,
    last_complaints,
};
use pgkeep_testkit::wait;
use rustix::process::{Pid, Signal, getpgid, getpgrp, kill_process};

use super::rig::{Rig, Room, SECONDS, binaries, every_major, newest};

every_major!(
    a_server_starts_and_stops_as_asked,
    a_crashed_server_is_not_running,
    a_cluster_is_created_as_asked,
    a_server_that_cant_start_says_why,
);

async fn a_server_starts_and_stops_as_asked(major: PgMajor) {
    let mut rig = Rig::start(major, &[]).await;
    let data = rig.server.data_dir().to_owned();
    let found = is_running(&data).unwrap().unwrap();
    assert_eq!(
        (found.pid, found.port, found.status),
        (rig.server.pid(), Some(rig.server.port()), Status::Ready)
    );
    assert_eq!(found.socket_dir.as_deref(), Some(rig.server.socket_dir()));
    assert_eq!(found.program_dir().as_deref(), Some(rig.binaries.bin_dir()));
    let pid = Pid::from_raw(found.pid).unwrap();
    assert_ne!(
        getpgid(Some(pid)).unwrap(),
        getpgrp(),
        "a Ctrl-C for us must not reach it"
    );
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{}", found.pid)).unwrap());
    assert_eq!(owner, rig.room.account.uid());

    let options = StartOptions::new(
        &data,
        rig.server.socket_dir(),
        free_port().unwrap(),
        &rig.room.path("log"),
    );
    let error = Server::start(&rig.binaries, &rig.room.account, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);

    let session = rig.connect().await;
    let error = rig.server.stop(StopMode::Smart, SECONDS(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "a session is still open");
    rig.server.stop(StopMode::Fast, SECONDS(60)).await.unwrap();
    session.ping().await.unwrap_err();
    assert_eq!(is_running(&data).unwrap(), None);
    rig.server.stop(StopMode::Fast, SECONDS(1)).await.unwrap();

    let mut again = Server::start(&rig.binaries, &rig.room.account, &options).unwrap();
    assert_eq!(
        again.wait_until_ready(SECONDS(60)).await.unwrap(),
        Readiness::Connections
    );
    let mut attached = Server::attach(&data).unwrap().unwrap();
    assert_eq!((attached.pid(), attached.port()), (again.pid(), options.port));
    // Whoever started it must reap it: until then the attached handle sees a zombie, which counts as gone.
    attached.stop(StopMode::Immediate, SECONDS(60)).await.unwrap();
    assert!(!again.is_alive() && Server::attach(&data).unwrap().is_none());
}

async fn a_crashed_server_is_not_running(major: PgMajor) {
    let mut rig = Rig::start(major, &[]).await;
    let data = rig.server.data_dir().to_owned();
    kill_process(Pid::from_raw(rig.server.pid()).unwrap(), Signal::KILL).unwrap();
    wait::until("its end", wait::LIMIT, || (!rig.server.is_alive()).then_some(()));
    assert!(data.join("postmaster.pid").exists());
    assert_eq!(is_running(&data).unwrap(), None);
    // The file names a PostgreSQL, but one that works elsewhere.
    let other = Rig::start(major, &[]).await;
    std::fs::copy(
        other.server.data_dir().join("postmaster.pid"),
        data.join("postmaster.pid"),
    )
    .unwrap();
    assert_eq!(is_running(&data).unwrap(), None);
}

async fn a_cluster_is_created_as_asked(major: PgMajor) {
    let (room, binaries) = (Room::new(), binaries(major));
    let data = room.path("data");
    let options = InitOptions {
        data_checksums: false,
        wal_segment_size: SegmentSize::new(1 << 20).unwrap(),
        username: "boss".into(),
        ..InitOptions::default()
    };
    initdb(&binaries, &room.account, &data, &options).unwrap();
    let error = initdb(&binaries, &room.account, &data, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&data).unwrap());
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(Account::for_data_directory(&data).unwrap(), room.account);
    let mut rig = Rig::serve(room, major, &data, &[]).await;
    let facts = ServerFacts::gather(&rig.connect_as("boss").await).await.unwrap();
    assert_eq!((facts.data_checksums, facts.wal_segment_size.bytes()), (false, 1 << 20));
    rig.server.stop(StopMode::Fast, SECONDS(60)).await.unwrap();
}

async fn a_server_that_cant_start_says_why(major: PgMajor) {
    let rig = Rig::start(major, &[]).await;
    let data = rig.server.data_dir().to_owned();
    let room = rig.stop().await;
    let mut rig = Rig::launch(room, major, &data, &[("shared_preload_libraries", "nonsense")]);
    let error = rig.server.wait_until_ready(SECONDS(60)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(
        error.message().contains("ended while starting (exit status: 1)"),
        "{error:?}"
    );
    assert!(
        error
            .detail_text()
            .unwrap()
            .starts_with("FATAL: could not access file \"nonsense\""),
        "{error:?}"
    );
    assert!(
        last_complaints(&rig.room.path("log"))
            .iter()
            .any(|line| line.contains("nonsense"))
    );
}

#[tokio::test]
async fn programs_of_another_major_are_refused() {
    let rig = Rig::start(newest(), &[]).await;
    let data = rig.server.data_dir().to_owned();
    let room = rig.stop().await;
    let sockets = SocketDir::create(std::path::Path::new("/tmp"), &room.account).unwrap();
    let options = StartOptions::new(&data, sockets.path(), free_port().unwrap(), &room.path("log"));
    let error = Server::start(&binaries(PgMajor::OLDEST), &room.account, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.message().contains("of PostgreSQL 14") && error.message().ends_with("is of 18"),
        "{error}"
    );
}
