//! Asks a store whether create-only writes are honoured: some servers accept the condition and overwrite anyway.

use pgkeep_base::{Error, Result, ResultExt};

use crate::{Created, ObjectName, Payload, Store};

/// Whether a store refuses to overwrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOnly {
    /// A second create of the same name was answered with `AlreadyThere`.
    Honoured,
    /// It was answered with success: names can be overwritten silently here, and writers may destroy each other's work.
    Ignored,
}

/// Creates one object twice below `prefix`, and removes it if the credentials allow that.
///
/// Costs two PUTs and one DELETE. Needs only the right to create; the object (a few bytes) stays where deleting is
/// denied.
///
/// # Errors
/// As `create`; `Conflict` if the fresh random name was taken.
pub async fn probe_create_only(store: &dyn Store, prefix: &str) -> Result<CreateOnly> {
    let name = scratch_name(prefix, "create-only")?;
    let what = || format!("probe create-only writes on {}", store.url());
    let first = store.create(&name, Payload::from("first")).await.during(what)?;
    // A lost answer to the first attempt makes its retry report `AlreadyThere`: that, too, proves the condition works.
    if first == Created::AlreadyThere {
        remove(store, &name).await;
        return Ok(CreateOnly::Honoured);
    }
    let second = store.create(&name, Payload::from("second")).await.during(what);
    remove(store, &name).await;
    Ok(match second? {
        Created::AlreadyThere => CreateOnly::Honoured,
        Created::New => CreateOnly::Ignored,
    })
}

/// A name below `prefix` that nobody else has.
pub(crate) fn scratch_name(prefix: &str, what: &str) -> Result<ObjectName> {
    let prefix = crate::name::directory_prefix(prefix)?;
    let random: u64 = rand::random();
    let slash = if prefix.is_empty() { "" } else { "/" };
    ObjectName::new(format!("{prefix}{slash}{what}-{random:016x}"))
        .map_err(|_: Error| Error::invalid(format!("the prefix \"{prefix}\" is too long")))
}

async fn remove(store: &dyn Store, name: &ObjectName) {
    if let Err(error) = store.delete(name).await {
        tracing::debug!(%name, kind = ?error.kind(), "a probe object stays, since it can't be deleted");
    }
}
