//! Hashes by which a page is recognised as unchanged.
//!
//! Invariant: the key never leaves the host, so a hash in the cache confirms a guess of a page to nobody else, and
//! nobody who can write to the database can make two pages of the same hash.

use crate::repofile::NamingKey;

/// Bytes of a page's hash that are kept: a chance of 2^-128 to miss a change.
pub const PAGE_HASH_BYTES: usize = 16;

/// The hash of one page.
pub type PageHash = [u8; PAGE_HASH_BYTES];

/// Hashes pages: the first 16 bytes of BLAKE3 keyed with `derive_key("pgkeep 1 reuse page hash", naming key)`.
#[derive(Clone)]
pub struct PageHasher([u8; 32]);

impl PageHasher {
    /// A hasher for the repository with this naming key.
    pub fn new(naming_key: &NamingKey) -> PageHasher {
        PageHasher(blake3::derive_key("pgkeep 1 reuse page hash", &*naming_key.0))
    }

    /// The hash of a page, or of the shorter rest of a file.
    pub fn hash(&self, page: &[u8]) -> PageHash {
        let hash = blake3::keyed_hash(&self.0, page);
        *hash.as_bytes().first_chunk().expect("16 of 32 bytes")
    }

    /// The hashes of all pages of `content`; the last may be shorter.
    pub fn hash_all(&self, content: &[u8], block_bytes: usize) -> Vec<PageHash> {
        content.chunks(block_bytes).map(|page| self.hash(page)).collect()
    }
}

impl std::fmt::Debug for PageHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageHasher")
    }
}
