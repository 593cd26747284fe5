//! Reads WAL objects: the header alone, or the file.
//!
//! Invariant: a file leaves here only if its length is the signed one and its keyed hash is that of the object's name.
//! With parts, content is handed over part by part and the hash is known at the end: nothing is final before `Ok`.

use std::sync::Arc;

use pgkeep_base::limits::WAL_PART_BYTES;
use pgkeep_base::{Error, Result, WalFile, failpoint};
use pgkeep_store::{ObjectName, Store};
use serde::Deserialize;

use super::WalFacts;
use super::digest::{WalNaming, hash_digits};
use super::name::{WalObjectName, parse_object_name, part_name};
use crate::fetch::{Failure, Unread, open_copy, read_header_with};
use crate::names;
use crate::open::{Header, Opener};
use crate::seal::Kind;
use crate::sign::Fingerprint;

/// The largest WAL object or part: 64 MiB that do not compress, their frames, and a header.
const OBJECT_BYTES_MAX: u64 = WAL_PART_BYTES + (2 << 20);

/// What the header of a WAL object says.
#[derive(Clone, Debug)]
pub struct WalHeader {
    /// The archived file.
    pub file: WalFile,
    /// Its length.
    pub file_bytes: u64,
    /// What its records say; `None` for history and backup history files, and where nobody could read them.
    pub facts: Option<WalFacts>,
    /// The text of a history file; `None` for others, and where it was not repeated.
    pub history: Option<String>,
    /// How many parts hold the content; 0 where the object itself does.
    pub parts: u16,
    /// Who pushed it.
    pub signer: Fingerprint,
    /// False where only `--accept-signer` let it pass.
    pub trusted: bool,
    /// Length of the object, without its parts.
    pub object_bytes: u64,
}

#[derive(Deserialize)]
struct Members {
    file: String,
    file_bytes: u64,
    facts: Option<WalFacts>,
    #[serde(default)]
    history: Option<String>,
    #[serde(default)]
    parts: u16,
}

/// Takes the header of a WAL object found under `name` apart.
///
/// # Errors
/// `Corrupt` where it is of another kind, or does not say what its name says.
pub fn parse_wal_header(name: &ObjectName, header: &Header) -> Result<WalHeader> {
    let bad = |why: String| Error::corrupt(format!("{name} does not say what its name says")).detail(why);
    if header.kind != Kind::Wal {
        return Err(bad(format!("it is of kind {}", header.kind.as_str())));
    }
    let members: Members = header.parse()?;
    let named = named(name)?;
    if members.file != named.file.to_string() {
        return Err(bad(format!("it holds {}", members.file.escape_debug())));
    }
    let parts_needed = if members.file_bytes > WAL_PART_BYTES {
        members.file_bytes.div_ceil(WAL_PART_BYTES)
    } else {
        0
    };
    if u64::from(members.parts) != parts_needed {
        return Err(bad(format!(
            "{} bytes can't be in {} parts",
            members.file_bytes, members.parts
        )));
    }
    Ok(WalHeader {
        file: named.file,
        file_bytes: members.file_bytes,
        facts: members.facts,
        history: members.history,
        parts: members.parts,
        signer: header.signer.clone(),
        trusted: header.trusted,
        object_bytes: header.object_bytes(),
    })
}

fn named(name: &ObjectName) -> Result<WalObjectName> {
    let parsed = parse_object_name(&names::logical(name)).filter(|parsed| parsed.part.is_none());
    parsed.ok_or_else(|| Error::invalid(format!("{name} is not the name of a WAL object")))
}

/// Reads the header alone, from the first place that has a good one: one ranged read, if `object_bytes` is known from a
/// listing, else one request more to learn it.
pub async fn read_wal_header(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    name: &ObjectName,
    object_bytes: Option<u64>,
) -> Result<WalHeader, Unread> {
    read_header_with(stores, opener, name, object_bytes, parse_wal_header).await
}

/// Reads a whole file into memory.
pub async fn open_wal(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    naming: &WalNaming,
    name: &ObjectName,
) -> Result<(WalHeader, Vec<u8>), Unread> {
    let mut content = Vec::new();
    let header = open_wal_to(stores, opener, naming, name, |bytes| {
        content.extend_from_slice(bytes);
        Ok(())
    })
    .await?;
    Ok((header, content))
}

/// Reads a file and hands its content to `sink`, frame by frame, in order; memory holds one object at a time.
///
/// A file up to 64 MiB is verified before `sink` sees any of it. Of a larger one each part is, and the whole when this
/// returns `Ok`: until then the caller must not let anyone use what it has written.
pub async fn open_wal_to(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    naming: &WalNaming,
    name: &ObjectName,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<WalHeader, Unread> {
    let logical = names::logical(name);
    let wanted = named(&logical).map_err(|error| local(name, error))?;
    let whole = open_copy(stores, opener, &logical, OBJECT_BYTES_MAX, |bytes| {
        let (header, frames) = opener.open_object(&logical, &bytes, Kind::Wal)?;
        let header = parse_wal_header(&logical, &header)?;
        if header.parts == 0 {
            check(&logical, &wanted, &header, &frames, naming.hasher())?;
        }
        Ok((header, frames))
    });
    let (header, frames) = whole.await?;
    hand_over(&frames, &mut sink).map_err(|error| local(name, error))?;
    let mut hasher = naming.hasher();
    let mut bytes = 0;
    for number in 0..header.parts {
        let part = part_name(&logical, number);
        let open = |object: bytes::Bytes| opener.open_object(&part, &object, Kind::WalPart);
        let (_, frames) = open_copy(stores, opener, &part, OBJECT_BYTES_MAX, open)
            .await
            .map_err(|why| missing(&part, why))?;
        for frame in &frames {
            hasher.update(frame);
            bytes += frame.len() as u64;
        }
        hand_over(&frames, &mut sink).map_err(|error| local(name, error))?;
    }
    if header.parts > 0 {
        conclude(&logical, &wanted, &header, bytes, &hasher).map_err(|error| local(name, error))?;
    }
    Ok(header)
}

fn hand_over(frames: &[Vec<u8>], sink: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    frames
        .iter()
        .filter(|frame| !frame.is_empty())
        .try_for_each(|frame| sink(frame))
}

fn check(
    name: &ObjectName,
    wanted: &WalObjectName,
    header: &WalHeader,
    frames: &[Vec<u8>],
    mut hasher: blake3::Hasher,
) -> Result<()> {
    for frame in frames {
        hasher.update(frame);
    }
    let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
    conclude(name, wanted, header, bytes, &hasher)
}

fn conclude(
    name: &ObjectName,
    wanted: &WalObjectName,
    header: &WalHeader,
    bytes: u64,
    hasher: &blake3::Hasher,
) -> Result<()> {
    failpoint::at("repo.wal.verify")?;
    if bytes != header.file_bytes {
        let why = format!("it holds {bytes} bytes, signed were {}", header.file_bytes);
        return Err(Error::corrupt(format!("{name} is damaged")).detail(why));
    }
    if hash_digits(hasher) != wanted.hash {
        return Err(Error::corrupt(format!("the content of {name} is not that of its name"))
            .hint("Compare `naming_key` in the repository file with that of the host which pushed it."));
    }
    Ok(())
}

/// A part that is proven absent makes the whole bad, not absent.
fn missing(part: &ObjectName, why: Unread) -> Unread {
    match why {
        Unread::Absent => {
            let error = Error::corrupt(format!("{part} is missing"));
            Unread::Bad(vec![Failure {
                place: "every repository".to_owned(),
                name: part.clone(),
                error,
            }])
        }
        other => other,
    }
}

/// What went wrong here and not in a place.
fn local(name: &ObjectName, error: Error) -> Unread {
    Unread::from_failures(vec![Failure {
        place: "this host".to_owned(),
        name: name.clone(),
        error,
    }])
}
