//! Walks a data directory and its tablespaces, sorted, one directory's names in memory per level.
//!
//! Order: component by component as bytes, a directory before its contents (`path::compare`); a manifest can be
//! written while the walk runs. A tablespace is listed where its link is, below `pg_tblspc/<oid>`.
//! Invariant: the walk never follows a symbolic link by accident. Links are: a tablespace (`tablespaces.rs`); `pg_wal`
//! or an emptied directory that lives elsewhere, yielded as a directory; a linked file, yielded with its content; a
//! dangling link, reported; any other linked directory, refused.

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgkeep_base::{Error, Result, ResultExt};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::classify::{self, Place};
use super::exclude::{WAL_DIRECTORIES, init_fork_of, is_emptied, is_excluded};
use super::names::Names;
use super::{Class, DataDir, Entry, EntryKind, RelPath, Tablespace, stat_at, system_error, tablespaces};

/// Nesting beyond any that PostgreSQL or an extension makes; bounds open descriptors.
const DEPTH_MAX: usize = 64;
/// `DROP TABLESPACE` removes a directory, then the link; in between the link leads to nothing.
const DROP_RETRIES: u32 = 5;
const DROP_RETRY_DELAY: Duration = Duration::from_millis(20);

/// What a walk yields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Something to back up.
    Entry(Entry),
    /// Something that is there, or was, and can't be backed up.
    Skipped {
        /// Where.
        path: RelPath,
        /// Why.
        reason: SkipReason,
    },
}

/// Why something was skipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SkipReason {
    /// It was listed, and gone when it was looked at: normal for relations. Needs no report.
    Vanished,
    /// A socket.
    Socket,
    /// A named pipe.
    Fifo,
    /// A device, or something stranger.
    Special,
    /// A symbolic link to nothing.
    DanglingLink,
}

impl SkipReason {
    /// True for what an operator should hear of.
    pub fn is_notable(self) -> bool {
        self != SkipReason::Vanished
    }
}

impl std::fmt::Display for SkipReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SkipReason::Vanished => "it vanished",
            SkipReason::Socket => "it is a socket",
            SkipReason::Fifo => "it is a named pipe",
            SkipReason::Special => "it is a device",
            SkipReason::DanglingLink => "it is a symbolic link to nothing",
        })
    }
}

/// A walk in progress. Ends after the first error.
#[derive(Debug)]
pub struct Walk {
    data_dir: PathBuf,
    version_directory: String,
    levels: Vec<Level>,
    excluded: u64,
    /// Waits between two looks at a tablespace of this data directory that may be being dropped; a test drops it here.
    pub(super) between_looks: fn(&Path),
}

/// A directory whose names are being visited.
#[derive(Debug)]
struct Level {
    dir: OwnedFd,
    path: RelPath,
    place: Place,
    names: Names,
    origin: Origin,
}

/// Where the names of a level come from.
#[derive(Debug)]
enum Origin {
    /// A listing: what isn't there any more has vanished.
    Listing,
    /// Known names that need not exist.
    Known,
    /// The one directory in a tablespace's location that is PostgreSQL's.
    Location(Tablespace),
}

impl Walk {
    pub(super) fn begin(data_dir: &DataDir) -> Result<Walk> {
        let dir = super::open_directory(data_dir.as_fd(), Path::new("."), OFlags::empty())
            .map_err(|errno| system_error(errno, format!("open {}", data_dir.path().display())))?;
        let names = Names::list(&dir).during(|| format!("list {}", data_dir.path().display()))?;
        let top = Level {
            dir,
            path: RelPath::ROOT,
            place: Place::Top,
            names,
            origin: Origin::Listing,
        };
        Ok(Walk {
            data_dir: data_dir.path().to_owned(),
            version_directory: data_dir.control().tablespace_version_directory(),
            levels: vec![top],
            excluded: 0,
            between_looks: |_| std::thread::sleep(DROP_RETRY_DELAY),
        })
    }

    /// How many names were left out by the table of exclusions so far (contents of emptied directories not counted).
    pub fn excluded(&self) -> u64 {
        self.excluded
    }

    fn visit(&mut self, name: &CStr) -> Result<Option<Found>> {
        let level = self.levels.last().expect("next visits names of the last level");
        if is_excluded(level.place, name.to_bytes()) || level.is_unlogged(name.to_bytes()) {
            self.excluded += 1;
            return Ok(None);
        }
        let path = level.path.join(name.to_bytes());
        let stat = match stat_at(&level.dir, name, false) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return self.absent(path, name),
            Err(errno) => return Err(system_error(errno, format!("look at {path}"))),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Some(Found::Entry(level.file(path, name, &stat)))),
            FileType::Directory => self.enter(path, name, &stat, None),
            FileType::Symlink => self.visit_link(path, name),
            special => Ok(Some(skipped_special(path, special))),
        }
    }

    /// A name that is not there: gone, optional, or a tablespace without content.
    fn absent(&mut self, path: RelPath, name: &CStr) -> Result<Option<Found>> {
        let level = self.levels.last().expect("visit has a level");
        match &level.origin {
            Origin::Listing => Ok(Some(vanished(path))),
            Origin::Known => Ok(None),
            Origin::Location(tablespace) => {
                let parent = &self.levels[self.levels.len() - 2];
                for _ in 0..DROP_RETRIES {
                    if tablespaces::inspect(&self.data_dir, parent.dir.as_fd(), tablespace.oid)?.is_none() {
                        return Ok(Some(vanished(path)));
                    }
                    if stat_at(&level.dir, name, false).is_ok() {
                        break;
                    }
                    (self.between_looks)(&self.data_dir);
                }
                Err(tablespaces::no_version_directory(tablespace, &self.version_directory))
            }
        }
    }

    /// Yields a directory and makes its contents next. `link` is set where a link led here.
    fn enter(&mut self, path: RelPath, name: &CStr, stat: &Stat, link: Option<PathBuf>) -> Result<Option<Found>> {
        let level = self.levels.last().expect("visit has a level");
        let emptied = is_emptied(level.place, name.to_bytes());
        let place = level.place.child(name.to_bytes());
        if !emptied {
            let follow = if link.is_some() {
                OFlags::empty()
            } else {
                OFlags::NOFOLLOW
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
            let dir = match rustix::fs::openat(&level.dir, name, flags, rustix::fs::Mode::empty()) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => return Ok(Some(vanished(path))),
                Err(errno) => return Err(system_error(errno, format!("open directory {path}"))),
            };
            let (names, origin) = match place {
                Place::Wal => (Names::of(WAL_DIRECTORIES.iter().copied())?, Origin::Known),
                _ => (Names::list(&dir).during(|| format!("list {path}"))?, Origin::Listing),
            };
            self.push(Level {
                dir,
                path: path.clone(),
                place,
                names,
                origin,
            })?;
        }
        let mut entry = Entry::new(path, EntryKind::Directory, Class::Other, stat);
        entry.link_target = link;
        Ok(Some(Found::Entry(entry)))
    }

    fn push(&mut self, level: Level) -> Result<()> {
        if self.levels.len() >= DEPTH_MAX {
            return Err(Error::unsupported(format!("{} is nested too deeply", level.path))
                .detail(format!("at most {DEPTH_MAX} levels of directories")));
        }
        self.levels.push(level);
        Ok(())
    }

    fn visit_link(&mut self, path: RelPath, name: &CStr) -> Result<Option<Found>> {
        let level = self.levels.last().expect("visit has a level");
        if let (Place::Tablespaces, Some(oid)) = (level.place, classify::oid(name.to_bytes())) {
            return self.enter_tablespace(path, oid);
        }
        let target = match rustix::fs::readlinkat(&level.dir, name, Vec::new()) {
            Ok(target) => PathBuf::from(OsString::from_vec(target.into_bytes())),
            Err(Errno::NOENT) => return Ok(Some(vanished(path))),
            Err(errno) => return Err(system_error(errno, format!("read link {path}"))),
        };
        let stat = match stat_at(&level.dir, name, true) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {
                let reason = SkipReason::DanglingLink;
                return Ok(Some(Found::Skipped { path, reason }));
            }
            Err(errno) => return Err(system_error(errno, format!("look at what {path} links to"))),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let mut entry = level.file(path, name, &stat);
                entry.link_target = Some(target);
                Ok(Some(Found::Entry(entry)))
            }
            FileType::Directory if may_live_elsewhere(level.place, name.to_bytes()) => {
                self.enter(path, name, &stat, Some(target))
            }
            FileType::Directory => Err(linked_directory(&path, &target)),
            special => Ok(Some(skipped_special(path, special))),
        }
    }

    fn enter_tablespace(&mut self, path: RelPath, oid: u32) -> Result<Option<Found>> {
        let level = self.levels.last().expect("visit has a level");
        let Some(tablespace) = tablespaces::inspect(&self.data_dir, level.dir.as_fd(), oid)? else {
            return Ok(Some(vanished(path)));
        };
        let shown = tablespace.location.display();
        let dir = super::open_directory(rustix::fs::CWD, &tablespace.location, OFlags::empty())
            .map_err(|errno| system_error(errno, format!("open {shown}, the location of tablespace {oid}")))?;
        let stat = rustix::fs::fstat(&dir).map_err(|errno| system_error(errno, format!("look at {shown}")))?;
        let kind = EntryKind::Tablespace(tablespace.clone());
        let entry = Entry::new(path.clone(), kind, Class::Other, &stat);
        self.push(Level {
            dir,
            path,
            place: Place::Tablespace(oid),
            names: Names::of([self.version_directory.as_bytes()])?,
            origin: Origin::Location(tablespace),
        })?;
        Ok(Some(Found::Entry(entry)))
    }
}

impl Iterator for Walk {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Result<Found>> {
        loop {
            let Some(name) = self.levels.last_mut()?.names.advance().map(CString::from) else {
                self.levels.pop();
                continue;
            };
            match self.visit(&name) {
                Ok(None) => continue,
                Ok(Some(found)) => return Some(Ok(found)),
                Err(error) => {
                    self.levels.clear();
                    return Some(Err(error.during(format!("walk {}", self.data_dir.display()))));
                }
            }
        }
    }
}

impl Level {
    fn file(&self, path: RelPath, name: &CStr, stat: &Stat) -> Entry {
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let class = self.place.classify(name.to_bytes());
        Entry::new(path, EntryKind::File { bytes }, class, stat)
    }

    fn is_unlogged(&self, name: &[u8]) -> bool {
        self.names.hold_init_forks()
            && init_fork_of(self.place, name).is_some_and(|init_fork| self.names.contains(&init_fork))
    }
}

/// The directories whose contents are not backed up may be links to other disks.
fn may_live_elsewhere(place: Place, name: &[u8]) -> bool {
    is_emptied(place, name) || (place == Place::Top && name == b"pg_wal")
}

fn linked_directory(path: &RelPath, target: &Path) -> Error {
    Error::refused(format!("{path} is a symbolic link to a directory"))
        .detail(format!(
            "it leads to {}; only pg_wal and tablespaces may live outside of the data directory",
            target.display()
        ))
        .hint(
            "Replace the link by the directory itself, or set an absolute path where PostgreSQL has a setting for it \
             (log_directory); then run `pgkeep doctor`.",
        )
}

fn vanished(path: RelPath) -> Found {
    let reason = SkipReason::Vanished;
    Found::Skipped { path, reason }
}

fn skipped_special(path: RelPath, file_type: FileType) -> Found {
    let reason = match file_type {
        FileType::Socket => SkipReason::Socket,
        FileType::Fifo => SkipReason::Fifo,
        _ => SkipReason::Special,
    };
    Found::Skipped { path, reason }
}
