//! Memory does not grow with the number of files. A process of its own, so that its memory can be measured.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows tests by their attribute, not what they call"
)]

use std::sync::Arc;

use pgkeep_base::{BackupId, RepositoryId, SystemClock};
use pgkeep_repo::digest::Digest;
use pgkeep_repo::frame::encode;
use pgkeep_repo::head::Head;
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::manifest::{
    Block, BlockBuilder, BlockRef, Chunk, Content, Entry, EntryKind, Extent, FileSpan, ManifestIndex,
};
use pgkeep_repo::open::Opener;
use pgkeep_repo::pack::{ClosedPack, PackWriter};
use pgkeep_repo::packlist::{PackInfo, PackListBuilder};
use pgkeep_repo::paths::DataPath;
use pgkeep_repo::reader::BackupReader;
use pgkeep_repo::seal::{SealMode, SealedObject, Sealer};
use pgkeep_repo::sign::{SigningKey, Trust};
use pgkeep_store::{Store, StoreConfig};
use serde_json::json;

/// 200,000; with `scripts/test --all` the five million of the design point.
fn files() -> u64 {
    match std::env::var_os("PGKEEP_TEST_ALL") {
        None => 200_000,
        Some(_) => 5_000_000,
    }
}

/// Kilobytes of memory: now, and at most since the last call of `forget_peak`.
fn memory_kib(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    value.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    let path: DataPath = path.parse().unwrap();
    Entry {
        path,
        kind,
        mode: 0o600,
        owner: None,
        group: None,
        mtime: 1_763_633_712,
    }
}

struct Writer {
    runtime: tokio::runtime::Runtime,
    store: Arc<dyn Store>,
    packs: PackWriter,
    list: PackListBuilder,
    index: ManifestIndex,
}

impl Writer {
    fn chunk(&mut self, content: &[u8]) -> Arc<Chunk> {
        let placed = self
            .packs
            .push(&encode(content, 1).unwrap(), Digest::of(content))
            .unwrap();
        self.upload(placed.closed);
        placed.chunk
    }

    fn upload(&mut self, pack: Option<ClosedPack>) {
        if let Some(ClosedPack { object, .. }) = pack {
            self.list.know(PackInfo::of(&object));
            self.runtime
                .block_on(self.store.create(&object.name, object.payload))
                .unwrap();
        }
    }

    fn block(&mut self, block: Option<Block>) {
        if let Some(block) = block {
            let chunk = self.chunk(&block.json);
            self.list.refer(&block.live, &chunk);
            self.index.blocks.push(BlockRef {
                first: block.first,
                chunk,
            });
        }
    }
}

fn last() -> Vec<Entry> {
    let inline = |path| {
        let content = Content::Inline(b"x".to_vec());
        entry(
            path,
            EntryKind::File(FileSpan {
                bytes: 1,
                at: 0,
                content,
                bad_pages: vec![],
            }),
        )
    };
    vec![inline("backup_label"), inline("global/pg_control")]
}

/// A head as `docs/format.md` describes it, of a backup that consists of these objects.
fn head(lineage: &Lineage, id: &BackupId, manifest: &SealedObject, packs: &SealedObject) -> Head {
    let object = |object: &SealedObject| json!({"bytes": object.bytes, "blake3": object.blake3});
    let head = json!({
        "id": id, "kind": "physical", "cluster": lineage.cluster, "system_identifier": lineage.system_identifier,
        "started_at": "2026-11-20T10:15:12Z", "finished_at": "2026-11-20T10:16:12Z", "pg_version": "18.1",
        "pg_version_num": 180_001, "catalog_version": 202_506_291, "timeline": 1, "start_lsn": "0/2000028",
        "stop_lsn": "0/2000158", "history": null, "segment_bytes": 16_777_216, "block_bytes": 8192, "checksums": true,
        "source_role": "primary", "tablespaces": [], "owner": "postgres", "group": "postgres",
        "directory_mode": "0700", "labels": {}, "tier": null, "files": files(), "source_bytes": files() * 1032,
        "new_bytes": 0, "stored_bytes": 0, "bad_pages": 0, "base": null, "recipients": [], "sequence": 1,
        "previous_head": null, "places": ["here"], "program": "a test", "manifest": object(manifest), "packs": object(packs),
    });
    serde_json::from_value(head).unwrap()
}

fn write(sealer: Sealer, lineage: &Lineage, id: &BackupId, store: Arc<dyn Store>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let packs = PackWriter::new(sealer.clone(), lineage.clone(), id.clone()).bytes_target(8 << 20);
    let (list, index) = (PackListBuilder::default(), ManifestIndex::default());
    let mut writer = Writer {
        runtime,
        store,
        packs,
        list,
        index,
    };
    let mut blocks = BlockBuilder::new();
    let mut push = |writer: &mut Writer, entry: Entry| {
        let block = blocks.push(&entry).unwrap();
        writer.block(block);
    };
    for directory in ["base", "base/5"] {
        push(&mut writer, entry(directory, EntryKind::Directory));
    }
    for i in 0..files() {
        let chunk = writer.chunk(&[&i.to_le_bytes()[..], &[0; 1024]].concat());
        let content = Content::Extents(vec![Extent::of_chunk(chunk, 0, 1032)]);
        let span = FileSpan {
            bytes: 1032,
            at: 0,
            content,
            bad_pages: vec![],
        };
        push(&mut writer, entry(&format!("base/5/{i:08}"), EntryKind::File(span)));
    }
    push(&mut writer, entry("global", EntryKind::Directory));
    let block = blocks.finish(&last()).unwrap();
    writer.block(block);
    let pack = writer.packs.close().unwrap();
    writer.upload(pack);
    writer.index.last = last();
    let manifest = writer.index.to_object(&sealer, &lineage.manifest_name(id)).unwrap();
    let list = std::mem::take(&mut writer.list).finish().unwrap();
    let packs = list.to_object(&sealer, &lineage.packs_name(id)).unwrap();
    let head = head(lineage, id, &manifest, &packs).sign(&sealer).unwrap();
    for (name, payload) in [
        (manifest.name, manifest.payload),
        (packs.name, packs.payload),
        (head.name, head.bytes.into()),
    ] {
        writer.runtime.block_on(writer.store.create(&name, payload)).unwrap();
    }
}

/// Aim: a manifest of five million files needs no more memory than a small one.
/// Method: 200,000 entries, which take 100 MiB when all are held, written and read in a fraction of that.
#[test]
fn a_manifest_of_any_number_of_files_streams_in_bounded_memory() {
    let root = tempfile::tempdir().unwrap();
    let config = StoreConfig::at(format!("file://{}", root.path().display()));
    let store = pgkeep_store::open(&config, &|_| None).unwrap();
    let key = Arc::new(SigningKey::generate().unwrap());
    let repository = RepositoryId::random();
    let opener = Opener::new(repository, vec![], Arc::new(Trust::new([key.fingerprint()])));
    let sealer = Sealer::new(repository, SealMode::None, key, Arc::new(SystemClock)).unwrap();
    let system_identifier = pgkeep_base::SystemId(7);
    let lineage = Lineage {
        cluster: "shop".parse().unwrap(),
        system_identifier,
    };
    let id = BackupId::new("2026-11-20T10:15:12Z".parse().unwrap());

    let before = memory_kib("VmRSS:");
    forget_peak();
    write(sealer, &lineage, &id, store.clone());
    let writing = memory_kib("VmHWM:").saturating_sub(before);

    let before = memory_kib("VmRSS:");
    forget_peak();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let found = runtime.block_on(async {
        let reader = BackupReader::open(vec![store], opener, &lineage, &id).await.unwrap();
        let mut entries = reader.entries();
        let mut found = 0;
        while let Some(entry) = entries.next().await.unwrap() {
            found += u64::from(entry.file().is_some());
        }
        found
    });
    let reading = memory_kib("VmHWM:").saturating_sub(before);
    println!("writing took {writing} KiB, reading {reading} KiB");
    assert_eq!(found, files());
    assert!(writing < 72 << 10, "writing took {writing} KiB");
    assert!(reading < 32 << 10, "reading took {reading} KiB");
}
