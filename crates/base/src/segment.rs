//! WAL segments: the unit in which PostgreSQL archives its WAL.
//!
//! A segment's name is three groups of eight hexadecimal digits: timeline, and its number split by how many segments
//! make 4 GiB (`src/include/access/xlog_internal.h`), so that a name means nothing without the cluster's segment size.

use std::fmt;

use crate::error::{Error, Result};
use crate::lsn::{Lsn, TimelineId};

/// `wal_segment_size`: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// PostgreSQL's default, 16 MiB.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// # Errors
    /// `Invalid` unless `bytes` is a power of two from 1 MiB to 1 GiB.
    pub fn new(bytes: u32) -> Result<SegmentSize> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            return Ok(SegmentSize(bytes));
        }
        Err(Error::invalid(format!(
            "{bytes} bytes is not a WAL segment size (a power of two from 1 MiB to 1 GiB)"
        )))
    }

    /// Size in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// How many segments share the middle eight digits of a name.
    fn per_group(self) -> u64 {
        0x1_0000_0000 / self.bytes()
    }

    /// Number of the segment that holds the byte at `lsn`.
    pub fn number_of(self, lsn: Lsn) -> u64 {
        lsn.0 / self.bytes()
    }

    /// Number of the segment that holds the last byte before `lsn`: where a record that ends at `lsn` ends.
    pub fn number_before(self, lsn: Lsn) -> u64 {
        lsn.0.saturating_sub(1) / self.bytes()
    }
}

impl TryFrom<u32> for SegmentSize {
    type Error = Error;
    fn try_from(bytes: u32) -> Result<SegmentSize> {
        SegmentSize::new(bytes)
    }
}

impl From<SegmentSize> for u32 {
    fn from(size: SegmentSize) -> u32 {
        size.0
    }
}

impl fmt::Debug for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentSize({})", self.0)
    }
}

/// One segment of one timeline, with the segment size that its number counts in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WalSegment {
    /// The timeline in its name (the one in its page headers may be an ancestor).
    pub timeline: TimelineId,
    /// Its place in the WAL: start LSN divided by the segment size.
    pub number: u64,
    /// The cluster's segment size.
    pub size: SegmentSize,
}

impl WalSegment {
    /// The segment of `timeline` that holds the byte at `lsn`.
    pub fn at(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> WalSegment {
        WalSegment {
            timeline,
            number: size.number_of(lsn),
            size,
        }
    }

    /// Reads a 24-digit name; `None` for anything else, also for names that `size` can't have, and for the last of all
    /// segments, whose end is no LSN.
    pub fn parse(name: &str, size: SegmentSize) -> Option<WalSegment> {
        if !is_segment_name(name) {
            return None;
        }
        let timeline = TimelineId::from_hex(&name[..8])?;
        let group = u64::from_str_radix(&name[8..16], 16).ok()?;
        let within = u64::from_str_radix(&name[16..], 16).ok()?;
        let segment = WalSegment {
            timeline,
            number: group * size.per_group() + within,
            size,
        };
        (within < size.per_group() && segment.has_end()).then_some(segment)
    }

    /// The 24-digit file name.
    pub fn name(&self) -> String {
        let per_group = self.size.per_group();
        format!(
            "{:08X}{:08X}{:08X}",
            self.timeline.get(),
            self.number / per_group,
            self.number % per_group
        )
    }

    /// LSN of its first byte.
    pub fn start(&self) -> Lsn {
        Lsn(self.number * self.size.bytes())
    }

    /// LSN of the first byte after it; the greatest LSN where there is none.
    pub fn end(&self) -> Lsn {
        Lsn(self.start().0.saturating_add(self.size.bytes()))
    }

    /// Whether the first byte after it has an LSN. Nothing that comes from outside names a segment where it has none.
    pub fn has_end(&self) -> bool {
        self.number < u64::MAX / self.size.bytes()
    }

    /// The segment that follows it on the same timeline.
    pub fn next(&self) -> WalSegment {
        WalSegment {
            number: self.number + 1,
            ..*self
        }
    }
}

impl fmt::Display for WalSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// True for 24 upper-case hexadecimal digits.
pub fn is_segment_name(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_segment_size() {
        let one_mib = SegmentSize::new(1 << 20).unwrap();
        let timeline = TimelineId::new(3).unwrap();
        let segment = WalSegment::at(timeline, Lsn(0x16_B374_D848), SegmentSize::DEFAULT);
        assert_eq!(segment.name(), "0000000300000016000000B3");
        assert_eq!(WalSegment::parse(&segment.name(), SegmentSize::DEFAULT), Some(segment));
        let small = WalSegment::at(timeline, Lsn(0x16_B374_D848), one_mib);
        assert_eq!(small.name(), "000000030000001600000B37");
        assert_eq!(
            WalSegment::parse(&small.name(), SegmentSize::DEFAULT),
            None,
            "0xB37 segments of 16 MiB exceed 4 GiB"
        );
        assert_eq!(segment.end(), segment.next().start());
    }

    #[test]
    fn the_last_of_all_segments_is_no_name() {
        let parse = |name| WalSegment::parse(name, SegmentSize::DEFAULT);
        let last = parse("00000001FFFFFFFF000000FE").unwrap();
        assert_eq!((last.end(), last.has_end()), (Lsn(u64::MAX - (16 << 20) + 1), true));
        assert_eq!(parse("00000001FFFFFFFF000000FF"), None);
        assert_eq!((last.next().end(), last.next().has_end()), (Lsn(u64::MAX), false));
    }

    #[test]
    fn a_record_that_ends_on_the_border_lies_in_the_segment_before() {
        assert_eq!(SegmentSize::DEFAULT.number_before(Lsn(16 << 20)), 0);
        assert_eq!(SegmentSize::DEFAULT.number_of(Lsn(16 << 20)), 1);
    }

    #[test]
    fn odd_sizes_are_refused() {
        for bytes in [0, 1, 1 << 19, 3 << 20, 1 << 31] {
            assert!(SegmentSize::new(bytes).is_err(), "{bytes}");
        }
    }
}
