//! Names of users and groups for the numbers on files, and back.
//!
//! Reads the machine's user database (`/etc/passwd` and `/etc/group`); a number without a name is its own name.

use std::collections::HashMap;
use std::path::Path;

/// The machine's names, with the pair that most files have.
#[derive(Clone, Debug)]
pub struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
    usual: (u32, u32),
}

impl Owners {
    /// Names of this machine; files of `usual` (user and group of the data directory) need none of their own.
    pub fn of_this_machine(usual: (u32, u32)) -> Owners {
        Owners {
            users: read_names(Path::new("/etc/passwd")),
            groups: read_names(Path::new("/etc/group")),
            usual,
        }
    }

    /// Name of a user, or its number.
    pub fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// Name of a group, or its number.
    pub fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }

    /// Names that differ from the usual ones.
    pub fn differing(&self, uid: u32, gid: u32) -> (Option<String>, Option<String>) {
        let owner = (uid != self.usual.0).then(|| self.user(uid));
        let group = (gid != self.usual.1).then(|| self.group(gid));
        (owner, group)
    }

    /// Number of a user's name, if this machine has it.
    pub fn uid(&self, name: &str) -> Option<u32> {
        number_of(&self.users, name)
    }

    /// Number of a group's name, if this machine has it.
    pub fn gid(&self, name: &str) -> Option<u32> {
        number_of(&self.groups, name)
    }
}

fn number_of(names: &HashMap<u32, String>, name: &str) -> Option<u32> {
    names
        .iter()
        .find(|(_, known)| *known == name)
        .map(|(number, _)| *number)
}

/// Both files have the name first and the number third.
fn read_names(path: &Path) -> HashMap<u32, String> {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
            Some((number.parse().ok()?, name.to_owned()))
        })
        .collect()
}
