//! WAL as rough lives leave it: crashes in the midst of records, records longer than segments, huge segments, promotions
//! on a border between segments. All of it is walked by the plan and replayed by PostgreSQL to the same end.

use std::fs;

use pgkeep_base::WalSegment;
use pgkeep_testkit::corrupt::objects_like;
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, Damage, Damaged, Oracle, StopMode, Upto, every_major};

use crate::shop;

/// Restores to the end of the archive and opens it.
#[track_caller]
fn latest(shop: &Shop, name: &str) -> Cluster {
    let mut copy = shop.restore(name, ["--latest"]);
    copy.start();
    copy.wait_recovered();
    copy
}

every_major! {
    /// Aim: a record that a crash cut off in the midst of a segment border, and that was given up for another one, does
    /// not end the archive. Method: as PostgreSQL's own test does it, the segment with the record's rest is removed.
    fn a_record_that_was_given_up_in_a_crash(major: u16) {
        let mut shop = shop(major).start();
        let cluster = &mut shop.cluster;
        cluster.sql("CREATE TABLE t (i int)");
        shop.pgkeep(["backup"]).ok();
        let cluster = &mut shop.cluster;
        cluster.sql("INSERT INTO t VALUES (1)");
        // Two and a half segments: begins in one, ends in the one after the next.
        cluster.sql("SELECT pg_logical_emit_message(true, '', repeat('x', 2500000)) IS NULL");
        cluster.sql("INSERT INTO t VALUES (2)");
        // What is removed below must not have been archived.
        let archive_command = cluster.sql("SHOW archive_command");
        cluster.set_conf("archive_command", "/bin/false");
        let begin = cluster.current_segment();
        cluster.sql("SELECT pg_logical_emit_message(false, '', repeat('y', 1500000)) IS NULL; SELECT pg_switch_wal()");
        cluster.stop(StopMode::Immediate);
        let wal = cluster.data_dir().join("pg_wal");
        for name in cluster.wal_files().into_iter().filter(|name| name.len() == 24 && *name > begin.name()) {
            fs::remove_file(wal.join(&name)).unwrap();
            let _ = fs::remove_file(wal.join(format!("archive_status/{name}.ready")));
        }
        cluster.set_conf("archive_command", &archive_command);
        cluster.start();
        cluster.sql("INSERT INTO t VALUES (3)");
        cluster.archive_all();
        let copy = latest(&shop, "copy");
        assert!(copy.log().contains("successfully skipped missing contrecord"), "{}", copy.log());
        assert_eq!(copy.sql("SELECT i FROM t ORDER BY i"), "1\n2\n3");
    }

    /// Aim: nothing acknowledged is lost over crashes of the source, all its processes killed under load.
    fn a_source_that_was_killed_again_and_again(major: u16) {
        let mut shop = shop(major).start();
        let oracle = Oracle::builder(&shop.cluster).writers(3).seed(99).start();
        oracle.wait_for(50);
        shop.pgkeep(["backup"]).ok();
        for _ in 0..2 {
            oracle.wait_for(60);
            shop.cluster.kill9();
            shop.cluster.start();
        }
        oracle.wait_for(60);
        let ledger = oracle.stop();
        shop.cluster.archive_all();
        let copy = latest(&shop, "copy");
        ledger.check(&copy, Upto::All).unwrap();
    }

    /// Aim: a timeline that begins exactly where a segment does is followed, and the moment before it is reached.
    fn a_promotion_on_a_border(major: u16) {
        let shop = shop(major).start();
        shop.cluster.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)");
        shop.pgkeep(["backup"]).ok();
        shop.cluster.sql("INSERT INTO t VALUES (2)");
        // The last record of the archive is the one that ends this segment.
        let last = WalSegment::parse(&shop.cluster.archive_all(), shop.cluster.segment_size()).unwrap();
        let mut heir = shop.restore("heir", ["--latest", "--archive", "on"]);
        heir.start();
        heir.wait_recovered();
        heir.sql("INSERT INTO t VALUES (3)");
        heir.archive_all();
        let history = fs::read_to_string(heir.data_dir().join("pg_wal/00000002.history")).unwrap();
        assert!(history.contains(&format!("1\t{}\t", last.end())), "{last}: {history}");
        let copy = latest(&shop, "copy");
        assert_eq!(copy.sql("SELECT i FROM t ORDER BY i"), "1\n2\n3");
        let mut copy = shop.restore("before", ["--timeline", "1"]);
        copy.start();
        copy.wait_recovered();
        assert_eq!(copy.sql("SELECT i FROM t ORDER BY i"), "1\n2");
    }
}

/// Aim: segments so large that they are stored in parts are replayed, and a damaged part is refused.
#[test]
fn segments_in_parts() {
    let shop = shop(17)
        .cluster(|cluster| cluster.segment_mib(128).conf("min_wal_size = '256MB'"))
        .start();
    shop.cluster
        .sql("CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, 1000) i");
    shop.pgkeep(["backup"]).ok();
    shop.cluster
        .sql("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1001, 200000) i");
    let segment = shop.cluster.archive_all();
    let repository = shop.repository_dir("main");
    let parts: Vec<_> = objects_like(&repository, &segment)
        .into_iter()
        .filter(|name| name.contains(".p0"))
        .collect();
    assert_eq!(parts.len(), 2, "{parts:?}");
    for damage in [Damage::Delete, Damage::FlipBit { at: 5000, bit: 1 }] {
        let _damaged = Damaged::new(&repository, &parts[1], damage);
        let target = shop.target("refused");
        let refused = shop.run(["restore", "--into"]).arg(&target).run().expect(4);
        assert!(refused.stderr.contains(&segment) && !target.exists(), "{refused}");
    }
    let copy = latest(&shop, "copy");
    assert_eq!(
        copy.sql("SELECT count(*), count(*) FILTER (WHERE m = md5(i::text)) FROM t"),
        "200000|200000"
    );
}
