//! Brings control objects about keys into every place.
//!
//! Invariant: success means that every required place has the object. What an optional place misses is told, and brought
//! there by the next command that changes keys.

use pgkeep_base::{Error, Result, ResultExt};
use pgkeep_repo::control::{ControlKind, ControlObject};
use pgkeep_repo::sign::{Fingerprint, Trust};
use pgkeep_store::{ObjectName, Payload};

use crate::controls::Controls;
use crate::engine::Engine;
use crate::setup::Place;

/// The largest control object that is copied from place to place.
const CONTROL_BYTES_MAX: u64 = 16 << 20;

/// This host's fingerprint, if others take its word.
///
/// # Errors
/// `Refused` where only this host trusts itself: what it says of keys would count nowhere.
pub(super) async fn need_vouched(engine: &Engine) -> Result<Fingerprint> {
    let own = engine.setup().signing_key.fingerprint();
    let controls = engine.controls().await?;
    if Trust::of_list(controls.vouched.clone()).trusts(&own, Some(engine.now())) {
        return Ok(own);
    }
    let why = match controls.vouched.withdrawn.get(&own) {
        Some(from) => format!("it signs as {own}, which was withdrawn from {from} on"),
        None => format!("it signs as {own}, which neither the repository file nor a control object names"),
    };
    Err(Error::refused("what this host says of keys counts nowhere")
        .detail(why)
        .hint("Run it on a host that is trusted (`pgkeep keys list`), or add `--repository-file` to change this host's own file alone."))
}

/// Creates a control object in every place.
pub(super) async fn publish(engine: &Engine, object: &ControlObject) -> Result<()> {
    for place in engine.places() {
        put(engine, place, &object.name, object.payload.clone()).await?;
    }
    Ok(())
}

/// Copies the control objects about keys to the places that were not there when they were made.
pub(super) async fn spread(engine: &Engine, controls: &Controls) -> Result<()> {
    let about_keys = |kind: &ControlKind| {
        matches!(
            kind,
            ControlKind::Signer | ControlKind::Recipients | ControlKind::Rewrap
        )
    };
    for (name, (_, places)) in controls.listed.iter().filter(|(_, (kind, _))| about_keys(kind)) {
        for place in engine.places().iter().filter(|place| !places.contains(&place.name)) {
            let from = engine.places().iter().find(|other| places.contains(&other.name));
            let Some(from) = from else { continue };
            let Ok(bytes) = from.store.read(name, CONTROL_BYTES_MAX).await else {
                continue;
            };
            // A copy of rubbish helps nobody.
            if controls.opener.document(name, &bytes).is_ok() {
                put(engine, place, name, bytes.into()).await?;
            }
        }
    }
    Ok(())
}

async fn put(engine: &Engine, place: &Place, name: &ObjectName, payload: Payload) -> Result<()> {
    let created = place.store.create(name, payload).await;
    match created.during(|| format!("store {name} in repository \"{}\"", place.name)) {
        Err(error) if !place.required => {
            let why = error.detail_text().unwrap_or_default();
            engine.warn(format!(
                "the optional repository \"{}\" lacks {name}: {why}; the next `pgkeep keys` command that changes something brings it there",
                place.name
            ));
            Ok(())
        }
        Err(error) => Err(error.or_hint("Running it again is safe: it goes on where it stopped.")),
        Ok(_) => Ok(()),
    }
}
