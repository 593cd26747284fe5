//! Begins anew without what the environment says of other clusters and repositories.
//!
//! Invariant: `PGKEEP_…` outranks the configuration file and `PG…` the connection of every program, and servers hand
//! both on to their archiver; so none of it is there when the demo starts its first program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use pgkeep_base::{Result, ResultExt};

/// What is kept: where PostgreSQL is, and what is logged.
const KEPT: [&str; 2] = [super::stage::POSTGRES_BIN, "PGKEEP_LOG"];

/// Replaces this process by itself without those variables, where there are any.
pub fn leave_behind() -> Result<()> {
    let found: Vec<OsString> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(leads_elsewhere)
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "pgkeep".into());
    let program = std::env::current_exe().during(|| "find this program")?;
    let mut command = Command::new(program);
    command.arg0(name).args(arguments);
    for name in found {
        command.env_remove(name);
    }
    Err(command.exec()).during(|| "start again in a clean environment")
}

fn leads_elsewhere(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("PG") && !KEPT.contains(&name.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_elsewhere_is_left_behind() {
        for name in ["PGHOST", "PGKEEP_CONFIG", "PGKEEP_REPOSITORY__MAIN__URL", "PGOPTIONS"] {
            assert!(leads_elsewhere(&name.into()), "{name}");
        }
        for name in ["PGKEEP_POSTGRES_BIN", "PGKEEP_LOG", "PATH", "HOME"] {
            assert!(!leads_elsewhere(&name.into()), "{name}");
        }
    }
}
