//! Signed documents: who wrote a statement, and that it says this under this name (docs/format.md, section 2).
//!
//! Invariant: a payload leaves [`verify_document`] only after its signature matched under its logical name, its format
//! and features are known, and its signer is trusted (or `accept_any` says to take, and remember, any).
//! Whether it is of *this* repository is asked by [`Verified::check_repository`]; `open::Opener::document` does both.
//! Keys and fingerprints are in `sign/key.rs`, whose documents are taken in `sign/trust.rs`.

mod key;
mod trust;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use pgkeep_base::{Error, RepositoryId, Result};
use pgkeep_store::ObjectName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::names;

use key::decode_exactly;
pub(crate) use key::fill_random;
pub use key::{Fingerprint, SigningKey};
pub use trust::{Trust, TrustList};

/// The format that this program writes, and the largest that it reads.
pub const FORMAT: u64 = 1;
/// The features of that format that it knows: none yet.
const FEATURES: [&str; 0] = [];
const CONTEXT: &str = "pgkeep-signed-1\n";
/// The second line, around the public key and the signature: one way to write it, so that every flipped bit shows.
const SIGNATURE_LINE: (&str, &str, &str) = ("{\"signer\":\"", "\",\"signature\":\"", "\"}");

/// What a signed document says, once its signature has been verified.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The payload.
    pub payload: Map<String, Value>,
    /// Who signed it.
    pub signer: Fingerprint,
    /// False where only `accept_any` let it pass.
    pub trusted: bool,
}

impl Verified {
    /// The payload as a type that ignores members it does not know.
    ///
    /// # Errors
    /// `Corrupt` where a member is missing or of another type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(Value::Object(self.payload.clone()))
            .map_err(|source| Error::corrupt("a signed document lacks what it should say").source(source))
    }

    /// When the document says that it was written.
    pub fn time(&self) -> Option<Timestamp> {
        time_of(&self.payload)
    }

    /// The repository that the document says it is of.
    pub fn repository(&self) -> Result<RepositoryId> {
        let id = self
            .payload
            .get("repository")
            .and_then(Value::as_str)
            .and_then(|id| id.parse().ok());
        id.ok_or_else(|| Error::corrupt("a signed document does not name its repository"))
    }

    /// # Errors
    /// `Refused` where it is of another repository.
    pub fn check_repository(&self, ours: RepositoryId) -> Result<()> {
        let theirs = self.repository()?;
        if theirs == ours {
            return Ok(());
        }
        Err(Error::refused("an object belongs to another repository")
            .detail(format!("it says {theirs}, the repository file says {ours}"))
            .hint("Compare the repository file and the URL: `pgkeep repository show` prints both."))
    }
}

/// Signs `payload` under `name`.
///
/// It must serialise to an object that has `format` and `repository`; `seal::Sealer::sign` adds them.
///
/// # Errors
/// `Internal` where it does not.
pub fn sign_document(key: &SigningKey, name: &ObjectName, payload: &impl Serialize) -> Result<Vec<u8>> {
    let value = serde_json::to_value(payload).map_err(|source| unwritable(name).source(source))?;
    let complete =
        value.get("format").is_some_and(Value::is_u64) && value.get("repository").is_some_and(Value::is_string);
    if !complete {
        return Err(unwritable(name).detail("it lacks format or repository"));
    }
    let mut document = serde_json::to_vec(&value).map_err(|source| unwritable(name).source(source))?;
    let signature = key.sign(&message(name, &document));
    let (open, middle, close) = SIGNATURE_LINE;
    document.push(b'\n');
    let (signer, signature) = (BASE64_STANDARD.encode(key.public()), BASE64_STANDARD.encode(signature));
    document.extend_from_slice(format!("{open}{signer}{middle}{signature}{close}\n").as_bytes());
    Ok(document)
}

fn unwritable(name: &ObjectName) -> Error {
    Error::internal(format!("could not write what {name} should say"))
}

/// Verifies a signed document that was found under `name` (or an alternate of it).
///
/// # Errors
/// `Corrupt` where signature or form are wrong, `Refused` where its signer is not trusted, `Unsupported` where its
/// format or a feature of it is newer than this program.
pub fn verify_document(name: &ObjectName, bytes: &[u8], trust: &Trust) -> Result<Verified> {
    let bad = |why: &str| Error::corrupt(format!("{name} is not what its writer signed")).detail(why);
    let (payload, public_key, signature) = split(bytes).ok_or_else(|| bad("it is not a signed document"))?;
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(&message(name, payload), &signature)
        .map_err(|_| bad("its signature does not match"))?;
    let payload: Map<String, Value> =
        serde_json::from_slice(payload).map_err(|source| bad("its payload is not a JSON object").source(source))?;
    check_format(name, &payload)?;
    let signer = Fingerprint::of(&public_key);
    let trusted = trust.judge(&signer, time_of(&payload), name)?;
    Ok(Verified {
        payload,
        signer,
        trusted,
    })
}

fn message(name: &ObjectName, payload: &[u8]) -> Vec<u8> {
    [
        CONTEXT.as_bytes(),
        names::logical(name).as_str().as_bytes(),
        b"\n",
        payload,
    ]
    .concat()
}

/// Payload, public key and signature of a document that has exactly the form of section 2.
fn split(bytes: &[u8]) -> Option<(&[u8], [u8; 32], [u8; 64])> {
    let at = bytes.iter().position(|&b| b == b'\n')?;
    let (payload, rest) = (&bytes[..at], std::str::from_utf8(&bytes[at + 1..]).ok()?);
    let (open, middle, close) = SIGNATURE_LINE;
    let inner = rest.strip_prefix(open)?.strip_suffix('\n')?.strip_suffix(close)?;
    let (signer, signature) = inner.split_once(middle)?;
    Some((payload, decode_exactly(signer)?, decode_exactly(signature)?))
}

fn check_format(name: &ObjectName, payload: &Map<String, Value>) -> Result<()> {
    let upgrade = "Read it with a newer pgkeep; `pgkeep --version` tells which this is.";
    match payload.get("format").and_then(Value::as_u64) {
        None | Some(0) => return Err(Error::corrupt(format!("{name} does not say its format"))),
        Some(format) if format > FORMAT => {
            let message = format!("{name} is of format {format}, and this pgkeep reads up to {FORMAT}");
            return Err(Error::unsupported(message).hint(upgrade));
        }
        Some(_) => {}
    }
    let features: Vec<String> = match payload.get("features") {
        None => Vec::new(),
        Some(features) => serde_json::from_value(features.clone())
            .map_err(|source| Error::corrupt(format!("{name} does not list its features")).source(source))?,
    };
    match features.iter().find(|feature| !FEATURES.contains(&feature.as_str())) {
        None => Ok(()),
        Some(feature) => Err(Error::unsupported(format!(
            "{name} uses \"{}\", which this pgkeep does not know",
            feature.escape_debug()
        ))
        .hint(upgrade)),
    }
}

/// When a document says it was written.
fn time_of(payload: &Map<String, Value>) -> Option<Timestamp> {
    ["created_at", "finished_at", "started_at"]
        .iter()
        .find_map(|member| payload.get(*member)?.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests;
