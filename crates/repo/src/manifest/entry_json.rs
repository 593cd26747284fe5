//! Entries, extents and chunk lists as JSON, exactly as docs/format.md says.
//!
//! Invariant: the same entries give the same bytes, whatever was written before them, so that blocks can be reused.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pgkeep_base::limits::FRAME_RAW_BYTES_MAX;
use pgkeep_base::{Error, Result};
use pgkeep_store::ObjectName;
use serde::de::{self, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::entry::{Chunk, Content, Entry, EntryKind, Extent, FileSpan, Source, bad_entry};
use crate::digest::Digest;
use crate::paths::{DataPath, escape, unescape};

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Directory,
    Tablespace,
}

/// An entry with chunks as indexes into the lists of its block.
#[derive(Serialize, Deserialize)]
pub(super) struct EntryJson {
    path: DataPath,
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    at: u64,
    mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default)]
    mtime: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location: Option<Escaped>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extents: Option<Vec<ExtentJson>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Base64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bad_pages: Vec<u64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl EntryJson {
    pub(super) fn of(entry: &Entry, table: &mut ChunkTable) -> EntryJson {
        let mut json = EntryJson {
            path: entry.path.clone(),
            kind: Kind::Directory,
            bytes: None,
            at: 0,
            mode: Mode(entry.mode),
            owner: entry.owner.clone(),
            group: entry.group.clone(),
            mtime: entry.mtime,
            location: None,
            extents: None,
            data: None,
            bad_pages: Vec::new(),
        };
        match &entry.kind {
            EntryKind::Directory => {}
            EntryKind::Tablespace { location } => {
                json.kind = Kind::Tablespace;
                json.location = location.clone().map(Escaped);
            }
            EntryKind::File(span) => {
                json.kind = Kind::File;
                (json.bytes, json.at) = (Some(span.bytes), span.at);
                json.bad_pages.clone_from(&span.bad_pages);
                match &span.content {
                    Content::Inline(data) => json.data = Some(Base64(data.clone())),
                    Content::Extents(extents) => {
                        json.extents = Some(extents.iter().map(|extent| table.extent(extent)).collect());
                    }
                }
            }
        }
        json
    }

    pub(super) fn resolve(self, chunks: &[Arc<Chunk>]) -> Result<Entry> {
        let kind = match self.kind {
            Kind::Directory => EntryKind::Directory,
            Kind::Tablespace => EntryKind::Tablespace {
                location: self.location.map(|escaped| escaped.0),
            },
            Kind::File => {
                let Some(bytes) = self.bytes else {
                    return Err(bad_entry(&self.path, "a file without `bytes`"));
                };
                let content = match (self.data, self.extents) {
                    (Some(data), None) => Content::Inline(data.0),
                    (None, extents) => {
                        Content::Extents(resolve_extents(extents.unwrap_or_default(), chunks, &self.path)?)
                    }
                    (Some(_), Some(_)) => return Err(bad_entry(&self.path, "both `data` and `extents`")),
                };
                EntryKind::File(FileSpan {
                    bytes,
                    at: self.at,
                    content,
                    bad_pages: self.bad_pages,
                })
            }
        };
        Ok(Entry {
            path: self.path,
            kind,
            mode: self.mode.0,
            owner: self.owner,
            group: self.group,
            mtime: self.mtime,
        })
    }
}

fn resolve_extents(extents: Vec<ExtentJson>, chunks: &[Arc<Chunk>], path: &DataPath) -> Result<Vec<Extent>> {
    let resolve = |extent: ExtentJson| {
        let source = match extent.chunk {
            None => Source::Zeros,
            Some((chunk, offset)) => Source::Chunk {
                chunk: chunks
                    .get(chunk as usize)
                    .cloned()
                    .ok_or_else(|| bad_entry(path, "an extent names a chunk that its block does not list"))?,
                offset,
            },
        };
        Ok(Extent {
            bytes: extent.bytes,
            source,
        })
    };
    extents.into_iter().map(resolve).collect()
}

/// The lists `packs` and `chunks` of a block, or `packs` of a manifest document, in order of first use.
#[derive(Default)]
pub(super) struct ChunkTable {
    packs: Vec<Arc<ObjectName>>,
    pack_numbers: HashMap<Arc<ObjectName>, u32>,
    chunks: Vec<Arc<Chunk>>,
    chunk_numbers: HashMap<(u32, u64), u32>,
}

impl ChunkTable {
    pub(super) fn pack(&mut self, pack: &Arc<ObjectName>) -> u32 {
        if let Some(&number) = self.pack_numbers.get(pack) {
            return number;
        }
        let number = self.packs.len() as u32;
        self.packs.push(pack.clone());
        self.pack_numbers.insert(pack.clone(), number);
        number
    }

    fn chunk(&mut self, chunk: &Arc<Chunk>) -> u32 {
        if let Some(last) = self.chunks.last()
            && Arc::ptr_eq(last, chunk)
        {
            return self.chunks.len() as u32 - 1;
        }
        let key = (self.pack(&chunk.pack), chunk.offset);
        let next = self.chunks.len() as u32;
        let number = *self.chunk_numbers.entry(key).or_insert(next);
        if number == next {
            self.chunks.push(chunk.clone());
        }
        number
    }

    fn extent(&mut self, extent: &Extent) -> ExtentJson {
        let chunk = match &extent.source {
            Source::Zeros => None,
            Source::Chunk { chunk, offset } => Some((self.chunk(chunk), *offset)),
        };
        ExtentJson {
            bytes: extent.bytes,
            chunk,
        }
    }

    pub(super) fn packs(&self) -> &[Arc<ObjectName>] {
        &self.packs
    }

    pub(super) fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// The chunks as rows of the list `chunks`.
    pub(super) fn rows(&mut self) -> Vec<ChunkRow> {
        let chunks = std::mem::take(&mut self.chunks);
        let rows = chunks
            .iter()
            .map(|chunk| ChunkRow::of(self.pack(&chunk.pack), chunk))
            .collect();
        self.chunks = chunks;
        rows
    }
}

/// `[pack, offset, sealed bytes, content bytes, "blake3 of the content"]`
#[derive(Serialize, Deserialize)]
pub(crate) struct ChunkRow(pub u32, pub u64, pub u32, pub u32, pub Digest);

impl ChunkRow {
    pub(super) fn of(pack: u32, chunk: &Chunk) -> ChunkRow {
        ChunkRow(
            pack,
            chunk.offset,
            chunk.sealed_bytes,
            chunk.content_bytes,
            chunk.blake3,
        )
    }

    /// # Errors
    /// `Corrupt` for a pack that is not listed and for lengths that no frame can have.
    pub(crate) fn resolve(self, packs: &[Arc<ObjectName>]) -> Result<Chunk> {
        let ChunkRow(pack, offset, sealed_bytes, content_bytes, blake3) = self;
        let overhead = 24;
        let sealed_fits = (overhead..=FRAME_RAW_BYTES_MAX + overhead).contains(&u64::from(sealed_bytes));
        let rule = match packs.get(pack as usize) {
            None => "it names a pack that is not listed",
            Some(_) if !sealed_fits || u64::from(content_bytes) > FRAME_RAW_BYTES_MAX => "no frame has that length",
            Some(_) if offset > i64::MAX as u64 => "no pack is that long",
            Some(pack) => {
                return Ok(Chunk {
                    pack: pack.clone(),
                    offset,
                    sealed_bytes,
                    content_bytes,
                    blake3,
                });
            }
        };
        Err(Error::corrupt("a chunk's address in the manifest is not valid").detail(rule))
    }
}

/// `[length, chunk, offset]`, or `[length]` for zeros.
pub(super) struct ExtentJson {
    bytes: u64,
    chunk: Option<(u32, u32)>,
}

impl Serialize for ExtentJson {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut tuple = to.serialize_tuple(if self.chunk.is_some() { 3 } else { 1 })?;
        tuple.serialize_element(&self.bytes)?;
        if let Some((chunk, offset)) = &self.chunk {
            tuple.serialize_element(chunk)?;
            tuple.serialize_element(offset)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for ExtentJson {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ExtentJson, D::Error> {
        struct Extents;
        impl<'de> Visitor<'de> for Extents {
            type Value = ExtentJson;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[length] or [length, chunk, offset]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ExtentJson, A::Error> {
                let bytes = items
                    .next_element()?
                    .ok_or_else(|| de::Error::invalid_length(0, &self))?;
                let chunk = match items.next_element()? {
                    None => None,
                    Some(chunk) => Some((
                        chunk,
                        items
                            .next_element()?
                            .ok_or_else(|| de::Error::invalid_length(2, &self))?,
                    )),
                };
                if chunk.is_some() && items.next_element::<de::IgnoredAny>()?.is_some() {
                    return Err(de::Error::invalid_length(4, &self));
                }
                Ok(ExtentJson { bytes, chunk })
            }
        }
        from.deserialize_seq(Extents)
    }
}

/// Permission bits as octal text of at least four digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode(pub u32);

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Mode, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        let octal = text.len() <= 6 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        octal
            .then(|| u32::from_str_radix(&text, 8).ok())
            .flatten()
            .filter(|&bits| bits <= 0o7777)
            .map(Mode)
            .ok_or_else(|| de::Error::custom(format!("\"{}\" is not an octal mode", text.escape_debug())))
    }
}

/// A path that is not one of the data directory.
struct Escaped(Vec<u8>);

impl Serialize for Escaped {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for Escaped {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Escaped, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        unescape(&text).map(Escaped).map_err(de::Error::custom)
    }
}

struct Base64(Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Base64, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        BASE64_STANDARD
            .decode(text.as_bytes())
            .map(Base64)
            .map_err(de::Error::custom)
    }
}
