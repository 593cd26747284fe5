//! Control objects: small signed statements that change what holds for a repository (docs/format.md, section 9).
//!
//! Invariant: nothing is overwritten; what holds is what all of them say together. Who may say what of signers is in
//! `signers`, to whom is sealed from now on in `recipients`, further wrappings of keys in `crate::rewrap`. The names of
//! the other kinds are reserved.

pub mod recipients;
pub mod signers;

use futures::TryStreamExt;
use pgkeep_base::{BackupId, Error, Result};
use pgkeep_store::{ObjectName, Payload, Store};
use serde::Serialize;

use crate::names;
use crate::seal::Sealer;

/// What a control object is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ControlKind {
    /// Enrols or withdraws a signer.
    Signer,
    /// The recipients from now on.
    Recipients,
    /// Further wrappings of objects' keys.
    Rewrap,
    /// Reserves a timeline number.
    Timeline,
    /// Keeps a backup.
    Pin,
    /// No longer keeps it.
    Unpin,
    /// Condemns objects.
    Mark,
    /// Says what prune removed.
    Tombstone,
    /// The tier of a backup.
    Tier,
    /// Heads that a keeper has seen.
    Witness,
}

const KINDS: [(ControlKind, &str); 10] = [
    (ControlKind::Signer, "signer"),
    (ControlKind::Recipients, "recipients"),
    (ControlKind::Rewrap, "rewrap"),
    (ControlKind::Timeline, "timeline"),
    (ControlKind::Pin, "pin"),
    (ControlKind::Unpin, "unpin"),
    (ControlKind::Mark, "mark"),
    (ControlKind::Tombstone, "tombstone"),
    (ControlKind::Tier, "tier"),
    (ControlKind::Witness, "witness"),
];

impl ControlKind {
    /// The word in the name.
    pub fn as_str(self) -> &'static str {
        KINDS
            .iter()
            .find(|(kind, _)| *kind == self)
            .map(|(_, word)| *word)
            .expect("every kind has a word")
    }

    /// The kind that a word names.
    pub fn parse(word: &str) -> Option<ControlKind> {
        KINDS.iter().find(|(_, other)| *other == word).map(|(kind, _)| *kind)
    }
}

/// The name of a control object.
pub fn control_name(id: &BackupId, kind: ControlKind) -> ObjectName {
    ObjectName::new(format!("control/{id}-{}", kind.as_str())).expect("ids and kinds are legal names")
}

/// Reads a logical name; `None` for other names and for kinds that this program does not know.
pub fn parse_control_name(name: &ObjectName) -> Option<(BackupId, ControlKind)> {
    let (id, kind) = name.as_str().strip_prefix("control/")?.rsplit_once('-')?;
    Some((id.parse().ok()?, ControlKind::parse(kind)?))
}

/// A control object that is ready to be created, in every place under this name.
#[derive(Clone, Debug)]
pub struct ControlObject {
    /// Its name.
    pub name: ObjectName,
    /// Its bytes.
    pub payload: Payload,
}

/// Signs a statement under a new id. `created_at` is added to it.
pub fn seal_control(sealer: &Sealer, kind: ControlKind, statement: &impl Serialize) -> Result<ControlObject> {
    let now = sealer.clock().now();
    let name = control_name(&BackupId::new(now), kind);
    let failed = || Error::internal(format!("could not write what {name} should say"));
    let mut payload = serde_json::to_value(statement).map_err(|source| failed().source(source))?;
    let members = payload.as_object_mut().ok_or_else(failed)?;
    members.insert("created_at".to_owned(), now.to_string().into());
    let payload = Payload::from(sealer.sign(&name, &payload)?);
    Ok(ControlObject { name, payload })
}

/// The control objects of a place, by logical name, sorted by id; those of kinds that this program does not know, and
/// the genesis, are left out. Costs one listing.
pub async fn list_control(store: &dyn Store) -> Result<Vec<(ObjectName, ControlKind)>> {
    let mut found = Vec::new();
    let mut listed = store.list("control", None);
    while let Some(meta) = listed.try_next().await? {
        let name = names::logical(&meta.name);
        if let Some((_, kind)) = parse_control_name(&name) {
            found.push((name, kind));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests;
