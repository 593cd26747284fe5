//! Goes through the addresses of a connection until one lets us in, then makes the session safe.
//!
//! Invariant: like libpq, an address that answers and refuses us ends the search; only silence moves on.

use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pgkeep_base::{Error, ErrorKind, PgMajor, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use super::params::{Address, Params, SessionAttributes, Target};
use super::{Connection, Driver, LastWords, column, fault, tls};

/// What every session begins with. Role and database may have set any of these (`ALTER ROLE … SET`); what comes with
/// the start-up outranks that from the first moment, which a later `SET` would not. The server's keepalive is as ours:
/// a session that was lost on the way must not hold backup mode and its lock for hours.
const SETTINGS: &str = "-c search_path=pg_catalog,pg_temp -c standard_conforming_strings=on -c statement_timeout=0 \
     -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 \
     -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 -c tcp_user_timeout=60000";
/// Lets the server notice within seconds that we died in the middle of a long statement.
const WATCH_CLIENT: &str = "SET client_connection_check_interval = '5s'";

/// How often, and after which pauses, a session that can't be written to any more is listened to.
const LISTEN_ATTEMPTS: u32 = 10;
const LISTEN_EVERY: Duration = Duration::from_millis(5);

/// A connection to the first address that takes us.
pub(super) async fn any(params: Params) -> Result<Connection> {
    let params = Arc::new(params);
    // `prefer-standby` is two rounds: a standby, else whatever answers.
    let rounds = match params.session {
        SessionAttributes::PreferStandby => vec![SessionAttributes::Standby, SessionAttributes::Any],
        attributes => vec![attributes],
    };
    let mut failures = Vec::new();
    for attributes in rounds {
        for (number, target) in params.targets.iter().enumerate() {
            let place = place(target, &params);
            match one(target, &params, attributes, &place).await {
                Ok(mut connection) => {
                    connection.origin = Some((Arc::clone(&params), number));
                    return Ok(connection);
                }
                Err(error) => {
                    let final_word = error.kind() != ErrorKind::Unavailable && error.kind() != ErrorKind::Refused;
                    failures.push(error.during(format!("connect to {place}")));
                    if final_word {
                        return Err(summary(failures));
                    }
                }
            }
        }
    }
    Err(summary(failures))
}

/// One error as it is; several as one of the last's kind.
fn summary(mut failures: Vec<Error>) -> Error {
    let last = failures.pop().expect("a connection has at least one address");
    if failures.is_empty() {
        return last;
    }
    failures.push(last);
    let last = &failures[failures.len() - 1];
    let texts: Vec<String> = failures
        .iter()
        .map(|error| format!("{}: {}", error.message(), error.detail_text().unwrap_or_default()))
        .collect();
    let hint = last.hint_text().map(str::to_owned);
    let error = Error::new(last.kind(), "connect to PostgreSQL").detail(texts.join("; "));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn place(target: &Target, params: &Params) -> String {
    let Params { user, database, .. } = params;
    let address = match &target.address {
        Address::Unix(dir) => format!("socket {}/.s.PGSQL.{}", dir.display(), target.port),
        Address::Tcp { host, address: None } => format!("host {host}, port {}", target.port),
        Address::Tcp {
            host,
            address: Some(address),
        } => format!("host {host} ({address}), port {}", target.port),
    };
    format!("{address}, user {user}, database {database}")
}

async fn one(target: &Target, params: &Params, attributes: SessionAttributes, place: &str) -> Result<Connection> {
    let work = async {
        let session = attempt(target, params).await?.map_err(fault::while_connecting)?;
        settle(session, target, params, place).await
    };
    let (connection, read_only) = tokio::time::timeout(params.timeout, work)
        .await
        .map_err(|_| Error::unavailable(format!("no answer within {} s", params.timeout.as_secs())))??;
    let fits = match attributes {
        SessionAttributes::Any | SessionAttributes::PreferStandby => true,
        SessionAttributes::ReadWrite => !read_only,
        SessionAttributes::ReadOnly => read_only,
        SessionAttributes::Primary => !connection.in_recovery,
        SessionAttributes::Standby => connection.in_recovery,
    };
    match fits {
        true => Ok(connection),
        false => Err(Error::unavailable(
            "the server is not what `target_session_attrs` asks for",
        )),
    }
}

/// A session about which nothing is known yet. Ends when it is dropped.
pub(super) struct Session {
    pub client: Client,
    driver: Driver,
    lost: LastWords,
}

/// Connects, with TLS where that is asked for.
///
/// `prefer` falls back to plain text when TLS fails or the server's rules forbid it, as in libpq; not after a wrong
/// password, which would then travel in the clear.
pub(super) async fn attempt(target: &Target, params: &Params) -> Result<Reached> {
    let mode = match &target.address {
        Address::Unix(_) => tls::Mode::Disable,
        Address::Tcp { .. } => params.tls.effective(),
    };
    Ok(match mode {
        tls::Mode::Disable => plain(target, params).await,
        tls::Mode::Prefer => match encrypted(target, params, SslMode::Prefer).await? {
            Err(error) if fault::is_about_encryption(&error) => plain(target, params).await,
            reached => reached,
        },
        tls::Mode::Require | tls::Mode::VerifyCa | tls::Mode::VerifyFull => {
            encrypted(target, params, SslMode::Require).await?
        }
    })
}

/// What the driver says about an attempt.
pub(super) type Reached = std::result::Result<Session, tokio_postgres::Error>;

async fn plain(target: &Target, params: &Params) -> Reached {
    let (client, connection) = config(target, params, SslMode::Disable).connect(NoTls).await?;
    Ok(drive(client, connection))
}

async fn encrypted(target: &Target, params: &Params, mode: SslMode) -> Result<Reached> {
    let connector = params.tls.connector()?;
    let connected = config(target, params, mode).connect(connector).await;
    Ok(connected.map(|(client, connection)| drive(client, connection)))
}

fn config(target: &Target, params: &Params, mode: SslMode) -> Config {
    let mut config = Config::new();
    match &target.address {
        Address::Unix(dir) => _ = config.host_path(dir),
        Address::Tcp { host, address } => {
            config.host(host);
            address.map(|address| config.hostaddr(address));
        }
    }
    if let Some(password) = &target.password {
        config.password(password);
    }
    // The last word counts, and it is ours.
    config.options(match &params.options {
        Some(options) => format!("{options} {SETTINGS}"),
        None => SETTINGS.to_owned(),
    });
    if mode == SslMode::Require {
        config.ssl_negotiation(params.negotiation);
    }
    config
        .tcp_user_timeout(params.keepalives.user_timeout)
        .port(target.port)
        .user(&params.user)
        .dbname(&params.database)
        .application_name(&params.application_name)
        .ssl_mode(mode)
        .channel_binding(params.channel_binding)
        .keepalives(params.keepalives.on)
        .keepalives_idle(params.keepalives.idle)
        .keepalives_interval(params.keepalives.interval)
        .keepalives_retries(params.keepalives.retries);
    config
}

/// Lets the session run by itself; its last words are there before any caller learns that it is gone.
fn drive<S, T>(client: Client, mut connection: tokio_postgres::Connection<S, T>) -> Session
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let lost = LastWords::default();
    let words = lost.clone();
    let driver = tokio::spawn(async move {
        let last = last_words(&mut connection).await;
        words.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(last);
        drop(connection);
    });
    Session {
        client,
        driver: Driver(driver),
        lost,
    }
}

/// Moves the session's bytes until it ends, and tells why it did.
async fn last_words<S, T>(connection: &mut tokio_postgres::Connection<S, T>) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut warning = None;
    let mut failure = None;
    let mut attempts = LISTEN_ATTEMPTS;
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::debug!(message = notice.message(), "PostgreSQL says");
                // Before an immediate shutdown or after a crash the server's last word is a warning.
                if notice.code().code().starts_with("57") {
                    warning = Some(notice.message().to_owned());
                }
            }
            Some(Ok(_)) => {}
            // Writing failed, but the server's farewell may still lie unread in the socket: whoever waits for an
            // answer gets it, else it is the next error.
            Some(Err(error)) if is_io(&error) && attempts > 0 => {
                attempts -= 1;
                failure.get_or_insert_with(|| words_of(&error));
                tokio::time::sleep(LISTEN_EVERY).await;
            }
            Some(Err(error)) if error.as_db_error().is_some() => return words_of(&error),
            Some(Err(error)) => return warning.or(failure).unwrap_or_else(|| words_of(&error)),
            None => return "the session was closed".to_owned(),
        }
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>())
}

fn words_of(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return fault::words_of(error);
    }
    match std::error::Error::source(error) {
        Some(cause) => cause.to_string(),
        None => "the server closed the connection without a word".to_owned(),
    }
}

/// Sets what every session has, and learns who answered; also whether transactions are read-only.
async fn settle(session: Session, target: &Target, params: &Params, place: &str) -> Result<(Connection, bool)> {
    let Session { client, driver, lost } = session;
    let mut connection = Connection {
        client,
        driver,
        lost,
        origin: None,
        place: place.to_owned(),
        user: params.user.clone(),
        database: params.database.clone(),
        local: target.address.is_local(),
        version_num: 0,
        backend_pid: 0,
        in_recovery: false,
    };
    let row = connection
        .query_one(
            "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4, \
             pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(), \
             pg_catalog.current_setting('transaction_read_only') = 'on'",
            &[],
        )
        .await?;
    let version: i32 = column(&row, 0)?;
    connection.version_num = version.unsigned_abs();
    connection.backend_pid = column(&row, 1)?;
    connection.in_recovery = column(&row, 2)?;
    if PgMajor::from_version_num(connection.version_num)?.get() >= 17 {
        connection.batch("SET transaction_timeout = 0").await?;
    }
    // Not every operating system lets the server watch its clients.
    if let Err(error) = connection.batch(WATCH_CLIENT).await {
        if error.kind() == ErrorKind::Unavailable {
            return Err(error);
        }
        tracing::debug!(error = %error, "the server can't watch its clients");
    }
    Ok((connection, column(&row, 3)?))
}
