//! A `pg_control` that can't be started without its `backup_label`.
//!
//! Someone who deletes `backup_label` from a restored directory makes PostgreSQL begin at the checkpoint that
//! `pg_control` names, silently losing rows. A restored `pg_control` therefore names a checkpoint that no WAL holds:
//! with the label PostgreSQL never looks at it, without the label the start fails.

use pgkeep_base::{Error, Lsn, Result};

use super::layout::{self, CHECKPOINT, CONTROL_VERSION, PREFIX_BYTES};

/// The checkpoint that a poisoned file names: before the first that any cluster can have, yet with an offset that
/// PostgreSQL accepts as one of a record (it checks that before it looks for `backup_label`).
pub const POISONED_CHECKPOINT: Lsn = Lsn(0xDEAD);

/// The same file with [`POISONED_CHECKPOINT`] in the place of its checkpoint's LSN, and a CRC that fits.
///
/// # Errors
/// As [`super::ControlFile::from_bytes`].
pub fn poisoned(bytes: &[u8]) -> Result<Vec<u8>> {
    let control = layout::parse(bytes, None)?;
    let mut poisoned = bytes.to_vec();
    poisoned[CHECKPOINT..CHECKPOINT + 8].copy_from_slice(&POISONED_CHECKPOINT.0.to_le_bytes());
    let crc_offset = layout::crc_offset(control.control_version).expect("parse knew the version");
    let crc = crc32c::crc32c(&poisoned[..crc_offset]);
    poisoned[crc_offset..crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
    let reread = layout::parse(&poisoned, None)?;
    if reread.checkpoint.lsn == POISONED_CHECKPOINT && reread.system_id == control.system_id {
        return Ok(poisoned);
    }
    Err(Error::internal("a rewritten pg_control does not read back"))
}

/// True for a restored file that has not been recovered from yet.
pub fn is_poisoned(bytes: &[u8]) -> bool {
    let checkpoint = bytes.get(CHECKPOINT..CHECKPOINT + 8);
    bytes.len() >= PREFIX_BYTES
        && bytes.get(CONTROL_VERSION..).is_some()
        && checkpoint == Some(&POISONED_CHECKPOINT.0.to_le_bytes()[..])
}
