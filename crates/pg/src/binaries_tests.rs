//! Claims about finding PostgreSQL's programs, on machines made of directories and scripts.

use std::os::unix::fs::PermissionsExt;

use super::*;
use pgkeep_base::ErrorKind;

/// A directory of scripts that say the version of a program.
fn install(dir: &Path, version: &str) {
    std::fs::create_dir_all(dir).unwrap();
    for program in ["postgres", "initdb", "psql", "pg_dump", "pg_restore"] {
        let file = dir.join(program);
        std::fs::write(
            &file,
            format!("#!/bin/sh\necho '{program} (PostgreSQL) {version} (made up)'\n"),
        )
        .unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Machine {
        Machine(tempfile::tempdir().unwrap())
    }

    fn dir(&self, name: &str) -> PathBuf {
        std::fs::canonicalize(self.0.path()).unwrap().join(name)
    }

    fn search<'a>(&self, major: Option<u16>) -> Search<'a> {
        Search {
            layout: Layout {
                debian: self.dir("debian"),
                pgdg: self.dir("pgdg"),
            },
            ..Search::new(Purpose::Server, major.map(|major| PgMajor::new(major).unwrap()))
        }
    }
}

#[test]
fn the_asked_major_is_found_in_the_packages_directories() {
    let machine = Machine::new();
    install(&machine.dir("debian/15/bin"), "15.19");
    install(&machine.dir("pgdg/pgsql-17/bin"), "17.11");
    let found = machine.search(Some(17)).find().unwrap();
    assert_eq!(
        (found.bin_dir(), found.version()),
        (machine.dir("pgdg/pgsql-17/bin").as_path(), "17.11")
    );
    assert_eq!(
        machine.search(None).find().unwrap().major().get(),
        17,
        "the newest, if none is asked for"
    );
    assert_eq!(machine.search(Some(15)).find().unwrap().major().get(), 15);
}

#[test]
fn a_directory_of_another_major_is_passed_over_and_named() {
    let machine = Machine::new();
    install(&machine.dir("debian/16/bin"), "15.19");
    let error = machine.search(Some(16)).find().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.detail_text().unwrap().contains("holds PostgreSQL 15.19"),
        "{error:?}"
    );
    assert!(error.hint_text().unwrap().contains("postgresql-16"));
}

#[test]
fn the_configured_directory_is_the_only_one() {
    let machine = Machine::new();
    install(&machine.dir("debian/17/bin"), "17.11");
    install(&machine.dir("mine"), "17.2");
    let (mine, empty) = (machine.dir("mine"), machine.dir("empty"));
    let mut search = machine.search(Some(17));
    search.configured = Some(&mine);
    assert_eq!(search.find().unwrap().version(), "17.2");
    search.configured = Some(&empty);
    assert_eq!(search.find().unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_link_in_path_leads_to_the_installation() {
    let machine = Machine::new();
    install(&machine.dir("opt/18/bin"), "18.6");
    let path = machine.dir("path");
    std::fs::create_dir(&path).unwrap();
    std::os::unix::fs::symlink(machine.dir("opt/18/bin/postgres"), path.join("postgres")).unwrap();
    let mut search = machine.search(Some(18));
    search.path = Some(path.as_os_str());
    assert_eq!(search.find().unwrap().bin_dir(), machine.dir("opt/18/bin"));
}

#[test]
fn a_build_with_its_own_libpq_gets_its_libraries() {
    let machine = Machine::new();
    install(&machine.dir("debian/14/bin"), "14.23");
    assert!(machine.search(Some(14)).find().unwrap().environment().is_empty());
    std::fs::create_dir(machine.dir("debian/14/lib")).unwrap();
    std::fs::write(machine.dir("debian/14/lib/libpq.so.5"), "").unwrap();
    let environment = machine.search(Some(14)).find().unwrap().environment();
    assert_eq!(environment["LD_LIBRARY_PATH"], machine.dir("debian/14/lib"));
}

#[test]
fn a_program_that_is_not_postgresql_is_no_candidate() {
    let machine = Machine::new();
    let dir = machine.dir("debian/14/bin");
    install(&dir, "14.23");
    std::fs::write(dir.join("postgres"), "#!/bin/sh\necho hello\n").unwrap();
    let error = machine.search(Some(14)).find().unwrap_err();
    assert!(error.detail_text().unwrap().contains("it says \"hello\""), "{error:?}");
}
