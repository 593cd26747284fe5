//! SeaweedFS as a child process, on free ports of loopback.
//!
//! Invariant: it dies with the test process, and at once (`kill -9`: its own way of stopping takes ten seconds).

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Pid, Signal, kill_process};

use super::bucket::Bucket;
use super::client::{Request, send};
use super::policy::{Identity, config, secret_key};
use crate::run::Run;
use crate::scratch::Scratch;
use crate::{matrix, reaper, wait};

/// What each port is for, as its flag; two of them are ours to use.
const PORTS: [&str; 10] = [
    "s3.port",
    "s3.port.https",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "debug.port",
];

/// Everything but the ports. Nothing listens outside loopback, nothing is reported anywhere.
const FLAGS: [&str; 20] = [
    "server",
    "-dir=data",
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-filer",
    "-filer.localSocket=filer.sock",
    "-master.electionTimeout=300ms",
    "-master.heartbeatInterval=100ms",
    "-master.telemetry=false",
    "-master.volumeSizeLimitMB=64",
    // Each bucket takes several; by the size of the disk there would be enough for 50 buckets.
    "-volume.max=4000",
    "-s3",
    "-s3.autoCreateBucket=false",
    "-s3.cert.file=tls.crt",
    "-s3.config=s3.json",
    "-s3.key.file=tls.key",
    "-s3.localSocket=s3.sock",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.iam.readOnly=false",
];

/// A running S3 server.
#[derive(Debug)]
pub struct S3Server {
    scratch: Scratch,
    ports: [u16; PORTS.len()],
    child: Option<Child>,
}

impl S3Server {
    /// The one of this test process, started on first use (about 3 s), with the identities of [`Identity::usual`].
    pub fn shared() -> &'static S3Server {
        static SHARED: OnceLock<S3Server> = OnceLock::new();
        SHARED.get_or_init(|| S3Server::start(&Identity::usual()))
    }

    /// A server of one's own, with the identities given; one of them must be the administrator `admin`.
    ///
    /// # Panics
    /// When SeaweedFS isn't there or doesn't start.
    pub fn start(identities: &[Identity]) -> S3Server {
        let scratch = Scratch::new();
        fs::create_dir(scratch.join("data")).expect("our own scratch");
        fs::write(scratch.join("s3.json"), config(identities).to_string()).expect("our own scratch");
        make_certificate(&scratch);
        let mut server = S3Server {
            scratch,
            ports: free_ports(),
            child: None,
        };
        server.start_again();
        matrix::note("seaweedfs");
        server
    }

    /// Starts it after [`S3Server::kill9`], on the same ports with the same objects, and returns when it serves them.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let child = self.command().spawn();
        let child = child.unwrap_or_else(|error| panic!("start SeaweedFS: {error}"));
        reaper::watch_pid(child.id());
        self.sockets().iter().for_each(|socket| reaper::watch_path(socket));
        self.child = Some(child);
        let serves = wait::try_until(wait::LIMIT, || {
            if self
                .child
                .as_mut()
                .is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
            {
                return Some(false);
            }
            self.serves().then_some(true)
        });
        if serves != Some(true) {
            panic!(
                "SeaweedFS did not start:\n{}",
                fs::read_to_string(self.log_path()).unwrap_or_default()
            );
        }
    }

    fn command(&self) -> Command {
        let log = File::options().create(true).append(true).open(self.log_path());
        let log = log.expect("our own scratch");
        let mut command = Command::new(program());
        command
            .args(FLAGS)
            .args(
                PORTS
                    .iter()
                    .zip(self.ports)
                    .map(|(flag, port)| format!("-{flag}={port}")),
            )
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.scratch.path())
            .env("TMPDIR", self.scratch.path())
            .env("WEED_S3_SSE_KEY", "test")
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file descriptor is free"))
            .stderr(log)
            .process_group(0);
        command
    }

    /// Whether objects can be written and read: its S3 door opens before the volumes behind it are known.
    fn serves(&self) -> bool {
        let ask = |method, path| {
            let request = Request {
                method,
                path,
                body: if method == "PUT" { b"probe" } else { b"" },
                ..Request::default()
            };
            send(self.port(), "admin", request).map_or(0, |answer| answer.status)
        };
        match ask("GET", "/testkit-probe/object") {
            200 => true,
            404 => {
                ask("PUT", "/testkit-probe");
                ask("PUT", "/testkit-probe/object");
                false
            }
            _ => false,
        }
    }

    /// `kill -9`: an outage. Objects that it had acknowledged stay.
    pub fn kill9(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // It may have ended by itself, which is as good.
        let _ = child.kill();
        child.wait().expect("our own child");
        reaper::forget_pid(child.id());
        for socket in self.sockets() {
            // Killed early, it has not made all of them.
            let _ = fs::remove_file(&socket);
            reaper::forget_path(&socket);
        }
    }

    /// Stops it from answering without closing connections: a stall. [`S3Server::resume`] ends that.
    pub fn stall(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends a [`S3Server::stall`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// `https://127.0.0.1:PORT`, with a certificate that [`S3Server::ca_file`] vouches for.
    pub fn https_endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.https_port())
    }

    /// The certificate (PEM) of [`S3Server::https_endpoint`], signed by itself.
    pub fn ca_file(&self) -> PathBuf {
        self.scratch.join("tls.crt")
    }

    /// `AWS_*` variables that let a program work as `identity`.
    pub fn environment(&self, identity: &str) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", identity.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret_key(identity)),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", self.endpoint()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Creates a bucket that nobody else has: `<name>-<number>`.
    pub fn bucket(&self, name: &str) -> Bucket {
        self.bucket_with(name, &[])
    }

    /// [`S3Server::bucket`] with versions and object lock, which S3 allows at creation only.
    pub fn locked_bucket(&self, name: &str) -> Bucket {
        self.bucket_with(name, &[("x-amz-bucket-object-lock-enabled", "true")])
    }

    fn bucket_with(&self, name: &str, headers: &[(&str, &str)]) -> Bucket {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let bucket = Bucket::new(
            self.port(),
            &format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
        );
        bucket.create(headers);
        bucket
    }

    /// The port of [`S3Server::endpoint`].
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The port of [`S3Server::https_endpoint`].
    pub fn https_port(&self) -> u16 {
        self.ports[1]
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.join("log")
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(child.id() as i32).expect("a pid is positive");
        kill_process(pid, signal).expect("our own child");
    }

    /// What it leaves behind in a fixed place, named by its ports.
    fn sockets(&self) -> [PathBuf; 4] {
        [("s3", 2), ("master", 4), ("volume", 6), ("filer", 8)]
            .map(|(kind, at)| format!("/tmp/seaweedfs-{kind}-grpc-{}.sock", self.ports[at]).into())
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn program() -> PathBuf {
    let path = match std::env::var_os("PGKEEP_S3_BIN") {
        Some(path) => path.into(),
        None => crate::cache_dir().join("s3/weed"),
    };
    assert!(
        path.is_file(),
        "the S3 server is not at {}: run scripts/fetch-s3-server, or set PGKEEP_S3_BIN to SeaweedFS's program",
        path.display()
    );
    path
}

fn make_certificate(scratch: &Scratch) {
    Run::new("/usr/bin/openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ])
        .args([
            "-keyout",
            "tls.key",
            "-out",
            "tls.crt",
            "-days",
            "30",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .cwd(scratch.path())
        .run()
        .ok();
}

/// Ports that were all free at one moment and that no other server of this process was given. Chosen below the range
/// that the system gives to outgoing connections, so that a connection doesn't take one before the server does.
fn free_ports() -> [u16; PORTS.len()] {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let port = next.get_or_insert_with(|| rand::random_range(10_000..30_000));
    [(); PORTS.len()].map(|()| {
        loop {
            *port = if *port >= 32_000 { 10_000 } else { *port + 1 };
            if TcpListener::bind(("127.0.0.1", *port)).is_ok() {
                return *port;
            }
        }
    })
}
