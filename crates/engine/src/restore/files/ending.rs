//! What an operator is told of a restore that failed: what became of the target, and what to do next.

use pgkeep_base::{ByteSize, Error};

use crate::restore::OWN_DIRECTORY;
use crate::restore::layout::{Layout, free_bytes};
use crate::wal::local::SAVED_DIRECTORY;

/// What there is to tell.
#[derive(Clone, Copy)]
pub(super) struct Ending<'a> {
    pub layout: &'a Layout,
    /// Bytes of the backup.
    pub needed: u64,
    /// A cluster was there.
    pub over: bool,
}

impl Ending<'_> {
    /// Adds it to an error that came after `done` bytes.
    pub fn explain(&self, done: u64, error: Error) -> Error {
        if is_full(&error) {
            return self.full(done, error);
        }
        let target = self.layout.target.display();
        error.or_hint(match self.over {
            false => "What was written can't be started; the same `pgkeep restore` begins anew.".to_owned(),
            true => format!(
                "{target} can't be started; the same `pgkeep restore` goes on. {}",
                self.saved()
            ),
        })
    }

    fn saved(&self) -> String {
        let target = self.layout.target.display();
        format!(
            "WAL of it that the archive lacked is saved in {OWN_DIRECTORY}/{SAVED_DIRECTORY}; `pgkeep wal salvage {target}` \
             stores it in the archive."
        )
    }

    /// Says what a full disk lacks.
    fn full(&self, done: u64, error: Error) -> Error {
        let size = |bytes| ByteSize(bytes).to_string();
        let target = &self.layout.target;
        let tablespaces = self.layout.tablespaces.iter().map(|tablespace| &tablespace.to);
        let free: Vec<String> = std::iter::once(target)
            .chain(tablespaces)
            .map(|place| {
                let free = free_bytes(place).map_or("an unknown amount".to_owned(), size);
                format!("{free} free at {}", place.display())
            })
            .collect();
        let hint = match self.over {
            false => {
                "Make space and run the same `pgkeep restore` again, or choose a larger place with `--into`.".to_owned()
            }
            true => format!(
                "Make space and run the same `pgkeep restore` again: it goes on. {}",
                self.saved()
            ),
        };
        Error::io(format!(
            "there is no space left for the restore into {}",
            target.display()
        ))
        .detail(format!(
            "the backup has {}, {} were written; {}",
            size(self.needed),
            size(done),
            free.join(", ")
        ))
        .hint(hint)
        .source(error)
    }
}

/// Whether the operating system said that there is no space, or that the quota is used up.
fn is_full(error: &Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(
            kind,
            Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        ) {
            return true;
        }
        next = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: a full disk is told with what was needed.
    #[test]
    fn a_full_disk_is_told_apart_from_other_errors() {
        let full = Error::io("write x").source(std::io::Error::from_raw_os_error(28));
        assert!(is_full(&full.during("restore")));
        let other = Error::io("write x").source(std::io::Error::from_raw_os_error(5));
        assert!(!is_full(&other));
    }
}
