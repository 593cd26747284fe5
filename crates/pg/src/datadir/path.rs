//! Paths relative to the data directory, and the one order that they are listed in.
//!
//! Invariant: a [`RelPath`] never leaves the data directory: no leading slash, no empty, `.` or `..` component, no
//! NUL. Order: component by component, each compared as bytes, a directory before its contents (so `a`, `a/b`,
//! `a-b`, although `-` sorts before `/` in ASCII). Names are bytes: PostgreSQL does not promise UTF-8.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pgkeep_base::{Error, Result};

/// A path below the data directory, in bytes; tablespaces are below `pg_tblspc/<oid>/`. Empty for the top itself.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// The data directory itself.
    pub const ROOT: RelPath = RelPath(Vec::new());

    /// # Errors
    /// `Invalid` for a path that is absolute, or has an empty, `.` or `..` component or a NUL.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<RelPath> {
        let bytes = bytes.into();
        let good = |name: &[u8]| !name.is_empty() && name != b"." && name != b".." && !name.contains(&0);
        if bytes.is_empty() || bytes.split(|b| *b == b'/').all(good) {
            return Ok(RelPath(bytes));
        }
        Err(Error::invalid(format!(
            "\"{}\" is not a path below a data directory",
            bytes.escape_ascii()
        )))
    }

    /// The path as bytes, as a manifest stores it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for system calls, relative to the data directory.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Its components, outermost first; none for the top.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }

    /// The path one level down. `name` comes from a directory listing, so it holds neither a slash nor a NUL.
    pub(crate) fn join(&self, name: &[u8]) -> RelPath {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        RelPath(bytes)
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &RelPath) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &RelPath) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of the walk on plain bytes: `/` sorts below every other byte.
pub fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let differ = a.iter().zip(b).position(|(a, b)| a != b);
    match differ {
        Some(at) => rank(&a[at]).cmp(&rank(&b[at])),
        None => a.len().cmp(&b.len()),
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok("") => f.pad("."),
            Ok(text) if !text.contains(char::is_control) => f.pad(text),
            _ => f.pad(&self.0.escape_ascii().to_string()),
        }
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_comes_before_its_contents_and_both_before_its_next_sibling() {
        let mut paths = ["a.b", "a/b", "a-b", "a", "a/b/c", "a/b-c", "b", "a0"].map(|p| RelPath::new(p).unwrap());
        paths.sort();
        let sorted: Vec<String> = paths.iter().map(RelPath::to_string).collect();
        assert_eq!(sorted, ["a", "a/b", "a/b/c", "a/b-c", "a-b", "a.b", "a0", "b"]);
    }

    #[test]
    fn nothing_that_leaves_the_directory_is_a_path() {
        for bad in ["/etc", "..", "a/../b", "a//b", "a/", "./a", "a\0b", "a/."] {
            assert!(RelPath::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(RelPath::new("").unwrap(), RelPath::ROOT);
        assert_eq!(RelPath::ROOT.join(b"base").join(b"1").to_string(), "base/1");
    }
}
