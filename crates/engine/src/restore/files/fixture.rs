//! For tests of restores: a repository in a temporary directory, backups made of entries, and a store that lets a test
//! act in the middle of a restore.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use pgkeep_base::progress::Silent;
use pgkeep_base::{Lsn, Result, SegmentSize, SystemClock, SystemId, TimelineId};
use pgkeep_repo::digest::Digest;
use pgkeep_repo::frame::encode;
use pgkeep_repo::head::{Head, HeadKind, ObjectHash, PhysicalHead, SourceRole};
use pgkeep_repo::manifest::{
    Block, BlockBuilder, BlockRef, Chunk, Content, Entry, EntryKind, Extent, FileSpan, ManifestIndex, Mode,
};
use pgkeep_repo::pack::{ClosedPack, PackWriter};
use pgkeep_repo::packlist::{PackInfo, PackListBuilder};
use pgkeep_repo::paths::DataPath;
use pgkeep_repo::reader::BackupReader;
use pgkeep_repo::repofile::RepositoryFile;
use pgkeep_repo::seal::SealMode;
use pgkeep_repo::sign::SigningKey;
use pgkeep_store::{Created, ObjectMeta, ObjectName, Payload, Store, StoreConfig};

use crate::engine::Engine;
use crate::setup::{Place, Setup};

/// A repository, and a directory to restore into.
pub struct Fixture {
    pub engine: Engine,
    pub store: Arc<Hooked>,
    backups: AtomicU32,
    root: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        // PostgreSQL's user must get through where root runs the tests.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(root.path(), open).unwrap();
        let config = StoreConfig::at(format!("file://{}", root.path().join("repository").display()));
        std::fs::create_dir(root.path().join("repository")).unwrap();
        let inner = pgkeep_store::open(&config, &|_| None).unwrap();
        let store = Arc::new(Hooked {
            inner,
            before_read: Mutex::new(None),
        });
        let key = Arc::new(SigningKey::generate().unwrap());
        let setup = Setup {
            state_dir: root.path().join("state"),
            places: vec![Place {
                name: "main".to_owned(),
                store: store.clone(),
                required: true,
            }],
            repository: RepositoryFile::new(SealMode::None, vec![key.fingerprint()]).unwrap(),
            signing_key: key,
            signers: vec![],
            accept_signer: false,
            identities: vec![],
            clusters: vec![],
            environment: Arc::new(|_| None),
            clock: Arc::new(SystemClock),
            progress: Arc::new(Silent),
        };
        let engine = Engine::new(setup).unwrap();
        Fixture {
            engine,
            store,
            backups: AtomicU32::new(0),
            root,
        }
    }

    /// A path beside the repository.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    pub fn backup(&self) -> BackupMaker<'_> {
        let mut head = head();
        let number = self.backups.fetch_add(1, Ordering::Relaxed);
        head.id = format!("20261120T101512Z-{number:010}").parse().unwrap();
        let sealer = self.engine.sealer().clone();
        BackupMaker {
            fixture: self,
            packs: PackWriter::new(sealer, head.lineage(), head.id.clone()).bytes_target(1 << 20),
            list: PackListBuilder::default(),
            blocks: BlockBuilder::new(),
            index: ManifestIndex::default(),
            last: vec![inline("backup_label", LABEL), inline("global/pg_control", CONTROL)],
            head,
        }
    }
}

pub const LABEL: &[u8] = b"START WAL LOCATION: whatever\n";
pub const CONTROL: &[u8] = b"the control file";

/// A backup in the making.
pub struct BackupMaker<'a> {
    fixture: &'a Fixture,
    pub head: Head,
    pub last: Vec<Entry>,
    packs: PackWriter,
    list: PackListBuilder,
    blocks: BlockBuilder,
    index: ManifestIndex,
}

impl BackupMaker<'_> {
    pub fn physical(&mut self) -> &mut PhysicalHead {
        match &mut self.head.kind {
            HeadKind::Physical(physical) => physical,
            HeadKind::Dump(_) => unreachable!("made so"),
        }
    }

    /// Adds an entry; they must come in order.
    pub fn entry(&mut self, entry: Entry) -> &mut Self {
        if let Some(block) = self.blocks.push(&entry).unwrap() {
            self.block(block);
        }
        self
    }

    /// Stores contents as chunks of up to 1 MiB.
    pub fn file(&mut self, path: &str, content: &[u8]) -> &mut Self {
        let extents = content.chunks(1 << 20).map(|part| self.extent(part)).collect();
        self.entry(file(path, content.len() as u64, 0, extents))
    }

    pub fn extent(&mut self, content: &[u8]) -> Extent {
        Extent::of_chunk(self.chunk(content), 0, content.len() as u64)
    }

    pub fn chunk(&mut self, content: &[u8]) -> Arc<Chunk> {
        let placed = self
            .packs
            .push(&encode(content, 1).unwrap(), Digest::of(content))
            .unwrap();
        self.closed(placed.closed);
        placed.chunk
    }

    fn closed(&mut self, pack: Option<ClosedPack>) {
        if let Some(ClosedPack { object, .. }) = pack {
            self.list.know(PackInfo::of(&object));
            self.put(&object.name, object.payload);
        }
    }

    fn block(&mut self, block: Block) {
        let chunk = self.chunk(&block.json);
        self.list.refer(&block.live, &chunk);
        let first = block.first;
        self.index.blocks.push(BlockRef { first, chunk });
    }

    /// Adds a block as it is, without a check: what a hostile writer would sign.
    pub fn raw_block(&mut self, first: &str, entries: &str) -> &mut Self {
        let json = format!("{{\"packs\":[],\"chunks\":[],\"entries\":[{entries}]}}").into_bytes();
        self.block(Block {
            blake3: Digest::of(&json),
            json,
            first: first.parse().unwrap(),
            last: first.parse().unwrap(),
            entries: 1,
            live: vec![],
        });
        self
    }

    fn put(&self, name: &ObjectName, payload: impl Into<Payload>) {
        run(self.fixture.store.create(name, payload.into())).unwrap();
    }

    /// Ends the checked entries and opens the backup.
    pub fn finish(mut self) -> BackupReader {
        let last = self.last.clone();
        if let Some(block) = std::mem::take(&mut self.blocks).finish(&last).unwrap() {
            self.block(block);
        }
        self.finish_unchecked()
    }

    /// Opens the backup as it is.
    pub fn finish_unchecked(mut self) -> BackupReader {
        let pack = self.packs.close().unwrap();
        self.closed(pack);
        let sealer = self.fixture.engine.sealer();
        let (lineage, id) = (self.head.lineage(), self.head.id.clone());
        self.index.last = self.last.clone();
        let manifest = self.index.to_object(sealer, &lineage.manifest_name(&id)).unwrap();
        let list = std::mem::take(&mut self.list).finish().unwrap();
        let packs = list.to_object(sealer, &lineage.packs_name(&id)).unwrap();
        let physical = self.physical();
        physical.manifest = ObjectHash::of(&manifest);
        physical.packs = ObjectHash::of(&packs);
        let head = self.head.sign(sealer).unwrap();
        for (name, payload) in [
            (manifest.name, manifest.payload),
            (packs.name, packs.payload),
            (head.name, head.bytes.into()),
        ] {
            self.put(&name, payload);
        }
        let engine = &self.fixture.engine;
        run(BackupReader::open(
            engine.stores(),
            run(engine.opener()).unwrap().clone(),
            &lineage,
            &id,
        ))
        .unwrap()
    }
}

/// A head of a small backup, to be changed.
pub fn head() -> Head {
    let hash = ObjectHash {
        bytes: 1,
        blake3: Digest::of(b""),
    };
    let (owner, group) = owner();
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
        owner,
        group,
        directory_mode: Mode(0o700),
        files: 0,
        bad_pages: 0,
        base: None,
        manifest: hash,
        packs: hash,
    };
    Head {
        id: "20261120T101512Z-0123456789".parse().unwrap(),
        cluster: "shop".parse().unwrap(),
        system_identifier: SystemId(7_428_165_372_412_345_678),
        started_at: "2026-11-20T10:15:12Z".parse().unwrap(),
        finished_at: "2026-11-20T10:16:12Z".parse().unwrap(),
        pg_version: "18.1".to_owned(),
        pg_version_num: 180_001,
        labels: BTreeMap::new(),
        tier: None,
        source_bytes: 1 << 20,
        new_bytes: 0,
        stored_bytes: 0,
        recipients: vec![],
        sequence: None,
        previous_head: None,
        follows: vec![],
        places: vec![],
        program: "test".to_owned(),
        kind: HeadKind::Physical(Box::new(physical)),
    }
}

/// Who owns the backed up directory: somebody whom every machine has, so that root has someone to give it to.
fn owner() -> (String, String) {
    let nobody = pgkeep_pg::server::Account::by_name("nobody").expect("every machine has nobody");
    let owners = crate::owners::Owners::of_this_machine((0, 0));
    let group = ["nogroup", "nobody"]
        .into_iter()
        .find(|name| owners.gid(name).is_some());
    (
        nobody.name().unwrap().to_owned(),
        group.expect("nobody has a group").to_owned(),
    )
}

pub fn path(text: &str) -> DataPath {
    text.parse().unwrap()
}

pub fn directory(at: &str) -> Entry {
    Entry {
        path: path(at),
        kind: EntryKind::Directory,
        mode: 0o700,
        owner: None,
        group: None,
        mtime: 1_763_633_712,
    }
}

pub fn file(at: &str, bytes: u64, span_at: u64, extents: Vec<Extent>) -> Entry {
    let span = FileSpan {
        bytes,
        at: span_at,
        content: Content::Extents(extents),
        bad_pages: vec![],
    };
    Entry {
        kind: EntryKind::File(span),
        mode: 0o600,
        ..directory(at)
    }
}

pub fn inline(at: &str, data: &[u8]) -> Entry {
    let span = FileSpan {
        bytes: data.len() as u64,
        at: 0,
        content: Content::Inline(data.to_vec()),
        bad_pages: vec![],
    };
    Entry {
        kind: EntryKind::File(span),
        mode: 0o600,
        ..directory(at)
    }
}

pub fn tablespace(oid: u32, location: &Path) -> Entry {
    Entry {
        kind: EntryKind::Tablespace {
            location: Some(location.as_os_str().as_encoded_bytes().to_vec()),
        },
        ..directory(&format!("pg_tblspc/{oid}"))
    }
}

/// Bytes that don't compress.
pub fn content(seed: u8, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut content);
    content
}

type Hook = Box<dyn FnOnce() + Send>;

/// A store that runs a hook before one of its reads.
pub struct Hooked {
    inner: Arc<dyn Store>,
    before_read: Mutex<Option<(usize, Hook)>>,
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl Hooked {
    /// Runs `hook` before the ranged read of that number, counted from 0 from now on.
    pub fn before_read(&self, number: usize, hook: impl FnOnce() + Send + 'static) {
        *self.before_read.lock().unwrap() = Some((number, Box::new(hook)));
    }

    fn tick(&self) {
        let mut slot = self.before_read.lock().unwrap();
        match slot.take() {
            Some((0, hook)) => hook(),
            Some((number, hook)) => *slot = Some((number - 1, hook)),
            None => {}
        }
    }
}

#[async_trait]
impl Store for Hooked {
    fn url(&self) -> &str {
        self.inner.url()
    }
    fn requests_wanted(&self) -> usize {
        self.inner.requests_wanted()
    }
    async fn create(&self, name: &ObjectName, body: Payload) -> Result<Created> {
        self.inner.create(name, body).await
    }
    async fn read(&self, name: &ObjectName, bytes_max: u64) -> Result<Bytes> {
        self.inner.read(name, bytes_max).await
    }
    async fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes> {
        self.tick();
        self.inner.read_range(name, range).await
    }
    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta> {
        self.inner.stat(name).await
    }
    async fn exists(&self, name: &ObjectName) -> Result<bool> {
        self.inner.exists(name).await
    }
    fn list<'a>(&'a self, prefix: &str, after: Option<&ObjectName>) -> BoxStream<'a, Result<ObjectMeta>> {
        self.inner.list(prefix, after)
    }
    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>> {
        self.inner.list_directories(prefix).await
    }
    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.inner.delete(name).await
    }
}

/// Runs a future of a test, and proves that it may be sent to another thread, as a multi-threaded caller will.
pub fn run<T>(future: impl Future<Output = T> + Send) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}
