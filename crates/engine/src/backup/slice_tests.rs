//! Claims about cutting slices: what is stored anew, and what the result reads back as.

use std::sync::Arc;

use pgkeep_repo::frame::decode;
use pgkeep_repo::manifest::{Chunk, Content};
use pgkeep_repo::repofile::NamingKey;
use pgkeep_repo::reuse::FileStat;

use super::*;

const BLOCK: usize = 8192;

fn hasher() -> PageHasher {
    PageHasher::new(&NamingKey::generate().unwrap())
}

fn page(fill: u8) -> Vec<u8> {
    (0..BLOCK).map(|i| fill.wrapping_add((i % 251) as u8) | 1).collect()
}

fn content(pages: usize) -> Vec<u8> {
    (0..pages).flat_map(|n| page(n as u8)).collect()
}

fn cut(hasher: &PageHasher, data: &[u8], old: Option<&Piece>, may_reuse: bool) -> Slice {
    let cutter = Cutter {
        block_bytes: BLOCK,
        hasher,
        level: 1,
        may_reuse: &|_| may_reuse,
    };
    cutter.cut(data, 0, old).unwrap()
}

/// The piece that a backup of `data` would leave, with its chunks in a made-up pack.
fn remembered(slice: &Slice) -> Piece {
    let pack = Arc::new(ObjectName::new("packs/a/1/20261120T101512Z-0123456789/00000000").unwrap());
    let chunks: Vec<Arc<Chunk>> = slice
        .chunks
        .iter()
        .enumerate()
        .map(|(n, (encoded, blake3))| {
            Arc::new(Chunk {
                pack: Arc::clone(&pack),
                offset: n as u64 * 2_000_000,
                sealed_bytes: 100_000,
                content_bytes: encoded.raw_bytes,
                blake3: *blake3,
            })
        })
        .collect();
    let mut extents = Vec::new();
    for run in &slice.runs {
        let extent = match run {
            Run::Known(extent) => extent.clone(),
            Run::New { chunk, offset, bytes } => Extent::of_chunk(Arc::clone(&chunks[*chunk]), *offset, *bytes),
        };
        extents::push(&mut extents, extent);
    }
    Piece {
        path: pgkeep_repo::paths::DataPath::new("base/1/1").unwrap(),
        stat: FileStat {
            bytes: slice.bytes,
            mtime_ns: 0,
            ctime_ns: 0,
            device: 0,
            inode: 0,
        },
        at: 0,
        content: Content::Extents(extents),
        pages: slice.pages.clone(),
        bad_pages: Vec::new(),
    }
}

fn new_bytes(slice: &Slice) -> usize {
    slice.chunks.iter().map(|(encoded, _)| encoded.raw_bytes as usize).sum()
}

/// Aim: what a slice says reads back as what was read. Method: reassemble new runs, zeros, and old runs by position.
#[test]
fn runs_cover_the_data_in_order() {
    let hasher = hasher();
    let mut data = content(300);
    data[5 * BLOCK..9 * BLOCK].fill(0);
    data.truncate(300 * BLOCK - 100);
    let slice = cut(&hasher, &data, None, true);
    let mut back = Vec::new();
    for run in &slice.runs {
        match run {
            Run::Known(extent) => back.resize(back.len() + extent.bytes as usize, 0),
            Run::New { chunk, offset, bytes } => {
                let raw = decode(slice.chunks[*chunk].0.plaintext(), 1 << 20).unwrap();
                back.extend_from_slice(&raw[*offset as usize..*offset as usize + *bytes as usize]);
            }
        }
    }
    assert_eq!(back, data);
    assert_eq!(slice.pages.len(), 300);
}

#[test]
fn what_did_not_change_is_not_stored() {
    let hasher = hasher();
    let data = content(64);
    let old = remembered(&cut(&hasher, &data, None, true));
    assert_eq!(new_bytes(&cut(&hasher, &data, Some(&old), true)), 0);
}

#[test]
fn scattered_changes_cost_their_pages_and_share_a_chunk() {
    let hasher = hasher();
    let mut data = content(512);
    let old = remembered(&cut(&hasher, &data, None, true));
    for changed in [3, 170, 171, 400] {
        data[changed * BLOCK + 10] ^= 2;
    }
    let slice = cut(&hasher, &data, Some(&old), true);
    assert_eq!((new_bytes(&slice), slice.chunks.len()), (4 * BLOCK, 1));
}

/// Aim: a MiB that would fall into too many extents is stored anew, so that restore stays fast.
#[test]
fn a_fragmented_neighbourhood_is_stored_anew() {
    let hasher = hasher();
    let mut data = content(256);
    let old = remembered(&cut(&hasher, &data, None, true));
    for changed in (0..128).step_by(8) {
        data[changed * BLOCK] ^= 2;
    }
    assert_eq!(
        new_bytes(&cut(&hasher, &data, Some(&old), true)),
        128 * BLOCK,
        "the first MiB only"
    );
}

#[test]
fn a_pack_that_may_not_be_reused_is_not() {
    let hasher = hasher();
    let data = content(8);
    let old = remembered(&cut(&hasher, &data, None, true));
    assert_eq!(new_bytes(&cut(&hasher, &data, Some(&old), false)), data.len());
}

#[test]
fn a_file_that_grew_keeps_its_whole_pages() {
    let hasher = hasher();
    let data = content(10);
    let old = remembered(&cut(&hasher, &data[..9 * BLOCK + 5], None, true));
    assert_eq!(new_bytes(&cut(&hasher, &data, Some(&old), true)), BLOCK);
}
