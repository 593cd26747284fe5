//! Data directories whose parts lie strangely (K13, K34, K35, K39, K54): what is backed up, what is refused, in which words.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, Run, StopMode};

use super::at_both_ends;
use super::truth::{Truth, beside, restored};
use crate::backup::{backup, listed, text};
use crate::proxy::{replacing, through};
use crate::shop;

/// A backup that must be refused without a trace.
#[track_caller]
fn refused(shop: &Shop, words: &[&str]) {
    let before = listed(shop);
    let output = shop.pgkeep(["backup"]).expect(4);
    for word in words.iter().chain(&["hint: "]) {
        assert!(output.stderr.contains(word), "\"{word}\" is missing: {output}");
    }
    assert_eq!(listed(shop), before);
}

fn prove(shop: &Shop, name: &str) {
    let id = text(&backup(shop, &[])["id"]);
    let options = beside(shop, name);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Truth::of(&shop.cluster).prove(restored(shop, name, &id, &options));
}

/// Moves something away and leaves a link to it, with the server stopped.
fn move_and_link(shop: &mut Shop, what: &Path, to: &Path) {
    shop.cluster.stop(StopMode::Fast);
    Run::new("/bin/mv").arg(what).arg(to).run().ok();
    symlink(to, what).unwrap();
    shop.cluster.start();
}

/// Aim: `pg_wal` on another disk, reached by a link, and a data directory that its group may read: WAL is archived by
/// relative and by absolute path, backups restore to a plain directory, readable by the group.
fn wal_elsewhere_and_group_access(major: u16) {
    let mut shop = shop(major).cluster(|cluster| cluster.group_access()).start();
    let elsewhere = shop.home().join("wal-disk");
    let data = shop.cluster.data_dir().to_owned();
    move_and_link(&mut shop, &data.join("pg_wal"), &elsewhere);
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let segment = shop.cluster.archive_all();
    for path in [elsewhere.join(&segment), Path::new("pg_wal").join(&segment)] {
        shop.run(["wal", "push"]).arg(path).cwd(&data).run().ok();
    }
    let id = text(&backup(&shop, &[])["id"]);
    let copy = Truth::of(&shop.cluster).prove(restored(&shop, "copy", &id, &[]));
    let mode = |path: &str| copy.data_dir().join(path).symlink_metadata().unwrap().mode();
    assert_eq!((mode("") & 0o777, mode("base/1") & 0o777), (0o750, 0o750));
    assert_eq!(
        (mode("PG_VERSION") & 0o777, mode("global/pg_control") & 0o777),
        (0o640, 0o640)
    );
    assert!(copy.data_dir().join("pg_wal").symlink_metadata().unwrap().is_dir());
}

at_both_ends!(wal_elsewhere_and_group_access);

/// Aim: many tablespaces whose paths begin alike, one of them inside another's directory, restore each to its own; what
/// no tablespace has can't be mapped, and a place that holds a cluster's files is not taken (K33, K51).
#[test]
fn tablespaces_whose_paths_begin_alike() {
    let shop = shop(17).start();
    let scratch = shop.cluster.scratch();
    for (number, path) in ["ts", "ts1", "ts/inner", "ts.1", "ts 1", "data1", "ts; DROP--%41"]
        .iter()
        .enumerate()
    {
        let location = scratch.dir(path);
        let location = location.to_str().unwrap().replace('\'', "''");
        shop.cluster
            .sql(&format!("CREATE TABLESPACE ts{number} LOCATION '{location}'"));
        shop.cluster.sql(&format!(
            "CREATE TABLE t{number} TABLESPACE ts{number} AS SELECT generate_series(1, 100 + {number}) i"
        ));
    }
    prove(&shop, "copy");
    let (id, target) = (listed(&shop).remove(0), shop.target("refused"));
    let refused = |mappings: &[String], words: &str| {
        let restore = shop
            .run(["restore", "--immediate", "--backup", &id, "--into"])
            .arg(&target);
        let output = restore.args(mappings).run();
        assert!(matches!(output.code, Some(2 | 4)), "{output}");
        assert!(output.stderr.contains(words), "\"{words}\" is missing: {output}");
        assert!(!target.exists(), "{output}");
    };
    let unknown = ["--tablespace", "/nowhere=/elsewhere"].map(str::to_owned);
    refused(&[&beside(&shop, "mapped")[..], &unknown].concat(), "/nowhere");
    refused(&[], "lies inside");
    let own = scratch.join("ts1").display().to_string();
    let taken = |option: String| match option.starts_with(&format!("{own}=")) {
        true => format!("{own}={own}"),
        false => option,
    };
    let mapped: Vec<String> = beside(&shop, "mapped").into_iter().map(taken).collect();
    refused(&mapped, "not empty");
}

/// Aim: a tablespace inside the data directory, behind two links, or behind a link to nothing is refused with its OID
/// and what to do, and the way out that is told works.
#[test]
fn tablespaces_that_can_not_be_backed_up() {
    let mut shop = shop(17).start();
    let location = shop.cluster.create_tablespace("odd");
    shop.cluster
        .sql("CREATE TABLE t TABLESPACE odd AS SELECT generate_series(1, 1000) i");
    let oid = shop.cluster.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'odd'");
    let link = shop.cluster.data_dir().join("pg_tblspc").join(&oid);
    let relink = |to: &Path| {
        fs::remove_file(&link).unwrap();
        symlink(to, &link).unwrap();
    };

    let inside = shop.cluster.data_dir().join("inside");
    shop.cluster.stop(StopMode::Fast);
    fs::rename(&location, &inside).unwrap();
    relink(&inside);
    shop.cluster.start();
    refused(&shop, &[&oid, "inside the data directory"]);

    shop.cluster.stop(StopMode::Fast);
    fs::rename(&inside, &location).unwrap();
    let second = shop.home().join("second-link");
    symlink(&location, &second).unwrap();
    relink(&second);
    shop.cluster.start();
    refused(&shop, &[&oid, "itself a symbolic link"]);

    shop.cluster.stop(StopMode::Fast);
    relink(&shop.home().join("nowhere"));
    shop.cluster.start();
    refused(&shop, &[&oid, "does not exist"]);

    shop.cluster.stop(StopMode::Fast);
    relink(&location);
    shop.cluster.start();
    prove(&shop, "copy");
}

/// Aim: tablespaces in place, which have no link, come back with the data directory.
#[test]
fn tablespaces_in_place() {
    for major in [15, 18] {
        let shop = shop(major).start();
        shop.cluster.sql(
            "SET allow_in_place_tablespaces = on;
             CREATE TABLESPACE here LOCATION '';
             CREATE TABLE t TABLESPACE here AS SELECT generate_series(1, 1000) i",
        );
        prove(&shop, "copy");
        shop.cluster.sql(
            "SET allow_in_place_tablespaces = on;
             CREATE TABLESPACE more LOCATION '';
             CREATE DATABASE placed TABLESPACE more",
        );
        shop.cluster
            .sql_in("placed", "CREATE TABLE t AS SELECT generate_series(1, 10) i");
        shop.cluster.archive_all();
        // From the first backup, so that recovery makes the second one.
        let oldest = listed(&shop).remove(0);
        Truth::of(&shop.cluster).prove(shop.restore("latest", ["--backup", &oldest]));
    }
}

/// Aim: configuration that lies outside of the data directory is not in a backup, and that is said; the copy starts
/// all the same.
#[test]
fn configuration_that_lies_outside() {
    let mut shop = shop(17).start();
    let etc = shop.home().dir("etc");
    let conf = shop.cluster.data_dir().join("postgresql.conf");
    shop.cluster.stop(StopMode::Fast);
    let hba = shop.home().join("etc/pg_hba.conf");
    fs::rename(shop.cluster.data_dir().join("pg_hba.conf"), &hba).unwrap();
    shop.home().dir("etc/conf.d");
    shop.home().file("etc/conf.d/more.conf", "work_mem = '5MB'\n");
    let inside = fs::read_to_string(&conf).unwrap();
    fs::write(
        &conf,
        format!(
            "{inside}\nhba_file = '{}'\ninclude_dir = '{}'\n",
            hba.display(),
            etc.join("conf.d").display()
        ),
    )
    .unwrap();
    shop.cluster.start();
    assert_eq!(shop.cluster.sql("SHOW work_mem"), "5MB");
    let told = shop.pgkeep(["backup"]).ok();
    assert!(told.stderr.contains(hba.to_str().unwrap()), "{told}");
    prove(&shop, "copy");
}

/// Aim: where the server that answers is the primary and the directory on this host that of its standby, same system
/// identifier and same path or not, nothing is read from there (K39).
/// Method: a proxy replaces the primary's directory by the standby's in the server's answers, as another host's path
/// that both have would be.
fn the_data_directory_of_a_sibling(major: u16) {
    let shop = shop(major).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let here = shop.cluster.data_dir().to_str().unwrap().to_owned();
    let standby = shop.cluster.standby("data-of-standby");
    let sibling = Path::new(&here).with_file_name("peer");
    symlink(standby.data_dir(), &sibling).unwrap();
    assert_eq!(here.len(), sibling.to_str().unwrap().len());
    let port = replacing(
        shop.cluster.port(),
        here.as_bytes(),
        sibling.to_str().unwrap().as_bytes(),
    );
    shop.cluster.sql("CHECKPOINT");
    let output = through(&shop, port, ["backup"]).run().expect(4);
    assert!(output.stderr.contains("not the one"), "{output}");
    assert_eq!(listed(&shop), [""; 0]);
    backup(&shop, &[]);
}

at_both_ends!(the_data_directory_of_a_sibling);

/// Aim: a file or directory in the midst that can't be read fails the backup, naming it; none is skipped (K30).
#[test]
fn what_can_not_be_read() {
    let shop = shop(17).start();
    // Written already, so that PostgreSQL itself needs it no more.
    shop.cluster
        .sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i; CHECKPOINT");
    let data = shop.cluster.data_dir();
    let file = shop.cluster.sql("SELECT pg_relation_filepath('t')");
    let template = shop
        .cluster
        .sql("SELECT 'base/' || oid FROM pg_database WHERE datname = 'template0'");
    for name in [file.as_str(), &template, "pg_ident.conf"] {
        let path = data.join(name);
        let mode = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let output = shop.pgkeep(["backup"]);
        fs::set_permissions(&path, mode).unwrap();
        let output = output.expect(7);
        assert!(output.stderr.contains(name), "{output}");
        assert_eq!(listed(&shop), [""; 0]);
    }
    prove(&shop, "copy");
}

/// Aim: two clusters of one configuration, archiving with one command and backed up at the same time, never mix; where
/// it is not said which is meant, nothing is guessed.
#[test]
fn two_clusters_of_one_configuration() {
    let mut other = Cluster::builder(18).segment_mib(1).conf("archive_mode = on").start();
    let bin = pgkeep_testkit::postgres::bin_dir(18);
    let settings = format!(
        "[cluster.other]\nconnection = \"{}\"\npostgres_bin = \"{}\"\n",
        other.conninfo(),
        bin.display()
    );
    let shop = shop(17).settings(&settings).start();
    other.set_conf("archive_command", &format!("{} wal push %p", shop.command_line()));
    shop.cluster.sql("CREATE TABLE t AS SELECT 'shop' AS whose");
    other.sql("CREATE TABLE t AS SELECT 'other' AS whose");
    let unclear = shop.pgkeep(["backup"]).expect(2);
    assert!(
        unclear.stderr.contains("other") && unclear.stderr.contains("shop"),
        "{unclear}"
    );
    let running = ["shop", "other"].map(|name| shop.run(["--json", "backup", name]).spawn());
    let ids = running.map(|backup| text(&backup.wait().ok().json()["id"]));
    let truths = [&shop.cluster, &other].map(Truth::of);
    for ((name, id), (major, truth)) in ["shop", "other"].iter().zip(&ids).zip([17, 18].iter().zip(truths)) {
        let target = shop.target(name);
        let options = ["--backup", id, "--immediate", "--action", "promote", "--into"];
        shop.run(["restore", name]).args(options).arg(&target).run().ok();
        truth.prove(Cluster::adopt_dir(*major, target));
    }
    // The other one's backup, and its WAL, under this one's name.
    let target = shop.target("mixed");
    shop.run(["restore", "shop", "--backup", &ids[1], "--into"])
        .arg(&target)
        .run()
        .expect(5);
    let segment = other.switch_wal();
    let foreign = other.data_dir().join("pg_wal").join(&segment);
    shop.run(["wal", "push", "--cluster", "shop"])
        .arg(&foreign)
        .run()
        .expect(6);
}

/// Aim: what changes in the configuration between two backups of a chain that reuse from each other (places, workers,
/// limits) shows in none of them: each restores from each place that has it (M41).
#[test]
fn configurations_that_change_between_backups() {
    let shop = shop(18).start();
    shop.cluster
        .sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i");
    let mut done = Vec::new();
    let mut step = |options: &[&str], code: i32| {
        shop.cluster.sql("UPDATE t SET i = -i WHERE i % 1000 = 1");
        let output = shop.run(["--json", "backup"]).args(options).run().expect(code);
        done.push((
            text(&output.json()["id"]),
            Truth::of(&shop.cluster),
            output.json()["repositories"].clone(),
        ));
    };
    step(&["--jobs", "8"], 0);
    step(&["--jobs", "1", "--rate", "100 MiB"], 0);
    let second = format!(
        "[repository.second]\nurl = \"file://{}\"\n\n[cluster.shop]",
        shop.repository_dir("second").display()
    );
    shop.reconfigure("[cluster.shop]", &second);
    shop.pgkeep(["repository", "create"]).ok();
    // The new place lacks what was stored before, and is told so until it has a backup of its own.
    step(&[], 3);
    step(&["--full", "--spread-checkpoint"], 0);
    step(&["--tier", "daily", "--label", "a=b"], 0);
    shop.reconfigure(&second, "[cluster.shop]");
    step(&[], 0);
    shop.reconfigure("[cluster.shop]", &second);
    step(&[], 3);
    for (number, (id, truth, places)) in done.iter().enumerate() {
        for place in places.as_array().unwrap() {
            let name = format!("{number}-{}", place.as_str().unwrap());
            truth.prove(restored(&shop, &name, id, &["--repository", place.as_str().unwrap()]));
            fs::remove_dir_all(shop.target(&name)).unwrap();
        }
    }
    let both = done
        .iter()
        .filter(|(_, _, places)| places.as_array().unwrap().len() == 2)
        .count();
    assert_eq!(both, 2);
}
