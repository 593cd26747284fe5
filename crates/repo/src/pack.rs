//! Appends chunks to packs of about 32 MiB and says where each one lies (docs/format.md, section 4).
//!
//! Invariant: a chunk's address is final when [`PackWriter::push`] returns, but means nothing until its pack is durable:
//! whoever remembers addresses across a crash asks [`PackWatermark`] first. Nothing here waits for a store: the caller
//! uploads what is closed, at most `PACKS_IN_FLIGHT` at once. Which packs a backup needs is counted in `packlist`.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgkeep_base::limits::PACK_BYTES_TARGET;
use pgkeep_base::{BackupId, Error, Result};
use pgkeep_store::ObjectName;
use serde_json::Map;

use crate::digest::Digest;
use crate::frame::Encoded;
use crate::lineage::Lineage;
use crate::manifest::Chunk;
use crate::seal::{Kind, ObjectBuilder, SealedObject, Sealer};

/// Writes the packs of one backup. Holds one open pack in memory, about 34 MiB.
pub struct PackWriter {
    sealer: Sealer,
    lineage: Lineage,
    id: BackupId,
    next_number: u32,
    bytes_target: u64,
    open: Option<OpenPack>,
}

struct OpenPack {
    number: u32,
    name: Arc<ObjectName>,
    builder: ObjectBuilder,
}

/// A pack to be created in every place.
#[derive(Clone, Debug)]
pub struct ClosedPack {
    /// Its number in this backup, counted from 0.
    pub number: u32,
    /// The object.
    pub object: SealedObject,
}

/// Where a chunk came to lie.
#[derive(Debug)]
pub struct Placed {
    /// Its address.
    pub chunk: Arc<Chunk>,
    /// The number of its pack, for [`PackWatermark`].
    pub pack_number: u32,
    /// The pack that it filled. Create it, then report it to [`PackWatermark::durable`].
    pub closed: Option<ClosedPack>,
}

impl PackWriter {
    /// A writer for the packs of backup `id`, which has none yet.
    pub fn new(sealer: Sealer, lineage: Lineage, id: BackupId) -> PackWriter {
        PackWriter {
            sealer,
            lineage,
            id,
            next_number: 0,
            bytes_target: PACK_BYTES_TARGET,
            open: None,
        }
    }

    /// Closes packs at another size, for tests and measurements.
    #[must_use]
    pub fn bytes_target(mut self, bytes: u64) -> PackWriter {
        self.bytes_target = bytes;
        self
    }

    /// Appends a chunk whose content has this hash.
    ///
    /// Costs sealing and hashing, which is small beside encoding: chunks may be encoded in parallel before.
    ///
    /// # Errors
    /// `Internal` after four billion packs.
    pub fn push(&mut self, content: &Encoded, blake3: Digest) -> Result<Placed> {
        let pack = match &mut self.open {
            Some(open) => open,
            None => {
                let open = self.begin()?;
                self.open.insert(open)
            }
        };
        let address = pack.builder.push(content)?;
        let chunk = Arc::new(Chunk {
            pack: pack.name.clone(),
            offset: address.offset,
            sealed_bytes: u32::try_from(address.bytes).expect("a frame is at most 64 MiB"),
            content_bytes: content.raw_bytes,
            blake3,
        });
        let pack_number = pack.number;
        let full = pack.builder.body_bytes() >= self.bytes_target;
        Ok(Placed {
            chunk,
            pack_number,
            closed: if full { self.close()? } else { None },
        })
    }

    /// Closes the open pack, if there is one, whatever its size. More chunks may follow, in a new pack.
    pub fn close(&mut self) -> Result<Option<ClosedPack>> {
        let Some(open) = self.open.take() else {
            return Ok(None);
        };
        let object = open.builder.finish(Map::new(), None)?;
        Ok(Some(ClosedPack {
            number: open.number,
            object,
        }))
    }

    /// How many packs were begun.
    pub fn packs_begun(&self) -> u32 {
        self.next_number
    }

    fn begin(&mut self) -> Result<OpenPack> {
        let number = self.next_number;
        self.next_number = number
            .checked_add(1)
            .ok_or_else(|| Error::internal("a backup ran out of pack numbers"))?;
        let name = self.lineage.pack_name(&self.id, number);
        let builder = self.sealer.begin(&name, Kind::Pack)?;
        Ok(OpenPack {
            number,
            name: Arc::new(name),
            builder,
        })
    }
}

/// Up to which pack everything is durable in all required places, while uploads finish in any order.
#[derive(Debug, Default)]
pub struct PackWatermark {
    below: u32,
    ahead: BTreeSet<u32>,
}

impl PackWatermark {
    /// Notes that a pack is durable in all required places; returns the new [`PackWatermark::below`].
    pub fn durable(&mut self, pack_number: u32) -> u32 {
        self.ahead.insert(pack_number);
        while self.ahead.remove(&self.below) {
            self.below += 1;
        }
        self.below
    }

    /// All packs with smaller numbers are durable.
    pub fn below(&self) -> u32 {
        self.below
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::encode;
    use crate::head::tests::physical_head;
    use crate::test_support::Repository;

    fn writer(repository: &Repository) -> PackWriter {
        let head = physical_head();
        PackWriter::new(repository.sealer(), head.lineage(), head.id).bytes_target(2000)
    }

    #[test]
    fn packs_close_at_their_size_and_every_chunk_opens_at_its_address() {
        for repository in Repository::both() {
            let mut writer = writer(&repository);
            let (mut chunks, mut packs) = (vec![], vec![]);
            for i in 0..50u8 {
                let content = blake3::hash(&[i]).as_bytes().repeat(1 + usize::from(i) % 5);
                let placed = writer
                    .push(&encode(&content, 1).unwrap(), Digest::of(&content))
                    .unwrap();
                packs.extend(placed.closed);
                chunks.push((placed.chunk, content));
            }
            packs.extend(writer.close().unwrap());
            assert!(writer.close().unwrap().is_none());
            assert!((2..20).contains(&packs.len()) && packs.len() as u32 == writer.packs_begun());
            let opener = repository.opener();
            for (number, pack) in packs.iter().enumerate() {
                assert_eq!(pack.number as usize, number);
                let (_, contents) = opener
                    .open_object(&pack.object.name, &pack.object.to_bytes(), Kind::Pack)
                    .unwrap();
                assert!(contents.last().unwrap().is_empty(), "the last frame is empty");
            }
            for (chunk, content) in chunks {
                let object = &packs
                    .iter()
                    .find(|pack| pack.object.name == *chunk.pack)
                    .unwrap()
                    .object;
                let at = (12 + object.header_bytes + chunk.offset + 4) as usize;
                let seal = crate::packlist::PackInfo::of(object).seal();
                let key = opener.key_for(&seal).unwrap();
                let sealed = &object.to_bytes()[at..at + chunk.sealed_bytes as usize];
                assert_eq!(
                    opener
                        .open_frame(&key, &chunk.pack, chunk.offset, false, sealed)
                        .unwrap(),
                    content
                );
            }
        }
    }

    #[test]
    fn the_watermark_waits_for_the_slowest_upload() {
        let mut watermark = PackWatermark::default();
        let below: Vec<_> = [1, 2, 0, 4, 3]
            .into_iter()
            .map(|number| watermark.durable(number))
            .collect();
        assert_eq!(below, [0, 0, 3, 3, 5]);
        assert_eq!(watermark.below(), 5);
    }
}
