//! Reads the cache beside the data directory, in one pass, in the order of the manifest.
//!
//! Invariant: nothing here is an error. What can't be read is as if it were not there: a whole file ([`NoCache`]) or
//! the rest of one ([`ReuseReader::damage`]); what was given out before was checked, record by record.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use pgkeep_store::ObjectName;
use serde::de::DeserializeOwned;

use super::file::{FOOTER_BYTES, MAGIC, RecordKind, parse_footer, read_record};
use super::record::{BlockRecord, Piece, ReuseEnd, ReuseStart};
use super::writer::EndRecord;
use crate::digest::Digest;
use crate::packlist::PackInfo;
use crate::paths::DataPath;

/// Why there is no cache. The backup stores everything anew.
#[derive(Debug)]
pub enum NoCache {
    /// There is no such file: a first backup, or lost local state.
    Absent,
    /// The file can't be used, for this reason.
    Unusable(String),
}

impl From<io::Error> for NoCache {
    fn from(error: io::Error) -> NoCache {
        match error.kind() {
            io::ErrorKind::NotFound => NoCache::Absent,
            _ => NoCache::Unusable(error.to_string()),
        }
    }
}

/// Goes through one file from the first piece to the last. Memory: one piece, and what is known of packs and blocks.
pub struct ReuseReader<F = File> {
    from: io::Take<BufReader<F>>,
    start: ReuseStart,
    end: Option<ReuseEnd>,
    live: Vec<u64>,
    records: u64,
    records_expected: Option<u64>,
    packs: Vec<Arc<ObjectName>>,
    infos: HashMap<Arc<ObjectName>, PackInfo>,
    blocks: HashMap<Digest, BlockRecord>,
    next: Option<Piece>,
    last: Option<(DataPath, u64)>,
    done: bool,
    damage: Option<String>,
}

impl ReuseReader {
    /// Opens the cache of a finished backup.
    pub fn open(path: &Path) -> Result<ReuseReader, NoCache> {
        ReuseReader::of_cache(File::open(path)?)
    }

    /// Opens the journal of a backup that did not finish. It may end anywhere.
    pub fn open_journal(path: &Path) -> Result<ReuseReader, NoCache> {
        ReuseReader::of_journal(File::open(path)?)
    }
}

impl<F: Read + Seek> ReuseReader<F> {
    /// Reads the cache of a finished backup from an open file.
    pub fn of_cache(mut file: F) -> Result<ReuseReader<F>, NoCache> {
        let bytes = file.seek(SeekFrom::End(0))?;
        let cut = || NoCache::Unusable("it is not complete".to_owned());
        let mut footer = [0; FOOTER_BYTES as usize];
        file.seek(SeekFrom::Start(bytes.checked_sub(FOOTER_BYTES).ok_or_else(cut)?))?;
        file.read_exact(&mut footer)?;
        let (offset, number) = parse_footer(&footer).ok_or_else(cut)?;
        file.seek(SeekFrom::Start(offset))?;
        let end: EndRecord = match read_record(&mut BufReader::new(&mut file), number)? {
            Some((RecordKind::End, body)) => parse(&body)?,
            _ => return Err(cut()),
        };
        let mut reader = ReuseReader::begin(file, offset)?;
        reader.end = Some(end.end);
        reader.live = end.live;
        reader.records_expected = Some(number);
        Ok(reader)
    }

    /// Reads a journal from an open file.
    pub fn of_journal(file: F) -> Result<ReuseReader<F>, NoCache> {
        ReuseReader::begin(file, u64::MAX)
    }

    fn begin(mut file: F, bytes: u64) -> Result<ReuseReader<F>, NoCache> {
        file.seek(SeekFrom::Start(0))?;
        let mut from = BufReader::with_capacity(1 << 18, file).take(bytes);
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(NoCache::Unusable("it is not a reuse cache of this version".to_owned()));
        }
        let start = match read_record(&mut from, 0)? {
            Some((RecordKind::Start, body)) => parse(&body)?,
            _ => return Err(NoCache::Unusable("it does not begin as it must".to_owned())),
        };
        Ok(ReuseReader {
            from,
            start,
            end: None,
            live: Vec::new(),
            records: 1,
            records_expected: None,
            packs: Vec::new(),
            infos: HashMap::new(),
            blocks: HashMap::new(),
            next: None,
            last: None,
            done: false,
            damage: None,
        })
    }

    /// Which backup it belongs to.
    pub fn start(&self) -> &ReuseStart {
        &self.start
    }

    /// How that backup ended; `None` for a journal.
    pub fn end(&self) -> Option<&ReuseEnd> {
        self.end.as_ref()
    }

    /// Why the rest of the file can't be used, if it can't. For a journal a cut end is no damage.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// The first piece at or after this one, in order of path and then of `at`; `None` behind the last.
    ///
    /// Pieces before it are passed for good, so ask in the order of the manifest.
    pub fn next_at_or_after(&mut self, path: &DataPath, at: u64) -> Option<&Piece> {
        loop {
            let before = |piece: &Piece| (&piece.path, piece.at) < (path, at);
            match &self.next {
                Some(piece) if !before(piece) => return self.next.as_ref(),
                _ => {}
            }
            if !self.read_piece() {
                return None;
            }
        }
    }

    /// The piece at exactly this place, once.
    pub fn take(&mut self, path: &DataPath, at: u64) -> Option<Piece> {
        let next = self.next_at_or_after(path, at)?;
        if &next.path == path && next.at == at {
            self.next.take()
        } else {
            None
        }
    }

    /// The block with this content, if it was recorded before the next piece; once.
    ///
    /// Blocks are recorded behind the pieces of their entries, and kept until they are taken.
    pub fn take_block(&mut self, blake3: &Digest) -> Option<BlockRecord> {
        if !self.blocks.contains_key(blake3) && self.next.is_none() {
            // The block may follow the last piece that was taken.
            self.read_piece();
        }
        self.blocks.remove(blake3)
    }

    /// What is known of a pack that a piece or block given out refers to, with its live bytes (all, for a journal).
    pub fn pack(&self, name: &ObjectName) -> Option<&PackInfo> {
        self.infos.get(name)
    }

    /// Reads up to the next piece, which replaces the current one; false at the end.
    fn read_piece(&mut self) -> bool {
        self.next = None;
        while !self.done {
            match read_record(&mut self.from, self.records) {
                Ok(Some((kind, body))) => {
                    self.records += 1;
                    if self.take_record(kind, &body).is_none() {
                        self.stop(Some(format!("record {} is not valid", self.records - 1)));
                    }
                }
                Ok(None) => self.stop(None),
                Err(error) => self.stop(Some(error.to_string())),
            }
            if self.next.is_some() {
                return true;
            }
        }
        false
    }

    fn stop(&mut self, why: Option<String>) {
        self.done = true;
        let missing = || (self.records_expected? != self.records).then(|| "records are missing".to_owned());
        self.damage = match self.end {
            Some(_) => why.or_else(missing),
            None => None,
        };
    }

    fn take_record(&mut self, kind: RecordKind, body: &[u8]) -> Option<()> {
        match kind {
            RecordKind::Pack => self.take_pack(serde_json::from_slice(body).ok()?),
            RecordKind::Block => {
                let block = BlockRecord::decode(body, &self.packs)?;
                self.blocks.insert(block.chunk.blake3, block);
                Some(())
            }
            RecordKind::Piece => {
                let piece = Piece::decode(body, &self.packs, self.start.block_bytes)?;
                let key = (piece.path.clone(), piece.at);
                if self.last.as_ref().is_some_and(|last| *last >= key) {
                    return None;
                }
                self.last = Some(key);
                self.next = Some(piece);
                Some(())
            }
            RecordKind::Start => None,
            // A finished cache that is read as a journal ends here.
            RecordKind::End => {
                self.stop(None);
                Some(())
            }
        }
    }

    fn take_pack(&mut self, mut info: PackInfo) -> Option<()> {
        if info.broken_rule().is_some() {
            return None;
        }
        info.live_bytes = match self.end {
            Some(_) => *self.live.get(self.packs.len())?,
            None => info.bytes,
        };
        let name = Arc::new(info.name.clone());
        self.packs.push(name.clone());
        self.infos.insert(name, info);
        Some(())
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, NoCache> {
    serde_json::from_slice(body).map_err(|error| NoCache::Unusable(error.to_string()))
}
