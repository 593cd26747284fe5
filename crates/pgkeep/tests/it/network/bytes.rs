//! Connections that break, stall or crawl: to the store, over TLS, and to PostgreSQL.

use std::time::Duration;

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::oracle::Oracle;
use pgkeep_testkit::{Bucket, S3Server, TcpProxy, Trouble, Upto};

use super::{IMPATIENT, bounded, patient};
use crate::backup::{fill, listed, out_of_backup_mode};
use crate::shop;

/// What ends a connection, early, late, and where only TLS can notice.
const BREAKS: [Trouble; 7] = [
    Trouble::Refuse,
    Trouble::Reset { after: 100 },
    Trouble::Reset { after: 3_000 },
    Trouble::Reset { after: 400_000 },
    Trouble::HalfClose { after: 2_000 },
    Trouble::HalfClose { after: 300_000 },
    Trouble::CutRecord,
];

/// An installation on S3 over TLS, behind a proxy that sees bytes only.
fn behind() -> (Shop, Bucket, TcpProxy) {
    let server = S3Server::shared();
    let bucket = server.bucket("bytes");
    let proxy = TcpProxy::start(server.https_port());
    let endpoint = format!("https://127.0.0.1:{}", proxy.port());
    let shop = shop(17).s3("main", server, &bucket, "wo/shop", "admin").start();
    let ca = shop.home().file("ca.pem", std::fs::read(server.ca_file()).unwrap());
    shop.reconfigure(&server.endpoint(), &endpoint);
    let settings = format!("ca_certificate_file = \"{}\"\n{IMPATIENT}", ca.display());
    shop.reconfigure("allow_http = true\n", &settings);
    fill(&shop.cluster, "filling", 2);
    (shop, bucket, proxy)
}

/// Aim: connections to the store that break a few times, wherever, are made anew, and all that was reported is there.
#[test]
fn broken_connections_to_the_store_are_made_anew() {
    let (shop, _bucket, proxy) = behind();
    let oracle = Oracle::builder(&shop.cluster).writers(2).seed(11).start();
    for trouble in BREAKS {
        let before = proxy.struck();
        proxy.strike(trouble, 3);
        oracle.wait_for(10);
        patient(shop.run(["backup", "--full"])).ok();
        proxy.heal();
        assert!(proxy.struck() > before, "{trouble:?} did not strike");
    }
    let ledger = oracle.stop();
    shop.cluster.archive_all();
    for trouble in BREAKS {
        proxy.strike(trouble, 3);
        let target = shop.target("restored");
        let restore = shop.run(["restore", "--latest", "--into"]).arg(&target);
        patient(restore).ok();
        proxy.heal();
        let mut restored = pgkeep_testkit::Cluster::adopt_dir(17, &target);
        restored.start();
        restored.wait_recovered();
        ledger.check(&restored, Upto::All).unwrap();
        drop(restored);
        std::fs::remove_dir_all(&target).unwrap();
    }
}

/// Aim: a store that stays silent, crawls or breaks every connection ends a push, a backup and a restore with 7 in
/// bounded time; PostgreSQL is out of backup mode, and afterwards all is well by itself.
#[test]
fn a_network_that_stays_bad_ends_commands_in_time() {
    let (mut shop, bucket, proxy) = behind();
    shop.pgkeep(["backup"]).ok();
    shop.cluster.set_conf("archive_command", "");
    let bad = [
        Trouble::BlackHole { after: 0 },
        Trouble::BlackHole { after: 5_000 },
        Trouble::Trickle {
            every: Duration::from_secs(1),
        },
        Trouble::Reset { after: 2_000 },
        Trouble::HalfClose { after: 2_500 },
        Trouble::CutRecord,
        Trouble::Refuse,
    ];
    for trouble in bad {
        let segment = shop.cluster.switch_wal();
        let path = shop.cluster.data_dir().join("pg_wal").join(&segment);
        let push = || {
            bounded(
                shop.run(["wal", "push"])
                    .arg(&path)
                    .env("PGKEEP_REPOSITORY__MAIN__REQUEST_TIMEOUT_S", "6"),
            )
        };
        let bounded = |args: [&str; 2]| bounded(shop.run(args).env("PGKEEP_REPOSITORY__MAIN__REQUEST_TIMEOUT_S", "6"));
        proxy.set(trouble);
        let failed = push().expect(7);
        assert!(failed.stderr.contains(&segment), "{trouble:?}: {failed}");
        bounded(["restore", "--into=/tmp/never-made"]).expect(7);
        let failed = bounded(["backup", "--full"]);
        assert!(matches!(failed.code, Some(4 | 7)), "{trouble:?}: {failed}");
        out_of_backup_mode(&shop.cluster);
        proxy.heal();
        push().ok();
        let names = bucket.list("wo/shop/wal/");
        assert!(
            names.iter().any(|name| name.contains(&segment)),
            "{trouble:?}: {names:?}"
        );
    }
    assert_eq!(listed(&shop).len(), 1);
}

/// Aim: a slow network is slow and nothing else.
#[test]
fn latency_only_takes_time() {
    let (shop, _bucket, proxy) = behind();
    let oracle = Oracle::builder(&shop.cluster).writers(2).seed(12).start();
    proxy.set(Trouble::Latency(Duration::from_millis(30)));
    oracle.wait_for(20);
    bounded(shop.run(["backup"])).ok();
    let ledger = oracle.stop();
    shop.cluster.archive_all();
    let mut restored = shop.restore("restored", ["--latest"]);
    restored.start();
    restored.wait_recovered();
    ledger.check(&restored, Upto::All).unwrap();
}

/// Aim: a connection to PostgreSQL that breaks, wherever in a backup, ends it (7) outside of backup mode, unless the
/// backup was done by then; the next one succeeds.
#[test]
fn a_broken_connection_to_postgresql_ends_a_backup() {
    let shop = shop(17).start();
    fill(&shop.cluster, "filling", 2);
    let proxy = TcpProxy::start(shop.cluster.port());
    let through = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", proxy.port());
    shop.reconfigure(&shop.cluster.conninfo(), &through);
    shop.pgkeep(["backup"]).ok();
    let mut backups = 1;
    let after = [0, 300, 2_000, 6_000, 9_000, 12_000, 15_000];
    let breaks = after
        .map(|after| [Trouble::Reset { after }, Trouble::HalfClose { after }])
        .concat();
    let mut ended = 0;
    for trouble in breaks {
        proxy.set(trouble);
        let output = bounded(shop.run(["backup"]));
        proxy.heal();
        match output.code {
            Some(0) => backups += 1,
            code => {
                assert_eq!(code, Some(7), "{trouble:?}: {output}");
                ended += 1;
            }
        }
        out_of_backup_mode(&shop.cluster);
        assert_eq!(listed(&shop).len(), backups, "{trouble:?}: {output}");
    }
    assert!(
        ended >= 6,
        "only {ended} of {} backups met the trouble",
        after.len() * 2
    );
    shop.pgkeep(["backup"]).ok();
}

/// Aim: a connection to PostgreSQL that goes silent, nothing being said of it, at the start-up, in the midst of a
/// question or while files are read, ends a backup (7) in bounded time, outside of backup mode; the next one succeeds.
/// Method: a black hole around the server, for old connections and new ones; three installations at once.
#[test]
fn a_silent_connection_to_postgresql_ends_a_backup() {
    std::thread::scope(|scope| {
        for after in [0, 2_000, 9_000] {
            scope.spawn(move || silent_after(after));
        }
    });
}

fn silent_after(bytes: u64) {
    let shop = shop(17).start();
    let proxy = TcpProxy::start(shop.cluster.port());
    let through = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=disable",
        proxy.port()
    );
    shop.reconfigure(&shop.cluster.conninfo(), &through);
    proxy.set(Trouble::BlackHole { after: bytes });
    let output = shop.run(["backup"]).limit(Duration::from_secs(120)).run();
    let output = output.expect(7);
    assert!(
        ["has not answered", "did not answer", "no answer within"]
            .iter()
            .any(|words| output.stderr.contains(words)),
        "{output}"
    );
    proxy.heal();
    proxy.cut();
    out_of_backup_mode(&shop.cluster);
    shop.pgkeep(["backup"]).ok();
    assert_eq!(listed(&shop).len(), 1);
}
