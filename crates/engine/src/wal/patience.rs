//! How long an optional place may hold up archiving: not long, and not for every segment anew.
//!
//! Invariant: only optional places are ever left out; what they miss is told, and shows in `status`.

use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pgkeep_base::{Error, Result};
use pgkeep_store::{Created, ObjectName, Payload};

use crate::engine::Engine;
use crate::setup::Place;

/// How long an optional place may take for one object.
const OPTIONAL_LIMIT: Duration = Duration::from_secs(10);
/// How long it is left alone after it failed.
const REST: SignedDuration = SignedDuration::from_secs(60);

/// Why an optional place is not asked now, if it is not.
pub fn resting(engine: &Engine, place: &Place) -> Option<Error> {
    if place.required {
        return None;
    }
    let failed_at: Timestamp = std::fs::read_to_string(mark(engine, place)).ok()?.trim().parse().ok()?;
    let age = engine.now().duration_since(failed_at);
    let rests = !age.is_negative() && age < REST;
    rests.then(|| Error::unavailable(format!("it failed at {failed_at} and is left alone for a minute")))
}

/// Creates an object; an optional place that takes too long, or fails, is left alone for a while.
pub async fn create(engine: &Engine, place: &Place, name: &ObjectName, payload: Payload) -> Result<Created> {
    let writing = place.store.create(name, payload);
    if place.required {
        return writing.await;
    }
    let outcome = match tokio::time::timeout(OPTIONAL_LIMIT, writing).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::unavailable("it did not take the segment within 10 s")),
    };
    // Without the mark the next segment waits again; nothing worse.
    let _ = match &outcome {
        Ok(_) => std::fs::remove_file(mark(engine, place)),
        Err(_) => std::fs::write(mark(engine, place), engine.now().to_string()),
    };
    outcome
}

fn mark(engine: &Engine, place: &Place) -> PathBuf {
    engine.setup().state_dir.join(format!("failed-{}", place.name))
}
