//! How full a file system is, and when that is too full.

use std::path::Path;

use pgkeep_base::ByteSize;
use rustix::fs::statvfs;

use super::findings::Verdict;

/// What a file system has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// For us to write.
    pub free: ByteSize,
    pub total: ByteSize,
    /// Files that can still be made; `None` where the file system doesn't count them.
    pub files_free: Option<u64>,
}

impl Space {
    /// Asks the file system that holds `path`.
    pub fn of(path: &Path) -> std::io::Result<Space> {
        let found = statvfs(path)?;
        let bytes = |blocks: u64| ByteSize(blocks.saturating_mul(found.f_frsize));
        Ok(Space {
            free: bytes(found.f_bavail),
            total: bytes(found.f_blocks),
            files_free: (found.f_files > 0).then_some(found.f_favail),
        })
    }

    /// Fails below `least`, advises below `enough`.
    pub fn judge(&self, what: &str, least: ByteSize, enough: ByteSize, fix: &str) -> Verdict {
        const FILES_LEAST: u64 = 1000;
        let evidence = format!("{what}: {} free of {}", self.free, self.total);
        if self.files_free.is_some_and(|files| files < FILES_LEAST) {
            let files = self.files_free.unwrap_or_default();
            return Verdict::fail(format!("{evidence}, and room for {files} more files"), fix);
        }
        match self.free {
            free if free < least => Verdict::fail(evidence, fix),
            free if free < enough => Verdict::warn(evidence, fix),
            _ => Verdict::pass(evidence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn too_full_is_told_by_bytes_and_by_files() {
        let judged = |free, files_free| {
            let space = Space {
                free: ByteSize::mib(free),
                total: ByteSize::mib(1000),
                files_free,
            };
            space
                .judge("x", ByteSize::mib(10), ByteSize::mib(100), "Make room.")
                .status
        };
        assert_eq!(judged(9, None), Status::Fail);
        assert_eq!(judged(99, None), Status::Warn);
        assert_eq!(judged(100, None), Status::Pass);
        assert_eq!(judged(500, Some(3)), Status::Fail);
        assert_eq!(judged(500, Some(1_000_000)), Status::Pass);
    }
}
