//! First inputs: what a golden repository of mode `none` holds, taken apart, and a few that are made here.

mod made;

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use pgkeep_repo::frame::decode;
use pgkeep_repo::manifest::{Content, Entry, ManifestIndex, parse_block};

use crate::repository::blocks;

/// Inputs by target.
pub type Seeds = BTreeMap<&'static str, Vec<Vec<u8>>>;

/// What is in the directory of a golden repository.
///
/// # Errors
/// As reading its files.
pub fn of_golden(golden: &Path) -> io::Result<Seeds> {
    let mut seeds = Seeds::new();
    let mut add = |target, input: &[u8]| seeds.entry(target).or_default().push(input.to_vec());
    add("repository-file", &fs::read(golden.join("repository.toml"))?);
    made::all(&mut add);
    let root = golden.join("repository");
    let mut pending = vec![root.clone()];
    while let Some(directory) = pending.pop() {
        for file in fs::read_dir(directory)? {
            let path = file?.path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
            add("names", name.as_bytes());
            of_object(&name, &fs::read(&path)?, &mut add);
        }
    }
    Ok(seeds)
}

fn of_manifest(documents: &[Vec<u8>], add: &mut impl FnMut(&'static str, &[u8])) {
    add("manifest-index", &documents.join(&b'\n'));
    let index = ManifestIndex::from_documents(documents).unwrap_or_default();
    for entry in &index.last {
        let target = match entry.path.as_bytes() {
            b"backup_label" => "backup-label",
            b"global/pg_control" => "control-file",
            _ => continue,
        };
        // Nothing but zeros is behind the first 512 bytes of pg_control.
        inline(entry)
            .into_iter()
            .for_each(|content| add(target, &content[..content.len().min(512)]));
    }
}

fn inline(entry: &Entry) -> Option<&[u8]> {
    match &entry.file()?.content {
        Content::Inline(bytes) => Some(bytes),
        Content::Extents(_) => None,
    }
}

fn of_object(name: &str, bytes: &[u8], add: &mut impl FnMut(&'static str, &[u8])) {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last == "head" {
        return add("head", payload(bytes));
    }
    let Some((header, body)) = apart(bytes) else { return };
    let frames = frames(body);
    match (name.split('/').next(), last) {
        (_, "manifest") => of_manifest(&frames, add),
        (_, "packs") => add("packs", &frames.concat()),
        (_, "genesis") => add("genesis", &[payload(header), b"\n", &frames.concat()].concat()),
        (Some("wal"), _) => {
            add("wal-header", payload(header));
            add(
                "wal",
                &frames.concat()[..frames.concat().len().min(crate::corpus::INPUT_BYTES_MAX)],
            );
        }
        (Some("packs"), _) => of_pack(&frames, add),
        _ => {}
    }
}

fn of_pack(contents: &[Vec<u8>], add: &mut impl FnMut(&'static str, &[u8])) {
    for content in contents {
        // All directories, and a few files.
        let mut files = 0;
        let mut entries = parse_block(content).unwrap_or_default();
        entries.retain(|entry| {
            files += usize::from(!entry.is_directory());
            entry.is_directory() || files % 40 == 1
        });
        let blocks = blocks(&entries).unwrap_or_default();
        blocks.iter().for_each(|block| add("manifest-block", &block.json));
    }
    let page = contents.iter().find(|content| content.len() == 8192);
    page.into_iter().for_each(|page| add("page", &page[..1024]));
}

/// The first line of a signed document.
fn payload(document: &[u8]) -> &[u8] {
    document.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

/// Header and body of an object.
fn apart(object: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = object.strip_prefix(b"PGKEEP1\n")?.first_chunk()?;
    object[12..].split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// The contents of the frames of a body of mode `none`.
fn frames(mut body: &[u8]) -> Vec<Vec<u8>> {
    let mut contents = Vec::new();
    while let Some((word, rest)) = body.split_first_chunk() {
        let length = (u32::from_le_bytes(*word) & !(1 << 31)) as usize;
        let Some((sealed, rest)) = rest.split_at_checked(length) else {
            break;
        };
        // A frame of mode `none` ends in a checksum as long as a tag.
        let plaintext = &sealed[..sealed.len().saturating_sub(16)];
        contents.extend(decode(plaintext, 64 << 20));
        body = rest;
    }
    contents
}
