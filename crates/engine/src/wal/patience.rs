//! How long an optional place may hold up archiving: not long.
//!
//! Invariant: only optional places are ever left out; what they miss is told, and keeps heads away from them.

use std::time::Duration;

use pgkeep_base::{Error, Result, failpoint};
use pgkeep_store::{Created, ObjectName, Payload};

use crate::setup::Place;

/// How long an optional place may take for one object.
const OPTIONAL_LIMIT: Duration = Duration::from_secs(10);

/// Creates an object; an optional place that takes too long has failed.
pub async fn create(place: &Place, name: &ObjectName, payload: Payload) -> Result<Created> {
    failpoint::at("engine.archive.store")?;
    let writing = place.store.create(name, payload);
    if place.required {
        return writing.await;
    }
    tokio::time::timeout(OPTIONAL_LIMIT, writing)
        .await
        .unwrap_or_else(|_| Err(Error::unavailable("it did not take the object within 10 s")))
}
