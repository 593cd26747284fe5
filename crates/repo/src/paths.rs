//! Paths of a cluster's files: relative, bytewise ordered by component, percent-escaped as text.
//!
//! Invariant: a [`DataPath`] can be joined to any directory without leaving it: it is not empty, not absolute, and has
//! no zero byte and no empty, `.` or `..` component. Nothing outside this module makes one from bytes unchecked.
//! That a path lies below a directory of the same manifest is checked in `manifest::order`.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use pgkeep_base::{Error, Result};

/// The path of a file relative to the data directory; files of a tablespace are under `pg_tblspc/<oid>/`.
///
/// Bytes, not text: PostgreSQL's files have plain names, but what else lies in a data directory may not.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DataPath(Box<[u8]>);

impl DataPath {
    /// Checks a path.
    ///
    /// # Errors
    /// `Invalid`, naming the rule that it breaks.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<DataPath> {
        let bytes = bytes.into();
        match broken_rule(&bytes) {
            None => Ok(DataPath(bytes.into())),
            Some(rule) => {
                Err(Error::invalid(format!("\"{}\" can't be a path in a data directory", escape(&bytes))).detail(rule))
            }
        }
    }

    /// The path as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for the operating system, still relative.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The directory that it lies in; `None` directly below the data directory.
    pub fn parent(&self) -> Option<&[u8]> {
        let slash = self.0.iter().rposition(|&b| b == b'/')?;
        Some(&self.0[..slash])
    }

    /// Whether it lies below `directory` (whole components, not the directory itself).
    pub fn is_below(&self, directory: &[u8]) -> bool {
        self.0
            .strip_prefix(directory)
            .is_some_and(|rest| rest.first() == Some(&b'/'))
    }

    /// The OID if this is where a tablespace is linked: `pg_tblspc/<oid>`.
    pub fn tablespace_oid(&self) -> Option<u32> {
        let digits = std::str::from_utf8(self.0.strip_prefix(b"pg_tblspc/")?).ok()?;
        let oid: u32 = digits.parse().ok()?;
        (oid != 0 && oid.to_string() == digits).then_some(oid)
    }
}

/// Orders paths as manifests do: component by component, bytewise, a directory before what is in it.
pub fn compare(a: &[u8], b: &[u8]) -> Ordering {
    // Equal to comparing lists of components, because no component holds a zero byte.
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    match a.iter().zip(b).find(|(x, y)| x != y) {
        None => a.len().cmp(&b.len()),
        Some((&x, &y)) => rank(x).cmp(&rank(y)),
    }
}

impl Ord for DataPath {
    fn cmp(&self, other: &DataPath) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for DataPath {
    fn partial_cmp(&self, other: &DataPath) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn broken_rule(path: &[u8]) -> Option<&'static str> {
    if path.contains(&0) {
        return Some("it has a zero byte");
    }
    if path.first() == Some(&b'/') {
        return Some("it is absolute");
    }
    path.split(|&b| b == b'/').find_map(|component| match component {
        b"" => Some("it has an empty component"),
        b"." | b".." => Some("it has a component `.` or `..`"),
        _ => None,
    })
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%'
}

/// Writes every byte outside `!`–`~`, and `%`, as `%` and two upper-case hexadecimal digits.
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.iter().all(|&b| is_plain(b)) {
        return Cow::Borrowed(std::str::from_utf8(bytes).expect("printable ASCII is UTF-8"));
    }
    let mut text = String::with_capacity(bytes.len() + 16);
    for &byte in bytes {
        if is_plain(byte) {
            text.push(byte as char);
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(text)
}

/// Reads what [`escape`] wrote.
///
/// # Errors
/// `Invalid` for any other spelling: one path has one text, so that none can hide behind another.
pub fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, tail) = match (first, tail) {
            (b'%', &[high, low, ref tail @ ..]) => (escaped_byte(high, low), tail),
            (b'%', _) => (None, tail),
            (byte, tail) => (is_plain(byte).then_some(byte), tail),
        };
        bytes.push(byte.ok_or_else(|| badly_escaped(text))?);
        rest = tail;
    }
    Ok(bytes)
}

fn escaped_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    };
    let byte = digit(high)? << 4 | digit(low)?;
    (!is_plain(byte)).then_some(byte)
}

fn badly_escaped(text: &str) -> Error {
    Error::invalid(format!("\"{}\" is not an escaped path", text.escape_debug()))
        .detail("every byte outside `!` to `~`, and `%`, is `%` and two upper-case hexadecimal digits, no other is")
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escape(&self.0))
    }
}

impl fmt::Debug for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataPath({self})")
    }
}

impl FromStr for DataPath {
    type Err = Error;
    fn from_str(text: &str) -> Result<DataPath> {
        DataPath::new(unescape(text)?)
    }
}

impl serde::Serialize for DataPath {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_str(&escape(&self.0))
    }
}

impl<'de> serde::Deserialize<'de> for DataPath {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<DataPath, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        text.parse().map_err(|error: Error| match error.detail_text() {
            None => serde::de::Error::custom(error),
            Some(rule) => serde::de::Error::custom(format!("{error}: {rule}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> DataPath {
        text.parse().unwrap()
    }

    #[test]
    fn hostile_paths_are_refused() {
        for bad in [
            &b""[..],
            b"/etc/passwd",
            b"/",
            b".",
            b"..",
            b"../x",
            b"base/../../x",
            b"base/./1",
            b"base//1",
            b"base/",
            b"base/..",
            b"a\0b",
        ] {
            assert!(DataPath::new(bad).is_err(), "{bad:?}");
        }
        for good in [&b"a"[..], b"...", b"..a/.b", b"a b/\xff\n", b"base/5/1259.1_fsm"] {
            assert_eq!(DataPath::new(good).unwrap().as_bytes(), good);
        }
    }

    #[test]
    fn one_path_has_one_text() {
        assert_eq!(DataPath::new(&b"a b%\xff~!"[..]).unwrap().to_string(), "a%20b%25%FF~!");
        for bad in [
            "%41", "a%2Fb", "%2e%2e", "%2E%2E", "%", "%2", "%ff", "a b", "é", "%00", "a%GG",
        ] {
            assert!(bad.parse::<DataPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_comes_before_what_is_in_it_and_both_before_longer_names() {
        let sorted = ["a", "a/b", "a/b/c", "a/b-", "a-b", "a.b", "a0", "b"];
        for pair in sorted.windows(2) {
            assert!(path(pair[0]) < path(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn parents_and_tablespaces_are_told_apart() {
        assert_eq!(path("base/5/1259").parent(), Some(&b"base/5"[..]));
        assert_eq!(path("base").parent(), None);
        assert!(
            path("base/5").is_below(b"base") && !path("base2").is_below(b"base") && !path("base").is_below(b"base")
        );
        assert_eq!(path("pg_tblspc/16400").tablespace_oid(), Some(16400));
        for not in [
            "pg_tblspc/0",
            "pg_tblspc/016",
            "pg_tblspc/1/2",
            "pg_tblspc/x",
            "pg_tblspc",
            "pg_tblspc/+1",
        ] {
            assert_eq!(path(not).tablespace_oid(), None, "{not}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_read_back_as_they_were_escaped(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unescape(&escape(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn order_is_that_of_lists_of_components(
            a in proptest::collection::vec("[a/.\\-0]{1,3}", 1..4),
            b in proptest::collection::vec("[a/.\\-0]{1,3}", 1..4),
        ) {
            let (a, b) = (a.concat().into_bytes(), b.concat().into_bytes());
            let parts = |path: &[u8]| path.split(|&b| b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
            prop_assert_eq!(compare(&a, &b), parts(&a).cmp(&parts(&b)));
        }
    }
}
