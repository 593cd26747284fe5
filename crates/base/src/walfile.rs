//! The kinds of file that PostgreSQL hands to `archive_command` and asks of `restore_command`.
//!
//! Invariant: a name that is none of these belongs to no archive, and is neither pushed nor fetched.

use std::fmt;

use crate::lsn::TimelineId;
use crate::segment::{SegmentSize, WalSegment, is_segment_name};

/// A file name that can occur in a WAL archive, read without knowing the segment size.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WalFile {
    /// A whole segment, 24 digits.
    Segment(String),
    /// `<segment>.partial`: the unfinished last segment of an old timeline, kept by a promotion.
    Partial(String),
    /// `<segment>.<offset>.backup`: where a base backup began and ended.
    BackupHistory(String),
    /// `<timeline>.history`: the ancestors of a timeline.
    History(TimelineId),
}

impl WalFile {
    /// `None` for names that PostgreSQL never archives.
    pub fn parse(name: &str) -> Option<WalFile> {
        if is_segment_name(name) {
            return Some(WalFile::Segment(name.to_owned()));
        }
        if let Some(digits) = name.strip_suffix(".history") {
            return TimelineId::from_hex(digits).map(WalFile::History);
        }
        if let Some(segment) = name.strip_suffix(".partial") {
            return is_segment_name(segment).then(|| WalFile::Partial(name.to_owned()));
        }
        let (segment, offset) = name.strip_suffix(".backup")?.split_once('.')?;
        let hex = offset.len() == 8 && offset.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        (is_segment_name(segment) && hex).then(|| WalFile::BackupHistory(name.to_owned()))
    }

    /// The timeline that the name begins with; `None` where the digits say 0.
    pub fn timeline(&self) -> Option<TimelineId> {
        match self {
            WalFile::History(timeline) => Some(*timeline),
            WalFile::Segment(name) | WalFile::Partial(name) | WalFile::BackupHistory(name) => {
                TimelineId::from_hex(&name[..8])
            }
        }
    }

    /// The segment that the name begins with, where it begins with one that `size` can have.
    pub fn segment(&self, size: SegmentSize) -> Option<WalSegment> {
        match self {
            WalFile::History(_) => None,
            WalFile::Segment(name) | WalFile::Partial(name) | WalFile::BackupHistory(name) => {
                WalSegment::parse(&name[..24], size)
            }
        }
    }
}

impl fmt::Display for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalFile::History(timeline) => write!(f, "{}.history", timeline.hex()),
            WalFile::Segment(name) | WalFile::Partial(name) | WalFile::BackupHistory(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_as_it_is_named() {
        for name in [
            "0000000300000016000000B3",
            "0000000300000016000000B3.partial",
            "0000000300000016000000B3.00000028.backup",
            "0000000A.history",
        ] {
            assert_eq!(WalFile::parse(name).unwrap().to_string(), name);
        }
    }

    #[test]
    fn other_names_are_not_wal_files() {
        for name in [
            "",
            "RECOVERYXLOG",
            "00000001.histor",
            "0000000300000016000000b3",
            "../0000000A.history",
            "0000000300000016000000B3.part",
        ] {
            assert_eq!(WalFile::parse(name), None, "{name}");
        }
    }
}
