//! Restores over what is there: however that looks, it becomes what a restore into an empty directory gives, and nothing
//! outside of it is touched.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::restore::over;

/// How often a directory is spoilt and restored over.
const ROUNDS: u64 = 30;
/// What is done to it each time.
const SPOILT: usize = 12;

/// A restore that ended before it was complete: it is gone on with like any other cluster.
fn begun(fixture: &Fixture, reader: &BackupReader) -> Layout {
    let layout = plan(fixture, reader, &[]);
    let failing = async |_: &Path| Err(Error::internal("the test says so"));
    run(write_all(&fixture.engine, reader, &layout, 2, failing)).unwrap_err();
    layout
}

fn restore_over(fixture: &Fixture, reader: &BackupReader, target: &Path) -> Result<Written> {
    let existing = Existing::look(target)?.expect("something is there");
    let layout = run(layout::plan(target, &[], &[], reader, Some(&existing)))?;
    let nothing_to_save = async |_: &Directory, _: Making| Ok(());
    run(write_over(
        &fixture.engine,
        reader,
        &layout,
        &existing,
        2,
        nothing_to_save,
        async |_: &Path| Ok(()),
    ))
}

/// Everything below a directory but pgkeep's own: kind and mode, content or where a link leads.
fn tree(directory: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let content = if metadata.is_dir() {
                Vec::new()
            } else if metadata.is_symlink() {
                std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                std::fs::read(&path).unwrap()
            };
            if path.file_name().unwrap() == ".pgkeep" {
                continue;
            }
            if metadata.is_dir() {
                waiting.push(path.clone());
            }
            found.insert(
                path.strip_prefix(directory).unwrap().to_owned(),
                (metadata.mode(), content),
            );
        }
    }
    found
}

/// Does something to a directory that a restore must mend.
fn spoil(data: &Path, outside: &Path, rng: &mut StdRng) {
    let all: Vec<PathBuf> = tree(data).into_keys().map(|path| data.join(path)).collect();
    let path = all.choose(rng).unwrap().clone();
    let (is_file, is_directory) = path
        .symlink_metadata()
        .map(|found| (found.is_file(), found.is_dir()))
        .unwrap();
    let remove = || match is_directory {
        true => std::fs::remove_dir_all(&path).unwrap(),
        false => std::fs::remove_file(&path).unwrap(),
    };
    match rng.random_range(0..10) {
        0 => remove(),
        // A `pg_wal` that is a link stays one.
        1 if !path.ends_with("pg_wal") => {
            remove();
            symlink(outside.join(if is_directory { "" } else { "precious" }), &path).unwrap();
        }
        2 => {
            remove();
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("1259"), "in the place of a file").unwrap();
        }
        3 => {
            remove();
            std::fs::write(&path, "in the place of a directory").unwrap();
        }
        4 => std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap_or_default(),
        5 if is_directory => std::fs::write(path.join(format!("extra-{}", rng.random::<u16>())), "x").unwrap(),
        6 if is_directory => {
            let _ = symlink(outside, path.join("way-out"));
        }
        _ if is_file => rewrite(&path, outside, rng),
        _ => {}
    }
}

/// Changes bytes, length or names of a file.
fn rewrite(path: &Path, outside: &Path, rng: &mut StdRng) {
    let mut bytes = std::fs::read(path).unwrap();
    match rng.random_range(0..4) {
        0 => bytes.truncate(rng.random_range(0..=bytes.len())),
        1 => bytes.extend(std::iter::repeat_n(7, rng.random_range(1..100_000))),
        2 => {
            // What has another name is somebody else's, too.
            let second = outside.join(format!("second-{}", rng.random::<u64>()));
            std::fs::hard_link(path, &second).unwrap();
        }
        _ => {}
    }
    if !bytes.is_empty() {
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
    }
    std::fs::write(path, bytes).unwrap();
}

/// Aim: byte for byte, mode for mode and name for name it equals a restore into an empty directory, whatever was there:
/// files and directories lost, too much, cut, grown, changed, or replaced by others and by links; nothing that those lead
/// to is touched. Method: seeded damage, round after round in one directory.
#[test]
fn whatever_was_there_it_becomes_what_a_full_restore_gives() {
    let given = std::env::var("PGKEEP_TEST_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("repeat with PGKEEP_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let fixture = Fixture::new();
    let reader = cluster(&fixture).finish();
    let whole = run(layout::plan(&fixture.path("whole"), &[], &[], &reader, None)).unwrap();
    restore(&fixture, &reader, &whole).unwrap();
    let expected = tree(&whole.target);
    let data = begun(&fixture, &reader).target;
    let outside = fixture.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("precious"), "precious").unwrap();
    let mut kept = 0;
    for round in 0..ROUNDS {
        (0..SPOILT).for_each(|_| spoil(&data, &outside, &mut rng));
        let before = tree(&outside);
        let written = restore_over(&fixture, &reader, &data).unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        kept += written.kept_bytes;
        let found = tree(&data);
        let differing: Vec<_> = expected.keys().chain(found.keys()).collect();
        let differing: Vec<_> = differing
            .into_iter()
            .filter(|path| expected.get(*path) != found.get(*path))
            .collect();
        assert!(differing.is_empty(), "round {round}: {differing:?}");
        assert!(tree(&outside) == before, "round {round}: what lies outside was touched");
        // The fixture's pg_control is none; without it, and with its mark, it is what an unfinished restore leaves.
        Marker::new(
            reader.head(),
            fixture.engine.now(),
            &whole_layout(&data, &whole),
            None,
            true,
        )
        .put(&Directory::open(&data).unwrap(), Making { mode: 0o700, ids: None })
        .unwrap();
        std::fs::remove_file(data.join("global/pg_control")).unwrap();
    }
    assert!(kept > ROUNDS << 20, "what fits is kept: {kept}");
}

fn whole_layout(target: &Path, of: &Layout) -> Layout {
    Layout {
        target: target.to_owned(),
        ..of.clone()
    }
}

/// Aim: what a hostile writer signs is refused over a cluster, too: nothing outside of it is touched, and it can't be
/// started.
#[test]
fn hostile_entries_are_refused_over_a_cluster() {
    for (first, entries) in hostile() {
        let fixture = Fixture::new();
        let outside = fixture.path("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("outside"), "precious").unwrap();
        let data = begun(&fixture, &cluster(&fixture).finish()).target;
        // Where the entries lead to, links lead on.
        let _ = symlink(&outside, data.join("a"));
        let (before, around) = (tree(&outside), names(&fixture.path("")));
        let mut maker = fixture.backup();
        maker.head.id = "20261121T101512Z-0123456789".parse().unwrap();
        maker.raw_block(first, &entries.join(","));
        let reader = maker.finish_unchecked();
        let error = restore_over(&fixture, &reader, &data).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{entries:?}: {error:?}");
        assert!(!data.join("global/pg_control").exists(), "{entries:?}");
        assert!(tree(&outside) == before, "{entries:?}");
        assert_eq!(names(&fixture.path("")), around, "{entries:?}");
    }
}

/// Aim: whoever swaps a directory for a link while it runs makes nothing appear, change or vanish behind the link.
#[test]
fn a_link_that_appears_meanwhile_is_not_followed() {
    let mut swapped = 0;
    for number in 0..8 {
        let fixture = Fixture::new();
        let reader = cluster(&fixture).finish();
        let data = begun(&fixture, &reader).target;
        for name in ["base/1/1259", "base/1/2619"] {
            std::fs::write(data.join(name), "spoilt").unwrap();
        }
        let outside = fixture.path("outside");
        std::fs::create_dir_all(outside.join("1")).unwrap();
        for name in ["1/1259", "1/2619", "1262", "precious"] {
            std::fs::write(outside.join(name), "precious").unwrap();
        }
        let before = tree(&outside);
        let (target, away) = (data.clone(), outside.clone());
        fixture.store.before_read(number, move || {
            for name in ["base", "global", "pg_wal", "pg_tblspc"] {
                let _ = std::fs::rename(target.join(name), target.join(format!("{name}.moved")));
                symlink(&away, target.join(name)).unwrap();
            }
        });
        let result = restore_over(&fixture, &reader, &data);
        assert!(tree(&outside) == before, "read {number}: {result:?}");
        swapped += usize::from(data.join("base.moved").exists());
    }
    assert!(swapped > 1, "some links appeared in the middle");
}

/// Aim: what somebody puts there after the plan was made is not removed, and nothing else is changed; what PostgreSQL makes
/// by itself is no reason to refuse.
#[test]
fn what_came_to_be_there_after_the_plan_is_not_removed() {
    let fixture = Fixture::new();
    let reader = cluster(&fixture).finish();
    let data = begun(&fixture, &reader).target;
    std::fs::write(data.join("known"), "x").unwrap();
    let existing = Existing::look(&data).unwrap().unwrap();
    let layout = run(layout::plan(&data, &[], &[], &reader, Some(&existing))).unwrap();
    let found = run(over::look(&reader, &layout, &existing)).unwrap();
    assert_eq!(found.foreign, ["known"]);
    let as_found = || run(over::must_be_as_found(&reader, &layout, &existing, &found));
    as_found().unwrap();
    std::fs::write(data.join("base/1/99999"), "x").unwrap();
    as_found().unwrap();
    std::fs::rename(data.join("known"), data.join("unknown")).unwrap();
    let error = as_found().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.detail_text().unwrap().starts_with("unknown "), "{error:?}");
}
