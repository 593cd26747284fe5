//! The key with which one host signs, and the fingerprint by which others know it.
//!
//! Invariant: a seed is shown by no `Debug` and no error, and is cleared from memory when its key is dropped.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pgkeep_base::{Error, Result};
use serde::Serialize;
use zeroize::Zeroizing;

const KEY_PREFIX: &str = "pgkeep-signing-key-1 ";

/// Names a signer: `s-` and 32 hexadecimal digits of the hash of its public key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    pub(super) fn of(public_key: &[u8]) -> Fingerprint {
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

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        signature
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes")
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

/// Base64 of exactly `N` bytes.
pub(super) fn decode_exactly<const N: usize>(text: &str) -> Option<[u8; N]> {
    // Bounded before it is decoded, since the text may be anything.
    let decoded = (text.len() == N.div_ceil(3) * 4)
        .then(|| BASE64_STANDARD.decode(text).ok())
        .flatten()?;
    let decoded = Zeroizing::new(decoded);
    decoded.as_slice().try_into().ok()
}

/// Random bytes for keys.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| Error::internal("the operating system gave no random bytes"))
}
