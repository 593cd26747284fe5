//! Removing what lies in an open directory, one name at a time, following no link.
//!
//! Invariant: nothing on another file system is removed: somebody mounted it there.

use super::*;

/// How deep it descends: deeper than PostgreSQL or a backup nests.
const DEPTH_MAX: u32 = 80;

impl Directory {
    /// Removes everything in it but `kept`. Stops at other file systems.
    pub fn clear(&self, kept: &[&[u8]]) -> Result<()> {
        self.clear_level(kept, DEPTH_MAX, self.stat()?.st_dev)
    }

    /// Removes a file, a link, or a directory with all that is in it; nothing to do if there is nothing of that name.
    pub fn remove_any(&self, name: &[u8]) -> Result<()> {
        self.remove_at(name, DEPTH_MAX, self.stat()?.st_dev)
    }

    fn clear_level(&self, kept: &[&[u8]], depth: u32, device: u64) -> Result<()> {
        if depth == 0 {
            return Err(Error::refused(format!("{} nests too deeply", self.path.display())));
        }
        let mut names = self.sorted_names()?;
        while let Some(name) = names.advance() {
            let name = name.to_bytes();
            if !kept.contains(&name) && name != LOST_AND_FOUND {
                self.remove_at(name, depth, device)?;
            }
        }
        Ok(())
    }

    fn remove_at(&self, name: &[u8], depth: u32, device: u64) -> Result<()> {
        if !self.is_directory(name)? {
            return self.remove(name);
        }
        let Some(inner) = self.enter(name)? else { return Ok(()) };
        if inner.stat()?.st_dev != device {
            return Err(
                Error::refused(format!("another file system is at {}", inner.path.display()))
                    .hint("Unmount it, then run `pgkeep restore` again."),
            );
        }
        inner.clear_level(&[], depth - 1, device)?;
        self.point("engine.restore.remove", name)?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).map_err(|errno| self.failed("remove", name, errno))
    }
}
