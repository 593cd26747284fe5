//! Databases that replay copies from files which a base backup need not hold.
//!
//! `CREATE DATABASE … STRATEGY file_copy` (before 15: every `CREATE DATABASE`) and `ALTER DATABASE … SET TABLESPACE` log
//! only that a directory is copied. If the source is removed before the backup has read it, replay finds nothing there
//! and leaves an empty database behind, without an error. Only the WAL of the backup itself matters: what is copied
//! later is copied from what replay made.
//! Invariant: a copy whose source is removed before the backup ends is lost, whether the backup was quicker or not.

use pgkeep_base::facts::{DatabaseDirectory, DatabaseFilesFact};
use pgkeep_base::{Error, Lsn};

/// Follows the WAL of one backup, from its start to its end.
#[derive(Clone, Debug, Default)]
pub struct DatabaseCopies {
    copies: Vec<LostCopy>,
    lost: Vec<LostCopy>,
}

/// A copy, and what was removed after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LostCopy {
    /// Start of the record that copies.
    pub record: Lsn,
    /// The source, which is gone.
    pub from: DatabaseDirectory,
    /// The database that would be empty.
    pub to: DatabaseDirectory,
}

impl DatabaseCopies {
    /// Files are copied.
    pub fn copied(&mut self, record: Lsn, from: DatabaseDirectory, to: DatabaseDirectory) {
        self.copies.push(LostCopy { record, from, to });
    }

    /// Files are removed.
    pub fn removed(&mut self, directory: DatabaseDirectory) {
        self.lost
            .extend(self.copies.extract_if(.., |copy| copy.from == directory));
        // A copy that was removed itself need not come back.
        for copies in [&mut self.copies, &mut self.lost] {
            copies.retain(|copy| copy.to != directory);
        }
    }

    /// Takes a fact of a segment.
    pub fn take(&mut self, fact: &DatabaseFilesFact) {
        match fact.copied_from {
            Some(from) => self.copied(fact.record, from, fact.directory),
            None => self.removed(fact.directory),
        }
    }

    /// A copy that can't be repeated.
    pub fn lost(&self) -> Option<LostCopy> {
        self.lost.first().copied()
    }
}

impl LostCopy {
    /// The backup as an error.
    pub fn error(&self) -> Error {
        let LostCopy { record, from, to } = self;
        Error::refused("a database was copied or moved while the backup ran, and its source removed").detail(format!(
            "{to} was copied from {from} (WAL record {record}), which was removed before the backup had ended: \
             PostgreSQL would copy what is not there, and open an empty database"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(tablespace: u32, database: u32) -> DatabaseDirectory {
        DatabaseDirectory { tablespace, database }
    }

    fn copies(events: &[(Option<u32>, u32)]) -> DatabaseCopies {
        let mut copies = DatabaseCopies::default();
        for (number, (from, to)) in events.iter().enumerate() {
            copies.take(&DatabaseFilesFact {
                record: Lsn(number as u64),
                directory: directory(1663, *to),
                copied_from: from.map(|from| directory(1663, from)),
            });
        }
        copies
    }

    #[test]
    fn a_copy_is_lost_once_its_source_is_removed_after_it() {
        assert_eq!(copies(&[(Some(1), 2)]).lost(), None);
        assert_eq!(
            copies(&[(None, 1), (Some(1), 2)]).lost(),
            None,
            "removed before: another database"
        );
        let lost = copies(&[(Some(1), 2), (Some(2), 3), (None, 1)]).lost().unwrap();
        assert_eq!((lost.record, lost.to.database), (Lsn(0), 2));
        assert_eq!(copies(&[(Some(1), 2), (None, 4)]).lost(), None);
    }

    #[test]
    fn a_copy_that_is_removed_too_is_not_missed() {
        assert_eq!(copies(&[(Some(1), 2), (None, 2), (None, 1)]).lost(), None);
        assert_eq!(copies(&[(Some(1), 2), (None, 1), (None, 2)]).lost(), None);
        let chain = copies(&[(Some(1), 2), (Some(2), 3), (None, 1), (None, 2)])
            .lost()
            .unwrap();
        assert_eq!(chain.to.database, 3);
    }
}
