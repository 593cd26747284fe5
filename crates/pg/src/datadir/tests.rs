//! Tests of the walk on directories made by hand; real clusters are walked in `tests/it/files`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;

use pgkeep_base::ErrorKind;

use super::*;

mod links;

const VERSION_DIRECTORY: &str = "PG_17_202406281";

/// A data directory that is as empty as one can be.
struct Fake {
    outside: tempfile::TempDir,
}

impl Fake {
    fn new() -> Fake {
        let fake = Fake {
            outside: tempfile::tempdir().unwrap(),
        };
        fake.file("PG_VERSION", "17\n");
        fs::create_dir_all(fake.path("global")).unwrap();
        fs::write(fake.path("global/pg_control"), crate::control::tests::sample(17)).unwrap();
        fs::create_dir(fake.path("pg_tblspc")).unwrap();
        fake
    }

    fn root(&self) -> PathBuf {
        self.outside.path().join("data")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    fn file(&self, path: &str, content: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), content).unwrap();
    }

    fn files(&self, paths: &[&str]) {
        for path in paths {
            self.file(path, "x");
        }
    }

    /// Makes a location outside of the data directory and returns it.
    fn location(&self, name: &str) -> PathBuf {
        let location = self.outside.path().join(name);
        fs::create_dir_all(location.join(VERSION_DIRECTORY).join("5")).unwrap();
        location
    }

    fn tablespace(&self, oid: u32, target: &Path) {
        symlink(target, self.path(&format!("pg_tblspc/{oid}"))).unwrap();
    }

    fn open(&self) -> DataDir {
        DataDir::open(&self.root()).unwrap()
    }

    fn walk(&self) -> Vec<Found> {
        self.open().walk().unwrap().map(Result::unwrap).collect()
    }

    /// Paths of all entries, in order; directories end in a slash.
    fn listing(&self) -> Vec<String> {
        let entries = self.walk().into_iter().filter_map(|found| match found {
            Found::Entry(entry) => Some(entry),
            Found::Skipped { .. } => None,
        });
        entries
            .map(|entry| match entry.kind {
                EntryKind::Directory => format!("{}/", entry.path),
                EntryKind::Tablespace(_) => format!("{}@", entry.path),
                EntryKind::File { .. } => entry.path.to_string(),
            })
            .collect()
    }

    fn walk_error(&self) -> Error {
        let walk = self.open().walk().unwrap();
        walk.filter_map(Result::err).next().expect("the walk fails")
    }

    fn entry(&self, path: &str) -> Entry {
        let found = self.walk().into_iter().find_map(|found| match found {
            Found::Entry(entry) if entry.path.to_string() == path => Some(entry),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no {path}"))
    }
}

#[test]
fn everything_is_listed_in_order_but_what_the_table_excludes() {
    let fake = Fake::new();
    fake.files(&[
        "base/5/16384",
        "base/5/16384.1",
        "base/5/16384_fsm",
        "base/5/pg_filenode.map",
        "base/5/pg_internal.init",
        "base/5/pg_internal.init.77",
        "base/5/t3_16999",
        "base/5/t3_16999_fsm.1",
        "base/5/pgsql_tmp1.2",
        "base/pgsql_tmp/pgsql_tmp1.2",
        "base/5-note",
        "global/1262",
        "global/pg_internal.init",
        "pg_wal/000000030000001600000003",
        "pg_wal/archive_status/000000030000001600000003.ready",
        "pg_wal/summaries/x.summary",
        "pg_replslot/slot/state",
        "pg_notify/0000",
        "pg_dynshmem/mmap.1",
        "pg_serial/0000",
        "pg_snapshots/1",
        "pg_stat_tmp/a.stat",
        "pg_subtrans/0000",
        "pg_stat/pgstat.stat",
        "pg_multixact/offsets/0000",
        "postmaster.pid",
        "postmaster.opts",
        "backup_label",
        "backup_label.old",
        "tablespace_map",
        "tablespace_map.old",
        "backup_manifest",
        "standby.signal",
        "recovery.signal",
        "postgresql.auto.conf",
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "user/postmaster.pid",
        ".pgkeep/plan.json",
        ".pgkeep-restore",
        ".hidden",
    ]);
    let expected = "\
        .hidden PG_VERSION base/ base/5/ base/5/16384 base/5/16384.1 base/5/16384_fsm base/5/pg_filenode.map \
        base/5-note global/ global/1262 global/pg_control pg_dynshmem/ pg_multixact/ pg_multixact/offsets/ \
        pg_multixact/offsets/0000 pg_notify/ pg_replslot/ pg_serial/ pg_snapshots/ pg_stat/ pg_stat/pgstat.stat \
        pg_stat_tmp/ pg_subtrans/ pg_tblspc/ pg_wal/ pg_wal/archive_status/ pg_wal/summaries/ postgresql.auto.conf \
        user/ user/postmaster.pid";
    let listing = fake.listing();
    assert_eq!(listing, expected.split_whitespace().collect::<Vec<_>>());
    let paths: Vec<RelPath> = fake
        .walk()
        .into_iter()
        .map(|found| match found {
            Found::Entry(entry) => entry.path,
            Found::Skipped { path, .. } => path,
        })
        .collect();
    assert!(paths.is_sorted(), "the walk keeps the order that RelPath defines");
    assert_eq!(fake.entry("global/pg_control").class, Class::Control);
    assert!(matches!(fake.entry("global/1262").class, Class::Relation(_)));
    assert_eq!(fake.entry("pg_multixact/offsets/0000").class, Class::Other);
}

#[test]
fn unlogged_relations_leave_only_their_init_fork() {
    let fake = Fake::new();
    let location = fake.location("ts");
    fake.tablespace(16400, &location);
    for file in ["20000", "20000_init"] {
        fs::write(location.join(VERSION_DIRECTORY).join("5").join(file), "x").unwrap();
    }
    fake.files(&[
        "base/5/16384",
        "base/5/16384.1",
        "base/5/16384_fsm",
        "base/5/16384_vm",
        "base/5/16384_init",
        "base/5/163840",
        "base/5/1638",
        "base/6/16384",
        "user/16384",
        "user/16384_init",
    ]);
    let files: Vec<String> = fake
        .listing()
        .into_iter()
        .filter(|path| path.contains("/5/") || path.contains("16384"))
        .collect();
    assert_eq!(
        files,
        [
            "base/5/",
            "base/5/1638",
            "base/5/163840",
            "base/5/16384_init",
            "base/6/16384",
            "pg_tblspc/16400/PG_17_202406281/5/",
            "pg_tblspc/16400/PG_17_202406281/5/20000_init",
            "user/16384",
            "user/16384_init",
        ]
    );
}

#[test]
fn what_holds_no_bytes_is_reported() {
    let fake = Fake::new();
    let fifo = fake.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(fake.path(".s.PGSQL.5432")).unwrap();
    let mut skipped = fake.walk();
    skipped.retain(|found| matches!(found, Found::Skipped { reason, .. } if reason.is_notable()));
    let expected = [(".s.PGSQL.5432", SkipReason::Socket), ("fifo", SkipReason::Fifo)].map(|(path, reason)| {
        let path = RelPath::new(path).unwrap();
        Found::Skipped { path, reason }
    });
    assert_eq!(skipped, expected);
}

#[test]
fn what_vanishes_during_the_walk_is_no_error() {
    let fake = Fake::new();
    fake.files(&["base/5/16384", "base/5/16385", "base/6/16384", "z"]);
    let data_dir = fake.open();
    let walk = data_dir.walk().unwrap();
    let mut seen = Vec::new();
    for found in walk {
        let Found::Entry(entry) = found.unwrap() else {
            seen.push("vanished".to_owned());
            continue;
        };
        if entry.path.to_string() == "base/5/16384" {
            fs::remove_file(fake.path("base/5/16385")).unwrap();
            fs::remove_dir_all(fake.path("base/6")).unwrap();
            fs::remove_file(fake.path("base/5/16384")).unwrap();
            assert!(data_dir.open_file(&entry).unwrap().is_none());
        }
        seen.push(entry.path.to_string());
    }
    let from = seen.iter().position(|path| path == "base/5/16384").unwrap();
    assert_eq!(seen[from + 1..from + 3], ["vanished", "vanished"]);
    assert_eq!(seen.last().unwrap(), "z");
}

#[test]
fn what_took_the_place_of_a_file_is_not_read() {
    let fake = Fake::new();
    fake.files(&["base/5/16384", "base/5/16385"]);
    let data_dir = fake.open();
    let (first, second) = (fake.entry("base/5/16384"), fake.entry("base/5/16385"));
    fs::remove_file(fake.path("base/5/16384")).unwrap();
    let fifo = fake.path("base/5/16384");
    rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(data_dir.open_file(&first).unwrap_err().kind(), ErrorKind::Refused);
    fs::remove_file(fake.path("base/5/16385")).unwrap();
    symlink("/etc/passwd", fake.path("base/5/16385")).unwrap();
    assert_eq!(data_dir.open_file(&second).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn names_may_be_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let fake = Fake::new();
    let name = b"new\nline \xff'\"";
    fs::write(fake.root().join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    let found = fake.walk().into_iter().any(|found| match found {
        Found::Entry(entry) => entry.path.as_bytes() == name && fake.open().open_file(&entry).unwrap().is_some(),
        Found::Skipped { .. } => false,
    });
    assert!(found);
}

#[test]
fn modes_times_and_identity_are_told() {
    let fake = Fake::new();
    fake.file("base/5/16384", "x");
    fs::set_permissions(fake.path("base/5/16384"), fs::Permissions::from_mode(0o640)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 123_456_789);
    fs::File::options()
        .write(true)
        .open(fake.path("base/5/16384"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    let entry = fake.entry("base/5/16384");
    assert_eq!(entry.mode, 0o640);
    assert_eq!(entry.mtime_ns, 1_700_000_000_123_456_789);
    assert!(entry.ctime_ns > entry.mtime_ns && entry.inode != 0);
    fs::set_permissions(fake.root(), fs::Permissions::from_mode(0o750)).unwrap();
    let root = fake.open().root_entry().unwrap();
    assert_eq!((root.mode, root.path), (0o750, RelPath::ROOT));
}

#[test]
fn what_is_no_data_directory_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(DataDir::open(empty.path()).unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(
        DataDir::open(&empty.path().join("x")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let fake = Fake::new();
    fs::remove_file(fake.path("global/pg_control")).unwrap();
    assert_eq!(DataDir::open(&fake.root()).unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn endless_nesting_ends() {
    let fake = Fake::new();
    fs::create_dir_all(fake.path(&["d"; 100].join("/"))).unwrap();
    assert_eq!(fake.walk_error().kind(), ErrorKind::Unsupported);
}

/// Aim: a directory that can't be read fails the walk and is named (K30).
/// Method: root reads everything, so the test runs itself again as an ordinary user.
#[test]
fn an_unreadable_directory_fails_the_walk() {
    const NOBODY: u32 = 65534;
    if rustix::process::geteuid().is_root() {
        let ours = std::env::current_exe().unwrap();
        let copy = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempfile_in("/tmp")
            .unwrap();
        fs::copy(ours, copy.path()).unwrap();
        let program = copy.into_temp_path();
        let mut command = std::process::Command::new(&program);
        command.args(["--exact", "datadir::tests::an_unreadable_directory_fails_the_walk"]);
        let output = command
            .current_dir("/tmp")
            .env("TMPDIR", "/tmp")
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let fake = Fake::new();
    fake.files(&["base/5/16384", "base/6/16384"]);
    let closed = fake.path("base/6");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let error = fake.walk_error();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.detail_text().unwrap().contains("base/6"), "{error:?}");

    let entry = fake.entry("base/5/16384");
    fs::set_permissions(fake.path("base/5/16384"), fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(fake.open().open_file(&entry).unwrap_err().kind(), ErrorKind::Denied);
}
