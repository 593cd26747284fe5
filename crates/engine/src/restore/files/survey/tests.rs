//! A restored directory with things in it that the backup doesn't have.

use std::os::unix::fs::symlink;

use super::super::fixture::*;
use super::super::{Making, write_all};
use super::*;
use crate::restore::layout;

/// Notes everything.
#[derive(Default)]
struct Notes {
    surplus: Vec<String>,
    there: Vec<String>,
    missing: Vec<String>,
}

impl Findings for Notes {
    fn surplus(&mut self, surplus: &Surplus<'_>) -> Result<()> {
        self.surplus.push(String::from_utf8(surplus.path.clone()).unwrap());
        Ok(())
    }

    fn file(&mut self, entry: &Entry, there: Option<(&Arc<Directory>, Option<Stat>)>) -> Result<()> {
        let list = match there {
            Some((_, Some(_))) => &mut self.there,
            _ => &mut self.missing,
        };
        list.push(entry.path.to_string());
        Ok(())
    }
}

fn backup(fixture: &Fixture, tablespace_at: &Path) -> BackupReader {
    let mut maker = fixture.backup();
    maker.physical().tablespaces = vec![16_500];
    maker
        .entry(inline("PG_VERSION", b"18\n"))
        .entry(directory("base"))
        .entry(directory("base/1"))
        .file("base/1/1259", &content(1, 70_000))
        .file("base/1/1259_fsm", &content(2, 70_000))
        .entry(inline("base/1-note", b"x"))
        .entry(directory("global"))
        .entry(inline("global/1262", b"databases"))
        .entry(directory("pg_tblspc"))
        .entry(tablespace(16_500, tablespace_at))
        .entry(directory("pg_tblspc/16500/PG_18_202506291"))
        .entry(inline("pg_tblspc/16500/PG_18_202506291/file", b"x"))
        .entry(directory("pg_wal"));
    maker.finish()
}

/// Aim: every name is met once: what the backup has is not surplus, whatever lies beside it; what is outside of the data
/// directory is met only as far as it is PostgreSQL's; no link is followed.
#[test]
fn what_is_too_much_is_met_and_nothing_else() {
    let fixture = Fixture::new();
    let (place, outside) = (fixture.path("place"), fixture.path("outside"));
    let reader = backup(&fixture, &place);
    let layout = run(layout::plan(&fixture.path("data"), &[], &[], &reader, None)).unwrap();
    run(write_all(&fixture.engine, &reader, &layout, 2, async |_: &Path| Ok(()))).unwrap();
    let data = &layout.target;
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("000000010000000000000001"), "").unwrap();
    std::fs::write(outside.join("precious"), "").unwrap();
    for path in [
        "base/1/0",
        "base/1/1259.1",
        "base/1/~",
        "base/1.d",
        "zoo",
        "global/1262x",
        "pg_wal/x",
    ] {
        std::fs::write(data.join(path), "").unwrap();
    }
    std::fs::create_dir_all(data.join("base/2/deep")).unwrap();
    std::fs::write(data.join("base/2/deep/file"), "").unwrap();
    symlink(&outside, data.join("way-out")).unwrap();
    std::fs::remove_file(data.join("base/1/1259_fsm")).unwrap();
    symlink(outside.join("precious"), data.join("base/1/1259_fsm")).unwrap();
    std::fs::write(place.join("precious"), "").unwrap();
    std::fs::create_dir(place.join("PG_17_202406281")).unwrap();
    std::fs::write(place.join("PG_18_202506291/stray"), "").unwrap();

    let open = |path: &Path| Arc::new(Directory::open(path).unwrap());
    let sites = Sites {
        target: open(data),
        tablespaces: BTreeMap::from([(16_500, open(&place))]),
        wal_elsewhere: Some(open(&outside)),
    };
    let mut notes = Notes::default();
    run(survey(&reader, &sites, &mut notes)).unwrap();
    notes.surplus.sort();
    assert_eq!(
        notes.surplus,
        [
            "backup_label",
            "base/1.d",
            "base/1/0",
            "base/1/1259.1",
            "base/1/1259_fsm",
            "base/1/~",
            "base/2",
            "global/1262x",
            "global/pg_control",
            "pg_tblspc/16500/PG_18_202506291/stray",
            "pg_wal/000000010000000000000001",
            "way-out",
            "zoo",
        ]
    );
    assert_eq!(notes.missing, ["base/1/1259_fsm"]);
    assert_eq!(notes.there.len(), 5, "{:?}", notes.there);

    let mut removal = Removal { removed: 0 };
    run(survey(&reader, &sites, &mut removal)).unwrap();
    assert_eq!(removal.removed, 13);
    let mut again = Notes::default();
    run(survey(&reader, &sites, &mut again)).unwrap();
    assert_eq!(again.surplus, [""; 0]);
    assert!(outside.join("precious").exists() && place.join("precious").exists());
    assert!(place.join("PG_17_202406281").exists());
}

/// Aim: a file that is taken over is brought to its length and mode, and is not written to where it has another name.
#[test]
fn a_file_with_a_second_name_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path()).unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    std::fs::write(&one, "shared").unwrap();
    std::fs::hard_link(&one, &two).unwrap();
    let making = Making { mode: 0o640, ids: None };
    let (_, made) = directory.take_over_file(b"one", making, 3).unwrap();
    assert!(made);
    assert_eq!(std::fs::read(&two).unwrap(), b"shared");
    assert_eq!(std::fs::read(&one).unwrap(), [0, 0, 0]);
    std::fs::write(&one, "longer").unwrap();
    let (_, made) = directory.take_over_file(b"one", making, 3).unwrap();
    assert!(!made);
    assert_eq!(std::fs::read(&one).unwrap(), b"lon");
    std::fs::create_dir_all(root.path().join("directory/inner")).unwrap();
    assert!(directory.take_over_file(b"directory", making, 1).unwrap().1);
}
