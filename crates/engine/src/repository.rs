//! `repository create`: begins a repository in its places.
//!
//! Invariant: only an empty place becomes a repository; a place that is this repository already is left as it is.

use futures::TryStreamExt;
use pgkeep_base::{Error, ErrorKind, Result, ResultExt};
use pgkeep_repo::genesis::{GENESIS_BYTES_MAX, genesis_name, seal_genesis};
use pgkeep_store::{CreateOnly, Created, Store, probe_create_only};

use crate::engine::Engine;
use crate::setup::Place;

/// What happened to one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedPlace {
    /// Its name in the configuration.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// False where the repository was there already.
    pub created: bool,
    /// Whether the store refuses to overwrite; `None` where it was not probed.
    pub create_only: Option<bool>,
}

/// Makes every place of the engine a place of its repository.
///
/// # Errors
/// `Refused` for a place that holds something else, and for a store that ignores create-only writes unless
/// `allow_overwrite`. All places are looked at before the first one is written; running again is safe.
pub async fn create(engine: &Engine, allow_overwrite: bool) -> Result<Vec<CreatedPlace>> {
    let during = |place: &Place| format!("could not create repository \"{}\"", place.name);
    let mut ours = Vec::new();
    for place in engine.places() {
        ours.push(check_place(engine, place).await.during(|| during(place))?);
    }
    let mut created = Vec::new();
    for (place, ours) in engine.places().iter().zip(ours) {
        let outcome = match ours {
            true => Ok(outcome(place, false, None)),
            false => create_place(engine, place, allow_overwrite)
                .await
                .during(|| during(place)),
        };
        created.push(outcome?);
    }
    Ok(created)
}

fn outcome(place: &Place, created: bool, create_only: Option<bool>) -> CreatedPlace {
    CreatedPlace {
        name: place.name.clone(),
        url: place.store.url().to_owned(),
        created,
        create_only,
    }
}

/// True if the place is this repository already; refuses one that is not empty.
async fn check_place(engine: &Engine, place: &Place) -> Result<bool> {
    if is_ours(engine, &*place.store).await? {
        return Ok(true);
    }
    match place.store.list("", None).try_next().await.or_else(absent_is_empty)? {
        None => Ok(false),
        Some(object) => Err(Error::refused("the place is not empty")
            .detail(format!("{} holds {}", place.store.url(), object.name))
            .hint("Choose another directory or prefix: `pgkeep repository create` takes an empty one.")),
    }
}

async fn create_place(engine: &Engine, place: &Place, allow_overwrite: bool) -> Result<CreatedPlace> {
    let honoured = probe_create_only(&*place.store, "control").await? == CreateOnly::Honoured;
    if !honoured && !allow_overwrite {
        return Err(Error::refused("the store ignores create-only writes (If-None-Match)")
            .detail("a stolen writer, or two writers of one name, could replace objects; only signatures would tell")
            .hint("Use another store, or accept that with `pgkeep repository create --allow-overwrite`."));
    }
    let genesis = seal_genesis(engine.sealer(), &engine.setup().repository)?;
    match place.store.create(&genesis.name, genesis.payload.clone()).await? {
        Created::New => Ok(outcome(place, true, Some(honoured))),
        Created::AlreadyThere => Err(Error::conflict("somebody else made this place a repository just now")
            .hint("Look with `pgkeep repository show`.")),
    }
}

/// True if the place is this repository already.
async fn is_ours(engine: &Engine, store: &dyn Store) -> Result<bool> {
    let name = genesis_name();
    let bytes = match store.read(&name, GENESIS_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match engine.opener_of_file().verify_keyless(&name, &bytes) {
        Ok(_) => Ok(true),
        Err(error) => Err(
            Error::refused("the place is another repository, or one that this host does not trust")
                .detail(store.url().to_owned())
                .source(error)
                .hint("Use that repository's own `repository.toml`, or another place."),
        ),
    }
}

fn absent_is_empty<T>(error: Error) -> Result<Option<T>> {
    if error.kind() == ErrorKind::NotFound {
        Ok(None)
    } else {
        Err(error)
    }
}
