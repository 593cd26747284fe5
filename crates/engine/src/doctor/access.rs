//! Whether a user of this machine may read, write or run a file: usually the user that runs PostgreSQL.
//!
//! Invariant: for ourselves the kernel answers; for others the permission bits of the whole path do, and where an
//! access control list may say otherwise the answer is [`Answer::Unknown`], never a wrong no.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

const ACCESS_LIST: &str = "system.posix_acl_access";

/// A user with its groups, as far as `/etc/passwd` and `/etc/group` tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Who {
    pub uid: u32,
    pub name: String,
    groups: Vec<u32>,
}

/// What is wanted of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    Read,
    /// Of a directory: make and remove files in it.
    Write,
    Run,
}

/// Whether it may.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Yes,
    /// The file or directory that stands in the way.
    No(PathBuf),
    Missing,
    /// Why it can't be told.
    Unknown(String),
}

impl Who {
    /// The user of that number; `gid` is the group that it is sure to have.
    pub fn of(uid: u32, gid: u32) -> Who {
        Who::from_files(uid, gid, &read("/etc/passwd"), &read("/etc/group"))
    }

    /// Whoever runs this process.
    pub fn me() -> Who {
        Who::of(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    }

    fn from_files(uid: u32, gid: u32, passwd: &str, group: &str) -> Who {
        let entry = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (name, number) = (fields.first()?, fields.get(2)?);
            (number.parse() == Ok(uid)).then(|| {
                (
                    (*name).to_owned(),
                    fields.get(3).and_then(|gid| gid.parse::<u32>().ok()),
                )
            })
        });
        let mut groups = vec![gid];
        let Some((name, primary)) = entry else {
            return Who {
                uid,
                name: uid.to_string(),
                groups,
            };
        };
        groups.extend(primary);
        groups.extend(group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let member = fields.get(3)?.split(',').any(|member| member == name);
            if member {
                fields.get(2)?.parse::<u32>().ok()
            } else {
                None
            }
        }));
        Who { uid, name, groups }
    }

    /// Whether this is who runs this process.
    pub fn is_me(&self) -> bool {
        self.uid == rustix::process::geteuid().as_raw()
    }

    /// Whether it may do that to the file or directory at `path`.
    pub fn may(&self, path: &Path, want: Want) -> Answer {
        if self.is_me() {
            ask_kernel(path, want)
        } else {
            self.judge(path, want)
        }
    }

    fn judge(&self, path: &Path, want: Want) -> Answer {
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Answer::Missing,
            Err(error) => return Answer::Unknown(format!("{} can't be looked at: {error}", path.display())),
        };
        let ancestors = real.ancestors().skip(1).map(|directory| (directory, Want::Run));
        for (step, want) in std::iter::once((real.as_path(), want)).chain(ancestors) {
            let Ok(metadata) = std::fs::metadata(step) else {
                return Answer::Unknown(format!("{} can't be looked at", step.display()));
            };
            if !self.allowed(metadata.mode(), metadata.uid(), metadata.gid(), want) {
                return match has_access_list(step) {
                    true => Answer::Unknown(format!("{} has an access control list", step.display())),
                    false => Answer::No(step.to_owned()),
                };
            }
        }
        Answer::Yes
    }

    /// What the permission bits say.
    fn allowed(&self, mode: u32, uid: u32, gid: u32, want: Want) -> bool {
        let bits = match want {
            Want::Read => 0o4,
            Want::Write => 0o3,
            Want::Run => 0o1,
        };
        if self.uid == 0 {
            return want != Want::Run || mode & 0o111 != 0;
        }
        let class = match (uid == self.uid, self.groups.contains(&gid)) {
            (true, _) => mode >> 6,
            (false, true) => mode >> 3,
            (false, false) => mode,
        };
        class & bits == bits
    }
}

fn ask_kernel(path: &Path, want: Want) -> Answer {
    let access = match want {
        Want::Read => Access::READ_OK,
        Want::Write => Access::WRITE_OK | Access::EXEC_OK,
        Want::Run => Access::EXEC_OK,
    };
    match accessat(CWD, path, access, AtFlags::EACCESS) {
        Ok(()) => Answer::Yes,
        Err(Errno::NOENT | Errno::NOTDIR) => Answer::Missing,
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Answer::No(path.to_owned()),
        Err(errno) => Answer::Unknown(format!("{}: {}", path.display(), std::io::Error::from(errno))),
    }
}

fn has_access_list(path: &Path) -> bool {
    let mut value = [0u8; 4];
    // A list longer than the buffer is there, too.
    matches!(
        rustix::fs::getxattr(path, ACCESS_LIST, &mut value[..]),
        Ok(_) | Err(Errno::RANGE)
    )
}

fn read(path: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn postgres() -> Who {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres:x:4001:4002::/:/bin/sh\n";
        Who::from_files(4001, 4009, passwd, "a:x:4003:other,postgres\nb:x:4004:other\nbroken\n")
    }

    #[test]
    fn groups_come_from_both_files() {
        let who = postgres();
        assert_eq!(
            (who.name.as_str(), &who.groups[..]),
            ("postgres", &[4009, 4002, 4003][..])
        );
        assert_eq!(Who::from_files(77, 78, "", "").name, "77");
    }

    #[test]
    fn the_class_that_fits_first_decides() {
        let who = postgres();
        assert!(who.allowed(0o400, 4001, 0, Want::Read) && !who.allowed(0o077, 4001, 4002, Want::Read));
        assert!(who.allowed(0o040, 0, 4003, Want::Read) && !who.allowed(0o004, 0, 4003, Want::Read));
        assert!(who.allowed(0o001, 0, 0, Want::Run) && !who.allowed(0o002, 0, 0, Want::Write));
        let root = Who { uid: 0, ..who };
        assert!(root.allowed(0, 1, 1, Want::Read) && !root.allowed(0o644, 0, 0, Want::Run));
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let directory = std::env::temp_dir().join(format!("pgkeep-doctor-access-{}", std::process::id()));
        let file = directory.join("file");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
        let closed = directory.canonicalize().unwrap();
        assert_eq!(postgres().may(&file, Want::Read), Answer::No(closed));
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(postgres().may(&file, Want::Read), Answer::Yes);
        assert_eq!(postgres().may(&directory.join("none"), Want::Read), Answer::Missing);
        assert_eq!(Who::me().may(&file, Want::Read), Answer::Yes);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
