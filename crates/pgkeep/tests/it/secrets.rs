//! Secrets stay where they were put: in their files, and in nothing that pgkeep says, starts or writes.
//!
//! Invariant under test (I10 of the reliability notes): the S3 secret key, the identity, the signing seed, the naming key
//! and passwords occur in no output of any command, failing or not, however loud; in no command line and no environment
//! of a process that pgkeep or PostgreSQL starts; in no object of the repository, no state and no restored directory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Bucket, S3Server, wait};

use crate::backup::{backup, text};
use crate::restored_directory::Ended;
use crate::shop;

const PASSWORD: &str = "canary-in-PGPASSWORD";
const CONNECTION_PASSWORD: &str = "canary-in-the-connection-string";
const PASSFILE_PASSWORD: &str = "canary-in-the-passfile";

/// An installation on S3 with every secret that there can be, and what each looks like.
struct Vault {
    shop: Shop,
    bucket: Bucket,
    canaries: Vec<(&'static str, String)>,
    said: Mutex<Vec<String>>,
}

impl Vault {
    fn start() -> Vault {
        let server = S3Server::shared();
        let bucket = server.bucket("vault");
        let shop = shop(17).s3("main", server, &bucket, "vault/shop", "admin").start();
        shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
        let passfile = shop.home().file("passfile", format!("*:*:*:*:{PASSFILE_PASSWORD}\n"));
        let passwords = format!(
            "user=postgres password={CONNECTION_PASSWORD} passfile={}",
            passfile.display()
        );
        shop.reconfigure("user=postgres", &passwords);
        let read = |name: &str| fs::read_to_string(shop.home().join(name)).unwrap();
        let word = |text: String, of: &str| {
            text.split_whitespace()
                .find(|word| word.contains(of))
                .map(str::to_owned)
                .unwrap()
        };
        let naming_key = read("repository.toml");
        let naming_key = naming_key.lines().find(|line| line.starts_with("naming_key")).unwrap();
        let seed = read("signing.key")
            .lines()
            .last()
            .unwrap()
            .rsplit(' ')
            .next()
            .unwrap()
            .to_owned();
        let canaries = vec![
            ("S3 secret key", read("main.secret-key").trim().to_owned()),
            ("identity", word(read("identity.txt"), "AGE-SECRET-KEY-1")),
            ("signing seed", seed),
            ("naming key", naming_key.split('"').nth(1).unwrap().to_owned()),
            ("PGPASSWORD", PASSWORD.to_owned()),
            ("password of the connection string", CONNECTION_PASSWORD.to_owned()),
            ("password of the passfile", PASSFILE_PASSWORD.to_owned()),
        ];
        assert!(canaries.iter().all(|(_, canary)| canary.len() >= 10), "{canaries:?}");
        Vault {
            shop,
            bucket,
            canaries,
            said: Mutex::default(),
        }
    }

    /// Runs a command quietly, loudly and as JSON, whatever comes of it; what it says is kept.
    fn say(&self, args: &[&str]) {
        for options in [&[][..], &["-vv"], &["--json", "-vv"]] {
            self.say_with(args, options);
        }
    }

    fn say_with(&self, args: &[&str], options: &[&str]) {
        let run = self.shop.run(args).args(options).env("PGPASSWORD", PASSWORD);
        self.keep(&run.env("RUST_LOG", "trace").run().to_string());
    }

    fn keep(&self, text: &str) {
        self.said.lock().unwrap().push(text.to_owned());
    }

    fn leaks(&self, bytes: &[u8]) -> Vec<&'static str> {
        let within = |canary: &str| contains(bytes, canary.as_bytes());
        let found = self.canaries.iter().filter(|(_, canary)| within(canary));
        found.map(|(name, _)| *name).collect()
    }

    #[track_caller]
    fn check(&self, what: &str, bytes: &[u8]) {
        let leaks = self.leaks(bytes);
        assert!(
            leaks.is_empty(),
            "{leaks:?} in {what}:\n{}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(4000)])
        );
    }

    fn check_directory(&self, directory: &Path, may_hold: &[&str]) {
        for name in objects(directory) {
            if !may_hold.contains(&name.as_str()) {
                self.check(
                    &format!("{}/{name}", directory.display()),
                    &fs::read(directory.join(&name)).unwrap_or_default(),
                );
            }
        }
    }
}

fn contains(bytes: &[u8], canary: &[u8]) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary)
}

/// Looks at all processes again and again until it is dropped; keeps what it saw of pgkeep's and PostgreSQL's.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<BTreeSet<Vec<u8>>>>,
}

impl Watch {
    fn begin(home: &Path) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, home) = (Arc::clone(&stop), home.as_os_str().as_encoded_bytes().to_vec());
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                seen.extend(look(&home));
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            seen
        });
        let thread = Some(thread);
        Watch { stop, thread }
    }

    fn end(mut self) -> BTreeSet<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Command lines of processes that have to do with this installation, and environments of those that neither the test
/// nor pgkeep itself is (also not between its fork and its exec).
fn look(home: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let of = |pid: &Path, file: &str| fs::read(Path::new("/proc").join(pid).join(file)).unwrap_or_default();
        let pid = entry.file_name();
        let read = |file: &str| of(Path::new(&pid), file);
        let command = read("cmdline");
        if !contains(&command, home) && !contains(&command, b"postgres") {
            continue;
        }
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t"));
        let is_pgkeep = |command: &[u8]| contains(command.split(|byte| *byte == 0).next().unwrap(), b"/pgkeep");
        let started_by_us = parent.is_none_or(|parent| {
            parent == std::process::id().to_string() || is_pgkeep(&of(Path::new(parent), "cmdline"))
        });
        // A fork of pgkeep that has not become another program yet shows what pgkeep itself was given.
        if !(is_pgkeep(&command) && started_by_us) {
            found.push(read("environ"));
        }
        found.push(command);
    }
    found
}

/// Aim: all commands, as they succeed and as they fail, say no secret; nor does what they start and write.
#[test]
fn no_secret_is_said_started_or_written() {
    let vault = Vault::start();
    let shop = &vault.shop;
    let watch = Watch::begin(shop.home().path());
    shop.cluster.archive_all();
    let id = text(&backup(shop, &[])["id"]);
    let all: &[&[&str]] = &[
        &["backup"],
        &["mark", "vault"],
        &["list"],
        &["show", &id],
        &["window"],
        &["status"],
        &["doctor", "--probe"],
        &["wal", "list"],
        &["config", "show", "--effective"],
        &["config", "check"],
        &["repository", "show"],
        &["repository", "create"],
        &["repository", "create", "--recover"],
        &["keys", "list"],
        &["keys", "check"],
        &["keys", "rotate", "--dry-run"],
        &["keys", "rotate", "--rewrap"],
        &["keys", "trust", "s-00000000000000000000000000000000", "--dry-run"],
        &["keys", "distrust", "s-00000000000000000000000000000000"],
        &["restore", "--into", "/nowhere/at/all", "--dry-run"],
        &["restore", "--into", shop.home().path().to_str().unwrap()],
        &["wal", "push", "/nowhere/000000010000000000000001"],
        &["wal", "fetch", "000000010000000000000001", "/nowhere/x"],
        &["adopt", "/nowhere"],
        &["init", "--dry-run"],
    ];
    for command in all {
        vault.say(command);
    }
    fails(&vault, &id);
    let restored = recovers(&vault);
    shop.cluster.archive_all();

    for seen in watch.end() {
        vault.check("a process", &seen);
    }
    for said in vault.said.lock().unwrap().iter() {
        vault.check("what a command said", said.as_bytes());
    }
    vault.check("the server's log", shop.cluster.log().as_bytes());
    let own = [
        "identity.txt",
        "signing.key",
        "repository.toml",
        "passfile",
        "main.secret-key",
        "pgkeep.toml",
        "keep.toml",
    ];
    vault.check_directory(shop.home().path(), &own);
    let target = restored.target.clone();
    drop(restored);
    assert!(target.join("PG_VERSION").exists());
    for name in vault.bucket.list("vault/shop/") {
        let bytes = vault.bucket.get(&name);
        vault.check(&name, &bytes);
        vault.check(&name, name.as_bytes());
    }
}

/// The same with files that are wrong: what is read from them is not quoted.
fn fails(vault: &Vault, id: &str) {
    let shop = &vault.shop;
    let home = shop.home();
    for (file, damage) in [
        ("identity.txt", "x"),
        ("signing.key", "x"),
        ("repository.toml", "\nodd = ["),
        ("main.secret-key", "x"),
        ("pgkeep.toml", "\n[odd\n"),
    ] {
        let path = home.join(file);
        let good = fs::read_to_string(&path).unwrap();
        // In the middle of the secret, and behind it.
        for text in [
            format!("{good}{damage}"),
            good.replace("naming_key = \"", "naming_key = ")
                .replace("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-2"),
            good.trim_end()[..good.trim_end().len() - 1].to_owned(),
        ] {
            fs::write(&path, text).unwrap();
            for command in [
                &["list"][..],
                &["keys", "check"],
                &["keys", "list"],
                &["show", id],
                &["config", "check"],
                &["doctor"],
            ] {
                vault.say_with(command, &["-vv"]);
            }
        }
        fs::write(&path, good).unwrap();
    }
}

/// A recovery that pgkeep starts, with a password in its own environment and a configuration that needs that. The server
/// runs on until what this gives is dropped.
fn recovers(vault: &Vault) -> Ended {
    let shop = &vault.shop;
    let target = shop.target("restored");
    let connection = format!("{} password={CONNECTION_PASSWORD}", shop.cluster.conninfo());
    let run = shop.run(["-vv", "restore", "--start", "--into"]).arg(&target);
    let run = run
        .env("PGPASSWORD", PASSWORD)
        .env("PGKEEP_CLUSTER__SHOP__CONNECTION", connection);
    vault.keep(&run.run().ok().to_string());
    Ended { major: 17, target }
}

/// Aim: a process that holds keys leaves no core dump, and lets no other process of its user look into it.
#[test]
fn a_process_with_keys_in_memory_is_closed_to_its_own_user() {
    let shop = shop(17).start();
    crate::backup::fill(&shop.cluster, "large", 8);
    let running = shop.run(["backup", "--rate", "1 MiB"]).spawn();
    let environment = format!("/proc/{}/environ", running.pid());
    let of_root = || (fs::metadata(&environment).ok()?.uid() == 0).then_some(());
    wait::until(
        "the process to close itself",
        std::time::Duration::from_secs(30),
        of_root,
    );
}
