//! Notes which servers tests really ran against, and what could not be run here, for the matrix that `scripts/test`
//! prints and insists on.
//!
//! One line per start in the file that `PGKEEP_TEST_MATRIX` names; nothing without it.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Notes that something could not be run on this machine: a test that did nothing must not look as if it had passed.
pub fn not_run(what: &str, why: &str) {
    let why = why.lines().next().unwrap_or_default();
    eprintln!("NOT RUN: {what}: {why}");
    note(&format!("NOT RUN: {what}: {why}"));
}

/// Notes one start of `server`, such as `postgres 17.11`.
pub fn note(server: &str) {
    let Some(path) = std::env::var_os("PGKEEP_TEST_MATRIX") else {
        return;
    };
    let noted = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{server}\n").as_bytes()));
    if let Err(error) = noted {
        panic!("note {server} in the file that PGKEEP_TEST_MATRIX names: {error}");
    }
}
