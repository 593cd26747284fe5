//! Tests of `pg_control` on bytes made by hand; those of real clusters are compared in `tests/it/files`.

use std::sync::atomic::{AtomicBool, Ordering};

use pgkeep_base::ErrorKind;

use super::*;

/// A plausible file of a major.
pub(crate) fn sample(major: u16) -> Vec<u8> {
    let (version, catalog, crc_offset) = match major {
        14 => (1300, 202_107_181, 288),
        15 => (1300, 202_209_061, 288),
        16 => (1300, 202_307_071, 288),
        17 => (1700, 202_406_281, 288),
        _ => (1800, 202_506_291, 292),
    };
    let mut bytes = vec![0; FILE_BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &7_441_234_567_890_123_456_u64.to_le_bytes());
    for (at, value) in [
        (8, version),
        (12, catalog),
        (16, 6_u32),
        (48, 3),
        (52, 2),
        (172, 1),
        (180, 100),
        (204, 8),
        (216, 8192),
        (220, 131_072),
        (224, 8192),
        (228, 16 << 20),
        (252, 1),
    ] {
        put(at, &value.to_le_bytes());
    }
    for (at, value) in [
        (24, 1_795_000_000_u64),
        (104, 1_794_999_000),
        (32, 0x16_B374_D880),
        (40, 0x16_B374_D848),
    ] {
        put(at, &value.to_le_bytes());
    }
    seal(&mut bytes, crc_offset);
    bytes
}

fn seal(bytes: &mut [u8], crc_offset: usize) {
    let crc = crc32c::crc32c(&bytes[..crc_offset]);
    bytes[crc_offset..crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A directory with nothing but `PG_VERSION` and `global/pg_control`.
fn data_dir(version: &str, control: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("PG_VERSION"), format!("{version}\n")).unwrap();
    std::fs::create_dir(dir.path().join("global")).unwrap();
    std::fs::write(dir.path().join(PATH), control).unwrap();
    dir
}

#[test]
fn the_major_follows_from_the_two_versions() {
    for major in 14..=18 {
        let control = ControlFile::from_bytes(&sample(major)).unwrap();
        assert_eq!(control.major.get(), major);
        assert_eq!(control.state, ClusterState::InProduction);
        assert_eq!(control.checkpoint.redo.to_string(), "16/B374D848");
        assert_eq!(control.checkpoint.timeline.get(), 3);
        assert_eq!(control.min_recovery_timeline, None);
        assert!(control.has_data_checksums());
    }
    let control = ControlFile::from_bytes(&sample(17)).unwrap();
    assert_eq!(control.tablespace_version_directory(), "PG_17_202406281");
}

#[test]
fn no_value_leaves_a_file_with_a_flipped_bit() {
    let good = sample(18);
    for at in 0..296 {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(ControlFile::from_bytes(&bad).is_err(), "byte {at}");
    }
    for length in [0, 1, 295, 511] {
        assert_eq!(
            ControlFile::from_bytes(&good[..length]).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }
    assert!(ControlFile::from_bytes(&good[..512]).is_ok(), "the rest is zeros");
}

#[test]
fn other_majors_and_machines_are_named() {
    let kind = |version: u32| {
        let mut bytes = sample(17);
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let error = ControlFile::from_bytes(&bytes).unwrap_err();
        (error.kind(), error.to_string())
    };
    assert_eq!(kind(1201).0, ErrorKind::Unsupported);
    assert_eq!(kind(1900).0, ErrorKind::Unsupported);
    assert!(kind(1700_u32.swap_bytes()).1.contains("byte order"));
    assert_eq!(kind(0).0, ErrorKind::Corrupt);
    let mut thirteen = sample(14);
    thirteen[12..16].copy_from_slice(&202_007_201_u32.to_le_bytes());
    seal(&mut thirteen, 288);
    assert_eq!(
        ControlFile::from_bytes(&thirteen).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn pg_version_decides_among_majors_of_one_format() {
    let mut fork = sample(14);
    fork[12..16].copy_from_slice(&209_912_311_u32.to_le_bytes());
    seal(&mut fork, 288);
    let dir = data_dir("14", &fork);
    assert_eq!(ControlFile::read(dir.path()).unwrap().major.get(), 14);
    let mixed = data_dir("17", &sample(16));
    let error = ControlFile::read(mixed.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.detail_text().unwrap().contains("PG_VERSION says 17"), "{error:?}");
}

#[test]
fn a_torn_file_is_read_again_before_it_is_called_corrupt() {
    let mut torn = sample(17);
    torn[16..300].fill(0xEE);
    let dir = data_dir("17", &torn);
    assert_eq!(ControlFile::read(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    // A writer that tears the file all the time: what is read is whole or an error, never a mixture.
    let path = dir.path().join(PATH);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::os::unix::fs::FileExt;
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                for major in [17, 17, 17] {
                    file.write_all_at(&torn[..400], 0).unwrap();
                    file.write_all_at(&sample(major), 0).unwrap();
                }
            }
        });
        let mut whole = 0;
        for _ in 0..50 {
            if let Ok((control, bytes)) = ControlFile::read_with_bytes(dir.path()) {
                assert_eq!(bytes, sample(17));
                assert_eq!(control.checkpoint.redo.to_string(), "16/B374D848");
                whole += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(whole > 0, "no read of fifty was whole");
    });
}

#[test]
fn a_poisoned_file_differs_in_its_checkpoint_alone() {
    for major in 14..=18 {
        let good = sample(major);
        let bad = poisoned(&good).unwrap();
        assert!(is_poisoned(&bad) && !is_poisoned(&good));
        let mut expected = ControlFile::from_bytes(&good).unwrap();
        expected.checkpoint.lsn = POISONED_CHECKPOINT;
        assert_eq!(ControlFile::from_bytes(&bad).unwrap(), expected);
        assert_eq!(bad.len(), good.len());
    }
    assert!(poisoned(&[0; 8192]).is_err());
}

#[test]
fn what_is_no_version_file_is_refused() {
    assert_eq!(parse_pg_version(b"17\n").unwrap().get(), 17);
    assert_eq!(parse_pg_version(b"9.6\n").unwrap_err().kind(), ErrorKind::Unsupported);
    for bad in [&b""[..], b"x", b"\xff", b"-1"] {
        assert_eq!(parse_pg_version(bad).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
