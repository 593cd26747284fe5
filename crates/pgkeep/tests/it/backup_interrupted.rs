//! Backups that are cut short, and two at once.
//!
//! Invariant under test: whatever ends a backup early, the server leaves backup mode, nothing looks restorable that
//! was not before, and a rerun reuses what was stored. All tests share one cluster that fills several packs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Mutex, MutexGuard, OnceLock};

use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Output, Running, Signal, StopMode, wait};
use serde_json::Value;

use crate::backup::{backup, fill, listed, lose_state, number, out_of_backup_mode};
use crate::shop;

/// Tables of 6 MiB each: more than two packs' worth.
const TABLES: u32 = 12;
const PACK_BYTES: u64 = 32 << 20;

/// The shared installation, to one test at a time, without anything to reuse.
fn large_shop() -> MutexGuard<'static, Shop> {
    static SHARED: OnceLock<Mutex<Shop>> = OnceLock::new();
    let make = || {
        // Autovacuum would change the tables between two backups, which then share nothing.
        let large = shop(17).cluster(|cluster| cluster.segment_mib(16).conf("autovacuum = off"));
        let shop = large.start();
        (0..TABLES).for_each(|table| fill(&shop.cluster, &format!("t{table}"), 6));
        Mutex::new(shop)
    };
    let shared = SHARED.get_or_init(make);
    let shop = shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    lose_state(&shop);
    shop
}

/// A backup that has just stored its first pack, and noted so, and would take a second more.
pub fn begin(shop: &Shop) -> Running {
    let packs = || {
        objects(&shop.repository_dir("main"))
            .iter()
            .filter(|name| name.starts_with("packs/"))
            .count()
    };
    let before = packs();
    let mut running = shop.run(["backup", "--rate", "50 MiB"]).spawn();
    wait::until("the first pack", wait::LIMIT, || {
        assert!(running.is_running(), "{}", running.stderr());
        (packs() > before && journal_bytes(shop) > 10_000).then_some(())
    });
    running
}

fn journal_bytes(shop: &Shop) -> u64 {
    let names = objects(&shop.state_dir());
    let journals = names
        .iter()
        .filter(|name| name.contains("/journal-") && !name.ends_with(".missed"));
    journals
        .map(|name| fs::metadata(shop.state_dir().join(name)).map_or(0, |meta| meta.len()))
        .sum()
}

/// The backup that began last, by the packs in the repository.
fn newest_id(shop: &Shop) -> String {
    let names = objects(&shop.repository_dir("main"));
    let ids = names
        .iter()
        .filter(|name| name.starts_with("packs/"))
        .filter_map(|name| name.split('/').nth(3));
    ids.max().unwrap().to_owned()
}

/// What must hold after any early end.
#[track_caller]
fn check_aftermath(shop: &Shop, output: &Output) {
    let id = newest_id(shop);
    out_of_backup_mode(&shop.cluster);
    let names = objects(&shop.repository_dir("main"));
    assert!(
        !names.iter().any(|name| name.ends_with(&format!("{id}/head"))),
        "{output}"
    );
    assert!(!listed(shop).contains(&id), "{output}");
    shop.pgkeep(["show", &id]).expect(5);

    let rerun = shop.pgkeep(["--json", "backup"]).ok();
    assert!(
        rerun.stderr.contains(&id),
        "the rerun does not say what it reuses: {rerun}"
    );
    let done = rerun.json();
    let (new, stored) = (number(&done["new_bytes"]), number(&done["stored_bytes"]));
    assert!(
        new + PACK_BYTES * 9 / 10 < stored,
        "{new} new bytes of {stored}: {rerun}"
    );
}

#[test]
fn an_interrupted_backup_ends_with_130() {
    let shop = large_shop();
    let mut running = begin(&shop);
    running.signal(Signal::INT);
    let output = running.wait().expect(130);
    check_aftermath(&shop, &output);
}

#[test]
fn a_terminated_backup_ends_with_143() {
    let shop = large_shop();
    let mut running = begin(&shop);
    running.signal(Signal::TERM);
    let output = running.wait().expect(143);
    check_aftermath(&shop, &output);
}

#[test]
fn a_killed_backup_leaves_nothing_restorable() {
    let shop = large_shop();
    let mut running = begin(&shop);
    running.signal(Signal::KILL);
    let output = running.wait();
    assert_eq!(output.signal, Some(9), "{output}");
    check_aftermath(&shop, &output);
}

/// Aim: no other signal that ends a process leaves more behind than these.
#[test]
fn no_signal_leaves_a_backup_behind() {
    let shop = large_shop();
    let before = listed(&shop).len();
    for signal in [
        Signal::QUIT,
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::ABORT,
    ]
    .into_iter()
    .filter(|signal| !is_ignored(*signal))
    {
        let mut running = begin_slowly(&shop);
        running.signal(signal);
        let output = running.wait();
        assert!(
            output.signal.is_some() || output.code > Some(128),
            "{signal:?}: {output}"
        );
        out_of_backup_mode(&shop.cluster);
    }
    assert_eq!(listed(&shop).len(), before);
    shop.pgkeep(["backup"]).ok();
}

/// Whether we, and so whatever we start, ignore a signal: in the background of a shell, SIGQUIT is.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    mask & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn a_backup_whose_connection_is_lost_ends_with_7() {
    let shop = large_shop();
    let running = begin(&shop);
    shop.cluster.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    );
    let output = running.wait().expect(7);
    check_aftermath(&shop, &output);
}

#[test]
fn a_backup_whose_server_dies_ends_with_7() {
    let mut shop = large_shop();
    let running = begin(&shop);
    shop.cluster.restart(StopMode::Immediate);
    let output = running.wait().expect(7);
    check_aftermath(&shop, &output);
}

#[test]
fn a_backup_whose_storage_is_lost_ends_with_7() {
    let shop = large_shop();
    let packs = shop.repository_dir("main").join("packs");
    let running = begin(&shop);
    let mode = fs::metadata(&packs).unwrap().permissions();
    fs::set_permissions(&packs, fs::Permissions::from_mode(0o000)).unwrap();
    let output = running.wait();
    fs::set_permissions(&packs, mode).unwrap();
    let output = output.expect(7);
    assert!(output.stderr.contains("main"), "{output}");
    check_aftermath(&shop, &output);
}

/// Aim: two backups of one cluster exclude each other, and the second says who runs, on this host (by the lock file)
/// and on another one (by the lock in the database).
#[test]
fn of_two_backups_at_once_the_second_is_told_who_runs() {
    let shop = large_shop();
    let mut first = begin(&shop);
    let id = newest_id(&shop);
    let second = shop.pgkeep(["backup"]).expect(6);
    assert!(second.stderr.contains(&id), "{second}");
    let elsewhere = shop.home().join("another-state");
    let third = shop.run(["backup"]).env("PGKEEP_STATE_DIR", &elsewhere).run().expect(6);
    assert!(third.stderr.contains("server process"), "{third}");
    assert!(first.is_running(), "the others disturbed it: {}", first.stderr());
    first.signal(Signal::TERM);
    let output = first.wait().expect(143);
    check_aftermath(&shop, &output);
    fs::remove_dir_all(elsewhere).unwrap();
}

/// Aim: a backup that is interrupted twice loses nothing that was stored the first time.
#[test]
fn a_second_interruption_keeps_what_the_first_left() {
    let shop = large_shop();
    let mut first = begin(&shop);
    first.signal(Signal::KILL);
    first.wait();
    let mut second = begin_reusing(&shop);
    second.signal(Signal::KILL);
    second.wait();
    let done = shop.pgkeep(["--json", "backup"]).ok().json();
    let (new, stored) = (number(&done["new_bytes"]), number(&done["stored_bytes"]));
    assert!(new + PACK_BYTES * 9 / 10 < stored, "{new} new bytes of {stored}");
}

/// Aim: an interrupted backup does not keep the next one from reusing what the last finished one stored.
#[test]
fn an_interruption_keeps_what_the_last_backup_stored() {
    let shop = large_shop();
    let full = backup(&shop, &[]);
    for _ in 0..2 {
        let mut running = begin_reusing(&shop);
        running.signal(Signal::KILL);
        running.wait();
    }
    let next = backup(&shop, &[]);
    let new = |done: &Value| number(&done["new_bytes"]);
    assert!(new(&next) < new(&full) / 50, "{} after {}", new(&next), new(&full));
}

/// A backup that copies, and would take much longer.
fn begin_slowly(shop: &Shop) -> Running {
    let mut running = shop.run(["backup", "--rate", "8 MiB"]).spawn();
    wait::until("the copy", wait::LIMIT, || {
        assert!(running.is_running(), "{}", running.stderr());
        running.stderr().contains("copy data files").then_some(())
    });
    running
}

/// The same, and it has noted a little of what it found stored already.
fn begin_reusing(shop: &Shop) -> Running {
    let before = journal_bytes(shop);
    let mut running = begin_slowly(shop);
    wait::until("a few notes", wait::LIMIT, || {
        assert!(running.is_running(), "{}", running.stderr());
        (journal_bytes(shop) > before + 10_000).then_some(())
    });
    running
}

/// Aim: a local state that is garbage stops neither archiving nor `mark` nor `backup`: it is kept aside, and told.
#[test]
fn a_damaged_state_is_set_aside() {
    let shop = shop(18).start();
    shop.pgkeep(["backup"]).ok();
    let database = shop.state_dir().join("state.db");
    for command in [&["mark", "here"][..], &["backup"]] {
        fs::write(&database, "no database".repeat(1000)).unwrap();
        let run = shop.run(command).run().ok();
        assert!(run.stderr.contains("the local state is damaged: set aside as"), "{run}");
        shop.run(command.iter().map(|word| word.replace("here", "again")))
            .run()
            .ok();
    }
    shop.cluster.archive_all();
    let kept = fs::read_dir(shop.state_dir()).unwrap();
    let kept = kept.filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains(".damaged-")
    });
    assert_eq!(kept.count(), 2);
}
