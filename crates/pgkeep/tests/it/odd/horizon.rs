//! A sweep by the letter of docs/format.md (section 6) between, and during, the backups of a writer that can't look.
//!
//! The keeper here removes every head but the one it was told to keep, and every pack that the document lets it remove.
//! Whatever the writer still remembers: the backups that it then makes restore.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use jiff::Timestamp;
use pgkeep_base::BackupId;
use pgkeep_testkit::corrupt::objects;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Clock, Signal};

use super::paused::Paused;
use super::truth::{Truth, restored};
use crate::backup::{fill, number, text};
use crate::shop;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// What the document adds to the reuse horizon of a head, and how old a pack is that it lets go without one.
const BEYOND_HORIZON: i64 = 3 * DAY;
const GRACE: i64 = 5 * DAY;

/// A shop by a clock, and a keeper who has seen every head that there ever was.
struct Years {
    shop: Shop,
    clock: Clock,
    /// Seconds since 1970, at the beginning.
    began: i64,
    horizon: i64,
    /// When each backup finished, and its packs.
    heads: BTreeMap<String, (i64, BTreeSet<String>)>,
}

impl Years {
    fn new() -> Years {
        let shop = shop(17)
            .cluster(|cluster| cluster.segment_mib(16).conf("autovacuum = off"))
            .start();
        let shown = shop.pgkeep(["--json", "repository", "show"]).ok().json();
        Years {
            horizon: number(&shown["reuse_horizon_seconds"]) as i64,
            began: Timestamp::now().as_second(),
            clock: Clock::new(),
            heads: BTreeMap::new(),
            shop,
        }
    }

    /// Takes a backup, and gives its id and how much it stored.
    #[track_caller]
    fn backup(&mut self) -> (String, u64) {
        let done = self.clock.apply(self.shop.run(["--json", "backup"])).run().ok().json();
        (text(&done["id"]), number(&done["new_bytes"]))
    }

    /// A backup that is stopped while it reads the table `behind`, which lies behind all others.
    #[track_caller]
    fn paused(&self) -> Paused {
        let file = self.shop.cluster.sql("SELECT pg_relation_filepath('behind')");
        Paused::reading_by(&self.shop, &file, |run| self.clock.apply(run))
    }

    /// Removes what may be removed at a time: how many packs that were.
    fn sweep(&mut self, seconds: i64, kept: &str) -> usize {
        let (root, now) = (self.shop.repository_dir("main"), self.began + seconds);
        let names = objects(&root);
        for name in names.iter().filter(|name| name.ends_with("/head")) {
            let head = fs::read_to_string(root.join(name)).unwrap();
            let head: serde_json::Value = serde_json::from_str(head.lines().next().unwrap()).unwrap();
            let finished: Timestamp = text(&head["finished_at"]).parse().unwrap();
            let packs = pack_names(&fs::read(root.join(name.replace("/head", "/packs"))).unwrap());
            self.heads.insert(text(&head["id"]), (finished.as_second(), packs));
        }
        let protects = |(id, (finished, _)): &(&String, &(i64, BTreeSet<String>))| {
            *id == kept || now - finished < self.horizon + BEYOND_HORIZON
        };
        let named: BTreeSet<&String> = self
            .heads
            .iter()
            .filter(protects)
            .flat_map(|(_, (_, packs))| packs)
            .collect();
        let age = |name: &str| {
            let id: BackupId = name.split('/').nth(3).unwrap().parse().unwrap();
            now - id.time().as_second()
        };
        let free = |name: &&String| name.starts_with("packs/") && !named.contains(*name) && age(name) >= GRACE;
        let heads = names
            .iter()
            .filter(|name| name.ends_with("/head") && !name.contains(kept));
        heads.for_each(|name| fs::remove_file(root.join(name)).unwrap());
        let free: Vec<&String> = names.iter().filter(free).collect();
        free.iter().for_each(|name| fs::remove_file(root.join(name)).unwrap());
        free.len()
    }

    /// Restores a backup and compares it with the cluster.
    #[track_caller]
    fn prove(&self, id: &str) {
        Truth::of(&self.shop.cluster).prove(restored(&self.shop, id, id, &[]));
        fs::remove_dir_all(self.shop.target(id)).unwrap();
    }
}

/// Aim: neither a stale cache nor what an interrupted run left makes a backup that refers to what was swept.
#[test]
fn what_may_be_swept_is_never_referred_to() {
    let mut years = Years::new();
    fill(&years.shop.cluster, "t", 40);
    years
        .shop
        .cluster
        .sql("CREATE TABLE behind AS SELECT i, repeat('x', 1000) x FROM generate_series(1, 12000) i");
    let (first, full) = years.backup();

    // The last moment at which the first backup may be reused, by a run that takes as long as it may; its head is gone
    // by retention at once, and swept is at the end of the run.
    let begun = years.horizon - HOUR;
    years.clock.shift(begun);
    let paused = years.paused();
    years.clock.shift(begun + 47 * HOUR);
    years.sweep(begun + 47 * HOUR, "none");
    let done = paused.resume().ok().json();
    assert!(number(&done["new_bytes"]) < full / 2, "it reuses {first}: {done}");
    let second = text(&done["id"]);
    years.prove(&second);

    // An interrupted run, and one that begins within its lease and ends long after it.
    fill(&years.shop.cluster, "u", 70);
    years
        .shop
        .cluster
        .sql("CREATE TABLE last AS SELECT * FROM behind; DROP TABLE behind; ALTER TABLE last RENAME TO behind");
    let begun = begun + 3 * DAY;
    years.clock.shift(begun);
    let interrupted = years.paused();
    let stored = packs(&years.shop);
    interrupted.end(Signal::KILL);
    years.clock.shift(begun + 47 * HOUR);
    let paused = years.paused();
    years.clock.shift(begun + 94 * HOUR);
    years.sweep(begun + 94 * HOUR, &second);
    let done = paused.resume().ok();
    assert!(done.stderr.contains("interrupted backup"), "{done}");
    assert!(stored > 2, "the interrupted run stored packs");
    years.prove(&text(&done.json()["id"]));

    // Beyond the horizon everything may go, and everything is stored anew.
    let late = begun + years.horizon + 30 * DAY;
    years.clock.shift(late);
    assert!(years.sweep(late, "none") > 3);
    let (last, anew) = years.backup();
    assert!(anew > full, "{anew} bytes after {full}");
    years.prove(&last);
}

fn packs(shop: &Shop) -> usize {
    let names = objects(&shop.repository_dir("main"));
    names.iter().filter(|name| name.starts_with("packs/")).count()
}

/// The packs that a packs object names, by sections 3 and 5 of the document.
fn pack_names(object: &[u8]) -> BTreeSet<String> {
    let word = |at: usize| u32::from_le_bytes(object[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 12 + word(8);
    let mut lines = Vec::new();
    while at < object.len() {
        let bytes = word(at) & 0x7fff_ffff;
        let frame = &object[at + 4..at + 4 + bytes - 16];
        let content = &frame[8..];
        match frame[0] {
            0 => lines.extend_from_slice(content),
            _ => lines.extend(zstd::decode_all(content).unwrap()),
        }
        at += 4 + bytes;
    }
    let lines = String::from_utf8(lines).unwrap();
    let name = |line: &str| text(&serde_json::from_str::<serde_json::Value>(line).unwrap()["name"]);
    lines.lines().map(name).collect()
}
