//! First inputs that no golden repository holds in the clear: made here, by the layouts that the targets read.

use pgkeep_base::{Lsn, PgMajor, SegmentSize, SystemId, TimelineId, WalSegment};
use pgkeep_engine::restore::RecoveryPlan;
use pgkeep_engine::wal::map::{Holder, SegmentMap};
use pgkeep_pg::settings::{ArchiveChoice, with_archive_block};
use pgkeep_repo::frame::encode;
use pgkeep_repo::keys::new_identity_file_text;
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::seal::Kind;

use crate::signed;

/// All of them.
pub(super) fn all(add: &mut impl FnMut(&'static str, &[u8])) {
    repository(add);
    postgres(add);
    wal_records().iter().for_each(|input| add("wal-records", input));
    reuse().iter().for_each(|input| add("reuse", input));
    add("recovery-plan", &recovery_plan());
    add("restore-mark", RESTORE_MARK);
    add("restore-mark", EARLIER_MARK);
    s3_listing(add);
    for pair in [
        "base/5/16384\nbase/5/16384.1",
        "pg_tblspc/16385/PG_16_202307071/5/16400_fsm\nglobal/pg_control",
        "base\nbase/5/t3_16500",
    ] {
        add("paths", pair.as_bytes());
    }
}

/// Of a restore over a cluster, with a tablespace whose path is not text.
const RESTORE_MARK: &[u8] = br#"/srv/main
{"restore":"00112233445566778899aabbccddeeff","backup":"20261120T081352Z-gea42gjken","started_at":"2026-11-20T08:13:52Z","target":"/srv/main","tablespaces":["/srv/f%E4st"],"system_identifier":"7428165372412345678","over":true}"#;
/// Without what earlier versions did not say.
const EARLIER_MARK: &[u8] = br#"/srv/%
{"restore":"00112233445566778899aabbccddeeff","backup":"20261120T081352Z-gea42gjken","started_at":"2026-11-20T08:13:52Z","target":"/srv/%25","tablespaces":[]}"#;

/// As Amazon and SeaweedFS answer, and keys that anybody may have put there.
fn s3_listing(add: &mut impl FnMut(&'static str, &[u8])) {
    for page in [
        r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix>p/wal/</Prefix><NextContinuationToken>1u=</NextContinuationToken><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated><Contents><Key>p/wal/c/0001-ab</Key><LastModified>2026-11-20T10:15:12.000Z</LastModified><ETag>&quot;599bab3ed2c697f1d26842727561fd94&quot;</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass></Contents><Contents><Key>p/wal/c//x</Key><LastModified>2026-11-20T10:15:12.000Z</LastModified><ETag>&#34;x&#34;</ETag><Size>0</Size></Contents></ListBucketResult>"#,
        r#"<ListBucketResult><IsTruncated>false</IsTruncated><CommonPrefixes><Prefix>p/wal/shop/</Prefix></CommonPrefixes><CommonPrefixes><Prefix>p/wal/&amp;/</Prefix></CommonPrefixes><Contents><Key>p/wal/c/</Key><Owner><ID>1</ID><DisplayName>o</DisplayName></Owner><LastModified>2026-11-20T10:15:12Z</LastModified><ETag>"x"</ETag><Size>18446744073709551615</Size></Contents></ListBucketResult>"#,
        "wal/b\np/wal/a\np/wal/b\np/wal/c/0001\np/wal/c/0002.r1",
        "p/wal/c\np/wal/c/\np/wal//c\n/p/wal/d\np/wal/../e\np/wal/f g\np/wal/h \np/wal/<&>\np/wal/..r1",
    ] {
        add("s3-listing", page.as_bytes());
    }
}

fn repository(add: &mut impl FnMut(&'static str, &[u8])) {
    let name = signed::name("control/a-document");
    add("document", &signed::document(&name, &Default::default()));
    let content = encode(b"a a a a a a a a a a a a a a a a", 1).expect("a short frame");
    add("frame", content.plaintext());
    let builder = signed::sealer()
        .begin(&signed::name("an/object"), Kind::Pack)
        .expect("an object");
    let object = builder.finish(Default::default(), Some(&content)).expect("an object");
    add("object", &object.to_bytes());
    add(
        "body",
        super::apart(&object.to_bytes()).map_or(&[][..], |(_, body)| body),
    );
    add("keys", new_identity_file_text().0.as_bytes());
    for said in [
        r#"{"add":"s-00112233445566778899aabbccddeeff","name":"host"}"#,
        r#"{"remove":"s-00112233445566778899aabbccddeeff","from":"2026-11-20T10:15:12Z","keep":[]}"#,
        r#"{"id":"20261120T081352Z-gea42gjken","host":"db1","started_at":"2026-11-20T08:13:52Z"}"#,
    ] {
        add("control", said.as_bytes());
    }
    for said in [
        r#"{"covers":["backups/a/1/x/manifest","genesis"],"keys":{"backups/a/1/x/manifest":{"00112233445566778899aabbccddeeff":"YWdlLWVuY3J5cHRpb24ub3JnL3Yx"},"genesis":{}},"recipients":["age1x"]}"#,
        r#"{"covers":["a","b"],"created_at":"2026-11-20T10:15:12Z","keys":{},"recipients":[]}"#,
    ] {
        add("rewrap", said.as_bytes());
    }
    for text in [
        "20261120T081352Z-gea42gjken",
        "shop",
        "00000002.history",
        "000000010000000000000003.partial",
    ] {
        add("names", text.as_bytes());
    }
}

fn postgres(add: &mut impl FnMut(&'static str, &[u8])) {
    add(
        "history",
        b"\x031\t0/3000060\tno recovery target specified\n\n2\t0/5000000\tat restore point \"before\"\n",
    );
    add("tablespace-map", b"16385 /srv/fast\n16386 /srv/with\\\nnewline\n");
    for file in [
        &b"4711\n/data\n1763600000\n5433\n/tmp/s\n*\n  12345 67\nready   \n"[..],
        b"-4711\n/d\xe4ta\n1763600000\n5433\n\n",
        b"11\n/data\n1763600000\n5432\n/tmp\n\n   12345 67\nstandby \n",
    ] {
        add("postmaster", file);
    }
    let block = with_archive_block(b"port = 5433\n", &ArchiveChoice::Off, PgMajor::NEWEST);
    add("settings", &block.expect("a block"));
}

/// Records of every kind that has a meaning, for a major each; then some that span pages, and segments.
fn wal_records() -> Vec<Vec<u8>> {
    let record = |op: u8, rmgr: u8, info: u8, body: &[u8]| [&[op, rmgr, info, body.len() as u8][..], body].concat();
    let mut checkpoint = [0; 88];
    checkpoint[8..16].copy_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
    let mut prepared = [0; 68];
    prepared[8..12].copy_from_slice(&(1u32 | 2 | 4 | 8 | 16 | 256).to_le_bytes());
    let point = [&[0; 8][..], b"before", &[0; 58]].concat();
    let kinds = [
        record(0, 1, 0x00, &[7; 8]),
        record(0, 1, 0x20, &[6; 8]),
        record(0, 1, 0xB0, &prepared),
        record(0, 1, 0xC0, &prepared),
        record(0, 0, 0x10, &checkpoint),
        record(0, 0, 0x70, &point),
        record(0, 0, 0x50, &[1; 8]),
        record(0, 0, 0x60, &[1; 28]),
        record(0, 0, 0x90, &[1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0]),
        record(0, 0, 0xD0, &[1; 16]),
        record(0, 4, 0x00, &[5; 16]),
        record(0, 4, 0x20, &[5, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0]),
        record(0, 5, 0x00, b"\x01@\0\0/srv/fast\0"),
        // A commit behind a block reference with an image, an origin and a top-level transaction.
        record(
            1,
            1,
            0x00,
            b"\0\x10\x06\0\x05\0\x09\0\x01............\x07\0\0\0\xfd\x01\0\xfc\x01\0\0\0\xff\x0812345678901........",
        ),
        record(0, 0, 0x40, &[]),
        record(4, 1, 0x00, &[7; 8]),
    ];
    let whole = (0..5).map(|setting| [&[setting, 0, 0x10, 1][..], &kinds.concat()].concat());
    let spanning = [
        record(2, 10, 0, &[b'x'; 250]),
        record(0, 1, 0, &[7; 8]),
        record(8, 1, 0, &[7; 8]),
    ];
    let spanning = (0..4).map(|size| [&[5 * size + 3, 0, 0x80, 1][..], &spanning.concat()].concat());
    whole
        .chain(spanning)
        .chain(kinds.iter().map(|kind| [&[4, 0, 0, 0][..], kind].concat()))
        .collect()
}

/// A finished cache with two packs, files of each kind, and a block; and its beginning, as a journal.
fn reuse() -> [Vec<u8>; 2] {
    let record = |kind: u8, body: &[u8]| [&[kind][..], &(body.len() as u16).to_le_bytes(), body].concat();
    let start = br#"{"repository":"00112233445566778899aabbccddeeff","cluster":"shop","system_identifier":"7","backup":"20261120T101512Z-0123456789","started_at":"2026-11-20T10:15:12Z","recipients":[],"places":["a"],"block_bytes":8192}"#;
    let pack = |number: u8| {
        let hash = "00".repeat(32);
        let text = format!(
            r#"{{"name":"packs/shop/7/20261120T101512Z-0123456789/{number:04}","bytes":1000,"header_bytes":10,"blake3":"{hash}","live_bytes":0}}"#
        );
        record(2, text.as_bytes())
    };
    // Path, times, length, device, inode, where in the file.
    let seen = |path: &[u8], bytes: &[u8]| [&[path.len() as u8][..], path, &[1; 16], bytes, &[66, 77, 0]].concat();
    let inline = [&seen(b"PG_VERSION", &[3])[..], b"\x01\x0318\n\0\0"].concat();
    let chunk = |pack: u8| [&[pack, 9, 100, 0x80, 0x40][..], &[0xAB; 32]].concat();
    let extents = [&[0, 2][..], &chunk(0), &chunk(1), &[2, 0x80, 0x40, 1, 0, 0x80, 0x40, 0]].concat();
    let relation = [
        &seen(b"base/5/1259", &[0x80, 0x80, 1])[..],
        &extents,
        &[2],
        &[7; 32],
        &[1, 1],
    ]
    .concat();
    let block = [&b"\x0aPG_VERSION\x0bbase/5/1259\x02"[..], &chunk(1), &[2, 0, 5, 1, 6]].concat();
    let end = br#"{"finished_at":"2026-11-20T10:16:12Z","head":"0000000000000000000000000000000000000000000000000000000000000000","places":["a"],"live":[5,6]}"#;
    let journal = [
        record(1, start),
        record(3, &inline),
        pack(0),
        pack(1),
        record(3, &relation),
        record(4, &block),
        record(3, &[&seen(b"base/6", &[0])[..], &[0, 0, 0, 0, 0]].concat()),
    ];
    let journal = journal.concat();
    [[&journal[..], &record(5, end)].concat(), journal]
}

/// Two timelines, a partial segment and a saved one.
fn recovery_plan() -> Vec<u8> {
    let size = SegmentSize::DEFAULT;
    let mut map = SegmentMap::new(size);
    let parts = [
        (1, Holder::Segment),
        (1, Holder::Partial),
        (2, Holder::Segment),
        (2, Holder::Saved),
    ];
    for ((timeline, holder), number) in parts.into_iter().zip(5..) {
        let timeline = TimelineId::new(timeline).expect("a timeline");
        let segment = WalSegment { timeline, number, size };
        map.push(segment, "00112233445566778899aabbccddeeff".to_owned(), holder)
            .expect("segments in order");
    }
    let lineage = Lineage {
        cluster: "shop".parse().expect("the name of a cluster"),
        system_identifier: SystemId(7_428_165_372_412_345_678),
    };
    let backup = "20261120T081352Z-gea42gjken".parse().expect("the id of a backup");
    let second = TimelineId::new(2).expect("a timeline");
    let mut plan = RecoveryPlan::new(lineage, backup, second, Lsn(0x8000_0028), map);
    plan.histories
        .insert(second, "1\t0/7000000\tno recovery target specified\n".to_owned());
    plan.to_json()
}
