//! Seals WAL files: hash, compress, encrypt.
//!
//! Invariant: parts come before the object itself, which says how many there are; a file that changed between being
//! hashed and being sealed is never given an object. Memory is bounded for any size of segment: a part, and what is
//! being compressed.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgkeep_base::limits::{HEADER_BYTES_MAX, WAL_PART_BYTES};
use pgkeep_base::{ClusterName, Error, Result, SegmentFacts, SystemId, WalFile};
use pgkeep_store::ObjectName;
use serde_json::{Map, Value};

use super::digest::{READ_BYTES, WalDigest, WalNaming, WalSource, hash_digits};
use super::name::{object_name, part_name};
use super::{FRAME_BYTES, WalFacts};
use crate::frame::{Encoded, encode};
use crate::seal::{Kind, ObjectBuilder, SealedObject, Sealer};

/// WAL compresses eight times and more at the lowest level; higher ones cost the primary more than they save.
const WAL_LEVEL: i32 = 1;
/// The longest facts: three quarters of a header.
const FACTS_BYTES_MAX: usize = HEADER_BYTES_MAX / 4 * 3;
/// The longest history file that is repeated in the header.
const HISTORY_BYTES_MAX: u64 = 64 << 10;
/// More threads than this do not make a segment of 16 MiB noticeably faster.
const THREADS_MAX: usize = 4;

/// Seals a file that is in memory: the parts, if it is larger than 64 MiB, and then the object itself.
///
/// Holds all of them; for large segments [`WalPlan`] holds one at a time.
///
/// # Errors
/// `Invalid` for a file of timeline 0.
pub fn seal_wal(
    sealer: &Sealer,
    naming: &WalNaming,
    cluster: &ClusterName,
    sysid: SystemId,
    file: &WalFile,
    content: &[u8],
    facts: Option<SegmentFacts>,
) -> Result<Vec<SealedObject>> {
    WalPlan::new(naming, cluster, sysid, file, content)?
        .seal(sealer, facts)
        .collect()
}

/// A file that has been hashed, so that its object's name is known.
pub struct WalPlan<'a, S: WalSource + ?Sized> {
    naming: &'a WalNaming,
    file: &'a WalFile,
    content: &'a S,
    digest: WalDigest,
    name: ObjectName,
}

impl<'a, S: WalSource + ?Sized> WalPlan<'a, S> {
    /// Reads the file once.
    ///
    /// # Errors
    /// `Invalid` for a file of timeline 0; what reading gives.
    pub fn new(
        naming: &'a WalNaming,
        cluster: &ClusterName,
        sysid: SystemId,
        file: &'a WalFile,
        content: &'a S,
    ) -> Result<WalPlan<'a, S>> {
        let digest = naming.digest(content)?;
        let name = object_name(cluster, sysid, file, &digest.hash)?;
        Ok(WalPlan {
            naming,
            file,
            content,
            digest,
            name,
        })
    }

    /// The name of the object.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// The hashes of the content.
    pub fn digest(&self) -> &WalDigest {
        &self.digest
    }

    /// Seals part after part, and at last the object itself: create each before the next.
    pub fn seal(self, sealer: &Sealer, facts: Option<SegmentFacts>) -> WalSealing<'a, S> {
        let bytes = self.content.bytes();
        let parts = if bytes > WAL_PART_BYTES {
            bytes.div_ceil(WAL_PART_BYTES)
        } else {
            0
        };
        WalSealing {
            again: self.naming.hasher(),
            plan: self,
            sealer: sealer.clone(),
            facts,
            parts,
            next: 0,
        }
    }
}

/// The objects of one file, in the order in which they must be created.
pub struct WalSealing<'a, S: WalSource + ?Sized> {
    plan: WalPlan<'a, S>,
    sealer: Sealer,
    facts: Option<SegmentFacts>,
    parts: u64,
    next: u64,
    /// Hash of what was sealed, because the file is read a second time for that.
    again: blake3::Hasher,
}

impl<S: WalSource + ?Sized> Iterator for WalSealing<'_, S> {
    type Item = Result<SealedObject>;

    fn next(&mut self) -> Option<Result<SealedObject>> {
        let number = self.next;
        self.next += 1;
        match number.cmp(&self.parts) {
            std::cmp::Ordering::Less => Some(self.part(number)),
            std::cmp::Ordering::Equal => Some(self.object()),
            std::cmp::Ordering::Greater => None,
        }
    }
}

impl<S: WalSource + ?Sized> WalSealing<'_, S> {
    fn part(&mut self, number: u64) -> Result<SealedObject> {
        let short = u16::try_from(number).map_err(|_| Error::invalid("a WAL file has too many parts"))?;
        let builder = self.sealer.begin(&part_name(&self.plan.name, short), Kind::WalPart)?;
        let start = number * WAL_PART_BYTES;
        let end = (start + WAL_PART_BYTES).min(self.plan.content.bytes());
        self.seal_content(builder, start..end)?.finish(Map::new())
    }

    fn object(&mut self) -> Result<SealedObject> {
        let builder = self.sealer.begin(&self.plan.name, Kind::Wal)?;
        let bytes = self.plan.content.bytes();
        let mut header = Map::new();
        let body = if self.parts > 0 {
            header.insert("parts".to_owned(), self.parts.into());
            Body { builder, last: None }
        } else {
            self.seal_content(builder, 0..bytes)?
        };
        if self.plan.content.may_change() && hash_digits(&self.again) != self.plan.digest.hash {
            let message = format!("{} changed while it was being archived", self.plan.file);
            return Err(Error::corrupt(message).hint("Look at the disk; PostgreSQL will hand the file over again."));
        }
        header.insert("file".to_owned(), self.plan.file.to_string().into());
        header.insert("file_bytes".to_owned(), bytes.into());
        header.insert("facts".to_owned(), self.facts()?);
        if let Some(text) = self.history()? {
            header.insert("history".to_owned(), text.into());
        }
        body.finish(header)
    }

    /// The text of a history file: heads repeat it anyway, and timelines must be known without keys.
    fn history(&self) -> Result<Option<String>> {
        let bytes = self.plan.content.bytes();
        if !matches!(self.plan.file, WalFile::History(_)) || bytes > HISTORY_BYTES_MAX {
            return Ok(None);
        }
        let mut buffer = Vec::new();
        let content = self.plan.content.read(0, bytes as usize, &mut buffer)?;
        Ok(std::str::from_utf8(content).ok().map(str::to_owned))
    }

    /// Seals a range of the file, all but the last frame.
    fn seal_content(&mut self, mut builder: ObjectBuilder, range: Range<u64>) -> Result<Body> {
        let content = self.plan.content;
        let mut last: Option<Encoded> = None;
        let mut buffer = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(READ_BYTES as u64) as usize;
            let bytes = content.read(at, length, &mut buffer)?;
            if content.may_change() {
                self.again.update(bytes);
            }
            for frame in encode_all(bytes)? {
                if let Some(before) = last.replace(frame) {
                    builder.push(&before)?;
                }
            }
            at += length as u64;
        }
        Ok(Body { builder, last })
    }

    /// The facts as they go into the header; null where they would burst it (thousands of restore points in a segment):
    /// archiving goes on, and whoever needs them opens the object.
    fn facts(&mut self) -> Result<Value> {
        let prefix = std::mem::take(&mut self.plan.digest.prefix);
        let Some(segment) = self.facts.take() else {
            return Ok(Value::Null);
        };
        let failed = |source: serde_json::Error| Error::internal("could not write facts").source(source);
        let text = serde_json::to_string(&WalFacts { segment, prefix }).map_err(failed)?;
        if text.len() > FACTS_BYTES_MAX {
            tracing::warn!(file = %self.plan.file, bytes = text.len(), "facts are too long to be stored");
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(failed)
    }
}

/// A body to which only its last frame is missing.
struct Body {
    builder: ObjectBuilder,
    last: Option<Encoded>,
}

impl Body {
    fn finish(self, header: Map<String, Value>) -> Result<SealedObject> {
        self.builder.finish(header, self.last.as_ref())
    }
}

/// Compresses the frames of `bytes` on a few threads.
fn encode_all(bytes: &[u8]) -> Result<Vec<Encoded>> {
    let chunks: Vec<&[u8]> = bytes.chunks(FRAME_BYTES).collect();
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX)
        .min(chunks.len());
    let encoded: Vec<Mutex<Option<Result<Encoded>>>> = chunks.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((chunk, slot)) = {
            let i = next.fetch_add(1, Ordering::Relaxed);
            chunks.get(i).zip(encoded.get(i))
        } {
            *slot.lock().expect("nobody panics with this lock") = Some(encode(chunk, WAL_LEVEL));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let taken = encoded
        .into_iter()
        .map(|slot| slot.into_inner().expect("nobody panics with this lock"));
    taken.map(|frame| frame.expect("every chunk was encoded")).collect()
}
