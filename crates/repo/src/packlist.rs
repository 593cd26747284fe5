//! Which packs a backup needs, and how much of each: the packs object (docs/format.md, section 5).
//!
//! Invariant: the list names every pack that the manifest or a block refers to, once, sorted by name. Prune, verify and
//! reuse decide by it without any key. Its hash is in the head; `reader` takes packs' keys from it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pgkeep_base::limits::HEADER_BYTES_MAX;
use pgkeep_base::{Error, Result};
use pgkeep_store::ObjectName;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::digest::Digest;
use crate::frame::{Encoded, encode};
use crate::lineage::Lineage;
use crate::manifest::Chunk;
use crate::seal::{Kind, Seal, SealedObject, Sealer};

/// Raw bytes after which a frame of the packs object ends.
const FRAME_BYTES_TARGET: usize = 1 << 20;
const LEVEL: i32 = 3;

/// What is known of a pack without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackInfo {
    /// Logical name.
    pub name: ObjectName,
    /// Length of the whole object.
    pub bytes: u64,
    /// Length of its header: its frames begin at `12 + header_bytes`.
    pub header_bytes: u64,
    /// Hash of the whole object.
    pub blake3: Digest,
    /// How many sealed bytes the backup refers to; a chunk counts once per block.
    pub live_bytes: u64,
    /// Its wrapped key, if it is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl PackInfo {
    /// Of a pack that is ready to be created, with nothing live yet.
    pub fn of(object: &SealedObject) -> PackInfo {
        PackInfo {
            name: object.name.clone(),
            bytes: object.bytes,
            header_bytes: object.header_bytes,
            blake3: object.blake3.parse().expect("a sealed object's hash is one"),
            live_bytes: 0,
            key: object.key.clone(),
        }
    }

    /// How it is sealed.
    pub fn seal(&self) -> Seal {
        match &self.key {
            Some(key) => Seal::Age { key: key.clone() },
            None => Seal::None,
        }
    }

    /// Where the frame at `offset` of the body begins in the object.
    pub fn object_offset(&self, offset: u64) -> u64 {
        // Both were checked to be less than 2^63 when they were read.
        12 + self.header_bytes + offset
    }

    /// Whether so little of it is live that what is should be stored anew, so that the pack dies whole.
    pub fn is_mostly_dead(&self) -> bool {
        self.live_bytes.saturating_mul(4) < self.bytes
    }

    /// Why there can be no such pack; `None` if there can.
    pub(crate) fn broken_rule(&self) -> Option<&'static str> {
        if Lineage::of_pack(&self.name).is_err() {
            Some("a name that is not a pack's")
        } else if self.bytes > i64::MAX as u64 || self.header_bytes > self.bytes.min(HEADER_BYTES_MAX as u64) {
            Some("a length that no pack can have")
        } else {
            None
        }
    }
}

/// The packs of one backup, sorted by name. About a kilobyte for each 32 MiB of stored data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackList {
    packs: Vec<PackInfo>,
}

impl PackList {
    /// The packs in order of name.
    pub fn packs(&self) -> &[PackInfo] {
        &self.packs
    }

    /// What is known of a pack.
    pub fn get(&self, name: &ObjectName) -> Option<&PackInfo> {
        self.find(name).map(|(_, pack)| pack)
    }

    /// What is known of a pack, and its place in the list.
    pub fn find(&self, name: &ObjectName) -> Option<(usize, &PackInfo)> {
        let found = self.packs.binary_search_by(|pack| pack.name.cmp(name)).ok()?;
        Some((found, &self.packs[found]))
    }

    /// Live bytes of all packs: the head's `stored_bytes`.
    pub fn live_bytes(&self) -> u64 {
        self.packs
            .iter()
            .map(|pack| pack.live_bytes)
            .fold(0, u64::saturating_add)
    }

    /// The packs object, signed but not sealed.
    ///
    /// # Errors
    /// `Internal` where it can't be written.
    pub fn to_object(&self, sealer: &Sealer, name: &ObjectName) -> Result<SealedObject> {
        let mut builder = sealer.begin_plain(name, Kind::Packs)?;
        let mut lines = Vec::new();
        for pack in &self.packs {
            serde_json::to_writer(&mut lines, pack)
                .map_err(|source| Error::internal("could not write the list of packs").source(source))?;
            lines.push(b'\n');
            if lines.len() >= FRAME_BYTES_TARGET {
                builder.push(&encode(&lines, LEVEL)?)?;
                lines.clear();
            }
        }
        let rest: Encoded = encode(&lines, LEVEL)?;
        builder.finish(Map::new(), Some(&rest))
    }

    /// Reads the frames of a packs object.
    ///
    /// # Errors
    /// `Corrupt` for what is not a list of packs in order.
    pub fn from_frames<F: AsRef<[u8]>>(frames: &[F]) -> Result<PackList> {
        let bad = |rule: String| Error::corrupt("the list of packs is not valid").detail(rule);
        let mut packs: Vec<PackInfo> = Vec::new();
        for frame in frames.iter().map(AsRef::as_ref).filter(|frame| !frame.is_empty()) {
            let Some(lines) = frame.strip_suffix(b"\n") else {
                return Err(bad("a frame does not end with its line".to_owned()));
            };
            for line in lines.split(|&b| b == b'\n') {
                let pack: PackInfo = serde_json::from_slice(line)
                    .map_err(|source| Error::corrupt("the list of packs can't be read").source(source))?;
                if let Some(rule) = pack.broken_rule() {
                    return Err(bad(format!("\"{}\" has {rule}", pack.name)));
                }
                if packs.last().is_some_and(|last| last.name >= pack.name) {
                    return Err(bad(format!("\"{}\" is out of order", pack.name)));
                }
                packs.push(pack);
            }
        }
        Ok(PackList { packs })
    }
}

/// Counts, while a backup is written, how much of which pack it refers to.
#[derive(Debug, Default)]
pub struct PackListBuilder {
    known: HashMap<ObjectName, PackInfo>,
    live: BTreeMap<Arc<ObjectName>, u64>,
}

impl PackListBuilder {
    /// Notes what is known of a pack: one that this run closed, or one of an earlier backup that may be referred to.
    pub fn know(&mut self, pack: PackInfo) {
        self.known.insert(pack.name.clone(), pack);
    }

    /// Counts a block of the manifest, which lies in `chunk`, and all that it refers to.
    pub fn refer(&mut self, live: &[(Arc<ObjectName>, u64)], chunk: &Chunk) {
        self.add(&chunk.pack, u64::from(chunk.sealed_bytes));
        for (pack, bytes) in live {
            self.add(pack, *bytes);
        }
    }

    fn add(&mut self, pack: &Arc<ObjectName>, bytes: u64) {
        match self.live.get_mut(pack) {
            Some(live) => *live += bytes,
            None => drop(self.live.insert(pack.clone(), bytes)),
        }
    }

    /// The list of all packs referred to. Known packs that nothing refers to are left out: they are garbage.
    ///
    /// # Errors
    /// `Internal` where the manifest refers to a pack of which nothing is known: it must not be written then.
    pub fn finish(mut self) -> Result<PackList> {
        let mut packs = Vec::with_capacity(self.live.len());
        for (name, live_bytes) in self.live {
            let Some(pack) = self.known.remove(&*name) else {
                return Err(Error::internal(format!(
                    "the manifest refers to {name}, which was never closed"
                )));
            };
            packs.push(PackInfo { live_bytes, ..pack });
        }
        Ok(PackList { packs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::{chunk, pack};

    fn info(number: u32) -> PackInfo {
        PackInfo {
            name: (*pack(number)).clone(),
            bytes: 33_554_432,
            header_bytes: 812,
            blake3: Digest::of(&number.to_le_bytes()),
            live_bytes: 0,
            key: Some("YWdl".to_owned()),
        }
    }

    #[test]
    fn what_is_referred_to_is_counted_once_per_pack_and_nothing_else_is_listed() {
        let mut builder = PackListBuilder::default();
        [2, 0, 1, 7].into_iter().for_each(|number| builder.know(info(number)));
        builder.refer(&[(pack(2), 100), (pack(0), 5)], &chunk(7, 0, 300));
        builder.refer(&[(pack(2), 11)], &chunk(7, 500, 300));
        let list = builder.finish().unwrap();
        let live: Vec<_> = list.packs().iter().map(|pack| pack.live_bytes).collect();
        assert_eq!(live, [5, 111, 2 * (24 + 100)]);
        assert_eq!(list.live_bytes(), 5 + 111 + 248);
        assert_eq!(list.get(&pack(2)).unwrap().live_bytes, 111);
        assert!(list.get(&pack(1)).is_none());
        assert!(list.get(&pack(2)).unwrap().is_mostly_dead());
    }

    #[test]
    fn a_manifest_that_refers_to_an_unknown_pack_is_not_written() {
        let mut builder = PackListBuilder::default();
        builder.know(info(1));
        builder.refer(&[(pack(0), 1)], &chunk(1, 0, 1));
        assert!(builder.finish().is_err());
    }

    #[test]
    fn a_line_looks_as_the_document_says() {
        let line = serde_json::to_string(&info(0)).unwrap();
        let hash = Digest::of(&0u32.to_le_bytes());
        let name = pack(0);
        let expected = format!(
            r#"{{"name":"{name}","bytes":33554432,"header_bytes":812,"blake3":"{hash}","live_bytes":0,"key":"YWdl"}}"#
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn lists_that_are_cut_unsorted_or_impossible_are_refused() {
        let line = |pack: &PackInfo| serde_json::to_string(pack).unwrap() + "\n";
        let (a, b) = (line(&info(0)), line(&info(1)));
        assert_eq!(
            PackList::from_frames(&[a.clone() + &b]).unwrap(),
            PackList::from_frames(&[&a, &b]).unwrap()
        );
        assert_eq!(PackList::from_frames::<&[u8]>(&[b""]).unwrap(), PackList::default());
        let misnamed = a.replace("packs/", "wal/");
        let huge = a.replace("33554432", "18446744073709551615");
        let headless = a.replace(":812", ":1048577");
        for bad in [
            b.clone() + &a,
            a.clone() + &a,
            a[..a.len() - 1].to_owned(),
            "\n".to_owned(),
            misnamed,
            huge,
            headless,
        ] {
            assert!(PackList::from_frames(&[&bad]).is_err(), "{bad}");
        }
    }
}
