//! A small repository with at least two objects of every kind, and another repository's objects under the same names.
//!
//! The bulk is a golden repository: a real cluster's backups and WAL. What that lacks (parts, history and partial files,
//! control objects, leases, packs of a few bytes) is added, signed by a key that this world's reader trusts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use jiff::Timestamp;
use pgkeep_base::{BackupId, Clock, ClusterName, Event, Progress, SystemId, TimelineId, WalFile};
use pgkeep_engine::{ClusterConfig, Engine, Place, Setup};
use pgkeep_repo::control::ControlKind;
use pgkeep_repo::control::recipients::seal_recipients;
use pgkeep_repo::control::signers::SignerChange;
use pgkeep_repo::control::{ControlObject, seal_control};
use pgkeep_repo::frame::encode;
use pgkeep_repo::genesis::genesis_name;
use pgkeep_repo::keys::{Identity, parse_identity_file, wrap_key};
use pgkeep_repo::lease::seal_lease;
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::open::Opener;
use pgkeep_repo::repofile::RepositoryFile;
use pgkeep_repo::rewrap::RewrapBuilder;
use pgkeep_repo::seal::{Kind, Seal, SealMode, Sealer};
use pgkeep_repo::sign::{SigningKey, Trust};
use pgkeep_repo::wal::seal_wal;
use pgkeep_store::ObjectName;
use serde_json::{Map, Value};

use crate::memory::{MemoryStore, Objects, Overlay};
use crate::tiny;

/// What an object is, as far as readers treat it differently.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum What {
    Genesis,
    Signer,
    Recipients,
    Rewrap,
    Segment,
    Part,
    History,
    BackupFile,
    Partial,
    Pack,
    Manifest,
    Packs,
    Head,
    Lease,
}

pub struct World {
    pub name: &'static str,
    pub objects: Arc<Objects>,
    /// The same names in another repository that the same host signs for.
    pub foreign: Objects,
    pub file: RepositoryFile,
    pub key: Arc<SigningKey>,
    pub identities: Vec<Identity>,
    /// Opens what is rewrapped to it, and nothing else.
    pub later: Identity,
    /// The manifest that `later` opens by the first rewrap, by the second.
    pub rewrapped: Vec<ObjectName>,
    /// Where a tablespace of the golden cluster was.
    pub tablespace: Option<PathBuf>,
    pub scratch: tempfile::TempDir,
}

/// A clock that goes on by a second each time, so that ids differ and sort.
#[derive(Debug)]
struct Ticking(Mutex<Timestamp>);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        let mut now = self.0.lock().unwrap();
        *now += jiff::SignedDuration::from_secs(1);
        *now
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(Ticking(Mutex::new("2026-11-20T12:00:00Z".parse().unwrap())))
}

fn tablespace(golden: &Path) -> Option<PathBuf> {
    let expected = std::fs::read_to_string(golden.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    expected["tablespace"].as_str().map(PathBuf::from)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../pgkeep/tests/golden")
        .join(name)
}

impl World {
    pub fn sealed() -> World {
        World::of("sealed", &golden("format-1-age-postgres-18"))
    }

    pub fn unsealed() -> World {
        World::of("unsealed", &golden("format-1-none-postgres-14"))
    }

    fn of(name: &'static str, from: &Path) -> World {
        let mut objects = Objects::new();
        read_all(&from.join("repository"), "", &mut objects);
        let file = RepositoryFile::load(&from.join("repository.toml")).unwrap();
        let identities = std::fs::read_to_string(from.join("identity.txt"));
        let identities = identities.map_or_else(|_| Vec::new(), |text| parse_identity_file(&text).unwrap());
        let mut world = World {
            name,
            objects: Arc::default(),
            foreign: Objects::new(),
            file,
            key: Arc::new(SigningKey::generate().unwrap()),
            identities,
            later: Identity::generate(),
            rewrapped: Vec::new(),
            tablespace: tablespace(from),
            scratch: tempfile::tempdir().unwrap(),
        };
        let sealer = world.file.sealer(world.key.clone(), clock()).unwrap();
        world.add(&sealer, &mut objects);
        world.objects = Arc::new(objects);
        world.foreign = world.of_another_repository();
        world
    }

    fn add(&mut self, sealer: &Sealer, objects: &mut Objects) {
        let mut put = |name: ObjectName, bytes: Vec<u8>| drop(objects.insert(name, bytes.into()));
        for (file, content) in wal_files() {
            let (cluster, sysid) = ("tiny".parse::<ClusterName>().unwrap(), SystemId(7));
            let sealed = seal_wal(sealer, &self.file.naming(), &cluster, sysid, &file, &content, None);
            for object in sealed.unwrap() {
                put(object.name, object.payload.parts().concat());
            }
        }
        for number in 1..=2 {
            tiny::backup(sealer, number)
                .into_iter()
                .for_each(|(name, bytes)| put(name, bytes));
            let id: BackupId = format!("20261120T10151{number}Z-0123456789").parse().unwrap();
            let (lease, payload) = seal_lease(sealer, &tiny::lineage(), &id, "db1").unwrap();
            put(lease.object_name(), payload.parts().concat());
        }
        let friend = || SigningKey::generate().unwrap().fingerprint();
        let lost = friend();
        let changes = [
            SignerChange::Add {
                add: friend(),
                name: "db2".to_owned(),
            },
            SignerChange::Add {
                add: lost.clone(),
                name: "db3".to_owned(),
            },
            SignerChange::Remove {
                remove: lost,
                from: "2026-11-19T00:00:00Z".parse().unwrap(),
                keep: Vec::new(),
            },
        ];
        for change in &changes {
            let ControlObject { name, payload } = seal_control(sealer, ControlKind::Signer, change).unwrap();
            put(name, payload.parts().concat());
        }
        if self.file.mode != SealMode::None {
            for _ in 0..2 {
                let ControlObject { name, payload } = seal_recipients(sealer, &self.file).unwrap();
                put(name, payload.parts().concat());
            }
            self.rewrap(sealer, objects);
        }
    }

    /// Wraps the keys of the two golden manifests to `later`, each in a rewrap of its own.
    fn rewrap(&mut self, sealer: &Sealer, objects: &mut Objects) {
        let opener = Opener::new(
            self.file.id,
            self.identities.clone(),
            Arc::new(Trust::default().accept_any()),
        );
        let is_manifest =
            |name: &&ObjectName| name.as_str().starts_with("backups/shop") && name.as_str().ends_with("/manifest");
        self.rewrapped = objects.keys().filter(is_manifest).cloned().collect();
        for name in &self.rewrapped {
            let header = opener.verify_keyless(name, &objects[name]).unwrap();
            let Seal::Age { key } = header.seal else {
                panic!("it is sealed")
            };
            let again = wrap_key(&opener.unwrap(&key).unwrap(), &[self.later.recipient()]).unwrap();
            let mut builder = RewrapBuilder::default();
            builder.add(name, &key, again);
            let ControlObject { name, payload } = builder.seal(sealer).unwrap().unwrap();
            objects.insert(name, payload.parts().concat().into());
        }
    }

    /// Every object again, with the same content, as another repository has it that the same host signs for.
    fn of_another_repository(&self) -> Objects {
        let mode = self.file.mode.clone();
        let other = RepositoryFile::new(mode, vec![self.key.fingerprint()]).unwrap();
        let sealer = other.sealer(self.key.clone(), clock()).unwrap();
        let opener = Opener::new(
            self.file.id,
            self.identities.clone(),
            Arc::new(Trust::default().accept_any()),
        );
        let again = |(name, bytes): (&ObjectName, &Bytes)| (name.clone(), reseal(&opener, &sealer, name, bytes));
        self.objects.iter().map(again).collect()
    }

    pub fn store(&self, place: &str, overlay: Overlay) -> Arc<MemoryStore> {
        Arc::new(MemoryStore::new(place, &self.objects, overlay))
    }

    /// An engine over these places, the first one first.
    pub fn engine(&self, places: &[Arc<MemoryStore>], identities: &[Identity], told: &Arc<Told>) -> Engine {
        let place = |(number, store): (usize, &Arc<MemoryStore>)| Place {
            name: format!("place{number}"),
            store: store.clone(),
            required: true,
        };
        let cluster = |name: &str| ClusterConfig {
            name: name.parse().unwrap(),
            connection: String::new(),
            postgres_bin: None,
            archive_timeout: std::time::Duration::ZERO,
            rpo: None,
        };
        let setup = Setup {
            state_dir: self.scratch.path().join("state"),
            places: places.iter().enumerate().map(place).collect(),
            repository: self.file.clone(),
            signing_key: Arc::new(SigningKey::generate().unwrap()),
            signers: vec![self.key.fingerprint()],
            accept_signer: false,
            identities: identities.to_vec(),
            clusters: vec![cluster("shop"), cluster("tiny")],
            environment: Arc::new(|_| None),
            clock: clock(),
            progress: told.clone(),
        };
        Engine::new(setup).unwrap()
    }

    /// The objects of each kind.
    pub fn kinds(&self) -> Vec<(What, Vec<ObjectName>)> {
        let mut kinds: std::collections::BTreeMap<What, Vec<ObjectName>> = std::collections::BTreeMap::new();
        for name in self.objects.keys() {
            kinds.entry(what(name)).or_default().push(name.clone());
        }
        kinds.into_iter().collect()
    }
}

/// What an engine said beside its results.
#[derive(Debug, Default)]
pub struct Told(Mutex<Vec<String>>);

impl Told {
    pub fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

impl Progress for Told {
    fn event(&self, event: Event) {
        if let Event::Note { message } | Event::Warning { message } = event {
            self.0.lock().unwrap().push(message);
        }
    }
}

pub fn what(name: &ObjectName) -> What {
    let name = name.as_str();
    let last = name.rsplit('/').next().unwrap();
    match name.split('/').next().unwrap() {
        "control" if last == "genesis" => What::Genesis,
        "control" if last.ends_with("signer") => What::Signer,
        "control" if last.ends_with("recipients") => What::Recipients,
        "control" => What::Rewrap,
        "wal" if last.contains(".p00") => What::Part,
        "wal" if last.contains(".history") => What::History,
        "wal" if last.contains(".backup") => What::BackupFile,
        "wal" if last.contains(".partial") => What::Partial,
        "wal" => What::Segment,
        "packs" => What::Pack,
        "leases" => What::Lease,
        _ if last == "manifest" => What::Manifest,
        _ if last == "packs" => What::Packs,
        _ => What::Head,
    }
}

/// Files that the golden archives lack: two of each kind, one of them in parts.
fn wal_files() -> Vec<(WalFile, Vec<u8>)> {
    let file = |name: &str| WalFile::parse(name).unwrap();
    let history = |parent: u32| format!("{parent}\t0/3000000\tno recovery target specified\n").into_bytes();
    let mut large = vec![0; (64 << 20) + 4096];
    large[..16].copy_from_slice(b"a segment's head");
    vec![
        (WalFile::History(TimelineId::new(2).unwrap()), history(1)),
        (WalFile::History(TimelineId::new(3).unwrap()), history(2)),
        (file("000000010000000000000003.partial"), b"partial three".to_vec()),
        (file("000000010000000000000004.partial"), b"partial four".to_vec()),
        (file("000000010000000000000005"), large),
    ]
}

fn reseal(opener: &Opener, sealer: &Sealer, name: &ObjectName, bytes: &Bytes) -> Bytes {
    if let Ok(verified) = opener.document(name, bytes) {
        return sealer.sign(name, &Value::Object(verified.payload)).unwrap();
    }
    let header = opener.verify_keyless(name, bytes).unwrap();
    let (header, frames) = opener.open_object(name, bytes, header.kind).unwrap();
    let begun = match header.kind {
        Kind::Packs => sealer.begin_plain(name, header.kind),
        _ => sealer.begin(name, header.kind),
    };
    let mut builder = begun.unwrap();
    let (last, first) = frames.split_last().unwrap();
    for frame in first {
        builder.push(&encode(frame, 1).unwrap()).unwrap();
    }
    let own = ["format", "repository", "kind", "created_at", "seal", "body"];
    let members = header
        .extra
        .into_iter()
        .filter(|(member, _)| !own.contains(&member.as_str()));
    let extra: Map<String, Value> = members.collect();
    let last = (!last.is_empty()).then(|| encode(last, 1).unwrap());
    builder.finish(extra, last.as_ref()).unwrap().to_bytes()
}

fn read_all(directory: &Path, prefix: &str, to: &mut Objects) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => read_all(&entry.path(), &format!("{name}/"), to),
            false => drop(to.insert(
                ObjectName::new(name).unwrap(),
                std::fs::read(entry.path()).unwrap().into(),
            )),
        }
    }
}

/// Names that every world has.
pub fn genesis() -> ObjectName {
    genesis_name()
}

/// A lineage of the golden repository.
pub fn lineage_of(name: &ObjectName) -> Lineage {
    let mut parts = name.as_str().split('/').skip(1);
    Lineage {
        cluster: parts.next().unwrap().parse().unwrap(),
        system_identifier: parts.next().unwrap().parse().unwrap(),
    }
}
