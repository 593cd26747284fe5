//! What a backup of a larger cluster costs: bytes added after scattered changes, and memory.
//!
//! The gate changes 500 pages of 200 MB (of which every MiB then has several), `scripts/test --all` 1,000 of 2 GB.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgkeep_testkit::{Cluster, Run};
use serde_json::Value;

use crate::backup::number;
use crate::shop;

const PAGE: usize = 8192;
/// Rows that are sure to fill a page beyond its fill factor, more or less.
const ROWS_PER_PAGE: usize = 46;
const MEMORY_KIB_MAX: u64 = 256 << 10;

/// Aim: scattered pages changed add at most three times their own compressed size (zstd 3), and neither
/// backups nor the restore of what was pieced together take more than 256 MiB of memory.
/// Method: the pages of the table are compared on disk, before and after.
#[test]
fn scattered_changes_add_little() {
    let all = std::env::var_os("PGKEEP_TEST_ALL").is_some();
    let (bytes, scattered) = if all { (2 << 30, 1000) } else { (200 << 20, 500) };
    let pages = bytes / PAGE;
    let shop = shop(17).cluster(|cluster| cluster.segment_mib(16)).start();
    let files = make_table(&shop.cluster, pages);
    let full = measured(shop.run(["--json", "backup", "--jobs", "4"]));

    let before = hashes(&files);
    shop.cluster.sql(&format!(
        "UPDATE t SET content = 'changed ' || id FROM generate_series(1, {scattered}) n
         WHERE ctid = format('(%s,1)', (hashint4(n)::bigint + 2147483648) % {pages})::tid;
         CHECKPOINT"
    ));
    let changed = changed_pages(&files, &before);
    let count = changed.len() / PAGE;
    assert!((scattered * 9 / 10..=scattered).contains(&count), "{count} pages");
    let own = zstd::bulk::compress(&changed, 3).unwrap().len() as u64;

    let next = measured(shop.run(["--json", "backup"]));
    let new = number(&next["new_bytes"]);
    eprintln!(
        "{count} of {pages} pages: {new} new bytes, compressed {own}; first {}",
        full["new_bytes"]
    );
    assert!(new <= 3 * own, "{new} new bytes for pages that compress to {own}");

    shop.cluster.archive_all();
    measured(shop.run(["--json", "restore", "--into"]).arg(shop.target("restored")));
    let mut restored = Cluster::adopt_dir(17, shop.target("restored"));
    restored.start();
    restored.wait_recovered();
    let sum = "SELECT count(*), sum(id), sum(hashtext(content)) FROM t";
    assert_eq!(restored.sql(sum), shop.cluster.sql(sum));

    drop(restored);
    let over = ["--json", "restore", "--delta", "--into"];
    let again = measured(shop.run(over).arg(shop.target("restored")));
    let kept = number(&again["written"]["kept_bytes"]);
    assert!(kept > bytes as u64 * 9 / 10, "{again}");
    assert!(
        number(&again["written"]["fetched_bytes"]) < number(&full["new_bytes"]) / 10,
        "{again}"
    );
}

/// Runs a command that must succeed, and must do with so much memory; gives its JSON.
#[track_caller]
fn measured(run: Run) -> Value {
    let mut running = run.limit(Duration::from_secs(600)).spawn();
    let mut peak = 0;
    while running.is_running() {
        // Once it has ended there is nothing to read: what was seen last counts.
        peak = running.proc_number("status", "VmHWM:").unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = running.wait().ok();
    assert!((1..MEMORY_KIB_MAX).contains(&peak), "{peak} KiB of memory: {output}");
    eprintln!("peak {} MiB, {:.1} s", peak >> 10, output.elapsed.as_secs_f32());
    output.json()
}

/// Makes a table of about so many pages, frozen, so that reading does not change it; gives its files.
fn make_table(cluster: &Cluster, pages: usize) -> Vec<PathBuf> {
    let path = cluster.scratch().join("rows");
    let mut rows = BufWriter::new(File::create(&path).unwrap());
    let mut random = 1_u64;
    for id in 0..pages * ROWS_PER_PAGE {
        write!(rows, "{id}\t").unwrap();
        for _ in 0..8 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            write!(rows, "{:016x}", random ^ (random >> 29)).unwrap();
        }
        rows.write_all(b"\n").unwrap();
    }
    rows.flush().unwrap();
    cluster.sql(&format!(
        "BEGIN;
         CREATE TABLE t (id bigint, content text) WITH (fillfactor = 90);
         COPY t FROM '{}' WITH (FREEZE);
         COMMIT;
         CHECKPOINT",
        path.display()
    ));
    std::fs::remove_file(&path).unwrap();
    let first = cluster.data_dir().join(cluster.sql("SELECT pg_relation_filepath('t')"));
    let segment = |number: usize| PathBuf::from(format!("{}.{number}", first.display()));
    let more = (1..).map(segment).take_while(|path| path.exists());
    std::iter::once(first.clone()).chain(more).collect()
}

/// Calls `with` for every page.
fn each_page(files: &[PathBuf], mut with: impl FnMut(&[u8])) {
    let read = |path: &Path, with: &mut dyn FnMut(&[u8])| {
        let mut file = File::open(path).unwrap();
        let mut page = [0; PAGE];
        while file.read_exact(&mut page).is_ok() {
            with(&page);
        }
    };
    files.iter().for_each(|path| read(path, &mut with));
}

fn hashes(files: &[PathBuf]) -> Vec<u64> {
    let mut hashes = Vec::new();
    each_page(files, |page| hashes.push(hash(page)));
    hashes
}

fn hash(page: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    page.hash(&mut hasher);
    hasher.finish()
}

/// The pages that are not as they were, one behind the other.
fn changed_pages(files: &[PathBuf], before: &[u64]) -> Vec<u8> {
    let (mut changed, mut before) = (Vec::new(), before.iter());
    each_page(files, |page| {
        if before.next() != Some(&hash(page)) {
            changed.extend_from_slice(page);
        }
    });
    changed
}
