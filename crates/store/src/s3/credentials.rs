//! Where the credentials for S3 come from, decided once when a store is opened.
//!
//! Invariant: the first source that is *configured* is used and named in every refusal; there is no falling through
//! from keys that don't work to others. Secrets live in object_store's credential type, which never shows them, and
//! files are read anew for each request, so that keys can be rotated under a running agent.
//!
//! Order: key files of the configuration, profile of the configuration, environment keys, web identity, `AWS_PROFILE`,
//! the profile `default` if it has keys, container credentials, the machine's own role.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use pgkeep_base::{Error, Result, ResultExt};

use super::profile::Profile;
use crate::config::{Environment, StoreConfig};

/// The profile that is used when none is named.
const DEFAULT_PROFILE: &str = "default";

/// The shared files, and the profile in them that applies.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    credentials: Option<PathBuf>,
    config: Option<PathBuf>,
    name: String,
    /// Whether anybody named that profile; the default one may be missing.
    named: bool,
}

impl Shared {
    pub(super) fn new(config: &StoreConfig, environment: Environment) -> Shared {
        let home = || environment("HOME").map(PathBuf::from);
        let file = |variable: &str, rest: &str| {
            let named = environment(variable).map(PathBuf::from);
            named.or_else(|| home().map(|home| home.join(".aws").join(rest)))
        };
        let named = config.profile.clone().or_else(|| environment("AWS_PROFILE"));
        Shared {
            credentials: config
                .credentials_file
                .clone()
                .or_else(|| file("AWS_SHARED_CREDENTIALS_FILE", "credentials")),
            config: file("AWS_CONFIG_FILE", "config"),
            named: named.is_some(),
            name: named.unwrap_or_else(|| DEFAULT_PROFILE.to_owned()),
        }
    }

    /// The profile that applies; an empty one if nobody named it and it doesn't exist.
    pub(super) fn profile(&self) -> Result<Profile> {
        match Profile::read(&self.name, self.credentials.as_deref(), self.config.as_deref())? {
            Some(profile) => Ok(profile),
            None if !self.named => Ok(Profile::default()),
            None => Err(Error::invalid(format!("there is no profile \"{}\"", self.name))
                .detail(format!("looked in {}", self.files()))
                .hint("Correct `profile` or AWS_PROFILE, then run `pgkeep doctor`.")),
        }
    }

    fn files(&self) -> String {
        let files = [&self.credentials, &self.config].into_iter().flatten();
        let shown: Vec<String> = files.map(|file| file.display().to_string()).collect();
        shown.join(" and ")
    }
}

/// Adds credentials to a builder; returns their source in words.
pub(super) fn add(
    builder: AmazonS3Builder,
    config: &StoreConfig,
    environment: Environment,
    shared: &Shared,
) -> Result<(AmazonS3Builder, String)> {
    let with = |builder: AmazonS3Builder, source: Source| {
        // Fails now, if it must, rather than at the first request.
        source.read()?;
        let words = source.words();
        Ok((builder.with_credentials(Arc::new(source)), words))
    };
    match (&config.access_key_id_file, &config.secret_access_key_file) {
        (Some(id), Some(secret)) => return with(builder, Source::files(id, secret)),
        (None, None) => {}
        _ => {
            return Err(
                Error::invalid("`access_key_id_file` and `secret_access_key_file` go together")
                    .hint("Set both, then run `pgkeep config check`."),
            );
        }
    }
    if config.profile.is_some() {
        return with(builder, Source::Profile(shared.clone()));
    }
    if let (Some(id), Some(secret)) = (environment("AWS_ACCESS_KEY_ID"), environment("AWS_SECRET_ACCESS_KEY")) {
        let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        let builder = match environment("AWS_SESSION_TOKEN") {
            Some(token) => builder.with_token(token),
            None => builder,
        };
        return Ok((
            builder,
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment".to_owned(),
        ));
    }
    let web_identity = environment("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() && environment("AWS_ROLE_ARN").is_some();
    if !web_identity && (shared.named || shared.profile()?.has_keys()) {
        return with(builder, Source::Profile(shared.clone()));
    }
    ambient(builder, environment)
}

/// Credentials that the machine gets by itself; object_store knows how.
fn ambient(mut builder: AmazonS3Builder, environment: Environment) -> Result<(AmazonS3Builder, String)> {
    use AmazonS3ConfigKey as Key;
    let keys = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", Key::WebIdentityTokenFile),
        ("AWS_ROLE_ARN", Key::RoleArn),
        ("AWS_ROLE_SESSION_NAME", Key::RoleSessionName),
        ("AWS_ENDPOINT_URL_STS", Key::StsEndpoint),
        (
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            Key::ContainerCredentialsRelativeUri,
        ),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", Key::ContainerCredentialsFullUri),
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            Key::ContainerAuthorizationTokenFile,
        ),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", Key::MetadataEndpoint),
    ];
    for (variable, key) in keys {
        if let Some(value) = environment(variable) {
            builder = builder.with_config(key, value);
        }
    }
    let set = |variable| environment(variable).is_some();
    let words = if set("AWS_WEB_IDENTITY_TOKEN_FILE") && set("AWS_ROLE_ARN") {
        "the web identity in AWS_WEB_IDENTITY_TOKEN_FILE"
    } else if set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") || set("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
        "the container's credential service"
    } else if environment("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err(Error::denied("no credentials for the store are configured").hint(
            "Set `access_key_id_file` and `secret_access_key_file`, a `profile`, or AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY; then run `pgkeep doctor`.",
        ));
    } else {
        "the machine's own role (instance metadata), as nothing else is configured"
    };
    Ok((builder, words.to_owned()))
}

/// Credentials in files.
#[derive(Debug)]
enum Source {
    Files { id: PathBuf, secret: PathBuf },
    Profile(Shared),
}

impl Source {
    fn files(id: &Path, secret: &Path) -> Source {
        Source::Files {
            id: id.to_owned(),
            secret: secret.to_owned(),
        }
    }

    fn words(&self) -> String {
        match self {
            Source::Files { id, secret } => format!("{} and {}", id.display(), secret.display()),
            Source::Profile(shared) => format!("profile \"{}\" in {}", shared.name, shared.files()),
        }
    }

    fn read(&self) -> Result<AwsCredential> {
        match self {
            Source::Files { id, secret } => Ok(AwsCredential {
                key_id: read_secret(id)?,
                secret_key: read_secret(secret)?,
                token: None,
            }),
            Source::Profile(shared) => from_profile(&shared.profile()?, &self.words()),
        }
    }
}

#[async_trait]
impl CredentialProvider for Source {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.read().map(Arc::new).map_err(|error| object_store::Error::Generic {
            store: "S3",
            source: Box::new(error),
        })
    }
}

fn from_profile(profile: &Profile, words: &str) -> Result<AwsCredential> {
    let keys = (profile.get("aws_access_key_id"), profile.get("aws_secret_access_key"));
    match (keys, profile.foreign()) {
        ((Some(id), Some(secret)), _) => Ok(AwsCredential {
            key_id: id.to_owned(),
            secret_key: secret.to_owned(),
            token: profile.get("aws_session_token").map(str::to_owned),
        }),
        (_, Some(setting)) => Err(
            Error::unsupported(format!("{words} uses `{setting}`, which pgkeep can't do"))
                .hint("Use a profile with keys, or put keys into the environment; then run `pgkeep doctor`."),
        ),
        _ => Err(Error::denied(format!("{words} has no keys"))
            .hint("Add `aws_access_key_id` and `aws_secret_access_key` to it; then run `pgkeep doctor`.")),
    }
}

fn read_secret(file: &Path) -> Result<String> {
    let what = || format!("read credentials from {}", file.display());
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text.trim().to_owned(),
        Err(error) => {
            let kind = match error.kind() {
                std::io::ErrorKind::PermissionDenied => Error::denied("this user may not read it"),
                _ => Error::invalid("it can't be read"),
            };
            return Err(kind
                .source(error)
                .hint("Correct the file or its owner, then run `pgkeep doctor`."))
            .during(what);
        }
    };
    match text.is_empty() || text.contains(char::is_whitespace) {
        true => Err(Error::invalid("it must hold one word and nothing else")).during(what),
        false => Ok(text),
    }
}
