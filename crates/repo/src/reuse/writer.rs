//! Writes the cache: first as the journal of a running backup, then, finished, as the cache of that backup.
//!
//! Invariant: a record reaches the file only when every pack that it refers to is durable in all required places, in
//! the order in which records were given. Records wait in memory until then: whoever gives them closes a pack for which
//! `PACK_REMEMBERED_BYTES` of them wait, and has no more than `PACKS_IN_FLIGHT` under way.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgkeep_base::{Error, Result, ResultExt, failpoint};
use pgkeep_store::ObjectName;
use serde::Serialize;

use super::file::{MAGIC, RecordKind, footer, write_record};
use super::record::{BlockRecord, PackNumbers, Piece, ReuseEnd, ReuseStart};
use crate::packlist::{PackInfo, PackList};
use crate::paths::DataPath;

/// Writes one file. Dropped unfinished, it leaves a journal.
pub struct ReuseWriter {
    to: BufWriter<File>,
    path: PathBuf,
    block_bytes: u32,
    offset: u64,
    records: u64,
    known: HashMap<ObjectName, PackInfo>,
    numbers: PackNumbers,
    pack_order: Vec<Arc<ObjectName>>,
    waiting: VecDeque<Waiting>,
    last_piece: Option<(DataPath, u64)>,
    given_bytes: u64,
}

struct Waiting {
    packs_below: u32,
    what: What,
}

enum What {
    Piece(Box<Piece>),
    Block(BlockRecord),
}

impl ReuseWriter {
    /// Begins a journal at `path`, mode 0600. One that is there is unlinked; whoever reads it can go on.
    ///
    /// # Errors
    /// `Io`; like all errors here it says nothing about the backup, which can go on without.
    pub fn create(path: &Path, start: &ReuseStart) -> Result<ReuseWriter> {
        let during = || format!("begin the journal {}", path.display());
        failpoint::at("repo.journal.begin").during(during)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).during(during),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .during(during)?;
        let mut writer = ReuseWriter {
            to: BufWriter::with_capacity(1 << 16, file),
            path: path.to_owned(),
            block_bytes: start.block_bytes,
            offset: MAGIC.len() as u64,
            records: 0,
            known: HashMap::new(),
            numbers: PackNumbers::new(),
            pack_order: Vec::new(),
            waiting: VecDeque::new(),
            last_piece: None,
            given_bytes: 0,
        };
        writer.to.write_all(MAGIC).during(during)?;
        writer.write_json(RecordKind::Start, start).during(during)?;
        writer.to.flush().during(during)?;
        Ok(writer)
    }

    /// Notes what is known of a pack; needed before a record that refers to it is released.
    pub fn know(&mut self, pack: PackInfo) {
        // A pack that was written to the file already is not needed again.
        if !self.numbers.contains_key(&pack.name) {
            self.known.insert(pack.name.clone(), pack);
        }
    }

    /// Adds a piece, to be written once all packs of this run with numbers less than `packs_below` are durable.
    ///
    /// # Errors
    /// `Internal` for a piece that no reader would take, or that is out of order.
    pub fn piece(&mut self, piece: Piece, packs_below: u32) -> Result<()> {
        let ordered = match &self.last_piece {
            None => true,
            Some((path, at)) => (path, *at) < (&piece.path, piece.at),
        };
        if !ordered || !piece.is_valid(self.block_bytes) {
            return Err(Error::internal(format!(
                "a piece of \"{}\" can't be remembered",
                piece.path
            )));
        }
        self.last_piece = Some((piece.path.clone(), piece.at));
        self.given_bytes += piece.memory();
        let what = What::Piece(Box::new(piece));
        self.waiting.push_back(Waiting { packs_below, what });
        Ok(())
    }

    /// Adds a block of the manifest in the same way, behind the pieces of its entries.
    pub fn block(&mut self, block: BlockRecord, packs_below: u32) {
        let what = What::Block(block);
        self.waiting.push_back(Waiting { packs_below, what });
    }

    /// Writes the records that waited only for packs with numbers less than `packs_below`.
    ///
    /// What is written survives the death of this process; after a power cut the end may be missing.
    ///
    /// # Errors
    /// `Io`; `Internal` for a record whose pack is not known. The writer can't be used any more then.
    pub fn release(&mut self, packs_below: u32) -> Result<()> {
        let mut any = false;
        while self.waiting.front().is_some_and(|next| next.packs_below <= packs_below) {
            let next = self.waiting.pop_front().expect("it was there a moment ago");
            any = true;
            self.write(next.what)
                .during(|| format!("write the journal {}", self.path.display()))?;
        }
        if any {
            failpoint::at("repo.journal.write")
                .and_then(|()| self.to.flush())
                .during(|| format!("write the journal {}", self.path.display()))?;
        }
        Ok(())
    }

    /// How much memory all pieces took that were ever given: what it grows by may be waiting.
    pub fn given_bytes(&self) -> u64 {
        self.given_bytes
    }

    /// How many records wait for packs.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Makes the journal the cache of a finished backup: durable, under the name `cache`, replacing what is there.
    ///
    /// # Errors
    /// `Io`; `Internal` while records wait.
    pub fn finish(mut self, end: &ReuseEnd, packs: &PackList, cache: &Path) -> Result<()> {
        if !self.waiting.is_empty() {
            return Err(Error::internal(format!(
                "{} records of the journal still wait for packs",
                self.waiting.len()
            )));
        }
        let during = || format!("write the reuse cache {}", cache.display());
        let live = self
            .pack_order
            .iter()
            .map(|name| packs.get(name).map_or(0, |pack| pack.live_bytes));
        let end = EndRecord {
            end: end.clone(),
            live: live.collect(),
        };
        let footer = footer(self.offset, self.records);
        failpoint::at("repo.cache.write").during(during)?;
        self.write_json(RecordKind::End, &end).during(during)?;
        self.to.write_all(&footer).during(during)?;
        let file = self
            .to
            .into_inner()
            .map_err(|error| error.into_error())
            .during(during)?;
        failpoint::at("repo.cache.sync").during(during)?;
        file.sync_all().during(during)?;
        failpoint::at("repo.cache.rename").during(during)?;
        std::fs::rename(&self.path, cache).during(during)?;
        failpoint::at("repo.cache.sync-directory").during(during)?;
        let directory = cache
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .during(during)
    }

    fn write(&mut self, what: What) -> Result<()> {
        match what {
            What::Piece(piece) => {
                piece.packs().try_for_each(|pack| self.number(pack))?;
                let body = piece.encode(&self.numbers);
                self.append(RecordKind::Piece, &body)
            }
            What::Block(block) => {
                block.packs().try_for_each(|pack| self.number(pack))?;
                let body = block.encode(&self.numbers);
                self.append(RecordKind::Block, &body)
            }
        }
    }

    /// Gives a pack its number, with a record of its own, where it has none yet.
    fn number(&mut self, pack: &Arc<ObjectName>) -> Result<()> {
        if self.numbers.contains_key(pack) {
            return Ok(());
        }
        let Some(info) = self.known.remove(&**pack) else {
            return Err(Error::internal(format!(
                "the journal refers to {pack}, of which nothing is known"
            )));
        };
        self.write_json(RecordKind::Pack, &info)?;
        self.numbers.insert(pack.clone(), self.pack_order.len() as u64);
        self.pack_order.push(pack.clone());
        Ok(())
    }

    fn write_json(&mut self, kind: RecordKind, value: &impl Serialize) -> Result<()> {
        let body = serde_json::to_vec(value)
            .map_err(|source| Error::internal("could not write a record of the reuse cache").source(source))?;
        self.append(kind, &body)
    }

    fn append(&mut self, kind: RecordKind, body: &[u8]) -> Result<()> {
        self.offset += write_record(&mut self.to, self.records, kind, body)?;
        self.records += 1;
        Ok(())
    }
}

/// The last record: how the backup ended, and live bytes of the packs in order of their records.
#[derive(Serialize, serde::Deserialize)]
pub(super) struct EndRecord {
    #[serde(flatten)]
    pub end: ReuseEnd,
    pub live: Vec<u64>,
}
