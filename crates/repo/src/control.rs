//! Control objects: small signed statements that change what holds for a repository (docs/format.md, section 9).
//!
//! Invariant: nothing is overwritten; what holds is what all of them say together, and a signer counts only if a trusted
//! one enrolled it. Signers and lineages are written and read here; the names of the other kinds are reserved.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::TryStreamExt;
use jiff::Timestamp;
use pgkeep_base::{BackupId, ClusterName, Error, RepositoryId, Result, SystemId};
use pgkeep_store::{ObjectName, Payload, Store};
use serde::{Deserialize, Serialize};

use crate::fetch::find_copy;
use crate::names;
use crate::seal::Sealer;
use crate::sign::{Fingerprint, Trust, Verified, verify_document};

/// The largest control object that is read.
pub const CONTROL_BYTES_MAX: u64 = 16 << 20;
/// How many enrolments may depend on one another: each round trusts those whom the round before made trusted.
const ENROLMENT_ROUNDS_MAX: usize = 16;

/// What a control object is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ControlKind {
    /// Enrols or withdraws a signer.
    Signer,
    /// The recipients from now on.
    Recipients,
    /// Further wrappings of objects' keys.
    Rewrap,
    /// Introduces a lineage.
    Lineage,
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

const KINDS: [(ControlKind, &str); 11] = [
    (ControlKind::Signer, "signer"),
    (ControlKind::Recipients, "recipients"),
    (ControlKind::Rewrap, "rewrap"),
    (ControlKind::Lineage, "lineage"),
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

/// Enrols or withdraws a signer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SignerChange {
    /// From now on its documents are believed.
    Add {
        /// Who.
        add: Fingerprint,
        /// What people call it, such as the name of its host.
        name: String,
    },
    /// Its documents that bear this time or a later one (or none) are no longer believed.
    Remove {
        /// Who.
        remove: Fingerprint,
        /// From when on.
        from: Timestamp,
    },
}

/// Introduces a lineage: why a cluster has a new system identifier.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LineageNote {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its new system identifier.
    pub system_identifier: SystemId,
    /// The one that it continues, if any.
    pub predecessor: Option<SystemId>,
    /// PostgreSQL's major version.
    pub major: u16,
    /// PostgreSQL's catalog version.
    pub catalog_version: u32,
    /// Such as `pg_upgrade`, or what the operator said.
    pub reason: String,
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

/// All logical names of control objects of one kind in a place, sorted by id.
pub async fn control_names(store: &dyn Store, kind: ControlKind) -> Result<Vec<ObjectName>> {
    let mut found = Vec::new();
    let mut listed = store.list("control", None);
    while let Some(meta) = listed.try_next().await? {
        let name = names::logical(&meta.name);
        if parse_control_name(&name).is_some_and(|(_, other)| other == kind) {
            found.push(name);
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// What did not count when signers were enrolled.
#[derive(Debug, Default)]
pub struct Enrolment {
    /// Objects that are bad, or whose signer is not trusted.
    pub refused: Vec<(ObjectName, Error)>,
    /// Places that could not be listed, so that signers may be missing.
    pub unlisted: Vec<(String, Error)>,
}

/// Adds to `trust` the signers that control objects enrol, and withdraws those that they withdraw.
///
/// Objects whose signer is not trusted, or that are bad, are left aside and returned with the reason: a stranger who
/// can write to a store must not be able to keep anyone from reading it.
pub async fn enrol_signers(stores: &[Arc<dyn Store>], repository: RepositoryId, trust: &mut Trust) -> Enrolment {
    let mut enrolment = Enrolment::default();
    let mut names = BTreeSet::new();
    for store in stores {
        match control_names(store.as_ref(), ControlKind::Signer).await {
            Ok(found) => names.extend(found),
            Err(error) => enrolment.unlisted.push((store.url().to_owned(), error)),
        }
    }
    let mut left: Vec<ObjectName> = names.into_iter().collect();
    for _ in 0..ENROLMENT_ROUNDS_MAX {
        let before = left.len();
        enrolment.refused.clear();
        for name in left {
            let read = find_copy(stores, &name, CONTROL_BYTES_MAX, |bytes| {
                signer_change(&name, &bytes, repository, trust)
            });
            match read.await {
                Ok(change) => apply(change, trust),
                Err(why) => enrolment.refused.push((name.clone(), why.into_error(&name))),
            }
        }
        left = enrolment.refused.iter().map(|(name, _)| name.clone()).collect();
        if left.is_empty() || left.len() == before {
            break;
        }
    }
    enrolment
}

/// Verified with the trust gathered so far, never with "accept any": an accepted stranger must not enrol others.
fn signer_change(name: &ObjectName, bytes: &[u8], repository: RepositoryId, trust: &Trust) -> Result<SignerChange> {
    let verified: Verified = verify_document(name, bytes, trust)?;
    verified.check_repository(repository)?;
    if !verified.trusted {
        return Err(Error::refused(format!(
            "{name} is signed by {}, which is not trusted",
            verified.signer
        )));
    }
    verified.parse()
}

fn apply(change: SignerChange, trust: &mut Trust) {
    match change {
        SignerChange::Add { add, .. } => trust.enrol(add),
        SignerChange::Remove { remove, from } => trust.withdraw(&remove, from),
    }
}

#[cfg(test)]
mod tests;
