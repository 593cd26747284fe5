//! The keys under which a store is configured, and `open`, which turns them into a store without touching it.
//!
//! Invariant: no secret is in a [`StoreConfig`] or in a URL; secrets come from files that it names, from the caller's
//! environment lookup, or from the machine's instance credentials.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgkeep_base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::Store;

/// Looks up an environment variable. The store room reads none by itself.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where a store is and how to talk to it. All keys but `url` are optional, and those for S3 are refused elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// `file:///absolute/directory` or `s3://bucket/optional/prefix`.
    pub url: String,
    /// S3: base URL of the server, such as `https://minio.example.com:9000`. Default: `AWS_ENDPOINT_URL_S3`,
    /// `AWS_ENDPOINT_URL`, the profile's `endpoint_url`, else Amazon's of the region.
    pub endpoint: Option<String>,
    /// S3: region that requests are signed for. Default: `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile's, else
    /// `us-east-1`.
    pub region: Option<String>,
    /// S3: puts the bucket into the path (`true`) or into the host name (`false`). Default: `true` with an endpoint,
    /// `false` for Amazon's own (unless the bucket's name has a dot).
    pub path_style: Option<bool>,
    /// S3: allows an endpoint without TLS. Default: false.
    pub allow_http: bool,
    /// S3: PEM file with the only certificate authorities to trust, or with the server's own certificate if that is
    /// self-signed. Default: the authorities of the system.
    pub ca_certificate_file: Option<PathBuf>,
    /// S3: profile in the shared credentials and configuration files. Default: keys from the environment, else
    /// `AWS_PROFILE`, else `default`.
    pub profile: Option<String>,
    /// S3: file that holds the access key id and nothing else; goes with `secret_access_key_file`. Read anew for each
    /// request, so that keys can be rotated.
    pub access_key_id_file: Option<PathBuf>,
    /// S3: file that holds the secret access key and nothing else.
    pub secret_access_key_file: Option<PathBuf>,
    /// S3: shared credentials file. Default: `AWS_SHARED_CREDENTIALS_FILE`, else `~/.aws/credentials`.
    pub credentials_file: Option<PathBuf>,
    /// S3: storage class of new objects, such as `STANDARD_IA`. Default: the bucket's.
    pub storage_class: Option<String>,
    /// S3: `AES256` or `aws:kms`: encryption at rest by the server, besides pgkeep's own. Default: the bucket's.
    pub server_side_encryption: Option<String>,
    /// S3: the key for `aws:kms`. Default: the account's.
    pub kms_key_id: Option<String>,
    /// S3: HTTP proxy. Default: `HTTPS_PROXY` and `NO_PROXY`, for an endpoint with TLS.
    pub proxy: Option<String>,
    /// S3: seconds to establish a connection, 1–600. Default: 10.
    pub connect_timeout_s: u64,
    /// S3: seconds that one attempt of a request may take in all, 1–86400. Default: 900.
    pub request_timeout_s: u64,
    /// S3: seconds without a single byte sent or received before an attempt is given up, 1–3600. Default: 30.
    pub progress_timeout_s: u64,
    /// S3: attempts after the first, 0–100, with pauses that double from 0.1 s to 15 s, with jitter. Default: 8.
    pub retries: u32,
    /// S3: seconds after which no new attempt is begun, 0–86400. Default: 180.
    pub retry_timeout_s: u64,
    /// Concurrent requests that suit this store, 1–256. Default: 4 for `file:`, 16 for `s3:`.
    pub requests: Option<usize>,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            url: String::new(),
            endpoint: None,
            region: None,
            path_style: None,
            allow_http: false,
            ca_certificate_file: None,
            profile: None,
            access_key_id_file: None,
            secret_access_key_file: None,
            credentials_file: None,
            storage_class: None,
            server_side_encryption: None,
            kms_key_id: None,
            proxy: None,
            connect_timeout_s: 10,
            request_timeout_s: 900,
            progress_timeout_s: 30,
            retries: 8,
            retry_timeout_s: 180,
            requests: None,
        }
    }
}

impl StoreConfig {
    /// A configuration with defaults for everything but the URL.
    pub fn at(url: impl Into<String>) -> StoreConfig {
        StoreConfig {
            url: url.into(),
            ..StoreConfig::default()
        }
    }

    /// The first S3 key that is set, if any: they mean nothing for other stores.
    fn s3_key(&self) -> Option<&'static str> {
        [
            ("endpoint", self.endpoint.is_some()),
            ("region", self.region.is_some()),
            ("path_style", self.path_style.is_some()),
            ("allow_http", self.allow_http),
            ("ca_certificate_file", self.ca_certificate_file.is_some()),
            ("profile", self.profile.is_some()),
            ("access_key_id_file", self.access_key_id_file.is_some()),
            ("secret_access_key_file", self.secret_access_key_file.is_some()),
            ("credentials_file", self.credentials_file.is_some()),
            ("storage_class", self.storage_class.is_some()),
            ("server_side_encryption", self.server_side_encryption.is_some()),
            ("kms_key_id", self.kms_key_id.is_some()),
            ("proxy", self.proxy.is_some()),
        ]
        .into_iter()
        .find_map(|(key, set)| set.then_some(key))
    }

    fn check_ranges(&self) -> Result<()> {
        let ranges = [
            ("connect_timeout_s", self.connect_timeout_s, 1, 600),
            ("request_timeout_s", self.request_timeout_s, 1, 86_400),
            ("progress_timeout_s", self.progress_timeout_s, 1, 3_600),
            ("retries", u64::from(self.retries), 0, 100),
            ("retry_timeout_s", self.retry_timeout_s, 0, 86_400),
            ("requests", self.requests.map_or(1, |n| n as u64), 1, 256),
        ];
        match ranges.iter().find(|(_, value, low, high)| value < low || value > high) {
            None => Ok(()),
            Some((key, value, low, high)) => Err(Error::invalid(format!(
                "`{key}` is {value}, but must be {low} to {high}"
            ))
            .hint("Correct the repository's section and run `pgkeep config check`.")),
        }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_s)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_s)
    }

    pub(crate) fn progress_timeout(&self) -> Duration {
        Duration::from_secs(self.progress_timeout_s)
    }

    pub(crate) fn retry_timeout(&self) -> Duration {
        Duration::from_secs(self.retry_timeout_s)
    }
}

/// Opens a store. Reads credential and certificate files, but asks no network and no DNS: success says nothing about
/// whether the store answers.
///
/// # Errors
/// `Invalid` for a URL or key that is wrong; `Unsupported` for stores that this build doesn't know; `Denied` when no
/// credentials can be had.
pub fn open(config: &StoreConfig, environment: Environment) -> Result<Arc<dyn Store>> {
    config.check_ranges()?;
    let (scheme, rest) = split_url(&config.url)?;
    match scheme {
        "file" => {
            if let Some(key) = config.s3_key() {
                return Err(Error::invalid(format!("`{key}` means nothing for {}", config.url))
                    .hint("Remove the key, or check the URL with `pgkeep config check`."));
            }
            Ok(Arc::new(crate::file::FileStore::open(config, rest)?))
        }
        "s3" => Ok(Arc::new(crate::s3::S3Store::open(config, rest, environment)?)),
        "gs" | "az" => Err(
            Error::unsupported(format!("this version can't open `{scheme}:` stores yet"))
                .hint("Use a `file:` or `s3:` URL; Google's storage also answers as `s3:` with an `endpoint`."),
        ),
        _ => Err(not_a_store(&config.url)),
    }
}

/// As [`open`], for a bucket whose server is a function from path and query of a request to the body of its answer: for
/// tests of what is made of answers. No network is asked.
///
/// # Errors
/// As [`open`]; `Invalid` also for stores that have no server.
pub fn open_told(
    config: &StoreConfig,
    environment: Environment,
    answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) -> Result<Arc<dyn Store>> {
    config.check_ranges()?;
    match split_url(&config.url)? {
        ("s3", rest) => {
            let server = crate::s3::Told::new(answer);
            Ok(Arc::new(crate::s3::S3Store::open_told(
                config,
                rest,
                environment,
                server,
            )?))
        }
        _ => Err(not_a_store(&config.url)),
    }
}

fn split_url(url: &str) -> Result<(&str, &str)> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| not_a_store(url))?;
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        // The URL itself is not shown: it may hold a password.
        return Err(Error::invalid("a store's URL must not hold credentials")
            .hint("Put them into files named by `access_key_id_file` and `secret_access_key_file`."));
    }
    if rest.contains(['?', '#']) {
        return Err(
            Error::invalid(format!("the URL of a store has no `?` and no `#`: {url}"))
                .hint("Endpoint, region and the like are keys of their own: see `pgkeep config show`."),
        );
    }
    Ok((scheme, rest))
}

fn not_a_store(url: &str) -> Error {
    Error::invalid(format!("\"{url}\" is not the URL of a store"))
        .hint("Write `file:///absolute/directory` or `s3://bucket/prefix`; see `pgkeep config show`.")
}

#[cfg(test)]
mod tests {
    use pgkeep_base::ErrorKind;

    use super::*;

    fn refusal(config: &StoreConfig) -> Error {
        open(config, &|_| None).expect_err("this must be refused")
    }

    #[test]
    fn only_urls_of_stores_are_opened() {
        for (url, kind) in [
            ("", ErrorKind::Invalid),
            ("/srv/backups", ErrorKind::Invalid),
            ("file:/srv/backups", ErrorKind::Invalid),
            ("file://srv/backups", ErrorKind::Invalid),
            ("file:///srv/../etc", ErrorKind::Invalid),
            ("file:///srv/100%", ErrorKind::Invalid),
            ("s3://bucket?region=x", ErrorKind::Invalid),
            ("ftp://host/x", ErrorKind::Invalid),
            ("gs://bucket", ErrorKind::Unsupported),
            ("az://container", ErrorKind::Unsupported),
        ] {
            assert_eq!(refusal(&StoreConfig::at(url)).kind(), kind, "{url}");
        }
        assert_eq!(
            open(&StoreConfig::at("file:///srv/my%20backups"), &|_| None)
                .unwrap()
                .url(),
            "file:///srv/my%20backups"
        );
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for url in [
            "s3://key:hush@bucket",
            "https://key:hush@host",
            "file://user:hush@host/x",
        ] {
            let error = refusal(&StoreConfig::at(url));
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        }
    }

    #[test]
    fn keys_that_mean_nothing_are_refused() {
        let config = StoreConfig {
            region: Some("eu".into()),
            ..StoreConfig::at("file:///srv")
        };
        assert!(refusal(&config).message().contains("`region`"));
        assert!(toml::from_str::<StoreConfig>("url = \"file:///srv\"\nregoin = \"eu\"").is_err());
        let config: StoreConfig = toml::from_str("url = \"file:///srv\"\nrequests = 8").unwrap();
        assert_eq!(open(&config, &|_| None).unwrap().requests_wanted(), 8);
        let config: StoreConfig = toml::from_str("url = \"file:///srv\"\nprogress_timeout_s = 0").unwrap();
        assert!(refusal(&config).message().contains("1 to 3600"));
    }

    #[test]
    fn opening_asks_nobody_and_needs_no_credentials_yet() {
        // Nothing listens there, and the name does not resolve.
        let config = StoreConfig {
            endpoint: Some("https://no-such-host.invalid".into()),
            ..StoreConfig::at("s3://bucket/prefix")
        };
        let key = |name: &str| {
            name.starts_with("AWS_ACCESS")
                .then(|| "x".to_owned())
                .or_else(|| (name == "AWS_SECRET_ACCESS_KEY").then(|| "y".to_owned()))
        };
        assert_eq!(open(&config, &key).unwrap().url(), "s3://bucket/prefix");
        let no_keys = |name: &str| (name == "AWS_EC2_METADATA_DISABLED").then(|| "true".to_owned());
        assert_eq!(
            open(&config, &no_keys).expect_err("no source is left").kind(),
            ErrorKind::Denied
        );
    }
}
