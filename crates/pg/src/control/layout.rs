//! Offsets inside `pg_control` on 64-bit little-endian machines, and the reading of them.
//!
//! Invariant: nothing is read from a file whose CRC-32C has not matched, except the two version fields, which say
//! where the CRC lies (PostgreSQL never moves them).

use pgkeep_base::pgtime::from_pg_time;
use pgkeep_base::{Error, Lsn, PgMajor, Result, SegmentSize, SystemId, TimelineId};

use super::{Checkpoint, ClusterState, ControlFile, WalLevel};

const SYSTEM_ID: usize = 0;
pub(super) const CONTROL_VERSION: usize = 8;
const CATALOG_VERSION: usize = 12;
const STATE: usize = 16;
const TIME: usize = 24;
pub(super) const CHECKPOINT: usize = 32;
const REDO: usize = 40;
const TIMELINE: usize = 48;
const PREVIOUS_TIMELINE: usize = 52;
const FULL_PAGE_WRITES: usize = 56;
const NEXT_XID: usize = 64;
const NEXT_OID: usize = 72;
const NEXT_MULTIXACT: usize = 76;
const CHECKPOINT_TIME: usize = 104;
const MIN_RECOVERY_POINT: usize = 136;
const MIN_RECOVERY_TIMELINE: usize = 144;
const BACKUP_START_POINT: usize = 152;
const BACKUP_END_POINT: usize = 160;
const BACKUP_END_REQUIRED: usize = 168;
const WAL_LEVEL: usize = 172;
const WAL_LOG_HINTS: usize = 176;
const MAX_CONNECTIONS: usize = 180;
const MAX_WORKER_PROCESSES: usize = 184;
const MAX_WAL_SENDERS: usize = 188;
const MAX_PREPARED_TRANSACTIONS: usize = 192;
const MAX_LOCKS_PER_TRANSACTION: usize = 196;
const TRACK_COMMIT_TIMESTAMP: usize = 200;
const MAX_ALIGN: usize = 204;
const BLOCK_BYTES: usize = 216;
const RELATION_SEGMENT_BLOCKS: usize = 220;
const WAL_BLOCK_BYTES: usize = 224;
const SEGMENT_BYTES: usize = 228;
const DATA_CHECKSUM_VERSION: usize = 252;

/// More than any layout's CRC needs, less than PostgreSQL promises to write atomically.
pub(super) const PREFIX_BYTES: usize = 512;

/// Where the CRC of everything before it lies.
pub(super) fn crc_offset(control_version: u32) -> Option<usize> {
    match control_version {
        1300 | 1700 => Some(288),
        1800 => Some(292),
        _ => None,
    }
}

/// Verifies and reads. `major` is what `PG_VERSION` says, where it is known.
pub(super) fn parse(bytes: &[u8], major: Option<PgMajor>) -> Result<ControlFile> {
    if bytes.len() < PREFIX_BYTES {
        return Err(Error::corrupt(format!(
            "pg_control is too short: {} bytes",
            bytes.len()
        )));
    }
    verify(bytes)?;
    let at = Fields(bytes);
    let major = major_of(at.u32(CONTROL_VERSION), at.u32(CATALOG_VERSION), major)?;
    let segment_bytes = at.u32(SEGMENT_BYTES);
    Ok(ControlFile {
        system_id: SystemId(at.u64(SYSTEM_ID)),
        control_version: at.u32(CONTROL_VERSION),
        catalog_version: at.u32(CATALOG_VERSION),
        major,
        state: state(at.u32(STATE))?,
        time: at.time(TIME)?,
        checkpoint: checkpoint(&at)?,
        min_recovery_point: at.lsn(MIN_RECOVERY_POINT),
        min_recovery_timeline: TimelineId::new(at.u32(MIN_RECOVERY_TIMELINE)),
        backup_start_point: at.lsn(BACKUP_START_POINT),
        backup_end_point: at.lsn(BACKUP_END_POINT),
        backup_end_required: at.flag(BACKUP_END_REQUIRED),
        wal_level: wal_level(at.u32(WAL_LEVEL))?,
        wal_log_hints: at.flag(WAL_LOG_HINTS),
        max_connections: at.u32(MAX_CONNECTIONS),
        max_worker_processes: at.u32(MAX_WORKER_PROCESSES),
        max_wal_senders: at.u32(MAX_WAL_SENDERS),
        max_prepared_transactions: at.u32(MAX_PREPARED_TRANSACTIONS),
        max_locks_per_transaction: at.u32(MAX_LOCKS_PER_TRANSACTION),
        track_commit_timestamp: at.flag(TRACK_COMMIT_TIMESTAMP),
        block_bytes: at.block(BLOCK_BYTES, 32 << 10)?,
        relation_segment_blocks: at.u32(RELATION_SEGMENT_BLOCKS),
        wal_block_bytes: at.block(WAL_BLOCK_BYTES, 64 << 10)?,
        segment_size: SegmentSize::new(segment_bytes)
            .map_err(|error| Error::corrupt("pg_control holds an impossible WAL segment size").source(error))?,
        data_checksum_version: at.u32(DATA_CHECKSUM_VERSION),
    })
}

fn verify(bytes: &[u8]) -> Result<()> {
    let at = Fields(bytes);
    let version = at.u32(CONTROL_VERSION);
    let Some(crc_offset) = crc_offset(version) else {
        return Err(unknown_version(version));
    };
    let computed = crc32c::crc32c(&bytes[..crc_offset]);
    if computed != at.u32(crc_offset) {
        return Err(Error::corrupt("pg_control fails its own checksum")
            .detail(format!("stored {:08x}, computed {computed:08x}", at.u32(crc_offset)))
            .hint("Run `pgkeep doctor` on this host; if the disk is at fault, restore with `pgkeep restore`."));
    }
    if at.u32(MAX_ALIGN) != 8 {
        return Err(
            Error::unsupported("the cluster belongs to a machine with another alignment")
                .detail(format!("MAXALIGN is {}, this pgkeep reads 8", at.u32(MAX_ALIGN))),
        );
    }
    Ok(())
}

fn unknown_version(version: u32) -> Error {
    if crc_offset(version.swap_bytes()).is_some() {
        return Error::unsupported("the cluster belongs to a machine of the other byte order");
    }
    match version {
        // 900 to 1201 are real formats of PostgreSQL 9.0 to 12; 13 already has 1300.
        833..=1299 => Error::unsupported(format!("pg_control has the old format {version}"))
            .detail("this pgkeep knows those of PostgreSQL 14 to 18"),
        1301..=2999 => Error::unsupported(format!("pg_control has the unknown format {version}"))
            .detail("this pgkeep knows those of PostgreSQL 14 to 18")
            .hint("A newer pgkeep may know it: compare `pgkeep version` with the latest release."),
        _ => Error::corrupt("pg_control does not begin as any known format does"),
    }
}

/// The last released catalog versions of 14 and 15; they tell the majors apart that share control version 1300.
const CATALOG_VERSION_14: u32 = 202_107_181;
const CATALOG_VERSION_15: u32 = 202_209_061;

fn major_of(control_version: u32, catalog_version: u32, pg_version: Option<PgMajor>) -> Result<PgMajor> {
    let by_catalog = match (control_version, catalog_version) {
        (1300, ..202_100_000) => return Err(Error::unsupported("PostgreSQL 13 is not supported")),
        (1300, ..=CATALOG_VERSION_14) => 14,
        (1300, ..=CATALOG_VERSION_15) => 15,
        (1300, _) => 16,
        (1700, _) => 17,
        _ => 18,
    };
    let by_catalog = PgMajor::new(by_catalog)?;
    // PG_VERSION wins among majors of one control version: forks bring catalog versions of their own.
    let Some(named) = pg_version else { return Ok(by_catalog) };
    let shares_format = |major: PgMajor| match major.get() {
        14..=16 => 1300,
        17 => 1700,
        _ => 1800,
    };
    if shares_format(named) == control_version {
        return Ok(named);
    }
    Err(Error::corrupt(format!(
        "PG_VERSION says {named}, but pg_control is of PostgreSQL {by_catalog}"
    ))
    .hint("The directory mixes files of two clusters. Run `pgkeep doctor` and compare its paths."))
}

fn state(number: u32) -> Result<ClusterState> {
    Ok(match number {
        0 => ClusterState::StartingUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::InCrashRecovery,
        5 => ClusterState::InArchiveRecovery,
        6 => ClusterState::InProduction,
        _ => return Err(Error::corrupt(format!("pg_control holds the unknown state {number}"))),
    })
}

fn wal_level(number: u32) -> Result<WalLevel> {
    Ok(match number {
        0 => WalLevel::Minimal,
        1 => WalLevel::Replica,
        2 => WalLevel::Logical,
        _ => {
            return Err(Error::corrupt(format!(
                "pg_control holds the unknown wal_level {number}"
            )));
        }
    })
}

fn checkpoint(at: &Fields<'_>) -> Result<Checkpoint> {
    Ok(Checkpoint {
        lsn: at.lsn(CHECKPOINT),
        redo: at.lsn(REDO),
        timeline: at.timeline(TIMELINE)?,
        previous_timeline: at.timeline(PREVIOUS_TIMELINE)?,
        time: at.time(CHECKPOINT_TIME)?,
        full_page_writes: at.flag(FULL_PAGE_WRITES),
        next_xid: at.u64(NEXT_XID),
        next_oid: at.u32(NEXT_OID),
        next_multixact: at.u32(NEXT_MULTIXACT),
    })
}

/// Typed reads at offsets that `parse` has checked to lie inside.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0[offset..offset + N].try_into().expect("the slice has N bytes")
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.array(offset))
    }

    fn flag(&self, offset: usize) -> bool {
        self.0[offset] != 0
    }

    fn lsn(&self, offset: usize) -> Lsn {
        Lsn(self.u64(offset))
    }

    fn time(&self, offset: usize) -> Result<jiff::Timestamp> {
        from_pg_time(i64::from_le_bytes(self.array(offset)))
            .ok_or_else(|| Error::corrupt("pg_control holds a time outside the calendar"))
    }

    fn timeline(&self, offset: usize) -> Result<TimelineId> {
        TimelineId::new(self.u32(offset)).ok_or_else(|| Error::corrupt("pg_control holds timeline 0"))
    }

    fn block(&self, offset: usize, bytes_max: u32) -> Result<u32> {
        let bytes = self.u32(offset);
        if bytes.is_power_of_two() && (1 << 10..=bytes_max).contains(&bytes) {
            return Ok(bytes);
        }
        Err(Error::corrupt(format!(
            "pg_control holds the impossible block size {bytes}"
        )))
    }
}
