//! What a base backup leaves out, and why. One table for the walk, the documents and the tests.
//!
//! Invariant: everything left out is either rebuilt by PostgreSQL, or comes from the WAL archive, or belongs to the
//! running process, or is pgkeep's own. The list follows `src/backend/backup/basebackup.c` and the manual's "Making a
//! Base Backup Using the Low Level API"; where this list is longer, the reason says why.

use super::classify::{Fork, Place, is_temporary_relation_name, parse_relation_name};

/// A row of [`EXCLUSIONS`]: a name, where it counts, and why it is left out.
#[derive(Clone, Copy, Debug)]
pub struct Exclusion {
    /// Where and what, as a document shows it: `*` stands for any end of the name.
    pub pattern: &'static str,
    /// One sentence.
    pub reason: &'static str,
}

const fn row(pattern: &'static str, reason: &'static str) -> Exclusion {
    Exclusion { pattern, reason }
}

/// Everything that is left out, for documents and for `--dry-run`. A trailing `/*`: the directory itself is kept.
pub const EXCLUSIONS: &[Exclusion] = &[
    row(
        "pg_wal/*",
        "WAL comes from the archive; archive_status and summaries are kept, empty.",
    ),
    row(
        "pg_replslot/*",
        "A slot that a restored copy inherits would hold back WAL for a client that never comes.",
    ),
    row("pg_notify/*", "Cleared at every start."),
    row(
        "pg_dynshmem/*",
        "Shared memory of the running server; cleared at every start.",
    ),
    row("pg_serial/*", "Not used after a start."),
    row("pg_snapshots/*", "Exported snapshots; removed at every start."),
    row("pg_stat_tmp/*", "Temporary statistics; removed at every start."),
    row("pg_subtrans/*", "Zeroed at every start."),
    row("postmaster.pid", "Belongs to the running server."),
    row("postmaster.opts", "Belongs to the running server."),
    row(
        "backup_label",
        "Left over: the label of this backup comes from pg_backup_stop.",
    ),
    row("backup_label.old", "Left over from an earlier restore."),
    row(
        "tablespace_map",
        "Left over: the map of this backup comes from pg_backup_stop.",
    ),
    row("tablespace_map.old", "Left over from an earlier restore."),
    row(
        "backup_manifest",
        "Belongs to the pg_basebackup that this server was made from.",
    ),
    row(
        "standby.signal",
        "A restore decides anew whether the copy is a standby.",
    ),
    row("recovery.signal", "A restore decides anew whether the copy recovers."),
    row("postgresql.auto.conf.tmp", "An ALTER SYSTEM in progress."),
    row("current_logfiles.tmp", "Being rewritten by the log collector."),
    row(
        "*/pg_internal.init*",
        "A cache that is rebuilt; a stale one misleads a recovering server.",
    ),
    row("*/pgsql_tmp*", "Temporary files of queries; removed at every start."),
    row(
        "base/<db>/t<backend>_<n>*",
        "Temporary tables; removed at every start. Likewise in tablespaces.",
    ),
    row(
        "base/<db>/<n>*",
        "Unlogged relations, where <n>_init exists: reset from it after a restore. <n>_init is kept.",
    ),
    row(
        ".pgkeep*",
        "What pgkeep keeps in a restored directory; also below pg_tblspc/<oid>.",
    ),
];

const EMPTIED: &[&[u8]] = &[
    b"pg_replslot",
    b"pg_notify",
    b"pg_dynshmem",
    b"pg_serial",
    b"pg_snapshots",
    b"pg_stat_tmp",
    b"pg_subtrans",
];

/// Directories below `pg_wal` that PostgreSQL expects (`summaries` since 17).
pub(crate) const WAL_DIRECTORIES: &[&[u8]] = &[b"archive_status", b"summaries"];

const TOP_FILES: &[&[u8]] = &[
    b"postmaster.pid",
    b"postmaster.opts",
    b"backup_label",
    b"backup_label.old",
    b"tablespace_map",
    b"tablespace_map.old",
    b"backup_manifest",
    b"standby.signal",
    b"recovery.signal",
    b"postgresql.auto.conf.tmp",
    b"current_logfiles.tmp",
];

/// True for a directory that is kept without its contents.
pub(crate) fn is_emptied(place: Place, name: &[u8]) -> bool {
    match place {
        Place::Top => EMPTIED.contains(&name),
        Place::Wal => WAL_DIRECTORIES.contains(&name),
        _ => false,
    }
}

/// True for a name that is left out whatever stands beside it.
pub(crate) fn is_excluded(place: Place, name: &[u8]) -> bool {
    match place {
        Place::Emptied => true,
        Place::Top => TOP_FILES.contains(&name) || name.starts_with(b".pgkeep"),
        Place::Wal => !WAL_DIRECTORIES.contains(&name),
        Place::Base | Place::TablespaceVersion(_) => name.starts_with(b"pgsql_tmp"),
        Place::Global => name.starts_with(b"pg_internal.init"),
        Place::Database { .. } => {
            name.starts_with(b"pgsql_tmp") || name.starts_with(b"pg_internal.init") || is_temporary_relation_name(name)
        }
        Place::Tablespaces | Place::Tablespace(_) => name.starts_with(b".pgkeep"),
        Place::Elsewhere => false,
    }
}

/// The name whose presence in the same directory says that `name` is part of an unlogged relation; `None` for what
/// can't be.
pub(crate) fn init_fork_of(place: Place, name: &[u8]) -> Option<Vec<u8>> {
    if !matches!(place, Place::Database { .. }) {
        return None;
    }
    let (relfilenode, fork, _) = parse_relation_name(name)?;
    (fork != Fork::Init).then(|| format!("{relfilenode}_init").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: Place = Place::Database {
        tablespace: 1663,
        database: 5,
    };

    #[test]
    fn every_fixed_name_stands_in_the_documented_table() {
        let documented = |pattern: &str| EXCLUSIONS.iter().any(|row| row.pattern == pattern);
        for name in TOP_FILES {
            assert!(
                documented(std::str::from_utf8(name).unwrap()),
                "{}",
                name.escape_ascii()
            );
        }
        for name in EMPTIED {
            assert!(
                documented(&format!("{}/*", name.escape_ascii())),
                "{}",
                name.escape_ascii()
            );
        }
    }

    #[test]
    fn names_are_left_out_only_where_postgresql_puts_them() {
        for (place, name) in [
            (Place::Top, "postmaster.pid"),
            (Place::Top, ".pgkeep-restore"),
            (Place::Global, "pg_internal.init.4711"),
            (DATABASE, "pg_internal.init"),
            (DATABASE, "t3_16384"),
            (Place::Base, "pgsql_tmp"),
            (Place::TablespaceVersion(1), "pgsql_tmp"),
            (Place::Wal, "000000010000000000000001"),
        ] {
            assert!(is_excluded(place, name.as_bytes()), "{place:?} {name}");
        }
        for (place, name) in [
            (Place::Elsewhere, "postmaster.pid"),
            (DATABASE, "postmaster.pid"),
            (Place::Elsewhere, "pgsql_tmp"),
            (Place::Top, "pg_internal.init"),
            (Place::Global, "t3_16384"),
            (Place::Top, "postgresql.auto.conf"),
            (Place::Top, "current_logfiles"),
            (Place::Wal, "archive_status"),
        ] {
            assert!(!is_excluded(place, name.as_bytes()), "{place:?} {name}");
        }
    }

    #[test]
    fn the_init_fork_itself_is_never_left_out() {
        assert_eq!(init_fork_of(DATABASE, b"16384.1"), Some(b"16384_init".to_vec()));
        assert_eq!(init_fork_of(DATABASE, b"16384_fsm"), Some(b"16384_init".to_vec()));
        assert_eq!(init_fork_of(DATABASE, b"16384_init"), None);
        assert_eq!(init_fork_of(Place::Global, b"1262"), None);
    }
}
