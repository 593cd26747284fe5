//! Claims about the local state: damage to it makes it know less, never anything else.

use pgkeep_base::{BackupId, ClusterName, SystemId, TimelineId};
use pgkeep_repo::lineage::Lineage;

use super::*;

fn lineage() -> Lineage {
    Lineage {
        cluster: "shop".parse().unwrap(),
        system_identifier: SystemId(7_428_165_372_412_345_678),
    }
}

fn time(second: u32) -> Timestamp {
    format!("2026-11-20T10:15:{second:02}Z").parse().unwrap()
}

fn pushed(number: u32) -> PushedFile {
    PushedFile {
        file: format!("0000000100000000000000{number:02X}"),
        hash: format!("{number:032x}"),
        timeline: TimelineId::FIRST,
        pushed_at: time(number),
        facts: None,
        places: vec!["main".to_owned(), "offsite".to_owned()],
    }
}

fn head(sequence: u64) -> HeadRecord {
    HeadRecord {
        id: BackupId::new(time(sequence as u32)),
        sequence,
        blake3: format!("{sequence:064x}"),
        finished_at: time(sequence as u32),
        places: vec!["main".to_owned()],
    }
}

/// A state that knows a lineage, three pushed files and two heads.
fn fill(directory: &Path) -> [HeadRecord; 2] {
    let state = State::open(directory).unwrap();
    state.remember_lineage(&lineage(), time(1)).unwrap();
    for number in 1..=3 {
        state.remember_push(&lineage(), &pushed(number)).unwrap();
    }
    let heads = [head(1), head(2)];
    heads
        .iter()
        .for_each(|head| state.remember_head(&lineage(), head).unwrap());
    heads
}

/// Aim: `backup` and the archiver's `wal push` both come first to a new state, and neither fails for it.
#[test]
fn many_open_a_new_state_at_once() {
    for _ in 0..40 {
        let directory = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for number in 1..=8 {
                let at = directory.path();
                scope.spawn(move || {
                    State::open(at)
                        .unwrap()
                        .remember_push(&lineage(), &pushed(number))
                        .unwrap()
                });
            }
        });
        let state = State::open(directory.path()).unwrap();
        let is_known = |number: &u32| !state.pushed(&lineage(), &pushed(*number).file).unwrap().is_empty();
        assert_eq!((1..=8).filter(is_known).count(), 8);
    }
}

/// What a state gives out, each as text.
fn known(state: &State) -> Vec<String> {
    let cluster: ClusterName = "shop".parse().unwrap();
    let mut known = Vec::new();
    known.extend(state.lineages(&cluster).into_iter().flatten().map(|id| id.to_string()));
    known.extend(
        state
            .cluster_of(lineage().system_identifier)
            .into_iter()
            .flatten()
            .map(|name| name.to_string()),
    );
    for number in 0..=9 {
        let rows = state.pushed(&lineage(), &pushed(number).file);
        known.extend(rows.into_iter().flatten().map(|row| format!("{row:?}")));
    }
    let newest = state.last_pushed_segment(&lineage(), TimelineId::FIRST);
    known.extend(newest.into_iter().flatten().map(|row| format!("{row:?}")));
    let timeline = state.newest_pushed_timeline(&lineage());
    known.extend(
        timeline
            .into_iter()
            .flatten()
            .map(|timeline| format!("timeline {timeline}")),
    );
    known.extend(
        state
            .last_head(&lineage())
            .into_iter()
            .flatten()
            .map(|head| format!("{head:?}")),
    );
    known
}

/// Aim: whatever byte a disk changes, the state knows what it knew, or less.
/// Method: every sixteenth byte of the file in turn (every one with `PGKEEP_TEST_ALL`), asked by all readers.
#[test]
fn a_damaged_state_knows_less_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let heads = fill(directory.path());
    let mut truth = known(&State::open(directory.path()).unwrap());
    assert_eq!(truth.len(), 8, "{truth:?}");
    truth.extend(heads.map(|head| format!("{head:?}")));
    truth.extend((1..=3).map(|number| format!("{:?}", pushed(number))));
    let path = directory.path().join(DATABASE);
    let good = std::fs::read(&path).unwrap();
    let step = if std::env::var_os("PGKEEP_TEST_ALL").is_some() {
        1
    } else {
        16
    };
    let (mut less, mut refused) = (0, 0);
    for at in (0..good.len()).step_by(step) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(DATABASE), &bad).unwrap();
        let Ok(state) = State::open(place.path()) else {
            refused += 1;
            continue;
        };
        let found = known(&state);
        less += usize::from(found.len() < 8);
        let other: Vec<&String> = found.iter().filter(|one| !truth.contains(one)).collect();
        assert!(other.is_empty(), "byte {at}: {other:?}");
    }
    println!(
        "{} bytes: {less} times it knew less, {refused} times it was refused",
        good.len().div_ceil(step)
    );
    assert!(less > 0 && refused > 0);
}

/// Aim: a state that is whole on its first page and damaged behind it is found out by those who ask.
#[test]
fn a_check_looks_behind_the_first_page() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    State::open(directory.path()).unwrap().check().unwrap();
    let path = directory.path().join(DATABASE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..8192].fill(0xAA);
    std::fs::write(&path, bytes).unwrap();
    let state = State::open(directory.path()).unwrap();
    assert_eq!(state.check().unwrap_err().kind(), pgkeep_base::ErrorKind::Corrupt);
}

/// Aim: what a host knew before rows had digests it still knows.
#[test]
fn a_state_of_version_1_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let before = known(&State::open(directory.path()).unwrap());
    let path = directory.path().join(DATABASE);
    let old = Connection::open(&path).unwrap();
    let undo = ["lineage", "pushed", "head"].map(|table| format!("ALTER TABLE {table} DROP COLUMN digest;"));
    old.execute_batch(&(undo.concat() + "PRAGMA user_version = 1")).unwrap();
    drop(old);
    assert_eq!(known(&State::open(directory.path()).unwrap()), before);
    assert_eq!(known(&State::open(directory.path()).unwrap()), before);
}

#[test]
fn a_repeated_push_renews_what_is_known() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let state = State::open(directory.path()).unwrap();
    let again = PushedFile {
        places: vec!["main".to_owned()],
        pushed_at: time(59),
        ..pushed(1)
    };
    state.remember_push(&lineage(), &again).unwrap();
    state.remember_lineage(&lineage(), time(58)).unwrap();
    let rows = state.pushed(&lineage(), &again.file).unwrap();
    assert_eq!((rows.len(), format!("{:?}", rows[0])), (1, format!("{again:?}")));
    assert_eq!(state.lineages(&lineage().cluster).unwrap().len(), 1);
}
