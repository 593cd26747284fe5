//! To whom everything is sealed from a moment on, and the naming key for them (docs/format.md, section 9).
//!
//! Invariant: what is sealed follows the repository file of whoever writes; this object tells everybody who can read
//! whether that file is the current one. It holds the naming key sealed to the new recipients, so that any of their
//! identities makes a lost repository file again, as those of the beginning do from the genesis.

use std::sync::Arc;

use jiff::Timestamp;
use pgkeep_base::{Error, Result, ResultExt};
use pgkeep_store::{ObjectName, Store};
use serde::{Deserialize, Serialize};

use super::{ControlKind, ControlObject, seal_control};
use crate::fetch::{Unread, read_document};
use crate::keys::{Identity, Recipient, unwrap_key, wrap_key};
use crate::open::Opener;
use crate::repofile::{NamingKey, RepositoryFile};
use crate::seal::{SealMode, Sealer};
use crate::sign::{Fingerprint, Verified};

/// The largest such object that is read: thousands of recipients.
pub const RECIPIENTS_BYTES_MAX: u64 = 2 << 20;

#[derive(Serialize, Deserialize)]
struct Payload {
    recipients: Vec<Recipient>,
    /// Base64 of a binary age file that holds the naming key's 32 bytes.
    naming_key: String,
}

/// What such an object says.
#[derive(Clone, Debug)]
pub struct RecipientsChange {
    /// The control object.
    pub name: ObjectName,
    /// When, by the word of whoever signed it.
    pub at: Timestamp,
    /// Who signed it.
    pub by: Fingerprint,
    /// The recipients from then on.
    pub recipients: Vec<Recipient>,
    naming_key: String,
}

impl RecipientsChange {
    /// What a control object says. Never with "accept any": an accepted stranger must not say to whom everything is
    /// sealed.
    ///
    /// # Errors
    /// `Refused` for a stranger's; `Corrupt` where it names no recipient.
    pub fn read(name: &ObjectName, verified: Verified) -> Result<RecipientsChange> {
        let (at, by) = (verified.time(), verified.signer.clone());
        if !verified.trusted {
            return Err(Error::refused(format!(
                "{name} is signed by {by}, which is not trusted"
            )));
        }
        let Payload { recipients, naming_key } = verified.parse().during(|| format!("read {name}"))?;
        let at = at.filter(|_| !recipients.is_empty());
        Ok(RecipientsChange {
            name: name.clone(),
            at: at.ok_or_else(|| Error::corrupt(format!("{name} names no recipient, or no time")))?,
            by,
            recipients,
            naming_key,
        })
    }

    /// The recipients as a head lists them: sorted, each once.
    pub fn sorted(&self) -> Vec<String> {
        sorted(&self.recipients)
    }

    /// The naming key, with an identity of one of the recipients.
    ///
    /// # Errors
    /// `Refused` where no identity fits; `Corrupt` where it is no key.
    pub fn naming_key(&self, identities: &[Identity]) -> Result<NamingKey> {
        unwrap_key(&self.naming_key, identities)
            .map(NamingKey)
            .during(|| format!("open the naming key in {}", self.name))
    }
}

/// Recipients as a head lists them: sorted, each once.
pub fn sorted(recipients: &[Recipient]) -> Vec<String> {
    let mut sorted: Vec<String> = recipients.iter().map(Recipient::to_string).collect();
    sorted.sort();
    sorted.dedup();
    sorted
}

/// Says that from now on everything is sealed to the recipients of `file`.
///
/// # Errors
/// `Invalid` where nothing is sealed.
pub fn seal_recipients(sealer: &Sealer, file: &RepositoryFile) -> Result<ControlObject> {
    let SealMode::Age(recipients) = &file.mode else {
        return Err(Error::invalid("a repository that is not encrypted has no recipients"));
    };
    let payload = Payload {
        recipients: recipients.clone(),
        naming_key: wrap_key(&file.naming_key.0, recipients)?,
    };
    seal_control(sealer, ControlKind::Recipients, &payload)
}

/// The changes of recipients that were found.
#[derive(Debug, Default)]
pub struct RecipientsChanges {
    /// Those by trusted signers, newest first.
    pub changes: Vec<RecipientsChange>,
    /// Objects that nobody trusted has signed, or that are rubbish or damaged. They don't count: a stranger must not be
    /// able to keep anyone from writing.
    pub unusable: Vec<(ObjectName, Error)>,
}

impl RecipientsChanges {
    /// What holds now.
    pub fn newest(&self) -> Option<&RecipientsChange> {
        self.changes.first()
    }
}

/// Reads the changes of recipients of these names.
///
/// # Errors
/// `Unavailable` or `Denied` where a place did not give one that may be good.
pub async fn read_changes(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    mut names: Vec<ObjectName>,
) -> Result<RecipientsChanges> {
    names.sort();
    let mut found = RecipientsChanges::default();
    for name in names.into_iter().rev() {
        match read_document(stores, opener, &name, RECIPIENTS_BYTES_MAX).await {
            Ok(verified) => match RecipientsChange::read(&name, verified) {
                Ok(change) => found.changes.push(change),
                Err(error) => found.unusable.push((name, error)),
            },
            Err(Unread::Absent) => {}
            Err(why @ Unread::Unknown(_)) => return Err(why.into_error(&name)),
            Err(why) => {
                let error = why.into_error(&name);
                found.unusable.push((name, error));
            }
        }
    }
    Ok(found)
}
