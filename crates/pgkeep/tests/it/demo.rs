//! `pgkeep demo`: proves itself, also as root, and leaves nothing behind.

use std::fs;
use std::time::Duration;

use pgkeep_testkit::fixture::reachable;
use pgkeep_testkit::postgres::bin_dir;
use pgkeep_testkit::{OsUser, Run, Scratch};

/// The demo on this machine as `user`, with everything temporary below `home`.
fn demo(user: OsUser, home: &Scratch) -> Run {
    let bin = bin_dir(17);
    Run::new(reachable(env!("CARGO_BIN_EXE_pgkeep")))
        .as_user(user)
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .env("LD_LIBRARY_PATH", bin.with_file_name("lib"))
        .env("PGKEEP_POSTGRES_BIN", bin)
        .limit(Duration::from_secs(240))
        .args(["demo", "--json"])
}

/// Aim: every step proves what it is for, the two refusals among them, and nothing is left.
#[test]
fn the_demo_proves_itself_and_leaves_nothing_behind() {
    proves_itself(OsUser::unprivileged());
}

/// Aim: the same for whoever runs the tests; if that is root, PostgreSQL runs as somebody else.
#[test]
fn the_demo_proves_itself_to_root() {
    proves_itself(OsUser::current());
}

#[track_caller]
fn proves_itself(user: OsUser) {
    let home = Scratch::new();
    let output = demo(user, &home).run().ok();
    let report = output.json();
    assert_eq!(report["ok"], true, "{output}");
    let steps = report["steps"].as_array().unwrap();
    for name in [
        "backup",
        "incremental-backup",
        "drop-table",
        "restore-point-in-time",
        "proof",
        "flipped-byte",
        "missing-segment",
    ] {
        let step = steps.iter().find(|step| step["name"] == name);
        let step = step.unwrap_or_else(|| panic!("no step {name}: {output}"));
        assert_eq!(step["ok"], true, "{output}");
        assert!(step["seconds"].is_number() && step["command"].is_string(), "{output}");
    }
    let left: Vec<_> = fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
