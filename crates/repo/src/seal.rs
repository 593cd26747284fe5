//! Seals content into objects: header, key, frames (docs/format.md, section 3).
//!
//! Invariant: a frame's nonce is its offset, and every object has a random key of its own, so that no (key, nonce) pair
//! occurs twice; what is sealed binds repository, logical name and offset. A sealer holds public keys only and can't
//! open what it has made. Keys and nonces are in `seal/cipher.rs`; reading is in `open`; what goes into frames in `frame`.

mod cipher;

use std::sync::Arc;

use bytes::Bytes;
use pgkeep_base::limits::{HEADER_BYTES_MAX, PACK_BYTES_TARGET};
use pgkeep_base::{Clock, Error, RepositoryId, Result};
use pgkeep_store::{ObjectName, Payload};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::frame::Encoded;
use crate::keys::{Recipient, wrap_key};
use crate::sign::{FORMAT, Fingerprint, SigningKey, fill_random, sign_document};

pub use cipher::ObjectKey;
pub(crate) use cipher::{Binding, TAG_BYTES, nonce};

pub(crate) const MAGIC: &[u8; 8] = b"PGKEEP1\n";
/// Bytes before the header: the magic and the header's length.
pub(crate) const PREAMBLE_BYTES: usize = 12;
/// Bit 31 of a length word: this frame is the last.
pub(crate) const LAST: u32 = 1 << 31;
/// The smallest sealed frame: the prefix of its plaintext, and the tag.
pub(crate) const SEALED_BYTES_MIN: u32 = 24;
/// The largest sealed frame.
pub(crate) const SEALED_BYTES_MAX: u32 = (64 << 20) + 24;

/// What a sealed object is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Chunks of a backup.
    Pack,
    /// What a backup consists of.
    Manifest,
    /// Which packs a backup needs.
    Packs,
    /// A file of the WAL archive.
    Wal,
    /// A part of a large WAL segment.
    WalPart,
    /// The repository's description of itself.
    Genesis,
}

impl Kind {
    /// The word that the header has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Pack => "pack",
            Kind::Manifest => "manifest",
            Kind::Packs => "packs",
            Kind::Wal => "wal",
            Kind::WalPart => "wal-part",
            Kind::Genesis => "genesis",
        }
    }
}

/// How the objects of a repository are sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SealMode {
    /// To these recipients, at least one.
    Age(Vec<Recipient>),
    /// Not at all: anyone who reads the store reads the data.
    None,
}

/// The `seal` member of a header.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum Seal {
    /// The object's key, wrapped to the recipients.
    Age {
        /// Base64 of a binary age file.
        key: String,
    },
    /// Plaintext.
    None,
}

/// The `body` member of a header.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Body {
    pub bytes: u64,
    pub blake3: String,
}

/// Seals and signs what one host writes to one repository. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Sealer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    repository: RepositoryId,
    mode: SealMode,
    signing_key: Arc<SigningKey>,
    clock: Arc<dyn Clock>,
}

impl Sealer {
    /// # Errors
    /// `Invalid` where there is nobody to seal to.
    pub fn new(
        repository: RepositoryId,
        mode: SealMode,
        signing_key: Arc<SigningKey>,
        clock: Arc<dyn Clock>,
    ) -> Result<Sealer> {
        if matches!(&mode, SealMode::Age(recipients) if recipients.is_empty()) {
            return Err(Error::invalid("the repository file names no recipient")
                .hint("`pgkeep keys new FILE` makes an identity and prints its recipient (age1…)."));
        }
        Ok(Sealer(Arc::new(Inner {
            repository,
            mode,
            signing_key,
            clock,
        })))
    }

    /// Begins an object, sealed as the repository is.
    pub fn begin(&self, name: &ObjectName, kind: Kind) -> Result<ObjectBuilder> {
        let (seal, key) = match &self.0.mode {
            SealMode::None => (Seal::None, ObjectKey::unsealed()),
            SealMode::Age(recipients) => {
                let mut key = Zeroizing::new([0; 32]);
                fill_random(key.as_mut_slice())?;
                (
                    Seal::Age {
                        key: wrap_key(&key, recipients)?,
                    },
                    ObjectKey::aes(&key),
                )
            }
        };
        Ok(self.builder(name, kind, seal, key))
    }

    /// Begins an object of mode `none`, whatever the repository's: for the packs object.
    pub fn begin_plain(&self, name: &ObjectName, kind: Kind) -> Result<ObjectBuilder> {
        Ok(self.builder(name, kind, Seal::None, ObjectKey::unsealed()))
    }

    fn builder(&self, name: &ObjectName, kind: Kind, seal: Seal, key: ObjectKey) -> ObjectBuilder {
        // Reserving address space costs nothing until it is written to; growing by doubling would copy.
        let capacity = if kind == Kind::Pack {
            PACK_BYTES_TARGET as usize + (2 << 20)
        } else {
            0
        };
        ObjectBuilder {
            binding: Binding::new(self.0.repository, name),
            sealer: self.clone(),
            name: name.clone(),
            kind,
            seal,
            key,
            body: Vec::with_capacity(capacity),
            hasher: blake3::Hasher::new(),
        }
    }

    /// Signs a document, adding `format` and `repository` to its payload.
    pub fn sign(&self, name: &ObjectName, payload: &impl Serialize) -> Result<Bytes> {
        let mut value = serde_json::to_value(payload)
            .map_err(|source| Error::internal(format!("could not write what {name} should say")).source(source))?;
        let Value::Object(members) = &mut value else {
            return Err(Error::internal(format!("what {name} should say is not an object")));
        };
        members.insert("format".to_owned(), FORMAT.into());
        members.insert("repository".to_owned(), self.0.repository.to_string().into());
        sign_document(&self.0.signing_key, name, &value).map(Bytes::from)
    }

    /// To whom this seals, sorted; empty with mode `none`. Packs are reused only where this is equal.
    pub fn recipients(&self) -> Vec<String> {
        let mut recipients: Vec<String> = match &self.0.mode {
            SealMode::None => Vec::new(),
            SealMode::Age(recipients) => recipients.iter().map(Recipient::to_string).collect(),
        };
        recipients.sort();
        recipients.dedup();
        recipients
    }

    /// The repository's id.
    pub fn repository(&self) -> RepositoryId {
        self.0.repository
    }

    /// Who signs.
    pub fn signer(&self) -> Fingerprint {
        self.0.signing_key.fingerprint()
    }

    /// Whose time it is.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }
}

/// Where a frame lies: with the pack's name, the address of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FrameAddress {
    /// Offset of its length word in the body.
    pub offset: u64,
    /// Sealed bytes, without the length word.
    pub bytes: u64,
}

/// An object in the making: its body is in memory.
pub struct ObjectBuilder {
    sealer: Sealer,
    name: ObjectName,
    kind: Kind,
    seal: Seal,
    key: ObjectKey,
    binding: Binding,
    body: Vec<u8>,
    hasher: blake3::Hasher,
}

impl ObjectBuilder {
    /// Seals a frame that is not the last.
    pub fn push(&mut self, content: &Encoded) -> Result<FrameAddress> {
        self.append(content, false)
    }

    /// Length of the body so far.
    pub fn body_bytes(&self) -> u64 {
        self.body.len() as u64
    }

    /// The name under which it will be created.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    fn append(&mut self, content: &Encoded, last: bool) -> Result<FrameAddress> {
        let offset = self.body.len() as u64;
        let sealed_bytes = (content.plaintext().len() + TAG_BYTES) as u32;
        let word = sealed_bytes | if last { LAST } else { 0 };
        self.body.extend_from_slice(&word.to_le_bytes());
        let start = self.body.len();
        self.body.extend_from_slice(content.plaintext());
        self.key
            .seal(&mut self.body, start, nonce(offset, last), &self.binding)?;
        self.hasher.update(&self.body[offset as usize..]);
        Ok(FrameAddress {
            offset,
            bytes: u64::from(sealed_bytes),
        })
    }

    /// Seals the last frame (an empty one where there is no content for it), signs the header, and is done.
    ///
    /// `extra` are the members that the header has for this kind.
    pub fn finish(mut self, extra: Map<String, Value>, last: Option<&Encoded>) -> Result<SealedObject> {
        match last {
            Some(content) => self.append(content, true)?,
            None => self.append(&Encoded::empty(), true)?,
        };
        let mut header = extra;
        let body = Body {
            bytes: self.body_bytes(),
            blake3: self.hasher.finalize().to_hex().to_string(),
        };
        header.insert("kind".to_owned(), json!(self.kind));
        header.insert("created_at".to_owned(), json!(self.sealer.0.clock.now()));
        header.insert("seal".to_owned(), json!(self.seal));
        header.insert("body".to_owned(), json!(body));
        let header = self.sealer.sign(&self.name, &Value::Object(header))?;
        if header.len() > HEADER_BYTES_MAX {
            return Err(Error::internal(format!(
                "the header of {} would exceed 1 MiB",
                self.name
            )));
        }
        let mut head = Vec::with_capacity(PREAMBLE_BYTES + header.len());
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&(header.len() as u32).to_le_bytes());
        head.extend_from_slice(&header);
        let hash = blake3::Hasher::new().update(&head).update(&self.body).finalize();
        Ok(SealedObject {
            name: self.name,
            bytes: (head.len() + self.body.len()) as u64,
            header_bytes: header.len() as u64,
            blake3: hash.to_hex().to_string(),
            key: match self.seal {
                Seal::Age { key } => Some(key),
                Seal::None => None,
            },
            payload: Payload::from(vec![Bytes::from(head), Bytes::from(self.body)]),
        })
    }
}

/// An object that is ready to be created.
#[derive(Clone, Debug)]
pub struct SealedObject {
    /// Its name.
    pub name: ObjectName,
    /// Its bytes.
    pub payload: Payload,
    /// How many.
    pub bytes: u64,
    /// Length of its header: the body begins at `12 + header_bytes`.
    pub header_bytes: u64,
    /// Hash of the whole object.
    pub blake3: String,
    /// Its wrapped key, if it is sealed.
    pub key: Option<String>,
}

impl SealedObject {
    /// The whole object in one piece; copies it.
    pub fn to_bytes(&self) -> Bytes {
        self.payload.parts().concat().into()
    }
}
