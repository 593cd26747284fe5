//! A scratch cluster of a given major, from a template that is made once per run.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use pgkeep_base::PgMajor;
use pgkeep_pg::binaries::{Binaries, Purpose, Search};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::server::{
    Account, InitOptions, Readiness, Server, SocketDir, StartOptions, StopMode, free_port, initdb,
};
use pgkeep_testkit::postgres::bin_dir;
use pgkeep_testkit::{Scratch, wait};

pub const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Makes one test of each major out of an async function that takes a `PgMajor`.
macro_rules! every_major {
    ($($name:ident),* $(,)?) => { $(
        pgkeep_testkit::every_major! {
            fn $name(major: u16) {
                crate::live::rig::run(super::$name(pgkeep_base::PgMajor::new(major).unwrap()))
            }
        }
    )* };
}
pub(crate) use every_major;

/// Runs a test as `tokio::test` does.
pub fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(test);
}

/// The testkit's `wait::until` for what is asked of a server.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let polled = async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    let found = tokio::time::timeout(wait::LIMIT, polled).await;
    found.unwrap_or_else(|_| panic!("waited for {what} in vain"))
}

pub fn newest() -> PgMajor {
    PgMajor::NEWEST
}

pub fn binaries(major: PgMajor) -> Binaries {
    let bin = bin_dir(major.get());
    let mut search = Search::new(Purpose::Server, Some(major));
    search.configured = Some(&bin);
    search
        .find()
        .unwrap_or_else(|error| panic!("{error}: {:?}", error.detail_text()))
}

/// No environment, and no files of whoever runs the tests: they mean what their strings say.
pub fn no_environment(name: &str) -> Option<String> {
    (name == "HOME").then(|| "/nonexistent".to_owned())
}

/// A temporary directory that the server's user may enter.
pub struct Room {
    scratch: Scratch,
    pub account: Account,
}

impl Room {
    pub fn new() -> Room {
        let (scratch, account) = (Scratch::new(), Account::for_scratch().unwrap());
        account.own(scratch.path()).unwrap();
        Room { scratch, account }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// A directory that the server may write to.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.scratch.dir(name);
        self.account.own(&path).unwrap();
        path
    }

    /// Copies a directory, keeping owners. A running server's files may vanish meanwhile: that is no failure.
    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.path(name);
        std::process::Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(&to)
            .output()
            .unwrap();
        to
    }
}

/// A running scratch cluster.
pub struct Rig {
    pub server: Server,
    pub room: Room,
    pub binaries: Binaries,
    sockets: SocketDir,
}

impl Rig {
    /// A cluster with defaults for tests and these settings.
    pub async fn start(major: PgMajor, settings: &[(&str, &str)]) -> Rig {
        let room = Room::new();
        let data = room.copy(&template(major), "data");
        Rig::serve(room, major, &data, settings).await
    }

    /// A server on an existing data directory.
    pub async fn serve(room: Room, major: PgMajor, data: &Path, settings: &[(&str, &str)]) -> Rig {
        let mut rig = Rig::launch(room, major, data, settings);
        let ready = rig
            .server
            .wait_until_ready(SECONDS(60))
            .await
            .unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(ready, Readiness::Connections);
        rig
    }

    /// The same without waiting.
    pub fn launch(room: Room, major: PgMajor, data: &Path, settings: &[(&str, &str)]) -> Rig {
        let binaries = binaries(major);
        let sockets = SocketDir::create(Path::new("/tmp"), &room.account).unwrap();
        let mut options = StartOptions::new(data, sockets.path(), free_port().unwrap(), &room.path("log"));
        options.stop_on_drop = true;
        // The last one keeps its files in the data directory, so that a killed server leaves nothing elsewhere.
        for (name, value) in [
            ("fsync", "off"),
            ("shared_buffers", "16MB"),
            ("max_connections", "30"),
            ("dynamic_shared_memory_type", "mmap"),
        ] {
            options = options.set(name, value);
        }
        for (name, value) in settings {
            options = options.set(name, value);
        }
        let server = Server::start(&binaries, &room.account, &options).unwrap();
        Rig {
            server,
            room,
            binaries,
            sockets,
        }
    }

    pub fn conninfo(&self) -> String {
        self.server.conninfo("postgres", "postgres")
    }

    /// A superuser's session.
    pub async fn connect(&self) -> Connection {
        self.connect_as("postgres").await
    }

    pub async fn connect_as(&self, user: &str) -> Connection {
        Connection::open(&self.server.conninfo(user, "postgres"), &no_environment)
            .await
            .unwrap_or_else(|error| panic!("{error}: {:?}", error.detail_text()))
    }

    /// One value of one row.
    pub async fn ask(&self, sql: &str) -> String {
        let rows = self
            .connect()
            .await
            .text_rows(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows[0][0].clone().unwrap_or_default()
    }

    pub async fn run(&self, sql: &str) {
        self.connect()
            .await
            .batch(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Lets in whom these lines of `pg_hba.conf` let in.
    pub async fn set_hba(&self, lines: &str) {
        std::fs::write(self.server.data_dir().join("pg_hba.conf"), lines).unwrap();
        let loaded = "SELECT pg_conf_load_time()";
        let before = self.ask(loaded).await;
        self.run("SELECT pg_reload_conf()").await;
        until("the new pg_hba.conf", async || {
            (self.ask(loaded).await != before).then_some(())
        })
        .await;
    }

    pub async fn stop(mut self) -> Room {
        self.server.stop(StopMode::Fast, SECONDS(60)).await.unwrap();
        let Rig {
            room, server, sockets, ..
        } = self;
        drop((server, sockets));
        room
    }
}

/// A freshly created data directory of a major, made once and kept beside the build for later runs.
fn template(major: PgMajor) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let binaries = binaries(major);
    let account = Account::for_scratch().unwrap();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cluster-{}-{}", binaries.version(), account.uid()));
    if !kept.exists() {
        let room = Room::new();
        initdb(&binaries, &account, &room.path("data"), &InitOptions::default()).unwrap();
        // The build may lie where the server's user can't go: it is only copied to and from there.
        let draft = kept.with_extension(std::process::id().to_string());
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(room.path("data"))
            .arg(&draft)
            .status()
            .unwrap();
        assert!(copied.success());
        std::fs::rename(&draft, &kept).unwrap();
    }
    kept
}
