//! Names of objects: relative keys that every store takes as they are.
//!
//! Invariant: an [`ObjectName`] is a legal, normal path on a file system and a legal S3 key, byte for byte the same.
//! `#` is not in the alphabet: the file store gives it to unfinished writes.

use std::fmt;
use std::str::FromStr;

use pgkeep_base::{Error, Result};

/// The longest name. S3 allows 1024 bytes; the rest is for the prefix in the store's URL.
pub(crate) const NAME_BYTES_MAX: usize = 900;
/// The longest segment, which is what file systems take.
pub(crate) const SEGMENT_BYTES_MAX: usize = 255;

/// The name of an object, relative to the store's URL: segments of `A-Z a-z 0-9 . _ - = + % @`, joined by `/`.
///
/// No empty segment, no `.` or `..`; at most 900 bytes, 255 per segment. Ordered by bytes, as stores list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName(String);

impl ObjectName {
    /// Checks a name.
    ///
    /// # Errors
    /// `Invalid`, naming the rule that it breaks.
    pub fn new(name: impl Into<String>) -> Result<ObjectName> {
        let name = name.into();
        match broken_rule(&name) {
            None => Ok(ObjectName(name)),
            Some(rule) => {
                Err(Error::invalid(format!("\"{}\" is not an object name", name.escape_debug())).detail(rule))
            }
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().expect("a name has at least one segment")
    }

    /// Everything before the last segment; empty for a name of one segment.
    pub fn directory(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(directory, _)| directory)
    }

    /// Whether this name lies below the directory `prefix` (whole segments; everything lies below `""`).
    pub fn is_below(&self, prefix: &str) -> bool {
        prefix.is_empty() || self.0.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// Checks a directory prefix as `list` takes it: empty, or a name with at most one `/` behind it, which is removed.
pub(crate) fn directory_prefix(prefix: &str) -> Result<String> {
    match prefix.strip_suffix('/').unwrap_or(prefix) {
        "" => Ok(String::new()),
        name => ObjectName::new(name).map(String::from),
    }
}

/// Whether this is a legal segment of a name.
pub(crate) fn is_segment(segment: &str) -> bool {
    segment_rule(segment).is_none()
}

fn broken_rule(name: &str) -> Option<&'static str> {
    if name.len() > NAME_BYTES_MAX {
        return Some("it is longer than 900 bytes");
    }
    name.split('/').find_map(segment_rule)
}

fn segment_rule(segment: &str) -> Option<&'static str> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-=+%@".contains(&b);
    match segment {
        "" => Some("it has an empty segment"),
        "." | ".." => Some("it has a segment `.` or `..`"),
        _ if segment.len() > SEGMENT_BYTES_MAX => Some("it has a segment longer than 255 bytes"),
        _ if !segment.bytes().all(legal) => Some("it has a character other than A-Z a-z 0-9 . _ - = + % @ and /"),
        _ => None,
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for ObjectName {
    type Err = Error;
    fn from_str(name: &str) -> Result<ObjectName> {
        ObjectName::new(name)
    }
}

impl TryFrom<String> for ObjectName {
    type Error = Error;
    fn try_from(name: String) -> Result<ObjectName> {
        ObjectName::new(name)
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> String {
        name.0
    }
}

impl AsRef<str> for ObjectName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_every_store_takes_are_names() {
        for good in ["a", "a/b-c_d.e", "%41=+@/..x", ".hidden/x", "a/...", &"x".repeat(255)] {
            assert_eq!(ObjectName::new(good).unwrap().as_str(), good);
        }
        let long = vec!["x".repeat(200); 5].join("/");
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "a/../b",
            "a/./b",
            "a b",
            "a#1",
            "ä",
            "a\n",
            "a\\b",
            &"x".repeat(256),
            &long,
        ] {
            assert!(ObjectName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_is_whole_segments() {
        let name = ObjectName::new("wal/0001/x").unwrap();
        assert!(name.is_below("") && name.is_below("wal") && name.is_below("wal/0001"));
        assert!(!name.is_below("wa") && !name.is_below("wal/00") && !name.is_below("wal/0001/x"));
        assert_eq!((name.directory(), name.file_name()), ("wal/0001", "x"));
    }
}
