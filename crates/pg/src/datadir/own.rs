//! Which files of a data directory PostgreSQL makes by itself, by strict path grammar.
//!
//! Invariant: what this does not know counts as put there by somebody: it is shown before it is removed. Logs are such,
//! though PostgreSQL writes them: people keep them for a reason.

use super::classify::{Place, is_temporary_relation_name, oid, parse_relation_name};

/// Files directly in the data directory.
const TOP_FILES: &[&str] = &[
    "PG_VERSION",
    "postgresql.conf",
    "postgresql.auto.conf",
    "postgresql.auto.conf.tmp",
    "pg_hba.conf",
    "pg_ident.conf",
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "standby.signal",
    "recovery.signal",
    "current_logfiles",
    "current_logfiles.tmp",
];

/// Directories directly in the data directory, all of whose contents are PostgreSQL's, however they are named.
const WHOLE: &[&str] = &[
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_twophase",
    "pg_xact",
];

/// Whether a server makes files or directories of this name at this place by itself. `path` is relative to the data
/// directory; files of tablespaces are below `pg_tblspc/<oid>/`.
pub fn is_postgresqls_own(path: &[u8]) -> bool {
    let mut components = path.split(|byte| *byte == b'/').peekable();
    let first = components.peek().copied().unwrap_or_default();
    if WHOLE.iter().any(|name| name.as_bytes() == first) {
        return true;
    }
    let mut place = Place::Top;
    while let Some(name) = components.next() {
        if components.peek().is_none() {
            return is_own_name(place, name);
        }
        place = match place.child(name) {
            // What lies in them is gone at the next start.
            Place::Elsewhere if is_scratch(place, name) => return true,
            Place::Elsewhere => return false,
            // `archive_status` and `summaries`: the contents are not PostgreSQL's only by their names.
            Place::Emptied => return true,
            known => known,
        };
    }
    false
}

fn is_scratch(place: Place, name: &[u8]) -> bool {
    matches!(place, Place::Base | Place::TablespaceVersion(_)) && name == b"pgsql_tmp"
}

fn is_own_name(place: Place, name: &[u8]) -> bool {
    let any = |names: &[&str]| names.iter().any(|own| own.as_bytes() == name);
    match place {
        Place::Top => any(TOP_FILES) || any(WHOLE) || any(&["base", "global", "pg_tblspc", "pg_wal"]),
        Place::Global => {
            any(&["pg_control", "pg_filenode.map", "config_exec_params"])
                || name.starts_with(b"pg_internal.init")
                || parse_relation_name(name).is_some()
        }
        Place::Base | Place::TablespaceVersion(_) => oid(name).is_some() || is_scratch(place, name),
        Place::Tablespaces => oid(name).is_some(),
        Place::Tablespace(_) => !matches!(place.child(name), Place::Elsewhere),
        Place::Database { .. } => {
            any(&["PG_VERSION", "pg_filenode.map"])
                || name.starts_with(b"pg_internal.init")
                || parse_relation_name(name).is_some()
                || is_temporary_relation_name(name)
        }
        Place::Wal => is_wal_name(name),
        Place::Emptied => true,
        Place::Elsewhere => false,
    }
}

/// What PostgreSQL, or its `restore_command`, puts into `pg_wal`.
fn is_wal_name(name: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(name) else {
        return false;
    };
    ["archive_status", "summaries", "RECOVERYXLOG", "RECOVERYHISTORY"].contains(&text)
        || text.starts_with("xlogtemp.")
        || text.starts_with("RECOVERYXLOG.pgkeep-")
        || text.starts_with("RECOVERYHISTORY.pgkeep-")
        || pgkeep_base::WalFile::parse(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_makes_is_its_own() {
        for path in [
            "PG_VERSION",
            "postmaster.opts",
            "base",
            "base/5",
            "base/5/16384.3",
            "base/5/16384_fsm",
            "base/5/pg_filenode.map",
            "base/5/t3_16400",
            "base/pgsql_tmp/pgsql_tmp12.0",
            "global/1262_vm",
            "global/pg_control",
            "pg_xact/0000",
            "pg_replslot/a slot/state",
            "pg_tblspc/16500",
            "pg_tblspc/16500/PG_17_202406281",
            "pg_tblspc/16500/PG_17_202406281/5/16384",
            "pg_wal/000000010000000000000001",
            "pg_wal/00000002.history",
            "pg_wal/archive_status/000000010000000000000001.ready",
            "pg_wal/summaries/0000000100000000010000280000000001000108.summary",
        ] {
            assert!(is_postgresqls_own(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn what_somebody_put_there_is_not() {
        for path in [
            "",
            "notes.txt",
            "server.key",
            "log",
            "log/postgresql-2026-11-20.log",
            "base/backup.tar",
            "base/5/dump.sql",
            "base/5/old/16384",
            "global/1262.bak",
            "pg_tblspc/x",
            "pg_tblspc/16500/lost",
            "pg_wal/000000010000000000000001.gz",
            "pg_wal/old/000000010000000000000001",
            "pg_hba.conf.orig",
            "my/pg_xact/0000",
        ] {
            assert!(!is_postgresqls_own(path.as_bytes()), "{path}");
        }
    }
}
