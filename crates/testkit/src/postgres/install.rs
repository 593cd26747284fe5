//! Finds the PostgreSQL programs that `scripts/fetch-postgres` fetched.

use std::path::PathBuf;

use pgkeep_base::PgMajor;

use crate::run::Run;

/// Every supported major, oldest first.
///
/// # Panics
/// When one of them is not installed: tests of all majors that ran on some would be a lie.
pub fn majors() -> Vec<u16> {
    PgMajor::all()
        .map(PgMajor::get)
        .inspect(|major| {
            bin_dir(*major);
        })
        .collect()
}

/// The directory of the programs of `major`: below `PGKEEP_PG_DIR`, else where `scripts/fetch-postgres` puts them.
///
/// # Panics
/// When it isn't there.
pub fn bin_dir(major: u16) -> PathBuf {
    let dir = root().join(major.to_string()).join("bin");
    assert!(
        dir.join("postgres").is_file(),
        "PostgreSQL {major} is not in {}: run scripts/fetch-postgres, or set PGKEEP_PG_DIR to the directory that \
         holds 14 to 18",
        dir.display()
    );
    dir
}

/// `name` of `major` (`psql`, `pg_dump`, …), ready to run: these builds look for their own libraries only when told.
/// All times are UTC, those of libpq's sessions as well as those that programs print by themselves.
pub fn program(major: u16, name: &str) -> Run {
    let bin = bin_dir(major);
    Run::new(bin.join(name))
        .env("LD_LIBRARY_PATH", library_dir(major))
        .env("PGTZ", "UTC")
        .env("TZ", "UTC")
}

/// What `LD_LIBRARY_PATH` must name, else `libpqwalreceiver` loads the system's libpq.
pub(super) fn library_dir(major: u16) -> PathBuf {
    bin_dir(major).with_file_name("lib")
}

fn root() -> PathBuf {
    if let Some(dir) = std::env::var_os("PGKEEP_PG_DIR") {
        return dir.into();
    }
    crate::cache_dir().join("postgres")
}
