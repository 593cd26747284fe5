//! Commit and abort records: who, when, and for prepared transactions the transaction that was prepared.
//!
//! The optional parts of `xl_xact_commit` and `xl_xact_abort` stand in a fixed order without lengths of their own, so
//! the way to the prepared transaction's id leads over all of them; one of them grew in 18.

use jiff::Timestamp;
use pgkeep_base::{PgMajor, pgtime};

use super::bytes::{i32_at, i64_at, u32_at};
use super::meaning::Meaning;
use super::record::Record;

const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const OPERATION_MASK: u8 = 0x70;
const HAS_INFO: u8 = 0x80;

const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_DROPPED_STATISTICS: u32 = 1 << 8;

/// What a record of the transaction manager means.
pub(super) fn meaning(record: &Record, major: PgMajor) -> Meaning {
    let operation = record.info & OPERATION_MASK;
    let prepared = matches!(operation, COMMIT_PREPARED | ABORT_PREPARED);
    match operation {
        COMMIT | COMMIT_PREPARED | ABORT | ABORT_PREPARED => {}
        PREPARE => return Meaning::Prepare,
        _ => return Meaning::Other,
    }
    let Some(main) = record.main_data(major) else {
        return Meaning::Unreadable;
    };
    let Some(time) = time_of(main) else {
        return Meaning::Unreadable;
    };
    let xid = match prepared {
        false => Some(record.xid),
        true => match prepared_xid(main, record.info, major) {
            Some(xid) => Some(xid),
            None if record.is_cut() => None,
            None => return Meaning::Unreadable,
        },
    };
    match operation {
        COMMIT | COMMIT_PREPARED => Meaning::Commit { xid, time, prepared },
        _ => Meaning::Abort { xid, time, prepared },
    }
}

fn time_of(main: &[u8]) -> Option<Timestamp> {
    pgtime::from_timestamptz(i64_at(main, 0)?)
}

/// Walks over the optional parts to `xl_xact_twophase`; `None` where it is missing or was not kept.
fn prepared_xid(main: &[u8], info: u8, major: PgMajor) -> Option<u32> {
    if info & HAS_INFO == 0 {
        return None;
    }
    let parts = u32_at(main, 8)?;
    if parts & HAS_TWO_PHASE == 0 {
        return None;
    }
    let mut at = 12;
    if parts & HAS_DATABASE != 0 {
        at += 8;
    }
    let statistics_item_bytes = if major.get() >= 18 { 16 } else { 12 };
    for (flag, item_bytes) in [
        (HAS_SUBTRANSACTIONS, 4),
        (HAS_RELATIONS, 12),
        (HAS_DROPPED_STATISTICS, statistics_item_bytes),
        (HAS_INVALIDATIONS, 16),
    ] {
        if parts & flag != 0 {
            let items = usize::try_from(i32_at(main, at)?).ok()?;
            at = at.checked_add(4)?.checked_add(items.checked_mul(item_bytes)?)?;
        }
    }
    u32_at(main, at)
}
