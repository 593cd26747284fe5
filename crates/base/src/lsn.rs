//! Positions in the write-ahead log and the timelines that they lie on.
//!
//! An LSN is a byte position in the WAL of one cluster. It is shown as PostgreSQL shows it, two hexadecimal halves
//! with a slash (`16/B374D848`), in text and in JSON alike.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A byte position in the WAL (PostgreSQL's `XLogRecPtr`). Zero is PostgreSQL's "invalid".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// PostgreSQL's `InvalidXLogRecPtr`.
    pub const INVALID: Lsn = Lsn(0);

    /// True for every position that a record can have.
    pub fn is_valid(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Lsn> {
        let half = |part: &str| {
            let plain = !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| {
                Error::invalid(format!("\"{text}\" is not an LSN"))
                    .hint("Write it as PostgreSQL does, for example `16/B374D848`.")
            })
    }
}

crate::ids::serde_as_text!(Lsn);

/// The number of a timeline, from 1 up. Shown in decimal; eight hexadecimal digits only in file names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline that `initdb` begins.
    pub const FIRST: TimelineId = TimelineId(NonZeroU32::MIN);

    /// `None` for 0, which PostgreSQL never uses.
    pub fn new(number: u32) -> Option<TimelineId> {
        NonZeroU32::new(number).map(TimelineId)
    }

    /// The plain number.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The eight hexadecimal digits that begin the names of its WAL files.
    pub fn hex(self) -> String {
        format!("{:08X}", self.0)
    }

    /// Reads the eight hexadecimal digits of a file name.
    pub fn from_hex(digits: &str) -> Option<TimelineId> {
        let upper_hex = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        upper_hex
            .then(|| u32::from_str_radix(digits, 16).ok())
            .flatten()
            .and_then(TimelineId::new)
    }

    /// The timeline that a promotion would name after this one, if the number is free.
    pub fn next(self) -> Option<TimelineId> {
        self.get().checked_add(1).and_then(TimelineId::new)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimelineId({})", self.0)
    }
}

impl serde::Serialize for TimelineId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_u32(self.get())
    }
}

impl<'de> serde::Deserialize<'de> for TimelineId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let number = u32::deserialize(from)?;
        TimelineId::new(number).ok_or_else(|| serde::de::Error::custom("timeline 0 does not exist"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_back_as_it_is_shown() {
        for lsn in [0, 1, 0x16_B374_D848, u64::MAX] {
            assert_eq!(Lsn(lsn).to_string().parse::<Lsn>().unwrap(), Lsn(lsn));
        }
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
    }

    #[test]
    fn what_is_not_an_lsn_is_refused() {
        for text in ["", "/", "1", "1/", "/1", "1/123456789", "+1/2", "1/2/3", "g/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn timelines_in_names_are_hexadecimal() {
        assert_eq!(TimelineId::new(16).unwrap().hex(), "00000010");
        assert_eq!(TimelineId::from_hex("00000010"), TimelineId::new(16));
        for bad in ["00000000", "1", "0000000g", "0000000a", "+0000001"] {
            assert_eq!(TimelineId::from_hex(bad), None, "{bad}");
        }
    }
}
