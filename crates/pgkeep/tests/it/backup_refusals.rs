//! What `pgkeep backup` refuses before it copies anything: exit 4 (6 for another lineage), naming the fix.
//!
//! Invariant under test: a refused backup stores nothing and leaves the server as it was.

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, OsUser, Output, Run, StopMode};

use crate::backup::{backup, listed, lose_state, out_of_backup_mode};
use crate::proxy::{replacing, through};
use crate::shop;

/// A backup that must be refused, having stored nothing of a backup. Its waits for the archiver are short.
#[track_caller]
fn refused(shop: &Shop, code: i32, because: &str) -> Output {
    let run = shop
        .run(["backup"])
        .env("PGKEEP_CLUSTER__SHOP__ARCHIVE_TIMEOUT", "2 seconds");
    let output = run.run().expect(code);
    assert!(
        output.stderr.contains(because),
        "{because} is not what it says: {output}"
    );
    assert!(output.stderr.contains("hint: "), "{output}");
    let stored = objects(&shop.repository_dir("main"));
    let of_backups = |name: &&String| {
        ["packs/", "backups/", "leases/"]
            .iter()
            .any(|dir| name.starts_with(dir))
    };
    assert_eq!(stored.iter().find(of_backups), None, "{output}");
    output
}

/// Aim: WAL that does not arrive is seen before anything is copied, whatever `archive_command` says of itself.
#[test]
fn archiving_that_does_not_work() {
    let mut shop = shop(17).start();
    let works = shop.cluster.sql("SHOW archive_command");
    shop.cluster.set_conf("archive_command", "false");
    refused(&shop, 4, "WAL archiving does not work");
    shop.cluster.set_conf("archive_command", "true");
    refused(&shop, 4, "no required repository has it");
    shop.cluster.set_conf("archive_command", "");
    refused(&shop, 4, "archive_command");
    out_of_backup_mode(&shop.cluster);

    shop.cluster.set_conf("archive_mode", "off");
    shop.cluster.restart(StopMode::Fast);
    refused(&shop, 4, "archive_mode");
    shop.cluster.set_conf("wal_level", "minimal");
    shop.cluster.set_conf("max_wal_senders", "0");
    shop.cluster.restart(StopMode::Fast);
    refused(&shop, 4, "wal_level");

    for (name, value) in [
        ("wal_level", "replica"),
        ("archive_mode", "on"),
        ("archive_command", &works),
    ] {
        shop.cluster.set_conf(name, value);
    }
    shop.cluster.restart(StopMode::Fast);
    backup(&shop, &[]);
}

/// Aim: a backup of a standby is refused, as this version can't take it.
#[test]
fn a_standby() {
    let shop = shop(17).start();
    let standby = shop.cluster.standby("standby");
    let connection = ("PGKEEP_CLUSTER__SHOP__CONNECTION", standby.conninfo());
    let output = shop.run(["backup"]).env(connection.0, connection.1).run().expect(4);
    assert!(output.stderr.contains("the server is a standby"), "{output}");
    assert!(output.stderr.contains("on the primary's host"), "{output}");
}

/// Aim: a new system identifier under a known name is a conflict (6) until it is accepted, once.
/// Method: the configuration of one cluster is pointed at another.
#[test]
fn another_lineage() {
    let shop = shop(17).start();
    shop.cluster.archive_all();
    let mut other = Cluster::builder(17).segment_mib(1).conf("archive_mode = on").start();
    other.set_conf("archive_command", &shop.cluster.sql("SHOW archive_command"));
    shop.reconfigure(&shop.cluster.conninfo(), &other.conninfo());
    refused(&shop, 6, "known by another system identifier");
    // Its WAL is refused, too, before and after the state is lost: the repository tells, where it lets us look.
    let push = |path: &str| shop.run(["wal", "push", path]).cwd(other.data_dir()).run();
    let segment = other.switch_wal();
    push(&format!("pg_wal/{segment}")).expect(6);
    lose_state(&shop);
    push(&format!("pg_wal/{segment}")).expect(6);

    backup(&shop, &["--new-lineage"]);
    other.wait_archived(&segment);
    backup(&shop, &[]);
    assert_eq!(listed(&shop).len(), 2);
}

/// Aim: when another cluster's files are where the server says that its own are, nothing is read from there.
/// Method: a proxy on loopback replaces the system identifier, as another machine's server would, or the directory.
#[test]
fn the_data_directory_of_another_cluster() {
    let shop = shop(17).start();
    let id = shop.cluster.system_id().0;
    let port = replacing(shop.cluster.port(), &id.to_be_bytes(), &(id + 1).to_be_bytes());
    let output = through(&shop, port, ["backup"]).run().expect(4);
    assert!(output.stderr.contains("belongs to another cluster"), "{output}");

    let here = shop.cluster.data_dir().to_str().unwrap();
    let elsewhere = here.replace("/data", "/gone");
    let port = replacing(shop.cluster.port(), here.as_bytes(), elsewhere.as_bytes());
    let output = through(&shop, port, ["backup"]).run().expect(4);
    assert!(output.stderr.contains("is not on this host"), "{output}");
    backup(&shop, &[]);
}

/// Only root can be another user than the one that PostgreSQL runs as.
#[test]
fn another_user_than_the_owner_of_the_data_directory() {
    if !OsUser::current().is_root() {
        return;
    }
    let shop = shop(17).start();
    let mut words = shop.command_line();
    words.push_str(" backup");
    let mut words = words.split(' ');
    let output = Run::new(words.next().unwrap()).args(words).run().expect(4);
    assert!(output.stderr.contains("sudo -u nobody pgkeep backup"), "{output}");
}

/// Aim: a server too old or too new is refused by its version, before anything is asked of it that it may not know.
/// Method: a proxy on loopback replaces the version number in what the server says.
#[test]
fn a_server_of_another_age() {
    let shop = shop(17).start();
    let number: i32 = shop.cluster.value("SHOW server_version_num");
    for (pretended, major) in [(130_022_i32, "13"), (190_001, "19")] {
        let port = replacing(shop.cluster.port(), &number.to_be_bytes(), &pretended.to_be_bytes());
        let output = through(&shop, port, ["backup"]).run().expect(4);
        assert!(
            output.stderr.contains(&format!("PostgreSQL {major} is not supported")),
            "{output}"
        );
    }
}

/// Aim: the refusal names the missing grants as statements, and with exactly those a role that isn't superuser backs
/// up. Method: on 14 and on 18, between which functions and grants were renamed.
fn too_few_privileges(major: u16) {
    let shop = shop(major).start();
    shop.cluster
        .sql("CREATE ROLE keeper LOGIN; GRANT pg_read_all_settings TO keeper");
    shop.reconfigure("user=postgres", "user=keeper");
    let output = refused(&shop, 4, "EXECUTE on function");
    let hint = output.stderr.split("hint: ").nth(1).unwrap();
    let grants = &hint[hint.find("GRANT").unwrap()..].replace('\n', " ");
    assert!(grants.contains("pg_switch_wal()"), "{output}");
    shop.cluster.sql(grants);
    backup(&shop, &[]);
    assert_eq!(
        shop.cluster
            .sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'keeper'"),
        "f"
    );
    shop.pgkeep(["mark", "before-deploy"]).ok();
}

#[test]
fn too_few_privileges_on_14() {
    too_few_privileges(14);
}

#[test]
fn too_few_privileges_on_18() {
    too_few_privileges(18);
}
