//! Tests of labels and maps; real ones are read in `tests/it/files`.

use std::ffi::OsStr;
use std::path::Path;

use pgkeep_base::ErrorKind;

use super::*;

const LABEL: &str = "START WAL LOCATION: 16/B374D848 (file 0000000300000016000000B3)\n\
    CHECKPOINT LOCATION: 16/B374D880\n\
    BACKUP METHOD: streamed\n\
    BACKUP FROM: primary\n\
    START TIME: 2026-11-20 10:15:12 UTC\n\
    LABEL: pgkeep: nightly\n\
    START TIMELINE: 3\n";

#[test]
fn a_label_reads_as_postgresql_wrote_it() {
    let label = BackupLabel::parse(LABEL).unwrap();
    assert_eq!(label.start_lsn.to_string(), "16/B374D848");
    assert_eq!(label.checkpoint_lsn.to_string(), "16/B374D880");
    assert_eq!(label.timeline.get(), 3);
    assert_eq!(label.label, "pgkeep: nightly");
    assert!(!label.from_standby);
    label.check(label.start_lsn, SegmentSize::DEFAULT).unwrap();
    let small = SegmentSize::new(1 << 20).unwrap();
    assert_eq!(
        label.check(label.start_lsn, small).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert!(label.check(Lsn(1), SegmentSize::DEFAULT).is_err());
}

#[test]
fn every_line_of_a_label_counts() {
    for line in LABEL.lines() {
        let without = LABEL.replace(&format!("{line}\n"), "");
        assert_eq!(
            BackupLabel::parse(&without).unwrap_err().kind(),
            ErrorKind::Corrupt,
            "{line}"
        );
    }
    for (from, to) in [
        ("START TIMELINE: 3", "START TIMELINE: 4"),
        ("BACKUP FROM: primary", "BACKUP FROM: moon"),
        ("16/B374D848", "16-B374D848"),
        ("16/B374D880", "0/0"),
        ("(file 0000000300000016000000B3)", "(file 0000000300000016000000B3"),
        ("(file 0000000300000016000000B3)", "(file ../../../etc/passwd)"),
        ("LABEL: pgkeep: nightly\n", "LABEL: two\nlines\n"),
        ("LABEL: pgkeep: nightly\n", "LABEL: x\nLABEL: y\n"),
    ] {
        let changed = LABEL.replacen(from, to, 1);
        assert_ne!(changed, LABEL);
        assert!(BackupLabel::parse(&changed).is_err(), "{from} -> {to}");
    }
    assert!(BackupLabel::parse(LABEL.trim_end()).is_err(), "cut short");
}

#[test]
fn labels_that_need_other_tools_are_not_supported() {
    for changed in [
        LABEL.replace("METHOD: streamed", "METHOD: pg_rewind"),
        format!("{LABEL}INCREMENTAL FROM LSN: 16/A0000028\nINCREMENTAL FROM TLI: 3\n"),
    ] {
        assert_eq!(BackupLabel::parse(&changed).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

fn tablespace(oid: u32, location: &[u8]) -> Tablespace {
    let location = Path::new(OsStr::from_bytes(location)).to_owned();
    Tablespace { oid, location }
}

#[test]
fn a_map_reads_back_whatever_its_locations_are_called() {
    let tablespaces = [
        tablespace(16400, b"/srv/fast"),
        tablespace(16401, b"/srv/with space and 'quotes'"),
        tablespace(16402, b"/srv/new\nline\r"),
        tablespace(16403, b"/srv/back\\slash\\"),
        tablespace(16404, b"  /srv/leading"),
        tablespace(16405, b"/srv/\xff\xfe"),
        tablespace(16406, b"pg_tblspc/16406"),
    ];
    let text = format_tablespace_map(&tablespaces);
    assert_eq!(parse_tablespace_map(&text).unwrap(), tablespaces);
    assert!(text.windows(9).any(|window| window == b"/new\\\nlin"));
}

#[test]
fn maps_that_postgresql_refuses_are_refused() {
    assert_eq!(parse_tablespace_map(b"").unwrap(), []);
    for bad in [
        "16400 /srv/a",
        "16400 /srv/a\\",
        "16400\n",
        "16400 \n",
        " /srv/a\n",
        "x /srv/a\n",
        "-1 /srv/a\n",
        "99999999999 /srv/a\n",
        "16400 /srv/a\n16400 /srv/b\n",
    ] {
        assert_eq!(
            parse_tablespace_map(bad.as_bytes()).unwrap_err().kind(),
            ErrorKind::Corrupt,
            "{bad:?}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn any_map_reads_back(locations in proptest::collection::vec(proptest::collection::vec(1..=255_u8, 1..20), 0..5)) {
        let tablespaces: Vec<Tablespace> = (16384..).zip(&locations).map(|(oid, location)| tablespace(oid, location)).collect();
        proptest::prop_assert_eq!(parse_tablespace_map(&format_tablespace_map(&tablespaces)).unwrap(), tablespaces);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = parse_tablespace_map(&bytes);
        let _ = BackupLabel::parse(&String::from_utf8_lossy(&bytes));
        let _ = crate::history::TimelineHistory::parse(TimelineId::FIRST, &bytes);
        let _ = crate::control::ControlFile::from_bytes(&bytes);
        let _ = crate::datadir::RelPath::new(bytes).map(|path| crate::datadir::classify(&path));
    }
}
