//! Opens a session with a PostgreSQL server the way libpq would, and keeps it honest.
//!
//! Invariant: every statement runs with `search_path = pg_catalog, pg_temp` and without time limits of the role; when
//! the connection is lost, the pending and all later calls say so in the server's words. One session is one backend:
//! behind a pooler that swaps backends, [`Connection::ping`] fails. No statement waits for ever for an answer that is
//! lost: `connect/silence.rs`. Where the string's words mean something: `connect/params.rs`.

mod conninfo;
mod fault;
mod open;
mod parameter;
mod params;
mod passfile;
mod service;
mod silence;
mod tls;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgkeep_base::{Error, PgMajor, Result};
use tokio::task::JoinHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, Row, SimpleQueryMessage};

pub use parameter::Parameter;
use params::Params;

/// Looks an environment variable up. The caller decides what pgkeep may see.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How long a [`Connection::ping`] may take.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a polite goodbye may take before the socket is closed anyway.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A session of one backend. Dropping it closes the socket at once; [`Connection::close`] says goodbye first.
pub struct Connection {
    client: Client,
    driver: Driver,
    /// Why the session is gone, once it is.
    lost: LastWords,
    /// Where a second session is to be had; none until the first one is settled, which has a time limit of its own.
    origin: Option<(Arc<Params>, usize)>,
    place: String,
    user: String,
    database: String,
    local: bool,
    version_num: u32,
    backend_pid: i32,
    in_recovery: bool,
}

/// What was last heard of a session: by a statement that a FATAL error ended, else by the driver.
type LastWords = Arc<Mutex<Option<String>>>;

/// The task that moves the session's bytes; ends with it.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Opens a session by libpq's rules: connection string or URI, `PG*` variables, service file, password file.
    ///
    /// Each address may take 10 seconds, unless `connect_timeout` says otherwise. `application_name` is `pgkeep` by
    /// default. `environment` is asked before the future is polled.
    ///
    /// # Errors
    /// `Invalid` for a string that can't be read, `Unavailable` when no address answers or the server is starting up,
    /// `Denied` when it doesn't let us in, `Unsupported` for servers outside 14 to 18 and for options that pgkeep
    /// can't honour.
    pub fn open(
        conninfo: &str,
        environment: Environment<'_>,
    ) -> impl Future<Output = Result<Connection>> + Send + use<> {
        let params = Params::resolve(conninfo, environment);
        async move { open::any(params?).await }
    }

    /// The rows of one statement, in one round trip.
    pub async fn query(&self, sql: &str, params: &[&dyn Parameter]) -> Result<Vec<Row>> {
        let client = self.client().await;
        let params = params.iter().map(|param| param.typed());
        self.answered(client.query_typed(sql, &params.collect::<Vec<_>>()))
            .await
    }

    /// The one row of a statement that always has one.
    ///
    /// # Errors
    /// Also `Internal` when there are none or several.
    pub async fn query_one(&self, sql: &str, params: &[&dyn Parameter]) -> Result<Row> {
        let mut rows = self.query(sql, params).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(Error::internal("PostgreSQL returned another number of rows than one").detail(sql)),
        }
    }

    /// Runs statements, separated by semicolons, and drops their rows.
    pub async fn batch(&self, sql: &str) -> Result<()> {
        let client = self.client().await;
        self.answered(client.batch_execute(sql)).await
    }

    /// The rows of statements, every value as PostgreSQL prints it; `None` for null.
    pub async fn text_rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let client = self.client().await;
        let messages = self.answered(client.simple_query(sql)).await?;
        let mut rows = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
            }
        }
        Ok(rows)
    }

    /// Asks the backend for its number, within [`PING_TIMEOUT`].
    ///
    /// Statements of a session queue up: a ping behind a long one fails for no reason.
    ///
    /// # Errors
    /// `Unavailable` when it is gone or silent; `Unsupported` when another backend answers (a transaction pooler).
    pub async fn ping(&self) -> Result<()> {
        let asked = self.query_one("SELECT pg_catalog.pg_backend_pid()", &[]);
        let row = tokio::time::timeout(PING_TIMEOUT, asked).await.unwrap_or_else(|_| {
            Err(
                Error::unavailable(format!("PostgreSQL did not answer within {} s", PING_TIMEOUT.as_secs()))
                    .detail(self.place.clone()),
            )
        })?;
        if column::<i32>(&row, 0)? == self.backend_pid {
            return Ok(());
        }
        Err(Error::unsupported("another backend answered on this connection")
            .detail("a connection pooler stands between pgkeep and the server")
            .hint("Point `connection` at the server itself, then run `pgkeep config check`."))
    }

    /// Says goodbye and waits until the server has closed the session, 5 seconds at most.
    pub async fn close(self) {
        let Connection { client, mut driver, .. } = self;
        drop(client);
        // Late or not, dropping the driver closes the socket.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, &mut driver.0).await;
    }

    /// `server_version_num`, such as 170011.
    pub fn version_num(&self) -> u32 {
        self.version_num
    }

    /// The server's major version.
    pub fn major(&self) -> PgMajor {
        PgMajor::from_version_num(self.version_num).expect("checked when the connection was opened")
    }

    /// The process that serves this session.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Whether the server was in recovery (a standby, or still replaying) when the session began.
    pub fn was_in_recovery(&self) -> bool {
        self.in_recovery
    }

    /// True for a Unix socket and loopback: the server's files may be reachable from here.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// The role that the session logged in as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database that the session is in.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Where the session goes, for people: `socket /tmp/.s.PGSQL.5432, user pgkeep, database postgres`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The client, once the driver has read what has arrived. tokio-postgres reads and writes in one go and drops what
    /// it read when writing fails: the warning before an immediate shutdown would be lost to the next statement.
    async fn client(&self) -> &Client {
        // Once until the runtime has noticed the bytes, once until the driver has read them.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        &self.client
    }

    fn fault(&self, error: tokio_postgres::Error) -> Error {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = error.as_db_error() {
            if matches!(server.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) {
                *lost = Some(fault::words_of(server));
            }
            return fault::from_server(server);
        }
        match lost.as_deref() {
            Some(words) => {
                Error::unavailable("the connection to PostgreSQL was lost").detail(format!("{words} ({})", self.place))
            }
            None => fault::in_use(error),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("place", &self.place)
            .field("version_num", &self.version_num)
            .field("backend_pid", &self.backend_pid)
            .finish_non_exhaustive()
    }
}

/// A name as SQL writes it.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A column of a row that our own statement asked for.
pub fn column<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T> {
    row.try_get(index)
        .map_err(|error| Error::internal("PostgreSQL's answer has another shape than expected").source(error))
}
