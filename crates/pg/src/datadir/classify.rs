//! What a path below the data directory is, by strict path grammar and never by name alone.
//!
//! Invariant: only `global/<n>`, `base/<db>/<n>` and `pg_tblspc/<oid>/PG_<major>_<catalog>/<db>/<n>` are relations.
//! A file named `16384` anywhere else (`pg_multixact`, a user's directory) is bytes without pages. Whatever the
//! grammar does not know is `Other` and is backed up as it is: pages are an optimisation, not a condition.
//! Names follow `src/common/relpath.c` and `parse_filename_for_nontemp_relation` of `src/backend/storage/file/reinit.c`.

use super::path::RelPath;

/// OID of the tablespace `pg_default`, in `base/`.
pub const DEFAULT_TABLESPACE_OID: u32 = 1663;
/// OID of the tablespace `pg_global`, in `global/`.
pub const GLOBAL_TABLESPACE_OID: u32 = 1664;

/// A fork of a relation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fork {
    /// The rows themselves.
    Main,
    /// Free space map: may be stale, is repaired as it is used.
    Fsm,
    /// Visibility map.
    Vm,
    /// What an unlogged relation is reset to after a crash or a restore.
    Init,
}

/// One file of a relation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelSegment {
    /// OID of the tablespace.
    pub tablespace: u32,
    /// OID of the database; 0 for relations that all databases share.
    pub database: u32,
    /// `relfilenode` (not the OID of the table, although they begin equal).
    pub relfilenode: u32,
    /// The fork.
    pub fork: Fork,
    /// Number of the segment: 0 for the file without suffix.
    pub segment: u32,
}

impl RelSegment {
    /// Number, in the whole fork, of the first block of this file: what page checksums are computed with.
    ///
    /// Wraps where segment and size are absurd, as PostgreSQL's 32-bit block numbers do.
    pub fn first_block(&self, relation_segment_blocks: u32) -> u32 {
        self.segment.wrapping_mul(relation_segment_blocks)
    }
}

/// What a file is to a backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Pages of a relation.
    Relation(RelSegment),
    /// `global/pg_control`: copied last.
    Control,
    /// A `PG_VERSION`, of the cluster or of a database.
    PgVersion,
    /// Anything else: bytes.
    Other,
}

/// Classifies a path relative to the data directory.
pub fn classify(path: &RelPath) -> Class {
    let mut place = Place::Top;
    let mut components = path.components().peekable();
    while let Some(name) = components.next() {
        if components.peek().is_none() {
            return place.classify(name);
        }
        place = place.child(name);
    }
    Class::Other
}

/// Which kind of directory a listing is of: the path grammar, one step at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// The data directory.
    Top,
    /// `global/`.
    Global,
    /// `base/`.
    Base,
    /// `pg_tblspc/`.
    Tablespaces,
    /// `pg_tblspc/<oid>/`.
    Tablespace(u32),
    /// `pg_tblspc/<oid>/PG_<major>_<catalog>/`.
    TablespaceVersion(u32),
    /// The directory of a database, in `base/` or in a tablespace.
    Database {
        /// OID of the tablespace.
        tablespace: u32,
        /// OID of the database.
        database: u32,
    },
    /// `pg_wal/`.
    Wal,
    /// A directory that is kept, but whose contents are not.
    Emptied,
    /// Any other.
    Elsewhere,
}

impl Place {
    /// The place of the directory `name` inside this one.
    pub(crate) fn child(self, name: &[u8]) -> Place {
        match (self, name) {
            (Place::Top, b"global") => Place::Global,
            (Place::Top, b"base") => Place::Base,
            (Place::Top, b"pg_tblspc") => Place::Tablespaces,
            (Place::Top, b"pg_wal") => Place::Wal,
            (Place::Top | Place::Wal, name) if super::exclude::is_emptied(self, name) => Place::Emptied,
            (Place::Base, name) => database(DEFAULT_TABLESPACE_OID, name),
            (Place::Tablespaces, name) => oid(name).map_or(Place::Elsewhere, Place::Tablespace),
            (Place::Tablespace(oid), name) if is_version_directory(name) => Place::TablespaceVersion(oid),
            (Place::TablespaceVersion(oid), name) => database(oid, name),
            _ => Place::Elsewhere,
        }
    }

    /// The class of the file `name` inside this directory.
    pub(crate) fn classify(self, name: &[u8]) -> Class {
        match (self, name) {
            (Place::Top | Place::Database { .. }, b"PG_VERSION") => Class::PgVersion,
            (Place::Global, b"pg_control") => Class::Control,
            (Place::Global, name) => relation(GLOBAL_TABLESPACE_OID, 0, name),
            (Place::Database { tablespace, database }, name) => relation(tablespace, database, name),
            _ => Class::Other,
        }
    }
}

fn database(tablespace: u32, name: &[u8]) -> Place {
    match oid(name) {
        Some(database) => Place::Database { tablespace, database },
        None => Place::Elsewhere,
    }
}

fn relation(tablespace: u32, database: u32, name: &[u8]) -> Class {
    let Some((relfilenode, fork, segment)) = parse_relation_name(name) else {
        return Class::Other;
    };
    Class::Relation(RelSegment {
        tablespace,
        database,
        relfilenode,
        fork,
        segment,
    })
}

/// Reads `<relfilenode>[_fsm|_vm|_init][.<segment>]`.
pub(crate) fn parse_relation_name(name: &[u8]) -> Option<(u32, Fork, u32)> {
    let digits = name.iter().take_while(|b| b.is_ascii_digit()).count();
    let relfilenode = oid(&name[..digits])?;
    let rest = &name[digits..];
    let suffix_from = rest.iter().position(|b| *b == b'.').unwrap_or(rest.len());
    let fork = match &rest[..suffix_from] {
        b"" => Fork::Main,
        b"_fsm" => Fork::Fsm,
        b"_vm" => Fork::Vm,
        b"_init" => Fork::Init,
        _ => return None,
    };
    let segment = match rest.get(suffix_from + 1..) {
        None => 0,
        Some(number) => oid(number)?,
    };
    Some((relfilenode, fork, segment))
}

/// True for `t<backend>_<relfilenode>`, with any fork and segment.
pub(crate) fn is_temporary_relation_name(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"t") else {
        return false;
    };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    digits > 0 && rest.get(digits) == Some(&b'_') && parse_relation_name(&rest[digits + 1..]).is_some()
}

/// A positive number as PostgreSQL prints it: no sign, no leading zero.
pub(crate) fn oid(digits: &[u8]) -> Option<u32> {
    let plain = (1..=10).contains(&digits.len()) && digits[0] != b'0' && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// True for `PG_<major>_<catalog version>`.
fn is_version_directory(name: &[u8]) -> bool {
    let numbers = name.strip_prefix(b"PG_").map(|rest| rest.split(|b| *b == b'_'));
    numbers.is_some_and(|numbers| {
        let mut count = 0;
        numbers.inspect(|_| count += 1).all(|number| oid(number).is_some()) && count == 2
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(path: &str) -> Class {
        classify(&RelPath::new(path).unwrap())
    }

    fn segment(tablespace: u32, database: u32, relfilenode: u32, fork: Fork, segment: u32) -> Class {
        Class::Relation(RelSegment {
            tablespace,
            database,
            relfilenode,
            fork,
            segment,
        })
    }

    #[test]
    fn relations_are_known_by_where_they_lie() {
        assert_eq!(class("base/5/16384"), segment(1663, 5, 16384, Fork::Main, 0));
        assert_eq!(class("base/5/16384.12"), segment(1663, 5, 16384, Fork::Main, 12));
        assert_eq!(class("base/5/16384_fsm.1"), segment(1663, 5, 16384, Fork::Fsm, 1));
        assert_eq!(class("base/5/16384_vm"), segment(1663, 5, 16384, Fork::Vm, 0));
        assert_eq!(class("base/5/16384_init"), segment(1663, 5, 16384, Fork::Init, 0));
        assert_eq!(class("global/1262"), segment(1664, 0, 1262, Fork::Main, 0));
        assert_eq!(
            class("pg_tblspc/16400/PG_17_202406281/5/2619.1"),
            segment(16400, 5, 2619, Fork::Main, 1)
        );
        assert_eq!(class("base/5/4294967295"), segment(1663, 5, u32::MAX, Fork::Main, 0));
    }

    #[test]
    fn the_same_names_elsewhere_are_bytes() {
        for path in [
            "16384",
            "base/16384",
            "base/5/sub/16384",
            "base/05/16384",
            "pg_multixact/offsets/0000",
            "pg_multixact/offsets/1234",
            "pg_xact/1234",
            "global/sub/1262",
            "pg_tblspc/16400/5/2619",
            "pg_tblspc/16400/PG_17/5/2619",
            "pg_tblspc/16400/PG_17_1_1/5/2619",
            "pg_tblspc/x/PG_17_202406281/5/2619",
            "base/5/pg_filenode.map",
            "base/5/016384",
            "base/5/16384.",
            "base/5/16384.0",
            "base/5/16384.01",
            "base/5/16384_foo",
            "base/5/16384_",
            "base/5/16384.1.1",
            "base/5/4294967296",
            "base/5/16384x",
            "base/5/0",
            "",
        ] {
            assert_eq!(class(path), Class::Other, "{path}");
        }
    }

    #[test]
    fn control_and_version_files_have_one_place_each() {
        assert_eq!(class("global/pg_control"), Class::Control);
        assert_eq!(class("pg_control"), Class::Other);
        assert_eq!(class("PG_VERSION"), Class::PgVersion);
        assert_eq!(class("base/5/PG_VERSION"), Class::PgVersion);
        assert_eq!(class("pg_tblspc/16400/PG_14_202107181/5/PG_VERSION"), Class::PgVersion);
        assert_eq!(class("global/PG_VERSION"), Class::Other);
    }

    #[test]
    fn temporary_relations_are_told_by_their_backend() {
        for name in ["t3_16384", "t123_16384_fsm", "t3_16384.1", "t3_16384_vm.2"] {
            assert!(is_temporary_relation_name(name.as_bytes()), "{name}");
        }
        for name in ["t", "t_1", "t3", "t3_", "t3_x", "16384", "t3_16384_foo", "table"] {
            assert!(!is_temporary_relation_name(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn blocks_count_over_all_segments_of_a_fork() {
        let Class::Relation(relation) = class("base/5/16384.2") else {
            panic!()
        };
        assert_eq!(relation.first_block(131_072), 262_144);
    }
}
