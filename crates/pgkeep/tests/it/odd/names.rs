//! Names with every strange byte: of files and directories in the data directory, of places, of databases (M42).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use pgkeep_testkit::{Cluster, StopMode};

use super::truth::Truth;
use crate::backup::{backup, text};
use crate::shop;

/// Names that some program has stumbled over.
const NAMES: &[&[u8]] = &[
    b"new\nline",
    b"carriage\rreturn",
    b"tab\t",
    b" ",
    b"  two",
    b"quote'",
    b"double\"",
    b"back\\slash",
    b"%",
    b"%2e%2e",
    b"100%41",
    b"-rf",
    b"--",
    b"~",
    b"$HOME",
    b"`id`",
    b"*",
    b"?",
    b"[#=]",
    b"a=b",
    b"a:b",
    b"a,b",
    b"{}",
    b"&amp;",
    b"\x01",
    b"\x7f",
    b"\xff\xfe",
    b"\xc3\x28",
    "\u{fc}ml\u{e4}ut".as_bytes(),
    "\u{202e}thgir".as_bytes(),
    b"...",
    b".. ",
    b"CON",
    b"16384",
    b"16384_init",
    b"PG_VERSION",
    b"pg_internal.init",
];

/// Makes files and directories of all these names below `top`, one of them with the longest name that there can be.
fn make_all(top: &Path, cluster: &Cluster) {
    let own = |path: &Path| cluster.user().own(path);
    let longest = vec![b'x'; 255];
    fs::create_dir(top).unwrap();
    for name in NAMES.iter().copied().chain([&longest[..]]) {
        let directory = top.join(OsStr::from_bytes(name));
        fs::create_dir(&directory).unwrap();
        for (inner, content) in [(name, name), (b"empty", b"")] {
            let file = directory.join(OsStr::from_bytes(inner));
            fs::write(&file, content).unwrap();
            own(&file);
        }
        fs::create_dir(directory.join("bare")).unwrap();
        own(&directory.join("bare"));
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)).unwrap();
        own(&directory);
    }
    own(top);
}

/// Everything below a directory: path to mode and content.
fn contents(top: &Path) -> BTreeMap<PathBuf, (u32, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![top.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let content = metadata.is_file().then(|| fs::read(&path).unwrap());
            if metadata.is_dir() {
                pending.push(path.clone());
            }
            found.insert(
                path.strip_prefix(top).unwrap().to_owned(),
                (metadata.mode() & 0o7777, content),
            );
        }
    }
    found
}

/// Aim: whatever else lies in a data directory comes back under its very name, byte by byte, and nothing of it is taken
/// for what it only looks like.
#[test]
fn files_of_any_name() {
    let shop = shop(17).start();
    let strange = shop.cluster.data_dir().join("strange \n'%2f");
    make_all(&strange, &shop.cluster);
    let id = text(&backup(&shop, &[])["id"]);
    let again = backup(&shop, &[]);
    assert_eq!(
        again["new_bytes"].as_u64().map(|bytes| bytes < 100_000),
        Some(true),
        "{again}"
    );
    let shown = shop.pgkeep(["show", &id]).ok();
    assert!(
        !shown.stdout.contains('\u{1}'),
        "control characters are not printed: {shown}"
    );
    let copy = super::truth::restored(&shop, "copy", &id, &[]);
    let restored = copy.data_dir().join(strange.file_name().unwrap());
    assert_eq!(contents(&restored), contents(&strange));
    Truth::of(&shop.cluster).prove(copy);
}

/// Aim: a data directory, tablespaces, a target and a repository with strange paths work like any others.
#[test]
fn places_of_any_name() {
    let mut shop = shop(18).start();
    let scratch = shop.cluster.scratch().path().to_owned();
    let mut places = Vec::new();
    for (number, name) in [&b"ts = a=b"[..], b"new\nline \\ %n", b"\xfe\xff"].iter().enumerate() {
        let plain = shop.cluster.create_tablespace(&format!("s{number}"));
        shop.cluster.sql(&format!(
            "CREATE TABLE t{number} TABLESPACE s{number} AS SELECT generate_series(1, 100) i"
        ));
        places.push((plain, scratch.join(OsStr::from_bytes(name))));
    }
    shop.cluster
        .sql("CREATE DATABASE \"new\nline 'quote' %s \\ \u{fc} -rf\"");
    shop.cluster.stop(StopMode::Fast);
    let links = shop.cluster.data_dir().join("pg_tblspc");
    for entry in fs::read_dir(&links).unwrap() {
        let link = entry.unwrap().path();
        let target = fs::read_link(&link).unwrap();
        let (from, to) = places.iter().find(|(plain, _)| *plain == target).unwrap();
        fs::rename(from, to).unwrap();
        fs::remove_file(&link).unwrap();
        symlink(to, &link).unwrap();
    }
    shop.cluster.start();
    let id = text(&backup(&shop, &[])["id"]);
    let target = shop.target("-into 'x' = %d");
    let mut run = shop
        .run([
            "restore",
            "--backup",
            &id,
            "--immediate",
            "--action",
            "promote",
            "--into",
        ])
        .arg(&target);
    for (number, (_, place)) in places.iter().enumerate() {
        let moved = shop.target(&format!("moved{number}"));
        let place = place
            .as_os_str()
            .as_bytes()
            .split(|byte| *byte == b'=')
            .collect::<Vec<_>>()
            .join(&b"\\="[..]);
        let mapping = [&place, &b"="[..], moved.as_os_str().as_bytes()].concat();
        run = run.arg("--tablespace").arg(std::ffi::OsString::from_vec(mapping));
    }
    run.run().ok();
    Truth::of(&shop.cluster).prove(Cluster::adopt_dir(18, target));
}

/// Aim: a cluster without a table, and one whose databases are all gone but the templates, are clusters like any other.
#[test]
fn a_cluster_without_anything() {
    let shop = shop(16).start();
    shop.cluster.sql_in("template1", "DROP DATABASE postgres");
    shop.reconfigure("dbname=postgres", "dbname=template1");
    let id = text(&backup(&shop, &[])["id"]);
    let mut copy = super::truth::restored(&shop, "copy", &id, &[]);
    copy.start();
    copy.stop(StopMode::Fast);
    copy.check_pages();
}
