//! The operating-system user that PostgreSQL and pgkeep run as in tests.
//!
//! PostgreSQL refuses to run as root, so tests that run as root drop to `nobody`; tests of an ordinary user stay as
//! they are. Files that such a process shall read must lie below directories that everyone may search.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// A user by its ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OsUser {
    /// Numeric user id.
    pub uid: u32,
    /// Numeric id of its primary group.
    pub gid: u32,
}

impl OsUser {
    /// The user that this process runs as.
    pub fn current() -> OsUser {
        OsUser {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// `nobody` when this process is root, else the user that it is already.
    pub fn unprivileged() -> OsUser {
        if !OsUser::current().is_root() {
            return OsUser::current();
        }
        OsUser::named("nobody").expect("every Linux has a user named nobody")
    }

    /// Looks up `name` in `/etc/passwd`.
    pub fn named(name: &str) -> Option<OsUser> {
        let passwd = fs::read_to_string("/etc/passwd").ok()?;
        let fields: Vec<&str> = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.len() > 3 && fields[0] == name)?;
        Some(OsUser {
            uid: fields[2].parse().ok()?,
            gid: fields[3].parse().ok()?,
        })
    }

    /// The owner of a file or directory.
    pub fn owner_of(path: &Path) -> OsUser {
        use std::os::unix::fs::MetadataExt as _;
        let meta = fs::metadata(path).unwrap_or_else(|error| panic!("look at {}: {error}", path.display()));
        OsUser {
            uid: meta.uid(),
            gid: meta.gid(),
        }
    }

    /// True for root.
    pub fn is_root(self) -> bool {
        self.uid == 0
    }

    /// Gives one file or directory to this user; nothing to do for who owns it already.
    pub fn own(self, path: &Path) {
        if OsUser::owner_of(path) != self {
            std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
                .unwrap_or_else(|error| panic!("give {} to uid {}: {error}", path.display(), self.uid));
        }
    }

    /// Lets `command` run as this user, without supplementary groups.
    pub fn become_by(self, command: &mut Command) {
        if self != OsUser::current() {
            command.uid(self.uid).gid(self.gid);
        }
    }
}
