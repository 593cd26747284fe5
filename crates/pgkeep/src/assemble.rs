//! Turns the configuration into an engine: stores opened, repository file and keys read.
//!
//! Invariant: assembling asks no network and no PostgreSQL. The signing key is made on first use, private from its
//! first byte; an identity is read only where the command needs one, so that a writer's host needs none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgkeep_base::{Error, ErrorKind, Progress, Result, ResultExt, SystemClock};
use pgkeep_engine::{Engine, Place, Setup};
use pgkeep_repo::keys::{Identity, Recipient, parse_identity_file};
use pgkeep_repo::repofile::RepositoryFile;
use pgkeep_repo::seal::SealMode;
use pgkeep_repo::secretfile;
use pgkeep_repo::sign::{Fingerprint, SigningKey};

use crate::config::{Config, EncryptionMode};
use crate::context::Context;
use crate::files;
use crate::render::progress::Display;

/// What a command wants of its engine beside the configuration.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// It writes signed objects, so this host's signing key must be kept.
    pub writes: bool,
    /// `--identity FILE`.
    pub identity: Option<PathBuf>,
    /// Read the identity of the configuration, if there is one.
    pub with_identity: bool,
    /// `--accept-signer`.
    pub accept_signer: bool,
    /// The recipients of the configuration need not be those of the repository file: they shall be (`keys rotate`).
    pub any_recipients: bool,
    /// `--repository NAME`: only these, and all of them required; all of the configuration where none is named.
    pub repositories: Vec<String>,
}

/// An engine, the configuration that it was made from, and what shows its progress.
pub struct Assembled {
    /// Runs operations.
    pub engine: Engine,
    /// The configuration.
    pub config: Config,
    /// Shows progress; to be finished before a result is printed.
    pub display: Arc<Display>,
}

/// An engine of the configuration in force.
pub fn engine(context: &Context, wishes: &Wishes) -> Result<Assembled> {
    let config = context.config()?;
    let display = Arc::new(Display::new(Arc::clone(&context.output)));
    let engine = Engine::new(setup(
        context,
        &config,
        wishes,
        Arc::clone(&display) as Arc<dyn Progress>,
    )?)?;
    Ok(Assembled {
        engine,
        config,
        display,
    })
}

/// What an engine is made from.
pub fn setup(context: &Context, config: &Config, wishes: &Wishes, progress: Arc<dyn Progress>) -> Result<Setup> {
    let repository = RepositoryFile::load(&config.repository_file)
        .map_err(without_repository_file)
        .and_then(|file| agree(config, file, wishes.any_recipients))?;
    Ok(Setup {
        state_dir: config.state_dir.clone(),
        places: named_places(places(context, config)?, &wishes.repositories)?,
        repository,
        signing_key: if wishes.writes {
            signing_key(&config.signing_key_file)?
        } else {
            reading_key(&config.signing_key_file)?
        },
        signers: signers(config)?,
        accept_signer: wishes.accept_signer,
        identities: identities(context, config, wishes)?,
        clusters: config.clusters.clone(),
        environment: Arc::new(context.lookup()),
        clock: Arc::new(SystemClock),
        progress,
    })
}

/// The repositories of the configuration, opened; nothing is asked of them yet.
pub fn places(context: &Context, config: &Config) -> Result<Vec<Place>> {
    let lookup = context.lookup();
    let open = |repository: &crate::config::RepositoryConfig| -> Result<Place> {
        let store = pgkeep_store::open(&repository.store, &lookup)
            .during(|| format!("open repository \"{}\"", repository.name))?;
        Ok(Place {
            name: repository.name.clone(),
            store,
            required: repository.required,
        })
    };
    let mut places = Vec::new();
    for repository in &config.repositories {
        match open(repository) {
            Err(error) if !repository.required => {
                let why = error.detail_text().unwrap_or_default();
                context.output.note(&format!(
                    "without the optional repository \"{}\": {why}",
                    repository.name
                ));
            }
            place => places.push(place?),
        }
    }
    Ok(places)
}

/// The places that were named, which then are all required; all places where none was.
fn named_places(places: Vec<Place>, names: &[String]) -> Result<Vec<Place>> {
    if names.is_empty() {
        return Ok(places);
    }
    let known: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(
            Error::not_found(format!("there is no repository \"{unknown}\" in the configuration"))
                .detail(format!("configured: {}", known.join(", ")))
                .hint("`pgkeep config show` prints the repositories."),
        );
    }
    let named = places.into_iter().filter(|place| names.contains(&place.name));
    Ok(named
        .map(|place| Place {
            required: true,
            ..place
        })
        .collect())
}

/// This host's signing key, made where there is none yet.
///
/// # Errors
/// `Io` where it can't be made, naming the key that says where.
pub fn signing_key(path: &Path) -> Result<Arc<SigningKey>> {
    let read = || {
        let text = secretfile::read(path)?;
        SigningKey::parse(&text).during(|| format!("read the signing key {}", path.display()))
    };
    match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        result => return result.map(Arc::new),
    }
    let key = SigningKey::generate()?;
    match secretfile::create(path, &key.file_text()) {
        Ok(()) => {
            files::give_to_owner_of_directory(path);
            Ok(Arc::new(key))
        }
        // Another process made one at the same moment: that one counts.
        Err(error) if error.kind() == ErrorKind::Conflict => read().map(Arc::new),
        Err(error) => Err(error
            .during("make this host's signing key")
            .hint("Set `signing_key_file` to a place that this user may write to, then `pgkeep config check`.")),
    }
}

/// The signing key of a host that only reads now: its own, so that it trusts what it wrote itself, or else any.
fn reading_key(path: &Path) -> Result<Arc<SigningKey>> {
    let own = secretfile::read(path).and_then(|text| SigningKey::parse(&text));
    own.or_else(|_| SigningKey::generate()).map(Arc::new)
}

/// How everything is to be sealed, by the configuration.
///
/// # Errors
/// `Invalid` where recipients are missing or are not recipients.
pub fn seal_mode(config: &Config) -> Result<SealMode> {
    match config.encryption {
        EncryptionMode::None => Ok(SealMode::None),
        EncryptionMode::Age if config.recipients.is_empty() => Err(Error::invalid("no recipient is configured").hint(
            "Make an identity with `pgkeep keys new FILE`, and put the recipient that it prints into `encryption.recipients`.",
        )),
        EncryptionMode::Age => {
            let recipients: Result<Vec<Recipient>> = config.recipients.iter().map(|text| text.parse()).collect();
            Ok(SealMode::Age(recipients.during(|| "read `encryption.recipients`")?))
        }
    }
}

/// Signers that the configuration trusts.
pub fn signers(config: &Config) -> Result<Vec<Fingerprint>> {
    let signers: Result<Vec<Fingerprint>> = config.signers.iter().map(|text| text.parse()).collect();
    signers.during(|| "read `encryption.signers`")
}

/// The identities that a command may use; none where none was asked for.
fn identities(context: &Context, config: &Config, wishes: &Wishes) -> Result<Vec<Identity>> {
    let named = wishes.identity.as_ref().map(|path| context.path(path));
    match named.or_else(|| config.identity_file.clone().filter(|_| wishes.with_identity)) {
        Some(path) => read_identities(&path),
        None => Ok(Vec::new()),
    }
}

/// Reads an identity file.
///
/// # Errors
/// `Refused` where it isn't there: without an identity nothing that needs one is begun.
pub fn read_identities(path: &Path) -> Result<Vec<Identity>> {
    let read = secretfile::read(path).and_then(|text| parse_identity_file(&text));
    read.during(|| format!("read the identity {}", path.display()))
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::Io => error
                .with_kind(ErrorKind::Refused)
                .or_hint("Name the file with `--identity FILE` or PGKEEP_IDENTITY_FILE."),
            _ => error,
        })
}

fn without_repository_file(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::invalid("this host has no repository file").source(error).hint(
            "Run `pgkeep repository create` for a new repository, or copy the file from another host of this configuration.",
        ),
        _ => error,
    }
}

const COUNTS_HINT: &str = "The repository file counts for what is stored; `pgkeep keys list` shows both.";
const RECIPIENTS_HINT: &str = "`pgkeep keys list` shows both. If the configuration's are the new ones, `pgkeep keys rotate` \
     puts them in force; on another host, copy the repository file from where that was done.";

/// The repository file and the configuration must say the same of encryption: what differs would seal to the wrong
/// people, or not at all, without anybody noticing.
fn agree(config: &Config, file: RepositoryFile, any_recipients: bool) -> Result<RepositoryFile> {
    let differs = |what: &str| {
        Err(Error::invalid(format!(
            "the repository file and the configuration disagree about {what}"
        ))
        .detail(format!("repository file {}", config.repository_file.display())))
    };
    match (&file.mode, config.encryption) {
        (SealMode::None, EncryptionMode::Age) if config.settings.get(&["encryption", "mode"]).is_some() => {
            differs("whether anything is encrypted").or_hint(|| COUNTS_HINT)
        }
        (SealMode::None, EncryptionMode::Age) if !config.recipients.is_empty() => {
            differs("whether anything is encrypted").or_hint(|| COUNTS_HINT)
        }
        (SealMode::Age(_), EncryptionMode::None) => differs("whether anything is encrypted").or_hint(|| COUNTS_HINT),
        (SealMode::Age(sealed), EncryptionMode::Age) if !config.recipients.is_empty() && !any_recipients => {
            let sorted = |mut list: Vec<String>| {
                list.sort_unstable();
                list.dedup();
                list
            };
            let file_says = sorted(sealed.iter().map(ToString::to_string).collect());
            match file_says == sorted(config.recipients.iter().map(|text| text.trim().to_owned()).collect()) {
                true => Ok(file),
                false => differs("the recipients").or_hint(|| RECIPIENTS_HINT),
            }
        }
        _ => Ok(file),
    }
}
