//! Every key of the configuration, once: what it takes, its default, its range, and what it is for.
//!
//! Invariant: file, environment, `config show` and docs/reference/configuration.md know exactly these keys; a test
//! holds the table against the structures that are read from it. `NAME` stands for a name that the operator gives.

use std::time::Duration;

use pgkeep_base::{ByteSize, Error, Result};

use super::values;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its place: levels joined by dots, `NAME` where the operator names.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its default as shown; what is not a literal value is in angle brackets.
    pub default: &'static str,
    /// What it is for.
    pub about: &'static str,
}

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A file or directory; relative to the configuration file.
    Path,
    /// A libpq connection string, whose passwords are never shown.
    Connection,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A number in this range.
    Number(i64, i64),
    /// A length of time in this range.
    Duration(Duration, Duration),
    /// A size in bytes.
    Size,
    /// A list of texts.
    List,
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

macro_rules! keys {
    ($($path:literal, $kind:expr, $default:literal, $about:literal;)*) => {
        &[ $( Key { path: $path, kind: $kind, default: $default, about: $about } ),* ]
    };
}

/// The keys, in the order in which they are shown.
pub const KEYS: &[Key] = keys![
    "state_dir", Kind::Path, "/var/lib/pgkeep",
        "Local state and spool of this host. Losing it costs a backup that stores everything anew, never data and never archiving.";
    "repository_file", Kind::Path, "<repository.toml beside this file>",
        "The repository file, made by `pgkeep repository create` and the same on all hosts: id, naming key, recipients, signers.";
    "signing_key_file", Kind::Path, "<signing.key beside this file>",
        "This host's own signing key, made on first use.";
    "postgres_bin", Kind::Path, "<where the server's programs are found>",
        "Directory of PostgreSQL's programs, for all clusters that don't set their own.";

    "encryption.mode", Kind::Choice(&["age", "none"]), "age",
        "`age` seals everything to the recipients; `none` stores in the clear.";
    "encryption.recipients", Kind::List, "<none>",
        "Public keys (`age1…`) that everything is sealed to; one list for all repositories. Have two, one of them offline.";
    "encryption.signers", Kind::List, "<none>",
        "Fingerprints (`s-…`) of signers that are trusted beside those of the repository file.";

    "repository.NAME.url", Kind::Text, "<required>",
        "Where the repository is: `file:///directory` or `s3://bucket/prefix`.";
    "repository.NAME.required", Kind::Flag, "<true for the first repository, false for the others>",
        "Success is reported only once this repository has the bytes. At least one must be required.";
    "repository.NAME.capacity", Kind::Size, "<what the store tells>",
        "Space to count on, for stores that can't tell how much is free.";
    "repository.NAME.endpoint", Kind::Text, "<AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile's, else Amazon's>",
        "S3: base URL of the server, such as `https://minio.example.com:9000`.";
    "repository.NAME.region", Kind::Text, "<AWS_REGION, AWS_DEFAULT_REGION, the profile's, else us-east-1>",
        "S3: region that requests are signed for.";
    "repository.NAME.path_style", Kind::Flag, "<true with an endpoint>",
        "S3: puts the bucket into the path (`true`) or into the host name (`false`).";
    "repository.NAME.allow_http", Kind::Flag, "false",
        "S3: allows an endpoint without TLS.";
    "repository.NAME.ca_certificate_file", Kind::Path, "<the system's authorities>",
        "S3: PEM file with the only certificate authorities to trust for the endpoint.";
    "repository.NAME.profile", Kind::Text, "<AWS_PROFILE, else default>",
        "S3: profile in the shared credentials and configuration files.";
    "repository.NAME.access_key_id_file", Kind::Path, "<AWS_ACCESS_KEY_ID, the profile's>",
        "S3: file that holds the access key id and nothing else; goes with `secret_access_key_file`. Read anew for each request.";
    "repository.NAME.secret_access_key_file", Kind::Path, "<AWS_SECRET_ACCESS_KEY, the profile's>",
        "S3: file that holds the secret access key and nothing else.";
    "repository.NAME.credentials_file", Kind::Path, "<AWS_SHARED_CREDENTIALS_FILE, else ~/.aws/credentials>",
        "S3: shared credentials file.";
    "repository.NAME.storage_class", Kind::Text, "<the bucket's>",
        "S3: storage class of new objects, such as `STANDARD_IA`.";
    "repository.NAME.server_side_encryption", Kind::Choice(&["AES256", "aws:kms"]), "<the bucket's>",
        "S3: encryption at rest by the server, besides pgkeep's own.";
    "repository.NAME.kms_key_id", Kind::Text, "<the account's>",
        "S3: the key for `aws:kms`.";
    "repository.NAME.proxy", Kind::Text, "<HTTPS_PROXY and NO_PROXY, for an endpoint with TLS>",
        "S3: HTTP proxy.";
    "repository.NAME.connect_timeout_s", Kind::Number(1, 600), "10",
        "S3: seconds to establish a connection.";
    "repository.NAME.request_timeout_s", Kind::Number(1, 86_400), "900",
        "S3: seconds that one attempt of a request may take in all.";
    "repository.NAME.progress_timeout_s", Kind::Number(1, 3_600), "30",
        "S3: seconds without a single byte sent or received before an attempt is given up.";
    "repository.NAME.retries", Kind::Number(0, 100), "8",
        "S3: attempts after the first, with pauses that double from 0.1 s to 15 s.";
    "repository.NAME.retry_timeout_s", Kind::Number(0, 86_400), "180",
        "S3: seconds after which no new attempt is begun.";
    "repository.NAME.requests", Kind::Number(1, 256), "<4 for file:, 16 for s3:>",
        "Concurrent requests that suit this store.";

    "cluster.NAME.connection", Kind::Connection, "<libpq's defaults>",
        "libpq connection string. Keep the password in a `passfile`.";
    "cluster.NAME.postgres_bin", Kind::Path, "<postgres_bin>",
        "Directory of PostgreSQL's programs for this cluster.";
    "cluster.NAME.databases", Kind::List, "<all>",
        "Databases to dump.";
    "cluster.NAME.archive_timeout", Kind::Duration(seconds(1), seconds(DAY)), "60 seconds",
        "How long a backup waits for the archiver before it copies, and again after it.";
    "cluster.NAME.objectives.rpo", Kind::Duration(seconds(1), seconds(365 * DAY)), "<none>",
        "How much of the latest work may be lost.";
    "cluster.NAME.objectives.rto", Kind::Duration(seconds(1), seconds(365 * DAY)), "<none>",
        "How long recovery may take.";

    "restore.identity_file", Kind::Path, "<none>",
        "The age identity that decrypts; on recovery hosts only. `--identity` and `PGKEEP_IDENTITY_FILE` override it.";
];

/// Tables that may be there, though this version knows no key in them.
pub const EMPTY_TABLES: &[&str] = &[
    "cluster.NAME.retention",
    "cluster.NAME.schedule",
    "cluster.NAME.drill",
    "cluster.NAME.hooks",
];

impl Key {
    /// Whether a path in a configuration is this key's.
    pub fn matches(&self, path: &[String]) -> bool {
        let mut levels = self.path.split('.');
        path.iter()
            .all(|level| levels.next().is_some_and(|known| known == "NAME" || known == level))
            && levels.next().is_none()
    }

    /// The value as shown, without secrets.
    pub fn shown(&self, value: &toml::Value) -> String {
        match (self.kind, value) {
            (Kind::Connection, toml::Value::String(text)) => {
                toml::Value::String(super::mask::connection(text)).to_string()
            }
            (_, value) => value.to_string(),
        }
    }

    /// Whether the default is a value and not a description.
    pub fn literal_default(&self) -> Option<&'static str> {
        (!self.default.starts_with('<')).then_some(self.default)
    }
}

/// The key of a path, if there is one.
pub fn find(path: &[String]) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.matches(path))
}

impl Kind {
    /// What the reference page calls it.
    pub fn describe(self) -> String {
        match self {
            Kind::Text => "text".into(),
            Kind::Path => "path".into(),
            Kind::Connection => "connection string".into(),
            Kind::Flag => "`true` or `false`".into(),
            Kind::Choice(words) => words
                .iter()
                .map(|word| format!("`{word}`"))
                .collect::<Vec<_>>()
                .join(" or "),
            Kind::Number(low, high) => format!("number, {low} to {high}"),
            Kind::Duration(low, high) => {
                format!(
                    "length of time, {} to {}",
                    values::show_duration(low),
                    values::show_duration(high)
                )
            }
            Kind::Size => "size".into(),
            Kind::List => "list".into(),
        }
    }

    /// Reads the text of an environment variable as this kind of value.
    pub fn read(self, text: &str) -> Result<toml::Value> {
        let value = match self {
            Kind::Flag => toml::Value::Boolean(
                values::flag(text).ok_or_else(|| Error::invalid(format!("\"{text}\" is neither true nor false")))?,
            ),
            Kind::Number(..) => toml::Value::Integer(
                text.trim()
                    .parse()
                    .map_err(|_| Error::invalid(format!("\"{text}\" is not a whole number")))?,
            ),
            Kind::List => toml::Value::Array(values::list(text).into_iter().map(toml::Value::String).collect()),
            _ => toml::Value::String(text.to_owned()),
        };
        self.check(&value)?;
        Ok(value)
    }

    /// Whether a value is of this kind and in its range.
    pub fn check(self, value: &toml::Value) -> Result<()> {
        use toml::Value;
        let text = || value.as_str().ok_or_else(|| self.mismatch(value));
        match (self, value) {
            (Kind::Text | Kind::Path | Kind::Connection, Value::String(_)) | (Kind::Flag, Value::Boolean(_)) => Ok(()),
            (Kind::Choice(words), Value::String(word)) if words.contains(&word.as_str()) => Ok(()),
            (Kind::Number(low, high), Value::Integer(n)) if (low..=high).contains(n) => Ok(()),
            (Kind::Duration(low, high), _) => {
                let length = values::duration(text()?)?;
                if (low..=high).contains(&length) {
                    Ok(())
                } else {
                    Err(self.mismatch(value))
                }
            }
            (Kind::Size, _) => text()?.parse::<ByteSize>().map(drop),
            (Kind::List, Value::Array(items)) if items.iter().all(Value::is_str) => Ok(()),
            _ => Err(self.mismatch(value)),
        }
    }

    fn mismatch(self, value: &toml::Value) -> Error {
        let shown = if self == Kind::Connection {
            value.type_str().to_owned()
        } else {
            value.to_string()
        };
        Error::invalid(format!(
            "expected {}, found {shown}",
            self.describe().replace('`', "\"")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn a_path_finds_its_key() {
        assert_eq!(
            find(&path("cluster.shop.connection")).unwrap().path,
            "cluster.NAME.connection"
        );
        assert_eq!(find(&path("state_dir")).unwrap().path, "state_dir");
        for unknown in ["cluster.shop", "cluster.shop.connection.x", "cluster", "repository.url"] {
            assert!(find(&path(unknown)).is_none(), "{unknown}");
        }
    }

    #[test]
    fn values_out_of_range_or_of_another_kind_are_refused() {
        let kind = |text: &str| find(&path(text)).unwrap().kind;
        assert!(kind("repository.a.retries").read("101").is_err());
        assert!(kind("repository.a.retries").read("8").is_ok());
        assert!(kind("encryption.mode").read("aes").is_err());
        assert!(kind("cluster.a.archive_timeout").read("2 weeks").is_err());
        assert!(kind("cluster.a.objectives.rpo").read("5 minutes").is_ok());
        assert!(kind("repository.a.capacity").read("2 TiB").is_ok());
        assert!(
            kind("repository.a.allow_http")
                .check(&toml::Value::String("yes".into()))
                .is_err()
        );
        assert_eq!(
            kind("repository.a.allow_http").read("yes").unwrap(),
            toml::Value::Boolean(true)
        );
    }

    #[test]
    fn literal_defaults_are_values_of_their_kind() {
        for key in KEYS {
            if let Some(default) = key.literal_default() {
                key.kind
                    .read(default)
                    .unwrap_or_else(|error| panic!("{}: {error}", key.path));
            }
        }
    }
}
