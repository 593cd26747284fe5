//! The same from outside: kills and errors at the system calls that the program makes, whatever it thinks they are for.

use std::fs;
use std::path::{Path, PathBuf};

use pgkeep_testkit::corrupt::objects_like;
use pgkeep_testkit::faults::points::Fault;
use pgkeep_testkit::faults::strace::{self, Injection, Traced};
use pgkeep_testkit::{Cluster, Output, Scratch, seed};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::pusher::{Kind, Pusher, source};
use crate::backup::{listed, out_of_backup_mode};

/// Calls that change something, or that tell somebody something.
const CALLS: [&str; 15] = [
    "write",
    "pwrite64",
    "writev",
    "ftruncate",
    "fsync",
    "fdatasync",
    "syncfs",
    "linkat",
    "link",
    "renameat2",
    "rename",
    "unlinkat",
    "unlink",
    "mkdirat",
    "sendto",
];
/// How many of a command are tried in the gate.
const SAMPLE: usize = 12;

/// Every place at which a push can be killed, as the name of a call and its number.
fn kills_of(traced: &Traced) -> Vec<(&'static str, usize)> {
    let numbers = |call: &'static str| (1..=traced.most_by_one_thread(call)).map(move |number| (call, number));
    CALLS.into_iter().chain(["openat"]).flat_map(numbers).collect()
}

fn traced() -> String {
    CALLS.join(",") + ",openat"
}

/// Aim: a push that is killed at any system call leaves nothing half-written; run again it succeeds.
/// Method: all of them with --all, some by chance otherwise.
#[test]
fn a_push_killed_at_any_system_call_is_completed_by_a_rerun() {
    let segment = &source().segments[0];
    for kind in [Kind::Directories, Kind::Bucket] {
        let whole = strace::run(Pusher::new(kind).push(segment), &traced(), &[], &[]);
        assert_eq!(whole.output.code, Some(0), "{}", whole.output);
        let mut kills = kills_of(&whole);
        let count = kills.len();
        if !seed::all() {
            let mut rng = StdRng::seed_from_u64(seed::seed("system calls of a push"));
            kills = kills.choose_multiple(&mut rng, SAMPLE).copied().collect();
        }
        let mut hit = 0;
        for (call, number) in &kills {
            let (pusher, context) = (
                Pusher::new(kind),
                format!("killed at {call} number {number} of a push to {kind:?}"),
            );
            let killed = strace::run(pusher.push(segment), &traced(), &[Injection::kill(call, *number)], &[]);
            // Threads take turns: a call may come to be made by another one.
            match killed.output.signal {
                Some(9) => hit += 1,
                _ => assert_eq!(killed.output.code, Some(0), "{context}: {}", killed.output),
            }
            let before = pusher.bodies();
            pusher.places_with(segment, &before, &context);
            let again = pusher.push(segment).run();
            assert_eq!(again.code, Some(0), "{context}, then run again: {again}");
            pusher.check_acknowledged(segment, &before, &context);
        }
        eprintln!(
            "{hit} pushes to {kind:?} killed at {} of {count} system calls",
            kills.len()
        );
        assert!(hit * 10 >= kills.len() * 9, "only {hit} of {} were killed", kills.len());
    }
}

/// What must hold after a push with an error at a system call.
fn check_honest(pusher: &Pusher, segment: &str, output: &Output, context: &str) {
    let code = output.code.unwrap_or_else(|| panic!("{context}: {output}"));
    assert!((0..126).contains(&code) && code != 3, "{context}: {output}");
    let before = pusher.bodies();
    let there = pusher.places_with(segment, &before, context);
    if code == 0 {
        assert_eq!(there, pusher.places(), "{context}: it says that it succeeded: {output}");
    }
    let again = pusher.push(segment).run();
    assert_eq!(again.code, Some(0), "{context}, then run again: {again}");
    pusher.check_acknowledged(segment, &before, context);
}

/// Aim: no error of a system call makes a push say that it succeeded where it did not.
/// Method: each call that writes, or makes a name, fails once at each of its occurrences (all with --all, two by chance
/// otherwise), and closing a file fails always.
#[test]
fn a_push_with_an_error_at_a_system_call_is_honest() {
    let segment = &source().segments[0];
    let whole = strace::run(Pusher::new(Kind::Directories).push(segment), &traced(), &[], &[]);
    let mut rng = StdRng::seed_from_u64(seed::seed("errors of system calls"));
    let mut injections = vec![Injection::error("close", "EIO", "1+")];
    for (call, errors) in [
        ("write", &["ENOSPC", "EIO", "EINTR", "EAGAIN"][..]),
        ("pwrite64", &["EIO", "EDQUOT"]),
        ("fdatasync", &["EIO"]),
        ("linkat", &["EIO", "EDQUOT"]),
        ("link", &["EIO"]),
        ("mkdirat", &["ENOSPC"]),
        ("unlink", &["EIO"]),
        ("unlinkat", &["EIO"]),
    ] {
        let numbers: Vec<usize> = (1..=whole.most_by_one_thread(call)).collect();
        let chosen = if seed::all() { numbers.len() } else { 2 };
        for number in numbers.choose_multiple(&mut rng, chosen) {
            injections.extend(
                errors
                    .iter()
                    .map(|error| Injection::error(call, error, &number.to_string())),
            );
        }
    }
    for injection in &injections {
        let (pusher, context) = (Pusher::new(Kind::Directories), format!("a push with {injection}"));
        let failed = strace::run(pusher.push(segment), &traced(), std::slice::from_ref(injection), &[]);
        check_honest(&pusher, segment, &failed.output, &context);
    }
    eprintln!("{} pushes with an error at a system call", injections.len());
}

/// Aim: fsync that fails once may never be asked again about the same file and believed: the kernel forgets what it
/// could not write. A push whose place can't sync fails, and a body that could not be synced has no name.
#[test]
fn a_sync_that_failed_is_never_repeated_and_believed() {
    let segment = &source().segments[0];
    let calls = "fsync,linkat,renameat2";
    let whole = strace::run(Pusher::new(Kind::Directories).push(segment), calls, &[], &[]);
    let count = whole.most_by_one_thread("fsync");
    assert!(count > 5, "{count} syncs of one thread: {:?}", whole.calls);
    for number in 1..=count {
        let (pusher, context) = (
            Pusher::new(Kind::Directories),
            format!("a push with fsync number {number} failing"),
        );
        let injection = Injection::error("fsync", "EIO", &number.to_string());
        let failed = strace::run(pusher.push(segment), calls, &[injection], &[]);
        let of_places = |line: &&String| line.contains("(INJECTED)") && pusher.is_in_a_place(line);
        let hits: Vec<&String> = failed.calls.iter().filter(of_places).collect();
        for hit in &hits {
            assert_ne!(failed.output.code, Some(0), "{context}: {hit}: {}", failed.output);
            let same = |line: &&String| file_of(line) == file_of(hit) && line.contains(" = 0");
            let after = failed.calls.iter().skip_while(|line| line != hit);
            let repeated: Vec<&String> = after.filter(same).collect();
            assert!(repeated.is_empty(), "{context}: {hit}, and then {repeated:?}");
        }
        check_honest(&pusher, segment, &failed.output, &context);
    }
}

/// The file that a traced fsync is about, as `<path>` or, for one without a name, `<path (deleted)>`.
fn file_of(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("fsync(")?;
    rest.split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map(|(path, _)| path)
}

/// Aim: a segment that can't be read from the disk is not archived in part.
#[test]
fn a_segment_that_cannot_be_read_is_not_archived() {
    let (pusher, segment) = (Pusher::new(Kind::Directories), &source().segments[0]);
    let injection = Injection::error("read", "EIO", "1+");
    let path = source().path(segment);
    let failed = strace::run(pusher.push(segment), "read", &[injection], &[&path]);
    assert!(failed.was_hit(), "{:?}", failed.calls);
    assert!(matches!(failed.output.code, Some(1 | 8)), "{}", failed.output);
    assert!(failed.output.stderr.contains(segment), "{}", failed.output);
    check_honest(&pusher, segment, &failed.output, "a push that can't read");
}

/// Aim: an object that can't be read from the disk is taken from another place, and where there is none, recovery stops.
#[test]
fn an_object_that_cannot_be_read_comes_from_elsewhere_or_stops_recovery() {
    let (pusher, segment) = (Pusher::new(Kind::Directories), &source().segments[3]);
    pusher.push(segment).run().ok();
    let object = objects_like(&pusher.directory("main"), &format!("/{segment}-")).remove(0);
    let object = pusher.directory("main").join(object);
    let destination = pusher.scratch().join("fetched");
    for (flags, code) in [(&["--repository", "main"][..], 255), (&[], 0)] {
        let run = pusher.run(["wal", "fetch"]).args(flags).arg(segment).arg(&destination);
        let injection = Injection::error("read", "EIO", "1+");
        let fetched = strace::run(run, "read", &[injection], &[&object]);
        assert!(fetched.was_hit(), "{:?}", fetched.calls);
        assert_eq!(fetched.output.code, Some(code), "{}", fetched.output);
        let delivered = fs::read(&destination).ok();
        assert!(
            delivered == (code == 0).then(|| source().content(segment)),
            "{}",
            fetched.output
        );
    }
}

/// Aim: a restore that can't read a pack takes it from another place, and where there is none, ends without anything
/// that could be started.
#[test]
fn a_pack_that_cannot_be_read_comes_from_elsewhere_or_ends_the_restore() {
    let shop = &source().shop;
    let repository = shop.repository_dir("main");
    let pack = repository.join(objects_like(&repository, "packs/").remove(0));
    for (place, code) in [(Some("main"), None), (None, Some(0))] {
        let scratch = Scratch::new();
        let target = scratch.join("data");
        let run = shop.run(["restore", "--latest", "--into"]).arg(&target);
        let run = run.args(place.map(|place| ["--repository", place]).into_iter().flatten());
        let injection = Injection::error("pread64", "EIO", "1+");
        let restored = strace::run(run, "pread64", &[injection], &[&pack]);
        assert!(restored.was_hit(), "{}", restored.output);
        match code {
            Some(code) => assert_eq!(restored.output.code, Some(code), "{}", restored.output),
            None => {
                assert!(matches!(restored.output.code, Some(1..=8)), "{}", restored.output);
                assert!(!target.join("global/pg_control").exists(), "{}", restored.output);
            }
        }
    }
}

/// Aim: a backup that can't read a file of the cluster fails, and names it.
#[test]
fn a_file_that_cannot_be_read_fails_the_backup() {
    let shop = crate::shop(17).start();
    shop.cluster
        .sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) i; CHECKPOINT");
    let relation = shop.cluster.sql("SELECT pg_relation_filepath('t')");
    let injection = Injection::error("pread64", "EIO", "1+");
    let path = shop.cluster.data_dir().join(&relation);
    let failed = strace::run(shop.run(["backup"]), "pread64", &[injection], &[&path]);
    assert!(failed.was_hit(), "{}", failed.output);
    assert_eq!(failed.output.code, Some(1), "{}", failed.output);
    assert!(failed.output.stderr.contains(&relation), "{}", failed.output);
    assert_eq!(listed(&shop), [""; 0]);
    out_of_backup_mode(&shop.cluster);
    shop.pgkeep(["backup"]).ok();
}

/// Aim: a backup and a restore that are killed at a system call leave what a rerun completes (K49).
#[test]
fn backups_and_restores_killed_at_a_system_call_are_completed_by_a_rerun() {
    let shop = crate::shop(17).start();
    shop.cluster
        .sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) i");
    shop.pgkeep(["backup"]).ok();
    let mut rng = StdRng::seed_from_u64(seed::seed("system calls of backup and restore"));
    let (calls, trials) = (traced(), if seed::all() { 100 } else { 3 });
    let (mut scratch, mut hit) = (Scratch::new(), 0);
    let whole = strace::run(shop.run(["backup"]), &calls, &[], &[]);
    let backups = kills_of(&whole);
    let restore = |scratch: &Scratch| shop.run(["restore", "--latest", "--into"]).arg(scratch.join("data"));
    let whole = strace::run(restore(&Scratch::new()), &calls, &[], &[]);
    let restores = kills_of(&whole);
    for _ in 0..trials {
        let (call, number) = random_of(&backups, &mut rng);
        let before = listed(&shop);
        let killed = strace::run(shop.run(["backup"]), &calls, &[Injection::kill(call, number)], &[]);
        hit += usize::from(killed.output.signal == Some(9));
        out_of_backup_mode(&shop.cluster);
        assert!(
            listed(&shop).starts_with(&before),
            "killed at {call} number {number}: {}",
            killed.output
        );
        shop.pgkeep(["backup"]).ok();

        let (call, number) = random_of(&restores, &mut rng);
        let killed = strace::run(restore(&scratch), &calls, &[Injection::kill(call, number)], &[]);
        hit += usize::from(killed.output.signal == Some(9));
        let data = scratch.join("data");
        if killed.output.signal == Some(9) && data.exists() && !data.join("global/pg_control").exists() {
            let log = Cluster::adopt_dir(17, &data)
                .try_start()
                .expect_err("half a cluster must not start");
            assert!(!log.contains("ready to accept"), "{log}");
            restore(&scratch).run().ok();
        }
        scratch = Scratch::new();
    }
    eprintln!("{hit} of {} backups and restores were killed", 2 * trials);
    assert!(hit >= trials, "only {hit} of {} were killed", 2 * trials);
}

/// A call and one of its numbers, each call as likely as another.
fn random_of(kills: &[(&'static str, usize)], rng: &mut StdRng) -> (&'static str, usize) {
    let mut calls: Vec<&str> = kills.iter().map(|(call, _)| *call).collect();
    calls.dedup();
    let call = *calls.choose(rng).expect("it makes calls");
    let most = kills.iter().filter(|(of, _)| *of == call).count();
    (call, rng.random_range(1..=most))
}

/// Where a file system has no files without a name, a pusher that dies leaves one that has not its final name.
///
/// Aim: nobody takes it for anything, and the next push succeeds. Method: such a file system is played by an error of
/// the call that would make the file.
#[test]
fn what_a_dead_pusher_left_disturbs_nobody() {
    let segments = &source().segments;
    let pusher = Pusher::new(Kind::Directories);
    pusher.push(&segments[0]).run().ok();
    let directories = ["main", "second"].map(|place| directory_of(&pusher.directory(place), &segments[0]));
    let only = directories.each_ref().map(PathBuf::as_path);
    let denied = Injection::error("openat", "EOPNOTSUPP", "1");
    let without = |run| strace::run(run, "openat", std::slice::from_ref(&denied), &only);

    // The first of the two places to come there.
    let killed = without(Fault::Kill.at("store.file.link#1", pusher.push(&segments[1])));
    assert_eq!(killed.output.signal, Some(9), "{}", killed.output);
    let left = || objects_like(pusher.scratch().path(), "#unfinished-");
    let left_by_the_dead = left();

    for run in [
        without(pusher.push(&segments[1])).output,
        pusher.push(&segments[2]).run(),
    ] {
        run.ok();
    }
    let before = pusher.bodies();
    for segment in &segments[..3] {
        pusher.check_acknowledged(segment, &before, "beside what a dead pusher left");
    }
    assert_eq!(left(), left_by_the_dead, "who lived left something");
    let list = pusher.run(["wal", "list"]).run().ok();
    assert!(!list.stdout.contains("unfinished"), "{list}");
}

fn directory_of(place: &Path, segment: &str) -> PathBuf {
    let object = place.join(objects_like(place, &format!("/{segment}-")).remove(0));
    object.parent().expect("an object lies in a directory").to_owned()
}
