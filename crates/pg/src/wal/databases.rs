//! Records that make replay copy or remove all files of a database.
//!
//! They matter because replay trusts what it finds on disk: a copy of files that a backup does not hold is empty.
//! Layouts: `commands/dbcommands_xlog.h` (14: `commands/dbcommands.h`), the same but for the numbers of the records.

use pgkeep_base::PgMajor;
use pgkeep_base::facts::DatabaseDirectory;

use super::bytes::u32_at;
use super::meaning::{Meaning, RMGR_INFO_MASK};
use super::record::Record;

/// `XLOG_DBASE_CREATE`, since 15 `XLOG_DBASE_CREATE_FILE_COPY`.
const COPY: u8 = 0x00;
/// `XLOG_DBASE_DROP` of 14.
const DROP_14: u8 = 0x10;
/// `XLOG_DBASE_DROP` since 15, where `0x10` became `XLOG_DBASE_CREATE_WAL_LOG`: what follows is logged page by page.
const DROP: u8 = 0x20;

/// What a record of `RM_DBASE_ID` does; `None` where it is not laid out as such.
pub(super) fn meaning(record: &Record, major: PgMajor) -> Option<Meaning> {
    let kind = record.info & RMGR_INFO_MASK;
    let drop = if major.get() >= 15 { DROP } else { DROP_14 };
    let main = record.main_data(major)?;
    let directory = |tablespace, database| {
        Some(DatabaseDirectory {
            tablespace: u32_at(main, tablespace)?,
            database: u32_at(main, database)?,
        })
    };
    if kind == COPY {
        return Some(Meaning::DatabaseCopied {
            from: directory(12, 8)?,
            to: directory(4, 0)?,
        });
    }
    if kind != drop {
        return Some(Meaning::Other);
    }
    let count = u32_at(main, 4)? as usize;
    let directories = (0..count.min(main.len())).map(|number| directory(8 + 4 * number, 0));
    let directories = directories.collect::<Option<Vec<_>>>()?;
    Some(Meaning::DatabaseRemoved { directories })
}
