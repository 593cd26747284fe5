//! Every way in which an object is made other than it was.
//!
//! Each mutation is reproducible: positions come from the seed that a run prints.

use bytes::Bytes;
use pgkeep_store::ObjectName;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::memory::Overlay;
use crate::world::{What, World, what};

/// Objects up to this size have every byte flipped in a thorough run.
const EVERY_BYTE_MAX: usize = 4096;

/// One mutation: what it is called, and which objects are other than they were.
pub struct Mutation {
    pub class: &'static str,
    pub detail: String,
    pub overlay: Overlay,
}

/// How many positions are tried.
#[derive(Clone, Copy)]
pub struct Density {
    /// Of small objects, every so manieth byte is flipped.
    pub stride: usize,
    /// Of large ones, so many.
    pub samples: usize,
}

/// All mutations of one object; `peers` are the others of its kind.
pub fn of(world: &World, name: &ObjectName, peers: &[ObjectName], density: Density, seed: u64) -> Vec<Mutation> {
    let bytes = world.objects[name].clone();
    let mut rng = StdRng::seed_from_u64(seed ^ u64::from(crc(name)));
    let mut all = Vec::new();
    let mut one = |class: &'static str, detail: String, changed: Option<Vec<u8>>| {
        // What changes nothing is no damage.
        if changed.as_deref() != Some(&bytes[..]) {
            let overlay = [(name.clone(), changed.map(Bytes::from))].into();
            all.push(Mutation { class, detail, overlay });
        }
    };
    // What is behind a part of 64 MiB takes long to judge.
    let stride = if what(name) == What::Part {
        density.stride * 8
    } else {
        density.stride
    };
    for at in positions(bytes.len(), Density { stride, ..density }, &mut rng) {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1 << (at % 8);
        one("flip", format!("byte {at}"), Some(changed));
    }
    for to in boundaries(&bytes) {
        one("cut", format!("at {to}"), Some(bytes[..to].to_vec()));
    }
    for tail in [&b"\0"[..], b"\n", &[0xAA; 100], &bytes] {
        one(
            "append",
            format!("{} bytes", tail.len()),
            Some([&bytes[..], tail].concat()),
        );
    }
    for start in (0..bytes.len()).step_by(4096).take(density.samples.max(1)) {
        let mut changed = bytes.to_vec();
        changed[start..(start + 4096).min(bytes.len())].fill(0);
        one("zero 4 KiB", format!("at {start}"), Some(changed));
    }
    one("delete", String::new(), None);
    one("foreign", String::new(), Some(world.foreign[name].to_vec()));
    all.extend(with_peers(world, name, peers));
    all.extend(under_another_name(name, &bytes));
    all
}

/// A head that is brought back as a backup that never was.
fn under_another_name(name: &ObjectName, bytes: &Bytes) -> Option<Mutation> {
    let directory = name.as_str().strip_suffix("/head")?;
    let (lineage, _) = directory.rsplit_once('/')?;
    let another = ObjectName::new(format!("{lineage}/20261121T000000Z-0123456789/head")).unwrap();
    Some(Mutation {
        class: "replay",
        detail: format!("as {another}"),
        overlay: [(another, Some(bytes.clone()))].into(),
    })
}

fn crc(name: &ObjectName) -> u32 {
    name.as_str()
        .bytes()
        .fold(17, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)))
}

fn positions(length: usize, density: Density, rng: &mut StdRng) -> Vec<usize> {
    match length <= EVERY_BYTE_MAX {
        true => (rng.random_range(0..density.stride)..length)
            .step_by(density.stride)
            .collect(),
        false => (0..density.samples).map(|_| rng.random_range(0..length)).collect(),
    }
}

/// Where a sealed object's preamble, header lines and frames begin and end, and where a document's lines do.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut all = vec![0, 1, bytes.len() / 2, bytes.len() - 1];
    all.extend(
        bytes
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .take(3)
            .map(|(at, _)| at + 1),
    );
    if let Some((header, frames)) = frames(bytes) {
        all.extend([8, 12, header]);
        for (start, end) in frames.into_iter().take(3) {
            all.extend([start, start + 4, end]);
        }
    }
    all.sort_unstable();
    all.dedup();
    all.retain(|to| *to < bytes.len());
    all
}

/// Where the body of a sealed object begins, and its frames with their length words.
fn frames(bytes: &[u8]) -> Option<(usize, Vec<(usize, usize)>)> {
    let length = bytes.strip_prefix(b"PGKEEP1\n")?.first_chunk::<4>()?;
    let header = 12 + u32::from_le_bytes(*length) as usize;
    let (mut at, mut found) = (header, Vec::new());
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let end = at + 4 + (u32::from_le_bytes(*word) & !(1 << 31)) as usize;
        found.push((at, end));
        at = end;
    }
    Some((header, found))
}

/// What takes another object of the same kind.
fn with_peers(world: &World, name: &ObjectName, peers: &[ObjectName]) -> Vec<Mutation> {
    let mut all = Vec::new();
    let own = &world.objects[name];
    for peer in peers.iter().filter(|peer| *peer != name).take(3) {
        let other = &world.objects[peer];
        let mut put = |class: &'static str, overlay: Overlay| {
            let detail = format!("with {peer}");
            all.push(Mutation { class, detail, overlay });
        };
        put(
            "swap",
            [(name.clone(), Some(other.clone())), (peer.clone(), Some(own.clone()))].into(),
        );
        put("replay", [(name.clone(), Some(other.clone()))].into());
        if let (Some((_, ours)), Some((_, theirs))) = (frames(own), frames(other)) {
            let (from, to) = (theirs[0], ours[0]);
            let spliced = [&own[..to.0], &other[from.0..from.1], &own[to.1..]].concat();
            put("splice", [(name.clone(), Some(spliced.into()))].into());
            let header = own[..to.0].to_vec();
            let body = [&header[..], &other[theirs[0].0..]].concat();
            put("splice", [(name.clone(), Some(body.into()))].into());
        }
    }
    all.extend(within(name, own));
    all
}

/// Frames of one object that changed places, or that are there twice.
fn within(name: &ObjectName, bytes: &Bytes) -> Vec<Mutation> {
    let Some((_, frames)) = frames(bytes).filter(|(_, frames)| frames.len() > 1) else {
        return Vec::new();
    };
    let (a, b) = (frames[0], frames[1]);
    let swapped = [&bytes[..a.0], &bytes[b.0..b.1], &bytes[a.0..a.1], &bytes[b.1..]].concat();
    let doubled = [&bytes[..a.1], &bytes[a.0..a.1], &bytes[b.1..]].concat();
    let mutation = |changed: Vec<u8>| Mutation {
        class: "splice",
        detail: "within".to_owned(),
        overlay: [(name.clone(), Some(changed.into()))].into(),
    };
    [swapped, doubled]
        .into_iter()
        .filter(|changed| changed[..] != bytes[..])
        .map(mutation)
        .collect()
}
