//! `pgkeep repository create`: begins the repository in its places, and writes the repository file.
//!
//! Invariant: the repository file is durable before the first place knows of the repository, since a naming key that
//! nobody has can't be used; it is taken back where no place could be created. Running again changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use pgkeep_base::{Error, ErrorKind, Progress, RepositoryId, Result, ResultExt};
use pgkeep_engine::repository::{CreatedPlace, create};
use pgkeep_engine::{Engine, Place};
use pgkeep_repo::recover::recover;
use pgkeep_repo::repofile::RepositoryFile;
use pgkeep_repo::seal::SealMode;
use pgkeep_repo::sign::Trust;
use serde::Serialize;

use crate::assemble::{self, Wishes};
use crate::config::Config;
use crate::context::Context;
use crate::exit::Outcome;
use crate::files;
use crate::render::progress::Display;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// Create the repository in empty places; running again changes nothing
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Repositories of the configuration [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Accept a store that lets objects be overwritten
    #[arg(long)]
    allow_overwrite: bool,
    /// Make a lost repository file again from storage; needs the identity
    #[arg(long)]
    recover: bool,
    /// Identity for --recover [default: PGKEEP_IDENTITY_FILE, restore.identity_file]
    #[arg(long, value_name = "FILE", requires = "recover")]
    identity: Option<PathBuf>,
    /// Accept signers that nothing vouches for, with --recover
    #[arg(long, requires = "recover")]
    accept_signer: bool,
}

/// What was created.
#[derive(Serialize)]
pub struct Created {
    /// The repository's id.
    pub id: RepositoryId,
    /// Its file, which every host needs.
    pub repository_file: PathBuf,
    /// Its places.
    pub repositories: Vec<CreatedEntry>,
}

/// One place.
#[derive(Serialize)]
pub struct CreatedEntry {
    name: String,
    url: String,
    /// False where it was there already.
    created: bool,
    /// Whether the store refuses to overwrite; `null` where it was not probed.
    create_only: Option<bool>,
}

impl View for Created {
    fn text(&self, page: &mut Page) {
        for place in &self.repositories {
            let what = if place.created {
                "created in"
            } else {
                "was there already:"
            };
            page.line(format!("repository \"{}\" {what} {}", place.name, place.url));
        }
        page.line(format!(
            "repository file: {} (every host of this configuration needs it)",
            self.repository_file.display()
        ));
    }
}

/// Creates, or recovers the file.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let config = context.config()?;
    if arguments.recover {
        return recover_file(arguments, context, &config);
    }
    let display = Arc::new(Display::new(Arc::clone(&context.output)));
    let created = create_in(context, &config, &arguments.names, arguments.allow_overwrite, display)?;
    context.output.print(&created)?;
    Ok(Outcome::Done)
}

/// Creates the repository of a configuration in the places named; in all where none is.
///
/// # Errors
/// `Refused` for a place that isn't empty, or that lets objects be overwritten; `NotFound` for an unknown name.
pub fn create_in(
    context: &Context,
    config: &Config,
    names: &[String],
    allow_overwrite: bool,
    progress: Arc<dyn Progress>,
) -> Result<Created> {
    let (file, new) = repository_file(config)?;
    if new {
        files::create_directory_of(&config.repository_file, 0o755)?;
        file.create(&config.repository_file)?;
        files::give_to_owner_of_directory(&config.repository_file);
    }
    if file.mode == SealMode::None {
        context
            .output
            .warn("nothing is encrypted: whoever reads the repository reads the database (encryption.mode = \"none\")");
    }
    let mut done = Vec::new();
    let result = make_roots(config, names)
        .and_then(|()| {
            assemble::setup(
                context,
                config,
                &Wishes {
                    writes: true,
                    repositories: names.to_vec(),
                    ..Wishes::default()
                },
                progress,
            )
        })
        .and_then(Engine::new)
        .and_then(|engine| runtime::run(Threads::Two, in_each(&engine, allow_overwrite, &mut done)));
    if let Err(error) = result {
        if new && !done.iter().any(|place: &CreatedPlace| place.created) {
            // No place knows of it: what is left would only be in the way.
            let _ = std::fs::remove_file(&config.repository_file);
        }
        return Err(error);
    }
    let entry = |place: CreatedPlace| CreatedEntry {
        name: place.name,
        url: place.url,
        created: place.created,
        create_only: place.create_only,
    };
    Ok(Created {
        id: file.id,
        repository_file: config.repository_file.clone(),
        repositories: done.into_iter().map(entry).collect(),
    })
}

/// The repository file that is there, or a new one.
fn repository_file(config: &Config) -> Result<(RepositoryFile, bool)> {
    match RepositoryFile::load(&config.repository_file) {
        Ok(file) => Ok((file, false)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mode = assemble::seal_mode(config)?;
            let mut signers = vec![assemble::signing_key(&config.signing_key_file)?.fingerprint()];
            signers.extend(assemble::signers(config)?);
            signers.dedup();
            Ok((RepositoryFile::new(mode, signers)?, true))
        }
        Err(error) => Err(error),
    }
}

/// Makes the directories of local repositories; what is not local needs nothing.
fn make_roots(config: &Config, names: &[String]) -> Result<()> {
    let wanted = |name: &String| names.is_empty() || names.contains(name);
    for repository in config.repositories.iter().filter(|repository| wanted(&repository.name)) {
        runtime::run_bare(pgkeep_store::create_root(&repository.store))?
            .during(|| format!("create repository \"{}\"", repository.name))?;
    }
    Ok(())
}

async fn in_each(engine: &Engine, allow_overwrite: bool, done: &mut Vec<CreatedPlace>) -> Result<()> {
    for Place { name, .. } in engine.places() {
        done.extend(create(&engine.only_place(name)?, allow_overwrite).await?);
    }
    Ok(())
}

fn recover_file(arguments: &Arguments, context: &Context, config: &Config) -> Result<Outcome> {
    let identity = arguments
        .identity
        .as_ref()
        .map(|path| context.path(path))
        .or_else(|| config.identity_file.clone());
    let identity = identity.ok_or_else(|| {
        Error::refused("there is no identity to recover the repository file with")
            .hint("Name it: `pgkeep repository create --recover --identity FILE`.")
    })?;
    let mut trust = Trust::new(assemble::signers(config)?);
    if arguments.accept_signer {
        trust = trust.accept_any();
    }
    let stores: Vec<_> = assemble::places(context, config)?
        .into_iter()
        .map(|place| place.store)
        .collect();
    let identities = assemble::read_identities(&identity)?;
    let (file, signer) = runtime::run(Threads::Two, recover(&stores, identities, trust))?;
    file.create(&config.repository_file)?;
    files::give_to_owner_of_directory(&config.repository_file);
    context
        .output
        .note(&format!("the repository was created by signer {signer}"));
    context.output.print(&Created {
        id: file.id,
        repository_file: config.repository_file.clone(),
        repositories: Vec::new(),
    })?;
    Ok(Outcome::Done)
}
