//! Damage to stored objects, reproducible by seed, and undone when dropped.
//!
//! Works on files below a directory (a `file:` repository, a data directory) and, by [`Damage::apply`], on the bytes of
//! an object in a bucket. Each kind of [`Damage`] is one that disks, networks and people really do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::user::OsUser;

/// One way to damage an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// Inverts one bit of the byte at an offset.
    FlipBit {
        /// Offset of the byte.
        at: u64,
        /// 0 to 7.
        bit: u8,
    },
    /// Overwrites bytes with zeros, as a lost write does.
    Zero {
        /// Offset of the first.
        at: u64,
        /// How many.
        length: u64,
    },
    /// Cuts the object off.
    Truncate {
        /// Its new length.
        to: u64,
    },
    /// Appends bytes that don't belong there.
    Extend {
        /// How many.
        by: u64,
    },
    /// Removes the object.
    Delete,
    /// Takes everyone's permission to read it. Root still can.
    Unreadable,
}

impl Damage {
    /// One of each kind for an object of `length` bytes, at places that `seed` chooses. An empty object can only grow,
    /// vanish or become unreadable.
    pub fn of_every_kind(seed: u64, length: u64) -> Vec<Damage> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut kinds = vec![
            Damage::Delete,
            Damage::Unreadable,
            Damage::Extend {
                by: rng.random_range(1..100),
            },
        ];
        if length > 0 {
            let at = rng.random_range(0..length);
            kinds.push(Damage::FlipBit {
                at: rng.random_range(0..length),
                bit: rng.random_range(0..8),
            });
            kinds.push(Damage::Zero {
                at,
                length: 4096.min(length - at),
            });
            kinds.push(Damage::Truncate {
                to: rng.random_range(0..length),
            });
        }
        kinds
    }

    /// A flipped bit at a place that `seed` chooses.
    pub fn flip(seed: u64, length: u64) -> Damage {
        let mut rng = StdRng::seed_from_u64(seed);
        Damage::FlipBit {
            at: rng.random_range(0..length),
            bit: rng.random_range(0..8),
        }
    }

    /// Damages bytes; false if that changed nothing, as zeros over zeros do.
    ///
    /// # Panics
    /// For [`Damage::Delete`] and [`Damage::Unreadable`], which are not about bytes, and for offsets past the end.
    pub fn apply(self, bytes: &mut Vec<u8>) -> bool {
        let before = bytes.clone();
        match self {
            Damage::FlipBit { at, bit } => bytes[at as usize] ^= 1 << bit,
            Damage::Zero { at, length } => bytes[at as usize..][..length as usize].fill(0),
            Damage::Truncate { to } => bytes.truncate(to as usize),
            Damage::Extend { by } => bytes.extend((0..by).map(|n| n as u8)),
            Damage::Delete | Damage::Unreadable => panic!("{self:?} is not about bytes"),
        }
        *bytes != before
    }
}

/// Names of all files below `root`, relative, with slashes, sorted.
pub fn objects(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("list {}: {error}", dir.display()));
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(path),
                Ok(kind) if kind.is_file() => {
                    let name = path.strip_prefix(root).expect("it was listed below the root");
                    names.push(name.to_str().expect("object names are UTF-8").to_owned());
                }
                _ => {}
            }
        }
    }
    names.sort();
    names
}

/// Names of the files below `root` that contain `part`.
///
/// # Panics
/// When there is none: a test that damages nothing proves nothing.
pub fn objects_like(root: &Path, part: &str) -> Vec<String> {
    let names: Vec<String> = objects(root).into_iter().filter(|name| name.contains(part)).collect();
    assert!(
        !names.is_empty(),
        "no object like {part} in {}: {:?}",
        root.display(),
        objects(root)
    );
    names
}

/// Damage done to one file; dropping it puts the original back, the very same inode.
#[derive(Debug)]
pub struct Damaged {
    path: PathBuf,
    original: PathBuf,
}

impl Damaged {
    /// Damages the file `name` below `root`; the original waits beside `root`.
    ///
    /// # Panics
    /// When that would change nothing.
    pub fn new(root: &Path, name: &str, damage: Damage) -> Damaged {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let path = root.join(name);
        let original = root.with_file_name(format!(".original-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let owner = OsUser::owner_of(&path);
        let mode = fs::metadata(&path).expect("it was there a moment ago").permissions();
        fs::rename(&path, &original).unwrap_or_else(|error| panic!("set {} aside: {error}", path.display()));
        let damaged = Damaged { path, original };
        if damage == Damage::Delete {
            return damaged;
        }
        let mut bytes = fs::read(&damaged.original).expect("our own file");
        let unreadable = damage == Damage::Unreadable;
        assert!(
            unreadable || damage.apply(&mut bytes),
            "{damage:?} changes nothing in {name}"
        );
        fs::write(&damaged.path, bytes).unwrap_or_else(|error| panic!("write {name}: {error}"));
        owner.own(&damaged.path);
        let mode = if unreadable {
            fs::Permissions::from_mode(0o000)
        } else {
            mode
        };
        fs::set_permissions(&damaged.path, mode).expect("our own file");
        damaged
    }

    /// Puts the original back; so does dropping.
    pub fn undo(self) {}

    /// Leaves the damage for good.
    pub fn keep(self) {
        fs::remove_file(&self.original).expect("our own file");
        std::mem::forget(self);
    }
}

impl Drop for Damaged {
    fn drop(&mut self) {
        // Over whatever a healing command may have put there.
        if let Err(error) = fs::rename(&self.original, &self.path) {
            eprintln!("could not put {} back: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn every_kind_of_damage_is_seen_and_undone() {
        let scratch = Scratch::new();
        let root = scratch.dir("repository");
        scratch.dir("repository/wal");
        scratch.file("repository/wal/a", [7; 5000]);
        scratch.file("repository/b", "");
        assert_eq!(objects(&root), ["b", "wal/a"]);
        assert_eq!(objects_like(&root, "wal/"), ["wal/a"]);
        let path = root.join("wal/a");
        let kinds = Damage::of_every_kind(3, 5000);
        assert_eq!(kinds, Damage::of_every_kind(3, 5000));
        for damage in kinds {
            let damaged = Damaged::new(&root, "wal/a", damage);
            match damage {
                Damage::Delete => assert!(!path.exists()),
                Damage::Unreadable => assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0),
                _ => assert_ne!(fs::read(&path).unwrap(), [7; 5000]),
            }
            damaged.undo();
            assert_eq!(fs::read(&path).unwrap(), [7; 5000]);
        }
        Damaged::new(&root, "wal/a", Damage::Truncate { to: 1 }).keep();
        assert_eq!(fs::read(&path).unwrap(), [7]);
        assert_eq!(objects(&root).len(), 2);
    }
}
