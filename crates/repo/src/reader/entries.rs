//! The entries of a backup in order, block by block.
//!
//! Invariant: an entry is given out only after it and its place among all entries before it were checked, and the end
//! is reached only if nothing is missing. Memory: a few blocks, whatever the size of the manifest.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use pgkeep_base::{Error, Result, ResultExt};

use super::chunks::ChunkSource;
use crate::manifest::{Entry, ManifestIndex, OrderCheck, parse_block};

/// How many blocks are fetched before they are needed.
const BLOCKS_AHEAD: usize = 4;

/// Goes through the entries of a backup, without the last ones ([`super::BackupReader::last`]).
pub struct EntryStream {
    index: Arc<ManifestIndex>,
    contents: BoxStream<'static, Result<Vec<u8>>>,
    next_block: usize,
    order: Option<OrderCheck>,
    entries: std::vec::IntoIter<Entry>,
}

impl EntryStream {
    pub(super) fn new(index: Arc<ManifestIndex>, source: ChunkSource) -> EntryStream {
        let blocks = index.clone();
        let fetch = move |number: usize| {
            let (source, chunk) = (source.clone(), blocks.blocks[number].chunk.clone());
            async move { source.content(&chunk).await }
        };
        let contents = futures::stream::iter(0..index.blocks.len())
            .map(fetch)
            .buffered(BLOCKS_AHEAD)
            .boxed();
        EntryStream {
            index,
            contents,
            next_block: 0,
            order: Some(OrderCheck::default()),
            entries: Vec::new().into_iter(),
        }
    }

    /// The next entry; `None` behind the last, when nothing was missing.
    ///
    /// # Errors
    /// As [`ChunkSource::fetch`]; `Corrupt` for a manifest that breaks a rule. Nothing comes after an error.
    pub async fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Ok(Some(entry));
            }
            match self.next_block().await? {
                Some(entries) => self.entries = entries.into_iter(),
                None => return Ok(None),
            }
        }
    }

    /// The entries of the next block, about 256 KiB of JSON. Not to be mixed with [`EntryStream::next`].
    ///
    /// # Errors
    /// As [`EntryStream::next`].
    pub async fn next_block(&mut self) -> Result<Option<Vec<Entry>>> {
        // Taken out, so that an error leaves a stream that has ended.
        let Some(mut order) = self.order.take() else {
            return Ok(None);
        };
        let Some(block) = self.index.blocks.get(self.next_block) else {
            return order.finish(&self.index.last).map(|()| None);
        };
        let json = self.contents.next().await.expect("there is a content for each block")?;
        let during = || format!("read the manifest's block at \"{}\"", block.first);
        let entries = parse_block(&json).during(during)?;
        if entries.first().is_none_or(|entry| entry.path != block.first) {
            return Err(
                Error::corrupt("the block does not begin with the path that the manifest says").during(during()),
            );
        }
        entries.iter().try_for_each(|entry| order.entry(entry)).during(during)?;
        self.next_block += 1;
        self.order = Some(order);
        Ok(Some(entries))
    }
}
