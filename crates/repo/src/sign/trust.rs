//! Whose documents are taken (docs/format.md, section 2).
//!
//! Invariant: a signer is believed only if it was named from outside the store, or enrolled by one that is believed
//! (`control::signers`); "accept any" lets documents pass but makes nobody trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use jiff::Timestamp;
use pgkeep_base::{Error, Result};
use pgkeep_store::ObjectName;

use super::Fingerprint;

/// Trusted and withdrawn signers, as plain data.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct TrustList {
    /// Trusted signers, also the withdrawn ones.
    pub signers: BTreeSet<Fingerprint>,
    /// From when on a signer is no longer believed.
    pub withdrawn: BTreeMap<Fingerprint, Timestamp>,
}

/// Whose documents are taken.
#[derive(Debug, Default)]
pub struct Trust {
    signers: BTreeSet<Fingerprint>,
    /// From when on a signer is no longer believed; it need not have been enrolled yet.
    withdrawn: BTreeMap<Fingerprint, Timestamp>,
    accept_any: bool,
    accepted: Mutex<BTreeSet<Fingerprint>>,
}

impl Trust {
    /// Trusts exactly `signers`.
    pub fn new(signers: impl IntoIterator<Item = Fingerprint>) -> Trust {
        Trust {
            signers: signers.into_iter().collect(),
            ..Trust::default()
        }
    }

    /// Takes any signer from now on, and remembers those that nobody trusted (`--accept-signer`).
    #[must_use]
    pub fn accept_any(mut self) -> Trust {
        self.accept_any = true;
        self
    }

    /// Whom it trusts and withdraws, as plain data: what a recovery plan takes along.
    pub fn to_list(&self) -> TrustList {
        TrustList {
            signers: self.signers.clone(),
            withdrawn: self.withdrawn.clone(),
        }
    }

    /// Trusts whom a list says.
    pub fn of_list(list: TrustList) -> Trust {
        Trust {
            signers: list.signers,
            withdrawn: list.withdrawn,
            ..Trust::default()
        }
    }

    /// Enrols a signer. One that was withdrawn stays so.
    pub fn enrol(&mut self, signer: Fingerprint) {
        self.signers.insert(signer);
    }

    /// Withdraws a signer for documents whose own time is `from` or later (or that bear none).
    pub fn withdraw(&mut self, signer: &Fingerprint, from: Timestamp) {
        let until = self.withdrawn.entry(signer.clone()).or_insert(from);
        *until = from.min(*until);
    }

    /// Whether a document by `signer` that says it is of `time` is to be believed.
    pub fn trusts(&self, signer: &Fingerprint, time: Option<Timestamp>) -> bool {
        let believed = |until: &Timestamp| time.is_some_and(|time| time < *until);
        self.signers.contains(signer) && self.withdrawn.get(signer).is_none_or(believed)
    }

    /// The trusted signers, also the withdrawn ones.
    pub fn signers(&self) -> impl Iterator<Item = &Fingerprint> {
        self.signers.iter()
    }

    /// From when on a signer is no longer believed, if it was withdrawn.
    pub fn withdrawn_from(&self, signer: &Fingerprint) -> Option<Timestamp> {
        self.withdrawn.get(signer).copied()
    }

    /// The withdrawn signers, and from when on each is no longer believed.
    pub fn withdrawn(&self) -> impl Iterator<Item = (&Fingerprint, Timestamp)> {
        self.withdrawn.iter().map(|(signer, from)| (signer, *from))
    }

    /// The untrusted signers that `accept_any` let pass so far.
    pub fn accepted(&self) -> Vec<Fingerprint> {
        self.accepted
            .lock()
            .expect("nobody panics with this lock")
            .iter()
            .cloned()
            .collect()
    }

    pub(super) fn judge(&self, signer: &Fingerprint, time: Option<Timestamp>, name: &ObjectName) -> Result<bool> {
        if self.trusts(signer, time) {
            return Ok(true);
        }
        if self.accept_any {
            self.accepted
                .lock()
                .expect("nobody panics with this lock")
                .insert(signer.clone());
            return Ok(false);
        }
        Err(self.refusal(signer, name))
    }

    fn refusal(&self, signer: &Fingerprint, name: &ObjectName) -> Error {
        match self.withdrawn_from(signer) {
            Some(from) => Error::refused(format!(
                "{name} is signed by {signer}, which was withdrawn from {from} on"
            ))
            .hint("`pgkeep keys list` shows who withdrew it; `--accept-signer` takes what it signed nevertheless."),
            None => Error::refused(format!("{name} is signed by {signer}, which is not trusted")).hint(format!(
                "If that host is yours: `pgkeep keys trust {signer}` (`pgkeep keys list` shows who is trusted), or use \
                 --accept-signer once."
            )),
        }
    }
}
