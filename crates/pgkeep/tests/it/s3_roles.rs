//! Roles on S3, identities and signers: who may do what, and what each is told who may not (docs/roles.md).
//!
//! Invariant under test: what is denied is never taken for "there is none", and what can't be opened or is not
//! vouched for is never restored.

use std::fs;

use pgkeep_testkit::S3Server;
use pgkeep_testkit::fixture::Shop;

use crate::backup::{backup, digest, listed, text};
use crate::shop;
use crate::writer::{act_as, as_other, writer_shop};

/// Aim: a reader with `GetObject` and `ListBucket` sees and restores all, and writes nothing; a writer that asks what
/// it may not know is told that it may not (7), instead of being shown an empty repository.
#[test]
fn each_role_does_its_part_and_no_more() {
    let (shop, _) = writer_shop(17);
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let id = text(&backup(&shop, &[])["id"]);
    let segment = shop.cluster.archive_all();

    let of_readers: [&[&str]; 6] = [
        &["list"],
        &["show", &id],
        &["window"],
        &["wal", "list"],
        &["keys", "check"],
        &["restore", "--into", "/tmp/never-made", "--dry-run"],
    ];
    for command in of_readers {
        as_other(&shop, "restorer", command).ok();
        let output = shop.pgkeep(command).expect(7);
        assert!(!output.stdout.contains("no backup"), "{output}");
    }
    as_other(&shop, "restorer", ["backup"]).expect(7);
    let path = format!("{}/pg_wal/{segment}", shop.cluster.data_dir().display());
    let path = if fs::exists(&path).unwrap() {
        path
    } else {
        newest_segment(&shop)
    };
    as_other(&shop, "restorer", ["wal", "push", &path]).expect(7);
    as_other(&shop, "nobody", ["list"]).expect(7);
    // Recovery is never told that a segment is absent by a storage that only doesn't let us look.
    shop.pgkeep(["wal", "fetch", &segment, "/tmp/never-made"]).expect(255);
}

/// A segment that is in `pg_wal`, whole.
fn newest_segment(shop: &Shop) -> String {
    let files = shop.cluster.wal_files();
    let name = files.iter().find(|name| name.len() == 24).unwrap();
    format!("{}/pg_wal/{name}", shop.cluster.data_dir().display())
}

/// Aim: without an identity, or with one that opens nothing, a restore is refused (4) and nothing is made; what needs
/// no identity goes on working.
#[test]
fn a_restore_without_the_right_identity_is_refused() {
    let shop = shop(17).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let id = text(&backup(&shop, &[])["id"]);
    let wrong = shop.home().join("wrong.txt");
    shop.pgkeep(["keys", "new", wrong.to_str().unwrap()]).ok();
    let right = shop.identity_file();
    let line = format!("identity_file = \"{}\"", right.display());
    shop.reconfigure(&line, "");

    let target = shop.target("restored");
    let restore = |identity: Option<&str>| {
        let mut run = shop.run(["restore", "--into"]).arg(&target);
        if let Some(identity) = identity {
            run = run.args(["--identity", identity]);
        }
        run.run()
    };
    let missing = shop.home().join("missing.txt");
    for identity in [None, Some(missing.to_str().unwrap()), Some(wrong.to_str().unwrap())] {
        let output = restore(identity).expect(4);
        assert!(output.stderr.contains("identity"), "{output}");
        assert!(output.stderr.contains("hint: "), "{output}");
        assert!(
            !target.exists() || fs::read_dir(&target).unwrap().next().is_none(),
            "{output}"
        );
        shop.pgkeep(["keys", "check"]).expect(4);
    }
    shop.run(["keys", "check"])
        .env("PGKEEP_IDENTITY_FILE", &wrong)
        .run()
        .expect(4);
    assert_eq!(listed(&shop), [id]);
    shop.pgkeep(["window"]).ok();
    shop.pgkeep(["wal", "list"]).ok();

    shop.run(["keys", "check"])
        .env("PGKEEP_IDENTITY_FILE", &right)
        .run()
        .ok();
    restore(Some(right.to_str().unwrap())).ok();
}

/// Aim: a host whose signing key was lost goes on with a new one; readers refuse what it signs, naming the
/// fingerprint, until it is trusted.
#[test]
fn a_signer_that_nobody_vouches_for_is_refused_until_it_is_trusted() {
    let (mut shop, _) = writer_shop(17);
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let old = text(&backup(&shop, &[])["id"]);
    let key = shop.home().join("signing.key");
    fs::rename(&key, shop.home().join("lost.key")).unwrap();
    shop.cluster.archive_all();
    let new = text(&backup(&shop, &["--full"])["id"]);
    shop.cluster.archive_all();
    // The reader is another host: it has neither key.
    fs::rename(&key, shop.home().join("new.key")).unwrap();
    shop.cluster.set_conf("archive_command", "");
    act_as(&shop, "restorer");
    fs::rename(shop.home().join("lost.key"), &key).unwrap();

    let list = shop.pgkeep(["--json", "list"]).ok().json();
    let entry = |id: &str| {
        list["backups"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["id"] == id)
            .unwrap()
            .clone()
    };
    assert_eq!(text(&entry(&old)["state"]), "complete");
    assert_eq!(text(&entry(&new)["state"]), "bad");
    let problem = text(&entry(&new)["problem"]);
    let fingerprint: String = problem[problem.find("s-").unwrap()..].chars().take(34).collect();

    let target = shop.target("restored");
    let restore = |options: &[&str]| {
        shop.run(["restore", "--backup", &new, "--into"])
            .arg(&target)
            .args(options)
            .run()
    };
    let refused = restore(&[]).expect(4);
    assert!(refused.stderr.contains(&fingerprint), "{refused}");
    assert!(
        !target.exists() || fs::read_dir(&target).unwrap().next().is_none(),
        "{refused}"
    );
    restore(&["--accept-signer", "--dry-run"]).ok();

    shop.reconfigure(
        "[encryption]\n",
        &format!("[encryption]\nsigners = [\"{fingerprint}\"]\n"),
    );
    let mut restored = shop.restore("trusted", ["--backup", &new]);
    restored.start();
    restored.wait_recovered();
    assert_eq!(digest(&restored, "t"), digest(&shop.cluster, "t"));
}

/// Aim: a lost repository file is made again from storage by whoever has an identity; until then nothing starts (2),
/// since names and encryption depend on it.
#[test]
fn a_lost_repository_file_is_made_again() {
    let shop = shop(17).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    backup(&shop, &[]);
    let file = shop.home().join("repository.toml");
    fs::rename(&file, shop.home().join("lost.toml")).unwrap();
    for command in [&["list"][..], &["backup"], &["wal", "push", &newest_segment(&shop)]] {
        let output = shop.pgkeep(command).expect(2);
        assert!(output.stderr.contains("repository create"), "{output}");
    }
    shop.pgkeep(["repository", "create"]).expect(4);
    assert!(
        !file.exists(),
        "a repository file was made for a place that is another repository"
    );
    shop.pgkeep(["repository", "create", "--recover"]).expect(4);
    shop.pgkeep(["repository", "create", "--recover", "--accept-signer"])
        .ok();
    let lines = |name: &str| fs::read_to_string(shop.home().join(name)).unwrap();
    for key in ["id", "naming_key"] {
        let line = |text: String| {
            text.lines()
                .find(|line| line.starts_with(&format!("{key} ")))
                .map(str::to_owned)
        };
        assert_eq!(line(lines("repository.toml")), line(lines("lost.toml")), "{key}");
    }
    shop.cluster.archive_all();
    backup(&shop, &[]);
    shop.pgkeep(["repository", "create"]).ok();
}

/// Aim: over TLS, a certificate of one's own authority is trusted where it is configured, and nowhere else (7).
#[test]
fn tls_trusts_the_authority_that_is_configured() {
    let server = S3Server::shared();
    let (shop, _) = writer_shop(17);
    act_as(&shop, "admin");
    shop.reconfigure(&server.endpoint(), &server.https_endpoint());
    shop.reconfigure("allow_http = true\n", "retries = 0\n");
    let output = shop.pgkeep(["list"]).expect(7);
    assert!(output.stderr.contains("certificate"), "{output}");
    let ca = shop.home().file("ca.pem", fs::read(server.ca_file()).unwrap());
    shop.reconfigure(
        "retries = 0\n",
        &format!("ca_certificate_file = \"{}\"\n", ca.display()),
    );
    shop.pgkeep(["list"]).ok();
    shop.cluster.archive_all();
}
