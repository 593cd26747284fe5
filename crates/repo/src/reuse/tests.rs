//! The cache gives back what was put in, in order; and every cut, flip and swap costs records, never a wrong one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgkeep_store::ObjectName;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::digest::Digest;
use crate::manifest::tests::{chunk, pack, path};
use crate::manifest::{Chunk, Content, Extent};
use crate::packlist::{PackInfo, PackList, PackListBuilder};
use crate::repofile::NamingKey;

fn start() -> ReuseStart {
    ReuseStart {
        repository: "00112233445566778899aabbccddeeff".parse().unwrap(),
        cluster: "shop".parse().unwrap(),
        system_identifier: pgkeep_base::SystemId(7),
        backup: "20261120T101512Z-0123456789".parse().unwrap(),
        started_at: "2026-11-20T10:15:12Z".parse().unwrap(),
        recipients: vec!["age1x".to_owned()],
        places: vec!["a".to_owned()],
        block_bytes: 8192,
    }
}

fn end() -> ReuseEnd {
    let finished_at = "2026-11-20T10:16:12Z".parse().unwrap();
    ReuseEnd {
        finished_at,
        head: Digest::of(b"head"),
        places: vec!["a".to_owned()],
    }
}

fn info(number: u32) -> PackInfo {
    let (blake3, name) = (Digest::of(b"pack"), (*pack(number)).clone());
    PackInfo {
        name,
        bytes: 1000,
        header_bytes: 10,
        blake3,
        live_bytes: 0,
        key: Some("YWdl".to_owned()),
    }
}

fn stat(bytes: u64) -> FileStat {
    FileStat {
        bytes,
        mtime_ns: -1,
        ctime_ns: i64::MAX,
        device: 66,
        inode: u64::MAX,
    }
}

fn piece(name: &str, bytes: u64, at: u64, extents: Vec<Extent>) -> Piece {
    let mut piece = Piece {
        path: path(name),
        stat: stat(bytes),
        at,
        content: Content::Extents(extents),
        pages: vec![],
        bad_pages: vec![3],
    };
    piece.pages = (0..piece.bytes().div_ceil(8192))
        .map(|i| *Digest::of(&i.to_le_bytes()).0.first_chunk().unwrap())
        .collect();
    piece
}

fn small(name: &str) -> Piece {
    let content = Content::Inline(b"18\n".to_vec());
    Piece {
        path: path(name),
        stat: stat(3),
        at: 0,
        content,
        pages: vec![],
        bad_pages: vec![],
    }
}

fn pieces() -> Vec<Piece> {
    let c = chunk(0, 0, 1 << 20);
    let big = (64 << 20) + 5;
    vec![
        small("PG_VERSION"),
        piece("base/5/1", 0, 0, vec![]),
        piece(
            "base/5/1259",
            24576,
            0,
            vec![
                Extent::of_chunk(c.clone(), 8192, 8192),
                Extent::zeros(8192),
                Extent::of_chunk(chunk(1, 7, 8192), 0, 8192),
            ],
        ),
        piece(
            "base/5/9",
            big,
            0,
            vec![Extent::zeros(63 << 20), Extent::of_chunk(c.clone(), 0, 1 << 20)],
        ),
        piece("base/5/9", big, 64 << 20, vec![Extent::of_chunk(c, 5, 5)]),
        small("base/6"),
    ]
}

fn block() -> BlockRecord {
    let live = vec![(pack(0), 5), (pack(1), 6)];
    BlockRecord {
        first: path("PG_VERSION"),
        last: path("base/5/9"),
        entries: 4,
        chunk: chunk(2, 99, 1 << 18),
        live,
    }
}

fn writer(at: &Path) -> ReuseWriter {
    let mut writer = ReuseWriter::create(at, &start()).unwrap();
    (0..3).for_each(|number| writer.know(info(number)));
    writer
}

fn list() -> PackList {
    let mut builder = PackListBuilder::default();
    (0..3).for_each(|number| builder.know(info(number)));
    builder.refer(&[(pack(0), 400), (pack(1), 100)], &chunk(2, 0, 30));
    builder.finish().unwrap()
}

/// A finished cache of all pieces with a block before the last one.
fn cache(directory: &TempDir) -> PathBuf {
    let mut writer = writer(&directory.path().join("journal"));
    for (i, piece) in pieces().into_iter().enumerate() {
        if i == 5 {
            writer.block(block(), 2);
        }
        writer.piece(piece, 1).unwrap();
    }
    writer.release(2).unwrap();
    let cache = directory.path().join("reuse");
    writer.finish(&end(), &list(), &cache).unwrap();
    assert!(!directory.path().join("journal").exists());
    cache
}

fn read_all(reader: &mut ReuseReader) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let first = path("%01");
    while let Some((path, at)) = reader
        .next_at_or_after(&first, 0)
        .map(|piece| (piece.path.clone(), piece.at))
    {
        pieces.extend(reader.take(&path, at));
    }
    pieces
}

#[test]
fn a_cache_gives_back_what_was_put_in() {
    let directory = TempDir::new().unwrap();
    let mut reader = ReuseReader::open(&cache(&directory)).unwrap();
    assert_eq!((reader.start(), reader.end()), (&start(), Some(&end())));
    assert_eq!(read_all(&mut reader), pieces());
    assert_eq!(reader.damage(), None);
    assert_eq!(reader.take_block(&block().chunk.blake3), Some(block()));
    assert_eq!(reader.take_block(&block().chunk.blake3), None);
    let live: Vec<_> = (0..3)
        .map(|number| reader.pack(&pack(number)).unwrap().live_bytes)
        .collect();
    assert_eq!(live, [400, 100, 34]);
    assert_eq!(reader.pack(&pack(1)).unwrap().key.as_deref(), Some("YWdl"));
}

#[test]
fn pieces_are_found_in_order_and_passed_for_good() {
    let directory = TempDir::new().unwrap();
    let mut reader = ReuseReader::open(&cache(&directory)).unwrap();
    assert_eq!(
        reader.next_at_or_after(&path("base/5"), 0).unwrap().path,
        path("base/5/1")
    );
    assert!(reader.take(&path("base/5/1000"), 0).is_none());
    assert_eq!(reader.take(&path("base/5/1259"), 0).unwrap(), pieces()[2]);
    assert!(reader.take(&path("base/5/1259"), 0).is_none());
    assert_eq!(reader.next_at_or_after(&path("base/5/9"), 1).unwrap().at, 64 << 20);
    assert!(reader.take(&path("base/5/9"), 0).is_none());
    assert_eq!(reader.take(&path("base/5/9"), 64 << 20).unwrap(), pieces()[4]);
    assert_eq!(
        reader.take_block(&block().chunk.blake3),
        Some(block()),
        "it follows the piece just taken"
    );
    assert!(reader.take(&path("base/6"), 0).is_some());
    assert!(reader.next_at_or_after(&path("base/5/1"), 0).is_none());
}

#[test]
fn a_journal_holds_only_what_is_durable() {
    let directory = TempDir::new().unwrap();
    let journal = directory.path().join("journal");
    let mut writer = writer(&journal);
    for (i, piece) in pieces().into_iter().enumerate() {
        writer.piece(piece, i as u32).unwrap();
    }
    writer.release(3).unwrap();
    assert_eq!(writer.waiting(), 2);
    // As if the process were killed here.
    let mut reader = ReuseReader::open_journal(&journal).unwrap();
    assert_eq!(read_all(&mut reader), pieces()[..4]);
    assert_eq!(reader.pack(&pack(0)).unwrap().live_bytes, 1000);
    assert!(reader.end().is_none() && reader.damage().is_none());
    assert!(matches!(ReuseReader::open(&journal), Err(NoCache::Unusable(_))));
    assert!(writer.finish(&end(), &list(), &directory.path().join("reuse")).is_err());
    assert!(matches!(
        ReuseReader::open(&directory.path().join("reuse")),
        Err(NoCache::Absent)
    ));
}

#[test]
fn a_new_journal_leaves_the_old_one_to_whoever_reads_it() {
    let directory = TempDir::new().unwrap();
    let journal = directory.path().join("journal");
    let mut old = writer(&journal);
    old.piece(small("a"), 0).unwrap();
    old.release(0).unwrap();
    let mut reader = ReuseReader::open_journal(&journal).unwrap();
    drop(writer(&journal));
    assert_eq!(read_all(&mut reader), [small("a")]);
}

#[test]
fn what_no_reader_would_take_is_not_written() {
    let directory = TempDir::new().unwrap();
    let mut writer = writer(&directory.path().join("journal"));
    writer.piece(small("b"), 0).unwrap();
    assert!(writer.piece(small("a"), 0).is_err());
    assert!(writer.piece(small("b"), 0).is_err());
    let short = piece("c", 8192, 0, vec![Extent::zeros(8191)]);
    let no_hash = Piece {
        pages: vec![],
        ..piece("c", 8192, 0, vec![Extent::zeros(8192)])
    };
    let outside = piece("c", 8192, 0, vec![Extent::of_chunk(chunk(0, 0, 8192), 1, 8192)]);
    let middle = Piece {
        at: 8192,
        ..piece("c", 16384, 0, vec![Extent::zeros(8192)])
    };
    for bad in [short, no_hash, outside, middle] {
        assert!(writer.piece(bad, 0).is_err());
    }
    writer
        .piece(
            piece("d", 8192, 0, vec![Extent::of_chunk(chunk(9, 0, 8192), 0, 8192)]),
            0,
        )
        .unwrap();
    assert!(writer.release(0).is_err(), "nothing is known of pack 9");
}

/// Aim: nothing is reused whose address no pack can have, though its checksum is good: a manifest that named it could
/// not be restored. Method: one impossible number each.
#[test]
fn what_could_not_have_been_stored_is_not_given_out() {
    let directory = TempDir::new().unwrap();
    let journal = directory.path().join("journal");
    let good = (*chunk(0, 0, 8192)).clone();
    let chunk = |change: fn(&mut Chunk)| {
        let mut chunk = good.clone();
        change(&mut chunk);
        (chunk, info(0))
    };
    let pack = |change: fn(&mut PackInfo)| {
        let mut info = info(0);
        change(&mut info);
        (good.clone(), info)
    };
    for ((chunk, info), taken) in [
        (chunk(|_| ()), 1),
        (chunk(|chunk| chunk.sealed_bytes = 23), 0),
        (chunk(|chunk| chunk.content_bytes = (64 << 20) + 1), 0),
        (chunk(|chunk| chunk.offset = 1 << 63), 0),
        (pack(|pack| pack.bytes = u64::MAX), 0),
        (pack(|pack| pack.header_bytes = pack.bytes + 1), 0),
        (pack(|pack| pack.name = ObjectName::new("packs/other").unwrap()), 0),
    ] {
        let chunk = Chunk {
            pack: Arc::new(info.name.clone()),
            ..chunk
        };
        let shown = format!("{chunk:?} in {info:?}");
        let mut writer = ReuseWriter::create(&journal, &start()).unwrap();
        writer.know(info);
        let extents = vec![Extent::of_chunk(Arc::new(chunk), 0, 8192)];
        writer.piece(piece("base/5/1", 8192, 0, extents), 0).unwrap();
        writer.release(0).unwrap();
        let mut reader = ReuseReader::open_journal(&journal).unwrap();
        assert_eq!(read_all(&mut reader).len(), taken, "{shown}");
    }
}

/// Whatever this file has become, what is read from it is a beginning of what was written.
fn gives_only_a_beginning(file: &Path, good: &[Piece]) -> usize {
    let mut most = 0;
    for reader in [ReuseReader::open(file), ReuseReader::open_journal(file)] {
        let Ok(mut reader) = reader else { continue };
        let read = read_all(&mut reader);
        assert_eq!(read[..], good[..read.len()]);
        assert!(read.len() == good.len() || reader.end().is_none() || reader.damage().is_some());
        most = most.max(read.len());
    }
    most
}

#[test]
fn every_cut_and_every_flipped_byte_is_noticed() {
    let directory = TempDir::new().unwrap();
    let good = std::fs::read(cache(&directory)).unwrap();
    let bad = directory.path().join("bad");
    let pieces = pieces();
    // The page hashes of the large piece are most of the file: a few places in there are enough.
    for at in (0..good.len()).filter(|at| at % 997 == 0 || *at < 1500 || *at > good.len() - 800) {
        std::fs::write(&bad, &good[..at]).unwrap();
        assert!(ReuseReader::open(&bad).is_err(), "cut at {at}");
        gives_only_a_beginning(&bad, &pieces);
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&bad, &flipped).unwrap();
        gives_only_a_beginning(&bad, &pieces);
    }
    std::fs::write(&bad, [&good[..good.len() / 2], &vec![0; 5000]].concat()).unwrap();
    gives_only_a_beginning(&bad, &pieces);
    std::fs::write(&bad, &good).unwrap();
    assert_eq!(gives_only_a_beginning(&bad, &pieces), pieces.len());
}

#[test]
fn a_file_that_can_not_be_read_is_no_cache() {
    let directory = TempDir::new().unwrap();
    assert!(matches!(
        ReuseReader::open(&directory.path().join("none")),
        Err(NoCache::Absent)
    ));
    assert!(matches!(ReuseReader::open(directory.path()), Err(NoCache::Unusable(_))));
    let empty = directory.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    assert!(ReuseReader::open(&empty).is_err() && ReuseReader::open_journal(&empty).is_err());
}

#[test]
fn a_file_of_one_gib_is_sixteen_records_of_128_kib() {
    let directory = TempDir::new().unwrap();
    let journal = directory.path().join("journal");
    let mut writer = writer(&journal);
    let extents: Vec<_> = (0..64)
        .map(|i| Extent::of_chunk(chunk(0, i << 20, 1 << 20), 0, 1 << 20))
        .collect();
    for i in 0..16 {
        writer
            .piece(piece("base/5/16384", 1 << 30, i * PIECE_BYTES_MAX, extents.clone()), 0)
            .unwrap();
        writer.release(0).unwrap();
    }
    let bytes = std::fs::metadata(&journal).unwrap().len();
    assert!((2 << 20..(2 << 20) + (100 << 10)).contains(&bytes), "{bytes}");
    let mut reader = ReuseReader::open_journal(&journal).unwrap();
    assert_eq!(read_all(&mut reader).len(), 16);
}

#[test]
fn page_hashes_depend_on_the_key_and_on_every_byte() {
    let hasher = PageHasher::new(&NamingKey::generate().unwrap());
    let mut pages = vec![7; 3 * 8192 - 1];
    let before = hasher.hash_all(&pages, 8192);
    assert_eq!(before.len(), 3);
    assert!(before[0] == before[1] && before[1] != before[2]);
    assert_ne!(
        before,
        PageHasher::new(&NamingKey::generate().unwrap()).hash_all(&pages, 8192)
    );
    pages[8191] = 8;
    let after = hasher.hash_all(&pages, 8192);
    assert!(before[0] != after[0] && before[1..] == after[1..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_pieces_come_back(names in proptest::collection::btree_set("[a-c%~]{1,5}", 1..20), seed: u64) {
        let directory = TempDir::new().unwrap();
        let mut writer = writer(&directory.path().join("journal"));
        let mut given: Vec<_> = names.iter().enumerate().map(|(i, name)| {
            let name = crate::paths::escape(name.as_bytes());
            let number = seed.rotate_left(i as u32 * 7);
            let bytes = number % 5_000_000 + 1;
            let mut extents = Vec::new();
            while crate::manifest::extents::total(&extents) < bytes {
                let at = crate::manifest::extents::total(&extents);
                let length = (bytes - at).min((number >> 13) % 1_000_000 + 1);
                extents.push(match (number.wrapping_add(at)) % 3 {
                    0 => Extent::zeros(length),
                    n => Extent::of_chunk(chunk(n as u32, at, 1 << 20), (at % 48_576) as u32, length),
                });
            }
            piece(&name, bytes, 0, extents)
        }).collect();
        given.sort_by(|a, b| a.path.cmp(&b.path));
        for piece in given.clone() {
            writer.piece(piece, 0).unwrap();
        }
        writer.release(0).unwrap();
        let cache = directory.path().join("cache");
        writer.finish(&end(), &list(), &cache).unwrap();
        let mut reader = ReuseReader::open(&cache).unwrap();
        for piece in &given {
            prop_assert_eq!(&reader.take(&piece.path, 0).unwrap(), piece);
        }
        prop_assert!(reader.next_at_or_after(&path("z"), 0).is_none());
        prop_assert_eq!(reader.damage(), None);
    }
}
