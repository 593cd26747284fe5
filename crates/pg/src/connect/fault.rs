//! PostgreSQL's and the network's errors as ours.
//!
//! Invariant: the server's own words survive: its message is our message, its DETAIL and HINT are our detail.

use pgkeep_base::{Error, ErrorKind};
use tokio_postgres::error::{DbError, SqlState};

/// An error that the server sent.
pub(super) fn from_server(error: &DbError) -> Error {
    let mut detail: Vec<String> = Vec::new();
    detail.extend(error.detail().map(str::to_owned));
    detail.extend(error.hint().map(|hint| format!("PostgreSQL's hint: {hint}")));
    detail.extend(error.where_().map(str::to_owned));
    detail.push(format!("SQLSTATE {}", error.code().code()));
    Error::new(kind_of(error.code().code()), error.message()).detail(detail.join("; "))
}

/// An error that ended a session, on one line.
pub(super) fn words_of(error: &DbError) -> String {
    format!("{}: {}", error.severity(), error.message())
}

/// What a caller can do about an SQLSTATE (PostgreSQL's documentation, appendix "Error Codes").
fn kind_of(sqlstate: &str) -> ErrorKind {
    let class = sqlstate.get(..2).unwrap_or("");
    match (sqlstate, class) {
        ("42501", _) | (_, "28") => ErrorKind::Denied,
        // A database that doesn't exist is a wrong connection string.
        ("3D000", _) => ErrorKind::Invalid,
        ("57014", _) => ErrorKind::Unavailable,
        ("58P01" | "58P02" | "58030", _) => ErrorKind::Io,
        ("XX001" | "XX002", _) => ErrorKind::Corrupt,
        ("25006" | "55000" | "55006", _) => ErrorKind::Refused,
        ("55P03", _) => ErrorKind::Conflict,
        (_, "0A") => ErrorKind::Unsupported,
        (_, "08" | "53" | "57" | "40") => ErrorKind::Unavailable,
        (_, "22" | "23" | "42" | "3F") => ErrorKind::Invalid,
        _ => ErrorKind::Internal,
    }
}

/// True for failures of TLS itself, and for rules of the server that may be about it (no line in pg_hba.conf fits).
pub(super) fn is_about_encryption(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        None => error.to_string() == TLS_FAILED,
    }
}

/// How tokio-postgres, which keeps its kinds to itself, begins the errors of a handshake.
const TLS_FAILED: &str = "error performing TLS handshake";

/// Why one address didn't let us in. The caller adds where that was.
pub(super) fn while_connecting(error: tokio_postgres::Error) -> Error {
    if let Some(error) = error.as_db_error() {
        return from_server(error);
    }
    let what = error.to_string();
    let message = match what.as_str() {
        "invalid configuration" => {
            return with_cause(Error::denied("the server asks for a password"), error)
                .hint("Put the password into ~/.pgpass (mode 0600) or PGPASSWORD, then run `pgkeep config check`.");
        }
        "authentication error" => {
            return with_cause(Error::denied("the server did not accept the authentication"), error);
        }
        TLS_FAILED => return with_cause(Error::denied("no trusted TLS connection"), error),
        "error connecting to server" => "no server answers",
        "connection closed" => "the server closed the connection during the start-up",
        other => other,
    };
    with_cause(Error::unavailable(message), error)
}

/// Why a statement did not finish, for errors that are neither the server's nor a lost connection.
pub(super) fn in_use(error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(error) => from_server(error),
        None if std::error::Error::source(&error).is_some_and(|cause| cause.is::<std::io::Error>()) => {
            with_cause(Error::unavailable("the connection to PostgreSQL failed"), error)
        }
        None => Error::internal("PostgreSQL's answer was not understood").source(error),
    }
}

fn with_cause(outer: Error, error: tokio_postgres::Error) -> Error {
    match error.into_source() {
        Some(cause) => outer.source(cause),
        None => outer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_say_what_the_caller_can_do() {
        for (sqlstate, kind) in [
            ("42501", ErrorKind::Denied),
            ("28P01", ErrorKind::Denied),
            ("57P01", ErrorKind::Unavailable),
            ("57P03", ErrorKind::Unavailable),
            ("53300", ErrorKind::Unavailable),
            ("3D000", ErrorKind::Invalid),
            ("42601", ErrorKind::Invalid),
            ("XX001", ErrorKind::Corrupt),
            ("0A000", ErrorKind::Unsupported),
            ("XX000", ErrorKind::Internal),
            ("", ErrorKind::Internal),
        ] {
            assert_eq!(kind_of(sqlstate), kind, "{sqlstate}");
        }
    }
}
