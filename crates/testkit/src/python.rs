//! The Python that runs the independent reader (`contrib/reader`), with the packages that it needs.

use std::path::PathBuf;

/// `PGKEEP_READER_PYTHON`, else where `scripts/fetch-reader-python` puts it.
///
/// # Panics
/// When it isn't there: that nobody is held hostage is not shown by skipping.
pub fn reader_python() -> PathBuf {
    let path = match std::env::var_os("PGKEEP_READER_PYTHON") {
        Some(path) => path.into(),
        None => crate::cache_dir().join("reader/python"),
    };
    assert!(
        path.is_file(),
        "the independent reader's Python is not at {}: run scripts/fetch-reader-python, or set PGKEEP_READER_PYTHON to \
         a Python 3.11 or newer that has the packages of contrib/reader/requirements.txt",
        path.display()
    );
    path
}
