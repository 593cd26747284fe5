//! Manifests: what was put in comes out, the same input gives the same bytes, and what breaks a rule is refused.

use std::sync::Arc;

use pgkeep_base::ErrorKind;
use pgkeep_store::ObjectName;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::digest::Digest;
use crate::paths::DataPath;

const PACK: &str = "packs/shop/7428165372412345678/20261120T101512Z-0123456789/00000000";

pub(crate) fn path(text: &str) -> DataPath {
    text.parse().unwrap()
}

pub(crate) fn pack(number: u32) -> Arc<ObjectName> {
    Arc::new(ObjectName::new(format!("{}{number:08x}", &PACK[..PACK.len() - 8])).unwrap())
}

pub(crate) fn chunk(number: u32, at: u64, content_bytes: u32) -> Arc<Chunk> {
    Arc::new(Chunk {
        pack: pack(number),
        offset: at,
        sealed_bytes: 24 + content_bytes / 3,
        content_bytes,
        blake3: Digest::of(&at.to_le_bytes()),
    })
}

pub(crate) fn directory(at: &str) -> Entry {
    Entry {
        path: path(at),
        kind: EntryKind::Directory,
        mode: 0o700,
        owner: None,
        group: None,
        mtime: 1_763_633_712,
    }
}

pub(crate) fn file(at: &str, bytes: u64, extents: Vec<Extent>) -> Entry {
    let span = FileSpan {
        bytes,
        at: 0,
        content: Content::Extents(extents),
        bad_pages: vec![],
    };
    Entry {
        kind: EntryKind::File(span),
        mode: 0o600,
        ..directory(at)
    }
}

pub(crate) fn inline(at: &str, data: &[u8]) -> Entry {
    let content = Content::Inline(data.to_vec());
    let span = FileSpan {
        bytes: data.len() as u64,
        at: 0,
        content,
        bad_pages: vec![],
    };
    Entry {
        kind: EntryKind::File(span),
        mode: 0o600,
        ..directory(at)
    }
}

pub(crate) fn last() -> Vec<Entry> {
    vec![
        inline("backup_label", b"START WAL LOCATION"),
        inline("global/pg_control", &[7; 8192]),
    ]
}

/// A relation of `mib` MiB, whose chunks begin at `at` in pack 0.
fn relation(name: &str, mib: u64, at: u64) -> Entry {
    let extents = (0..mib)
        .map(|i| Extent::of_chunk(chunk(0, at + i * 400_000, 1 << 20), 0, 1 << 20))
        .collect();
    file(name, mib << 20, extents)
}

/// A cluster of `count` relations in `base/5`, sorted.
fn cluster(count: usize) -> Vec<Entry> {
    let mut entries = vec![directory("base"), directory("base/5")];
    let mut files: Vec<_> = (0..count as u64)
        .map(|i| relation(&format!("base/5/{}", 16384 + i), i % 4, i << 24))
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    entries.extend(files);
    entries.push(directory("global"));
    entries
}

fn blocks(entries: &[Entry]) -> Vec<Block> {
    let mut builder = BlockBuilder::new();
    let mut blocks: Vec<_> = entries
        .iter()
        .filter_map(|entry| builder.push(entry).unwrap())
        .collect();
    blocks.extend(builder.finish(&last()).unwrap());
    blocks
}

fn entries_of(blocks: &[Block]) -> Vec<Entry> {
    blocks
        .iter()
        .flat_map(|block| parse_block(&block.json).unwrap())
        .collect()
}

#[test]
fn an_entry_looks_as_the_document_says() {
    let entries = [
        Entry {
            mtime: 1_763_633_712,
            ..file(
                "base/5/1259",
                122_880,
                vec![Extent::of_chunk(chunk(0, 0, 122_880), 0, 122_880)],
            )
        },
        inline("base/5/a%20b", b"16\n"),
    ];
    let mut builder = BlockBuilder::new();
    for entry in [directory("base"), directory("base/5")]
        .iter()
        .chain(&entries)
        .chain(&[directory("global")])
    {
        assert!(builder.push(entry).unwrap().is_none());
    }
    let tablespace = EntryKind::Tablespace {
        location: Some(b"/mnt/fast disk".to_vec()),
    };
    builder.push(&directory("pg_tblspc")).unwrap();
    builder
        .push(&Entry {
            kind: tablespace,
            ..directory("pg_tblspc/16400")
        })
        .unwrap();
    let block = builder.finish(&last()).unwrap().unwrap();
    let json: Value = serde_json::from_slice(&block.json).unwrap();
    assert_eq!(json["packs"], json!([PACK]));
    assert_eq!(
        json["chunks"],
        json!([[0, 0, 40984, 122_880, Digest::of(&0u64.to_le_bytes()).to_string()]])
    );
    assert_eq!(
        json["entries"][2],
        json!({"path":"base/5/1259","type":"file","bytes":122_880,"mode":"0600","mtime":1_763_633_712,"extents":[[122_880,0,0]]})
    );
    assert_eq!(
        json["entries"][3],
        json!({"path":"base/5/a%20b","type":"file","bytes":3,"mode":"0600","mtime":1_763_633_712,"data":"MTYK"})
    );
    assert_eq!(
        json["entries"][6],
        json!({"path":"pg_tblspc/16400","type":"tablespace","mode":"0700","mtime":1_763_633_712,"location":"/mnt/fast%20disk"})
    );
    assert_eq!(block.live, [(pack(0), 40984)]);
}

#[test]
fn entries_come_back_from_blocks_of_about_256_kib() {
    let entries = cluster(20_000);
    let blocks = blocks(&entries);
    assert_eq!(entries_of(&blocks), entries);
    let mean = blocks.iter().map(|block| block.json.len()).sum::<usize>() / blocks.len();
    assert!((128 << 10..400 << 10).contains(&mean), "{mean}");
    assert!(blocks.iter().all(|block| block.json.len() < 600 << 10));
    assert!(blocks.iter().rev().skip(1).all(|block| block.json.len() > 48 << 10));
    let live: u64 = blocks
        .iter()
        .flat_map(|block| &block.live)
        .map(|(_, bytes)| bytes)
        .sum();
    let chunks = entries
        .iter()
        .filter_map(Entry::file)
        .map(|span| span.bytes >> 20)
        .sum::<u64>();
    assert_eq!(live, chunks * u64::from(chunk(0, 0, 1 << 20).sealed_bytes));
}

#[test]
fn a_changed_file_changes_one_block_and_a_new_file_at_most_two() {
    let entries = cluster(20_000);
    let before: std::collections::HashSet<_> = blocks(&entries).iter().map(|block| block.blake3).collect();
    assert_eq!(before, blocks(&entries).iter().map(|block| block.blake3).collect());
    for at in [10, 5_000, 12_345, 20_000] {
        let mut changed = entries.clone();
        let name = changed[at].path.to_string();
        let bytes = changed[at].file().unwrap().bytes;
        let moved = vec![
            Extent::of_chunk(chunk(1, 7, 8192), 0, 8192),
            Extent::zeros((4 << 20) - 8192),
        ];
        changed[at] = file(&name, bytes, extents::slice(&moved, 0..bytes));
        let new = blocks(&changed)
            .iter()
            .filter(|block| !before.contains(&block.blake3))
            .count();
        assert!(new == usize::from(bytes > 0), "entry {at}: {new} new blocks");

        let mut grown = entries.clone();
        grown.insert(at + 1, relation(&format!("{name}_x"), 1, 99 << 40));
        grown[2..=20_002].sort_by(|a, b| a.path.cmp(&b.path));
        let new = blocks(&grown)
            .iter()
            .filter(|block| !before.contains(&block.blake3))
            .count();
        assert!((1..=2).contains(&new), "entry {at}: {new} new blocks");
    }
}

#[test]
fn a_file_over_one_gib_is_spans_that_continue_each_other() {
    let bytes = entry::SPAN_BYTES_MAX * 2 + 8192;
    let span = |at: u64, length: u64| {
        let content = Content::Extents(vec![Extent::zeros(length)]);
        Entry {
            kind: EntryKind::File(FileSpan {
                bytes,
                at,
                content,
                bad_pages: vec![],
            }),
            ..file("big", 0, vec![])
        }
    };
    let gib = entry::SPAN_BYTES_MAX;
    let spans = [
        directory("a"),
        span(0, gib),
        span(gib, gib),
        span(2 * gib, 8192),
        directory("global"),
    ];
    assert_eq!(entries_of(&blocks(&spans)), spans);
    let refused: [&[usize]; 5] = [&[1, 3], &[1, 2], &[2], &[1, 1, 2, 3], &[1, 4, 2, 3]];
    for order in refused {
        let mut check = OrderCheck::default();
        let result: pgkeep_base::Result<Vec<()>> = order.iter().map(|&i| check.entry(&spans[i])).collect();
        let result = result
            .and_then(|_| check.entry(&directory("global")))
            .and_then(|()| check.finish(&last()));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt, "{order:?}");
    }
    assert!(span(gib, 5).check().is_err() && span(8192, 5).check().is_err());
}

#[test]
fn the_manifest_object_comes_back_and_finds_the_blocks_of_a_path() {
    let firsts = ["backup", "base/5/1", "base/5/3", "base/5/3", "base/5/9"];
    let blocks = firsts.iter().enumerate().map(|(i, first)| BlockRef {
        first: path(first),
        chunk: chunk(i as u32 / 2, 0, 1 << 18),
    });
    let index = ManifestIndex {
        blocks: blocks.collect(),
        last: last(),
    };
    let documents = index.to_documents().unwrap();
    assert_eq!(ManifestIndex::from_documents(&documents).unwrap(), index);
    let find = |text: &str| index.blocks_of(&path(text));
    assert_eq!((find("a"), find("backup"), find("base/5/2")), (0..0, 0..1, 1..2));
    assert_eq!((find("base/5/3"), find("base/5/4"), find("z")), (1..4, 3..4, 4..5));

    let many = ManifestIndex {
        blocks: vec![index.blocks[0].clone(); 10_000],
        last: last(),
    };
    let documents = many.to_documents().unwrap();
    assert_eq!(documents.len(), 3);
    assert_eq!(ManifestIndex::from_documents(&documents).unwrap(), many);
    assert!(ManifestIndex::from_documents(&documents[..2]).is_err());
    assert!(
        ManifestIndex::from_documents(&documents[2..]).is_ok(),
        "documents don't depend on each other"
    );
    assert!(ManifestIndex::from_documents::<Vec<u8>>(&[]).is_err());
}

#[test]
fn an_end_of_the_manifest_that_lacks_or_adds_something_is_refused() {
    let label = || inline("backup_label", b"x");
    let control = || inline("global/pg_control", b"x");
    let bad = [
        vec![],
        vec![label()],
        vec![control()],
        vec![control(), label()],
        vec![label(), label(), control()],
        vec![label(), inline("base/5/1259", b"x"), control()],
        vec![label(), file("tablespace_map", 5, vec![Extent::zeros(5)]), control()],
    ];
    for last in bad {
        let index = ManifestIndex { blocks: vec![], last };
        assert!(index.to_documents().is_err(), "{:?}", index.last);
    }
}

/// Aim: whatever a manifest says, it can't make a restore write outside, twice, or more than was meant.
#[test]
fn hostile_blocks_are_refused() {
    let d = |path: &str| json!({"path": path, "type": "directory", "mode": "0700", "mtime": 0});
    let f = |path: &str, bytes: u64, extents: Value| json!({"path":path,"type":"file","bytes":bytes,"mode":"0600","extents":extents});
    let with = |mut entry: Value, key: &str, value: Value| {
        entry[key] = value;
        entry
    };
    let z = |path: &str| f(path, 1, json!([[1]]));
    let bad: Vec<Vec<Value>> = vec![
        vec![],
        vec![d("/etc")],
        vec![d("..")],
        vec![d("a"), z("a/../b")],
        vec![d("")],
        vec![d("a"), d("a")],
        vec![z("a"), z("a")],
        vec![d("a"), z("a")],
        vec![z("a"), z("a/b")],
        vec![z("a/b")],
        vec![d("a"), z("a-b"), z("a/b")],
        vec![d("b"), d("a")],
        vec![d("a"), d("a/b/c")],
        vec![z("%2e%2e")],
        vec![z("a%2F..")],
        vec![z("a%00b")],
        vec![z("backup_label")],
        vec![d("global"), z("global/pg_control")],
        vec![f("a", 2, json!([[1]]))],
        vec![f("a", 1, json!([[1], [0]]))],
        vec![f("a", 1, json!([[1, 0]]))],
        vec![f("a", 1, json!([[1, 0, 0, 0]]))],
        vec![f("a", 1, json!([[1, 1, 0]]))],
        vec![f("a", 1, json!([[1, 0, 8192]]))],
        vec![f("a", 8193, json!([[8193, 0, 0]]))],
        vec![f("a", 8192, json!([[8192, 0, 1]]))],
        vec![f("a", u64::MAX, json!([[u64::MAX]]))],
        vec![f("a", 1 << 40, json!([[1u64 << 40]]))],
        vec![f("a", 0, json!([[u64::MAX], [1]]))],
        vec![f("a", 8192, json!([[u64::MAX - 4, 0, 8], [8196, 0, 0]]))],
        vec![f("a", 1, json!([[-1]]))],
        vec![with(z("a"), "at", json!(1))],
        vec![with(z("a"), "at", json!(1u64 << 30))],
        vec![with(z("a"), "at", json!(u64::MAX - (1 << 30) + 1))],
        vec![with(z("a"), "data", json!("eA=="))],
        vec![with(f("a", 2, Value::Null), "data", json!("eA=="))],
        vec![with(f("a", 1, Value::Null), "data", json!("!"))],
        vec![with(
            f("a", 2048, Value::Null),
            "data",
            json!("A".repeat(2728) + "AAA="),
        )],
        vec![with(z("a"), "bytes", Value::Null)],
        vec![with(z("a"), "mode", json!("777777"))],
        vec![with(z("a"), "mode", json!("rwx"))],
        vec![with(z("a"), "mode", json!(384))],
        vec![with(z("a"), "type", json!("symlink"))],
        vec![with(z("a"), "bad_pages", json!([3, 3]))],
        vec![with(d("a"), "type", json!("tablespace"))],
        vec![d("pg_tblspc"), with(d("pg_tblspc/1/x"), "type", json!("tablespace"))],
        vec![
            d("pg_tblspc"),
            with(
                with(d("pg_tblspc/1"), "type", json!("tablespace")),
                "location",
                json!("%00"),
            ),
        ],
    ];
    for entries in bad {
        assert!(accept(json!([PACK]), rows(), json!(entries)).is_err(), "{entries:?}");
    }
    let good = vec![
        d("a"),
        z("a/b"),
        z("a-b"),
        with(z("b"), "unknown", json!(1)),
        f("c", 0, json!([])),
    ];
    accept(json!([PACK]), rows(), json!(good)).unwrap();
}

fn rows() -> Value {
    json!([[0, 0, 100, 8192, "0".repeat(64)]])
}

fn accept(packs: Value, chunks: Value, entries: Value) -> pgkeep_base::Result<()> {
    let block = json!({"packs": packs, "chunks": chunks, "entries": entries});
    let mut check = OrderCheck::default();
    parse_block(&serde_json::to_vec(&block).unwrap())?
        .iter()
        .try_for_each(|entry| check.entry(entry))
}

#[test]
fn hostile_addresses_are_refused() {
    let entries = || json!([{"path": "a", "type": "directory", "mode": "0700"}]);
    let hash = "0".repeat(64);
    accept(json!([PACK]), json!([[0, 0, 24, 0, hash]]), entries()).unwrap();
    for pack in [
        "control/genesis",
        "packs/../x",
        "wal/shop/1/1/x",
        &format!("{PACK}0"),
        "/packs/x",
        "",
    ] {
        assert!(accept(json!([pack]), json!([]), entries()).is_err(), "{pack}");
    }
    for row in [
        json!([1, 0, 24, 0, hash]),
        json!([0, 0, 23, 0, hash]),
        json!([0, 0, (64 << 20) + 25, 0, hash]),
        json!([0, 0, 24, (64 << 20) + 1, hash]),
        json!([0, u64::MAX, 24, 0, hash]),
        json!([0, 0, u64::MAX, 0, hash]),
        json!([0, 0, 24, 0, hash.to_uppercase() + "0"]),
        json!([0, 0, 24, 0]),
        json!([0, -1, 24, 0, hash]),
    ] {
        assert!(accept(json!([PACK]), json!([row]), entries()).is_err(), "{row}");
    }
    for broken in [
        &b""[..],
        b"{}",
        b"[]",
        b"{\"packs\":[],\"chunks\":[],\"entries\":[",
        b"\xff",
        &[b'['; 100_000],
    ] {
        assert_eq!(parse_block(broken).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

prop_compose! {
    fn any_extents()(runs in proptest::collection::vec((0u32..4, 0u32..6, 1u64..300_000, any::<bool>()), 1..12)) -> Vec<Extent> {
        let extent = |(pack, at, bytes, zeros): (u32, u32, u64, bool)| match zeros {
            true => Extent::zeros(bytes),
            false => Extent::of_chunk(chunk(pack, u64::from(at) << 21, 1 << 20), at * 8192, bytes),
        };
        runs.into_iter().map(extent).collect()
    }
}

prop_compose! {
    fn any_entry(name: String)(
        extents in any_extents(), data: Vec<u8>, what in 0u8..4, mode in 0u32..0o10000, owner: Option<bool>, mtime: i64,
    ) -> Entry {
        let entry = match what {
            0 => directory(&name),
            1 => inline(&name, &data),
            _ => file(&name, extents::total(&extents), extents),
        };
        Entry { mode, owner: owner.map(|_| "postgres \"\\ ü".to_owned()), mtime, ..entry }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_entries_come_back(entries in proptest::collection::btree_map("[a-c%~ -]{1,6}", any::<u8>(), 0..40)
        .prop_flat_map(|names| names.into_keys().map(|name| any_entry(crate::paths::escape(name.as_bytes()).into_owned())).collect::<Vec<_>>()))
    {
        let mut entries: Vec<_> = entries;
        entries.push(directory("global"));
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        prop_assert_eq!(entries_of(&blocks(&entries)), entries);
    }

    /// Aim: whatever became of a block, reading it ends in entries that are valid or in an error, never in a panic.
    #[test]
    fn a_mutilated_block_never_panics(at in 0usize..4000, byte: u8, cut in 0usize..4000, insert: bool) {
        let entries = [directory("a"), relation("a/1", 3, 0), inline("a/2", b"xyz"), directory("global")];
        let mut json = blocks(&entries).remove(0).json;
        let at = at % json.len();
        if insert { json.insert(at, byte) } else { json[at] = byte }
        for json in [&json[..], &json[..cut % json.len()]] {
            let mut order = OrderCheck::default();
            if let Ok(entries) = parse_block(json) {
                let _ = entries.iter().try_for_each(|entry| order.entry(entry));
            }
        }
    }

    /// Aim: extents keep the bytes they stand for. Method: the same on a plain list of what each byte is.
    #[test]
    fn extents_do_what_bytes_would(base in any_extents(), with in any_extents(), cut in 0u64..2_000_000, length in 0u64..2_000_000) {
        let range = cut..cut + length;
        let spliced = extents::splice(&base, range.clone(), &with);
        let probe = |list: &[Extent], at: u64| extents::find(list, at).map(|(extent, into)| match &extent.source {
            Source::Zeros => None,
            Source::Chunk { chunk, offset } => Some((chunk.pack.clone(), chunk.offset + u64::from(*offset) + into)),
        });
        let length_with = extents::total(&with);
        let tail = extents::total(&base).saturating_sub(range.end);
        prop_assert_eq!(extents::total(&spliced), cut + length_with + tail);
        prop_assert!(spliced.iter().all(|extent| extent.bytes > 0));
        prop_assert_eq!(&extents::coalesce(spliced.clone()), &spliced);
        for at in (0..extents::total(&spliced)).step_by(40_009) {
            let expected = match at {
                _ if at < cut => probe(&base, at).or(Some(None)),
                _ if at < cut + length_with => probe(&with, at - cut),
                _ => probe(&base, at - length_with + length),
            };
            prop_assert_eq!(probe(&spliced, at), expected);
        }
        prop_assert_eq!(extents::total(&extents::slice(&base, range.clone())), extents::total(&base).min(range.end).saturating_sub(cut));
        let counts = extents::count_per_neighbourhood(&base);
        prop_assert_eq!(counts.len() as u64, extents::total(&base).div_ceil(1 << 20));
        for (i, count) in counts.iter().enumerate() {
            let window = extents::slice(&base, (i as u64) << 20..(i as u64 + 1) << 20);
            prop_assert!(*count >= window.len() as u32 && *count > 0);
        }
    }
}

#[test]
fn adjacent_extents_of_a_chunk_become_one() {
    let a = chunk(0, 0, 1 << 20);
    let copy = Arc::new((*a).clone());
    let runs = vec![
        Extent::of_chunk(a.clone(), 0, 8192),
        Extent::of_chunk(copy, 8192, 8192),
        Extent::zeros(1),
        Extent::zeros(2),
        Extent::of_chunk(a.clone(), 0, 8192),
        Extent::of_chunk(a.clone(), 16384, 8192),
    ];
    let joined = extents::coalesce(runs);
    let lengths: Vec<_> = joined.iter().map(|extent| extent.bytes).collect();
    assert_eq!(lengths, [16384, 3, 8192, 8192]);
    assert_eq!(extents::chunks(&joined), std::slice::from_ref(&a));
    let shredded: Vec<_> = (0..34)
        .map(|i| Extent::of_chunk(a.clone(), (i * 2 % 128) * 8192, 61_680))
        .collect();
    assert_eq!(extents::fragmented(&shredded), [0, 1]);
    assert_eq!(extents::fragmented(&shredded[..16]), [0u64; 0]);
}
