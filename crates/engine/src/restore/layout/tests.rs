//! What a layout refuses, in which words.

use std::os::unix::fs::symlink;

use pgkeep_base::ErrorKind;

use super::*;
use crate::restore::files::fixture::{BackupMaker, Fixture, directory, inline, run, tablespace};

/// A backup with tablespaces at these places.
fn backup<'a>(fixture: &'a Fixture, spaces: &[(u32, PathBuf)]) -> BackupMaker<'a> {
    let mut maker = fixture.backup();
    maker.physical().tablespaces = spaces.iter().map(|(oid, _)| *oid).collect();
    let lines: Vec<String> = spaces
        .iter()
        .map(|(oid, path)| format!("{oid} {}\n", path.display()))
        .collect();
    if !lines.is_empty() {
        maker
            .last
            .insert(1, inline("tablespace_map", lines.concat().as_bytes()));
    }
    maker.entry(directory("global")).entry(directory("pg_tblspc"));
    for (oid, path) in spaces {
        maker.entry(tablespace(*oid, path));
    }
    maker
}

/// The primary line and the rest of a refusal.
fn refused(fixture: &Fixture, spaces: &[(u32, PathBuf)], target: &Path, moves: &[(PathBuf, PathBuf)]) -> String {
    let reader = backup(fixture, spaces).finish();
    let error = run(plan(target, moves, &[], &reader, None)).expect_err("it must be refused");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    let hint = error.hint_text().expect("a refusal says what next");
    assert!(
        hint.contains("--into") || hint.contains("pgkeep") || hint.contains("--tablespace"),
        "{hint}"
    );
    format!("{error}: {}", error.detail_text().unwrap_or_default())
}

#[track_caller]
fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "\"{word}\" is missing in: {text}");
    }
}

#[test]
fn an_absent_or_empty_target_is_fine() {
    let fixture = Fixture::new();
    let reader = backup(&fixture, &[(16_400, fixture.path("space"))]).finish();
    let target = fixture.path("data");
    assert_eq!(inspect(&target).unwrap(), TargetState::Absent);
    let layout = run(plan(&target, &[], &[], &reader, None)).unwrap();
    assert_eq!(layout.target, target);
    assert!(!layout.tablespaces[0].is_moved());
    assert!(!target.exists(), "a plan changes nothing");
    std::fs::create_dir(&target).unwrap();
    std::fs::create_dir(target.join("lost+found")).unwrap();
    assert_eq!(inspect(&target).unwrap(), TargetState::Empty);
    run(plan(&target, &[], &[], &reader, None)).unwrap();
    assert!(free_bytes(&fixture.path("data/not/there")).unwrap() > 0);
}

#[test]
fn links_on_the_way_to_the_target_are_resolved() {
    let fixture = Fixture::new();
    let reader = backup(&fixture, &[]).finish();
    std::fs::create_dir_all(fixture.path("real/data")).unwrap();
    symlink(fixture.path("real"), fixture.path("link")).unwrap();
    symlink(fixture.path("real/data"), fixture.path("straight")).unwrap();
    for way in ["link/data", "straight", "real/../link/data"] {
        let layout = run(plan(&fixture.path(way), &[], &[], &reader, None)).unwrap();
        assert_eq!(layout.target, fixture.path("real/data"), "{way}");
        assert_eq!(inspect(&fixture.path(way)).unwrap(), TargetState::Empty);
    }
    let layout = run(plan(&fixture.path("link/new"), &[], &[], &reader, None)).unwrap();
    assert_eq!(layout.target, fixture.path("real/new"));
}

#[test]
fn a_target_that_holds_something_is_refused() {
    let fixture = Fixture::new();
    let target = fixture.path("data");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("x"), "").unwrap();
    assert_words(
        &refused(&fixture, &[], &target, &[]),
        &["is not empty", "pgkeep restore"],
    );
    std::fs::write(target.join("PG_VERSION"), "18\n").unwrap();
    assert_words(&refused(&fixture, &[], &target, &[]), &["holds a PostgreSQL cluster"]);
}

#[test]
fn a_file_instead_of_a_directory_is_refused() {
    let fixture = Fixture::new();
    let target = fixture.path("data");
    std::fs::write(&target, "").unwrap();
    assert_words(
        &refused(&fixture, &[], &target, &[]),
        &["can't restore into", "it is a file"],
    );
}

#[test]
fn a_target_without_a_parent_is_refused() {
    let fixture = Fixture::new();
    let target = fixture.path("no/such/data");
    let words = refused(&fixture, &[], &target, &[]);
    assert_words(&words, &["can't restore into", "parent directory"]);
}

#[test]
fn a_running_server_is_refused() {
    let fixture = Fixture::new();
    let target = fixture.path("data");
    std::fs::create_dir(&target).unwrap();
    // A file that says nothing counts as a server that starts.
    std::fs::write(target.join("postmaster.pid"), "").unwrap();
    assert_words(&refused(&fixture, &[], &target, &[]), &["server may be starting"]);
}

#[test]
fn places_inside_one_another_are_refused() {
    let fixture = Fixture::new();
    let (target, a, b) = (fixture.path("data"), fixture.path("a"), fixture.path("b"));
    let spaces = [(16_400, a.clone()), (16_500, b.clone())];
    let cases = [
        (vec![(a.clone(), target.join("space"))], "lies inside the target"),
        (vec![(a.clone(), target.clone())], "is in the same place as the target"),
        (vec![(a.clone(), b.clone())], "is in the same place as tablespace 16400"),
        (vec![(a.clone(), b.join("inner"))], "would hold tablespace 16400"),
        (
            vec![(a.clone(), target.parent().unwrap().to_owned())],
            "would hold the target",
        ),
    ];
    for (moves, words) in cases {
        assert_words(&refused(&fixture, &spaces, &target, &moves), &[words]);
    }
    // The same through a link.
    symlink(fixture.path(""), fixture.path("link")).unwrap();
    let moves = [(a, fixture.path("link/b"))];
    assert_words(
        &refused(&fixture, &spaces, &target, &moves),
        &["is in the same place as"],
    );
}

#[test]
fn a_place_inside_a_data_directory_or_tablespace_is_refused() {
    let fixture = Fixture::new();
    let source = fixture.path("source");
    std::fs::create_dir_all(source.join("global")).unwrap();
    std::fs::create_dir_all(source.join("base")).unwrap();
    std::fs::write(source.join("PG_VERSION"), "18\n").unwrap();
    let words = refused(&fixture, &[], &source.join("base/restored"), &[]);
    assert_words(&words, &["lies inside the data directory", "source"]);
    let space = fixture.path("space/PG_18_202506291");
    std::fs::create_dir_all(&space).unwrap();
    assert_words(
        &refused(&fixture, &[], &space.join("x"), &[]),
        &["lies inside a tablespace's directory"],
    );
    let old = fixture.path("old");
    let moves = [(old.clone(), source.join("ts"))];
    let words = refused(&fixture, &[(16_400, old)], &fixture.path("data"), &moves);
    assert_words(&words, &["tablespace 16400", "lies inside the data directory"]);
}

#[test]
fn a_tablespace_stays_away_from_a_place_that_is_in_use() {
    let fixture = Fixture::new();
    let old = fixture.path("old");
    std::fs::create_dir(&old).unwrap();
    std::fs::create_dir(old.join("PG_18_202506291")).unwrap();
    let spaces = [(16_400, old.clone())];
    let words = refused(&fixture, &spaces, &fixture.path("data"), &[]);
    assert_words(
        &words,
        &["tablespace 16400", "is not empty", "the source, or another cluster"],
    );
    let link = fixture.path("link");
    symlink(fixture.path("else"), &link).unwrap();
    let words = refused(&fixture, &spaces, &fixture.path("data"), &[(old.clone(), link)]);
    assert_words(&words, &["it is a symbolic link"]);
    let words = refused(
        &fixture,
        &spaces,
        &fixture.path("data"),
        &[(old, fixture.path("no/new"))],
    );
    assert_words(&words, &["can't create", "there is no directory"]);
}

#[test]
fn moves_that_make_no_sense_are_refused() {
    let fixture = Fixture::new();
    let (target, old, new) = (fixture.path("data"), fixture.path("old"), fixture.path("new"));
    let spaces = [(16_400, old.clone())];
    let words = refused(&fixture, &spaces, &target, &[(fixture.path("typo"), new.clone())]);
    assert_words(
        &words,
        &["has no tablespace at", "typo", "its tablespaces were at", "old (16400)"],
    );
    let words = refused(&fixture, &[], &target, &[(old.clone(), new.clone())]);
    assert_words(&words, &["it has no tablespaces"]);
    for bad in ["relative", "/", "/a/../b"] {
        let words = refused(&fixture, &spaces, &target, &[(old.clone(), PathBuf::from(bad))]);
        assert_words(&words, &["can't be the location of a tablespace", "absolute"]);
    }
    let twice = [(old.clone(), new.clone()), (old, fixture.path("newer"))];
    assert_words(&refused(&fixture, &spaces, &target, &twice), &["is moved twice"]);
}

#[test]
fn a_trailing_slash_is_no_other_place() {
    let fixture = Fixture::new();
    let reader = backup(&fixture, &[(16_400, fixture.path("old"))]).finish();
    let moves = [(fixture.path("old/"), fixture.path("new/"))];
    let layout = run(plan(&fixture.path("data/"), &moves, &[], &reader, None)).unwrap();
    assert_eq!(layout.tablespaces[0].to.as_os_str(), fixture.path("new").as_os_str());
}

#[test]
fn a_recorded_location_that_can_not_be_is_corrupt() {
    for bad in ["/", "/a/../etc"] {
        let fixture = Fixture::new();
        let reader = backup(&fixture, &[(16_400, PathBuf::from(bad))]).finish();
        let error = run(plan(&fixture.path("data"), &[], &[], &reader, None)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad}");
    }
}

/// Aim: what recovery makes lies where it was, in an empty place of its own, and can't be moved; where the backup has it
/// already, unmoved, there is nothing to add.
#[test]
fn what_recovery_makes_stays_where_it_was() {
    let fixture = Fixture::new();
    let (old, other) = (fixture.path("old"), fixture.path("other"));
    let reader = backup(&fixture, &[(16_400, old.clone())]).finish();
    let made = |oid, location: &Path| MadeTablespace {
        oid,
        location: location.to_owned(),
        record: Lsn(0x500),
    };
    let target = fixture.path("data");
    let layout = run(plan(
        &target,
        &[],
        &[made(16_401, &other), made(16_402, &other)],
        &reader,
        None,
    ))
    .unwrap();
    let places: Vec<_> = layout
        .tablespaces
        .iter()
        .map(|t| (t.oid, t.to.clone(), t.made_at))
        .collect();
    let expected = [(16_400, old.clone(), None), (16_401, other.clone(), Some(Lsn(0x500)))];
    assert_eq!(places, expected);
    assert_eq!(
        run(plan(&target, &[], &[made(16_400, &old)], &reader, None))
            .unwrap()
            .tablespaces
            .len(),
        1
    );

    let words = |moves: &[(PathBuf, PathBuf)], made: &[MadeTablespace]| {
        let error = run(plan(&target, moves, made, &reader, None)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
        format!("{error}: {}", error.detail_text().unwrap_or_default())
    };
    for location in [&old, &other] {
        let moves = [(location.clone(), fixture.path("new"))];
        assert_words(&words(&moves, &[made(16_401, location)]), &["can't be moved", "0/500"]);
    }
    let moves = [(old.clone(), other.clone())];
    assert_words(&words(&moves, &[made(16_401, &other)]), &["is in the same place as"]);
    std::fs::create_dir(&other).unwrap();
    run(plan(&target, &[], &[made(16_401, &other)], &reader, None)).unwrap();
    std::fs::create_dir(other.join("PG_17_202406281")).unwrap();
    assert_words(
        &words(&[], &[made(16_401, &other)]),
        &["is not empty", "would write into", "0/500"],
    );
}
