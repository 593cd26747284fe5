//! The round trip: a cluster under load is backed up twice, archived, lost, restored and compared with the oracle's
//! ledger, on every major, from a directory and from S3.

use std::fs;

use pgkeep_base::Lsn;
use pgkeep_testkit::fixture::{Builder, Shop};
use pgkeep_testkit::{Cluster, Ledger, Oracle, S3Server, StopMode, Upto, every_major};

use crate::shop;

/// What is known of a cluster that is no more.
struct Lost {
    shop: Shop,
    ledger: Ledger,
    /// What was acknowledged when the first backup had ended.
    at_first_backup: Ledger,
    first: String,
    tablespace: std::path::PathBuf,
}

/// Lets writers write, takes a full and an incremental backup meanwhile, archives everything and stops the cluster.
fn lose(builder: Builder, seed: u64) -> Lost {
    let mut shop = builder.start();
    let cluster = &shop.cluster;
    let tablespace = cluster.create_tablespace("fast");
    cluster.sql(
        "CREATE TABLE far (i int PRIMARY KEY USING INDEX TABLESPACE fast) TABLESPACE fast;
         INSERT INTO far SELECT generate_series(1, 20000);
         CREATE UNLOGGED TABLE volatile AS SELECT generate_series(1, 100) i;
         CREATE TABLE empty (i int); CREATE SEQUENCE numbers; SELECT setval('numbers', 41);
         SELECT lo_from_bytea(4711, decode(repeat('c0ffee', 5000), 'hex'));
         CREATE DATABASE \"odd na/me\"",
    );
    cluster.sql_in("odd na/me", "CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let oracle = Oracle::builder(cluster).writers(3).seed(seed).start();
    oracle.wait_for(150);
    let first = shop.run(["--json", "backup"]).run().ok().json();
    let first = first["id"].as_str().unwrap().to_owned();
    let at_first_backup = oracle.ledger();
    oracle.wait_for(150);
    shop.pgkeep(["backup"]).ok();
    oracle.wait_for(150);
    let ledger = oracle.stop();
    shop.cluster.archive_all();
    shop.cluster.stop(StopMode::Fast);
    Lost {
        shop,
        ledger,
        at_first_backup,
        first,
        tablespace,
    }
}

/// Everything in the copy, of which the oracle knows only its own table.
fn check_contents(copy: &Cluster) {
    assert_eq!(copy.sql("SELECT count(*), sum(i) FROM far"), "20000|200010000");
    assert_eq!(
        copy.sql("SELECT count(*) FROM volatile"),
        "0",
        "what is not logged is not there, and can be used"
    );
    copy.sql("INSERT INTO volatile VALUES (1)");
    assert_eq!(copy.sql("SELECT nextval('numbers') > 41, count(*) FROM empty"), "t|0");
    assert_eq!(
        copy.sql("SELECT md5(lo_get(4711)) = md5(decode(repeat('c0ffee', 5000), 'hex'))"),
        "t"
    );
    assert_eq!(copy.sql_in("odd na/me", "SELECT count(*) FROM t"), "1000");
}

/// Restores to the end of the archive, with the tablespace beside the copy, and compares everything.
fn bring_back(lost: &Lost, name: &str, options: &[&str]) {
    let moved = lost.shop.home().join(format!("{name}-fast"));
    let mapping = format!("{}={}", lost.tablespace.display(), moved.display());
    let mut copy = lost
        .shop
        .restore(name, [&["--tablespace", &mapping as &str], options].concat());
    copy.start();
    copy.wait_recovered();
    let checked = lost
        .ledger
        .check(&copy, Upto::All)
        .unwrap_or_else(|why| panic!("{why}\n{}", copy.log()));
    assert!(checked.required >= 450, "{checked:?}");
    check_contents(&copy);
    copy.check_structure();
    let location = copy.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'");
    assert_eq!(location, moved.to_str().unwrap());
    copy.stop(StopMode::Fast);
    copy.check_pages();
    for directory in [copy.data_dir(), &moved] {
        fs::remove_dir_all(directory).unwrap();
    }
}

every_major! {
    /// Aim: from a directory, every acknowledged commit is back and nothing else, from the newest backup and from the
    /// first; without a place for its tablespace nothing is touched.
    fn a_lost_cluster_comes_back_from_a_directory(major: u16) {
        let lost = lose(shop(major), 14);
        let target = lost.shop.target("refused");
        let refused = lost.shop.run(["restore", "--into"]).arg(&target).run().expect(4);
        assert!(refused.stderr.contains("--tablespace"), "{refused}");
        assert!(!target.exists(), "{refused}");
        bring_back(&lost, "newest", &[]);
        bring_back(&lost, "first", &["--backup", &lost.first]);
    }

    /// Aim: the same from S3, and to a moment in the midst of the load, exactly.
    fn a_lost_cluster_comes_back_from_s3(major: u16) {
        let server = S3Server::shared();
        let bucket = server.bucket("round-trip");
        let lost = lose(shop(major).s3("main", server, &bucket, "wo/shop", "admin"), 18);
        bring_back(&lost, "newest", &[]);
        let middle = &lost.ledger.commits()[lost.ledger.commits().len() / 2];
        let listed = lost.shop.pgkeep(["list", "--json"]).ok().json();
        let consistent: Lsn = listed["backups"][0]["stop_lsn"].as_str().unwrap().parse().unwrap();
        let moment = middle.to_lsn.max(lost.at_first_backup.last_lsn()).max(consistent);
        let moved = lost.shop.home().join("middle-fast");
        let mapping = format!("{}={}", lost.tablespace.display(), moved.display());
        let options = ["--lsn", &moment.to_string(), "--action", "promote", "--tablespace", &mapping];
        let mut copy = lost.shop.restore("middle", options);
        copy.start();
        copy.wait_recovered();
        let checked = lost.ledger.check(&copy, Upto::Lsn(moment)).unwrap_or_else(|why| panic!("{why}\n{}", copy.log()));
        assert!(checked.required > 0 && checked.forbidden > 0, "{checked:?}");
    }
}
