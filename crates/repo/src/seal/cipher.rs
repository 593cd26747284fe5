//! The cipher of one object: key, nonce, and what every frame is bound to (docs/format.md, section 3).
//!
//! Invariant: a nonce is the offset of a frame in an object whose key belongs to it alone, so that no pair of key and
//! nonce occurs twice. Mode `none` has the same shape, with a checksum in place of the tag.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use pgkeep_base::{Error, RepositoryId, Result};
use pgkeep_store::ObjectName;

use crate::names;

pub(crate) const TAG_BYTES: usize = 16;

/// The key of one object. Opens and seals frames at their offset in it.
#[derive(Clone)]
pub struct ObjectKey(KeyKind);

#[derive(Clone)]
enum KeyKind {
    Aes(Arc<LessSafeKey>),
    Unsealed,
}

impl ObjectKey {
    pub(crate) fn aes(key: &[u8; 32]) -> ObjectKey {
        let unbound = UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key");
        ObjectKey(KeyKind::Aes(Arc::new(LessSafeKey::new(unbound))))
    }

    pub(crate) fn unsealed() -> ObjectKey {
        ObjectKey(KeyKind::Unsealed)
    }

    /// Seals what `buffer` holds from `start` on, in place, and appends the tag.
    pub(super) fn seal(&self, buffer: &mut Vec<u8>, start: usize, nonce: [u8; 12], binding: &Binding) -> Result<()> {
        let tag: [u8; TAG_BYTES] = match &self.0 {
            KeyKind::Unsealed => binding.checksum(nonce, &buffer[start..]),
            KeyKind::Aes(key) => {
                let tag = key
                    .seal_in_place_separate_tag(
                        Nonce::assume_unique_for_key(nonce),
                        Aad::from(&binding.aad),
                        &mut buffer[start..],
                    )
                    .map_err(|_| Error::internal("could not seal a frame"))?;
                tag.as_ref().try_into().expect("AES-GCM tags have 16 bytes")
            }
        };
        buffer.extend_from_slice(&tag);
        Ok(())
    }

    /// Opens sealed bytes in place; `None` where they are not what was sealed there.
    pub(crate) fn open<'a>(&self, sealed: &'a mut [u8], nonce: [u8; 12], binding: &Binding) -> Option<&'a [u8]> {
        match &self.0 {
            KeyKind::Unsealed => {
                let (plaintext, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
                (binding.checksum(nonce, plaintext) == *tag).then_some(plaintext)
            }
            KeyKind::Aes(key) => key
                .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(&binding.aad), sealed)
                .ok()
                .map(|plaintext| &*plaintext),
        }
    }
}

impl std::fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            KeyKind::Aes(_) => "ObjectKey(AES-256-GCM)",
            KeyKind::Unsealed => "ObjectKey(none)",
        })
    }
}

/// What every frame of an object is bound to.
#[derive(Clone)]
pub(crate) struct Binding {
    aad: Vec<u8>,
    checksum_key: [u8; 32],
}

impl Binding {
    pub fn new(repository: RepositoryId, name: &ObjectName) -> Binding {
        let logical = names::logical(name);
        let aad = [b"pgkeep-1\0", &repository.to_bytes()[..], logical.as_str().as_bytes()].concat();
        let checksum_key = blake3::derive_key("pgkeep 1 unsealed frame", &aad);
        Binding { aad, checksum_key }
    }

    fn checksum(&self, nonce: [u8; 12], plaintext: &[u8]) -> [u8; TAG_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.checksum_key);
        let hash = hasher.update(&nonce).update(plaintext).finalize();
        *hash.as_bytes().first_chunk().expect("16 of 32 bytes")
    }
}

/// The nonce of the frame whose length word is at `offset` in the body.
pub(crate) fn nonce(offset: u64, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&offset.to_le_bytes());
    nonce[8] = u8::from(last);
    nonce
}
