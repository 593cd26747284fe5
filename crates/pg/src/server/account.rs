//! The operating-system user that runs PostgreSQL's programs.
//!
//! Invariant: PostgreSQL never runs as root; a root pgkeep becomes the owner of the data directory first. Group
//! memberships of root don't pass on (the standard library drops them together with the user).

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgkeep_base::{Error, Result, ResultExt};

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    uid: u32,
    gid: u32,
    name: Option<String>,
    home: Option<PathBuf>,
}

impl Account {
    /// Whoever runs this process.
    pub fn current() -> Account {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        Account {
            gid,
            ..Account::by_uid(uid, gid)
        }
    }

    /// The user that must run the server of an existing data directory: its owner.
    ///
    /// # Errors
    /// `Refused` when root owns it; `Denied` when we are neither root nor its owner.
    pub fn for_data_directory(dir: &Path) -> Result<Account> {
        let meta = std::fs::metadata(dir).during(|| format!("look at {}", dir.display()))?;
        let owner = Account::by_uid(meta.uid(), meta.gid());
        let current = rustix::process::geteuid().as_raw();
        if owner.uid == 0 {
            return Err(
                Error::refused(format!("data directory {} belongs to root", dir.display()))
                    .detail("PostgreSQL refuses to run as root")
                    .hint(format!(
                        "Give it to the user that runs PostgreSQL (`chown -R postgres: {}`), then run `pgkeep` again.",
                        dir.display()
                    )),
            );
        }
        if current != 0 && current != owner.uid {
            return Err(Error::denied(format!(
                "data directory {} belongs to {}, and only its owner can run its server",
                dir.display(),
                owner.label()
            ))
            .hint(format!("Run `pgkeep` as {} or as root.", owner.label())));
        }
        Ok(owner)
    }

    /// The user for a cluster that exists for a while only: ourselves, or as root `postgres`, else `nobody`.
    ///
    /// # Errors
    /// `NotFound` when we are root and there is neither.
    pub fn for_scratch() -> Result<Account> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account::current());
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(Account::by_name)
            .ok_or_else(|| {
                Error::not_found("there is no user to run a scratch cluster")
                    .detail("PostgreSQL refuses to run as root, and neither \"postgres\" nor \"nobody\" exists")
                    .hint("Run `pgkeep` as another user than root.")
            })
    }

    /// A user by name; `None` if there is none, or if it is root.
    pub fn by_name(name: &str) -> Option<Account> {
        lookup(name).filter(|account| account.uid != 0 && account.name.as_deref() == Some(name))
    }

    fn by_uid(uid: u32, gid: u32) -> Account {
        lookup(&uid.to_string())
            .filter(|account| account.uid == uid)
            .unwrap_or(Account {
                uid,
                gid,
                name: None,
                home: None,
            })
    }

    /// Its number.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Its name, where the machine knows one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Its home directory, where the machine knows one.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("user {name}"),
            None => format!("user {}", self.uid),
        }
    }

    /// Makes `command` run as this user. Changes nothing where that is who we are.
    pub fn apply(&self, command: &mut Command) {
        if self.uid == rustix::process::geteuid().as_raw() {
            return;
        }
        command.uid(self.uid).gid(self.gid);
        command.env("HOME", self.home.as_deref().unwrap_or(Path::new("/")));
        if let Some(name) = &self.name {
            command.env("USER", name).env("LOGNAME", name);
        }
    }

    /// Makes this user the owner of `path`. Changes nothing where that is who we are.
    pub fn own(&self, path: &Path) -> Result<()> {
        if self.uid == rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .during(|| format!("give {} to {}", path.display(), self.label()))
    }
}

/// Looks in `/etc/passwd`, then asks `getent`, which also knows directories such as LDAP.
fn lookup(name_or_uid: &str) -> Option<Account> {
    let wanted = |line: &str| {
        let mut fields = line.split(':');
        fields.next() == Some(name_or_uid) || fields.nth(1) == Some(name_or_uid)
    };
    let local = std::fs::read("/etc/passwd").unwrap_or_default();
    let local = String::from_utf8_lossy(&local);
    if let Some(account) = local.lines().find(|line| wanted(line)).and_then(parse) {
        return Some(account);
    }
    let output = Command::new("getent").args(["passwd", name_or_uid]).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().find_map(parse)
}

fn parse(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let home = fields.get(5).filter(|home| home.starts_with('/'));
    Some(Account {
        name: Some((*fields.first()?).to_owned()),
        uid: fields.get(2)?.parse().ok()?,
        gid: fields.get(3)?.parse().ok()?,
        home: home.map(PathBuf::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_password_database_reads_as_an_account() {
        let account = parse("postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash").unwrap();
        assert_eq!((account.uid, account.gid), (101, 104));
        assert_eq!(account.home(), Some(Path::new("/var/lib/postgresql")));
        assert_eq!(parse("+::::::"), None);
    }

    #[test]
    fn nobody_runs_a_cluster_as_root() {
        assert_eq!(Account::by_name("root"), None);
        assert_ne!(Account::for_scratch().unwrap().uid(), 0);
        if rustix::process::geteuid().is_root() {
            let dir = tempfile::tempdir().unwrap();
            assert!(Account::for_data_directory(dir.path()).is_err());
        }
    }
}
