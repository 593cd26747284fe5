//! `control/genesis`: the repository's description of itself, and the way back to a lost repository file.
//!
//! Invariant: the naming key leaves an installation only sealed to the recipients (with mode `none`, in plaintext, as
//! everything). Reading needs no repository file, so that whoever has an identity can make it again; its signer is
//! then either known from elsewhere or shown, to be compared by a person.

use jiff::SignedDuration;
use pgkeep_base::{Error, Result, ResultExt};
use pgkeep_store::ObjectName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::sync::Arc;

use crate::frame::encode;
use crate::keys::{Identity, Recipient};
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

/// Makes the repository file again from the bytes of `control/genesis` and an identity.
///
/// The recipients and signers are those of the beginning; later ones are in control objects. Also returns who signed
/// it: with `Trust::accept_any`, show that.
///
/// # Errors
/// As [`Opener::open_object`].
pub fn recover(bytes: &[u8], identities: Vec<Identity>, trust: Arc<Trust>) -> Result<(RepositoryFile, Fingerprint)> {
    let name = genesis_name();
    // The id is needed to open the object, and only the object knows it.
    let id = verify_document(&name, header_document(&name, bytes)?, &trust)?.repository()?;
    let opener = Opener::new(id, identities, trust);
    let (header, contents) = opener.open_object(&name, bytes, Kind::Genesis)?;
    let during = || format!("read {name}");
    let members: Members = header.parse().during(during)?;
    let bad = |why: &str| Error::corrupt(format!("{name} does not describe a repository")).detail(why);
    let content: Content = serde_json::from_slice(&zeroize::Zeroizing::new(contents.concat()))
        .map_err(|_| bad("its body is not what it should be"))?;
    let mode = match &header.seal {
        Seal::None => SealMode::None,
        Seal::Age { .. } if members.recipients.is_empty() => return Err(bad("it is sealed, yet names no recipient")),
        Seal::Age { .. } => SealMode::Age(members.recipients),
    };
    let naming_key = NamingKey::from_hex(&content.naming_key).ok_or_else(|| bad("its naming key is not one"))?;
    let reuse_horizon = SignedDuration::from_secs(members.reuse_horizon_seconds);
    Ok((
        RepositoryFile {
            id,
            naming_key,
            reuse_horizon,
            mode,
            signers: members.signers,
        },
        header.signer,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::SigningKey;
    use pgkeep_base::{ErrorKind, SystemClock};

    #[test]
    fn a_lost_repository_file_comes_back_with_an_identity_and_only_so() {
        let identity = Identity::generate();
        let key = Arc::new(SigningKey::generate().unwrap());
        for mode in [SealMode::Age(vec![identity.recipient()]), SealMode::None] {
            let file = RepositoryFile::new(mode.clone(), vec![key.fingerprint()]).unwrap();
            let sealer = file.sealer(key.clone(), Arc::new(SystemClock)).unwrap();
            let bytes = seal_genesis(&sealer, &file).unwrap().to_bytes();
            let trust = Arc::new(Trust::default().accept_any());
            let (again, signer) = recover(&bytes, vec![identity.clone()], trust.clone()).unwrap();
            assert_eq!(*again.to_text().unwrap(), *file.to_text().unwrap());
            assert_eq!((signer, trust.accepted()), (key.fingerprint(), vec![key.fingerprint()]));
            let stranger = recover(&bytes, vec![Identity::generate()], trust.clone());
            assert_eq!(stranger.is_ok(), mode == SealMode::None);
            let unknown = recover(&bytes, vec![identity.clone()], Arc::default()).unwrap_err();
            assert_eq!(unknown.kind(), ErrorKind::Refused);
            for cut in [0, 4, 11, 12, 100, bytes.len() - 1] {
                let error = recover(&bytes[..cut], vec![identity.clone()], trust.clone()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {cut}");
            }
        }
    }
}
