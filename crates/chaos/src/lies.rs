//! The harness itself on trial: a pgkeep that lies is found out, and by the right rule.
//!
//! A small script in front of the real program tells each lie. Invariant: the same cycle without a lie is green, else
//! its red would prove nothing.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use pgkeep_testkit::Scratch;
use pgkeep_testkit::fixture::reachable;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::audit::Audited;
use crate::cycle::{self, Stage};
use crate::damage::{Harm, choose_loss};
use crate::draw::{Action, Cycle, End, Installation, Kind, Layout, Moment};
use crate::world::World;

/// The first part of each script: `$real` is the program, `turn` counts what was archived.
const BEGIN: &str = r#"#!/bin/sh
real=@real@
turn() { echo >>@home@/turns; wc -l <@home@/turns; }
"#;
/// What is not lied about.
const END: &str = "\nexec $real \"$@\"\n";

/// A cycle without faults: a backup, and so much behind it that lies about both have something to lie about.
fn calm() -> (Cycle, Installation) {
    let mut actions = vec![Action::Backup { full: false }];
    actions.extend([Action::Switch; 16]);
    let cycle = Cycle {
        number: 0,
        since: 0,
        kinds: BTreeSet::new(),
        actions,
        calm: false,
        end: End::Destroyed,
        from: None,
        moment: Moment::Lsn,
        adopt: false,
        deep: false,
        seed: 1,
    };
    let installation = Installation {
        major: 17,
        // A checksum would find an altered row before we do.
        checksums: false,
        encrypted: true,
        layout: Layout::Directory,
        power: false,
        place_disk: false,
        state_disk: false,
        wal_disk: false,
        clock: false,
    };
    (cycle, installation)
}

/// The program that this workspace builds, beside the directory of its test binaries.
fn pgkeep() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.ancestors().nth(2).unwrap().join("pgkeep");
    assert!(
        program.exists(),
        "no {}: run `cargo build -p pgkeep`",
        program.display()
    );
    reachable(program)
}

/// A pgkeep that does so.
fn script(home: &Scratch, name: &str, lie: &str) -> PathBuf {
    let script = format!("{BEGIN}{lie}{END}")
        .replace("@real@", &pgkeep().display().to_string())
        .replace("@home@", &home.path().display().to_string());
    let program = home.file(name, script);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// What the harness says of a pgkeep that lies so; nothing when it is content.
fn said_of(name: &str, lie: &str) -> Option<String> {
    let home = Scratch::new();
    let program = script(&home, name, lie);
    let (cycle, installation) = calm();
    let mut stage = Stage::default();
    let run = || cycle::run(&mut stage, &cycle, &installation, &program);
    let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.unwrap_or_else(|| "a panic without words".to_owned()))
}

#[track_caller]
fn found_out(said: Option<String>, by: &str) {
    let said = said.expect("a lie was believed");
    assert!(said.contains(by), "found out by another rule: {said}");
}

#[test]
fn the_truth_is_believed() {
    assert_eq!(said_of("truthful", ""), None);
}

#[test]
fn a_segment_that_was_called_stored_and_is_not_is_missed() {
    let lie = r#"case "$*" in *"wal push"*) [ "$(turn)" != 14 ] || exit 0 ;; esac"#;
    found_out(said_of("drops-one", lie), "refused for no reason");
}

#[test]
fn an_archive_that_ends_before_what_was_called_stored_is_noticed() {
    let lie = r#"case "$*" in *"wal push"*) [ "$(turn)" -lt 14 ] || exit 0 ;; esac"#;
    found_out(said_of("drops-all", lie), "I1: ");
}

#[test]
fn a_restore_that_ends_before_what_it_announced_is_noticed() {
    let lie = r#"
case "$*" in
  *--dry-run*) ;;
  *--latest*)
    announced=$($real "$@" --dry-run) || exit
    $real $(echo "$@" | sed 's/--latest/--immediate --action promote/') >@home@/done || exit
    echo "$announced" && exit 0 ;;
esac"#;
    found_out(said_of("ends-early", lie), "the plan announced");
}

#[test]
fn a_row_that_a_restore_alters_is_noticed() {
    let lie = r#"
case "$*" in
  *--dry-run*) ;;
  *" restore "*)
    $real "$@" || exit
    into=$(echo "$@" | sed 's/.*--into \([^ ]*\).*/\1/')
    rows=$(grep -l genesis "$into"/base/*/*)
    LC_ALL=C sed -i 's/\([0-9a-f]\{12\}\)a\([0-9a-f]\{12\}\)/\1b\2/' $rows && exit 0 ;;
esac"#;
    found_out(said_of("alters", lie), "the plan announced");
}

#[test]
fn an_object_that_changes_is_noticed() {
    let lie = r#"
case "$*" in
  *" backup"*)
    place=$(sed -n 's|^url = "file://\(.*\)"|\1|p' "$2")
    pack=$(find "$place" -path '*/packs/*' -type f | head -n 1)
    # Of the first backup, when there is a second one.
    [ -z "$pack" ] || { chmod u+w "$pack" && echo >>"$pack"; } ;;
esac"#;
    found_out(said_of("changes", lie), "I8: ");
}

/// No lie, but a promise of the harness as well: a required place that is gone is done without, as the hint of the
/// refusal says, for the newest state and for the earlier moment.
#[test]
fn a_required_place_that_is_gone_is_done_without() {
    let (mut cycle, mut installation) = calm();
    installation.layout = Layout::TwoDirectories;
    cycle.kinds.insert(Kind::PlaceLost);
    let whole = |seed: &u64| choose_loss(2, &mut StdRng::seed_from_u64(*seed)).1.is_empty();
    cycle.seed = (0..).find(whole).expect("one in four is");
    let mut stage = Stage::default();
    cycle::run(&mut stage, &cycle, &installation, &pgkeep());
    assert!(
        stage.found.harm.as_ref().is_some_and(|harm| harm.starts_with("lost ")),
        "{:?}",
        stage.found
    );
    let audited = &stage.found.audited;
    assert_eq!((audited.elsewhere, audited.restores), (2, 2), "{audited:?}");
    assert!(audited.promised > 0, "{audited:?}");
    assert_eq!(
        audited.refusals.len(),
        1,
        "from the lost place alone nothing comes back: {audited:?}"
    );
}

/// No lie either: a restored server archives the timeline that it begins into the place that is looked at after it, alone.
/// Issue: what led there was called a timeline that nobody wrote on. Method: that restore waits for the first segment.
#[test]
fn a_timeline_that_a_restored_server_begins_is_known() {
    let wait = r#"
case "$*" in
  *"--dry-run --into "*/harmed*)
    place=$(sed -n 's|^url = "file://\(.*\)"|\1|p' "$2")
    # The name of a file that is not whole yet has a `#` in it.
    until find "$place/wal" -name '0000000200000*' ! -name '*#*' | grep -q .; do sleep 0.05; done ;;
esac"#;
    let home = Scratch::new();
    let program = script(&home, "waits", wait);
    let (cycle, installation) = calm();
    let mut world = World::make(&program, installation, 1);
    world.load(30);
    world.destroy(&cycle);
    let unharmed = Harm {
        place: "main",
        another_is_whole: false,
        what: String::new(),
    };
    let mut audited = Audited::default();
    world.come_back(&cycle, &mut StdRng::seed_from_u64(1), Some(&unharmed), &mut audited);
    assert!(audited.refusals.is_empty(), "{audited:?}");
    let next = world.shop.target("harmed").join("pg_wal/00000003.history");
    assert!(
        next.exists(),
        "the last restore did not lead to timeline 2: {audited:?}"
    );
}
