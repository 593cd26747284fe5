//! Who enrolled whom, who was withdrawn by whom, and whom that leaves trusted (docs/format.md, section 2).
//!
//! Invariant: the outcome depends on what the statements say and on nothing else: not on the order in which they are
//! found, and not on the times that they claim, which whoever holds a stolen key can choose. Where statements contradict
//! each other fewer are trusted, never more. The way out of that lies outside the store, in the repository file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use pgkeep_base::{Error, RepositoryId, Result, limits};
use pgkeep_store::{ObjectName, Store};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::fetch::{Unread, find_copy};
use crate::sign::{Fingerprint, Trust, verify_document};

/// The largest statement that is read: it may keep about a thousand others.
const STATEMENT_BYTES_MAX: u64 = 64 << 10;

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
        /// Its own statements about signers that stay in force, by the hash of the document. All others are void,
        /// whatever time they bear.
        #[serde(default)]
        keep: Vec<Digest>,
    },
}

/// A statement about a signer whose signature is good; whether it counts is for [`judge`] to say.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The control object.
    pub name: ObjectName,
    /// Hash of the document.
    pub digest: Digest,
    /// Who says so.
    pub by: Fingerprint,
    /// When, by its own word.
    pub at: Option<Timestamp>,
    /// What.
    pub change: SignerChange,
}

/// The statements that were found.
#[derive(Debug, Default)]
pub struct Statements {
    /// Those with a good signature, sorted by name.
    pub good: Vec<Statement>,
    /// Objects that are no such statement in any place: rubbish, or damaged.
    pub unusable: Vec<(ObjectName, Error)>,
}

/// Reads the statements of these names. Trust plays no part yet.
///
/// # Errors
/// `Unavailable` or `Denied` where a place did not give one that may be good: it could be a withdrawal.
pub async fn read_statements(
    stores: &[Arc<dyn Store>],
    repository: RepositoryId,
    names: Vec<ObjectName>,
) -> Result<Statements> {
    let mut reads = Vec::with_capacity(names.len());
    for name in names {
        reads.push(read_statement(stores, repository, name));
    }
    let read: Vec<_> = stream::iter(reads).buffered(limits::REQUESTS_IN_FLIGHT).collect().await;
    let mut statements = Statements::default();
    for (name, result) in read {
        match result {
            Ok(statement) => statements.good.push(statement),
            // It was listed, and somebody removed it just now.
            Err(Unread::Absent) => {}
            Err(why @ Unread::Unknown(_)) => return Err(why.into_error(&name)),
            Err(why) => statements.unusable.push((name.clone(), why.into_error(&name))),
        }
    }
    Ok(statements)
}

async fn read_statement(
    stores: &[Arc<dyn Store>],
    repository: RepositoryId,
    name: ObjectName,
) -> (ObjectName, Result<Statement, Unread>) {
    let read = |bytes: bytes::Bytes| statement(&name, &bytes, repository);
    let found = find_copy(stores, &name, STATEMENT_BYTES_MAX, read).await;
    (name, found)
}

fn statement(name: &ObjectName, bytes: &[u8], repository: RepositoryId) -> Result<Statement> {
    // Whose word counts depends on all statements together.
    let verified = verify_document(name, bytes, &Trust::default().accept_any())?;
    verified.check_repository(repository)?;
    Ok(Statement {
        name: name.clone(),
        digest: Digest::of(bytes),
        by: verified.signer.clone(),
        at: verified.time(),
        change: verified.parse()?,
    })
}

/// What all statements together come to.
#[derive(Debug, Default)]
pub struct Judged {
    /// Whose documents are taken.
    pub trust: Trust,
    /// The statements that count, sorted by name.
    pub in_force: Vec<Statement>,
}

/// Adds to `roots`, whom this installation trusts by itself, what the statements say.
///
/// A signer has a say if it is a root, or if somebody who has a say enrols it; one that this installation itself has
/// withdrawn has none. Every withdrawal by one who has a say counts (but of oneself). Of a withdrawn signer's
/// own enrolments count only those that every withdrawal of it keeps.
pub fn judge(statements: Vec<Statement>, roots: Trust) -> Judged {
    let silenced: BTreeSet<Fingerprint> = roots.withdrawn().map(|(signer, _)| signer.clone()).collect();
    let trusted = |_: &Statement| true;
    let speakers = enrolled(&statements, &roots, &silenced, &trusted);
    let mut withdrawals: BTreeMap<&Fingerprint, Vec<(Timestamp, &[Digest])>> = BTreeMap::new();
    let has_say = |statement: &Statement| speakers.contains(&statement.by) && !silenced.contains(&statement.by);
    for statement in statements.iter().filter(|statement| has_say(statement)) {
        if let SignerChange::Remove { remove, from, keep } = &statement.change
            && *remove != statement.by
        {
            withdrawals.entry(remove).or_default().push((*from, keep));
        }
    }
    let kept = |statement: &Statement| {
        let of_signer = withdrawals.get(&statement.by);
        of_signer.is_none_or(|all| all.iter().all(|(_, keep)| keep.contains(&statement.digest)))
    };
    let believed = enrolled(&statements, &roots, &silenced, &kept);
    let counts = |statement: &Statement| {
        has_say(statement)
            && match &statement.change {
                SignerChange::Add { .. } => believed.contains(&statement.by) && kept(statement),
                SignerChange::Remove { remove, .. } => *remove != statement.by,
            }
    };
    let in_force = statements
        .iter()
        .filter(|statement| counts(statement))
        .cloned()
        .collect();
    let mut trust = roots;
    believed.iter().for_each(|signer| trust.enrol(signer.clone()));
    for (signer, all) in &withdrawals {
        all.iter().for_each(|(from, _)| trust.withdraw(signer, *from));
    }
    Judged { trust, in_force }
}

/// The roots, and whom they and those enrolled by them enrol, by statements that `counts` admits.
fn enrolled(
    statements: &[Statement],
    roots: &Trust,
    silenced: &BTreeSet<Fingerprint>,
    counts: &dyn Fn(&Statement) -> bool,
) -> BTreeSet<Fingerprint> {
    let mut signers: BTreeSet<Fingerprint> = roots.signers().cloned().collect();
    loop {
        let before = signers.len();
        for statement in statements.iter().filter(|statement| counts(statement)) {
            let speaks = signers.contains(&statement.by) && !silenced.contains(&statement.by);
            if let (SignerChange::Add { add, .. }, true) = (&statement.change, speaks) {
                signers.insert(add.clone());
            }
        }
        if signers.len() == before {
            return signers;
        }
    }
}

#[cfg(test)]
mod tests;
