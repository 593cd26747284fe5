//! The walk as `pg_basebackup` of the same major walks.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pgkeep_pg::datadir::{Class, DataDir, EntryKind, Found, RelPath};
use pgkeep_testkit::{Cluster, every_major, wait};

use super::quiet;

const TABLES: &str = "
create table plain (id int primary key, v text) tablespace one;
insert into plain select g, repeat('x', g % 100) from generate_series(1, 3000) g;
delete from plain where id % 3 = 0;
vacuum plain;
create unlogged table unlogged (id int primary key, v text);
insert into unlogged select g, repeat('x', 3000) from generate_series(1, 500) g;
create unlogged table unlogged_too tablespace one as select * from unlogged;
create table becomes_unlogged as select * from plain;
alter table becomes_unlogged set unlogged;
create unlogged table becomes_logged as select * from plain;
alter table becomes_logged set logged;
vacuum;
";

const TEMPORARY: &str = "set temp_buffers = '1MB';
create temp table tmp as select g, repeat('t', 500) from generate_series(1, 20000) g;
checkpoint; select pg_sleep(600)";

every_major! {
    /// Aim: the walk lists what PostgreSQL's own base backup holds, no more and no less.
    /// Method: a cluster with tablespaces, unlogged and temporary tables at rest; `pg_basebackup` of it; both listings.
    fn a_walk_lists_what_pg_basebackup_copies(major: u16) {
        let cluster = quiet(major).start();
        let in_place = prepare(&cluster);
        // A session whose temporary table is on disk, open until it is dropped.
        let _session = cluster.program("psql").args(["-X", "-q", "-c"]).arg(TEMPORARY).spawn();
        wait::until("a temporary table", wait::LIMIT, || {
            let asleep = cluster.sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'");
            (asleep == "1").then_some(())
        });
        assert!(has_temporary_files(&cluster));
        let ours = listing(&cluster);
        let theirs = basebackup(&cluster);

        // pg_basebackup writes the first three itself; the last is only made by a server at rest.
        let made = ["backup_label", "backup_manifest", "tablespace_map"].map(|name| name.as_bytes().to_vec());
        let theirs: BTreeSet<Vec<u8>> = theirs.into_iter().filter(|path| !made.contains(path)).collect();
        let shown = |paths: Vec<&Vec<u8>>| {
            paths
                .iter()
                .map(|path| path.escape_ascii().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(ours.difference(&theirs).collect()),
            [""; 0],
            "more, on {major}"
        );
        assert_eq!(
            shown(theirs.difference(&ours).collect()),
            [""; 0],
            "less, on {major}"
        );
        let count = ours.iter().filter(|path| path.starts_with(b"pg_tblspc/")).count();
        assert!(count > if in_place { 12 } else { 10 }, "{count} entries in tablespaces");
    }
}

/// Makes tablespaces and tables; true if the major copies in-place tablespaces.
fn prepare(cluster: &Cluster) -> bool {
    for (name, directory) in [("one", "ts one"), ("two", "back\\slash"), ("three", "ts one too")] {
        let location = cluster.scratch().dir(directory);
        cluster.sql(&format!("create tablespace {name} location '{}'", location.display()));
    }
    // pg_basebackup before 16 does not know in-place tablespaces.
    let in_place = cluster.major() >= 16;
    cluster.sql(TABLES);
    if in_place {
        cluster.sql("set allow_in_place_tablespaces = on;\ncreate tablespace here location '';\n");
        cluster.sql("create table placed tablespace here as select generate_series(1, 100) g");
    }
    cluster.sql("create database second tablespace two");
    cluster.sql("select pg_create_physical_replication_slot('slot', true)");
    cluster.sql("checkpoint");
    in_place
}

fn has_temporary_files(cluster: &Cluster) -> bool {
    let is_temporary = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .into_iter()
            .any(|entry| entry.file_name().as_bytes().starts_with(b"t"))
    };
    let mut databases = fs::read_dir(cluster.data_dir().join("base")).unwrap().flatten();
    databases.any(|database| is_temporary(&database.path()))
}

/// Every path of the walk; nothing may be skipped in a cluster at rest but its socket-less self.
fn listing(cluster: &Cluster) -> BTreeSet<Vec<u8>> {
    let data_dir = DataDir::open(cluster.data_dir()).unwrap();
    let mut before = RelPath::ROOT;
    let mut tablespaces = Vec::new();
    let mut paths = BTreeSet::new();
    for found in data_dir.walk().unwrap() {
        let Found::Entry(entry) = found.unwrap() else {
            panic!("skipped something")
        };
        assert!(before < entry.path, "{before} before {}", entry.path);
        if let EntryKind::Tablespace(tablespace) = &entry.kind {
            tablespaces.push(tablespace.clone());
        }
        if entry.path.to_string().ends_with("/PG_VERSION") {
            assert_eq!(entry.class, Class::PgVersion);
        }
        paths.insert(entry.path.as_bytes().to_vec());
        before = entry.path;
    }
    assert_eq!(tablespaces.len(), 3);
    assert_eq!(data_dir.tablespaces().unwrap(), tablespaces);
    paths
}

/// Every path of a plain `pg_basebackup`, read like one directory.
fn basebackup(cluster: &Cluster) -> BTreeSet<Vec<u8>> {
    let target = cluster.scratch().join("copy");
    let options = ["-X", "none", "-c", "fast", "--no-sync", "-D"];
    let mut run = cluster.program("pg_basebackup").args(options).arg(&target);
    for directory in ["ts one", "back\\slash", "ts one too"] {
        let old = cluster.scratch().join(directory);
        run = run.arg(format!("--tablespace-mapping={0}={0}.copy", old.display()));
    }
    run.run().ok();
    let mut paths = BTreeSet::new();
    collect(&target, b"", &mut paths);
    paths
}

fn collect(directory: &Path, prefix: &[u8], paths: &mut BTreeSet<Vec<u8>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = [prefix, entry.file_name().as_bytes()].concat();
        if entry.path().is_dir() {
            collect(
                &directory.join(OsStr::from_bytes(entry.file_name().as_bytes())),
                &[&path[..], b"/"].concat(),
                paths,
            );
        }
        paths.insert(path);
    }
}
