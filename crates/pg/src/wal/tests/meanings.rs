//! What records mean, field by field; layouts from the headers of each major.

use std::ops::ControlFlow;

use pgkeep_base::{Lsn, TimelineId, pgtime};
use pgkeep_testkit::wal::Writer;

use crate::wal::{Meaning, WalLevel, Walker, meaning, read_segment_header};

fn meanings(writer: &Writer) -> Vec<Meaning> {
    let segments = writer.segments();
    let major = read_segment_header(&segments[0]).unwrap().major;
    let mut walker = Walker::new(None);
    let mut found = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        walker
            .feed(segment, &writer.name(index), &mut |record| {
                found.push(meaning(record, major));
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    found
}

/// A `COMMIT PREPARED` with all optional parts, `subtransactions` of them.
fn commit_prepared(statistics_item: usize, subtransactions: usize) -> Vec<u8> {
    let mut main = 5_000_000i64.to_le_bytes().to_vec();
    main.extend((1u32 | 2 | 4 | 8 | 16 | 128 | 256).to_le_bytes());
    main.extend([0; 8]);
    main.extend((subtransactions as i32).to_le_bytes());
    main.extend(vec![0; 4 * subtransactions]);
    main.extend(1i32.to_le_bytes());
    main.extend([0; 12]);
    main.extend(2i32.to_le_bytes());
    main.extend(vec![0; 2 * statistics_item]);
    main.extend(3i32.to_le_bytes());
    main.extend([0; 48]);
    main.extend(4711u32.to_le_bytes());
    main.extend(b"gid\0");
    main
}

#[test]
fn a_prepared_commit_names_the_prepared_transaction() {
    for (magic, statistics_item) in [(0xD110, 12), (0xD113, 12), (0xD116, 12), (0xD118, 16)] {
        let mut writer = Writer::new(8192);
        writer.magic = magic;
        writer.record(1, 0x30 | 0x80, 900, &commit_prepared(statistics_item, 1000));
        writer.record(1, 0x40 | 0x80, 900, &commit_prepared(statistics_item, 1));
        let time = pgtime::from_timestamptz(5_000_000).unwrap();
        let xid = Some(4711);
        let prepared = true;
        assert_eq!(
            meanings(&writer),
            [
                Meaning::Commit { xid, time, prepared },
                Meaning::Abort { xid, time, prepared }
            ],
            "{magic:X}"
        );
    }
}

#[test]
fn a_prepared_commit_too_long_to_keep_has_an_unknown_xid() {
    let mut writer = Writer::new(8192);
    writer.record(1, 0x30 | 0x80, 900, &commit_prepared(12, 300_000));
    let time = pgtime::from_timestamptz(5_000_000).unwrap();
    let unknown = Meaning::Commit {
        xid: None,
        time,
        prepared: true,
    };
    assert_eq!(meanings(&writer), [unknown]);
}

#[test]
fn plain_transactions_carry_their_own_xid() {
    let mut writer = Writer::new(8192);
    writer.commit(700, 0);
    writer.record(1, 0x20, 701, &0i64.to_le_bytes());
    writer.record(1, 0x10, 702, &[0; 100]);
    writer.record(1, 0x50, 703, &[0; 12]);
    let time = pgtime::from_timestamptz(0).unwrap();
    let prepared = false;
    assert_eq!(
        meanings(&writer),
        [
            Meaning::Commit {
                xid: Some(700),
                time,
                prepared
            },
            Meaning::Abort {
                xid: Some(701),
                time,
                prepared
            },
            Meaning::Prepare,
            Meaning::Other,
        ]
    );
}

#[test]
fn a_tablespace_bears_its_location() {
    let mut writer = Writer::new(8192);
    let create = |location: &str| [&16_400u32.to_le_bytes()[..], location.as_bytes(), b"\0"].concat();
    writer.record(5, 0x00, 700, &create("/srv/fast disk"));
    writer.record(5, 0x00, 700, &create(""));
    writer.record(5, 0x10, 701, &16_400u32.to_le_bytes());
    writer.record(5, 0x00, 702, &16_400u32.to_le_bytes());
    let made = |location: &str| Meaning::TablespaceCreate {
        oid: 16_400,
        location: location.into(),
    };
    let expected = [made("/srv/fast disk"), made(""), Meaning::Other, Meaning::Unreadable];
    assert_eq!(meanings(&writer), expected);
}

#[test]
fn records_of_the_log_manager_read_as_laid_out() {
    let mut writer = Writer::new(8192);
    let mut checkpoint = vec![0; 88];
    checkpoint[..8].copy_from_slice(&0x1234u64.to_le_bytes());
    checkpoint[8..12].copy_from_slice(&2u32.to_le_bytes());
    checkpoint[12..16].copy_from_slice(&1u32.to_le_bytes());
    checkpoint[64..72].copy_from_slice(&1_800_000_000i64.to_le_bytes());
    writer.record(0, 0x00, 0, &checkpoint);
    writer.record(0, 0x50, 0, &0x5678u64.to_le_bytes());
    let mut point = vec![0; 72];
    point[8..11].copy_from_slice(b"vor");
    writer.record(0, 0x70, 0, &point);
    let mut recovery = 7i64.to_le_bytes().to_vec();
    recovery.extend(3u32.to_le_bytes());
    recovery.extend(2u32.to_le_bytes());
    writer.record(0, 0x90, 0, &recovery);
    let mut parameters = vec![0; 28];
    parameters[20] = 2;
    writer.record(0, 0x60, 0, &parameters);
    writer.record(0, 0xE0, 0, &[1, 0, 0, 0]);
    let timeline = |number| TimelineId::new(number).unwrap();
    assert_eq!(
        meanings(&writer),
        [
            Meaning::Checkpoint {
                redo: Lsn(0x1234),
                timeline: timeline(2),
                prev_timeline: timeline(1),
                time: pgtime::from_pg_time(1_800_000_000).unwrap(),
                shutdown: true,
            },
            Meaning::BackupEnd { start_lsn: Lsn(0x5678) },
            Meaning::RestorePoint {
                name: "vor".into(),
                time: pgtime::from_timestamptz(0).unwrap(),
            },
            Meaning::EndOfRecovery {
                timeline: timeline(3),
                prev_timeline: timeline(2),
                time: pgtime::from_timestamptz(7).unwrap(),
            },
            Meaning::ParameterChange {
                wal_level: WalLevel::Logical
            },
            Meaning::CheckpointRedo,
        ]
    );
}

/// Aim: main data is found behind block references and images. Method: a commit that carries one of each kind.
#[test]
fn main_data_lies_behind_the_blocks() {
    let image = |info: u8| -> Vec<u8> {
        let mut header = vec![0, 0x10 | 0x20, 6, 0];
        header.extend([5, 0, 9, 0, info]);
        header
    };
    for (magic, info, has_hole_length) in [
        (0xD10Du16, 0x01u8 | 0x02, true),
        (0xD10D, 0x01 | 0x04, false),
        (0xD110, 0x01 | 0x02, false),
        (0xD110, 0x01 | 0x04, true),
        (0xD118, 0x01 | 0x10, true),
        (0xD118, 0x08, false),
    ] {
        let mut body = image(info);
        if has_hole_length {
            body.extend([1, 0]);
        }
        body.extend([0; 12 + 4]);
        body.extend([1, 0x80, 0, 0]);
        body.extend([0; 4]);
        body.extend([253, 1, 0]);
        body.extend([252, 1, 0, 0, 0]);
        body.extend([255, 8]);
        body.extend([0xEE; 5 + 6]);
        body.extend(1_000_000i64.to_le_bytes());
        let mut writer = Writer::new(8192);
        writer.magic = magic;
        writer.raw(1, 0, 700, &body);
        let commit = Meaning::Commit {
            xid: Some(700),
            time: pgtime::from_timestamptz(1_000_000).unwrap(),
            prepared: false,
        };
        assert_eq!(meanings(&writer), [commit], "{magic:X} {info:X}");
    }
}

#[test]
fn a_commit_that_cannot_be_read_is_not_passed_over() {
    let mut writer = Writer::new(8192);
    writer.record(1, 0, 700, &[1, 2, 3]);
    writer.raw(1, 0, 701, &[99, 1, 2, 3]);
    writer.record(0, 0x70, 0, &[1]);
    writer.raw(1, 0, 702, &[&[255, 8][..], &[0; 20]].concat());
    assert_eq!(meanings(&writer), vec![Meaning::Unreadable; 4]);
}
