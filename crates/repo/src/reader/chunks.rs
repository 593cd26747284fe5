//! Fetches chunks by address: few requests, several places, every content verified.
//!
//! Invariant: a content leaves only after its frame opened at its place in its pack and its BLAKE3 is the one that the
//! manifest says. Keys come from the signed list of packs, so no pack's header is read.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use pgkeep_base::{Error, ErrorKind, Result, ResultExt};
use pgkeep_store::{ObjectName, Store};

use crate::digest::Digest;
use crate::fetch::{Search, Unread};
use crate::manifest::Chunk;
use crate::open::Opener;
use crate::packlist::{PackInfo, PackList};
use crate::rewrap::with_rewraps;
use crate::seal::ObjectKey;

/// Chunks of one pack with no more than this between them are read at once.
pub const GAP_BYTES_MAX: u64 = 1 << 20;
/// One request reads no more than this, unless a single chunk is longer.
pub const FETCH_BYTES_MAX: u64 = 8 << 20;
/// One request yields no more content than this, unless a single chunk has more: what compresses well must not swell.
pub const FETCH_CONTENT_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a length word.
const WORD_BYTES: u64 = 4;

/// Chunks of one pack that are read with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    chunks: Vec<Arc<Chunk>>,
    /// In the body of the pack.
    range: Range<u64>,
    content_bytes: u64,
}

impl Fetch {
    /// The chunks, in the order in which they lie in the pack.
    pub fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// How many bytes are read.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// How many bytes of content that yields.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    fn of(chunk: Arc<Chunk>) -> Fetch {
        Fetch {
            range: frame_range(&chunk),
            content_bytes: u64::from(chunk.content_bytes),
            chunks: vec![chunk],
        }
    }

    /// Whether one request suits these and a chunk that lies behind them.
    fn suits(&self, chunk: &Chunk) -> bool {
        let range = frame_range(chunk);
        self.chunks[0].pack == chunk.pack
            && range.start >= self.range.end
            && range.start - self.range.end <= GAP_BYTES_MAX
            && range.end - self.range.start <= FETCH_BYTES_MAX
            && self.content_bytes + u64::from(chunk.content_bytes) <= FETCH_CONTENT_BYTES_MAX
    }

    fn join(&mut self, chunk: &Arc<Chunk>) {
        self.range.end = frame_range(chunk).end;
        self.content_bytes += u64::from(chunk.content_bytes);
        self.chunks.push(chunk.clone());
    }
}

/// Where a chunk's frame lies in the body, with its length word.
fn frame_range(chunk: &Chunk) -> Range<u64> {
    chunk.offset..chunk.offset + WORD_BYTES + u64::from(chunk.sealed_bytes)
}

/// Gives chunks of the packs of one backup. Cloning is cheap; clones share keys and what is known of the places.
#[derive(Clone)]
pub struct ChunkSource(Arc<Inner>);

struct Inner {
    stores: Vec<Arc<dyn Store>>,
    opener: Opener,
    packs: PackList,
    keys: Vec<OnceLock<ObjectKey>>,
    /// Bit n: place n did not answer once, and is asked after the others.
    avoided: AtomicU64,
}

impl ChunkSource {
    /// A source for the packs of this list, in these places, the nearest first.
    pub fn new(stores: Vec<Arc<dyn Store>>, opener: Opener, packs: PackList) -> ChunkSource {
        let keys = packs.packs().iter().map(|_| OnceLock::new()).collect();
        ChunkSource(Arc::new(Inner {
            stores,
            opener,
            packs,
            keys,
            avoided: AtomicU64::new(0),
        }))
    }

    /// The packs.
    pub fn packs(&self) -> &PackList {
        &self.0.packs
    }

    /// Groups chunks into requests. Each chunk is fetched once; groups come in the order in which they are needed first.
    ///
    /// # Errors
    /// `Corrupt` for a chunk whose pack is not listed, or that can't lie in it.
    pub fn plan(&self, chunks: &[Arc<Chunk>]) -> Result<Vec<Fetch>> {
        let mut wanted: Vec<(usize, &Arc<Chunk>)> = chunks.iter().enumerate().collect();
        wanted.sort_by(|(i, a), (j, b)| (&a.pack, a.offset, i).cmp(&(&b.pack, b.offset, j)));
        wanted.dedup_by(|(_, later), (_, first)| later.pack == first.pack && later.offset == first.offset);
        let mut groups: Vec<(usize, Fetch)> = Vec::new();
        for (needed, chunk) in wanted {
            self.check(chunk)?;
            match groups.last_mut() {
                Some((first_needed, fetch)) if fetch.suits(chunk) => {
                    fetch.join(chunk);
                    *first_needed = needed.min(*first_needed);
                }
                _ => groups.push((needed, Fetch::of(chunk.clone()))),
            }
        }
        groups.sort_by_key(|(needed, _)| *needed);
        Ok(groups.into_iter().map(|(_, fetch)| fetch).collect())
    }

    fn check(&self, chunk: &Chunk) -> Result<()> {
        let (_, pack) = self.pack(&chunk.pack)?;
        let end = frame_range(chunk).end.checked_add(pack.object_offset(0));
        if end.is_none_or(|end| end > pack.bytes) {
            return Err(
                Error::corrupt("the manifest refers to a place behind the end of a pack").detail(format!(
                    "{} bytes at {} of {}",
                    chunk.sealed_bytes, chunk.offset, chunk.pack
                )),
            );
        }
        Ok(())
    }

    fn pack(&self, name: &ObjectName) -> Result<(usize, &PackInfo)> {
        self.0.packs.find(name).ok_or_else(|| {
            Error::corrupt(format!(
                "the manifest refers to {name}, which the backup's list of packs lacks"
            ))
        })
    }

    /// The content of one chunk.
    ///
    /// # Errors
    /// As [`ChunkSource::fetch`].
    pub async fn content(&self, chunk: &Arc<Chunk>) -> Result<Vec<u8>> {
        self.check(chunk)?;
        let mut contents = self.fetch(Fetch::of(chunk.clone())).await?;
        Ok(contents.pop().expect("one content for one chunk"))
    }

    /// Reads and opens a group that [`ChunkSource::plan`] made: the contents in the order of [`Fetch::chunks`].
    ///
    /// One ranged read if the first place has a good copy. Opening runs on the blocking threads of the runtime, so as
    /// many fetches as cores, and some to wait for the store, keep both busy.
    ///
    /// # Errors
    /// `Refused` where no identity fits; `Corrupt` where no place has a good copy; `Unavailable` or `Denied` where one
    /// that did not answer may have one.
    /// Dropping the future is safe at any time.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Vec<Vec<u8>>> {
        let (number, pack) = self.pack(&fetch.chunks[0].pack)?;
        let key = self.key(number, pack).await?;
        let range = pack.object_offset(fetch.range.start)..pack.object_offset(fetch.range.end);
        let name = pack.name.clone();
        let fetch = Arc::new(fetch);
        // What one copy had is kept, and only the rest is taken from the next.
        let mut contents: Vec<Option<Vec<u8>>> = vec![None; fetch.chunks.len()];
        let places = self.places();
        let mut search = Search::new(&places, &name);
        while let Some((store, copy)) = search.next_copy() {
            let bytes = match store.read_range(&copy, range.clone()).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.note_failure(store.as_ref(), &error);
                    search.failed(error);
                    continue;
                }
            };
            let (opener, key, fetch) = (self.0.opener.clone(), key.clone(), fetch.clone());
            let opening = tokio::task::spawn_blocking(move || open_all(&opener, &key, &fetch, &bytes, contents)).await;
            let (had, result) = opening.map_err(|source| Error::internal("opening chunks failed").source(source))?;
            contents = had;
            match result {
                Ok(()) => return Ok(contents.into_iter().flatten().collect()),
                Err(error) => search.failed(error),
            }
        }
        let what = format!("read bytes {} to {} of {name}", range.start, range.end);
        Err(lost(search.give_up(), &name).during(what))
    }

    async fn key(&self, number: usize, pack: &PackInfo) -> Result<ObjectKey> {
        let slot = &self.0.keys[number];
        if let Some(key) = slot.get() {
            return Ok(key.clone());
        }
        let (seal, opener) = (pack.seal(), &self.0.opener);
        let key = with_rewraps(&self.0.stores, opener, &pack.name, || opener.key_for(&seal)).await;
        let key = key.during(|| format!("open {}", pack.name))?;
        Ok(slot.get_or_init(|| key).clone())
    }

    /// The places in order of preference: those that once did not answer come last.
    fn places(&self) -> Vec<Arc<dyn Store>> {
        let avoided = self.0.avoided.load(Ordering::Relaxed);
        let mut places: Vec<_> = self.0.stores.iter().enumerate().collect();
        places.sort_by_key(|(i, _)| avoided >> i.min(&63) & 1);
        places.into_iter().map(|(_, store)| store.clone()).collect()
    }

    /// A place that does not answer would cost all its retries again for each request.
    fn note_failure(&self, store: &dyn Store, error: &Error) {
        if !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied | ErrorKind::Io) {
            return;
        }
        if let Some(i) = self.0.stores.iter().position(|other| other.url() == store.url()) {
            let before = self.0.avoided.fetch_or(1 << i.min(63), Ordering::Relaxed);
            if before >> i.min(63) & 1 == 0 && self.0.stores.len() > 1 {
                tracing::warn!(
                    place = store.url(),
                    "a place does not answer and is asked last from now on: {error}"
                );
            }
        }
    }
}

/// Opens all chunks that are not had yet; gives back all that is had now, and the first error.
fn open_all(
    opener: &Opener,
    key: &ObjectKey,
    fetch: &Fetch,
    bytes: &[u8],
    mut contents: Vec<Option<Vec<u8>>>,
) -> (Vec<Option<Vec<u8>>>, Result<()>) {
    contents.resize(fetch.chunks.len(), None);
    let mut result = Ok(());
    for (chunk, content) in fetch.chunks.iter().zip(&mut contents) {
        if content.is_some() {
            continue;
        }
        let frame = frame_range(chunk);
        let frame = &bytes[(frame.start - fetch.range.start) as usize..(frame.end - fetch.range.start) as usize];
        match open(opener, key, chunk, frame) {
            Ok(opened) => *content = Some(opened),
            Err(error) => result = result.and(Err(error)),
        }
    }
    (contents, result)
}

fn open(opener: &Opener, key: &ObjectKey, chunk: &Chunk, frame: &[u8]) -> Result<Vec<u8>> {
    let damaged =
        |why: &str| Error::corrupt(format!("the chunk at {} of {} is damaged", chunk.offset, chunk.pack)).detail(why);
    let (word, sealed) = frame.split_at(WORD_BYTES as usize);
    // A chunk is never the last frame of its pack.
    if word != chunk.sealed_bytes.to_le_bytes() {
        return Err(damaged("its length is not the one that the manifest says"));
    }
    let content = opener.open_frame(key, &chunk.pack, chunk.offset, false, sealed)?;
    if content.len() as u64 != u64::from(chunk.content_bytes) || Digest::of(&content) != chunk.blake3 {
        return Err(damaged("its content is not the one that the manifest says"));
    }
    Ok(content)
}

/// Why an object that a backup names can't be had. Its absence is damage: the head promised it.
pub(super) fn lost(unread: Unread, name: &ObjectName) -> Error {
    let error = unread.into_error(name);
    match error.kind() {
        ErrorKind::NotFound => error.with_kind(ErrorKind::Corrupt),
        _ => error,
    }
    .or_hint("Restore another backup with `--backup ID`; `pgkeep list` shows them.")
}
