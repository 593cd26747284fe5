//! Flags that say how to talk to a storage, for commands that take its URL.

use std::path::PathBuf;

use pgkeep_store::StoreConfig;

/// How to talk to a storage; the same as the keys of `[repository.NAME]`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StoreFlags {
    /// S3: base URL of the server [default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, Amazon's]
    #[arg(long, value_name = "URL", help_heading = "Storage")]
    pub endpoint: Option<String>,
    /// S3: region that requests are signed for [default: AWS_REGION, the profile's, us-east-1]
    #[arg(long, help_heading = "Storage")]
    pub region: Option<String>,
    /// S3: profile in the shared credentials file
    #[arg(long, help_heading = "Storage")]
    pub profile: Option<String>,
    /// S3: put the bucket into the path (true) or the host name (false)
    #[arg(long, value_name = "BOOL", help_heading = "Storage")]
    pub path_style: Option<bool>,
    /// S3: allow an endpoint without TLS
    #[arg(long, help_heading = "Storage")]
    pub allow_http: bool,
    /// S3: the only certificate authorities to trust
    #[arg(long, value_name = "FILE", help_heading = "Storage")]
    pub ca_certificate_file: Option<PathBuf>,
}

impl StoreFlags {
    /// The store at that URL.
    pub fn at(&self, url: &str) -> StoreConfig {
        StoreConfig {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            profile: self.profile.clone(),
            path_style: self.path_style,
            allow_http: self.allow_http,
            ca_certificate_file: self.ca_certificate_file.clone(),
            ..StoreConfig::at(url)
        }
    }
}
