//! Reads the data directory: a walker goes through it in order, workers read and cut slices, results come out in the
//! order of the walk.
//!
//! Invariants: memory is bounded by the window of slices in flight; a file has the length that it had when it was
//! opened (what PostgreSQL truncated meanwhile reads as zeros, as WAL replay expects); a file that vanished before it was
//! opened is not part of the backup. Threads end when the receiver of the results is dropped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use pgkeep_base::{Error, Lsn, Result, ResultExt, failpoint};
use pgkeep_pg::datadir::{Class, DataDir, Entry, EntryKind, Found, SkipReason};
use pgkeep_pg::page::{PageState, bad_pages, page_lsn, verify_page};
use pgkeep_repo::paths::DataPath;
use pgkeep_repo::reuse::{PIECE_BYTES_MAX, PageHasher, Piece};

use super::base::Base;
use super::rate::Rate;
use super::slice::{Cutter, SLICE_BYTES, Slice};

/// How often a bad page is read again before it is called bad.
const PAGE_READS: u32 = 4;
const PAGE_READ_DELAY: Duration = Duration::from_millis(20);
/// No backup lasts long enough for more WAL than this; a page that claims a later LSN is garbage.
const PLAUSIBLE_WAL_BYTES: u64 = 1 << 42;

/// What workers need to know.
pub struct CopyTask {
    /// The directory to copy.
    pub data_dir: DataDir,
    /// What may be reused.
    pub base: Arc<Base>,
    /// Hashes pages.
    pub hasher: PageHasher,
    /// zstd level.
    pub level: i32,
    /// Workers.
    pub jobs: usize,
    /// Limits reading.
    pub rate: Rate,
    /// Pages that changed since then are repaired by WAL replay, whatever they look like.
    pub start_lsn: Lsn,
}

/// What comes out, in the order of the manifest.
pub enum Item {
    /// A directory or tablespace link.
    Entry(Entry),
    /// A file begins; its slices follow until they add up to `bytes`.
    File(Entry, u64),
    /// A slice of the file that began last.
    Slice(Receiver<Result<Slice>>),
    /// Something that an operator should hear of.
    Skipped(String),
    /// The walk ended, or failed.
    End(Result<()>),
}

struct Work {
    file: Arc<File>,
    entry: Arc<Entry>,
    at: u64,
    bytes: u64,
    only: bool,
    old: Option<Arc<Piece>>,
    to: SyncSender<Result<Slice>>,
}

/// Starts walker and workers.
pub fn start(task: Arc<CopyTask>) -> Receiver<Item> {
    let window = task.jobs * 2 + 2;
    let (items_to, items) = sync_channel(window);
    let (work_to, work) = sync_channel(task.jobs);
    let work = Arc::new(Mutex::new(work));
    for _ in 0..task.jobs {
        let (task, work) = (Arc::clone(&task), Arc::clone(&work));
        thread::spawn(move || run_worker(&task, &work));
    }
    thread::spawn(move || {
        let end = run_walker(&task, &items_to, &work_to);
        // Nobody listens any more if the copy was given up; then there is nobody to tell.
        let _ = items_to.send(Item::End(end));
    });
    items
}

/// The receiving side has gone away: the copy was given up.
fn given_up<T>(_: T) -> Error {
    Error::cancelled("the copy was given up")
}

fn run_walker(task: &CopyTask, items: &SyncSender<Item>, work: &SyncSender<Work>) -> Result<()> {
    for found in task.data_dir.walk()? {
        match found? {
            Found::Skipped {
                reason: SkipReason::Vanished,
                ..
            } => {}
            Found::Skipped { path, reason } => {
                items
                    .send(Item::Skipped(format!("{path} is not backed up: {reason}")))
                    .map_err(given_up)?;
            }
            Found::Entry(entry) if entry.class == Class::Control => {}
            Found::Entry(entry) => match entry.kind {
                EntryKind::File { .. } => walk_file(task, entry, items, work)?,
                _ => items.send(Item::Entry(entry)).map_err(given_up)?,
            },
        }
    }
    Ok(())
}

fn walk_file(task: &CopyTask, entry: Entry, items: &SyncSender<Item>, work: &SyncSender<Work>) -> Result<()> {
    failpoint::at("engine.copy.open").during(|| format!("open {}", entry.path))?;
    let Some(file) = task.data_dir.open_file(&entry)? else {
        return Ok(());
    };
    let bytes = file.metadata().during(|| format!("look at {}", entry.path))?.len();
    let path = DataPath::new(entry.path.as_bytes())?;
    let (file, entry) = (Arc::new(file), Arc::new(entry));
    items.send(Item::File((*entry).clone(), bytes)).map_err(given_up)?;
    let mut old: Option<Arc<Piece>> = None;
    let mut at = 0;
    loop {
        if at % PIECE_BYTES_MAX == 0 {
            old = task.base.piece(&path, at).map(Arc::new);
        }
        let length = (bytes - at).min(SLICE_BYTES);
        let (to, result) = sync_channel(1);
        let only = bytes <= SLICE_BYTES;
        let slice = Work {
            file: Arc::clone(&file),
            entry: Arc::clone(&entry),
            at,
            bytes: length,
            only,
            old: old.clone(),
            to,
        };
        work.send(slice).map_err(given_up)?;
        items.send(Item::Slice(result)).map_err(given_up)?;
        at += length;
        if at >= bytes {
            return Ok(());
        }
    }
}

fn run_worker(task: &CopyTask, work: &Mutex<Receiver<Work>>) {
    let mut buffer = Vec::new();
    loop {
        let next = work.lock().expect("no holder of the queue panics").recv();
        let Ok(next) = next else { return };
        let result =
            copy_slice(task, &next, &mut buffer).map_err(|error| error.during(format!("read {}", next.entry.path)));
        // The receiver is gone only when the copy was given up.
        let _ = next.to.send(result);
    }
}

fn copy_slice(task: &CopyTask, work: &Work, buffer: &mut Vec<u8>) -> Result<Slice> {
    task.rate.spend(work.bytes);
    read_slice(work, buffer)?;
    let bad_pages = check_pages(task, work, buffer)?;
    let may_reuse = |pack: &_| task.base.may_reuse(pack);
    let block_bytes = task.data_dir.control().block_bytes as usize;
    let cutter = Cutter {
        block_bytes,
        hasher: &task.hasher,
        level: task.level,
        may_reuse: &may_reuse,
    };
    let mut slice = cutter.cut(buffer, work.at % PIECE_BYTES_MAX, work.old.as_deref())?;
    slice.bad_pages = bad_pages;
    Ok(slice)
}

/// Fills the buffer; what is behind the end of a file that was truncated meanwhile is zeros.
///
/// A small file that is not a relation's is read to its end, wherever that is by now. What the buffer has is written
/// over, not zeroed before: most files are much smaller than a slice.
fn read_slice(work: &Work, buffer: &mut Vec<u8>) -> io::Result<()> {
    let is_relation = matches!(work.entry.class, Class::Relation(_));
    let to_end = work.only && !is_relation;
    // One byte more than there was tells whether that is still the end.
    let (mut length, most) = match to_end {
        true => ((work.bytes + 1).min(SLICE_BYTES), SLICE_BYTES),
        false => (work.bytes, work.bytes),
    };
    let mut read = 0;
    loop {
        buffer.resize(length as usize, 0);
        read += read_up_to(&work.file, &mut buffer[read..], work.at + read as u64)?;
        if (read as u64) < length || length == most {
            break;
        }
        length = (2 * length).min(most);
    }
    match to_end {
        true => buffer.truncate(read),
        false => buffer[read..].fill(0),
    }
    Ok(())
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    failpoint::at("engine.copy.read")?;
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Verifies the pages of a relation, reading suspects again. Returns the bad ones, counted from the file's beginning.
fn check_pages(task: &CopyTask, work: &Work, buffer: &mut [u8]) -> Result<Vec<u64>> {
    let control = task.data_dir.control();
    let Class::Relation(relation) = work.entry.class else {
        return Ok(Vec::new());
    };
    if !control.has_data_checksums() {
        return Ok(Vec::new());
    }
    let block = control.block_bytes as usize;
    let first_in_file = work.at / block as u64;
    let first = relation
        .first_block(control.relation_segment_blocks)
        .wrapping_add(first_in_file as u32);
    let whole = buffer.len() - buffer.len() % block;
    let suspects: Vec<u32> = bad_pages(&buffer[..whole], block as u32, first)
        .map(|(number, _)| number)
        .collect();
    let mut bad = Vec::new();
    for number in suspects {
        let index = number.wrapping_sub(first) as usize;
        let page = &mut buffer[index * block..(index + 1) * block];
        if !settles(
            &work.file,
            page,
            work.at + (index * block) as u64,
            number,
            task.start_lsn,
        )? {
            bad.push(first_in_file + index as u64);
        }
    }
    Ok(bad)
}

/// Reads a page again until its checksum matches; false if it stays bad and WAL replay will not overwrite it.
fn settles(file: &File, page: &mut [u8], at: u64, number: u32, start_lsn: Lsn) -> Result<bool> {
    for attempt in 0..PAGE_READS {
        if !matches!(verify_page(page, number), PageState::Bad { .. }) {
            return Ok(true);
        }
        if attempt + 1 < PAGE_READS {
            thread::sleep(PAGE_READ_DELAY);
            let read = read_up_to(file, page, at)?;
            page[read..].fill(0);
        }
    }
    let lsn = page_lsn(page);
    Ok(lsn >= start_lsn && lsn.0 - start_lsn.0 < PLAUSIBLE_WAL_BYTES)
}
