//! Restores into temporary directories: what comes back, what is refused, and what a restore that ended early leaves.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use pgkeep_base::{Error, ErrorKind};
use pgkeep_repo::manifest::Extent;
use pgkeep_repo::manifest::entry::SPAN_BYTES_MAX;

use super::fixture::*;
use super::*;
use crate::restore::layout::{self, TargetState};

mod over;

/// A small cluster: two databases' worth of nothing, in order.
fn cluster<'a>(fixture: &'a Fixture) -> BackupMaker<'a> {
    let mut maker = fixture.backup();
    maker
        .entry(inline("PG_VERSION", b"18\n"))
        .entry(directory("base"))
        .entry(directory("base/1"))
        .file("base/1/1259", &content(1, 3 << 20))
        .file("base/1/2619", &content(2, 70_000));
    let (old, new) = (maker.chunk(&content(3, 80_000)), maker.chunk(&content(4, 8192)));
    maker
        .entry(file(
            "base/1/2620",
            8192 * 12,
            0,
            vec![
                Extent::of_chunk(old.clone(), 0, 16_384),
                Extent::of_chunk(new, 0, 8192),
                Extent::zeros(8192 * 4),
                Extent::of_chunk(old, 24_576, 8192),
                Extent::zeros(8192 * 4),
            ],
        ))
        .entry(file("base/1/3000", 1 << 20, 0, vec![Extent::zeros(1 << 20)]))
        .entry(inline("base/1/empty", b""))
        .entry(directory("global"))
        .entry(inline("global/1262", b"databases"))
        .entry(directory("pg_tblspc"))
        .entry(directory("pg_wal"))
        .entry(directory("pg_wal/archive_status"))
        .entry(inline("postgresql.auto.conf", b"# auto\n"));
    maker
}

fn expected_2620() -> Vec<u8> {
    let (old, new) = (content(3, 80_000), content(4, 8192));
    let zeros = vec![0; 8192 * 4];
    [&old[..16_384], &new, &zeros, &old[24_576..32_768], &zeros].concat()
}

fn plan(fixture: &Fixture, reader: &BackupReader, moves: &[(PathBuf, PathBuf)]) -> Layout {
    run(layout::plan(&fixture.path("data"), moves, &[], reader, None)).unwrap()
}

fn restore(fixture: &Fixture, reader: &BackupReader, layout: &Layout) -> Result<Written> {
    run(write_all(&fixture.engine, reader, layout, 2, async |_: &Path| Ok(())))
}

fn assert_restored(data: &Path) {
    let read = |name: &str| std::fs::read(data.join(name)).unwrap();
    assert!(read("base/1/1259") == content(1, 3 << 20));
    assert!(read("base/1/2619") == content(2, 70_000));
    assert!(read("base/1/2620") == expected_2620());
    assert!(read("base/1/3000") == vec![0; 1 << 20]);
    assert!(read("base/1/empty").is_empty());
    assert_eq!(read("global/1262"), b"databases");
    assert_eq!(read("global/pg_control"), CONTROL);
    assert_eq!(read("backup_label"), LABEL);
    assert!(data.join("pg_wal/archive_status").is_dir());
    assert_eq!(names(&data.join("pg_wal")), ["archive_status"]);
    assert_eq!(names(&data.join(".pgkeep")), [""; 0], "the mark is gone");
    assert_eq!(names(&data.join("global")), ["1262", "pg_control"]);
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_file_comes_back_with_its_content_and_its_holes() {
    let fixture = Fixture::new();
    let reader = cluster(&fixture).finish();
    let layout = plan(&fixture, &reader, &[]);
    let written = restore(&fixture, &reader, &layout).unwrap();
    assert_restored(&layout.target);
    assert_eq!((written.files, written.directories), (10, 6));
    assert_eq!(written.hole_bytes, 8192 * 8 + (1 << 20));
    assert!(written.notes.is_empty(), "{:?}", written.notes);
    let blocks = |name: &str| layout.target.join(name).metadata().unwrap().blocks();
    assert_eq!(blocks("base/1/3000"), 0, "zeros take no space");
}

#[test]
fn a_file_over_a_gibibyte_comes_back_from_its_spans() {
    let fixture = Fixture::new();
    let mut maker = cluster(&fixture);
    let bytes = SPAN_BYTES_MAX + 16_384;
    let (first, tail) = (maker.extent(&content(5, 8192)), maker.extent(&content(6, 8192)));
    maker
        .entry(file("t", bytes, 0, vec![first, Extent::zeros(SPAN_BYTES_MAX - 8192)]))
        .entry(file("t", bytes, SPAN_BYTES_MAX, vec![tail, Extent::zeros(8192)]));
    let reader = maker.finish();
    let layout = plan(&fixture, &reader, &[]);
    restore(&fixture, &reader, &layout).unwrap();
    let file = std::fs::File::open(layout.target.join("t")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), bytes);
    let read = |at| {
        let mut page = vec![1; 8192];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut page, at).unwrap();
        page
    };
    assert!(read(0) == content(5, 8192) && read(SPAN_BYTES_MAX) == content(6, 8192));
    assert!(read(SPAN_BYTES_MAX + 8192) == vec![0; 8192]);
}

#[test]
fn modes_are_as_recorded_but_never_more_than_permissions() {
    let fixture = Fixture::new();
    let mut maker = cluster(&fixture);
    maker.physical().directory_mode = pgkeep_repo::manifest::Mode(0o3750);
    let with = |mode, entry: pgkeep_repo::manifest::Entry| pgkeep_repo::manifest::Entry { mode, ..entry };
    maker
        .entry(with(0o6755, inline("setuid", b"x")))
        .entry(with(0o640, inline("shared", b"x")))
        .entry(with(0o400, inline("sharp", b"x")))
        .entry(with(0o1550, directory("sticky")))
        .entry(inline("sticky/x", b"x"));
    let reader = maker.finish();
    let layout = plan(&fixture, &reader, &[]);
    restore(&fixture, &reader, &layout).unwrap();
    let mode = |name: &str| layout.target.join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(""), 0o750);
    assert_eq!(mode("setuid"), 0o755);
    assert_eq!((mode("shared"), mode("sharp")), (0o640, 0o400));
    assert_eq!(mode("sticky"), 0o750, "the owner may always write");
    assert_eq!(mode("base/1/1259"), 0o600);
}

/// Aim: as root, everything belongs to the recorded owner, else to the owner of the data directory.
#[test]
fn root_gives_files_to_whom_they_belonged() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let fixture = Fixture::new();
    let mut maker = cluster(&fixture);
    let space = fixture.path("space");
    let owned = |owner: &str, group: Option<&str>, at: &str| pgkeep_repo::manifest::Entry {
        owner: Some(owner.to_owned()),
        group: group.map(str::to_owned),
        ..inline(at, b"x")
    };
    maker.physical().tablespaces = vec![];
    maker
        .entry(owned("root", Some("root"), "server.key"))
        .entry(owned("nobody-has-this-name", None, "stranger"));
    let reader = maker.finish();
    let layout = plan(&fixture, &reader, &[]);
    let written = restore(&fixture, &reader, &layout).unwrap();
    let nobody = pgkeep_pg::server::Account::by_name("nobody").unwrap().uid();
    let owner = |name: &str| layout.target.join(name).symlink_metadata().unwrap().uid();
    for name in [
        "",
        "base/1/1259",
        "base/1/empty",
        "global/pg_control",
        "stranger",
        "pg_wal/archive_status",
        ".pgkeep",
    ] {
        assert_eq!(owner(name), nobody, "{name}");
    }
    assert_eq!(owner("server.key"), 0);
    assert!(written.notes[0].contains("nobody-has-this-name"), "{:?}", written.notes);
    assert!(!space.exists());
}

#[test]
fn an_owner_whom_the_machine_does_not_know_is_refused_before_anything_is_touched() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let fixture = Fixture::new();
    let mut maker = cluster(&fixture);
    maker.physical().owner = "no-such-user".to_owned();
    let reader = maker.finish();
    let layout = plan(&fixture, &reader, &[]);
    let error = restore(&fixture, &reader, &layout).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.message().contains("no-such-user"), "{error}");
    assert!(!layout.target.exists());
}

/// Aim: tablespaces are written to their new places, and link and map agree on those.
#[test]
fn tablespaces_go_where_they_are_told() {
    let fixture = Fixture::new();
    let (old, new, kept) = (fixture.path("old"), fixture.path("new"), fixture.path("kept"));
    let reader = with_tablespaces(&fixture, &old, &kept).finish();
    std::fs::create_dir(&kept).unwrap();
    let layout = plan(&fixture, &reader, &[(old.clone(), new.clone())]);
    restore(&fixture, &reader, &layout).unwrap();
    assert!(std::fs::read(new.join("PG_18_202506291/5/1")).unwrap() == content(7, 9000));
    assert_eq!(std::fs::read(kept.join("PG_18_202506291/PG")).unwrap(), b"kept");
    assert_eq!(names(&new), ["PG_18_202506291"], "the mark is gone");
    let link = |oid: &str| std::fs::read_link(layout.target.join("pg_tblspc").join(oid)).unwrap();
    assert_eq!((link("16400"), link("16500")), (new.clone(), kept.clone()));
    let map = std::fs::read_to_string(layout.target.join("tablespace_map")).unwrap();
    assert_eq!(map, format!("16400 {}\n16500 {}\n", new.display(), kept.display()));
    assert!(std::fs::read(layout.target.join("pg_tblspc/16600/x")).unwrap() == b"in place");
    assert!(!old.exists());
    if rustix::process::geteuid().is_root() {
        let nobody = pgkeep_pg::server::Account::by_name("nobody").unwrap().uid();
        let link = layout.target.join("pg_tblspc/16400").symlink_metadata().unwrap();
        assert_eq!((link.uid(), new.metadata().unwrap().uid()), (nobody, nobody));
    }
}

fn with_tablespaces<'a>(fixture: &'a Fixture, first: &Path, second: &Path) -> BackupMaker<'a> {
    let mut maker = fixture.backup();
    maker.physical().tablespaces = vec![16_400, 16_500];
    let in_place = "16600 pg_tblspc/16600\n";
    let map = format!("16400 {}\n16500 {}\n{in_place}", first.display(), second.display());
    maker.last.insert(1, inline("tablespace_map", map.as_bytes()));
    maker
        .entry(directory("global"))
        .entry(directory("pg_tblspc"))
        .entry(tablespace(16_400, first))
        .entry(directory("pg_tblspc/16400/PG_18_202506291"))
        .entry(directory("pg_tblspc/16400/PG_18_202506291/5"))
        .file("pg_tblspc/16400/PG_18_202506291/5/1", &content(7, 9000))
        .entry(tablespace(16_500, second))
        .entry(directory("pg_tblspc/16500/PG_18_202506291"))
        .entry(inline("pg_tblspc/16500/PG_18_202506291/PG", b"kept"))
        .entry(directory("pg_tblspc/16600"))
        .entry(inline("pg_tblspc/16600/x", b"in place"));
    maker
}

/// Aim: a tablespace that was created and dropped while the backup ran is left out, with a note.
#[test]
fn a_tablespace_of_a_moment_is_left_out() {
    let fixture = Fixture::new();
    let mut maker = fixture.backup();
    maker
        .entry(directory("global"))
        .entry(directory("pg_tblspc"))
        .entry(tablespace(16_400, &fixture.path("gone")))
        .entry(directory("pg_tblspc/16400/PG_18_202506291"))
        .entry(inline("pg_tblspc/16400/PG_18_202506291/x", b"x"))
        .entry(inline("z", b"z"));
    let reader = maker.finish();
    let layout = plan(&fixture, &reader, &[]);
    let written = restore(&fixture, &reader, &layout).unwrap();
    assert!(!fixture.path("gone").exists() && names(&layout.target.join("pg_tblspc")).is_empty());
    assert!(layout.target.join("z").exists());
    assert!(written.notes[0].contains("16400"), "{:?}", written.notes);
}

/// Entries that no backup has, and the path of the first.
fn hostile() -> Vec<(&'static str, Vec<String>)> {
    let directory = |path: &str| format!("{{\"path\":\"{path}\",\"type\":\"directory\",\"mode\":\"0700\"}}");
    let file = |path: &str| {
        format!("{{\"path\":\"{path}\",\"type\":\"file\",\"bytes\":1,\"data\":\"eA==\",\"mode\":\"0600\"}}")
    };
    let link = "{\"path\":\"base\",\"type\":\"tablespace\",\"location\":\"/etc\",\"mode\":\"0700\"}".to_owned();
    vec![
        ("a", vec![directory("a"), file("a/../../outside")]),
        ("a", vec![directory("a"), file("a/%2E%2E/outside")]),
        ("a", vec![directory("a"), file("/etc/outside")]),
        ("a", vec![file("a"), file("a/below")]),
        ("a", vec![file("a"), file("a")]),
        ("a", vec![file("a/orphan")]),
        ("base", vec![link]),
        (
            ".pgkeep",
            vec![directory(".pgkeep"), file(".pgkeep/restore-in-progress")],
        ),
        ("postmaster.pid", vec![file("postmaster.pid")]),
        ("standby.signal", vec![file("standby.signal")]),
        (
            "pg_wal",
            vec![directory("pg_wal"), file("pg_wal/000000010000000000000003")],
        ),
        ("global", vec![directory("global"), file("global/.pgkeep-pg_control")]),
        ("global", vec![directory("global"), file("global/pg_control")]),
        ("backup_label", vec![file("backup_label")]),
    ]
}

/// Aim: what a hostile writer signs is refused, and nothing outside of the target is touched.
/// Method: blocks made by hand; the reader refuses some, the walk the others.
#[test]
fn hostile_entries_are_refused() {
    for (first, entries) in hostile() {
        let fixture = Fixture::new();
        let before = names(&fixture.path(""));
        let mut maker = fixture.backup();
        maker.raw_block(first, &entries.join(","));
        let reader = maker.finish_unchecked();
        let layout = plan(&fixture, &reader, &[]);
        let error = restore(&fixture, &reader, &layout).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{entries:?}: {error:?}");
        assert!(!layout.target.join("global/pg_control").exists());
        let after: Vec<String> = names(&fixture.path(""))
            .into_iter()
            .filter(|name| name != "data")
            .collect();
        assert_eq!(after, before, "{entries:?}");
    }
}

/// Aim: whoever swaps a directory for a link while a restore runs makes nothing appear behind the link.
#[test]
fn a_link_that_appears_in_the_target_is_not_followed() {
    let mut swapped = 0;
    for number in 0..4 {
        let fixture = Fixture::new();
        let reader = cluster(&fixture).finish();
        let layout = plan(&fixture, &reader, &[]);
        let outside = fixture.path("outside");
        std::fs::create_dir_all(outside.join("1")).unwrap();
        let (data, away) = (layout.target.clone(), outside.clone());
        fixture.store.before_read(number, move || {
            for name in ["base", "global", "pg_wal", "pg_tblspc"] {
                let _ = std::fs::rename(data.join(name), data.join(format!("{name}.moved")));
                std::os::unix::fs::symlink(&away, data.join(name)).unwrap();
            }
        });
        let result = restore(&fixture, &reader, &layout);
        assert_eq!(names(&outside), ["1"], "read {number}: {result:?}");
        assert!(names(&outside.join("1")).is_empty(), "read {number}: {result:?}");
        swapped += usize::from(layout.target.join("base.moved/1").exists());
    }
    assert!(swapped > 1, "some links appeared in the middle");
}

/// Aim: a restore that ended early can't be started, and the next one completes, also with other leftovers about.
#[test]
fn an_unfinished_restore_is_begun_anew() {
    let fixture = Fixture::new();
    let (old, new, other) = (fixture.path("old"), fixture.path("new"), fixture.path("other"));
    let reader = with_tablespaces(&fixture, &old, &new).finish();
    let layout = plan(&fixture, &reader, &[]);
    let failing = async |_: &Path| Err(Error::internal("the test says so"));
    run(write_all(&fixture.engine, &reader, &layout, 2, failing)).unwrap_err();
    assert!(!layout.target.join("global/pg_control").exists());
    assert_eq!(layout::inspect(&layout.target).unwrap(), TargetState::Unfinished);
    std::fs::write(layout.target.join("leftover"), "x").unwrap();
    std::fs::create_dir(layout.target.join("dir")).unwrap();
    std::os::unix::fs::symlink("/etc", layout.target.join("dir/link")).unwrap();
    let layout = plan(&fixture, &reader, &[(new.clone(), other.clone())]);
    let written = restore(&fixture, &reader, &layout).unwrap();
    assert!(!layout.target.join("leftover").exists() && !layout.target.join("dir").exists());
    assert!(Path::new("/etc/passwd").exists());
    assert!(
        written.notes[0].contains(&*new.to_string_lossy()),
        "{:?}",
        written.notes
    );
    assert_eq!(layout::inspect(&layout.target).unwrap(), TargetState::Occupied);
    assert!(other.join("PG_18_202506291/PG").exists());
    let again = run(layout::plan(&layout.target, &[], &[], &reader, None)).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Refused);
}

/// Aim: between `pg_control` and the last mark a kill leaves what counts as unfinished until somebody starts it.
#[test]
fn a_restore_that_was_started_is_never_emptied() {
    let fixture = Fixture::new();
    let reader = cluster(&fixture).finish();
    let layout = plan(&fixture, &reader, &[]);
    let failing = async |_: &Path| Err(Error::internal("the test says so"));
    run(write_all(&fixture.engine, &reader, &layout, 2, failing)).unwrap_err();
    let data = &layout.target;
    std::fs::write(data.join("global/pg_control"), CONTROL).unwrap();
    assert_eq!(layout::inspect(data).unwrap(), TargetState::Unfinished);
    std::fs::write(data.join("postmaster.opts"), "").unwrap();
    assert_eq!(layout::inspect(data).unwrap(), TargetState::Occupied);
    std::fs::remove_file(data.join("postmaster.opts")).unwrap();
    std::fs::rename(data.join("backup_label"), data.join("backup_label.old")).unwrap();
    assert_eq!(layout::inspect(data).unwrap(), TargetState::Occupied);
    let error = run(layout::plan(data, &[], &[], &reader, None)).unwrap_err();
    assert!(error.detail_text().unwrap().contains("finished restore"), "{error:?}");
}

#[test]
fn a_moved_unfinished_restore_is_nobodys_to_empty() {
    let fixture = Fixture::new();
    let reader = cluster(&fixture).finish();
    let layout = plan(&fixture, &reader, &[]);
    let failing = async |_: &Path| Err(Error::internal("the test says so"));
    run(write_all(&fixture.engine, &reader, &layout, 2, failing)).unwrap_err();
    let moved = fixture.path("moved");
    std::fs::rename(&layout.target, &moved).unwrap();
    assert_eq!(layout::inspect(&moved).unwrap(), TargetState::Occupied);
}

#[test]
fn two_restores_into_one_place_exclude_each_other() {
    let fixture = Fixture::new();
    let reader = cluster(&fixture).finish();
    let layout = plan(&fixture, &reader, &[]);
    let inner = async |_: &Path| {
        let second = write_all(&fixture.engine, &reader, &layout, 2, async |_: &Path| Ok(()));
        assert_eq!(second.await.unwrap_err().kind(), ErrorKind::Conflict);
        Ok(())
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(write_all(&fixture.engine, &reader, &layout, 2, inner))
        .unwrap();
    assert_restored(&layout.target);
}

#[test]
fn a_lost_or_damaged_pack_is_named_and_leaves_an_unfinished_restore() {
    let fixture = Fixture::new();
    let reader = cluster(&fixture).finish();
    let layout = plan(&fixture, &reader, &[]);
    let pack = reader.packs().packs()[0].name.clone();
    let file = fixture.path("repository").join(pack.as_str());
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    for damage in [Some(bad), None] {
        std::fs::remove_file(&file).unwrap();
        if let Some(bad) = damage {
            std::fs::write(&file, bad).unwrap();
        }
        let error = restore(&fixture, &reader, &layout).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        let words = format!("{error} {:?}", error.detail_text());
        assert!(words.contains(pack.as_str()), "{words}");
        assert_eq!(layout::inspect(&layout.target).unwrap(), TargetState::Unfinished);
    }
    std::fs::write(&file, good).unwrap();
    restore(&fixture, &reader, &layout).unwrap();
    assert_restored(&layout.target);
}

#[test]
fn kernels_are_told_apart_by_their_numbers() {
    assert!(syncfs_reports(), "this machine's kernel is new enough");
}
