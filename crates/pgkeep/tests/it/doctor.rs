//! `pgkeep doctor`: a good installation passes, and each trouble turns its own check and no stranger's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::postgres::StopMode;
use pgkeep_testkit::{S3Server, every_major};
use serde_json::Value;

use crate::shop;

/// What a run of the doctor said: the checks by id.
struct Diagnosis(BTreeMap<String, Value>);

impl Diagnosis {
    fn of(shop: &Shop, options: &[&str]) -> Diagnosis {
        let report = shop.run(["--json", "doctor"]).args(options).run().ok().json();
        let checks = report["checks"].as_array().unwrap();
        Diagnosis(
            checks
                .iter()
                .map(|check| (check["id"].as_str().unwrap().to_owned(), check.clone()))
                .collect(),
        )
    }

    #[track_caller]
    fn expect(&self, id: &str, status: &str) -> &Value {
        let check = self.0.get(id).unwrap_or_else(|| panic!("no check {id}"));
        assert_eq!(check["status"], status, "{check:#}");
        check
    }

    /// The ids that fail, also those that can't be told.
    fn bad(&self) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(_, check)| check["status"] == "fail")
            .map(|(id, _)| id.as_str())
            .collect()
    }
}

every_major! {
    /// Aim: an installation that works has advice at most, also as seen by a role with nothing but the grants that the
    /// doctor itself printed.
    fn a_good_installation_passes_with_the_printed_grants(major: u16) {
        let shop = shop(major).start();
        shop.cluster.sql("CREATE ROLE keeper LOGIN");
        shop.reconfigure("user=postgres", "user=keeper");
        let lacking = Diagnosis::of(&shop, &[]);
        let grants = lacking.expect("role-grants", "fail")["fix"].as_str().unwrap().to_owned();
        lacking.expect("archiver", "warn");
        shop.cluster.sql(&grants);
        assert_eq!(Diagnosis::of(&shop, &[]).bad(), ["newest-backup"]);
        shop.pgkeep(["backup"]).ok();
        let good = Diagnosis::of(&shop, &["--probe", "--check"]);
        assert_eq!(good.bad(), [""; 0]);
        for id in ["archive-command", "archiver", "last-pushed", "create-only", "system-identifier", "identity-opens"] {
            good.expect(id, "pass");
        }
    }
}

/// Aim: a command that can hide a failure, one that throws WAL away, and one that can't run are told apart.
#[test]
fn an_archive_command_that_lies_is_found() {
    let mut shop = shop(17).start();
    let good = shop.cluster.sql("SHOW archive_command");
    shop.cluster.set_conf("archive_command", &format!("{good} || true"));
    let lying = Diagnosis::of(&shop, &[]);
    let fix = lying.expect("archive-command", "fail")["fix"]
        .as_str()
        .unwrap()
        .to_owned();
    shop.cluster.set_conf("archive_command", "/bin/true");
    shop.cluster.archive_all();
    let discarding = Diagnosis::of(&shop, &[]);
    discarding.expect("archive-command", "fail");
    discarding.expect("last-pushed", "warn");
    shop.cluster.set_conf("archive_command", "/nowhere/pgkeep wal push %p");
    Diagnosis::of(&shop, &[]).expect("archive-command-program", "fail");
    for statement in fix.split_inclusive(';') {
        shop.cluster.sql(statement);
    }
    shop.cluster.archive_all();
    let mended = Diagnosis::of(&shop, &[]);
    mended.expect("archive-command", "pass");
    mended.expect("last-pushed", "pass");
}

/// Aim: what one command as another user leaves behind is found, and the archiver's own command is printed.
#[test]
fn a_repository_that_is_closed_to_the_server_is_found() {
    let shop = shop(17).start();
    shop.pgkeep(["backup"]).ok();
    let wal = shop.repository_dir("main").join("wal");
    let closed = |mode| fs::set_permissions(&wal, fs::Permissions::from_mode(mode)).unwrap();
    closed(0o500);
    let open_lineage = wal.join("shop");
    fs::set_permissions(&open_lineage, fs::Permissions::from_mode(0o500)).unwrap();
    Diagnosis::of(&shop, &[]).expect("repository-writable", "fail");
    fs::set_permissions(&open_lineage, fs::Permissions::from_mode(0o750)).unwrap();
    closed(0o750);
    Diagnosis::of(&shop, &[]).expect("repository-writable", "pass");
}

/// Aim: a server that is down spoils no check of the host or the repository.
#[test]
fn a_silent_server_hides_nothing_else() {
    let mut shop = shop(17).start();
    shop.cluster.stop(StopMode::Fast);
    let silent = Diagnosis::of(&shop, &[]);
    silent.expect("server-reachable", "fail");
    assert_eq!(silent.expect("archiver", "fail")["unknown"], true);
    silent.expect("repository-ours", "pass");
    silent.expect("identity-opens", "pass");
    let run = shop.run(["doctor", "--check"]).run();
    assert_eq!(run.code, Some(9), "{run}");
}

/// Aim: a restored copy is told until it is adopted, and its old target is no leftover.
#[test]
fn a_restored_copy_is_told_until_it_is_adopted() {
    let mut shop = shop(17).start();
    shop.pgkeep(["backup"]).ok();
    shop.pgkeep(["mark", "here"]).ok();
    let mut copy = shop.restore("copy", ["--restore-point", "here", "--action", "promote"]);
    copy.start();
    copy.wait_recovered();
    shop.cluster.stop(StopMode::Fast);
    shop.reconfigure(&shop.cluster.conninfo(), &copy.conninfo());
    let told = Diagnosis::of(&shop, &[]);
    told.expect("unadopted-restore", "fail");
    told.expect("archive-mode", "fail");
    told.expect("leftover-recovery", "pass");
    copy.put_file("standby.signal", "");
    Diagnosis::of(&shop, &[]).expect("leftover-recovery", "warn");
}

/// Aim: credentials that may only create are no failure, and are proven to be just that.
#[test]
fn a_writer_that_may_only_create_is_unknown_where_it_can_not_look() {
    let server = S3Server::shared();
    let bucket = server.bucket("doctor");
    let shop = shop(17).s3("main", server, &bucket, "wo/shop", "admin").start();
    shop.cluster.archive_all();
    Diagnosis::of(&shop, &["--probe"]).expect("delete-denied", "warn");
    shop.home().file("main.access-key", "writer");
    shop.home().file("main.secret-key", "writersecret");
    let writer = Diagnosis::of(&shop, &["--probe"]);
    let unknown = ["identity-opens", "newest-backup", "repository-ours"];
    assert_eq!(writer.bad(), unknown);
    assert!(unknown.iter().all(|id| writer.expect(id, "fail")["unknown"] == true));
    for id in [
        "repository-reachable",
        "repository-writable",
        "create-only",
        "delete-denied",
        "repository-apart",
    ] {
        writer.expect(id, "pass");
    }
}
