//! `backup`, killed and failed at its steps.

use std::time::Instant;

use pgkeep_testkit::faults::points::{self, Fault};
use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, S3Server, seed};

use super::pusher::Kind;
use crate::backup::{backup, digest, listed, out_of_backup_mode, text};
use crate::shop;

/// Steps of the gate's sample.
const SAMPLE: usize = 40;
/// After so many runs that were cut short one is allowed to end.
const UNBROKEN: usize = 5;

/// A cluster that is backed up again and again.
struct Backups {
    shop: Shop,
    /// What is listed, and must stay.
    listed: Vec<String>,
    /// What the table held when the first backup was taken.
    rows: String,
    /// The faults since the last backup that was allowed to end.
    faults: Vec<String>,
    /// Kills that met nobody.
    unmet: usize,
}

impl Backups {
    fn new(kind: Kind) -> Backups {
        let server = S3Server::shared();
        let shop = match kind {
            Kind::Directory | Kind::Directories => shop(17).directory("main"),
            Kind::Bucket => shop(17).s3("main", server, &server.bucket("backups"), "shop", "admin"),
        };
        let shop = shop.start();
        shop.cluster
            .sql("CREATE TABLE t AS SELECT i, md5(i::text) AS content FROM generate_series(1, 30000) i");
        let rows = digest(&shop.cluster, "t");
        let first = text(&backup(&shop, &[])["id"]);
        Backups {
            shop,
            listed: vec![first],
            rows,
            faults: Vec::new(),
            unmet: 0,
        }
    }

    fn context(&self) -> String {
        format!("backups run after each of: {}", self.faults.join(", "))
    }

    /// So that there is something new to be stored.
    fn change(&self) {
        self.shop.cluster.sql(
            "CREATE TABLE IF NOT EXISTS u (i int, content text);
            INSERT INTO u SELECT i, md5(random()::text) FROM generate_series(1, 2000) i",
        );
    }

    /// One run that is cut short, and what must hold then.
    fn fault(&mut self, fault: Fault, point: &str) {
        self.change();
        let output = fault.at(point, self.shop.run(["backup"])).run();
        self.faults.push(format!("{fault:?} at {point}"));
        let context = self.context();
        let now = listed(&self.shop);
        assert!(
            now.starts_with(&self.listed),
            "{context}: listed are {now:?}, not {:?}: {output}",
            self.listed
        );
        match (fault, output.code) {
            // Nothing that the backup needs was hit, or the step did not come up so often this time.
            (_, Some(0)) => {
                assert_eq!(now.len(), self.listed.len() + 1, "{context}: {output}");
                self.unmet += usize::from(fault == Fault::Kill);
            }
            (Fault::Kill, code) => assert_eq!((code, output.signal), (None, Some(9)), "{context}: {output}"),
            (_, code) => assert!(matches!(code, Some(1..=8)), "{context}: {output}"),
        }
        out_of_backup_mode(&self.shop.cluster);
        // Cut short after its head was written, it exists, and must be as good as any.
        if now.len() > self.listed.len() {
            self.check_last(&now);
        }
        self.listed = now;
    }

    /// Run once more, undisturbed.
    fn complete(&mut self) {
        let output = self.shop.run(["backup"]).run();
        assert_eq!(output.code, Some(0), "{}: {output}", self.context());
        let now = listed(&self.shop);
        assert_eq!(now.len(), self.listed.len() + 1, "{}: {output}", self.context());
        self.check_last(&now);
        self.listed = now;
        self.faults.clear();
    }

    /// All that the newest backup names is there: a restore reads and verifies it.
    fn check_last(&self, listed: &[String]) {
        let id = listed.last().expect("at least one is listed");
        let target = self.shop.target("checked");
        let restore = self
            .shop
            .run(["restore", "--backup", id, "--immediate", "--into"])
            .arg(&target)
            .run();
        assert_eq!(restore.code, Some(0), "{}: backup {id}: {restore}", self.context());
        std::fs::remove_dir_all(target).unwrap();
    }

    /// The first and the last of all backups hold what they must, by PostgreSQL's own word.
    fn check_by_postgresql(&self) {
        let last = self.listed.last().expect("the first is listed");
        for id in [&self.listed[0], last] {
            let mut copy = self.started(id);
            assert_eq!(digest(&copy, "t"), self.rows, "{id}");
            copy.stop(pgkeep_testkit::StopMode::Immediate);
        }
    }

    fn started(&self, id: &str) -> Cluster {
        let mut copy = self
            .shop
            .restore(id, ["--backup", id, "--immediate", "--action", "promote"]);
        copy.start();
        copy.wait_recovered();
        copy
    }

    fn points(&self) -> Vec<String> {
        self.change();
        let (output, points) = points::trace(self.shop.run(["backup"]));
        output.ok();
        points
    }
}

fn every_point(mut backups: Backups, choose: impl Fn(&[String]) -> Vec<String>, faults: &[Fault]) {
    let points = choose(&backups.points());
    backups.listed = listed(&backups.shop);
    let begun = Instant::now();
    for (number, (point, fault)) in points.iter().zip(faults.iter().cycle()).enumerate() {
        backups.fault(*fault, point);
        if number % UNBROKEN == UNBROKEN - 1 {
            backups.complete();
        }
    }
    backups.complete();
    backups.check_by_postgresql();
    let seconds = begun.elapsed().as_secs_f32();
    let (count, unmet) = (points.len(), backups.unmet);
    eprintln!("{count} backups cut short with {faults:?}, {unmet} kills met nobody, in {seconds:.1} s");
    assert!(unmet * 10 <= count, "{unmet} kills of {count} faults met nobody");
}

/// Aim: a backup that is killed or fails at any step is not listed (unless its head was written: then it is whole),
/// leaves the server out of backup mode and all earlier backups as they were, and does not keep the next from ending.
/// With --all every step, at up to 16 of its occurrences, once for each kind of fault and each kind of place.
#[test]
fn a_backup_cut_short_at_its_steps_leaves_nothing_but_what_can_be_reused() {
    if seed::all() {
        for kind in [Kind::Directories, Kind::Bucket] {
            every_point(Backups::new(kind), points::every_step, &[Fault::Kill]);
            every_point(Backups::new(kind), points::every_step, &[Fault::Eio, Fault::Enospc]);
        }
        return;
    }
    let seed = seed::seed("steps of a backup");
    let faults = [Fault::Kill, Fault::Eio, Fault::Kill, Fault::Enospc];
    every_point(
        Backups::new(Kind::Directories),
        |points| points::sample(points, seed, SAMPLE),
        &faults,
    );
}
