//! The command lines of pgkeep that PostgreSQL runs: `archive_command`, `restore_command` and the like.
//!
//! Invariant: a command line is complete (absolute program, configuration, identity, repository), so that it works in
//! whatever environment the server was started; and it survives the shell and PostgreSQL's own `%` escapes.

use std::path::{Path, PathBuf};

use pgkeep_base::{Result, ResultExt};

/// What the command lines have in common.
#[derive(Clone, Debug)]
pub struct Invocation {
    program: PathBuf,
    config: Option<PathBuf>,
}

impl Invocation {
    /// Of this program, with that configuration.
    pub fn new(config: Option<&Path>) -> Result<Invocation> {
        let program = std::env::current_exe().during(|| "find this program")?;
        Ok(Invocation {
            program,
            config: config.map(Path::to_owned),
        })
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// `archive_command`.
    pub fn archive(&self) -> String {
        format!("{} wal push %p", self.begin())
    }

    /// `restore_command`, for recovery with this identity from these repositories (all where none is named).
    pub fn restore(&self, identity: Option<&Path>, repositories: &[String], accept_signer: bool) -> String {
        let mut line = format!("{} wal fetch", self.begin());
        if let Some(identity) = identity {
            line.push_str(&format!(" --identity {}", word(&identity.to_string_lossy())));
        }
        for repository in repositories {
            line.push_str(&format!(" --repository {}", word(repository)));
        }
        if accept_signer {
            line.push_str(" --accept-signer");
        }
        line + " %f %p"
    }

    /// Answers PostgreSQL's questions for history files only.
    pub fn histories(&self, identity: Option<&Path>) -> String {
        self.restore(identity, &[], false)
            .replace(" wal fetch", " wal fetch --only-history")
    }

    /// `recovery_end_command`; needs no configuration.
    pub fn finish_recovery(&self) -> String {
        format!("{} wal finish-recovery", word(&self.program.to_string_lossy()))
    }

    fn begin(&self) -> String {
        let program = word(&self.program.to_string_lossy());
        match &self.config {
            Some(config) => format!("{program} --config {}", word(&config.to_string_lossy())),
            None => program,
        }
    }
}

/// One word for the shell, in which PostgreSQL finds nothing to replace.
fn word(text: &str) -> String {
    let text = text.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@,%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation(program: &str) -> Invocation {
        Invocation {
            program: program.into(),
            config: Some("/etc/pgkeep/pgkeep.toml".into()),
        }
    }

    #[test]
    fn command_lines_are_complete() {
        let ours = invocation("/usr/bin/pgkeep");
        assert_eq!(
            ours.archive(),
            "/usr/bin/pgkeep --config /etc/pgkeep/pgkeep.toml wal push %p"
        );
        assert_eq!(
            ours.restore(Some(Path::new("/root/id.txt")), &["main".to_owned()], true),
            "/usr/bin/pgkeep --config /etc/pgkeep/pgkeep.toml wal fetch --identity /root/id.txt --repository main --accept-signer %f %p"
        );
        assert_eq!(
            ours.histories(None),
            "/usr/bin/pgkeep --config /etc/pgkeep/pgkeep.toml wal fetch --only-history %f %p"
        );
        assert_eq!(ours.finish_recovery(), "/usr/bin/pgkeep wal finish-recovery");
    }

    #[test]
    fn odd_paths_survive_the_shell_and_postgresql() {
        assert_eq!(word("/opt/100%/it's"), r"'/opt/100%%/it'\''s'");
        assert_eq!(word("a b"), "'a b'");
        assert_eq!(word(""), "''");
    }
}
