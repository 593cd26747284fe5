//! `control/genesis`: the repository's description of itself, and the way back to a lost repository file.
//!
//! Invariant: the naming key leaves an installation only sealed to the recipients (with mode `none`, in plaintext, as
//! everything). Reading needs no repository file, so that whoever has an identity can make it again; its signer is
//! then either known from elsewhere or shown, to be compared by a person.

use jiff::SignedDuration;
use pgkeep_base::{Error, RepositoryId, Result, ResultExt};
use pgkeep_store::ObjectName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::sync::Arc;

use crate::frame::encode;
use crate::keys::Recipient;
use crate::open::{Opener, header_document};
use crate::repofile::{NamingKey, RepositoryFile};
use crate::seal::{Kind, Seal, SealMode, SealedObject, Sealer};
use crate::sign::{Fingerprint, Trust, verify_document};

/// The largest genesis object that is read.
pub const GENESIS_BYTES_MAX: u64 = 2 << 20;

/// The name of the first object of every repository.
pub fn genesis_name() -> ObjectName {
    ObjectName::new("control/genesis").expect("a legal name")
}

#[derive(Serialize, Deserialize)]
struct Content {
    naming_key: zeroize::Zeroizing<String>,
}

#[derive(Deserialize)]
struct Members {
    reuse_horizon_seconds: i64,
    recipients: Vec<Recipient>,
    signers: Vec<Fingerprint>,
}

/// The genesis of the repository that `file` describes.
///
/// # Errors
/// `Internal` where `sealer` is another repository's.
pub fn seal_genesis(sealer: &Sealer, file: &RepositoryFile) -> Result<SealedObject> {
    if sealer.repository() != file.id {
        return Err(Error::internal(
            "a genesis was to be sealed by another repository's sealer",
        ));
    }
    let mut header = Map::new();
    header.insert("reuse_horizon_seconds".to_owned(), file.reuse_horizon.as_secs().into());
    header.insert("recipients".to_owned(), json!(sealer.recipients()));
    header.insert("signers".to_owned(), json!(file.signers));
    let content = serde_json::to_vec(&Content {
        naming_key: file.naming_key.to_hex(),
    })
    .map(zeroize::Zeroizing::new);
    let content = content.map_err(|source| Error::internal("could not write a genesis").source(source))?;
    sealer
        .begin(&genesis_name(), Kind::Genesis)?
        .finish(header, Some(&encode(&content, 1)?))
}

/// What a genesis says to anybody.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// The repository's id.
    pub id: RepositoryId,
    /// How long after a backup finished the next one may reuse its packs.
    pub reuse_horizon: SignedDuration,
    /// To whom everything was sealed in the beginning.
    pub mode: SealMode,
    /// Who was trusted in the beginning.
    pub signers: Vec<Fingerprint>,
    /// Who signed it: with `Trust::accept_any`, show that.
    pub by: Fingerprint,
}

impl Genesis {
    /// Reads and verifies the bytes of `control/genesis`. Needs no identity, and no repository file.
    ///
    /// # Errors
    /// As [`Opener::verify_keyless`]; `Corrupt` where it does not describe a repository.
    pub fn read(bytes: &[u8], trust: &Arc<Trust>) -> Result<Genesis> {
        let name = genesis_name();
        // The id is needed to verify the object, and only the object knows it.
        let id = verify_document(&name, header_document(&name, bytes)?, trust)?.repository()?;
        let header = Opener::new(id, Vec::new(), Arc::clone(trust)).verify_keyless(&name, bytes)?;
        let members: Members = header.parse().during(|| format!("read {name}"))?;
        let mode = match &header.seal {
            Seal::None => SealMode::None,
            Seal::Age { .. } if members.recipients.is_empty() => {
                return Err(undescribed("it is sealed, yet names no recipient"));
            }
            Seal::Age { .. } => SealMode::Age(members.recipients),
        };
        Ok(Genesis {
            id,
            reuse_horizon: SignedDuration::from_secs(members.reuse_horizon_seconds),
            mode,
            signers: members.signers,
            by: header.signer,
        })
    }
}

/// The naming key in the bytes of `control/genesis`.
///
/// # Errors
/// As [`Opener::open_object`]; `Corrupt` where there is none.
pub fn open_naming_key(opener: &Opener, bytes: &[u8]) -> Result<NamingKey> {
    let (_, contents) = opener.open_object(&genesis_name(), bytes, Kind::Genesis)?;
    let content: Content = serde_json::from_slice(&zeroize::Zeroizing::new(contents.concat()))
        .map_err(|_| undescribed("its body is not what it should be"))?;
    NamingKey::from_hex(&content.naming_key).ok_or_else(|| undescribed("its naming key is not one"))
}

fn undescribed(why: &str) -> Error {
    Error::corrupt(format!("{} does not describe a repository", genesis_name())).detail(why)
}
