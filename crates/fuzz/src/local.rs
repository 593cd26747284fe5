//! Targets: what pgkeep itself left on a disk, and reads again when the disk or somebody else may have changed it.

use std::ffi::OsStr;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pgkeep_base::limits::FRAME_RAW_BYTES_MAX;
use pgkeep_engine::restore::RecoveryPlan;
use pgkeep_engine::restore::files::Marker;
use pgkeep_pg::datadir::{RelPath, classify, is_postgresqls_own};
use pgkeep_repo::digest::Digest;
use pgkeep_repo::manifest::{Chunk, Content, Extent, Source};
use pgkeep_repo::paths::{DataPath, escape, unescape};
use pgkeep_repo::reuse::{Piece, ReuseReader};

use crate::repository::stays_inside;

/// The kinds of records of a reuse cache that are told from others here.
const BLOCK: u8 = 4;
const END: u8 = 5;
/// How much of a block's record is searched for the hash that it is asked by.
const SEARCHED_BYTES: usize = 128;

/// The writer's reuse cache: kind, length in two bytes and body of each record, on which checksums are put; the last one
/// is found by a footer where it is the end.
pub fn reuse(bytes: &[u8]) -> bool {
    let (file, hashes) = cache(bytes);
    let journal = ReuseReader::of_journal(Cursor::new(&file)).map(|reader| read_all(reader, &hashes));
    let cache = ReuseReader::of_cache(Cursor::new(&file)).map(|reader| read_all(reader, &hashes));
    let raw = ReuseReader::of_journal(Cursor::new(bytes)).map(|reader| read_all(reader, &[]));
    journal.unwrap_or_default() | cache.unwrap_or_default() | raw.unwrap_or_default()
}

/// The file that is meant, and what may be hashes of blocks in it.
fn cache(mut records: &[u8]) -> (Vec<u8>, Vec<Digest>) {
    let (mut file, mut hashes) = (b"PGKREUS1".to_vec(), Vec::new());
    let mut number = 0u64;
    while let Some(([kind, low, high], rest)) = records.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (body, rest) = rest.split_at(length.min(rest.len()));
        records = rest;
        if *kind == BLOCK {
            let windows = body[..body.len().min(SEARCHED_BYTES)].windows(32);
            hashes.extend(windows.map(|hash| Digest(hash.try_into().expect("32 bytes"))));
        }
        let offset = file.len() as u64;
        file.extend((body.len() as u32).to_le_bytes());
        file.push(*kind);
        file.extend(body);
        file.extend(checksum(number, *kind, body));
        if *kind == END {
            file.extend(offset.to_le_bytes());
            file.extend(number.to_le_bytes());
            file.extend(b"PGKREND1");
        }
        number += 1;
    }
    (file, hashes)
}

fn checksum(number: u64, kind: u8, body: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(&[kind]).update(body);
    *hasher.finalize().as_bytes().first_chunk().expect("16 of 32 bytes")
}

/// True if a piece or a block was given out.
fn read_all(mut reader: ReuseReader<Cursor<impl AsRef<[u8]>>>, hashes: &[Digest]) -> bool {
    let mut last: Option<(DataPath, u64)> = None;
    let first = DataPath::new(&b"\x01"[..]).expect("a path");
    let mut any = false;
    while let Some(piece) = reader.next_at_or_after(&first, 0) {
        let here = (piece.path.clone(), piece.at);
        assert!(
            last.as_ref().is_none_or(|last| *last < here),
            "pieces in disorder: {here:?}"
        );
        let piece = reader.take(&here.0, here.1).expect("it is the next");
        check(&piece, &reader);
        (last, any) = (Some(here), true);
    }
    for hash in hashes {
        let Some(block) = reader.take_block(hash) else { continue };
        assert_eq!(block.chunk.blake3, *hash);
        check_chunk(&block.chunk, &reader);
        assert!(block.live.iter().all(|(pack, _)| reader.pack(pack).is_some()));
        any = true;
    }
    any
}

fn check(piece: &Piece, reader: &ReuseReader<Cursor<impl AsRef<[u8]>>>) {
    stays_inside(&piece.path);
    let block = u64::from(reader.start().block_bytes.max(1));
    match &piece.content {
        Content::Inline(bytes) => assert_eq!(bytes.len() as u64, piece.stat.bytes),
        Content::Extents(extents) => {
            extents.iter().for_each(|extent| check_extent(extent, reader));
            assert_eq!(extents.iter().map(|extent| extent.bytes).sum::<u64>(), piece.bytes());
            assert_eq!(piece.pages.len() as u64, piece.bytes().div_ceil(block));
        }
    }
}

fn check_extent(extent: &Extent, reader: &ReuseReader<Cursor<impl AsRef<[u8]>>>) {
    if let Source::Chunk { chunk, offset } = &extent.source {
        check_chunk(chunk, reader);
        assert!(u64::from(*offset) + extent.bytes <= u64::from(chunk.content_bytes));
    }
}

fn check_chunk(chunk: &Chunk, reader: &ReuseReader<Cursor<impl AsRef<[u8]>>>) {
    let pack = reader.pack(&chunk.pack).expect("a pack of which something is known");
    assert!(u64::from(chunk.content_bytes) <= FRAME_RAW_BYTES_MAX);
    assert!(pack.object_offset(chunk.offset) > chunk.offset);
    let _ = (pack.is_mostly_dead(), pack.seal());
}

/// The plan that a restore left for `wal fetch`.
pub fn recovery_plan(bytes: &[u8]) -> bool {
    let Ok(plan) = RecoveryPlan::from_json(bytes) else {
        return false;
    };
    let again = RecoveryPlan::from_json(&plan.to_json()).expect("what was written can be read");
    assert_eq!(again, plan);
    let map = &plan.segments;
    let (first, last) = map.first().zip(map.last()).expect("a plan has segments");
    assert_eq!(map.len(), last - first + 1);
    for (number, planned) in (first..=last).zip(map.iter()) {
        assert_eq!(planned.segment.number, number);
        assert_eq!(map.get(number), Some(planned));
        assert!(planned.segment.start() < planned.segment.end());
        let _ = planned.holder.file(&planned.segment);
    }
    assert!(map.get(last + 1).is_none() && first.checked_sub(1).is_none_or(|before| map.get(before).is_none()));
    let mut cut = map.clone();
    cut.truncate(first);
    assert_eq!((cut.first(), cut.len()), (Some(first), 1));
    true
}

/// The mark of an unfinished restore, behind a line that may be the path of its directory: it is for no other one.
pub fn restore_mark(bytes: &[u8]) -> bool {
    let (path, mark) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let Ok(mark) = Marker::from_json(mark) else {
        return false;
    };
    let json = mark.to_json().expect("what was read can be written");
    let again = Marker::from_json(&json).expect("what was written can be read");
    assert_eq!(again, mark);
    let members: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&json).expect("it is JSON");
    let target = members["target"].as_str().expect("a path is text there");
    let here = Path::new(OsStr::from_bytes(path));
    let meant = unescape(target).is_ok_and(|target| target == path);
    assert_eq!(mark.is_for(here), meant, "{target} and {}", here.display());
    true
}

/// Two paths below a data directory, on lines of their own: rooms agree on what one is, and on their order.
pub fn paths(bytes: &[u8]) -> bool {
    let read: Vec<_> = bytes.split(|byte| *byte == b'\n').take(2).filter_map(path).collect();
    if let [(a, a_listed), (b, b_listed)] = &read[..] {
        assert_eq!(a.cmp(b), a_listed.cmp(b_listed));
        assert!(!a.is_below(b.as_bytes()) || a > b);
    }
    !read.is_empty()
}

fn path(bytes: &[u8]) -> Option<(DataPath, RelPath)> {
    let text = escape(bytes);
    assert_eq!(unescape(&text).expect("what was escaped can be read"), bytes);
    if let Some(again) = std::str::from_utf8(bytes).ok().and_then(|text| unescape(text).ok()) {
        assert_eq!(escape(&again).as_bytes(), bytes, "one path has two texts");
    }
    let listed = RelPath::new(bytes).ok().filter(|path| !path.as_bytes().is_empty());
    let path = DataPath::new(bytes).ok();
    assert_eq!(path.is_some(), listed.is_some(), "{}", bytes.escape_ascii());
    let (path, listed) = path.zip(listed)?;
    stays_inside(&path);
    assert_eq!(path.to_string().parse::<DataPath>().ok().as_ref(), Some(&path));
    let _ = (
        classify(&listed),
        is_postgresqls_own(bytes),
        path.tablespace_oid(),
        path.parent(),
    );
    Some((path, listed))
}
