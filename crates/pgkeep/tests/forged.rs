//! Backups that a trusted but malicious writer signed, restored by the whole binary: nothing is written outside of the
//! target, and the target can't be started.
//!
//! A test binary of its own: it forges with the repository's own code, which those that only judge must not link. What
//! each room refuses by itself is tested there (`repo::manifest`, `engine::restore::files`).

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows tests by their attribute, not what they call"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgkeep_base::{BackupId, SystemClock};
use pgkeep_repo::digest::Digest;
use pgkeep_repo::frame::encode;
use pgkeep_repo::head::{Head, HeadKind, ObjectHash};
use pgkeep_repo::manifest::{BlockRef, Content, Entry, EntryKind, ManifestIndex};
use pgkeep_repo::pack::PackWriter;
use pgkeep_repo::packlist::{PackInfo, PackListBuilder};
use pgkeep_repo::reader::BackupReader;
use pgkeep_repo::repofile::RepositoryFile;
use pgkeep_repo::seal::Sealer;
use pgkeep_repo::sign::SigningKey;
use pgkeep_store::{ObjectName, Payload, Store, StoreConfig};
use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::{Output, Shop};

/// A writer whom the repository trusts.
struct Forger {
    shop: Shop,
    store: Arc<dyn Store>,
    sealer: Sealer,
    runtime: tokio::runtime::Runtime,
    /// Of a good backup.
    head: Head,
    last: Vec<Entry>,
    number: u32,
}

impl Forger {
    fn new() -> Forger {
        let shop = Shop::builder(env!("CARGO_BIN_EXE_pgkeep"), 17).unencrypted().start();
        let id = shop.pgkeep(["--json", "backup"]).ok().json()["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let home = shop.home().path();
        let file = RepositoryFile::load(&home.join("repository.toml")).unwrap();
        let key = SigningKey::parse(&fs::read_to_string(home.join("signing.key")).unwrap()).unwrap();
        let url = format!("file://{}", shop.repository_dir("main").display());
        let store = pgkeep_store::open(&StoreConfig::at(url), &|_| None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let opener = file.opener(vec![], Arc::new(file.trust([])));
        let lineage = pgkeep_repo::lineage::Lineage {
            cluster: "shop".parse().unwrap(),
            system_identifier: shop.cluster.system_id(),
        };
        let id = id.parse().unwrap();
        let good = BackupReader::open(vec![store.clone()], opener, &lineage, &id);
        let good = runtime.block_on(good).unwrap();
        Forger {
            sealer: file.sealer(Arc::new(key), Arc::new(SystemClock)).unwrap(),
            head: good.head().clone(),
            last: good.last().to_vec(),
            shop,
            store,
            runtime,
            number: 0,
        }
    }

    fn put(&self, name: &ObjectName, payload: impl Into<Payload>) {
        self.runtime.block_on(self.store.create(name, payload.into())).unwrap();
        let mut path = self.shop.repository_dir("main").join(name.as_str());
        while path != self.shop.repository_dir("main") {
            self.shop.cluster.user().own(&path);
            path.pop();
        }
    }

    /// Signs a backup of these entries, of which the first has this path; they are not looked at.
    fn sign(&mut self, first: &str, entries: &str, last: Vec<Entry>) -> BackupId {
        self.number += 1;
        let mut head = self.head.clone();
        head.id = format!("20261120T101512Z-{:010}", self.number).parse().unwrap();
        let (lineage, id) = (head.lineage(), head.id.clone());
        let mut packs = PackWriter::new(self.sealer.clone(), lineage.clone(), id.clone());
        let json = format!("{{\"packs\":[],\"chunks\":[],\"entries\":[{entries}]}}").into_bytes();
        let placed = packs.push(&encode(&json, 1).unwrap(), Digest::of(&json)).unwrap();
        let pack = packs.close().unwrap().unwrap().object;
        let mut list = PackListBuilder::default();
        list.know(PackInfo::of(&pack));
        list.refer(&[], &placed.chunk);
        self.put(&pack.name, pack.payload);
        let block = BlockRef {
            first: first.parse().unwrap(),
            chunk: placed.chunk,
        };
        let index = ManifestIndex {
            blocks: vec![block],
            last,
        };
        let manifest = index.to_object(&self.sealer, &lineage.manifest_name(&id)).unwrap();
        let packs = list.finish().unwrap();
        let packs = packs.to_object(&self.sealer, &lineage.packs_name(&id)).unwrap();
        let HeadKind::Physical(physical) = &mut head.kind else {
            unreachable!("a base backup")
        };
        (physical.manifest, physical.packs) = (ObjectHash::of(&manifest), ObjectHash::of(&packs));
        let signed = head.sign(&self.sealer).unwrap();
        self.put(&manifest.name, manifest.payload);
        self.put(&packs.name, packs.payload);
        self.put(&signed.name, signed.bytes);
        id
    }

    /// The end of a good manifest, with this map of tablespaces.
    fn last_with_map(&self, map: &str) -> Vec<Entry> {
        let mut last = self.last.clone();
        let mut entry = last[0].clone();
        entry.path = "tablespace_map".parse().unwrap();
        if let EntryKind::File(span) = &mut entry.kind {
            span.content = Content::Inline(map.as_bytes().to_vec());
            span.bytes = map.len() as u64;
        }
        last.insert(1, entry);
        last
    }

    /// Restores a forged backup, which must fail with this code, without a trace elsewhere.
    #[track_caller]
    fn refused(&self, id: &BackupId, code: i32, words: &str) -> Output {
        let before = self.outside();
        let target = self.shop.target("target");
        let run = self
            .shop
            .run(["restore", "--immediate", "--backup", &id.to_string(), "--into"])
            .arg(&target);
        let output = run.run().expect(code);
        assert!(output.stderr.contains(words), "\"{words}\" is missing: {output}");
        assert!(output.stderr.contains("hint: "), "{output}");
        assert!(!target.join("global/pg_control").exists(), "{output}");
        assert_eq!(self.outside(), before, "{output}");
        if target.exists() {
            fs::remove_dir_all(target).unwrap();
        }
        output
    }

    /// Everything around the target, and two places that a thief of root's rights would like.
    fn outside(&self) -> BTreeSet<PathBuf> {
        let home = self.shop.home().path();
        let mine = objects(home)
            .into_iter()
            .filter(|name| !name.starts_with("target/") && !name.starts_with("state/"));
        let below = |place: &str| {
            fs::read_dir(place)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect::<Vec<_>>()
        };
        let elsewhere = ["/etc", "/"].into_iter().flat_map(below);
        mine.map(|name| home.join(name)).chain(elsewhere).collect()
    }
}

fn directory(path: &str) -> String {
    format!("{{\"path\":\"{path}\",\"type\":\"directory\",\"mode\":\"0700\"}}")
}

fn file(path: &str) -> String {
    format!("{{\"path\":\"{path}\",\"type\":\"file\",\"bytes\":1,\"data\":\"eA==\",\"mode\":\"4777\"}}")
}

fn tablespace(oid: &str, location: &str) -> String {
    format!("{{\"path\":\"pg_tblspc/{oid}\",\"type\":\"tablespace\",\"location\":\"{location}\",\"mode\":\"7777\"}}")
}

/// Aim: no path of an entry leads out of the target, whatever signed it.
#[test]
fn paths_that_lead_out() {
    let mut forger = Forger::new();
    let huge =
        "{\"path\":\"a\",\"type\":\"file\",\"bytes\":9223372036854775807,\"extents\":[[1073741824]],\"mode\":\"0600\"}";
    let deep: Vec<String> = (1..200).map(|depth| directory(&vec!["d"; depth].join("/"))).collect();
    for (first, entries) in [
        ("a", vec![directory("a"), file("a/../../escaped")]),
        ("a", vec![directory("a"), file("a/%2E%2E/%2E%2E/escaped")]),
        ("a", vec![directory("a"), file("/etc/escaped")]),
        ("a", vec![directory("a"), file("%2Fetc/escaped")]),
        ("a", vec![directory("a"), file("a/nul%00byte")]),
        ("a", vec![directory("a"), file("a/%61")]),
        ("a", vec![directory("a"), file("a%2fb")]),
        ("a", vec![file("a"), file("a/below")]),
        ("a", vec![file("a"), file("a")]),
        ("a", vec![directory("a"), directory("a")]),
        ("a", vec![file("a/orphan")]),
        (
            "a",
            vec!["{\"path\":\"a\",\"type\":\"symlink\",\"location\":\"/etc\",\"mode\":\"0777\"}".to_owned()],
        ),
        ("a", vec![huge.to_owned()]),
        ("d", deep),
        ("base", vec![tablespace("../base", "/etc")]),
        (
            ".pgkeep",
            vec![directory(".pgkeep"), file(".pgkeep/restore-in-progress")],
        ),
        ("global", vec![directory("global"), file("global/pg_control")]),
        (
            "pg_wal",
            vec![directory("pg_wal"), file("pg_wal/00000001000000000000000F")],
        ),
        ("recovery.signal", vec![file("recovery.signal")]),
    ] {
        let id = forger.sign(first, &entries.join(","), forger.last.clone());
        forger.refused(&id, 8, "");
    }
}

/// Aim: no tablespace leads to where something is, or to no place that a server could have had.
#[test]
fn tablespaces_that_lead_out() {
    let mut forger = Forger::new();
    let good = [directory("global"), directory("pg_tblspc")].join(",");
    let home = forger.shop.home().path().to_str().unwrap().to_owned();
    for (map, code, words) in [
        ("16400 /etc\n".to_owned(), 4, "not empty"),
        ("16400 /\n".to_owned(), 8, "can't have been"),
        ("16400 /tmp/../etc/escaped\n".to_owned(), 8, "can't have been"),
        (format!("16400 {home}\n"), 4, ""),
        (format!("16400 {home}/target/inside\n"), 4, "lies inside"),
        (format!("16400 {home}/repository/main/wal\n"), 4, ""),
        (format!("16400 {home}/one\n16400 {home}/two\n"), 8, ""),
        ("../../escaped /tmp/x\n".to_owned(), 8, ""),
    ] {
        let id = forger.sign("global", &good, forger.last_with_map(&map));
        forger.refused(&id, code, words);
    }
    // A tablespace of the manifest that no map names is left out, with all that lies below it.
    let below = [
        directory("global"),
        directory("pg_tblspc"),
        tablespace("16400", "/etc"),
        file("pg_tblspc/16400/escaped"),
    ];
    let id = forger.sign("global", &below.join(","), forger.last.clone());
    let before = forger.outside();
    let target = forger.shop.target("target");
    let restore = ["restore", "--immediate", "--backup", &id.to_string(), "--into"];
    forger.shop.run(restore).arg(&target).run().ok();
    assert_eq!(forger.outside(), before);
    assert_eq!(fs::read_dir(target.join("pg_tblspc")).unwrap().count(), 0);
    assert!(!Path::new("/etc/escaped").exists());
}
