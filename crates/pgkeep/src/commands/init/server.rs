//! What `init` asks of the server, and what it sets there.

use pgkeep_base::{Error, ErrorKind, Result, ResultExt};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::facts::{ServerFacts, grants_sql, privileges};
use serde::Serialize;

use crate::invocation::Invocation;

/// The role that the statements are printed for.
const ROLE: &str = "pgkeep";

/// A setting that archiving needs.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What it must be.
    pub value: String,
    /// What it is.
    pub current: String,
    /// `restart` or `reload`.
    pub needs: &'static str,
    /// Whether it was set.
    pub applied: bool,
}

/// The server as it is, and what must change.
#[derive(Debug)]
pub struct ServerPlan {
    /// Its word about itself.
    pub facts: ServerFacts,
    /// The settings that must change.
    pub settings: Vec<Setting>,
    /// Statements that make or complete a backup role.
    pub grants: Vec<String>,
}

/// Looks at the server; changes nothing.
pub async fn plan(
    connection: &str,
    invocation: &Invocation,
    lookup: &(dyn Fn(&str) -> Option<String> + Send + Sync),
) -> Result<ServerPlan> {
    let connection = Connection::open(connection, lookup)
        .await
        .during(|| "connect to the cluster")
        .map_err(explain)?;
    let facts = ServerFacts::gather(&connection).await?;
    let grants = match facts.is_superuser {
        true => grants_sql(ROLE, facts.major),
        false => privileges(&connection)
            .await?
            .into_iter()
            .map(|missing| missing.sql)
            .collect(),
    };
    let settings = needed(&facts, &invocation.archive());
    Ok(ServerPlan {
        facts,
        settings,
        grants,
    })
}

fn explain(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Denied => error.or_hint("Run `pgkeep init` as the user that runs PostgreSQL, or name a superuser: `--connection 'user=postgres …'`."),
        _ => error.or_hint("Check that PostgreSQL runs, and `--connection CONNINFO`."),
    }
}

fn needed(facts: &ServerFacts, archive_command: &str) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut need = |name, value: &str, current: &str, needs| {
        settings.push(Setting {
            name,
            value: value.to_owned(),
            current: current.to_owned(),
            needs,
            applied: false,
        });
    };
    if facts.wal_level == "minimal" {
        need("wal_level", "replica", &facts.wal_level, "restart");
    }
    if facts.archive_mode == "off" {
        need("archive_mode", "on", &facts.archive_mode, "restart");
    }
    let current = facts.archive_command.as_deref().unwrap_or_default();
    if current != archive_command {
        need("archive_command", archive_command, current, "reload");
    }
    if facts.archive_timeout_seconds == 0 {
        need("archive_timeout", "60s", "0", "reload");
    }
    settings
}

impl ServerPlan {
    /// Whether WAL will reach the archive without a restart once the settings are as they must be.
    pub fn archives_after_reload(&self) -> bool {
        self.settings
            .iter()
            .all(|setting| setting.applied || setting.name == "archive_timeout")
            && !self.settings.iter().any(|setting| setting.needs == "restart")
    }

    /// Another archiver is never replaced silently.
    ///
    /// # Errors
    /// `Refused`, with the command that is there.
    pub fn refuse_foreign_archiving(&self) -> Result<()> {
        let other = self
            .facts
            .archive_library
            .as_ref()
            .map(|library| ("archive_library", library));
        let command = self
            .facts
            .archive_command
            .as_ref()
            .filter(|command| !command.contains("pgkeep"));
        match other.or(command.map(|command| ("archive_command", command))) {
            Some((name, value)) => Err(Error::refused(format!("the server archives already, with another {name}"))
                .detail(value.clone())
                .hint(format!(
                    "If that is no longer wanted: ALTER SYSTEM SET {name} = ''; then `pgkeep init` again. Without --apply nothing is set."
                ))),
            None => Ok(()),
        }
    }

    /// Sets what must change, and has the server read it.
    ///
    /// # Errors
    /// `Denied` for a role that may not.
    pub async fn apply(
        &mut self,
        connection: &str,
        lookup: &(dyn Fn(&str) -> Option<String> + Send + Sync),
    ) -> Result<()> {
        let connection = Connection::open(connection, lookup)
            .await
            .during(|| "connect to the cluster")?;
        for setting in &mut self.settings {
            connection
                .batch(&format!(
                    "ALTER SYSTEM SET {} = {}",
                    setting.name,
                    literal(&setting.value)
                ))
                .await
                .during(|| format!("set {}", setting.name))
                .or_hint(|| "Connect as a superuser, or set it in postgresql.conf and leave --apply out.")?;
            setting.applied = true;
        }
        connection
            .batch("SELECT pg_catalog.pg_reload_conf()")
            .await
            .during(|| "reload PostgreSQL's settings")
    }
}

/// A string constant of SQL.
pub fn literal(text: &str) -> String {
    match text.contains('\\') {
        true => format!("E'{}'", text.replace('\\', r"\\").replace('\'', "''")),
        false => format!("'{}'", text.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_survive_quotes_and_backslashes() {
        assert_eq!(literal("pgkeep wal push %p"), "'pgkeep wal push %p'");
        assert_eq!(literal("'/a b/pgkeep' x"), "'''/a b/pgkeep'' x'");
        assert_eq!(literal(r"a\b'"), r"E'a\\b'''");
    }
}
