//! Puts what the copy read into packs and manifest, in order.
//!
//! Invariant: everything that decides names and addresses happens here, on one thread, in the order of the manifest;
//! the journal only ever holds what is durable.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use pgkeep_base::limits::PACK_REMEMBERED_BYTES;
use pgkeep_base::{Error, Event, Progress, Result};
use pgkeep_pg::datadir::{Entry as Found, EntryKind as FoundKind};
use pgkeep_repo::frame::encode;
use pgkeep_repo::manifest::entry::{INLINE_BYTES_MAX, SPAN_BYTES_MAX};
use pgkeep_repo::manifest::{
    Block, BlockBuilder, BlockRef, Chunk, Content, Entry, EntryKind, Extent, FileSpan, ManifestIndex, extents,
};
use pgkeep_repo::pack::{ClosedPack, PackWriter};
use pgkeep_repo::packlist::{PackInfo, PackListBuilder};
use pgkeep_repo::paths::DataPath;
use pgkeep_repo::reuse::{BlockRecord, FileStat, PIECE_BYTES_MAX, PageHash, Piece, ReuseWriter};
use pgkeep_store::ObjectName;
use tokio::sync::mpsc;

use super::base::Base;
use super::copy::Item;
use super::slice::{Run, Slice};
use super::upload::Durable;
use crate::owners::Owners;

/// zstd level of manifest blocks.
const BLOCK_LEVEL: i32 = 3;

/// Counts for head and report.
#[derive(Debug, Default)]
pub struct Counts {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files with bad pages.
    pub bad_files: Vec<(String, u64)>,
}

/// Where an assembler's results go.
pub struct Outlets {
    /// Takes closed packs; waits while uploads are behind.
    pub packs: mpsc::Sender<ClosedPack>,
    /// How far the uploads have come.
    pub durable: Arc<Durable>,
    /// Hears of bytes and oddities.
    pub progress: Arc<dyn Progress>,
}

/// Takes items in order; lives on one blocking thread.
pub struct Assembler {
    pub packs: PackWriter,
    pub blocks: BlockBuilder,
    pub index: ManifestIndex,
    pub list: PackListBuilder,
    pub journal: Option<ReuseWriter>,
    pub base: Arc<Base>,
    pub owners: Owners,
    pub outlets: Outlets,
    pub counts: Counts,
    known: HashSet<ObjectName>,
    /// What the journal had been given when a pack was last closed for it, or filled.
    remembered: u64,
}

/// A file whose slices are coming in.
struct OpenFile {
    entry: Found,
    path: DataPath,
    /// Length that it will have.
    bytes: u64,
    at: u64,
    span: OpenPart,
    piece: OpenPart,
    pages: Vec<PageHash>,
}

#[derive(Default)]
struct OpenPart {
    extents: Vec<Extent>,
    bad_pages: Vec<u64>,
}

impl OpenPart {
    fn add(&mut self, extents: &[Extent], bad_pages: &[u64]) {
        for extent in extents {
            extents::push(&mut self.extents, extent.clone());
        }
        self.bad_pages.extend_from_slice(bad_pages);
    }
}

impl Assembler {
    /// An assembler with nothing in it.
    pub fn new(
        packs: PackWriter,
        journal: Option<ReuseWriter>,
        base: Arc<Base>,
        owners: Owners,
        outlets: Outlets,
    ) -> Assembler {
        Assembler {
            packs,
            blocks: BlockBuilder::new(),
            index: ManifestIndex::default(),
            list: PackListBuilder::default(),
            journal,
            base,
            owners,
            outlets,
            counts: Counts::default(),
            known: HashSet::new(),
            remembered: 0,
        }
    }

    /// Takes everything that the copy gives.
    pub fn run(&mut self, items: &Receiver<Item>) -> Result<()> {
        let mut open: Option<OpenFile> = None;
        loop {
            match items
                .recv()
                .map_err(|_| Error::internal("the copy ended without saying so"))?
            {
                Item::Entry(entry) => self.plain_entry(&entry)?,
                Item::File(entry, bytes) => open = Some(OpenFile::new(entry, bytes)?),
                Item::Slice(result) => {
                    let slice = result
                        .recv()
                        .map_err(|_| Error::internal("a worker ended without a result"))??;
                    let file = open.as_mut().ok_or_else(|| Error::internal("a slice of no file"))?;
                    self.slice(file, slice)?;
                    if file.at >= file.bytes {
                        self.end_file(open.take().expect("just used"))?;
                    }
                }
                Item::Skipped(what) => self.outlets.progress.event(Event::Note { message: what }),
                Item::End(result) => return result,
            }
            self.release()?;
        }
    }

    fn plain_entry(&mut self, found: &Found) -> Result<()> {
        let kind = match &found.kind {
            FoundKind::Tablespace(tablespace) => {
                use std::os::unix::ffi::OsStrExt;
                EntryKind::Tablespace {
                    location: Some(tablespace.location.as_os_str().as_bytes().to_vec()),
                }
            }
            _ => EntryKind::Directory,
        };
        let path = DataPath::new(found.path.as_bytes())?;
        self.entry(&self.describe(found, path, kind))
    }

    fn describe(&self, found: &Found, path: DataPath, kind: EntryKind) -> Entry {
        let (owner, group) = self.owners.differing(found.uid, found.gid);
        Entry {
            path,
            kind,
            mode: found.mode,
            owner,
            group,
            mtime: found.mtime_ns.div_euclid(1_000_000_000),
        }
    }

    fn slice(&mut self, file: &mut OpenFile, slice: Slice) -> Result<()> {
        if file.bytes <= super::slice::SLICE_BYTES {
            // A small file that grew or shrank while it was read is as long as what was read.
            file.bytes = slice.bytes;
        }
        let mut chunks: Vec<Arc<Chunk>> = Vec::with_capacity(slice.chunks.len());
        for (content, blake3) in &slice.chunks {
            chunks.push(self.store(content, *blake3)?);
        }
        let mut extents = Vec::with_capacity(slice.runs.len());
        for run in slice.runs {
            let extent = match run {
                Run::Known(extent) => extent,
                Run::New { chunk, offset, bytes } => Extent::of_chunk(Arc::clone(&chunks[chunk]), offset, bytes),
            };
            self.know_packs(std::slice::from_ref(&extent));
            extents::push(&mut extents, extent);
        }
        file.span.add(&extents, &slice.bad_pages);
        file.piece.add(&extents, &slice.bad_pages);
        file.pages.extend(slice.pages);
        file.at += slice.bytes;
        self.counts.bytes += slice.bytes;
        self.outlets.progress.event(Event::Bytes {
            done: self.counts.bytes,
        });
        if file.at.is_multiple_of(SPAN_BYTES_MAX) && file.at < file.bytes {
            self.end_piece(file)?;
            self.end_span(file)?;
        } else if file.at.is_multiple_of(PIECE_BYTES_MAX) && file.at < file.bytes {
            self.end_piece(file)?;
        }
        Ok(())
    }

    fn end_file(&mut self, mut file: OpenFile) -> Result<()> {
        self.counts.files += 1;
        self.end_piece(&mut file)?;
        self.end_span(&mut file)
    }

    fn end_span(&mut self, file: &mut OpenFile) -> Result<()> {
        let part = std::mem::take(&mut file.span);
        if !part.bad_pages.is_empty() {
            self.counts
                .bad_files
                .push((file.entry.path.to_string(), part.bad_pages.len() as u64));
        }
        let covered = extents::total(&part.extents);
        let span = FileSpan {
            bytes: file.bytes,
            at: file.at - covered,
            content: content_of(part.extents),
            bad_pages: part.bad_pages,
        };
        let entry = self.describe(&file.entry, file.path.clone(), EntryKind::File(span));
        self.entry(&entry)
    }

    fn end_piece(&mut self, file: &mut OpenFile) -> Result<()> {
        let part = std::mem::take(&mut file.piece);
        let covered = extents::total(&part.extents);
        let piece = Piece {
            path: file.path.clone(),
            stat: FileStat {
                bytes: file.bytes,
                mtime_ns: file.entry.mtime_ns,
                ctime_ns: file.entry.ctime_ns,
                device: file.entry.device,
                inode: file.entry.inode,
            },
            at: file.at - covered,
            content: content_of(part.extents),
            pages: std::mem::take(&mut file.pages),
            bad_pages: part.bad_pages,
        };
        let below = self.packs.packs_begun();
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        journal.piece(piece, below)?;
        let given = journal.given_bytes();
        if given - self.remembered < PACK_REMEMBERED_BYTES {
            return Ok(());
        }
        self.remembered = given;
        // Where little is new, the pack that all this waits for would fill only at the very end.
        match self.packs.close()? {
            Some(closed) => self.hand_over(closed),
            None => Ok(()),
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        match self.blocks.push(entry)? {
            Some(block) => self.block(block),
            None => Ok(()),
        }
    }

    /// Stores a manifest block, or refers to the earlier backup's one of the same content.
    pub fn block(&mut self, block: Block) -> Result<()> {
        let earlier = self
            .base
            .block(&block.blake3)
            .filter(|record| self.base.may_reuse(&record.chunk.pack));
        let chunk = match earlier {
            Some(record) => record.chunk,
            None => self.store(&encode(&block.json, BLOCK_LEVEL)?, block.blake3)?,
        };
        self.know_pack(&chunk.pack);
        self.list.refer(&block.live, &chunk);
        self.index.blocks.push(BlockRef {
            first: block.first.clone(),
            chunk: Arc::clone(&chunk),
        });
        if let Some(journal) = &mut self.journal {
            let Block {
                first,
                last,
                entries,
                live,
                ..
            } = block;
            journal.block(
                BlockRecord {
                    first,
                    last,
                    entries,
                    chunk,
                    live,
                },
                self.packs.packs_begun(),
            );
        }
        Ok(())
    }

    fn store(
        &mut self,
        content: &pgkeep_repo::frame::Encoded,
        blake3: pgkeep_repo::digest::Digest,
    ) -> Result<Arc<Chunk>> {
        let placed = self.packs.push(content, blake3)?;
        if let Some(closed) = placed.closed {
            self.hand_over(closed)?;
        }
        Ok(placed.chunk)
    }

    /// Gives a closed pack to the uploads; waits while they are behind.
    pub fn hand_over(&mut self, pack: ClosedPack) -> Result<()> {
        self.remembered = self.journal.as_ref().map_or(0, ReuseWriter::given_bytes);
        self.know(PackInfo::of(&pack.object));
        self.outlets
            .packs
            .blocking_send(pack)
            .map_err(|_| Error::cancelled("the uploads have ended"))
    }

    fn know_packs(&mut self, extents: &[Extent]) {
        for chunk in extents::chunks(extents) {
            self.know_pack(&chunk.pack);
        }
    }

    /// Takes what the base knows of a pack of an earlier backup, once.
    fn know_pack(&mut self, name: &ObjectName) {
        if self.known.contains(name) {
            return;
        }
        if let Some(mut info) = self.base.pack(name) {
            info.live_bytes = 0;
            self.know(info);
        }
    }

    fn know(&mut self, info: PackInfo) {
        self.known.insert(info.name.clone());
        if let Some(journal) = &mut self.journal {
            journal.know(info.clone());
        }
        self.list.know(info);
    }

    /// Lets the journal write what has become durable; a journal that fails is given up, the backup goes on.
    pub fn release(&mut self) -> Result<()> {
        let below = self.outlets.durable.below();
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.release(below)
        {
            self.outlets.progress.event(Event::Note {
                message: format!("the next backup will store everything anew: {error}"),
            });
            self.journal = None;
        }
        Ok(())
    }
}

impl OpenFile {
    fn new(entry: Found, bytes: u64) -> Result<OpenFile> {
        let path = DataPath::new(entry.path.as_bytes())?;
        let (span, piece, pages) = (OpenPart::default(), OpenPart::default(), Vec::new());
        Ok(OpenFile {
            entry,
            path,
            bytes,
            at: 0,
            span,
            piece,
            pages,
        })
    }
}

/// An empty file has inline content: none.
fn content_of(extents: Vec<Extent>) -> Content {
    if extents.is_empty() {
        Content::Inline(Vec::new())
    } else {
        Content::Extents(extents)
    }
}

/// A small file that is written last, inline.
pub fn inline_entry(path: &str, content: &[u8], mode: u32, mtime: i64) -> Result<Entry> {
    let span = FileSpan {
        bytes: content.len() as u64,
        at: 0,
        content: Content::Inline(content.to_vec()),
        bad_pages: vec![],
    };
    Ok(Entry {
        path: DataPath::new(path)?,
        kind: EntryKind::File(span),
        mode,
        owner: None,
        group: None,
        mtime,
    })
}

const _: () = assert!(INLINE_BYTES_MAX < super::slice::SLICE_BYTES);
