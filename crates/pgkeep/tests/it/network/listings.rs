//! Listings that lack what is there, and that name what is not (M20).
//!
//! Invariant under test: a restore never takes what a listing lacks for what never was where anything else proves
//! that it was, and what it restores is exactly what it said that it would.

use pgkeep_base::Lsn;
use pgkeep_testkit::{Cluster, Ledger, Rule, S3Fault, Upto};

use super::{Behind, archived, bounded, check_right_or_refused};
use crate::backup::{listed, text};

/// Names of the segments that are stored, in order.
fn segments(behind: &Behind) -> Vec<String> {
    let names = behind.bucket.list("wo/shop/wal/");
    let files = names.iter().filter_map(|name| name.rsplit('/').next()?.split_once('-'));
    let mut segments: Vec<String> = files
        .map(|(file, _)| file.to_owned())
        .filter(|file| file.len() == 24)
        .collect();
    segments.dedup();
    segments
}

/// Restores what is advertised now: exactly what the plan says must be there.
#[track_caller]
fn check_as_planned(behind: &Behind, ledger: &Ledger, name: &str) -> Lsn {
    let target = behind.shop.target(name);
    let done = bounded(behind.shop.run(["--json", "restore", "--into"]).arg(&target))
        .ok()
        .json();
    let end: Lsn = text(&done["target"]["lsn"]).parse().unwrap();
    let mut restored = Cluster::adopt_dir(17, &target);
    restored.start();
    restored.wait_recovered();
    ledger.check(&restored, Upto::Lsn(end)).unwrap();
    end
}

/// Aim: what a listing lacks is noticed where the rest proves it: a segment between others is refused and named, the
/// newest backup is done without; where nothing can prove it (the very last segment), the plan says where it ends and
/// the restore holds exactly that.
#[test]
fn what_a_listing_lacks_is_not_taken_for_absent() {
    let (behind, ledger) = archived(7);
    let (oldest, segments) = (listed(&behind.shop).remove(0), segments(&behind));
    let whole = check_as_planned(&behind, &ledger, "whole");

    for at in [segments.len() / 2, segments.len() - 2] {
        behind.proxy.rule(Rule::new(S3Fault::MissingEntry).like(&segments[at]));
        let refused = behind
            .pgkeep(["restore", "--into=/tmp/never-made", "--backup", &oldest])
            .expect(4);
        assert!(refused.stderr.contains(&segments[at]), "{refused}");
        behind.proxy.heal();
    }

    behind.proxy.rule(Rule::new(S3Fault::MissingEntry).like("/head"));
    assert_eq!(listed(&behind.shop), [oldest]);
    assert_eq!(check_as_planned(&behind, &ledger, "older-backup"), whole);
    behind.proxy.heal();

    behind
        .proxy
        .rule(Rule::new(S3Fault::MissingEntry).like(&segments[segments.len() - 1]));
    assert!(check_as_planned(&behind, &ledger, "shorter") < whole);
    behind.proxy.heal();
    for kind in ["/packs/", "/backups/"] {
        behind.proxy.rule(Rule::new(S3Fault::MissingEntry).like(kind));
        let before = behind.proxy.faults();
        check_right_or_refused(&behind, &ledger, "other");
        assert!(behind.proxy.faults() > before, "no listing shows {kind}");
        behind.proxy.heal();
    }
    behind.check_account();
}

/// Aim: a name in a listing with nothing behind it spoils no other object: all that was committed is restored, or the
/// restore is refused; nothing that only looks fails.
#[test]
fn ghosts_in_a_listing_are_not_restored() {
    let (behind, ledger) = archived(8);
    let segments = segments(&behind);
    let kinds = [
        "/packs/",
        "/head",
        &segments[segments.len() / 2],
        &segments[segments.len() - 1],
    ];
    for kind in kinds {
        behind.proxy.rule(Rule::new(S3Fault::GhostEntry).like(kind));
        let before = behind.proxy.faults();
        for command in [&["list"][..], &["window"], &["wal", "list"]] {
            bounded(behind.shop.run(command)).ok();
        }
        check_right_or_refused(&behind, &ledger, "ghost");
        assert!(behind.proxy.faults() > before, "no listing shows {kind}");
        behind.proxy.heal();
    }
    behind.check_account();
}
