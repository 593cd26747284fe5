//! The cache as a file: records with a checksum each, and a footer that finds the last one.
//!
//! ```text
//! 8 bytes   "PGKREUS1"
//! records   4 bytes length, 1 byte kind, body, 16 bytes checksum
//! footer    8 bytes offset of the end record, 8 bytes its number, "PGKREND1"; absent while it is a journal
//! ```
//!
//! Invariant: the checksum (BLAKE3 over number of the record, kind and body) binds a record to its place, so a reader
//! that counts records finds every cut, loss, swap and flip before it uses the record. It keeps nobody out: the file
//! lies in the state directory, which belongs to the writer.

use std::io::{self, Read, Write};

pub(super) const MAGIC: &[u8; 8] = b"PGKREUS1";
pub(super) const FOOTER_MAGIC: &[u8; 8] = b"PGKREND1";
pub(super) const FOOTER_BYTES: u64 = 24;
/// The longest record: 64 MiB of a file in pages of 1 KiB, each in a chunk of its own.
const RECORD_BYTES_MAX: u32 = 8 << 20;
const CHECKSUM_BYTES: usize = 16;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordKind {
    Start = 1,
    Pack = 2,
    Piece = 3,
    Block = 4,
    End = 5,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<RecordKind> {
        use RecordKind::*;
        [Start, Pack, Piece, Block, End]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

fn checksum(number: u64, kind: u8, body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    let hash = hasher
        .update(&number.to_le_bytes())
        .update(&[kind])
        .update(body)
        .finalize();
    *hash.as_bytes().first_chunk().expect("16 of 32 bytes")
}

/// Appends record `number`; returns how many bytes it takes.
pub(super) fn write_record(to: &mut impl Write, number: u64, kind: RecordKind, body: &[u8]) -> io::Result<u64> {
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length <= RECORD_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("a record of the reuse cache exceeds 8 MiB"))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&[kind as u8])?;
    to.write_all(body)?;
    to.write_all(&checksum(number, kind as u8, body))?;
    Ok(u64::from(length) + 5 + CHECKSUM_BYTES as u64)
}

/// Reads record `number`; `None` at the end of the file, also in the middle of a record.
///
/// # Errors
/// `InvalidData` for what is not that record.
pub(super) fn read_record(from: &mut impl Read, number: u64) -> io::Result<Option<(RecordKind, Vec<u8>)>> {
    let mut prefix = [0; 5];
    if !read_all(from, &mut prefix)? {
        return Ok(None);
    }
    let [length @ .., kind] = prefix;
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("record {number} {what}"));
    let length = u32::from_le_bytes(length);
    let known = RecordKind::from_byte(kind).filter(|_| length <= RECORD_BYTES_MAX);
    let known = known.ok_or_else(|| bad("is not one"))?;
    let mut body = vec![0; length as usize + CHECKSUM_BYTES];
    if !read_all(from, &mut body)? {
        return Ok(None);
    }
    let stored = body.split_off(length as usize);
    if checksum(number, kind, &body)[..] != stored[..] {
        return Err(bad("is damaged"));
    }
    Ok(Some((known, body)))
}

/// Whether there were enough bytes.
fn read_all(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn footer(end_offset: u64, end_number: u64) -> [u8; FOOTER_BYTES as usize] {
    let mut footer = [0; FOOTER_BYTES as usize];
    footer[..8].copy_from_slice(&end_offset.to_le_bytes());
    footer[8..16].copy_from_slice(&end_number.to_le_bytes());
    footer[16..].copy_from_slice(FOOTER_MAGIC);
    footer
}

/// Offset and number of the end record.
pub(super) fn parse_footer(footer: &[u8; FOOTER_BYTES as usize]) -> Option<(u64, u64)> {
    let number = |at: usize| u64::from_le_bytes(footer[at..at + 8].try_into().expect("8 bytes"));
    footer.ends_with(FOOTER_MAGIC).then(|| (number(0), number(8)))
}
