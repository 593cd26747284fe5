//! Who shall own what is restored.
//!
//! Invariant: only root gives files away, and it knows before it begins whom the data directory belongs to. As any
//! other user everything belongs to that user, as PostgreSQL wants it.

use std::collections::BTreeSet;
use std::sync::Mutex;

use pgkeep_base::{Error, Result};
use pgkeep_pg::server::Account;
use pgkeep_repo::head::PhysicalHead;
use pgkeep_repo::manifest::Entry;
use rustix::fs::{Gid, Uid};

use crate::owners::Owners;

/// How many unknown names are told.
const NAMES_TOLD_MAX: usize = 5;

/// A user and a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids {
    /// The user.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
}

impl Ids {
    /// The owner of something that exists.
    pub fn of(stat: &rustix::fs::Stat) -> Ids {
        Ids {
            uid: Uid::from_raw(stat.st_uid),
            gid: Gid::from_raw(stat.st_gid),
        }
    }
}

/// Knows the owner of each entry.
#[derive(Debug)]
pub struct Ownership {
    /// `None`: we are not root and give nothing away.
    usual: Option<(Ids, Owners)>,
    unknown: Mutex<BTreeSet<String>>,
}

impl Ownership {
    /// As the head of a backup says.
    ///
    /// # Errors
    /// `Refused` where we are root and this machine doesn't know the owner or group of the data directory.
    pub fn of_backup(head: &PhysicalHead) -> Result<Ownership> {
        let usual = match rustix::process::geteuid().is_root() {
            true => Some(usual(head)?),
            false => None,
        };
        Ok(Ownership {
            usual,
            unknown: Mutex::default(),
        })
    }

    /// The owner of all that has no other.
    pub fn usual(&self) -> Option<Ids> {
        self.usual.as_ref().map(|(ids, _)| *ids)
    }

    /// The owner of an entry; the usual one where this machine doesn't know the recorded name.
    pub fn of_entry(&self, entry: &Entry) -> Option<Ids> {
        let (usual, owners) = self.usual.as_ref()?;
        let mut ids = *usual;
        if let Some(name) = &entry.owner {
            ids.uid = self.or_usual(name, owners.uid(name), usual.uid.as_raw(), Uid::from_raw);
        }
        if let Some(name) = &entry.group {
            ids.gid = self.or_usual(name, owners.gid(name), usual.gid.as_raw(), Gid::from_raw);
        }
        Some(ids)
    }

    fn or_usual<T>(&self, name: &str, known: Option<u32>, usual: u32, make: impl Fn(u32) -> T) -> T {
        let number = known.or_else(|| number(name)).unwrap_or_else(|| {
            let mut unknown = self.unknown.lock().expect("nobody panics with the names");
            // What is told is bounded, so what is kept may be, too.
            if unknown.len() < NAMES_TOLD_MAX {
                unknown.insert(name.to_owned());
            }
            usual
        });
        make(number)
    }

    /// What an operator should read, where names of entries were unknown.
    pub fn note(&self) -> Option<String> {
        let unknown = self.unknown.lock().expect("nobody panics with the names");
        let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
        (!names.is_empty()).then(|| {
            format!(
                "some files belonged to users or groups that this machine doesn't have ({}); they now belong to the \
                 owner of the data directory",
                names.join(", ")
            )
        })
    }
}

fn usual(head: &PhysicalHead) -> Result<(Ids, Owners)> {
    let owners = Owners::of_this_machine((0, 0));
    // The account is also found where users come from a directory service.
    let uid = owners.uid(&head.owner).or_else(|| number(&head.owner));
    let uid = uid.or_else(|| Account::by_name(&head.owner).map(|account| account.uid()));
    let gid = owners.gid(&head.group).or_else(|| number(&head.group));
    let (Some(uid), Some(gid)) = (uid, gid) else {
        let missing = match uid {
            None => format!("user \"{}\"", head.owner),
            Some(_) => format!("group \"{}\"", head.group),
        };
        return Err(Error::refused(format!("this machine has no {missing}"))
            .detail("the data directory belonged to it, and PostgreSQL can't run as root")
            .hint(format!(
                "Create the {missing}, or run `pgkeep restore` as the user that shall run PostgreSQL."
            )));
    };
    let ids = Ids {
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(gid),
    };
    Ok((ids, owners))
}

/// An owner without a name was recorded as its number. The largest means "nobody at all" to the system.
fn number(name: &str) -> Option<u32> {
    name.parse().ok().filter(|number| *number != u32::MAX)
}
