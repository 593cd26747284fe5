//! Hard limits on what a process may have: open files, memory, and readers of what it says (P7, M39).

use std::fs;
use std::path::Path;
use std::time::Duration;

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::postgres::bin_dir;
use pgkeep_testkit::{Cluster, OsUser, Output, Run};

use super::truth::{Truth, restored};
use crate::backup::{listed, number, text};
use crate::shop;

/// Open files, and memory of its own (data, heap, stacks of threads): 256 MiB.
const LIMITS: &str = "ulimit -n 256 && ulimit -d 262144";

/// Runs a command line of pgkeep behind others of the shell, `$0` being pgkeep with its configuration.
fn shell(shop: &Shop, script: &str, args: &[&str]) -> Output {
    let run = Run::new("/bin/bash").args(["-c", script]);
    let run = run.args(shop.command_line().split(' ')).args(args);
    let library = bin_dir(shop.cluster.major()).with_file_name("lib");
    let run = run.env("HOME", shop.home().path()).env("LD_LIBRARY_PATH", library);
    run.as_user(OsUser::unprivileged())
        .limit(Duration::from_secs(1800))
        .run()
}

/// Within [`LIMITS`].
#[track_caller]
fn limited(shop: &Shop, args: &[&str]) -> Output {
    let output = shell(shop, &format!("{LIMITS} && exec \"$0\" \"$@\""), args);
    eprintln!("{} in {:.1} s", args.join(" "), output.elapsed.as_secs_f32());
    output.ok()
}

/// Files of a few bytes: many in one directory, the rest one to a directory.
fn make_files(shop: &Shop, together: usize, apart: usize) {
    let top = shop.cluster.data_dir().join("many");
    let file = |path: &Path, number: usize| {
        fs::write(path, format!("file {number}").repeat(number % 7 * 20)).unwrap();
        shop.cluster.user().own(path);
    };
    let directory = |path: &Path| {
        fs::create_dir(path).unwrap();
        shop.cluster.user().own(path);
    };
    directory(&top);
    directory(&top.join("together"));
    (0..together).for_each(|number| file(&top.join(format!("together/{number:07}")), number));
    for number in 0..apart {
        let inner = top.join(format!("{number:07}"));
        directory(&inner);
        file(&inner.join("alone"), number);
    }
}

/// Aim: backups, comparisons and restores of very many small files stay within 256 open files and 256 MiB of memory,
/// which the system enforces.
/// Method: 18,000 files beside a cluster's own, 1,000,000 with `--all`.
#[test]
fn a_million_small_files_within_hard_limits() {
    let all = std::env::var_os("PGKEEP_TEST_ALL").is_some();
    let (together, apart) = if all { (980_000, 20_000) } else { (16_000, 2_000) };
    let shop = shop(17).start();
    shop.cluster
        .sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i");
    make_files(&shop, together, apart);
    let first = limited(&shop, &["--json", "backup"]).json();
    shop.cluster.sql("UPDATE t SET i = -i WHERE i % 100 = 0");
    fs::write(shop.cluster.data_dir().join("many/together/0000001"), "changed").unwrap();
    let second = limited(&shop, &["--json", "backup"]).json();
    assert!(
        number(&second["new_bytes"]) < number(&first["new_bytes"]) / 2,
        "{second}"
    );
    let (older, newer) = (text(&first["id"]), text(&second["id"]));
    let packs = pgkeep_testkit::corrupt::objects(&shop.repository_dir("main"));
    let packs = packs
        .iter()
        .filter(|name| name.starts_with("packs/") && name.contains(&older));
    assert!(packs.count() > 1, "a pack is closed before too much waits for it");
    limited(&shop, &["show", &newer, "--diff", &older]);
    let target = shop.target("copy");
    let target = target.to_str().unwrap();
    let restore = [
        "restore",
        "--backup",
        &newer,
        "--immediate",
        "--action",
        "promote",
        "--into",
        target,
    ];
    limited(&shop, &[&restore[..], &["--dry-run"]].concat());
    limited(&shop, &restore);
    let many = |data: &Path| {
        let entries = fs::read_dir(data.join("many/together")).unwrap();
        entries
            .map(|entry| fs::metadata(entry.unwrap().path()).unwrap().len())
            .sum::<u64>()
    };
    assert_eq!(many(Path::new(target)), many(shop.cluster.data_dir()));
    for number in [0, apart - 1] {
        let path = format!("many/{number:07}/alone");
        let read = |data: &Path| fs::read(data.join(&path)).unwrap();
        assert_eq!(read(Path::new(target)), read(shop.cluster.data_dir()));
    }
    Truth::of(&shop.cluster).prove(Cluster::adopt_dir(17, target));
}

/// Aim: a reader that goes away, of results or of messages, ends no work: a backup that was begun comes into being, and
/// a list that nobody reads to its end is no error.
#[test]
fn readers_that_go_away() {
    let shop = shop(18).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    for (args, closed) in [
        (&["-v", "backup"][..], "2>"),
        (&["--json", "backup"], ">"),
        (&["list"], ">"),
        (&["status"], ">"),
    ] {
        let before = listed(&shop).len();
        // A pipe whose reader has ended before a word can be written.
        let script = format!("exec 9> >(:); wait $!; \"$0\" \"$@\" {closed}&9");
        let output = shell(&shop, &script, args).ok();
        let made = usize::from(args.contains(&"backup"));
        assert_eq!(listed(&shop).len(), before + made, "{output}");
    }
    let id = listed(&shop).pop().unwrap();
    Truth::of(&shop.cluster).prove(restored(&shop, "copy", &id, &[]));
}
