//! Names of things: backups, clusters, repositories, and the number that PostgreSQL gives a cluster at `initdb`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::error::{Error, Result};

/// Serialises a type as the text that `Display` and `FromStr` agree on.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;

/// The system identifier of a cluster, made by `initdb`. Shown in decimal; text in JSON, because it exceeds 2^53.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SystemId {
    type Err = Error;
    fn from_str(text: &str) -> Result<SystemId> {
        text.parse()
            .map(SystemId)
            .map_err(|_| Error::invalid(format!("\"{text}\" is not a system identifier")))
    }
}
serde_as_text!(SystemId);

/// Names a backup of any kind: `20261120T101512Z-` and ten characters, of which two are the milliseconds.
///
/// Sorts by time of creation, is unique without asking anyone (forty random bits), and can be typed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TIME_LENGTH: usize = "20261120T101512Z".len();

impl BackupId {
    /// A new id for something that begins at `now`.
    pub fn new(now: Timestamp) -> BackupId {
        BackupId::from_parts(now, rand::random())
    }

    fn from_parts(now: Timestamp, random: u64) -> BackupId {
        let millisecond = now.subsec_millisecond().unsigned_abs() as u64;
        let bits = (millisecond << 40) | (random & 0xFF_FFFF_FFFF);
        let suffix: String = (0..10)
            .rev()
            .map(|i| CROCKFORD[(bits >> (5 * i)) as usize & 31] as char)
            .collect();
        BackupId(format!("{}-{suffix}", now.strftime(COMPACT_TIME)))
    }

    /// When it was made, to the second.
    pub fn time(&self) -> Timestamp {
        parse_compact_time(&self.0[..TIME_LENGTH]).expect("checked when the id was made")
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const COMPACT_TIME: &str = "%Y%m%dT%H%M%SZ";

/// Reads `20261120T101512Z`, and no other spelling: the library would also take a blank for a digit.
pub fn parse_compact_time(text: &str) -> Option<Timestamp> {
    let civil = jiff::civil::DateTime::strptime(COMPACT_TIME, text).ok()?;
    if civil.strftime(COMPACT_TIME).to_string() != text {
        return None;
    }
    civil
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|zoned| zoned.timestamp())
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupId({})", self.0)
    }
}

impl FromStr for BackupId {
    type Err = Error;
    fn from_str(text: &str) -> Result<BackupId> {
        let well_formed = text.is_ascii()
            && text.len() == TIME_LENGTH + 11
            && text.as_bytes()[TIME_LENGTH] == b'-'
            && text.as_bytes()[TIME_LENGTH + 1..].iter().all(|b| CROCKFORD.contains(b))
            && parse_compact_time(&text[..TIME_LENGTH]).is_some();
        if well_formed {
            return Ok(BackupId(text.to_owned()));
        }
        Err(Error::invalid(format!("\"{text}\" is not a backup id")).hint("`pgkeep list` shows the ids."))
    }
}
serde_as_text!(BackupId);

/// The configured name of a cluster: 1 to 63 of `a-z`, `0-9`, `_`, `-`, beginning with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterName({})", self.0)
    }
}

impl FromStr for ClusterName {
    type Err = Error;
    fn from_str(text: &str) -> Result<ClusterName> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = (1..=63).contains(&text.len())
            && letter(text.as_bytes()[0])
            && text.bytes().all(|b| letter(b) || b == b'_' || b == b'-');
        if good {
            return Ok(ClusterName(text.to_owned()));
        }
        Err(Error::invalid(format!("\"{text}\" can't be a cluster name"))
            .detail("a name is 1 to 63 of a-z, 0-9, _ and -, and begins with a letter or digit"))
    }
}
serde_as_text!(ClusterName);

/// Names a repository: 128 random bits, 32 lower-case hexadecimal digits. The same in all its places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryId(u128);

impl RepositoryId {
    /// A new random id.
    pub fn random() -> RepositoryId {
        RepositoryId(rand::random())
    }

    /// The 16 bytes that its hexadecimal digits say, in that order.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RepositoryId({self})")
    }
}

impl FromStr for RepositoryId {
    type Err = Error;
    fn from_str(text: &str) -> Result<RepositoryId> {
        let good = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        good.then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .map(RepositoryId)
            .ok_or_else(|| Error::invalid(format!("\"{text}\" is not a repository id")))
    }
}
serde_as_text!(RepositoryId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_to_the_millisecond() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let earlier = BackupId::from_parts(at("2026-11-20T10:15:12.001Z"), u64::MAX);
        let later = BackupId::from_parts(at("2026-11-20T10:15:12.002Z"), 0);
        assert!(earlier < later);
        assert_eq!(earlier.to_string().parse::<BackupId>().unwrap(), earlier);
        assert_eq!(earlier.time(), at("2026-11-20T10:15:12Z"));
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in [
            "",
            "latest",
            "20261120T101512Z-",
            "20261320T101512Z-0123456789",
            "20261120T10 512Z-0123456789",
            "20261120T101560Z-0123456789",
            "20261120T101512Z-012345678u",
            "../../etc/passwd",
        ] {
            assert!(text.parse::<BackupId>().is_err(), "{text}");
        }
    }

    #[test]
    fn cluster_names_are_safe_in_paths() {
        for good in ["shop", "a", "0-9_x"] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a/b", "..", "a b", "é"] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
    }
}
