//! Every exit code of the command contract, from the real program; with `--json`, the same code in the one document.
//!
//! 3 and 8 of `backup`: `backup`; 130 and 143: `backup_interrupted`; what refuses with 4 and 6: `backup_refusals`;
//! `wal fetch`'s table: `fetch_table`.

use std::fs;
use std::sync::OnceLock;

use pgkeep_testkit::corrupt::{Damage, Damaged, objects_like};
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{OsUser, Output, Run, StopMode};

use crate::backup::{backup, text};
use crate::shop;

/// An installation with a backup, for whoever changes nothing in it.
fn quiet_shop() -> &'static Shop {
    static SHARED: OnceLock<Shop> = OnceLock::new();
    SHARED.get_or_init(|| {
        let shop = shop(17).start();
        backup(&shop, &[]);
        shop.cluster.archive_all();
        shop
    })
}

/// Runs a command that must fail with `code`, for people and as JSON.
#[track_caller]
fn fails(shop: &Shop, code: i32, args: &[&str]) -> Output {
    let error = shop.run(["--json"]).args(args).run().expect(code).json()["error"].clone();
    assert_eq!(error["exit_code"], code, "{args:?}: {error}");
    assert!(!text(&error["message"]).is_empty());
    let output = shop.pgkeep(args).expect(code);
    assert!(
        output.stderr.starts_with("error: ") || output.stderr.contains("\nerror: "),
        "{output}"
    );
    assert_eq!(output.stdout, "", "{output}");
    output
}

#[test]
fn success_is_0() {
    let shop = quiet_shop();
    let manual = shop.home().dir("manual").display().to_string();
    let commands: [&[&str]; 18] = [
        &["help"],
        &["--version"],
        &["backup", "--help"],
        &["list"],
        &["list", "shop", "--kind", "physical"],
        &["window"],
        &["wal", "list", "--gaps"],
        &["config", "show"],
        &["config", "show", "--effective"],
        &["config", "check"],
        &["keys", "list"],
        &["keys", "check"],
        &["repository", "show"],
        &["repository", "create"],
        &["status"],
        &["doctor"],
        &["completions", "bash"],
        &["man", &manual],
    ];
    for command in commands {
        let output = shop.pgkeep(command).ok();
        assert!(command[0] == "man" || !output.stdout.is_empty(), "{output}");
    }
    for command in [
        &["list"][..],
        &["window"],
        &["wal", "list"],
        &["config", "show"],
        &["keys", "list"],
        &["status"],
    ] {
        let document = shop.run(["--json"]).args(command).run().ok().json();
        assert_eq!(document["schema_version"], 1, "{command:?}");
    }
}

#[test]
fn an_error_of_the_system_is_1() {
    fails(quiet_shop(), 1, &["keys", "new", "/dev/null/identity.txt"]);
}

/// Aim: usage and configuration are 2, naming what is meant; nothing is asked off a terminal.
#[test]
fn usage_and_configuration_are_2() {
    let shop = quiet_shop();
    fails(shop, 2, &["lst"]);
    fails(shop, 2, &["list", "--bogus"]);
    fails(shop, 2, &["backup", "--label", "no-value"]);
    let output = fails(shop, 2, &["restore"]);
    assert!(output.stderr.contains("--into"), "{output}");
    let output = fails(
        shop,
        2,
        &["restore", "--into", "/tmp/never-made", "--at", "2026-09-20 14:03"],
    );
    assert!(output.stderr.contains("zone"), "{output}");
    bare(shop, &["--config", "/nowhere/pgkeep.toml", "list"]).expect(2);

    let good = fs::read_to_string(shop.config_file()).unwrap();
    let typo = shop.home().file("typo.toml", good.replace("state_dir", "state_dri"));
    let output = bare(shop, &["--config", typo.to_str().unwrap(), "config", "check"]).expect(2);
    assert!(output.stderr.contains("state_dir"), "no did-you-mean: {output}");
    let output = shop
        .run(["list"])
        .env("PGKEEP_REPOSITORY__MAIN__ULR", "x")
        .run()
        .expect(2);
    assert!(
        output.stderr.contains("url") || output.stderr.contains("URL"),
        "no did-you-mean: {output}"
    );
}

#[test]
fn a_preflight_that_refuses_is_4() {
    let shop = quiet_shop();
    let occupied = shop.home().dir("occupied");
    shop.home().file("occupied/a-file", "mine");
    fails(shop, 4, &["restore", "--into", occupied.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(occupied.join("a-file")).unwrap(), "mine");
    assert_eq!(fs::read_dir(&occupied).unwrap().count(), 1);
    let running = shop.cluster.data_dir().to_str().unwrap();
    fails(shop, 4, &["restore", "--into", running]);
    let never = ["restore", "--into", "/tmp/never-made", "--lsn", "FF/0"];
    fails(shop, 4, &never);
}

#[test]
fn what_is_not_there_is_5() {
    let shop = quiet_shop();
    fails(shop, 5, &["show", "20200101T000000Z-0000000000"]);
    fails(
        shop,
        5,
        &[
            "restore",
            "--into",
            "/tmp/never-made",
            "--backup",
            "20200101T000000Z-0000000000",
        ],
    );
    fails(shop, 5, &["list", "bakery"]);
    fails(shop, 5, &["backup", "bakery"]);
    fails(shop, 5, &["backup", "--repository", "elsewhere"]);
}

#[test]
fn a_conflict_is_6() {
    let shop = quiet_shop();
    let identity = fs::read(shop.identity_file()).unwrap();
    fails(shop, 6, &["keys", "new", shop.identity_file().to_str().unwrap()]);
    assert_eq!(fs::read(shop.identity_file()).unwrap(), identity);
}

/// Aim: a database or a storage that can't be reached is 7, and a place that is gone is never an empty one.
#[test]
fn what_can_not_be_reached_is_7() {
    let shop = quiet_shop();
    let nowhere = |args: &[&str]| {
        shop.run(args)
            .env("PGKEEP_CLUSTER__SHOP__CONNECTION", "host=/nowhere user=postgres")
            .run()
    };
    nowhere(&["backup"]).expect(7);
    nowhere(&["mark", "point"]).expect(7);
    let unplugged = |args: &[&str]| {
        shop.run(args)
            .env("PGKEEP_REPOSITORY__MAIN__URL", "file:///nowhere/at/all")
            .run()
    };
    for command in [
        &["list"][..],
        &["window"],
        &["wal", "list"],
        &["keys", "check"],
        &["backup"],
    ] {
        let output = unplugged(command).expect(7);
        assert!(output.stderr.contains("/nowhere/at/all"), "{output}");
    }
}

/// Aim: bad content is 8, found before anything could be started.
#[test]
fn bad_content_is_8() {
    let shop = shop(17).start();
    let id = text(&backup(&shop, &[])["id"]);
    let repository = shop.repository_dir("main");
    let pack = &objects_like(&repository, "packs/")[0];
    let length = fs::metadata(repository.join(pack)).unwrap().len();
    let _damaged = Damaged::new(&repository, pack, Damage::FlipBit { at: length / 2, bit: 0 });
    let target = shop.target("restored");
    fails(
        &shop,
        8,
        &[
            "restore",
            "--backup",
            &id,
            "--immediate",
            "--into",
            target.to_str().unwrap(),
        ],
    );
    assert!(!target.join("global/pg_control").exists());
}

/// Aim: `status --check` and `doctor --check` are 9 where something fails or can't be known, 0 where there is advice;
/// `--nagios` has its own codes: 1 warning, 2 critical, 3 unknown.
#[test]
fn trouble_is_9_where_it_is_asked_for() {
    let mut shop = shop(17).start();
    let status = |shop: &Shop| {
        let code = |args: &[&str]| shop.pgkeep(args).code.unwrap();
        (
            code(&["status"]),
            code(&["status", "--check"]),
            code(&["status", "--nagios"]),
            code(&["doctor", "--check"]),
        )
    };
    assert_eq!(status(&shop), (0, 9, 2, 9), "there is no backup");
    backup(&shop, &[]);
    shop.cluster.archive_all();
    assert_eq!(status(&shop), (0, 0, 1, 0), "never proven is advice");
    let away = shop.home().join("away");
    fs::rename(shop.repository_dir("main"), &away).unwrap();
    assert_eq!(status(&shop), (0, 9, 3, 9), "nobody knows");
    fs::rename(&away, shop.repository_dir("main")).unwrap();
    shop.cluster.stop(StopMode::Fast);
    assert_eq!(shop.pgkeep(["doctor", "--check"]).code, Some(9));
}

/// Aim: PostgreSQL's archiver never sees 3 nor 126 and above, recovery only 0, 1 and 255, whatever goes wrong.
#[test]
fn postgresql_sees_only_codes_that_it_understands() {
    let shop = quiet_shop();
    let push = |args: &[&str]| shop.run(["wal", "push"]).args(args).run().code.unwrap();
    let wrong: [&[&str]; 4] = [
        &[],
        &["--bogus"],
        &["/nowhere/000000010000000000000001"],
        &["not-a-segment"],
    ];
    for args in wrong {
        let code = push(args);
        assert!((1..=125).contains(&code) && code != 3, "{args:?}: {code}");
    }
    let fetch = |args: &[&str]| shop.run(["wal", "fetch"]).args(args).run().code.unwrap();
    let wrong: [&[&str]; 4] = [
        &[],
        &["--bogus"],
        &["000000010000000000000001"],
        &["not-a-segment", "/tmp/never-made"],
    ];
    for args in wrong {
        assert_eq!(fetch(args), 255, "{args:?}");
    }
    // Without any configuration, too.
    bare(shop, &["wal", "fetch", "000000010000000000000001", "/tmp/never-made"]).expect(255);
    bare(shop, &["wal", "push", "pg_wal/000000010000000000000001"]).expect(2);
}

/// Runs the program without naming a configuration.
fn bare(shop: &Shop, args: &[&str]) -> Output {
    let words = shop.command_line();
    let program = words.split(' ').next().unwrap();
    Run::new(program)
        .args(args)
        .env("HOME", shop.home().path())
        .as_user(OsUser::unprivileged())
        .run()
}
