//! The names of one directory, sorted, in as little memory as they need.
//!
//! Invariant: names are unique, sorted as bytes, and together at most `limits::DIRECTORY_BYTES_MAX`. Five million
//! relation names cost about 70 MB: the bytes with a NUL each, and an offset of four bytes.

use std::ffi::CStr;
use std::os::fd::AsFd;

use pgkeep_base::limits::DIRECTORY_BYTES_MAX;
use pgkeep_base::{ByteSize, Error, Result};
use rustix::fs::Dir;

/// A sorted listing that hands out one name after the other.
#[derive(Debug, Default)]
pub struct Names {
    arena: Vec<u8>,
    offsets: Vec<u32>,
    next: usize,
    init_forks: bool,
}

impl Names {
    /// Lists a directory. A directory that was removed meanwhile has no names.
    /// # Errors
    /// `Unsupported` for more names than are kept; `Io`.
    pub fn list(dir: impl AsFd) -> Result<Names> {
        let mut names = Names::default();
        let mut entries = Dir::read_from(dir).map_err(std::io::Error::from)?;
        while let Some(entry) = entries.read() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(rustix::io::Errno::NOENT) => break,
                Err(errno) => return Err(std::io::Error::from(errno).into()),
            };
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_bytes())?;
            }
        }
        names.sort();
        Ok(names)
    }

    /// A listing of names that are known beforehand.
    /// # Errors
    /// As [`Names::list`].
    pub fn of<'a>(known: impl IntoIterator<Item = &'a [u8]>) -> Result<Names> {
        let mut names = Names::default();
        for name in known {
            names.push(name)?;
        }
        names.sort();
        Ok(names)
    }

    fn push(&mut self, name: &[u8]) -> Result<()> {
        let held = self.arena.len() as u64 + 5 + name.len() as u64 + 4 * self.offsets.len() as u64;
        if held > DIRECTORY_BYTES_MAX {
            return Err(
                Error::unsupported("a directory holds more names than pgkeep lists").detail(format!(
                    "{} names and counting, at most {} of them",
                    self.offsets.len(),
                    ByteSize(DIRECTORY_BYTES_MAX)
                )),
            );
        }
        self.init_forks |= name.ends_with(b"_init");
        self.offsets.push(self.arena.len() as u32);
        self.arena.extend_from_slice(name);
        self.arena.push(0);
        Ok(())
    }

    fn sort(&mut self) {
        let Names { arena, offsets, .. } = self;
        offsets.sort_unstable_by(|a, b| name_at(arena, *a).cmp(name_at(arena, *b)));
        // A directory that changes while it is listed may show a name twice.
        offsets.dedup_by(|a, b| name_at(arena, *a) == name_at(arena, *b));
    }

    /// The next name, in order.
    pub fn advance(&mut self) -> Option<&CStr> {
        let offset = *self.offsets.get(self.next)?;
        self.next += 1;
        Some(name_at(&self.arena, offset))
    }

    /// False if no name can be an init fork: spares the search for one, name by name.
    pub(super) fn hold_init_forks(&self) -> bool {
        self.init_forks
    }

    /// True if the directory held `name` when it was listed.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.offsets
            .binary_search_by(|offset| name_at(&self.arena, *offset).to_bytes().cmp(name))
            .is_ok()
    }
}

fn name_at(arena: &[u8], offset: u32) -> &CStr {
    CStr::from_bytes_until_nul(&arena[offset as usize..]).expect("push ends every name with a NUL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_sorted_as_bytes_and_once() {
        let known: [&[u8]; 5] = [b"b", b"a.1", b"a", b"\xff", b"a"];
        let mut names = Names::of(known).unwrap();
        assert!(names.contains(b"a.1") && !names.contains(b"a."));
        let mut seen = Vec::new();
        while let Some(name) = names.advance() {
            seen.push(name.to_bytes().to_vec());
        }
        assert_eq!(seen, [&b"a"[..], b"a.1", b"b", b"\xff"]);
    }

    #[test]
    fn five_million_names_stay_below_a_hundred_megabytes() {
        let mut names = Names::default();
        for number in 0..5_000_000_u32 {
            names.push((16384 + number).to_string().as_bytes()).unwrap();
        }
        let used = names.arena.len() + 4 * names.offsets.len();
        assert!(used < 70_000_000, "{used} bytes");
    }
}
