//! The whole story: a cluster under load, a writer that may only create objects, a host that is lost, a restore elsewhere.

use std::thread;
use std::time::Duration;

use pgkeep_testkit::oracle::Oracle;
use pgkeep_testkit::oracle::Upto;
use pgkeep_testkit::{Cluster, S3Server};

use crate::shop;

/// Credentials that the host holds from now on.
fn become_identity(shop: &pgkeep_testkit::fixture::Shop, name: &str) {
    shop.home().file("main.access-key", name);
    shop.home().file("main.secret-key", format!("{name}secret"));
}

/// Aim: whoever has only the repository and the identity gets back exactly what was committed up to the end that the
/// repository advertises.
/// Method: 80 MB (5 GB with `--all`) under pgbench and the oracle, on S3 over credentials that may only PUT, two
/// backups; data directory and state are destroyed; another place with read credentials restores and is audited.
#[test]
fn a_cluster_under_load_survives_the_loss_of_its_host() {
    let all = std::env::var_os("PGKEEP_TEST_ALL").is_some();
    let scale = if all { 340 } else { 5 };
    let server = S3Server::shared();
    let bucket = server.bucket("lost-host");
    let mut shop = shop(17)
        .cluster(|cluster| cluster.segment_mib(16).checksums(true).conf("max_wal_size = 4GB"))
        .s3("main", server, &bucket, "wo/shop", "admin")
        .start();
    become_identity(&shop, "writer");
    shop.cluster
        .program("pgbench")
        .args(["-i", "-q", "-s", &scale.to_string(), "postgres"])
        .limit(Duration::from_secs(900))
        .run()
        .ok();

    let oracle = Oracle::start(&shop.cluster, 4);
    let seconds = if all { "120" } else { "12" };
    let load = shop
        .cluster
        .program("pgbench")
        .args(["-n", "-c", "2", "-T", seconds, "postgres"])
        .limit(Duration::from_secs(400));
    let load = thread::spawn(move || load.run());
    shop.run(["backup"]).limit(Duration::from_secs(900)).run().ok();
    oracle.wait_for(100);
    shop.run(["backup"]).limit(Duration::from_secs(900)).run().ok();
    oracle.wait_for(100);
    load.join().unwrap().ok();
    shop.pgkeep(["mark", "last-known"]).ok();
    shop.cluster.kill9();
    let ledger = oracle.stop();
    std::fs::remove_dir_all(shop.cluster.data_dir()).unwrap();
    std::fs::remove_dir_all(shop.state_dir()).unwrap();

    become_identity(&shop, "restorer");
    let window = shop.pgkeep(["window", "--json"]).ok().json();
    let advertised = window["clusters"][0]["ranges"][0]["to_lsn"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let target = shop.target("elsewhere");
    shop.run(["restore", "--archive", "off", "--into"])
        .arg(&target)
        .limit(Duration::from_secs(900))
        .run()
        .ok();
    let mut restored = Cluster::adopt_dir(17, target);
    restored.start();
    restored.wait_recovered();
    let checked = ledger.check(&restored, Upto::AtLeast(advertised)).unwrap();
    println!(
        "{checked:?} of {} acknowledged commits, {} of data",
        ledger.commits().len(),
        restored.sql("SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database")
    );
    assert!(checked.required >= 200, "{checked:?}");
    restored.check_structure();
    restored.stop(pgkeep_testkit::postgres::StopMode::Fast);
    restored.check_pages();
}
