//! Targets: what PostgreSQL writes, and what an operator writes into its files.

use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use pgkeep_base::{PgMajor, SegmentSize, TimelineId, WalSegment};
use pgkeep_pg::control::{ControlFile, FILE_BYTES};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::label::{BackupLabel, format_tablespace_map, parse_tablespace_map};
use pgkeep_pg::page;
use pgkeep_pg::server::{Postmaster, Status};
use pgkeep_pg::settings::guc::{SettingsFile, parse_line};
use pgkeep_pg::settings::{BlockState, Purpose, find_block, remove_block, strip_inherited};
use pgkeep_pg::wal::{Walker, meaning, read_segment_header, segment_facts};

/// `pg_control`, as it is and with a checksum that matches.
pub fn control_file(bytes: &[u8]) -> bool {
    let mut file = bytes.to_vec();
    file.resize(FILE_BYTES, 0);
    let raw = ControlFile::from_bytes(bytes).is_ok();
    // Where the checksum of each version lies: `ControlFileData` of pg_control.h.
    let good = [288, 292].into_iter().any(|at| {
        let mut file = file.clone();
        let crc = crc32c::crc32c(&file[..at]);
        file[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        ControlFile::from_bytes(&file).is_ok()
    });
    raw || good
}

/// A history file, behind a byte that is its timeline.
pub fn history(bytes: &[u8]) -> bool {
    let Some((first, text)) = bytes.split_first() else {
        return false;
    };
    let Some(timeline) = TimelineId::new(u32::from(*first)) else {
        return false;
    };
    let Ok(history) = TimelineHistory::parse(timeline, text) else {
        return false;
    };
    let again = TimelineHistory::parse(timeline, history.format().as_bytes()).expect("what was written can be read");
    assert_eq!(again.format(), history.format());
    for switch in history.switches() {
        assert!(history.is_ancestor(switch.timeline));
        assert!(history.switch_point(switch.timeline) <= Some(switch.lsn));
        let _ = (history.ancestor(switch.timeline), history.begin_of(switch.timeline));
        let _ = history.fork_point(&again);
    }
    true
}

pub fn backup_label(bytes: &[u8]) -> bool {
    let read = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| BackupLabel::parse(text).ok());
    read.inspect(|label| {
        let _ = label.check(label.start_lsn, SegmentSize::DEFAULT);
    })
    .is_some()
}

pub fn tablespace_map(bytes: &[u8]) -> bool {
    let Ok(tablespaces) = parse_tablespace_map(bytes) else {
        return false;
    };
    let written = format_tablespace_map(&tablespaces);
    let again = parse_tablespace_map(&written).expect("what was written can be read");
    assert_eq!(again, tablespaces);
    true
}

/// `postgresql.auto.conf`: whatever stands in it, pgkeep's blocks can be taken out of it, once and for all.
pub fn settings(bytes: &[u8]) -> bool {
    let _ = SettingsFile::parse(bytes);
    bytes
        .split(|byte| *byte == b'\n')
        .for_each(|line| drop(parse_line(line)));
    let mut found = false;
    for purpose in [Purpose::Recovery, Purpose::Archive] {
        found |= find_block(bytes, purpose).state != BlockState::Absent;
        let without = remove_block(bytes, purpose);
        assert_eq!(find_block(&without, purpose).state, BlockState::Absent);
        assert_eq!(remove_block(&without, purpose), without);
    }
    for standby in [false, true] {
        let stripped = strip_inherited(bytes, standby);
        assert_eq!(strip_inherited(&stripped, standby), stripped);
    }
    found
}

/// A page of a relation.
pub fn page(bytes: &[u8]) -> bool {
    let mut page = bytes.to_vec();
    page.resize(8192, 0);
    let _ = page::verify_page(&page, 7);
    let _ = page::bad_pages(&page, 8192, 7).count();
    let _ = (page::page_lsn(&page), page::checksum(&page, 7));
    page::has_sane_header(&page)
}

/// `postmaster.pid`. A server writes it bit by bit: what is there of it names the same process, or none yet.
pub fn postmaster(bytes: &[u8]) -> bool {
    let read = Postmaster::parse(bytes);
    let pid = read.as_ref().map(|read| read.pid);
    for end in (0..bytes.len()).rev().take(64) {
        let part = Postmaster::parse(&bytes[..end]).map(|part| part.pid);
        assert!(
            part.is_none() || part == pid,
            "{part:?} in the beginning, {pid:?} in all"
        );
    }
    read.inspect(|read| {
        assert!(read.pid > 0);
        assert_eq!(Postmaster::parse(&as_a_server_would(read)).as_ref(), Some(read));
    })
    .is_some()
}

fn as_a_server_would(read: &Postmaster) -> Vec<u8> {
    let started = read.started_at.map(|at| at.as_second().to_string());
    let port = read.port.map(|port| port.to_string());
    let socket = read.socket_dir.as_ref().map(|path| path.as_os_str().as_bytes());
    let status: &[u8] = match read.status {
        Status::Starting => b"starting",
        Status::Stopping => b"stopping",
        Status::Ready => b"ready   ",
        Status::Standby => b"standby ",
        Status::Unknown => b"",
    };
    let lines = [
        read.pid.to_string().as_bytes(),
        b"/data",
        started.unwrap_or_default().as_bytes(),
        port.unwrap_or_default().as_bytes(),
        socket.unwrap_or_default(),
        b"*",
        b"  5432001         7",
        status,
        b"",
    ]
    .map(<[u8]>::to_vec);
    lines.join(&b'\n')
}

/// The beginning of a WAL segment of 1 MiB.
pub fn wal(bytes: &[u8]) -> bool {
    let size = SegmentSize::new(1 << 20).expect("a size");
    let mut segment = vec![0; (size.bytes() as usize).max(bytes.len())];
    segment[..bytes.len()].copy_from_slice(bytes);
    let Ok(header) = read_segment_header(&segment) else {
        return false;
    };
    let name = WalSegment::at(header.page_timeline, header.start, size);
    let _ = segment_facts(&segment, &name, None);
    let mut records = 0;
    let _ = Walker::new(None).feed(&segment, &name, &mut |record| {
        records += 1;
        PgMajor::all().for_each(|major| drop(meaning(record, major)));
        ControlFlow::Continue(())
    });
    records > 0
}
