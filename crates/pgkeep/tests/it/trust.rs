//! Signers: enrolled and withdrawn for every host by control objects, or by a host for itself (docs/format.md, section 2).
//!
//! Invariant under test: a document counts only if its signer is trusted, whoever reads it and with which command; a
//! refusal names the signer and the command that would change that.

use std::fs;
use std::path::PathBuf;

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, Output, wait};
use serde_json::{Value, json};

use crate::backup::{backup, digest, text};
use crate::shop;

/// An installation of which several hosts are played: each has the repository file and a signing key of its own.
struct Hosts {
    shop: Shop,
    /// Who is playing.
    now: std::cell::RefCell<String>,
}

impl Hosts {
    fn start() -> Hosts {
        let shop = shop(17).start();
        shop.cluster
            .sql("CREATE TABLE t AS SELECT i, md5(i::text) AS content FROM generate_series(1, 5000) i");
        // What archives while others play signs as the first host, too.
        shop.cluster.archive_all();
        let now = std::cell::RefCell::new("first".to_owned());
        Hosts { shop, now }
    }

    fn key(&self, host: &str) -> PathBuf {
        self.shop.home().join(format!("signing.key.{host}"))
    }

    fn file(&self, host: &str) -> PathBuf {
        self.shop.home().join(format!("repository.toml.{host}"))
    }

    /// From now on this host's keys are used; one that did not play before has the first one's repository file.
    fn play(&self, host: &str) {
        let (key, file) = (
            self.shop.home().join("signing.key"),
            self.shop.home().join("repository.toml"),
        );
        let before = self.now.replace(host.to_owned());
        if before == host {
            return;
        }
        if key.exists() {
            fs::rename(&key, self.key(&before)).unwrap();
        }
        fs::copy(&file, self.file(&before)).unwrap();
        if self.key(host).exists() {
            fs::rename(self.key(host), &key).unwrap();
        }
        if self.file(host).exists() {
            let content = fs::read(self.file(host)).unwrap();
            fs::write(&file, content).unwrap();
        }
    }

    /// The fingerprint of the host that plays; made now if it never wrote anything.
    fn fingerprint(&self) -> String {
        if !self.shop.home().join("signing.key").exists() {
            let pushed = self.shop.pgkeep(["mark", "make-a-key"]);
            assert!(self.shop.home().join("signing.key").exists(), "{pushed}");
        }
        let listed = self.list();
        let signers = listed["signers"].as_array().unwrap();
        let own = signers
            .iter()
            .find(|signer| signer["sources"].to_string().contains("this host"));
        text(&own.unwrap()["key"])
    }

    fn list(&self) -> Value {
        self.shop.pgkeep(["--json", "keys", "list"]).ok().json()
    }

    fn signer(&self, fingerprint: &str) -> Value {
        let listed = self.list();
        let signers = listed["signers"].as_array().unwrap().clone();
        let found = signers.into_iter().find(|signer| signer["key"] == fingerprint);
        found.unwrap_or_else(|| panic!("{fingerprint} is not among {listed}"))
    }

    /// Lets the host that plays archive and back up.
    fn backup(&self) -> String {
        self.shop.cluster.archive_all();
        let id = text(&backup(&self.shop, &["--full"])["id"]);
        self.shop.cluster.archive_all();
        id
    }

    fn restore(&self, name: &str, options: &[&str]) -> Result<Cluster, Output> {
        let target = self.shop.target(name);
        let output = self.shop.run(["restore", "--into"]).arg(&target).args(options).run();
        match output.code {
            Some(0) => {
                let mut cluster = Cluster::adopt_dir(17, target);
                cluster.start();
                cluster.wait_recovered();
                Ok(cluster)
            }
            _ => {
                assert_eq!(output.code, Some(4), "{output}");
                assert!(!target.exists(), "something was made: {output}");
                Err(output)
            }
        }
    }
}

#[track_caller]
fn names(output: &Output, words: &[&str]) {
    for word in words {
        assert!(output.stderr.contains(word), "{word} is not in {output}");
    }
}

/// Aim: the signing key and the state of the database host are lost; it goes on with a new key, readers refuse what that
/// signs, naming it and the command, and one command on a host that is trusted mends it for all: list, window, status,
/// restore, recovery itself, a standby.
#[test]
fn a_lost_signing_key_is_replaced_by_one_command_on_a_trusted_host() {
    let hosts = Hosts::start();
    let shop = &hosts.shop;
    let first = hosts.backup();
    let keeper = {
        hosts.play("keeper");
        hosts.fingerprint()
    };
    let output = shop.pgkeep(["keys", "trust", &keeper]).expect(4);
    names(&output, &[&keeper, "--repository-file", "keys list"]);
    hosts.play("first");
    shop.pgkeep(["keys", "trust", &keeper, "--name", "keeper"]).ok();
    fs::remove_file(shop.home().join("signing.key")).unwrap();
    crate::backup::lose_state(shop);
    let second = hosts.backup();
    let lost = hosts.fingerprint();
    let content = digest(&shop.cluster, "t");

    hosts.play("reader");
    let listed = shop.pgkeep(["--json", "list"]).ok().json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 2, "{listed}");
    let bad = &listed["backups"][1];
    assert!(bad["problem"].to_string().contains(&lost), "{listed}");
    let refused = hosts.restore("a", &["--backup", &second]).unwrap_err();
    names(&refused, &[&lost, &format!("pgkeep keys trust {lost}")]);
    // Its WAL is behind the older backup.
    let refused = hosts.restore("a", &["--backup", &first, "--latest"]).unwrap_err();
    names(&refused, &[&lost, &format!("pgkeep keys trust {lost}")]);

    hosts.play("keeper");
    shop.pgkeep(["keys", "trust", &lost, "--name", "db"]).ok();
    assert_eq!(hosts.signer(&lost)["enrolled_by"], json!(keeper));
    let again = shop.pgkeep(["--json", "keys", "trust", &lost]).ok().json();
    assert_eq!(
        (&again["already"], &again["control_object"]),
        (&json!(true), &json!(null))
    );

    hosts.play("reader");
    let listed = shop.pgkeep(["--json", "list"]).ok().json();
    assert_eq!(listed["backups"][1]["state"], "complete", "{listed}");
    shop.pgkeep(["window"]).ok();
    for (name, options) in [("b", ["--backup", &second]), ("c", ["--backup", &first])] {
        let restored = hosts.restore(name, &[&options[..], &["--latest"]].concat()).unwrap();
        assert_eq!(digest(&restored, "t"), content);
    }
    standby_follows(&hosts, &content);
}

/// A standby asks without a plan, and so for the control objects each time.
fn standby_follows(hosts: &Hosts, content: &str) {
    let shop = &hosts.shop;
    let target = shop.target("standby");
    shop.run(["restore", "--standby", "--into"]).arg(&target).run().ok();
    let mut standby = Cluster::adopt_dir(17, target);
    standby.start();
    let replayed = || (standby.try_sql("SELECT count(*) FROM t").ok()? == "5000").then_some(());
    wait::until(
        "the standby has the table",
        std::time::Duration::from_secs(60),
        replayed,
    );
    assert_eq!(digest(&standby, "t"), content);
}

/// Aim: what a withdrawn signer wrote before stays restorable; what it writes from then on is refused everywhere, and it
/// is told so itself; whom it enrolled stays, and whom it enrols afterwards does not.
#[test]
fn a_withdrawn_signer_is_refused_from_then_on() {
    let hosts = Hosts::start();
    let shop = &hosts.shop;
    let before = hosts.backup();
    let content = digest(&shop.cluster, "t");
    let root = hosts.fingerprint();
    hosts.play("keeper");
    let keeper = hosts.fingerprint();
    hosts.play("first");
    shop.pgkeep(["keys", "trust", &keeper, "--name", "keeper"]).ok();
    names(
        &shop.pgkeep(["keys", "distrust", &root]).expect(4),
        &["--repository-file"],
    );

    hosts.play("keeper");
    let nobody = format!("s-{:032}", 0);
    names(&shop.pgkeep(["keys", "distrust", &nobody]).expect(5), &["keys list"]);
    let planned = shop
        .pgkeep(["--json", "keys", "distrust", &root, "--dry-run"])
        .ok()
        .json();
    assert_eq!(planned["control_object"], json!(null));
    let withdrawn = shop.pgkeep(["--json", "keys", "distrust", &root]).ok().json();
    assert_eq!(withdrawn["keeps"][0]["signer"], json!(keeper), "{withdrawn}");
    assert_eq!(hosts.signer(&root)["withdrawn_by"], json!(keeper));
    names(&shop.pgkeep(["keys", "trust", &root]).expect(4), &["signing.key"]);

    hosts.play("first");
    names(
        &shop.pgkeep(["keys", "trust", &nobody]).expect(4),
        &[&root, "withdrawn"],
    );
    let doctor = shop.pgkeep(["--json", "doctor"]).ok().json();
    let check = doctor["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["id"] == "signer-trusted");
    assert_eq!(check.unwrap()["status"], "fail", "{doctor}");
    let after = hosts.backup();

    hosts.play("reader");
    let listed = shop.pgkeep(["--json", "list"]).ok().json();
    assert_eq!(listed["backups"][0]["state"], "complete", "{listed}");
    assert!(
        listed["backups"][1]["problem"].to_string().contains("withdrawn"),
        "{listed}"
    );
    names(
        &hosts.restore("a", &["--backup", &after]).unwrap_err(),
        &[&root, "withdrawn"],
    );
    let options = ["--backup", &before, "--immediate", "--action", "promote"];
    assert_eq!(digest(&hosts.restore("b", &options).unwrap(), "t"), content);
    let accepted = [&options[..2], &["--accept-signer", "--latest"]].concat();
    assert_eq!(digest(&hosts.restore("c", &accepted).unwrap(), "t"), content);
}

/// Aim: where no trusted key is left, each reader's own repository file is the way: for trust, and for withdrawal.
#[test]
fn without_a_trusted_key_the_repository_file_decides() {
    let hosts = Hosts::start();
    let shop = &hosts.shop;
    let root = hosts.fingerprint();
    let old = hosts.backup();
    fs::remove_file(shop.home().join("signing.key")).unwrap();
    let new = hosts.backup();
    let own = hosts.fingerprint();
    let content = digest(&shop.cluster, "t");

    hosts.play("reader");
    hosts.restore("a", &["--backup", &new]).unwrap_err();
    let dry = shop.pgkeep(["--json", "keys", "trust", &own, "--repository-file", "--dry-run"]);
    assert_eq!(dry.ok().json()["already"], false);
    hosts.restore("a", &["--backup", &new]).unwrap_err();
    let trusted = shop
        .pgkeep(["--json", "keys", "trust", &own, "--repository-file"])
        .ok()
        .json();
    assert_eq!(trusted["control_object"], json!(null));
    assert_eq!(
        digest(&hosts.restore("b", &["--backup", &new, "--latest"]).unwrap(), "t"),
        content
    );

    let from = [
        "keys",
        "distrust",
        &root,
        "--from",
        "2020-01-01T00:00:00Z",
        "--repository-file",
    ];
    shop.pgkeep(from).ok();
    names(
        &hosts.restore("c", &["--backup", &old]).unwrap_err(),
        &[&root, "withdrawn"],
    );
    assert_eq!(hosts.signer(&root)["withdrawn_by"], json!("repository file"));
    shop.pgkeep(["keys", "trust", &root, "--repository-file"]).ok();
    assert!(hosts.restore("c", &["--backup", &old, "--latest"]).is_ok());
}
