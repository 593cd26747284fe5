//! Signed documents: who wrote a statement, and that it says this under this name (docs/format.md, section 2).
//!
//! Invariant: a payload leaves [`verify_document`] only after its signature matched under its logical name, its format
//! and features are known, and its signer is trusted (or `accept_any` says to take, and remember, any).
//! Whether it is of *this* repository is asked by [`Verified::check_repository`]; `open::Opener::document` does both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use pgkeep_base::{Error, RepositoryId, Result};
use pgkeep_store::ObjectName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::names;

/// The format that this program writes, and the largest that it reads.
pub const FORMAT: u64 = 1;
/// The features of that format that it knows: none yet.
const FEATURES: [&str; 0] = [];
const CONTEXT: &str = "pgkeep-signed-1\n";
const KEY_PREFIX: &str = "pgkeep-signing-key-1 ";
/// Length of the second line, without its line feed: fixed, because keys and signatures are.
const SIGNATURE_LINE: (&str, &str, &str) = ("{\"signer\":\"", "\",\"signature\":\"", "\"}");

/// Names a signer: `s-` and 32 hexadecimal digits of the hash of its public key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    fn of(public_key: &[u8]) -> Fingerprint {
        Fingerprint(format!("s-{}", &blake3::hash(public_key).to_hex()[..32]))
    }

    /// The fingerprint as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = Error;
    fn from_str(text: &str) -> Result<Fingerprint> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let good = text
            .strip_prefix("s-")
            .is_some_and(|digits| digits.len() == 32 && digits.bytes().all(hex));
        good.then(|| Fingerprint(text.to_owned())).ok_or_else(|| {
            Error::invalid(format!("\"{}\" is not a signer's fingerprint", text.escape_debug()))
                .hint("It is `s-` and 32 hexadecimal digits; `pgkeep keys list` shows the signers.")
        })
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Fingerprint, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The secret with which one host signs what it writes. Cleared from memory when dropped.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    seed: Zeroizing<[u8; 32]>,
}

impl SigningKey {
    /// A new random key.
    pub fn generate() -> Result<SigningKey> {
        let mut seed = Zeroizing::new([0; 32]);
        fill_random(seed.as_mut_slice())?;
        SigningKey::from_seed(seed)
    }

    fn from_seed(seed: Zeroizing<[u8; 32]>) -> Result<SigningKey> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice())
            .map_err(|source| Error::internal("could not derive a signing key from its seed").source(source))?;
        Ok(SigningKey { pair, seed })
    }

    /// Reads a signing key file.
    ///
    /// # Errors
    /// `Invalid`, without the content of the file.
    pub fn parse(text: &str) -> Result<SigningKey> {
        let mut lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let seed = match (
            lines.next().and_then(|line| line.strip_prefix(KEY_PREFIX)),
            lines.next(),
        ) {
            (Some(seed), None) => decode_exactly::<32>(seed.trim()),
            _ => None,
        };
        let seed = seed.ok_or_else(|| {
            Error::invalid("this is not a pgkeep signing key")
                .detail("a signing key file has one line that begins with `pgkeep-signing-key-1`")
                .hint("Without one, `pgkeep backup` makes a new key; readers then have to trust its fingerprint.")
        })?;
        SigningKey::from_seed(Zeroizing::new(seed))
    }

    /// The text of its file. The caller writes it with mode 0600.
    pub fn file_text(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(BASE64_STANDARD.encode(self.seed.as_slice()));
        let comment = format!("# secret: with this, {} signs what it writes", self.fingerprint());
        Zeroizing::new(format!("{comment}\n{KEY_PREFIX}{}\n", seed.as_str()))
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.pair
            .public_key()
            .as_ref()
            .try_into()
            .expect("an Ed25519 public key has 32 bytes")
    }

    /// What others call this signer.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.pair.public_key().as_ref())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.fingerprint())
    }
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

    /// The untrusted signers that `accept_any` let pass so far.
    pub fn accepted(&self) -> Vec<Fingerprint> {
        self.accepted
            .lock()
            .expect("nobody panics with this lock")
            .iter()
            .cloned()
            .collect()
    }

    fn judge(&self, signer: &Fingerprint, time: Option<Timestamp>, name: &ObjectName) -> Result<bool> {
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
        let why = if self.signers.contains(signer) {
            "was withdrawn"
        } else {
            "is not trusted"
        };
        Err(Error::refused(format!("{name} is signed by {signer}, which {why}")).hint(
            "If that host is yours, add the fingerprint to `signers` under [encryption], or use --accept-signer once; \
             `pgkeep keys list` shows who is trusted.",
        ))
    }
}

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
    let signature = key.pair.sign(&message(name, &document));
    let (open, middle, close) = SIGNATURE_LINE;
    document.push(b'\n');
    let (signer, signature) = (
        BASE64_STANDARD.encode(key.public()),
        BASE64_STANDARD.encode(signature.as_ref()),
    );
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

fn decode_exactly<const N: usize>(text: &str) -> Option<[u8; N]> {
    // Bounded before it is decoded, since the text may be anything.
    let decoded = (text.len() == N.div_ceil(3) * 4)
        .then(|| BASE64_STANDARD.decode(text).ok())
        .flatten()?;
    let decoded = Zeroizing::new(decoded);
    decoded.as_slice().try_into().ok()
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

/// Random bytes for keys.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| Error::internal("the operating system gave no random bytes"))
}

#[cfg(test)]
#[path = "sign_tests.rs"]
mod tests;
