//! The first backup, where archiving works already.

use std::path::Path;
use std::process::{Command, Stdio};

use pgkeep_base::{ClusterName, Error, Result, ResultExt};
use pgkeep_pg::server::Account;
use serde::Serialize;

use super::server::ServerPlan;
use crate::context::Context;
use crate::invocation::Invocation;

/// How it went.
#[derive(Debug, Default, Serialize)]
pub struct FirstBackup {
    /// Its id.
    backup: Option<String>,
    /// Why there is none.
    backup_missing: Option<String>,
    #[serde(skip)]
    failed: bool,
}

impl FirstBackup {
    /// Its id, if there is one.
    pub fn id(&self) -> Option<&str> {
        self.backup.as_deref()
    }

    /// Why there is none.
    pub fn missing(&self) -> Option<&str> {
        self.backup_missing.as_deref()
    }

    /// Whether it was tried and failed.
    pub fn failed(&self) -> bool {
        self.failed
    }

    fn none(why: &str) -> FirstBackup {
        FirstBackup {
            backup: None,
            backup_missing: Some(why.to_owned()),
            failed: false,
        }
    }
}

/// Takes it as the user that runs PostgreSQL; a failure is told, and undoes nothing.
pub fn take(
    context: &Context,
    config: &Path,
    server: &ServerPlan,
    account: Option<&Account>,
    invocation: &Invocation,
    cluster: &ClusterName,
) -> FirstBackup {
    if !server.archives_after_reload() {
        return FirstBackup::none("PostgreSQL does not archive to this repository yet");
    }
    let Some(account) = account else {
        return FirstBackup::none("the data directory is not on this host, or belongs to another user");
    };
    match run(context, config, account, invocation, cluster) {
        Ok(id) => FirstBackup {
            backup: Some(id),
            backup_missing: None,
            failed: false,
        },
        Err(error) => {
            let why = error
                .detail_text()
                .map_or_else(|| error.to_string(), |detail| format!("{error}: {detail}"));
            context.output.warn(&format!("the first backup failed: {why}"));
            FirstBackup {
                backup: None,
                backup_missing: Some(why),
                failed: true,
            }
        }
    }
}

fn run(
    context: &Context,
    config: &Path,
    account: &Account,
    invocation: &Invocation,
    cluster: &ClusterName,
) -> Result<String> {
    let mut command = Command::new(invocation.program());
    command
        .arg("--config")
        .arg(config)
        .args(["backup", cluster.as_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if context.global.quiet {
        command.arg("--quiet");
    }
    account.apply(&mut command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .during(|| "run `pgkeep backup`")?;
    // 3: it exists, with something to look at, which it said on stderr.
    match output.status.code() {
        Some(0 | 3) => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        _ => Err(Error::io("`pgkeep backup` failed").detail(output.status.to_string())),
    }
}
