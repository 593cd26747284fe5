//! Recipients change, identities get lost: what opens, what doesn't, and who is told (docs/roles.md).
//!
//! Invariant under test: from a rotation on everything is sealed to exactly the recipients of now; what was sealed before
//! opens for them after a rewrap and not earlier; and whatever is interrupted, running again ends in the same place.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, Output};
use serde_json::{Value, json};

use crate::backup::{backup, digest, number, text};
use crate::shop;

/// An installation that can have several identities.
struct Keys {
    shop: Shop,
    /// The recipient that it began with.
    first: String,
}

impl Keys {
    fn start() -> Keys {
        let shop = shop(17).start();
        shop.cluster
            .sql("CREATE TABLE t AS SELECT i, md5(i::text) AS content FROM generate_series(1, 20000) i");
        let first = recipients(&shop)[0].clone();
        Keys { shop, first }
    }

    /// Makes an identity; gives its recipient.
    fn new_identity(&self, name: &str) -> String {
        let output = self
            .shop
            .pgkeep([Path::new("keys"), Path::new("new"), &self.identity(name)])
            .ok();
        output.stdout.trim().to_owned()
    }

    fn identity(&self, name: &str) -> PathBuf {
        self.shop.home().join(name)
    }

    /// Says in the configuration to whom everything is to be sealed.
    fn configure(&self, recipients: &[&str]) {
        let toml = fs::read_to_string(self.shop.config_file()).unwrap();
        let line = toml.lines().find(|line| line.starts_with("recipients = ")).unwrap();
        self.shop
            .reconfigure(line, &format!("recipients = {}", json!(recipients)));
    }

    fn rotate(&self, options: &[&str]) -> Value {
        self.run_rotate(options).ok().json()
    }

    fn run_rotate(&self, options: &[&str]) -> Output {
        self.shop.run(["--json", "keys", "rotate"]).args(options).run()
    }

    fn check(&self, identity: &str) -> Output {
        let run = self.shop.run(["--json", "keys", "check", "--identity"]);
        run.arg(self.identity(identity)).run()
    }

    /// Restores with one identity; `Err` where that was refused before anything was made.
    fn restore(&self, name: &str, identity: &str, options: &[&str]) -> Result<Cluster, Output> {
        let target = self.shop.target(name);
        let output = self
            .shop
            .run(["restore", "--into"])
            .arg(&target)
            .arg("--identity")
            .arg(self.identity(identity))
            .args(options)
            .run();
        if output.code == Some(0) {
            let mut cluster = Cluster::adopt_dir(17, target);
            cluster.start();
            cluster.wait_recovered();
            return Ok(cluster);
        }
        assert_eq!(output.code, Some(4), "{output}");
        assert!(output.stderr.contains("no identity opens"), "{output}");
        assert!(output.stderr.contains("hint: "), "{output}");
        assert!(!target.exists(), "something was made: {output}");
        Err(output)
    }

    fn control_objects(&self) -> Vec<String> {
        let names = objects(&self.shop.repository_dir("main")).into_iter();
        names.filter(|name| name.starts_with("control/2")).collect()
    }

    fn repository_file(&self) -> PathBuf {
        self.shop.home().join("repository.toml")
    }
}

/// The recipients that the repository file names.
fn recipients(shop: &Shop) -> Vec<String> {
    let shown = shop.pgkeep(["--json", "repository", "show"]).ok().json();
    shown["recipients"].as_array().unwrap().iter().map(text).collect()
}

/// Aim: after a rotation to another recipient WAL and backups are sealed to it alone, at once and as a whole; what is
/// older opens for the identity of before only; after a rewrap for both.
#[test]
fn a_new_recipient_opens_what_is_stored_from_now_on_and_after_a_rewrap_all() {
    let keys = Keys::start();
    let shop = &keys.shop;
    let full = backup(shop, &[]);
    shop.cluster.sql("UPDATE t SET content = 'second' WHERE i % 100 = 0");
    let second = backup(shop, &[]);
    assert!(
        number(&second["new_bytes"]) < number(&full["new_bytes"]) / 2,
        "{second}"
    );
    let before = digest(&shop.cluster, "t");
    shop.cluster.archive_all();

    let new = keys.new_identity("new.txt");
    keys.configure(&[&new]);
    for command in [&["list"][..], &["backup"], &["status"], &["keys", "check"]] {
        let output = shop.pgkeep(command).expect(2);
        assert!(output.stderr.contains("pgkeep keys rotate"), "{output}");
    }
    let file = fs::read(keys.repository_file()).unwrap();
    let planned = keys.rotate(&["--dry-run"]);
    assert_eq!(planned["added"], json!([new]), "{planned}");
    assert_eq!(planned["removed"], json!([keys.first]), "{planned}");
    assert!(fs::read(keys.repository_file()).unwrap() == file && keys.control_objects().is_empty());
    let rotated = keys.rotate(&[]);
    assert_eq!(rotated["recipients"], json!([new]), "{rotated}");
    assert_eq!(recipients(shop), std::slice::from_ref(&new));
    let status = shop.pgkeep(["--json", "status"]).ok().json();
    assert!(status.to_string().contains("backup-recipients"), "{status}");

    shop.cluster.sql("UPDATE t SET content = 'third' WHERE i % 100 = 1");
    let third = backup(shop, &[]);
    assert_eq!(third["recipients"], json!([new]), "{third}");
    assert!(
        number(&third["new_bytes"]) > number(&full["new_bytes"]) / 2,
        "not all was stored anew: {third}"
    );
    shop.cluster.sql("UPDATE t SET content = 'fourth' WHERE i % 100 = 2");
    let fourth = backup(shop, &[]);
    assert!(
        number(&fourth["new_bytes"]) < number(&full["new_bytes"]) / 2,
        "reuse goes on: {fourth}"
    );
    shop.cluster.archive_all();
    let after = digest(&shop.cluster, "t");
    let status = shop.pgkeep(["--json", "status"]).ok().json();
    assert!(!status.to_string().contains("recipients"), "{status}");

    let of_second = ["--backup", &text(&second["id"]), "--immediate", "--action", "promote"];
    let old = keys.restore("a", "identity.txt", &of_second).unwrap();
    assert_eq!(digest(&old, "t"), before);
    assert_eq!(
        digest(&keys.restore("b", "new.txt", &["--latest"]).unwrap(), "t"),
        after
    );
    keys.restore("c", "new.txt", &of_second).unwrap_err();
    keys.restore("d", "identity.txt", &["--latest"]).unwrap_err();
    let partly = keys.check("new.txt").expect(3).json();
    assert_eq!(
        (&partly["backups_opened"], &partly["backups"]),
        (&json!(2), &json!(4)),
        "{partly}"
    );
    assert_eq!(partly["test_object"], true, "{partly}");
    let partly = keys.check("identity.txt").expect(3).json();
    assert_eq!(
        (&partly["backup"], &partly["wal"]),
        (&json!(null), &json!(null)),
        "{partly}"
    );
    keys.new_identity("stranger.txt");
    keys.check("stranger.txt").expect(4);

    let identity = keys.identity("identity.txt");
    let rewrapped = keys.rotate(&["--rewrap", "--identity", identity.to_str().unwrap()]);
    assert_eq!(rewrapped["rewrap"]["complete"], true, "{rewrapped}");
    assert!(number(&rewrapped["rewrap"]["wrapped"]) > 5 && number(&rewrapped["rewrap"]["newer"]) > 3);
    assert_eq!(keys.check("new.txt").ok().json()["backups_opened"], 4);
    let again = keys.rotate(&["--rewrap", "--identity", identity.to_str().unwrap()]);
    assert_eq!(again["rewrap"]["wrapped"], 0, "{again}");
    assert_eq!(
        keys.control_objects().len(),
        2,
        "a change of recipients, and one rewrap"
    );
    assert_eq!(digest(&keys.restore("e", "new.txt", &of_second).unwrap(), "t"), before);
    // From the first backup on through all WAL, old and new.
    let through = ["--backup", &text(&full["id"]), "--latest"];
    assert_eq!(digest(&keys.restore("f", "new.txt", &through).unwrap(), "t"), after);
    keys.restore("g", "identity.txt", &["--latest"]).unwrap_err();
}

/// Aim: with two recipients either identity restores everything; the other one may be lost, and be replaced.
#[test]
fn of_two_recipients_one_may_be_lost_and_replaced() {
    let keys = Keys::start();
    let shop = &keys.shop;
    let offline = keys.new_identity("offline.txt");
    keys.configure(&[&keys.first, &offline]);
    keys.rotate(&[]);
    let id = text(&backup(shop, &[])["id"]);
    shop.cluster.archive_all();
    let content = digest(&shop.cluster, "t");
    fs::rename(keys.identity("identity.txt"), keys.identity("lost.txt")).unwrap();
    let restored = keys.restore("a", "offline.txt", &["--latest"]).unwrap();
    assert_eq!(digest(&restored, "t"), content);

    let replacement = keys.new_identity("replacement.txt");
    keys.configure(&[&offline, &replacement]);
    let offline_file = keys.identity("offline.txt");
    let rewrap = keys.run_rotate(&["--rewrap", "--identity", offline_file.to_str().unwrap()]);
    // WAL from before the first rotation is sealed to the lost identity alone, which is said.
    let rotated = rewrap.expect(3).json();
    assert_eq!(rotated["added"], json!([replacement]), "{rotated}");
    assert!(
        number(&rotated["rewrap"]["closed"]) > 0 && number(&rotated["rewrap"]["wrapped"]) > 5,
        "{rotated}"
    );
    assert_eq!(keys.check("replacement.txt").ok().json()["backup"], json!(id));
    shop.cluster.sql("UPDATE t SET content = 'later' WHERE i = 1");
    backup(shop, &[]);
    shop.cluster.archive_all();
    let later = digest(&shop.cluster, "t");
    for (name, identity) in [("b", "replacement.txt"), ("c", "offline.txt")] {
        let restored = keys.restore(name, identity, &["--backup", &id, "--latest"]).unwrap();
        assert_eq!(digest(&restored, "t"), later, "{identity}");
    }
    keys.restore("d", "lost.txt", &["--latest"]).unwrap_err();
}

/// Aim: a rotation that was cut off between its steps goes on when it is run again, and changes nothing a third time.
#[test]
fn a_rotation_that_was_cut_off_goes_on_where_it_stopped() {
    let keys = Keys::start();
    let new = keys.new_identity("new.txt");
    keys.configure(&[&keys.first, &new]);
    let before = fs::read(keys.repository_file()).unwrap();
    fs::set_permissions(keys.repository_file(), fs::Permissions::from_mode(0o640)).unwrap();
    let owner = fs::metadata(keys.repository_file()).unwrap().uid();
    keys.rotate(&[]);
    let (after, told) = (fs::read(keys.repository_file()).unwrap(), keys.control_objects());
    let metadata = fs::metadata(keys.repository_file()).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (owner, 0o640));
    assert_eq!(told.len(), 1);

    // Killed after the repository was told.
    fs::write(keys.repository_file(), &before).unwrap();
    let again = keys.rotate(&[]);
    assert_eq!(
        (&again["control_object"], &again["repository_file_changed"]),
        (&json!(null), &json!(true))
    );
    assert_eq!(
        (fs::read(keys.repository_file()).unwrap(), keys.control_objects()),
        (after.clone(), told.clone())
    );
    // A repository that lost what it was told.
    fs::remove_file(keys.shop.repository_dir("main").join(&told[0])).unwrap();
    assert!(keys.rotate(&[])["control_object"].is_string());
    // Once more.
    let last = keys.rotate(&[]);
    assert_eq!(
        (&last["control_object"], &last["repository_file_changed"]),
        (&json!(null), &json!(false))
    );
    assert_eq!(
        (fs::read(keys.repository_file()).unwrap(), keys.control_objects().len()),
        (after, 1)
    );
    backup(&keys.shop, &[]);
}

/// Aim: a host whose repository file was not replaced is told wherever it can know, and so is everybody who reads what
/// it writes; what it stores meanwhile is nevertheless a backup.
#[test]
fn a_host_with_the_repository_file_of_before_is_told() {
    let keys = Keys::start();
    let shop = &keys.shop;
    let before = fs::read(keys.repository_file()).unwrap();
    let new = keys.new_identity("new.txt");
    keys.configure(&[&new]);
    keys.rotate(&[]);
    let current = fs::read(keys.repository_file()).unwrap();
    fs::write(keys.repository_file(), &before).unwrap();
    keys.configure(&[&keys.first]);

    let output = shop.pgkeep(["--json", "backup"]).expect(3);
    assert!(
        output.stderr.contains("keys rotate") && output.stderr.contains(&new),
        "{output}"
    );
    let stale = output.json();
    assert_eq!(stale["recipients"], json!([keys.first]), "{stale}");
    let reasons = |shop: &Shop| shop.pgkeep(["--json", "status"]).ok().json()["clusters"][0]["reasons"].to_string();
    assert!(reasons(shop).contains("recipients-stale"));
    let doctor = shop.pgkeep(["--json", "doctor"]).ok().json();
    let check = doctor["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["id"] == "recipients");
    assert_eq!(check.unwrap()["status"], "fail", "{doctor}");

    fs::write(keys.repository_file(), &current).unwrap();
    keys.configure(&[&new]);
    assert!(reasons(shop).contains("backup-recipients"));
    assert_eq!(backup(shop, &[])["recipients"], json!([new]));
    assert!(!reasons(shop).contains("recipients"));
}

/// Aim: what can't be meant is refused before anything is written.
#[test]
fn a_rotation_that_makes_no_sense_is_refused() {
    let keys = Keys::start();
    let other = keys.new_identity("other.txt");
    let before = (fs::read(keys.repository_file()).unwrap(), keys.control_objects());
    let refused = |options: &[&str], code: i32, words: &str| {
        let output = keys.run_rotate(options).expect(code);
        assert!(output.stderr.contains(words), "{output}");
    };
    refused(&["--recipients", &other], 2, "below [encryption]");
    refused(&["--recipients", "age1nonsense"], 2, "age recipient");
    refused(&["--identity", "x"], 2, "--rewrap");
    keys.configure(&[]);
    refused(&[], 2, "--recipients");
    refused(&["--rewrap", "--identity", "/nowhere/identity.txt"], 4, "identity");
    assert_eq!(
        (fs::read(keys.repository_file()).unwrap(), keys.control_objects()),
        before
    );
    // Without a list in the configuration the flag decides.
    keys.rotate(&["--recipients", &format!("{},{other}", keys.first)]);
    let mut both = vec![keys.first.clone(), other];
    both.sort();
    let mut now = recipients(&keys.shop);
    now.sort();
    assert_eq!(now, both);
    let bare = shop(17).unencrypted().start();
    let output = bare.pgkeep(["keys", "rotate", "--recipients", &keys.first]).expect(4);
    assert!(output.stderr.contains("encrypt"), "{output}");
}

/// Aim: a repository file that is lost after a rotation comes back with an identity of before or of after, and says to
/// whom is sealed now; so the next backup is.
#[test]
fn a_file_that_is_lost_after_a_rotation_comes_back_as_it_was() {
    let keys = Keys::start();
    backup(&keys.shop, &[]);
    let new = keys.new_identity("new.txt");
    keys.configure(&[&new]);
    keys.rotate(&[]);
    let file = fs::read_to_string(keys.repository_file()).unwrap();
    for identity in ["identity.txt", "new.txt"] {
        fs::remove_file(keys.repository_file()).unwrap();
        let run = keys
            .shop
            .run(["repository", "create", "--recover", "--accept-signer", "--identity"]);
        run.arg(keys.identity(identity)).run().ok();
        assert_eq!(fs::read_to_string(keys.repository_file()).unwrap(), file, "{identity}");
    }
    let next = backup(&keys.shop, &[]);
    assert_eq!(next["recipients"], json!([new]), "{next}");
}
