//! Which backup is the newest, whatever the clocks said when they were taken.

use pgkeep_base::SystemId;
use pgkeep_repo::digest::Digest;
use pgkeep_repo::head::HeadKind;
use pgkeep_repo::sign::SigningKey;

use super::*;
use crate::restore::files::fixture;

const OLD: u64 = 7;
const NEW: u64 = 8;

/// A backup that the clock of its host said to be finished at a second of a day.
fn backup(system_identifier: u64, timeline: u32, stop_lsn: u64, second: i64) -> Backup {
    let mut head = fixture::head();
    let began = head.finished_at;
    head.system_identifier = SystemId(system_identifier);
    head.finished_at = began + jiff::SignedDuration::from_secs(second);
    head.id = BackupId::new(head.finished_at);
    let HeadKind::Physical(physical) = &mut head.kind else {
        unreachable!("made so")
    };
    physical.timeline = TimelineId::new(timeline).unwrap();
    physical.stop_lsn = Lsn(stop_lsn);
    let verified = VerifiedHead {
        head,
        blake3: Digest::of(b""),
        signer: SigningKey::generate().unwrap().fingerprint(),
        trusted: true,
    };
    let places = vec!["main".to_owned()];
    Backup { verified, places }
}

fn id(backup: Option<&Backup>) -> Option<BackupId> {
    backup.map(|backup| backup.head().id.clone())
}

/// Aim: within a lineage WAL tells, between timelines, too. Issue: after a clock that ran an hour ahead was set back, the
/// last backup before a restore passed for newer than those of the restored cluster.
#[test]
fn the_newest_backup_is_on_the_newest_timeline_whatever_the_clock_says() {
    let ahead = backup(OLD, 1, 0x500, 3600);
    let fork = backup(OLD, 2, 0x400, 10);
    let last = backup(OLD, 2, 0x600, 5);
    for order in [[&ahead, &fork, &last], [&last, &fork, &ahead], [&fork, &last, &ahead]] {
        assert_eq!(id(newest(order)), id(Some(&last)));
        let catalogue = Catalogue {
            backups: order.map(Clone::clone).to_vec(),
            bad: vec![],
        };
        assert_eq!(id(catalogue.newest()), id(Some(&last)));
        let sorted = catalogue.physical(&last.head().lineage());
        let sorted: Vec<_> = sorted.into_iter().map(|backup| id(Some(backup))).collect();
        assert_eq!(sorted, [&ahead, &fork, &last].map(|backup| id(Some(backup))));
    }
}

/// Aim: which lineage came after which is told by the heads that say so, even one of many, and not by a clock that was
/// set back. Where each says to follow the other, the clock remains.
#[test]
fn the_newest_lineage_is_the_one_that_follows() {
    let follows = |mut backup: Backup, before: u64| {
        backup.verified.head.follows = vec![SystemId(before)];
        backup
    };
    let old = backup(OLD, 9, 0x900, 3600);
    let first = follows(backup(NEW, 1, 0x100, 10), OLD);
    let last = backup(NEW, 1, 0x200, 5);
    for order in [[&old, &first, &last], [&last, &first, &old]] {
        assert_eq!(id(newest(order)), id(Some(&last)));
    }
    let circle = follows(old.clone(), NEW);
    assert_eq!(id(newest([&circle, &first])), id(Some(&circle)));
    let mut stranger = first.clone();
    stranger.verified.head.cluster = "other".parse().unwrap();
    assert_eq!(id(newest([&old, &stranger])), id(Some(&old)), "another cluster's");
}

/// Aim: a lineage of which no head can be used is not passed over in silence, unless the one that is taken came after it.
#[test]
fn a_lineage_that_can_not_be_read_may_be_the_newest() {
    let (old, mut new) = (backup(OLD, 1, 0x100, 1), backup(NEW, 1, 0x100, 2));
    let bad = |of: &Backup| BadHead {
        lineage: of.head().lineage(),
        id: of.head().id.clone(),
        error: Error::refused("its signer is not trusted"),
    };
    let unread = |good: &Backup, bad: BadHead| {
        let catalogue = Catalogue {
            backups: vec![good.clone()],
            bad: vec![bad],
        };
        catalogue.unread_beside(&good.head().lineage()).is_some()
    };
    assert!(unread(&old, bad(&new)));
    assert!(unread(&new, bad(&old)), "nothing says that it came after");
    assert!(!unread(&old, bad(&backup(OLD, 1, 0x200, 3))), "its own");
    new.verified.head.follows = vec![SystemId(OLD)];
    assert!(!unread(&new, bad(&old)));
}

/// Aim: a new lineage begins on timeline 1 again, and may be the newest for all that.
#[test]
fn else_the_newest_lineage_is_the_one_with_the_last_backup_by_the_clock() {
    let old = [backup(OLD, 9, 0x900, 10), backup(OLD, 9, 0x800, 20)];
    let new = backup(NEW, 1, 0x100, 30);
    assert_eq!(id(newest(old.iter().chain([&new]))), id(Some(&new)));
    assert_eq!(id(newest(&old)), id(Some(&old[0])));
    assert_eq!(id(newest(&[])), None);
}
