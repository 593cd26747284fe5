//! Page headers: every block of WAL begins with one, and the first of a segment also says whose it is.
//!
//! Invariant: a [`SegmentHeader`] has sizes that PostgreSQL can have, so that nothing below divides by zero or
//! allocates by an unchecked number. Page headers carry no checksum: what they say is cross-checked by `walker`.

use pgkeep_base::{Error, Lsn, PgMajor, Result, SegmentSize, SystemId, TimelineId};

use super::bytes::{u16_at, u32_at, u64_at};

/// `XLP_FIRST_IS_CONTRECORD`: the page begins inside a record.
pub(super) const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// `XLP_LONG_HEADER`: the header of a segment's first page.
pub(super) const LONG_HEADER: u16 = 0x0002;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: the record that should go on here was given up.
pub(super) const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

pub(super) const SHORT_HEADER_BYTES: usize = 24;
pub(super) const LONG_HEADER_BYTES: usize = 40;

/// `XLOG_PAGE_MAGIC` of the releases that have existed since 9.5.
const MAGICS: [(u16, &str); 11] = [
    (0xD087, "9.5"),
    (0xD093, "9.6"),
    (0xD097, "10"),
    (0xD098, "11"),
    (0xD101, "12"),
    (0xD106, "13"),
    (0xD10D, "14"),
    (0xD110, "15"),
    (0xD113, "16"),
    (0xD116, "17"),
    (0xD118, "18"),
];

/// What the first page of a segment says about the whole file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The major that writes this page magic.
    pub major: PgMajor,
    /// `XLOG_PAGE_MAGIC`.
    pub page_magic: u16,
    /// `xlp_info`: see `access/xlog_internal.h`.
    pub flags: u16,
    /// The cluster that wrote it.
    pub system_id: SystemId,
    /// `wal_segment_size`.
    pub segment_size: SegmentSize,
    /// `XLOG_BLCKSZ`, 8192 unless PostgreSQL was built otherwise.
    pub block_bytes: u32,
    /// The timeline of the first page; an ancestor of the file's timeline in the first segment after a promotion.
    pub page_timeline: TimelineId,
    /// Where the segment begins (`xlp_pageaddr`).
    pub start: Lsn,
    /// Bytes that are still missing from a record that began in an earlier segment; 0 when none did.
    pub continued_bytes: u32,
}

impl SegmentHeader {
    /// True if a record was left unfinished before this segment and never continued
    /// (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`): an `XLOG_OVERWRITE_CONTRECORD` record stands in its place.
    pub fn drops_unfinished(&self) -> bool {
        self.flags & FIRST_IS_OVERWRITE_CONTRECORD != 0
    }
}

/// Reads the header of a segment's first page; its first 40 bytes suffice.
///
/// # Errors
/// `Unsupported` when the page magic is that of a major before 14; `Corrupt` when this is not the first page of a WAL
/// segment, with what it looks like instead.
pub fn read_segment_header(first_page: &[u8]) -> Result<SegmentHeader> {
    let corrupt = |why: String| Error::corrupt("this is not the first page of a WAL segment").detail(why);
    let Some(header) = PageHeader::read(first_page).filter(|_| first_page.len() >= LONG_HEADER_BYTES) else {
        return Err(corrupt(format!(
            "{} bytes are shorter than its header of {LONG_HEADER_BYTES}",
            first_page.len()
        )));
    };
    let major = major_of(header.magic).map_err(|problem| match problem {
        MagicProblem::Unsupported(release) => {
            Error::unsupported(format!("WAL of PostgreSQL {release} is not supported")).detail(format!(
                "page magic {:04X}; this pgkeep knows PostgreSQL {} to {}",
                header.magic,
                PgMajor::OLDEST,
                PgMajor::NEWEST
            ))
        }
        MagicProblem::Unknown => corrupt(describe_magic(header.magic, &first_page[..LONG_HEADER_BYTES])),
    })?;
    let long = LongHeader::read(first_page).expect("the length was checked above");
    header.check_flags().map_err(corrupt)?;
    if !header.is_long() {
        return Err(corrupt(format!(
            "page header at {} has no long form (flags {:04X})",
            header.address, header.flags
        )));
    }
    let segment_size = SegmentSize::new(long.segment_bytes)
        .map_err(|_| corrupt(format!("segment size {} is out of range", long.segment_bytes)))?;
    if !(long.block_bytes.is_power_of_two() && (1024..=65536).contains(&long.block_bytes)) {
        return Err(corrupt(format!("WAL block size {} is out of range", long.block_bytes)));
    }
    if !header.address.0.is_multiple_of(segment_size.bytes()) {
        return Err(corrupt(format!(
            "page address {} is not the start of a segment of {} bytes",
            header.address, long.segment_bytes
        )));
    }
    if header.address.0.checked_add(segment_size.bytes()).is_none() {
        return Err(corrupt(format!(
            "page address {} is where no WAL can be",
            header.address
        )));
    }
    Ok(SegmentHeader {
        major,
        page_magic: header.magic,
        flags: header.flags,
        system_id: long.system_id,
        segment_size,
        block_bytes: long.block_bytes,
        page_timeline: TimelineId::new(header.timeline).ok_or_else(|| corrupt("its timeline is 0".into()))?,
        start: header.address,
        continued_bytes: header.continued_bytes(),
    })
}

enum MagicProblem {
    Unsupported(&'static str),
    Unknown,
}

fn major_of(magic: u16) -> Result<PgMajor, MagicProblem> {
    let (_, release) = MAGICS
        .iter()
        .find(|(known, _)| *known == magic)
        .ok_or(MagicProblem::Unknown)?;
    release
        .parse()
        .ok()
        .and_then(|major| PgMajor::new(major).ok())
        .ok_or(MagicProblem::Unsupported(release))
}

/// Says in words what stands where a page magic should.
pub(super) fn describe_magic(magic: u16, header: &[u8]) -> String {
    if header.iter().all(|byte| *byte == 0) {
        return "it is all zeroes".into();
    }
    if let Some((_, release)) = MAGICS.iter().find(|(known, _)| *known == magic) {
        return format!("page magic {magic:04X} is that of PostgreSQL {release}");
    }
    if MAGICS.iter().any(|(known, _)| known.swap_bytes() == magic) {
        return format!("page magic {magic:04X} is that of a big-endian machine");
    }
    format!("page magic {magic:04X} is not that of any known PostgreSQL")
}

/// `XLogPageHeaderData`, the 24 bytes that every page begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageHeader {
    pub magic: u16,
    pub flags: u16,
    pub timeline: u32,
    pub address: Lsn,
    pub remaining_bytes: u32,
}

impl PageHeader {
    pub(super) fn read(page: &[u8]) -> Option<PageHeader> {
        Some(PageHeader {
            magic: u16_at(page, 0)?,
            flags: u16_at(page, 2)?,
            timeline: u32_at(page, 4)?,
            address: Lsn(u64_at(page, 8)?),
            remaining_bytes: u32_at(page, 16)?,
        })
        .filter(|_| page.len() >= SHORT_HEADER_BYTES)
    }

    pub(super) fn is_long(&self) -> bool {
        self.flags & LONG_HEADER != 0
    }

    pub(super) fn begins_inside_a_record(&self) -> bool {
        self.flags & FIRST_IS_CONTRECORD != 0
    }

    pub(super) fn drops_unfinished(&self) -> bool {
        self.flags & FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// Bytes of an earlier record that are still missing where this page begins.
    pub(super) fn continued_bytes(&self) -> u32 {
        if self.begins_inside_a_record() {
            self.remaining_bytes
        } else {
            0
        }
    }

    pub(super) fn bytes(&self) -> usize {
        if self.is_long() {
            LONG_HEADER_BYTES
        } else {
            SHORT_HEADER_BYTES
        }
    }

    pub(super) fn check_flags(&self) -> Result<(), String> {
        if self.flags & !ALL_FLAGS != 0 {
            return Err(format!("page flags {:04X} are not known", self.flags));
        }
        Ok(())
    }
}

/// What `XLogLongPageHeaderData` adds.
#[derive(Clone, Copy, Debug)]
pub(super) struct LongHeader {
    pub system_id: SystemId,
    pub segment_bytes: u32,
    pub block_bytes: u32,
}

impl LongHeader {
    pub(super) fn read(page: &[u8]) -> Option<LongHeader> {
        Some(LongHeader {
            system_id: SystemId(u64_at(page, 24)?),
            segment_bytes: u32_at(page, 32)?,
            block_bytes: u32_at(page, 36)?,
        })
    }
}
