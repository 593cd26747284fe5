//! Opens sealed objects: header, key, frames (docs/format.md, section 3).
//!
//! Invariant: content leaves only after the header's signature, the body's hash and every frame's tag matched, for
//! this repository, under this logical name, at this offset. [`Opener::open_frame`] reads one frame of an object whose
//! key came from something signed. Where objects are looked for, and what a failure means, is in `fetch`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use pgkeep_base::limits::{FRAME_RAW_BYTES_MAX, HEADER_BYTES_MAX};
use pgkeep_base::{Error, ErrorKind, RepositoryId, Result, ResultExt};
use pgkeep_store::ObjectName;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::frame;
use crate::keys::{Identity, unwrap_key};
use crate::rewrap::Rewraps;
use crate::seal::{
    Binding, Body, Kind, LAST, MAGIC, ObjectKey, PREAMBLE_BYTES, SEALED_BYTES_MAX, SEALED_BYTES_MIN, Seal, nonce,
};
use crate::sign::{Fingerprint, Trust, Verified, verify_document};

pub use crate::fetch::{Failure, Unread, read_object};

/// How many unwrapped keys an opener remembers.
const KEYS_CACHED: usize = 64;

/// A verified header.
#[derive(Clone, Debug)]
pub struct Header {
    /// What the object is.
    pub kind: Kind,
    /// When its writer says it was made.
    pub created_at: Timestamp,
    /// How it is sealed.
    pub seal: Seal,
    /// Length of the body.
    pub body_bytes: u64,
    /// Hash of the body.
    pub body_blake3: String,
    /// The whole payload, with the members that the kind adds.
    pub extra: Map<String, Value>,
    /// Who signed it.
    pub signer: Fingerprint,
    /// False where only `--accept-signer` let it pass.
    pub trusted: bool,
    /// Where the body begins in the object.
    pub body_start: u64,
}

impl Header {
    /// The payload as a type that ignores members it does not know.
    ///
    /// # Errors
    /// `Corrupt` where a member is missing or of another type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(Value::Object(self.extra.clone()))
            .map_err(|source| Error::corrupt("a header lacks what its kind should say").source(source))
    }

    /// Length of the whole object.
    pub fn object_bytes(&self) -> u64 {
        self.body_start.saturating_add(self.body_bytes)
    }
}

/// What the first bytes of an object gave.
#[derive(Debug)]
pub enum HeaderRead {
    /// The header.
    Complete(Box<Header>),
    /// The header needs this many bytes, from the beginning of the object.
    NeedMore(u64),
}

/// One frame in a body, still sealed.
#[derive(Clone, Copy, Debug)]
pub struct SealedFrame<'a> {
    /// Offset of its length word in the body.
    pub offset: u64,
    /// Whether it is the last.
    pub last: bool,
    /// The sealed bytes.
    pub sealed: &'a [u8],
}

/// Opens the objects of one repository. Cloning is cheap, and clones share the cache of keys.
#[derive(Clone)]
pub struct Opener(Arc<Inner>);

struct Inner {
    repository: RepositoryId,
    identities: Vec<Identity>,
    trust: Arc<Trust>,
    keys: Mutex<VecDeque<(blake3::Hash, ObjectKey)>>,
    rewraps: Rewraps,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Opener(of {}, {} identities)",
            self.0.repository,
            self.0.identities.len()
        )
    }
}

impl Opener {
    /// Without identities it verifies, and opens what is of mode `none`.
    pub fn new(repository: RepositoryId, identities: Vec<Identity>, trust: Arc<Trust>) -> Opener {
        let keys = Mutex::new(VecDeque::with_capacity(KEYS_CACHED));
        Opener(Arc::new(Inner {
            repository,
            identities,
            trust,
            keys,
            rewraps: Rewraps::default(),
        }))
    }

    /// The repository's id.
    pub fn repository(&self) -> RepositoryId {
        self.0.repository
    }

    /// Whose documents it takes.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.0.trust
    }

    /// Whether it has any identity.
    pub fn has_identity(&self) -> bool {
        !self.0.identities.is_empty()
    }

    /// Verifies a signed document of this repository, found under `name` or an alternate.
    ///
    /// # Errors
    /// As [`verify_document`], and `Refused` for a document of another repository.
    pub fn document(&self, name: &ObjectName, bytes: &[u8]) -> Result<Verified> {
        let verified = verify_document(name, bytes, &self.0.trust)?;
        verified
            .check_repository(self.0.repository)
            .during(|| format!("read {name}"))?;
        Ok(verified)
    }

    /// Reads the header from the first bytes of an object; 8 KiB are nearly always enough.
    ///
    /// # Errors
    /// As [`Opener::document`]; `Corrupt` where this is not a sealed object.
    pub fn header(&self, logical: &ObjectName, first_bytes: &[u8]) -> Result<HeaderRead> {
        let end = match header_end(logical, first_bytes)? {
            Some(end) if end <= first_bytes.len() => end,
            end => return Ok(HeaderRead::NeedMore(end.unwrap_or(PREAMBLE_BYTES) as u64)),
        };
        let verified = self.document(logical, &first_bytes[PREAMBLE_BYTES..end])?;
        let members: Members = verified.parse().during(|| format!("read the header of {logical}"))?;
        Ok(HeaderRead::Complete(Box::new(Header {
            kind: members.kind,
            created_at: members.created_at,
            seal: members.seal,
            body_bytes: members.body.bytes,
            body_blake3: members.body.blake3,
            extra: verified.payload,
            signer: verified.signer,
            trusted: verified.trusted,
            body_start: end as u64,
        })))
    }

    /// Verifies all that can be verified without keys: signature, length and hash of the body, chain of frames.
    ///
    /// # Errors
    /// As [`Opener::header`]; `Corrupt` for a body that is not as signed.
    pub fn verify_keyless(&self, logical: &ObjectName, bytes: &[u8]) -> Result<Header> {
        let header = match self.header(logical, bytes)? {
            HeaderRead::Complete(header) => *header,
            HeaderRead::NeedMore(_) => return Err(damaged(logical, "it ends within its header")),
        };
        let body = &bytes[header.body_start as usize..];
        if body.len() as u64 != header.body_bytes {
            let why = format!("its body has {} bytes, signed were {}", body.len(), header.body_bytes);
            return Err(damaged(logical, why));
        }
        if blake3::hash(body).to_hex().as_str() != header.body_blake3 {
            return Err(damaged(logical, "its body does not have the hash that was signed"));
        }
        for frame in frames(logical, body) {
            frame?;
        }
        Ok(header)
    }

    /// Verifies an object of the kind `want` and opens all its frames.
    ///
    /// # Errors
    /// As [`Opener::verify_keyless`]; `Corrupt` where a frame does not open; `Refused` where no identity fits.
    pub fn open_object(&self, logical: &ObjectName, bytes: &[u8], want: Kind) -> Result<(Header, Vec<Vec<u8>>)> {
        let mut contents = Vec::new();
        let header = self.open_each(logical, bytes, want, |content| {
            contents.push(content);
            Ok(())
        })?;
        Ok((header, contents))
    }

    /// Like [`Opener::open_object`], handing over one frame's content at a time.
    pub fn open_each(
        &self,
        logical: &ObjectName,
        bytes: &[u8],
        want: Kind,
        mut each: impl FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<Header> {
        let header = self.verify_keyless(logical, bytes)?;
        if header.kind != want {
            let why = format!("it is of kind {}, not {}", header.kind.as_str(), want.as_str());
            return Err(damaged(logical, why));
        }
        let key = self.key_for(&header.seal).during(|| format!("open {logical}"))?;
        let binding = Binding::new(self.0.repository, logical);
        let mut scratch = Vec::new();
        for frame in frames(logical, &bytes[header.body_start as usize..]) {
            each(open_one(&key, &binding, logical, frame?, &mut scratch)?)?;
        }
        Ok(header)
    }

    /// Further wrappings of keys, as far as they have been learned.
    pub(crate) fn rewraps(&self) -> &Rewraps {
        &self.0.rewraps
    }

    /// Unwraps an object's key with an identity, from its own header or from a rewrap that was learned.
    ///
    /// # Errors
    /// `Refused` where no identity fits; `Corrupt` where the wrapped key is damaged.
    pub fn unwrap(&self, wrapped: &str) -> Result<Zeroizing<[u8; 32]>> {
        let refused = match unwrap_key(wrapped, &self.0.identities) {
            Err(error) if error.kind() == ErrorKind::Refused => error,
            unwrapped => return unwrapped,
        };
        let further = self.0.rewraps.wrappings_of(wrapped);
        let opened = further
            .iter()
            .find_map(|again| unwrap_key(again, &self.0.identities).ok());
        opened.ok_or(refused)
    }

    /// The key of an object, unwrapped once and then remembered.
    ///
    /// # Errors
    /// As [`Opener::unwrap`].
    pub fn key_for(&self, seal: &Seal) -> Result<ObjectKey> {
        let Seal::Age { key: wrapped } = seal else {
            return Ok(ObjectKey::unsealed());
        };
        let hash = blake3::hash(wrapped.as_bytes());
        let known = |keys: &VecDeque<(blake3::Hash, ObjectKey)>| {
            keys.iter()
                .find(|(other, _)| *other == hash)
                .map(|(_, key)| key.clone())
        };
        if let Some(key) = known(&self.0.keys.lock().expect("nobody panics with this lock")) {
            return Ok(key);
        }
        let key = ObjectKey::aes(&*self.unwrap(wrapped)?);
        let mut keys = self.0.keys.lock().expect("nobody panics with this lock");
        if keys.len() == KEYS_CACHED {
            keys.pop_front();
        }
        keys.push_back((hash, key.clone()));
        Ok(key)
    }

    /// Opens one frame: `sealed` are the bytes after the length word at `offset` in the body.
    ///
    /// The signature of the object's header is not looked at: `key` must come from something signed, such as the
    /// packs object of a backup.
    ///
    /// # Errors
    /// `Corrupt` where these are not the bytes that were sealed there.
    pub fn open_frame(
        &self,
        key: &ObjectKey,
        logical: &ObjectName,
        offset: u64,
        last: bool,
        sealed: &[u8],
    ) -> Result<Vec<u8>> {
        let binding = Binding::new(self.0.repository, logical);
        open_one(
            key,
            &binding,
            logical,
            SealedFrame { offset, last, sealed },
            &mut Vec::new(),
        )
    }
}

/// The signed document that is an object's header.
///
/// # Errors
/// `Corrupt` where this is not a sealed object, or it ends within its header.
pub(crate) fn header_document<'a>(name: &ObjectName, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let end = header_end(name, bytes)?;
    end.and_then(|end| bytes.get(PREAMBLE_BYTES..end))
        .ok_or_else(|| damaged(name, "it ends within its header"))
}

#[derive(serde::Deserialize)]
struct Members {
    kind: Kind,
    created_at: Timestamp,
    seal: Seal,
    body: Body,
}

/// Where the header ends; `None` while there are fewer than 12 bytes.
fn header_end(name: &ObjectName, first_bytes: &[u8]) -> Result<Option<usize>> {
    let known = first_bytes.len().min(MAGIC.len());
    if first_bytes[..known] != MAGIC[..known] {
        return Err(damaged(name, "it is not a sealed object"));
    }
    let Some(length) = first_bytes.get(MAGIC.len()..PREAMBLE_BYTES) else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
    if length > HEADER_BYTES_MAX {
        return Err(damaged(name, format!("its header claims {length} bytes")));
    }
    Ok(Some(PREAMBLE_BYTES + length))
}

/// The frames of a body, still sealed. Ends after the last frame or the first error.
///
/// # Errors
/// `Corrupt` where the body is cut, spliced, or goes on behind its last frame.
pub fn frames<'a>(name: &'a ObjectName, body: &'a [u8]) -> impl Iterator<Item = Result<SealedFrame<'a>>> + 'a {
    let mut offset = Some(0);
    std::iter::from_fn(move || {
        let at = offset.take()?;
        let frame = frame_at(name, body, at);
        if let Ok(SealedFrame {
            last: false, sealed, ..
        }) = frame
        {
            offset = Some(at + 4 + sealed.len());
        }
        Some(frame)
    })
}

fn frame_at<'a>(name: &ObjectName, body: &'a [u8], at: usize) -> Result<SealedFrame<'a>> {
    let cut = || damaged(name, format!("its body is cut at {}", body.len()));
    let (word, rest) = body[at..].split_first_chunk::<4>().ok_or_else(cut)?;
    let word = u32::from_le_bytes(*word);
    let (last, bytes) = (word & LAST != 0, word & !LAST);
    if !(SEALED_BYTES_MIN..=SEALED_BYTES_MAX).contains(&bytes) {
        return Err(damaged(name, format!("the frame at {at} claims {bytes} bytes")));
    }
    let sealed = rest.get(..bytes as usize).ok_or_else(cut)?;
    if last && sealed.len() != rest.len() {
        return Err(damaged(name, "there are bytes behind its last frame"));
    }
    Ok(SealedFrame {
        offset: at as u64,
        last,
        sealed,
    })
}

fn open_one(
    key: &ObjectKey,
    binding: &Binding,
    name: &ObjectName,
    frame: SealedFrame<'_>,
    scratch: &mut Vec<u8>,
) -> Result<Vec<u8>> {
    scratch.clear();
    scratch.extend_from_slice(frame.sealed);
    let plaintext = key
        .open(scratch, nonce(frame.offset, frame.last), binding)
        .ok_or_else(|| {
            damaged(
                name,
                format!("the frame at {} is not the one that was sealed there", frame.offset),
            )
        })?;
    frame::decode(plaintext, FRAME_RAW_BYTES_MAX).during(|| format!("open the frame at {} of {name}", frame.offset))
}

fn damaged(name: &ObjectName, why: impl Into<String>) -> Error {
    Error::corrupt(format!("{name} is damaged"))
        .detail(why)
        .hint("Another repository of the configuration may have a good copy: readers try them all. `pgkeep list` shows which backups are where.")
}

#[cfg(test)]
mod tests;
