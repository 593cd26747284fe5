//! The WAL of the directory: what counts, what is told and kept.

use pgkeep_testkit::Damage;
use pgkeep_testkit::corrupt::{Damaged, objects_like};

use super::*;

/// A copy of a cluster's data directory, in the shop's home.
fn copy_of(shop: &Shop, cluster: &Cluster, name: &str) -> PathBuf {
    let copy = shop.home().join(name);
    Run::new("/bin/cp")
        .arg("-a")
        .arg(cluster.data_dir())
        .arg(&copy)
        .run()
        .ok();
    copy
}

pub fn rows(cluster: &Cluster, first: u32) {
    cluster.sql(&format!(
        "INSERT INTO t SELECT generate_series({first}, {})",
        first + 999
    ));
}

/// How many thousands of rows there are, and of which.
pub fn thousands(cluster: &Cluster) -> String {
    cluster.sql("SELECT string_agg(DISTINCT (i / 1000)::text, ' ' ORDER BY (i / 1000)::text), count(*) FROM t")
}

/// A server that has all that the first one wrote, and went on without archiving.
fn promoted_unarchived(shop: &Shop, name: &str) -> Cluster {
    let mut heir = shop.cluster.standby(name);
    heir.set_conf("archive_command", "false");
    heir.catch_up_with(&shop.cluster);
    heir.promote();
    heir
}

every_major! {
    /// Aim: what a twin wrote in the place of archived WAL is told, kept, and not used.
    fn a_fork_is_told_and_kept_and_not_used(major: u16) {
        let mut shop = shop(major).start();
        shop.cluster.sql("CREATE TABLE t (i int)");
        shop.pgkeep(["backup"]).ok();
        shop.cluster.stop(StopMode::Fast);
        let directory = copy_of(&shop, &shop.cluster, "twin");
        let mut twin = Cluster::adopt_dir(major, &directory);
        twin.start();
        twin.set_conf("archive_command", "false");
        rows(&twin, 1000);
        twin.switch_wal();
        rows(&twin, 2000);
        twin.kill9();
        shop.cluster.start();
        rows(&shop.cluster, 5000);
        shop.cluster.archive_all();
        let done = delta(&shop, &directory, [""; 0]).run().ok();
        assert!(done.stderr.contains("another server wrote it"), "{done}");
        let view = done.json();
        assert!(view["saved_wal"]["not_used"].as_array().unwrap().len() >= 2, "{view}");
        assert!(fs::read_dir(directory.join(".pgkeep/saved-wal")).unwrap().count() >= 2, "{view}");
        twin.start();
        twin.wait_recovered();
        assert_eq!(thousands(&twin), "5|1000");
    }

    /// Aim: a promotion that the archive knows nothing of, history and all, is gone on with: nothing else leads on from
    /// where the archive ends.
    fn a_promotion_that_was_never_archived_counts(major: u16) {
        let shop = shop(major).start();
        shop.cluster.sql("CREATE TABLE t (i int)");
        shop.pgkeep(["backup"]).ok();
        rows(&shop.cluster, 1000);
        shop.cluster.archive_all();
        let mut heir = promoted_unarchived(&shop, "heir");
        rows(&heir, 2000);
        heir.switch_wal();
        rows(&heir, 3000);
        heir.kill9();
        let done = delta(&shop, heir.data_dir(), [""; 0]).run().ok();
        assert_eq!(done.json()["target"]["timeline"], 2, "{done}");
        heir.start();
        heir.wait_recovered();
        assert_eq!(thousands(&heir), "1 2 3|3000");
        assert_eq!(heir.timeline().get(), 3);
    }

    /// Aim: a clone that went its own way is brought back to its source, although its own timeline is the newer one; only
    /// who names that gets it.
    fn a_clone_is_refreshed_from_its_source(major: u16) {
        let shop = shop(major).start();
        shop.cluster.sql("CREATE TABLE t (i int)");
        shop.pgkeep(["backup"]).ok();
        rows(&shop.cluster, 1000);
        shop.cluster.archive_all();
        let mut clone = promoted_unarchived(&shop, "clone");
        rows(&clone, 7000);
        clone.kill9();
        rows(&shop.cluster, 2000);
        shop.cluster.archive_all();
        let own = delta(&shop, clone.data_dir(), ["--dry-run", "--timeline", "2"]).run().ok().json();
        assert_eq!(own["target"]["timeline"], 2, "{own}");
        let done = delta(&shop, clone.data_dir(), [""; 0]).run().ok();
        assert_eq!(done.json()["target"]["timeline"], 1, "{done}");
        assert!(done.stderr.contains("`--timeline 2` uses it"), "{done}");
        clone.start();
        clone.wait_recovered();
        assert_eq!(thousands(&clone), "1 2|2000");
        assert_eq!(clone.timeline().get(), 3, "the number 2 is the clone's own");
    }

    /// Aim: an old primary that went on after a failover becomes a standby of the new one by way of the archive.
    fn an_old_primary_becomes_a_standby(major: u16) {
        let life = life(major);
        let branch = life.branch();
        let target = branch.home().join("data");
        Run::new("/bin/cp").arg("-a").arg(life.shop.cluster.data_dir()).arg(&target).run().ok();
        let options = ["restore", "--delta", "--standby", "--archive", "off", "--into"];
        branch.run(options).arg(&target).run().ok();
        let mut standby = Cluster::adopt_dir(major, &target);
        standby.start();
        let newest = "SELECT count(*) FROM ledger WHERE id = 3003";
        wait::until("the standby to follow", wait::LIMIT, || (standby.sql(newest) == "1").then_some(()));
        life.assert_holds(&standby, &life.up_to(3, 3003));
        assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");
    }
}

/// Aim: WAL behind a gap is told and kept, and what is before the gap comes back.
#[test]
fn what_follows_a_gap_is_not_used() {
    let mut shop = shop(18).start();
    shop.cluster.sql("CREATE TABLE t (i int)");
    shop.pgkeep(["backup"]).ok();
    rows(&shop.cluster, 1000);
    shop.cluster.archive_all();
    shop.cluster.set_conf("archive_command", "false");
    let mut segments = Vec::new();
    for first in [2000, 3000, 4000] {
        rows(&shop.cluster, first);
        segments.push(shop.cluster.switch_wal());
    }
    shop.cluster.kill9();
    let data = shop.cluster.data_dir().to_owned();
    fs::remove_file(data.join("pg_wal").join(&segments[1])).unwrap();
    let done = delta(&shop, &data, [""; 0]).run().ok();
    assert!(
        done.stderr.contains("neither in the archive nor in the data directory"),
        "{done}"
    );
    let aside = done.json()["saved_wal"]["not_used"].to_string();
    assert!(aside.contains(&segments[2]) && !aside.contains(&segments[0]), "{aside}");
    shop.cluster.start();
    shop.cluster.wait_recovered();
    assert_eq!(thousands(&shop.cluster), "1 2|2000");
}

/// Aim: a segment that went bad in the archive is taken from the directory, where that still has it; damage to what was
/// saved stops recovery, and does not end it early.
#[test]
fn each_side_stands_in_for_the_other_and_neither_lies() {
    let mut shop = shop(18)
        .cluster(|cluster| cluster.conf("wal_keep_size = '1GB'"))
        .start();
    shop.cluster.sql("CREATE TABLE t (i int)");
    shop.pgkeep(["backup"]).ok();
    let mut archived = Vec::new();
    for first in [1000, 2000] {
        rows(&shop.cluster, first);
        archived.push(shop.cluster.archive_all());
    }
    shop.cluster.set_conf("archive_command", "false");
    rows(&shop.cluster, 3000);
    shop.cluster.switch_wal();
    rows(&shop.cluster, 4000);
    shop.cluster.kill9();
    let root = shop.repository_dir("main");
    let object = objects_like(&root, &format!("/{}-", archived[0])).pop().unwrap();
    let length = fs::metadata(root.join(&object)).unwrap().len();
    let _damaged = Damaged::new(&root, &object, Damage::flip(7, length));
    let refused = shop
        .run(["restore", "--into"])
        .arg(shop.target("elsewhere"))
        .run()
        .expect(4);
    assert!(refused.stderr.contains(&archived[0]), "{refused}");

    let data = shop.cluster.data_dir().to_owned();
    let done = delta(&shop, &data, [""; 0]).run().ok();
    assert!(done.stderr.contains("the same content is taken from"), "{done}");
    let saved = data.join(".pgkeep/saved-wal");
    let name = fs::read_dir(&saved)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max()
        .unwrap();
    let whole = fs::read(&name).unwrap();
    let mut bytes = whole.clone();
    bytes[100] ^= 1;
    fs::write(&name, &bytes).unwrap();
    let log = shop.cluster.start_expect_failure();
    assert!(log.contains("FATAL"), "{log}");
    fs::write(&name, &whole).unwrap();
    shop.cluster.start();
    shop.cluster.wait_recovered();
    assert_eq!(thousands(&shop.cluster), "1 2 3 4|4000");
}

/// Aim: a segment that can't be read as WAL is kept as it is, and told; what is before it comes back, and nothing that
/// was prepared for later use is kept.
#[test]
fn what_can_not_be_read_is_kept_as_it_is() {
    let mut shop = shop(18).start();
    shop.cluster.sql("CREATE TABLE t (i int)");
    shop.pgkeep(["backup"]).ok();
    rows(&shop.cluster, 1000);
    shop.cluster.archive_all();
    shop.cluster.set_conf("archive_command", "false");
    let mut segments = Vec::new();
    for first in [2000, 3000] {
        rows(&shop.cluster, first);
        segments.push(shop.cluster.switch_wal());
    }
    shop.cluster.kill9();
    let data = shop.cluster.data_dir().to_owned();
    let damaged = data.join("pg_wal").join(&segments[1]);
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[0] ^= 0xFF;
    fs::write(&damaged, &bytes).unwrap();
    fs::write(data.join("pg_wal/0000000100000000000000FE"), vec![0; 1 << 20]).unwrap();
    let done = delta(&shop, &data, [""; 0]).run().ok();
    assert!(done.stderr.contains("can't be read as WAL of this cluster"), "{done}");
    let saved = data.join(".pgkeep/saved-wal");
    let names = objects(&saved);
    let of_it = names.iter().find(|name| name.starts_with(&segments[1])).unwrap();
    assert!(fs::read(saved.join(of_it)).unwrap() == bytes);
    assert!(!names.iter().any(|name| name.contains("FE-")), "{names:?}");
    shop.cluster.start();
    shop.cluster.wait_recovered();
    assert_eq!(thousands(&shop.cluster), "1 2|2000");
}
