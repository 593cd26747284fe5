//! A server that ran with `wal_level = minimal` for a while.

use pgkeep_testkit::postgres::StopMode;

use crate::shop;

/// Aim: PostgreSQL can't recover across such WAL, so the plan refuses before anything is touched, and says how far it
/// can go; a backup taken afterwards is whole again.
#[test]
fn recovery_across_minimal_wal_is_refused_beforehand() {
    let mut shop = shop(17).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT 1 AS a");
    shop.pgkeep(["backup"]).ok();
    shop.pgkeep(["mark", "before"]).ok();
    for (level, mode, senders) in [("minimal", "off", "0"), ("replica", "on", "10")] {
        shop.cluster.set_conf("wal_level", level);
        shop.cluster.set_conf("archive_mode", mode);
        shop.cluster.set_conf("max_wal_senders", senders);
        shop.cluster.restart(StopMode::Fast);
        shop.cluster.sql("INSERT INTO t VALUES (2)");
    }
    shop.cluster.archive_all();
    let target = shop.target("across");
    let refused = shop.run(["restore", "--into"]).arg(&target).run().expect(4);
    assert!(
        refused.stderr.contains("minimal") || refused.stderr.contains("is missing"),
        "{refused}"
    );
    assert!(!target.exists());
    shop.restore("before", ["--restore-point", "before"]);
    shop.pgkeep(["backup"]).ok();
    let mut restored = shop.restore("after", ["--latest"]);
    restored.start();
    restored.wait_recovered();
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "3");
}
