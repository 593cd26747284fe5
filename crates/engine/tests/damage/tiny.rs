//! A backup of a few files, whose every object is small enough to try every byte of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgkeep_base::{Lsn, SegmentSize, SystemId, TimelineId};
use pgkeep_repo::digest::Digest;
use pgkeep_repo::frame::encode;
use pgkeep_repo::head::{Head, HeadKind, ObjectHash, PhysicalHead, SourceRole};
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::manifest::{
    BlockBuilder, BlockRef, Chunk, Content, Entry, EntryKind, Extent, FileSpan, ManifestIndex, Mode,
};
use pgkeep_repo::pack::PackWriter;
use pgkeep_repo::packlist::{PackInfo, PackListBuilder};
use pgkeep_repo::seal::Sealer;
use pgkeep_store::ObjectName;

pub fn lineage() -> Lineage {
    Lineage {
        cluster: "tiny".parse().unwrap(),
        system_identifier: SystemId(7),
    }
}

/// The objects of backup `number`: pack, manifest, packs object, head.
pub fn backup(sealer: &Sealer, number: u32) -> Vec<(ObjectName, Vec<u8>)> {
    let id = format!("20261120T10151{number}Z-0123456789").parse().unwrap();
    let lineage = lineage();
    let mut packs = PackWriter::new(sealer.clone(), lineage.clone(), id);
    let mut chunk = |content: &[u8]| -> Arc<Chunk> {
        let placed = packs.push(&encode(content, 1).unwrap(), Digest::of(content)).unwrap();
        placed.chunk
    };
    let inline = |path: &str, data: &[u8]| file(path, Content::Inline(data.to_vec()), data.len() as u64);
    let last = vec![
        inline("backup_label", b"label"),
        inline("global/pg_control", b"control"),
    ];
    let mut blocks = BlockBuilder::new();
    for name in ["base", "global"] {
        assert!(blocks.push(&entry(name, EntryKind::Directory)).unwrap().is_none());
        let content = format!("{name} of backup {number}: {}", "x".repeat(60));
        let extents = vec![Extent::of_chunk(chunk(content.as_bytes()), 0, content.len() as u64)];
        let file = file(&format!("{name}/1"), Content::Extents(extents), content.len() as u64);
        assert!(blocks.push(&file).unwrap().is_none());
    }
    let block = blocks.finish(&last).unwrap().unwrap();
    let json = chunk(&block.json);
    let mut list = PackListBuilder::default();
    list.refer(&block.live, &json);
    let index = ManifestIndex {
        blocks: vec![BlockRef {
            first: block.first,
            chunk: json,
        }],
        last,
    };
    let pack = packs.close().unwrap().unwrap().object;
    list.know(PackInfo::of(&pack));
    let head = head(number);
    let manifest = index.to_object(sealer, &lineage.manifest_name(&head.id)).unwrap();
    let packs = list
        .finish()
        .unwrap()
        .to_object(sealer, &lineage.packs_name(&head.id))
        .unwrap();
    let signed = naming(head, ObjectHash::of(&manifest), ObjectHash::of(&packs))
        .sign(sealer)
        .unwrap();
    let objects = [pack, manifest, packs].map(|object| (object.name.clone(), object.to_bytes().to_vec()));
    objects
        .into_iter()
        .chain([(signed.name, signed.bytes.to_vec())])
        .collect()
}

fn naming(mut head: Head, manifest: ObjectHash, packs: ObjectHash) -> Head {
    let HeadKind::Physical(physical) = &mut head.kind else {
        unreachable!("made so")
    };
    physical.manifest = manifest;
    physical.packs = packs;
    head
}

fn head(number: u32) -> Head {
    let hash = ObjectHash {
        bytes: 1,
        blake3: Digest::of(b""),
    };
    let physical = PhysicalHead {
        catalog_version: 202_506_291,
        timeline: TimelineId::FIRST,
        start_lsn: Lsn(0x300_0028),
        stop_lsn: Lsn(0x300_0100),
        history: None,
        segment_bytes: SegmentSize::DEFAULT,
        block_bytes: 8192,
        checksums: true,
        source_role: SourceRole::Primary,
        tablespaces: vec![],
        owner: "nobody".to_owned(),
        group: "nogroup".to_owned(),
        directory_mode: Mode(0o700),
        files: 2,
        bad_pages: 0,
        base: None,
        manifest: hash,
        packs: hash,
    };
    Head {
        id: format!("20261120T10151{number}Z-0123456789").parse().unwrap(),
        cluster: "tiny".parse().unwrap(),
        system_identifier: SystemId(7),
        started_at: "2026-11-20T10:15:12Z".parse().unwrap(),
        finished_at: "2026-11-20T10:16:12Z".parse().unwrap(),
        pg_version: "18.1".to_owned(),
        pg_version_num: 180_001,
        labels: BTreeMap::new(),
        tier: None,
        source_bytes: 200,
        new_bytes: 0,
        stored_bytes: 0,
        recipients: vec![],
        sequence: Some(u64::from(number)),
        previous_head: None,
        follows: vec![],
        places: vec!["place0".to_owned()],
        program: "test".to_owned(),
        kind: HeadKind::Physical(Box::new(physical)),
    }
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.parse().unwrap(),
        kind,
        mode: 0o700,
        owner: None,
        group: None,
        mtime: 1_763_633_712,
    }
}

fn file(path: &str, content: Content, bytes: u64) -> Entry {
    let span = FileSpan {
        bytes,
        at: 0,
        content,
        bad_pages: vec![],
    };
    Entry {
        mode: 0o600,
        ..entry(path, EntryKind::File(span))
    }
}
