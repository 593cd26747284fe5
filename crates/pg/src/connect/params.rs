//! What a connection string, the environment, a service file and libpq's defaults add up to.
//!
//! Invariant: precedence is libpq's: string, service file, environment, default. An option that pgkeep can't honour
//! and that protects someone (`requirepeer`, `sslcrl` …) is refused, never dropped.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgkeep_base::{Error, Result};
use tokio_postgres::config::{ChannelBinding, SslNegotiation};

use super::{Environment, conninfo, passfile, service, tls};
use crate::server::Account;

/// Directories in which PostgreSQL's socket is sought when no host is named: Debian's default, then PostgreSQL's own.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// How long one address may take to let us in, unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged: as long as it takes keepalive to notice a dead peer.
const USER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// What `connect_timeout=0` (libpq: wait for ever) means here.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Everything needed to connect, one [`Target`] for each host in the order in which they are tried.
pub(super) struct Params {
    pub targets: Vec<Target>,
    pub user: String,
    pub database: String,
    pub options: Option<String>,
    pub application_name: String,
    pub timeout: Duration,
    pub keepalives: Keepalives,
    pub channel_binding: ChannelBinding,
    pub negotiation: SslNegotiation,
    pub session: SessionAttributes,
    pub tls: tls::Request,
}

/// One place where the server may be.
pub(super) struct Target {
    pub address: Address,
    pub port: u16,
    pub password: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// The directory of a Unix socket.
    Unix(PathBuf),
    /// A name (for TLS), and the address to use instead of looking the name up.
    Tcp { host: String, address: Option<IpAddr> },
}

impl Address {
    /// True for a socket of this machine and for loopback.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Unix(_) => true,
            Address::Tcp {
                address: Some(address), ..
            } => address.is_loopback(),
            Address::Tcp { host, address: None } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

/// How soon a dead peer is noticed.
pub(super) struct Keepalives {
    pub on: bool,
    pub idle: Duration,
    pub interval: Duration,
    pub retries: u32,
    /// How long bytes that were sent may stay unacknowledged.
    pub user_timeout: Duration,
}

/// `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionAttributes {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// libpq's keywords and the environment variables that stand in for them.
const KEYWORDS: &[(&str, &str)] = &[
    ("service", "PGSERVICE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("dbname", "PGDATABASE"),
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("options", "PGOPTIONS"),
    ("application_name", "PGAPPNAME"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("requirepeer", "PGREQUIREPEER"),
    ("require_auth", "PGREQUIREAUTH"),
    ("gssencmode", "PGGSSENCMODE"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("fallback_application_name", ""),
    ("keepalives", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("keepalives_count", ""),
    ("tcp_user_timeout", ""),
    ("sslpassword", ""),
    ("replication", ""),
    // Understood and without effect here: they only tune, or pgkeep decides.
    ("client_encoding", "PGCLIENTENCODING"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("sslcompression", "PGSSLCOMPRESSION"),
    ("sslsni", "PGSSLSNI"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("min_protocol_version", "PGMINPROTOCOLVERSION"),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("gsslib", "PGGSSLIB"),
    ("gssdelegation", "PGGSSDELEGATION"),
    ("sslkeylogfile", ""),
    ("servicefile", "PGSERVICEFILE"),
];

/// Options that would protect someone and that pgkeep can't honour, with the values that ask for nothing.
const REFUSED: &[(&str, &[&str])] = &[
    ("requirepeer", &[]),
    ("require_auth", &[]),
    ("sslcrl", &[]),
    ("sslcrldir", &[]),
    ("sslpassword", &[]),
    ("replication", &["false", "off", "no", "0"]),
    ("gssencmode", &["disable", "prefer"]),
    ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
];

/// Values by keyword; empty ones are left out, as they ask for the default.
struct Given(BTreeMap<String, String>);

impl Given {
    fn gather(text: &str, environment: Environment<'_>, home: Option<&Path>) -> Result<Given> {
        let mut given: BTreeMap<String, String> = BTreeMap::new();
        let written = conninfo::parse(text)?;
        given.extend(written);
        let service = given.get("service").cloned().or_else(|| environment("PGSERVICE"));
        if let Some(name) = service.filter(|name| !name.is_empty()) {
            for (key, value) in service::lookup(&name, environment, home)? {
                given.entry(key).or_insert(value);
            }
        }
        if let Some(unknown) = given.keys().find(|key| !KEYWORDS.iter().any(|(known, _)| known == key)) {
            return Err(Error::invalid(format!("invalid connection option \"{unknown}\""))
                .hint("Correct `connection`, then run `pgkeep config check`."));
        }
        for (key, variable) in KEYWORDS.iter().filter(|(_, variable)| !variable.is_empty()) {
            if let (false, Some(value)) = (given.contains_key(*key), environment(variable)) {
                given.insert((*key).to_owned(), value);
            }
        }
        given.retain(|_, value| !value.is_empty());
        Ok(Given(given))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>> {
        self.get(key)
            .map(|text| text.trim().parse().map_err(|_| invalid(key, text)))
            .transpose()
    }

    fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => Err(invalid(key, text)),
        }
    }

    /// The comma-separated items of a key; empty items stand for the default.
    fn list(&self, key: &str) -> Vec<&str> {
        self.get(key).map(|text| text.split(',').collect()).unwrap_or_default()
    }
}

fn invalid(key: &str, value: &str) -> Error {
    Error::invalid(format!("invalid value for connection option \"{key}\": \"{value}\""))
        .hint("Correct `connection`, then run `pgkeep config check`.")
}

impl Params {
    /// Adds everything up. Reads the environment through `environment` only, and libpq's files.
    pub fn resolve(text: &str, environment: Environment<'_>) -> Result<Params> {
        let account = Account::current();
        let home = environment("HOME")
            .filter(|home| !home.is_empty())
            .map(PathBuf::from)
            .or_else(|| account.home().map(Path::to_owned));
        let given = Given::gather(text, environment, home.as_deref())?;
        refuse_unsupported(&given)?;
        let user = match given.get("user").or(account.name()) {
            Some(user) => user.to_owned(),
            None => {
                return Err(Error::invalid("no user name is known for the connection")
                    .detail("the connection names none, and neither does the operating system")
                    .hint("Add `user=` to `connection`, then run `pgkeep config check`."));
            }
        };
        let database = given.get("dbname").unwrap_or(&user).to_owned();
        Ok(Params {
            targets: targets(&given, home.as_deref(), &user, &database)?,
            options: given.get("options").map(str::to_owned),
            application_name: ["application_name", "fallback_application_name"]
                .iter()
                .find_map(|key| given.get(key))
                .unwrap_or("pgkeep")
                .to_owned(),
            timeout: timeout(&given)?,
            keepalives: keepalives(&given)?,
            channel_binding: channel_binding(&given)?,
            negotiation: negotiation(&given)?,
            session: session_attributes(&given)?,
            tls: tls_request(&given, home.as_deref())?,
            user,
            database,
        })
    }
}

fn refuse_unsupported(given: &Given) -> Result<()> {
    for (key, harmless) in REFUSED {
        if let Some(value) = given.get(key).filter(|value| !harmless.contains(value)) {
            return Err(
                Error::unsupported(format!("pgkeep can't honour the connection option \"{key}={value}\""))
                    .hint("Leave it out of `connection` and the environment, then run `pgkeep config check`."),
            );
        }
    }
    Ok(())
}

fn targets(given: &Given, home: Option<&Path>, user: &str, database: &str) -> Result<Vec<Target>> {
    let (hosts, addresses, ports) = (given.list("host"), given.list("hostaddr"), given.list("port"));
    let count = hosts.len().max(addresses.len()).max(1);
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(Error::invalid(format!(
            "the connection names {} hosts and {} hostaddrs",
            hosts.len(),
            addresses.len()
        )));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(Error::invalid(format!(
            "the connection names {count} hosts and {} ports",
            ports.len()
        )));
    }
    let passfile = given
        .get("passfile")
        .map(PathBuf::from)
        .or_else(|| Some(home?.join(".pgpass")));
    let mut targets = Vec::new();
    for i in 0..count {
        let item = |list: &[&str]| list.get(i).map(|text| text.trim().to_owned()).filter(|t| !t.is_empty());
        let port = match ports.get(i).or(ports.first()).map(|text| text.trim()) {
            None | Some("") => 5432,
            Some(text) => text
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| invalid("port", text))?,
        };
        for address in addresses_of(item(&hosts), item(&addresses))? {
            let password = given.get("password").map(str::to_owned).or_else(|| {
                passfile::find(
                    passfile.as_deref()?,
                    &passfile::Wanted {
                        host: &passfile_host(&address),
                        port,
                        database,
                        user,
                    },
                )
            });
            targets.push(Target {
                address,
                port,
                password,
            });
        }
    }
    Ok(targets)
}

fn addresses_of(host: Option<String>, address: Option<String>) -> Result<Vec<Address>> {
    if let Some(text) = address {
        let ip: IpAddr = text.parse().map_err(|_| invalid("hostaddr", &text))?;
        return Ok(vec![Address::Tcp {
            host: host.unwrap_or(text),
            address: Some(ip),
        }]);
    }
    Ok(match host {
        None => SOCKET_DIRECTORIES.iter().map(|dir| Address::Unix(dir.into())).collect(),
        Some(dir) if dir.starts_with('/') => vec![Address::Unix(dir.into())],
        // Linux's abstract sockets: tokio-postgres has no way to name them.
        Some(dir) if dir.starts_with('@') => return Err(invalid("host", &dir)),
        Some(host) => vec![Address::Tcp { host, address: None }],
    })
}

/// The host as the password file names it.
fn passfile_host(address: &Address) -> String {
    match address {
        Address::Unix(dir) if SOCKET_DIRECTORIES.iter().any(|known| Path::new(known) == dir) => "localhost".into(),
        Address::Unix(dir) => dir.display().to_string(),
        Address::Tcp { host, .. } => host.clone(),
    }
}

fn timeout(given: &Given) -> Result<Duration> {
    Ok(match given.number::<i64>("connect_timeout")? {
        None => CONNECT_TIMEOUT_DEFAULT,
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()).min(CONNECT_TIMEOUT_MAX),
        Some(_) => CONNECT_TIMEOUT_MAX,
    })
}

/// Unlike libpq, dead peers are noticed within a minute or so: a backup must not hang on a lost server for hours.
fn keepalives(given: &Given) -> Result<Keepalives> {
    let seconds = |key: &str, default: u64| -> Result<Duration> {
        let seconds = given.number::<u64>(key)?.filter(|seconds| *seconds > 0);
        Ok(Duration::from_secs(seconds.unwrap_or(default)))
    };
    Ok(Keepalives {
        on: given.number::<i32>("keepalives")? != Some(0),
        idle: seconds("keepalives_idle", 30)?,
        interval: seconds("keepalives_interval", 10)?,
        retries: given.number::<u32>("keepalives_count")?.filter(|n| *n > 0).unwrap_or(3),
        user_timeout: given
            .number::<u64>("tcp_user_timeout")?
            .filter(|ms| *ms > 0)
            .map_or(USER_TIMEOUT_DEFAULT, Duration::from_millis),
    })
}

fn channel_binding(given: &Given) -> Result<ChannelBinding> {
    let choice = given.choice(
        "channel_binding",
        &[
            ("disable", ChannelBinding::Disable),
            ("prefer", ChannelBinding::Prefer),
            ("require", ChannelBinding::Require),
        ],
    )?;
    Ok(choice.unwrap_or(ChannelBinding::Prefer))
}

fn negotiation(given: &Given) -> Result<SslNegotiation> {
    let choice = given.choice(
        "sslnegotiation",
        &[
            ("postgres", SslNegotiation::Postgres),
            ("direct", SslNegotiation::Direct),
        ],
    )?;
    Ok(choice.unwrap_or(SslNegotiation::Postgres))
}

fn session_attributes(given: &Given) -> Result<SessionAttributes> {
    let choice = given.choice(
        "target_session_attrs",
        &[
            ("any", SessionAttributes::Any),
            ("read-write", SessionAttributes::ReadWrite),
            ("read-only", SessionAttributes::ReadOnly),
            ("primary", SessionAttributes::Primary),
            ("standby", SessionAttributes::Standby),
            ("prefer-standby", SessionAttributes::PreferStandby),
        ],
    )?;
    Ok(choice.unwrap_or(SessionAttributes::Any))
}

fn tls_request(given: &Given, home: Option<&Path>) -> Result<tls::Request> {
    let mode = given.choice(
        "sslmode",
        &[
            ("disable", tls::Mode::Disable),
            ("allow", tls::Mode::Prefer),
            ("prefer", tls::Mode::Prefer),
            ("require", tls::Mode::Require),
            ("verify-ca", tls::Mode::VerifyCa),
            ("verify-full", tls::Mode::VerifyFull),
        ],
    )?;
    let in_home = |name: &str| {
        home.map(|home| home.join(".postgresql").join(name))
            .filter(|file| file.exists())
    };
    let file = |key: &str, name: &str| given.get(key).map(PathBuf::from).or_else(|| in_home(name));
    Ok(tls::Request {
        mode: mode.unwrap_or(tls::Mode::Prefer),
        root: file("sslrootcert", "root.crt"),
        certificate: file("sslcert", "postgresql.crt"),
        key: file("sslkey", "postgresql.key"),
    })
}

#[cfg(test)]
#[path = "params_tests.rs"]
mod tests;
