//! Turns a configuration and the caller's environment into the address of a bucket and object_store's builder.
//!
//! Invariant: opening asks no network and no DNS. What the configuration says wins over the environment, which wins
//! over the shared profile; each default is named at its key in `StoreConfig`.

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::{BackoffConfig, RetryConfig};
use pgkeep_base::{Error, Result};

use super::credentials::Shared;
use super::transport::ProxySettings;
use crate::config::{Environment, StoreConfig};
use crate::name::directory_prefix;

/// Leaves room for names within S3's 1,024 bytes.
const PREFIX_BYTES_MAX: usize = 120;
/// What requests are signed for when nobody says.
const REGION: &str = "us-east-1";

/// Where a bucket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) bucket: String,
    /// Within the bucket; empty or without `/` at its end.
    pub(super) prefix: String,
    pub(super) region: String,
    /// The server, as the configuration names it.
    pub(super) endpoint: String,
    /// The server and the bucket: requests go to this plus `/` plus the key.
    pub(super) bucket_url: String,
}

impl Address {
    /// `rest` is the URL after `s3://`.
    pub(super) fn new(config: &StoreConfig, rest: &str, environment: Environment, shared: &Shared) -> Result<Address> {
        let (bucket, prefix) = bucket_and_prefix(&config.url, rest)?;
        let profile = shared.profile()?;
        let region = (config.region.clone())
            .or_else(|| environment("AWS_REGION"))
            .or_else(|| environment("AWS_DEFAULT_REGION"))
            .or_else(|| profile.get("region").map(str::to_owned))
            .unwrap_or_else(|| REGION.to_owned());
        let endpoint = (config.endpoint.clone())
            .or_else(|| environment("AWS_ENDPOINT_URL_S3"))
            .or_else(|| environment("AWS_ENDPOINT_URL"))
            .or_else(|| profile.get("endpoint_url").map(str::to_owned));
        let path_style = config.path_style.unwrap_or(endpoint.is_some() || bucket.contains('.'));
        let endpoint = match endpoint {
            Some(endpoint) => checked_endpoint(&endpoint, config.allow_http)?,
            None => amazons_endpoint(&region),
        };
        let bucket_url = match path_style {
            true => format!("{endpoint}/{bucket}"),
            false => endpoint.replacen("://", &format!("://{bucket}."), 1),
        };
        Ok(Address {
            bucket,
            prefix,
            region,
            endpoint,
            bucket_url,
        })
    }

    /// Host and port that requests go to.
    pub(super) fn authority(&self) -> &str {
        let after_scheme = self.bucket_url.split_once("://").map_or("", |(_, rest)| rest);
        after_scheme.split('/').next().unwrap_or_default()
    }

    /// Everything but credentials.
    pub(super) fn builder(&self, config: &StoreConfig) -> Result<AmazonS3Builder> {
        let once = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: 0,
            retry_timeout: std::time::Duration::ZERO,
        };
        let builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            // To object_store "virtual hosted" means that the endpoint has the bucket in it, wherever.
            .with_virtual_hosted_style_request(true)
            .with_endpoint(&self.bucket_url)
            .with_allow_http(config.allow_http)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_disable_bulk_delete(true)
            .with_retry(once);
        encrypted(builder, config)
    }
}

fn encrypted(builder: AmazonS3Builder, config: &StoreConfig) -> Result<AmazonS3Builder> {
    let key = config.kms_key_id.as_deref();
    match (config.server_side_encryption.as_deref(), key) {
        (None, None) => Ok(builder),
        (Some("AES256"), None) => {
            let option = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>();
            let option = option.map_err(|error| Error::internal("an option of object_store vanished").source(error))?;
            Ok(builder.with_config(option, "AES256"))
        }
        (Some("aws:kms"), Some(key)) => Ok(builder.with_sse_kms_encryption(key)),
        (Some("aws:kms"), None) => Err(
            Error::invalid("`server_side_encryption = \"aws:kms\"` needs `kms_key_id`")
                .hint("Set it, or leave both out to use the bucket's default; then run `pgkeep config check`."),
        ),
        (Some(other), _) if other != "AES256" => Err(Error::invalid(format!(
            "`server_side_encryption` is \"{other}\", but must be \"AES256\" or \"aws:kms\""
        ))
        .hint("Correct it and run `pgkeep config check`.")),
        _ => Err(
            Error::invalid("`kms_key_id` needs `server_side_encryption = \"aws:kms\"`")
                .hint("Correct it and run `pgkeep config check`."),
        ),
    }
}

/// The proxy for this endpoint.
pub(super) fn proxy(config: &StoreConfig, endpoint: &str, environment: Environment) -> ProxySettings {
    let either = |upper: &str| environment(upper).or_else(|| environment(&upper.to_ascii_lowercase()));
    let url = match (&config.proxy, endpoint.starts_with("https://")) {
        (Some(proxy), _) => Some(proxy.clone()),
        (None, true) => either("HTTPS_PROXY"),
        (None, false) => None,
    };
    ProxySettings {
        url: url.filter(|url| !url.is_empty()),
        except: either("NO_PROXY"),
    }
}

fn bucket_and_prefix(url: &str, rest: &str) -> Result<(String, String)> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if bucket.len() < 3 || bucket.len() > 63 || !bucket.bytes().all(legal) {
        return Err(Error::invalid(format!("\"{url}\" does not name a bucket"))
            .hint("Write `s3://bucket` or `s3://bucket/prefix`, then run `pgkeep config check`."));
    }
    let prefix = directory_prefix(prefix)
        .map_err(|error| Error::invalid(format!("the prefix in \"{url}\" can't be used")).source(error))?;
    if prefix.len() > PREFIX_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the prefix in \"{url}\" is longer than {PREFIX_BYTES_MAX} bytes"
        )));
    }
    Ok((bucket.to_owned(), prefix))
}

fn checked_endpoint(endpoint: &str, allow_http: bool) -> Result<String> {
    let endpoint = endpoint.trim_end_matches('/');
    let uri: http::Uri = endpoint.parse().map_err(|_| {
        Error::invalid("the S3 endpoint is not a URL").hint("Write `https://host` or `https://host:port`.")
    })?;
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) || uri.query().is_some() {
        return Err(
            Error::invalid("the S3 endpoint must be a scheme, a host and maybe a port")
                .hint("Credentials belong into `access_key_id_file` and `secret_access_key_file`."),
        );
    }
    match uri.scheme_str() {
        Some("https") => Ok(endpoint.to_owned()),
        Some("http") if allow_http => Ok(endpoint.to_owned()),
        Some("http") => Err(Error::invalid(format!("the endpoint {endpoint} is not encrypted"))
            .hint("Use `https://`, or set `allow_http = true` if the way to it is safe.")),
        _ => Err(
            Error::invalid(format!("the endpoint {endpoint} is neither `https://` nor `http://`"))
                .hint("Correct `endpoint` and run `pgkeep config check`."),
        ),
    }
}

fn amazons_endpoint(region: &str) -> String {
    let domain = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    format!("https://s3.{region}.{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(config: &StoreConfig, variables: &[(&str, &str)]) -> Result<Address> {
        let environment = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let shared = Shared::new(config, &environment);
        let rest = config.url.strip_prefix("s3://").unwrap();
        Address::new(config, rest, &environment, &shared)
    }

    fn bucket_url(config: StoreConfig, variables: &[(&str, &str)]) -> String {
        address(&config, variables).unwrap().bucket_url
    }

    #[test]
    fn a_bucket_is_where_its_settings_say() {
        let plain = || StoreConfig::at("s3://backups/shop/eu/");
        assert_eq!(bucket_url(plain(), &[]), "https://backups.s3.us-east-1.amazonaws.com");
        assert_eq!(address(&plain(), &[]).unwrap().prefix, "shop/eu");
        assert_eq!(
            bucket_url(plain(), &[("AWS_REGION", "cn-north-1")]),
            "https://backups.s3.cn-north-1.amazonaws.com.cn"
        );
        let dotted = StoreConfig::at("s3://my.backups");
        assert_eq!(bucket_url(dotted, &[]), "https://s3.us-east-1.amazonaws.com/my.backups");

        let own = StoreConfig {
            endpoint: Some("https://minio:9000/".into()),
            region: Some("here".into()),
            ..plain()
        };
        let all = [("AWS_REGION", "there"), ("AWS_ENDPOINT_URL", "https://elsewhere")];
        assert_eq!(bucket_url(own.clone(), &all), "https://minio:9000/backups");
        assert_eq!(address(&own, &all).unwrap().region, "here");
        assert_eq!(address(&own, &all).unwrap().authority(), "minio:9000");
        assert_eq!(bucket_url(plain(), &all), "https://elsewhere/backups");
        let hosted = StoreConfig {
            path_style: Some(false),
            ..own
        };
        assert_eq!(bucket_url(hosted, &[]), "https://backups.minio:9000");
    }

    #[test]
    fn an_endpoint_without_tls_must_be_allowed() {
        let open = |allow_http| StoreConfig {
            endpoint: Some("http://minio:9000".into()),
            allow_http,
            ..StoreConfig::at("s3://backups")
        };
        assert!(
            address(&open(false), &[])
                .unwrap_err()
                .hint_text()
                .unwrap()
                .contains("allow_http")
        );
        assert_eq!(bucket_url(open(true), &[]), "http://minio:9000/backups");
    }

    #[test]
    fn what_is_no_bucket_or_endpoint_is_refused_without_showing_secrets() {
        for url in [
            "s3://",
            "s3://a",
            "s3://white space",
            "s3://bucket/a//b",
            "s3://bucket/ü",
        ] {
            assert!(address(&StoreConfig::at(url), &[]).is_err(), "{url}");
        }
        for endpoint in [
            "minio:9000",
            "ftp://minio",
            "https://user:hush@minio",
            "https://minio?x=y",
            "",
        ] {
            let config = StoreConfig {
                endpoint: Some(endpoint.into()),
                ..StoreConfig::at("s3://bucket")
            };
            let error = address(&config, &[]).unwrap_err();
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        }
    }
}
