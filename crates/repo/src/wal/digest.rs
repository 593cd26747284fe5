//! Hashes of WAL files under the repository's naming key, and where their content comes from.
//!
//! Invariant: the hash of a file is the same wherever and however it is read; without the key nobody can confirm a
//! guess of its content.

use std::os::unix::fs::FileExt;

use pgkeep_base::{Error, Result, ResultExt};
use zeroize::Zeroizing;

/// How many digests of beginnings there are.
pub(crate) const PREFIXES: usize = 16;
/// Bytes that are read at a time where the content is not in memory already.
pub(crate) const READ_BYTES: usize = 16 << 20;

/// The key that names WAL objects. Cleared from memory when dropped.
#[derive(Clone)]
pub struct WalNaming(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for WalNaming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WalNaming")
    }
}

/// What identifies a file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalDigest {
    /// 32 hexadecimal digits: the hash in the name.
    pub hash: String,
    /// 16 times 16 digits: hashes of the first 1/16, 2/16, … of the file.
    pub prefix: Vec<String>,
}

impl WalNaming {
    /// From the repository file's naming key.
    pub fn new(key: [u8; 32]) -> WalNaming {
        WalNaming(Zeroizing::new(key))
    }

    /// The hash in the name of a file's object.
    pub fn hash(&self, file: &[u8]) -> String {
        let mut hasher = self.hasher();
        hasher.update(file);
        hash_digits(&hasher)
    }

    /// The hash, and those of the file's beginnings, in one pass.
    ///
    /// # Errors
    /// What reading gives.
    pub fn digest<S: WalSource + ?Sized>(&self, file: &S) -> Result<WalDigest> {
        let total = file.bytes();
        let mut hasher = self.hasher();
        let mut prefix = Vec::with_capacity(PREFIXES);
        let mut buffer = Vec::new();
        let mut at = 0;
        for i in 1..=PREFIXES as u64 {
            let border = prefix_border(total, i);
            while at < border {
                let length = (border - at).min(READ_BYTES as u64) as usize;
                hasher.update(file.read(at, length, &mut buffer)?);
                at += length as u64;
            }
            prefix.push(hasher.finalize().to_hex()[..16].to_owned());
        }
        Ok(WalDigest {
            hash: hash_digits(&hasher),
            prefix,
        })
    }

    pub(crate) fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.0)
    }
}

/// Where the `i`th sixteenth of a file ends.
pub(crate) fn prefix_border(file_bytes: u64, i: u64) -> u64 {
    (u128::from(file_bytes) * u128::from(i) / PREFIXES as u128) as u64
}

pub(crate) fn hash_digits(hasher: &blake3::Hasher) -> String {
    hasher.finalize().to_hex()[..32].to_owned()
}

/// The content of a file that is to be archived: in memory, or a file that is read twice (hashed, then sealed).
pub trait WalSource: Sync {
    /// Its length.
    fn bytes(&self) -> u64;

    /// Whether reading it again may give something else, so that it has to be hashed again.
    fn may_change(&self) -> bool {
        true
    }

    /// `length` bytes from `offset` on; uses `buffer` unless they are in memory.
    ///
    /// # Errors
    /// `Io`; also where the file has become shorter.
    fn read<'a>(&'a self, offset: u64, length: usize, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]>;
}

impl WalSource for [u8] {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn may_change(&self) -> bool {
        false
    }

    fn read<'a>(&'a self, offset: u64, length: usize, _: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let range = offset as usize..offset as usize + length;
        self.get(range)
            .ok_or_else(|| Error::internal("read behind the end of a WAL file"))
    }
}

/// A whole file in memory.
impl WalSource for Vec<u8> {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn may_change(&self) -> bool {
        false
    }

    fn read<'a>(&'a self, offset: u64, length: usize, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        self.as_slice().read(offset, length, buffer)
    }
}

/// A file with its length when it was opened.
impl WalSource for (std::fs::File, u64) {
    fn bytes(&self) -> u64 {
        self.1
    }

    fn read<'a>(&'a self, offset: u64, length: usize, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        buffer.resize(length, 0);
        self.0
            .read_exact_at(buffer, offset)
            .during(|| format!("read {length} bytes at {offset} of a WAL file"))?;
        Ok(buffer)
    }
}
