//! The whole binary behind networks and servers that fail: push, backup, restore and recovery under each fault.
//!
//! Invariants under test: success is reported only for what the server confirmed; what is restored is right or nothing;
//! every command ends in bounded time with a code of the contract; and when the fault is over, all goes on by itself.
//! `answers` is about what an S3 server says, `listings` about what it says there is, `bytes` about connections. What each single answer means to the store is
//! tested in its own room (`store/tests/it/faults.rs`).

mod answers;
mod bytes;
mod listings;

use std::time::Duration;

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::oracle::Oracle;
use pgkeep_testkit::{Bucket, Cluster, Ledger, Op, Output, Run, S3Fault, S3Proxy, S3Server, StopMode, Upto};

use crate::backup::backup;
use crate::shop;

/// No command here may take longer, whatever the network does: its patience is configured to be short.
const BOUND: Duration = Duration::from_secs(45);
/// That patience.
const IMPATIENT: &str = "retries = 3\nretry_timeout_s = 5\nprogress_timeout_s = 1\nconnect_timeout_s = 1\n";

/// An installation on S3 behind a proxy, and the bucket as it really is.
struct Behind {
    shop: Shop,
    bucket: Bucket,
    proxy: S3Proxy,
}

/// A new one, for PostgreSQL 17, with an archiver that works.
fn behind(seed: u64) -> Behind {
    let server = S3Server::shared();
    let bucket = server.bucket("network");
    let proxy = S3Proxy::start(server, seed);
    let shop = shop(17)
        .s3_at("main", &proxy.endpoint(), &bucket, "wo/shop", "admin")
        .start();
    shop.reconfigure("allow_http = true\n", &format!("allow_http = true\n{IMPATIENT}"));
    Behind { shop, bucket, proxy }
}

/// A program that may take as long as it may take here, and not longer.
fn bounded(run: Run) -> Output {
    run.limit(BOUND).run()
}

/// A program that doesn't give up before a failure passes, however unlucky it is.
fn patient(run: Run) -> Output {
    let run = run.env("PGKEEP_REPOSITORY__MAIN__RETRIES", "30");
    bounded(run.env("PGKEEP_REPOSITORY__MAIN__RETRY_TIMEOUT_S", "40"))
}

/// Faults that suit one kind of request.
fn suiting(faults: &[S3Fault], op: Op) -> impl Iterator<Item = S3Fault> {
    faults.iter().copied().filter(move |fault| fault.suits(op))
}

impl Behind {
    fn pgkeep<const N: usize>(&self, args: [&str; N]) -> Output {
        bounded(self.shop.run(args))
    }

    /// Names of the stored objects of a WAL file.
    fn stored(&self, file: &str) -> Vec<String> {
        let names = self.bucket.list("wo/shop/wal/");
        names
            .into_iter()
            .filter(|name| name.contains(&format!("/{file}-")))
            .collect()
    }

    /// Restores and recovers, and holds the result against the ledger.
    #[track_caller]
    fn check_restore(&self, name: &str, options: &[&str], ledger: &Ledger, upto: Upto) -> Cluster {
        let mut restored = self.shop.restore(name, options);
        restored.start();
        restored.wait_recovered();
        ledger.check(&restored, upto).unwrap();
        restored
    }

    /// Nothing was ever overwritten or deleted, and faults really happened.
    #[track_caller]
    fn check_account(&self) {
        let account = self.proxy.account();
        assert_eq!(account.overwritten, Vec::<String>::new());
        // Creating the repository tries out whether names can be taken twice, and removes what it tried with.
        let deleted = account
            .deleted
            .iter()
            .filter(|name| !name.contains("/control/create-only-"));
        assert_eq!(deleted.collect::<Vec<_>>(), Vec::<&String>::new());
        assert!(!account.faults.is_empty(), "{account:?}");
    }
}

/// A repository with two backups and a dozen segments under load, whose source has stopped.
fn archived(seed: u64) -> (Behind, Ledger) {
    let mut behind = behind(seed);
    let oracle = Oracle::builder(&behind.shop.cluster).writers(2).seed(seed).start();
    oracle.wait_for(50);
    backup(&behind.shop, &[]);
    for _ in 0..6 {
        oracle.wait_for(20);
        behind.shop.cluster.archive_all();
    }
    backup(&behind.shop, &[]);
    for _ in 0..6 {
        oracle.wait_for(20);
        behind.shop.cluster.archive_all();
    }
    let ledger = oracle.stop();
    behind.shop.cluster.archive_all();
    behind.shop.cluster.stop(StopMode::Immediate);
    (behind, ledger)
}

/// A restore that is refused leaves nothing that can be started; one that is not arrives at all that was committed.
#[track_caller]
fn check_right_or_refused(behind: &Behind, ledger: &Ledger, name: &str) {
    let target = behind.shop.target(name);
    let output = bounded(behind.shop.run(["restore", "--latest", "--into"]).arg(&target));
    if output.code == Some(0) {
        let mut restored = Cluster::adopt_dir(17, &target);
        restored.start();
        restored.wait_recovered();
        ledger
            .check(&restored, Upto::All)
            .unwrap_or_else(|wrong| panic!("{name}: {wrong}\n{output}"));
    } else {
        assert!(matches!(output.code, Some(4 | 7 | 8)), "{name}: {output}");
        assert!(!target.join("global/pg_control").exists(), "{name}: {output}");
    }
    if target.exists() {
        std::fs::remove_dir_all(&target).unwrap();
    }
}
