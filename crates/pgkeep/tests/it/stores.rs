//! Several places of one repository, and places that fail.
//!
//! Invariants under test: a required place that lacks anything fails the command, an optional one impairs it (3); the
//! source is read once; a place has a head only if it has all that the head names, so each place restores alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::s3::Identity;
use pgkeep_testkit::{Run, S3Server, Signal, wait};

use crate::backup::{backup, digest, fill, number, out_of_backup_mode, text};
use crate::backup_interrupted::begin;
use crate::shop;

/// A place whose directory can't be entered until this is dropped.
struct Down {
    dir: PathBuf,
    mode: fs::Permissions,
}

impl Down {
    fn new(dir: &Path) -> Down {
        let mode = fs::metadata(dir).unwrap().permissions();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o000)).unwrap();
        Down {
            dir: dir.to_owned(),
            mode,
        }
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        fs::set_permissions(&self.dir, self.mode.clone()).unwrap();
    }
}

/// Names of the heads in a place.
fn heads(shop: &Shop, place: &str) -> Vec<String> {
    let names = objects(&shop.repository_dir(place));
    names.into_iter().filter(|name| name.ends_with("/head")).collect()
}

/// Restores from one place alone, as it was at the end of the newest backup there.
#[track_caller]
fn check_restore_from(shop: &Shop, place: &str, name: &str) {
    let options = [
        "--repository",
        place,
        "--backup",
        "latest",
        "--immediate",
        "--action",
        "promote",
    ];
    let mut restored = shop.restore(name, options);
    restored.start();
    restored.wait_recovered();
    assert_eq!(digest(&restored, "t"), digest(&shop.cluster, "t"), "from {place}");
}

/// Aim: with two places the source is read once, both get the same objects, and each restores without the other.
#[test]
fn two_places_are_written_in_one_reading() {
    let shop = shop(17).directory("main").directory("offsite").start();
    fill(&shop.cluster, "t", 24);
    let mut running = shop.run(["--json", "backup", "--rate", "60 MiB"]).spawn();
    let mut read = 0;
    while running.is_running() {
        // Once it has ended there is nothing to see: what was seen last counts.
        read = running.proc_number("io", "rchar:").unwrap_or(read);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let done = running.wait().ok().json();
    let source = number(&done["source_bytes"]);
    assert!(
        (source * 9 / 10..source * 13 / 10).contains(&read),
        "{read} bytes read of {source}"
    );

    let names = |place: &str| {
        objects(&shop.repository_dir(place))
            .into_iter()
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(names("main"), names("offsite"));
    for (place, other) in [("main", "offsite"), ("offsite", "main")] {
        let _down = Down::new(&shop.repository_dir(other));
        check_restore_from(&shop, place, &format!("from-{place}"));
    }
}

/// Aim: an optional place that is missed impairs a backup (3), never archiving (0), and gets no head that names what
/// it lacks, also when it is back; a full backup makes it whole.
#[test]
fn an_optional_place_that_is_missed_gets_no_head_that_it_can_not_keep() {
    let shop = shop(17).directory("main").directory("offsite").start();
    shop.cluster
        .sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    let offsite = shop.repository_dir("offsite");
    let down = Down::new(&offsite);
    let segment = shop.cluster.archive_all();
    let path = shop.cluster.data_dir().join("pg_wal").join(&segment);
    if path.exists() {
        shop.run(["wal", "push"]).arg(path).run().ok();
    }
    let output = shop.pgkeep(["--json", "backup"]).expect(3);
    let done = output.json();
    assert_eq!(text(&done["missed"][0]["repository"]), "offsite");
    assert_eq!(done["repositories"], serde_json::json!(["main"]));
    drop(down);
    assert_eq!((heads(&shop, "main").len(), heads(&shop, "offsite").len()), (1, 0));

    // The next backup refers to packs that the optional place never got.
    let next = shop.pgkeep(["backup"]).expect(3);
    assert!(next.stderr.contains("pgkeep backup --full"), "{next}");
    assert_eq!((heads(&shop, "main").len(), heads(&shop, "offsite").len()), (2, 0));
    backup(&shop, &["--full"]);
    backup(&shop, &[]);
    assert_eq!((heads(&shop, "main").len(), heads(&shop, "offsite").len()), (4, 2));
    let _down = Down::new(&shop.repository_dir("main"));
    check_restore_from(&shop, "offsite", "from-offsite");
}

/// Aim: what an optional place missed while it was down is a gap there, and a plain copy of the objects that it lacks makes
/// it whole: it restores alone, to the end of the archive.
#[test]
fn a_place_that_was_down_is_filled_by_a_plain_copy() {
    let shop = shop(17).directory("main").directory("offsite").start();
    shop.cluster.sql("CREATE TABLE t (i int, m text)");
    let insert = |first: u32| {
        let last = first + 999;
        let rows = format!("INSERT INTO t SELECT i, md5(i::text) FROM generate_series({first}, {last}) i");
        shop.cluster.sql(&rows);
        shop.cluster.archive_all()
    };
    backup(&shop, &[]);
    insert(1000);
    let offsite = shop.repository_dir("offsite");
    let down = Down::new(&offsite);
    let missed = insert(2000);
    shop.pgkeep(["backup"]).expect(3);
    drop(down);
    insert(3000);
    let gaps_of_offsite = || {
        let windows = shop.pgkeep(["--json", "window"]).ok().json();
        let clusters = windows["clusters"].as_array().unwrap().clone();
        let mut of_offsite = clusters.iter().filter(|window| window["repository"] == "offsite");
        of_offsite.next().unwrap()["gaps"].clone()
    };
    assert!(gaps_of_offsite().to_string().contains(&missed), "{}", gaps_of_offsite());

    let main = shop.repository_dir("main").join(".");
    Run::new("/bin/cp")
        .args(["-a", "--no-clobber"])
        .arg(main)
        .arg(&offsite)
        .run()
        .ok();
    assert_eq!(gaps_of_offsite(), serde_json::json!([]));
    let _down = Down::new(&shop.repository_dir("main"));
    let mut restored = shop.restore("filled", ["--repository", "offsite"]);
    restored.start();
    restored.wait_recovered();
    assert_eq!(digest(&restored, "t"), digest(&shop.cluster, "t"));
}

/// Aim: without a required place nothing is restored by guess (7), and the hint names the place that is whole, by an
/// option that works; a place that is gone too, or holds nothing, is not named.
#[test]
fn without_a_required_place_the_hint_names_one_that_is_whole() {
    let shop = shop(17)
        .directory("main")
        .directory("offsite")
        .directory("empty")
        .start();
    for (name, required) in [("main", true), ("offsite", true), ("empty", false)] {
        let table = format!("[repository.{name}]\n");
        shop.reconfigure(&table, &format!("{table}required = {required}\n"));
    }
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let down = Down::new(&shop.repository_dir("empty"));
    shop.pgkeep(["backup"]).expect(3);
    drop(down);
    fs::rename(shop.repository_dir("main"), shop.home().join("lost")).unwrap();

    let target = shop.target("restored");
    let refused = |more: &[&str]| shop.run(["restore", "--into"]).arg(&target).args(more).run().expect(7);
    let option = "`--repository offsite` (1 backup)";
    for said in [
        refused(&[]),
        refused(&["--backup", "latest"]),
        shop.pgkeep(["list"]).expect(7),
    ] {
        assert!(said.stderr.contains(option), "{said}");
        assert!(
            said.stderr.contains("Mount the disk"),
            "what to do about the place itself: {said}"
        );
        assert!(!said.stderr.contains("--repository empty"), "{said}");
    }
    assert!(!target.exists(), "nothing is touched");
    check_restore_from(&shop, "offsite", "restored");

    let _down = Down::new(&shop.repository_dir("offsite"));
    let said = shop.pgkeep(["list"]).expect(7);
    assert!(!said.stderr.contains("--repository"), "{said}");
}

/// Aim: while a required place is down nothing is called archived or backed up (7), and no place gets a head.
#[test]
fn a_required_place_that_is_down_fails_the_command() {
    let shop = shop(17).directory("main").directory("offsite").start();
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    shop.cluster.archive_all();
    let down = Down::new(&shop.repository_dir("main"));
    let segment = shop.cluster.switch_wal();
    wait::until("the archiver to fail", wait::LIMIT, || {
        (shop.cluster.sql("SELECT failed_count > 0 FROM pg_stat_archiver") == "t").then_some(())
    });
    let path = shop.cluster.data_dir().join("pg_wal").join(&segment);
    shop.run(["wal", "push"]).arg(&path).run().expect(7);
    shop.pgkeep(["backup"]).expect(4);
    out_of_backup_mode(&shop.cluster);
    drop(down);
    assert_eq!((heads(&shop, "main").len(), heads(&shop, "offsite").len()), (0, 0));
    shop.cluster.wait_archived(&segment);
    backup(&shop, &[]);
}

/// Aim: what an interrupted backup stored only in some places is not taken to be in all of them by the next one.
#[test]
fn a_place_that_missed_an_interrupted_backup_gets_no_head_that_names_it() {
    let shop = shop(17).directory("main").directory("offsite").start();
    (0..6).for_each(|table| fill(&shop.cluster, &format!("filling{table}"), 6));
    shop.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let down = Down::new(&shop.repository_dir("offsite"));
    let mut interrupted = begin(&shop);
    interrupted.signal(Signal::KILL);
    interrupted.wait();
    drop(down);
    backup(&shop, &[]);
    assert_eq!((heads(&shop, "main").len(), heads(&shop, "offsite").len()), (1, 1));
    let _down = Down::new(&shop.repository_dir("main"));
    check_restore_from(&shop, "offsite", "from-offsite");
}

/// Aim: an S3 server that dies or stalls in the middle of a backup ends it (7) within the patience that is
/// configured, and nothing that was archived meanwhile is lost.
#[test]
fn an_s3_server_that_dies_or_stalls_ends_the_backup() {
    let mut server = S3Server::start(&Identity::usual());
    let bucket = server.bucket("outage");
    let shop = shop(17)
        .cluster(|cluster| cluster.segment_mib(16))
        .s3("main", &server, &bucket, "wo/shop", "admin")
        .start();
    fill(&shop.cluster, "t", 60);
    shop.cluster.archive_all();
    let impatient = [
        ("RETRIES", "0"),
        ("PROGRESS_TIMEOUT_S", "1"),
        ("CONNECT_TIMEOUT_S", "1"),
    ];
    let begin = || {
        let packs = || bucket.list("wo/shop/packs/").len();
        let before = packs();
        let run = shop.run(["backup", "--rate", "40 MiB"]);
        let run = impatient.iter().fold(run, |run, (key, value)| {
            run.env(format!("PGKEEP_REPOSITORY__MAIN__{key}"), *value)
        });
        let running = run.spawn();
        wait::until("the first pack", wait::LIMIT, || (packs() > before).then_some(()));
        running
    };
    let running = begin();
    server.stall();
    let output = running.wait();
    let pushed = push_and_terminate(&shop, &server);
    server.resume();
    output.expect(7);
    assert!(
        (1..=125).contains(&pushed),
        "a push that was terminated ended with {pushed}"
    );
    out_of_backup_mode(&shop.cluster);

    let running = begin();
    server.kill9();
    running.wait().expect(7);
    out_of_backup_mode(&shop.cluster);
    let segment = shop.cluster.switch_wal();
    wait::until("the archiver to fail", wait::LIMIT, || {
        shop.cluster.log().contains("archive command failed").then_some(())
    });
    server.start_again();
    shop.cluster.wait_archived(&segment);
    assert!(!bucket.list("wo/shop/").iter().any(|name| name.ends_with("/head")));
    backup(&shop, &[]);
}

/// The exit code of a push that waits for the storage when SIGTERM comes, as when PostgreSQL stops its archiver.
fn push_and_terminate(shop: &Shop, server: &S3Server) -> i32 {
    let files = shop.cluster.wal_files();
    let segment = files.iter().find(|name| name.len() == 24).unwrap();
    let path = shop.cluster.data_dir().join("pg_wal").join(segment);
    let mut push = shop.run(["wal", "push"]).arg(path).spawn();
    wait::until("it to ask", wait::LIMIT, || {
        assert!(push.is_running(), "it does not wait: {}", push.stderr());
        push.is_connected_to(server.port()).then_some(())
    });
    push.signal(Signal::TERM);
    push.wait().code.expect("it ends by itself")
}

/// Aim: an optional place that is lost in the middle of a backup impairs it (3), and gets no head.
#[test]
fn an_optional_place_that_is_lost_on_the_way_gets_no_head() {
    let shop = shop(17).directory("main").directory("offsite").start();
    fill(&shop.cluster, "t", 24);
    let offsite = shop.repository_dir("offsite");
    let running = shop.run(["--json", "backup", "--rate", "20 MiB"]).spawn();
    // Its lease is there, its only pack is not full yet.
    let leased = || objects(&offsite).iter().any(|name| name.starts_with("leases/"));
    wait::until("the lease", wait::LIMIT, || leased().then_some(()));
    let down = Down::new(&offsite);
    let output = running.wait();
    drop(down);
    assert_eq!(text(&output.expect(3).json()["missed"][0]["repository"]), "offsite");
    assert_eq!((heads(&shop, "main").len(), heads(&shop, "offsite").len()), (1, 0));
    check_restore_from(&shop, "main", "from-main");
}

/// Aim: `store check` tells what a storage is worth: 0 for both kinds, 7 where it can't be reached or may not be used.
#[test]
fn store_check_passes_on_what_the_tests_use() {
    let shop = shop(17).start();
    let checked = shop.pgkeep(["--json", "store", "check", "main"]).ok().json();
    assert_eq!(checked["ok"], true, "{checked}");
    let server = S3Server::shared();
    let bucket = server.bucket("check");
    let check = |identity: &str, endpoint: &str| {
        let url = format!("s3://{}/wo", bucket.name());
        let run = shop.run(["--json", "store", "check", &url, "--allow-http", "--endpoint", endpoint]);
        let environment = server.environment(identity).into_iter();
        environment
            .fold(run, |run, (name, value)| run.env(name, value))
            .env("AWS_MAX_ATTEMPTS", "1")
            .run()
    };
    assert_eq!(check("admin", &server.endpoint()).ok().json()["ok"], true);
    check("writer", &server.endpoint()).expect(7);
}
