//! What a role that isn't superuser needs for backups, and what it lacks.
//!
//! Invariant: one list ([`required`]) feeds the statements that are printed, the check, and the hint of a refusal.
//! Privileges on functions are kept per database: the statements belong into the one that pgkeep connects to.

use pgkeep_base::{Error, ErrorKind, PgMajor, Result};

use crate::connect::{Connection, column, quote_identifier};

/// A privilege, and what is impossible without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    object: Object,
    /// A verb phrase: what it is needed to do.
    pub purpose: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    /// EXECUTE on a function of `pg_catalog`, with its argument types.
    Function(&'static str),
    /// Membership in a predefined role.
    Role(&'static str),
}

macro_rules! grants {
    ($($name:ident = $kind:ident($object:literal), $purpose:literal;)*) => {
        $( pub(crate) const $name: Grant = Grant { object: Object::$kind($object), purpose: $purpose }; )*
    };
}

grants! {
    READ_SETTINGS = Role("pg_read_all_settings"), "learn where the data directory is";
    START_14 = Function("pg_start_backup(text, boolean, boolean)"), "begin a backup";
    STOP_14 = Function("pg_stop_backup(boolean, boolean)"), "finish a backup";
    START = Function("pg_backup_start(text, boolean)"), "begin a backup";
    STOP = Function("pg_backup_stop(boolean)"), "finish a backup";
    SWITCH_WAL = Function("pg_switch_wal()"), "have the current WAL segment archived";
    RESTORE_POINT = Function("pg_create_restore_point(text)"), "make restore points";
    CONTROL_SYSTEM = Function("pg_control_system()"), "tell clusters apart by their system identifier";
    CONTROL_CHECKPOINT = Function("pg_control_checkpoint()"), "learn the timeline of the last checkpoint";
    ARCHIVE_STATUS = Function("pg_ls_archive_statusdir()"), "count the WAL segments that wait for the archiver";
}

/// Everything that backups of a server of this major need, in the order in which it is used.
pub fn required(major: PgMajor) -> Vec<Grant> {
    let (start, stop) = match major.has_pg_backup_start() {
        true => (START, STOP),
        false => (START_14, STOP_14),
    };
    vec![
        CONTROL_SYSTEM,
        CONTROL_CHECKPOINT,
        READ_SETTINGS,
        start,
        stop,
        SWITCH_WAL,
        RESTORE_POINT,
        ARCHIVE_STATUS,
    ]
}

impl Grant {
    /// What is granted, as a person says it: `EXECUTE on function pg_switch_wal()`.
    pub fn label(&self) -> String {
        match self.object {
            Object::Function(signature) => format!("EXECUTE on function {signature}"),
            Object::Role(role) => format!("membership in role {role}"),
        }
    }

    /// The statement that grants it.
    pub fn sql(&self, role: &str, major: PgMajor) -> String {
        let role = quote_identifier(role);
        match self.object {
            Object::Function(signature) => format!("GRANT EXECUTE ON FUNCTION pg_catalog.{signature} TO {role};"),
            // Since 16 a membership can exist without passing its privileges on.
            Object::Role(member) if major.get() >= 16 => format!("GRANT {member} TO {role} WITH INHERIT TRUE;"),
            Object::Role(member) => format!("GRANT {member} TO {role};"),
        }
    }

    /// A condition that is true for a session that has it.
    fn condition(&self) -> String {
        match self.object {
            Object::Function(signature) => {
                format!("pg_catalog.has_function_privilege('pg_catalog.{signature}', 'EXECUTE')")
            }
            Object::Role(role) => format!("pg_catalog.pg_has_role('{role}', 'USAGE')"),
        }
    }

    /// Names this grant in an error that says that a privilege is missing; leaves other errors alone.
    pub(crate) fn explain(self, conn: &Connection, error: Error) -> Error {
        if error.kind() != ErrorKind::Denied {
            return error;
        }
        error.hint(format!(
            "Run this as superuser in database \"{}\", then `pgkeep doctor`: {}",
            conn.database(),
            self.sql(conn.user(), conn.major())
        ))
    }
}

/// A privilege that the session's role lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingGrant {
    /// What is missing.
    pub grant: Grant,
    /// The statement that grants it, to be run as superuser in the database of the connection.
    pub sql: String,
}

/// What the session's role lacks for backups; empty for a superuser.
pub async fn privileges(conn: &Connection) -> Result<Vec<MissingGrant>> {
    let grants = required(conn.major());
    let conditions: Vec<String> = grants.iter().map(Grant::condition).collect();
    let row = conn
        .query_one(&format!("SELECT {}", conditions.join(", ")), &[])
        .await?;
    let mut missing = Vec::new();
    for (index, grant) in grants.into_iter().enumerate() {
        if !column::<bool>(&row, index)? {
            missing.push(MissingGrant {
                grant,
                sql: grant.sql(conn.user(), conn.major()),
            });
        }
    }
    Ok(missing)
}

/// The statements that make `role` a backup role: the first creates it, the others grant what [`required`] lists.
///
/// They belong into the database that pgkeep connects to, run by a superuser. A role made this way logs in by `peer`,
/// `cert` or whatever pg_hba.conf says; no password is set.
pub fn grants_sql(role: &str, major: PgMajor) -> Vec<String> {
    std::iter::once(format!("CREATE ROLE {} LOGIN;", quote_identifier(role)))
        .chain(required(major).iter().map(|grant| grant.sql(role, major)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_follow_the_major_and_quote_the_role() {
        let statements = |major| grants_sql("it\"s", PgMajor::new(major).unwrap()).join("\n");
        assert!(statements(14).starts_with("CREATE ROLE \"it\"\"s\" LOGIN;\n"));
        assert!(statements(14).contains("FUNCTION pg_catalog.pg_start_backup(text, boolean, boolean) TO \"it\"\"s\";"));
        assert!(statements(15).contains("pg_backup_stop(boolean)"));
        assert!(!statements(15).contains("WITH INHERIT"));
        assert!(statements(18).contains("GRANT pg_read_all_settings TO \"it\"\"s\" WITH INHERIT TRUE;"));
    }
}
