//! Notes which servers tests really ran against, for the matrix that `scripts/test` prints and insists on.
//!
//! One line per start in the file that `PGKEEP_TEST_MATRIX` names; nothing without it.

use std::fs::OpenOptions;
use std::io::Write as _;

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
