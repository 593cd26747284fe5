//! One WAL record: its 24-byte header, and where its main data lies.
//!
//! Invariant: a [`Record`] that reaches a visitor is whole and its CRC matched; only `kept` may be shorter than it.

use pgkeep_base::{Lsn, PgMajor, TimelineId};

use super::bytes::{u8_at, u16_at, u32_at, u64_at};

/// `SizeOfXLogRecord`.
pub(super) const HEADER_BYTES: usize = 24;
/// The part of the header that the CRC covers, after the data.
pub(super) const CHECKED_HEADER_BYTES: usize = 20;
/// A longer record can't be read by PostgreSQL (`MaxAllocSize`; 16 and later refuse to write more than 1020 MiB).
pub(super) const RECORD_BYTES_MAX: u32 = 1 << 30;

/// `RM_XLOG_ID`.
pub(super) const RMGR_XLOG: u8 = 0;
/// `RM_XACT_ID`.
pub(super) const RMGR_XACT: u8 = 1;
/// `RM_DBASE_ID`.
pub(super) const RMGR_DATABASE: u8 = 4;
/// `RM_TBLSPC_ID`.
pub(super) const RMGR_TABLESPACE: u8 = 5;
/// `RM_LOGICALMSG_ID`, the last built-in one in all supported majors.
const RMGR_BUILTIN_MAX: u8 = 21;
/// `RM_MIN_CUSTOM_ID`, from 15 on.
const RMGR_CUSTOM_MIN: u8 = 128;
/// `XLOG_SWITCH`.
pub(super) const XLOG_SWITCH: u8 = 0x40;

/// A complete, checked WAL record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where it begins (`ReadRecPtr`): what `pg_waldump` shows as `lsn`.
    pub start: Lsn,
    /// The first byte after it, aligned to 8 (`EndRecPtr`). The next record begins here, or after the page header if
    /// this is where a page begins. After `XLOG_SWITCH` it is the end of the segment, as PostgreSQL has it.
    pub end: Lsn,
    /// Where the record before it begins (`xl_prev`); 0/0 for the first record of a cluster.
    pub prev: Lsn,
    /// The transaction that wrote it (`xl_xid`); 0 for none.
    pub xid: u32,
    /// Resource manager (`xl_rmid`).
    pub rmgr: u8,
    /// `xl_info`: the upper four bits belong to the resource manager.
    pub info: u8,
    /// Its length with header and without padding (`xl_tot_len`).
    pub total_bytes: u32,
    /// Its first bytes, header included: all of it unless it spans pages and is longer than
    /// [`limits::WAL_RECORD_BYTES_KEPT`](pgkeep_base::limits::WAL_RECORD_BYTES_KEPT).
    pub kept: &'a [u8],
    /// The timeline in the header of the page on which it ends. A record written after a promotion on a page that was
    /// begun before it still shows the old timeline.
    pub timeline: TimelineId,
}

/// The fixed header of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    pub total_bytes: u32,
    pub xid: u32,
    pub prev: Lsn,
    pub info: u8,
    pub rmgr: u8,
    pub crc: u32,
}

impl RecordHeader {
    #[inline]
    pub(super) fn read(bytes: &[u8]) -> Option<RecordHeader> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
        Some(RecordHeader {
            total_bytes: u32_at(bytes, 0)?,
            xid: u32_at(bytes, 4)?,
            prev: Lsn(u64_at(bytes, 8)?),
            info: bytes[16],
            rmgr: bytes[17],
            crc: u32_at(bytes, 20)?,
        })
    }

    /// `RmgrIdIsValid`.
    pub(super) fn has_known_rmgr(&self, major: PgMajor) -> bool {
        self.rmgr <= RMGR_BUILTIN_MAX || (self.rmgr >= RMGR_CUSTOM_MIN && major.get() >= 15)
    }

    pub(super) fn is_switch(&self) -> bool {
        self.rmgr == RMGR_XLOG && self.info & 0xF0 == XLOG_SWITCH
    }
}

const BLOCK_ID_MAX: u8 = 32;
const ID_TOPLEVEL_XID: u8 = 252;
const ID_ORIGIN: u8 = 253;
const ID_DATA_LONG: u8 = 254;
const ID_DATA_SHORT: u8 = 255;

const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_SAME_RELATION: u8 = 0x80;
const IMAGE_HAS_HOLE: u8 = 0x01;

/// `BKPIMAGE_IS_COMPRESSED` of 14; from 15 on one bit each for pglz, lz4 and zstd.
fn image_compressed_bits(major: PgMajor) -> u8 {
    if major.get() >= 15 { 0x04 | 0x08 | 0x10 } else { 0x02 }
}

impl<'a> Record<'a> {
    /// The record's main data, as far as it was kept; `None` when its fragment headers don't add up to its length.
    ///
    /// An empty slice when it has none. Compare with [`Record::is_cut`] before believing that it is whole.
    pub fn main_data(&self, major: PgMajor) -> Option<&'a [u8]> {
        let layout = Layout::read(self.kept, major)?;
        let total = self.total_bytes as usize;
        let main_start = layout.headers_end.checked_add(layout.block_bytes)?;
        if main_start.checked_add(layout.main_bytes)? != total {
            return None;
        }
        Some(self.kept.get(main_start..).unwrap_or_default())
    }

    /// True if only a prefix of the record was kept.
    pub fn is_cut(&self) -> bool {
        self.kept.len() < self.total_bytes as usize
    }
}

/// Where a record's parts lie: fragment headers, block data, main data, in this order.
#[derive(Default)]
struct Layout {
    headers_end: usize,
    block_bytes: usize,
    main_bytes: usize,
}

impl Layout {
    fn read(record: &[u8], major: PgMajor) -> Option<Layout> {
        let total = u32_at(record, 0)? as usize;
        let mut layout = Layout::default();
        let mut at = HEADER_BYTES;
        // As in DecodeXLogRecord: the headers end where what they announce fills the rest of the record.
        while total.checked_sub(at)? > layout.block_bytes + layout.main_bytes {
            let id = u8_at(record, at)?;
            match id {
                ID_DATA_SHORT => {
                    layout.main_bytes = u8_at(record, at + 1)? as usize;
                    at += 2;
                    break;
                }
                ID_DATA_LONG => {
                    layout.main_bytes = u32_at(record, at + 1)? as usize;
                    at += 5;
                    break;
                }
                ID_ORIGIN => at += 3,
                ID_TOPLEVEL_XID => at += 5,
                0..=BLOCK_ID_MAX => {
                    let (next, bytes) = block_reference(record, at, major)?;
                    layout.block_bytes += bytes;
                    at = next;
                }
                _ => return None,
            }
        }
        layout.headers_end = at;
        Some(layout)
    }
}

/// Reads the block reference whose header begins at `at`: where the next header begins, and the bytes of its data.
fn block_reference(record: &[u8], at: usize, major: PgMajor) -> Option<(usize, usize)> {
    let flags = u8_at(record, at + 1)?;
    let mut bytes = u16_at(record, at + 2)? as usize;
    let mut next = at + 4;
    if flags & BLOCK_HAS_IMAGE != 0 {
        bytes += u16_at(record, next)? as usize;
        let image = u8_at(record, next + 4)?;
        next += 5;
        if image & IMAGE_HAS_HOLE != 0 && image & image_compressed_bits(major) != 0 {
            next += 2;
        }
    }
    if flags & BLOCK_SAME_RELATION == 0 {
        next += 12;
    }
    Some((next + 4, bytes))
}
