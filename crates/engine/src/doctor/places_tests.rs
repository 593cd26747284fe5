//! Claims about judging places.

use super::*;
use crate::doctor::Status;

fn probed(create_only: bool, deleted: Result<()>) -> Result<Probe> {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    Ok(Probe {
        create_only,
        clocks: Some((now, Timestamp::from_second(1_800_000_090).unwrap())),
        deleted,
    })
}

#[test]
fn what_was_not_probed_is_skipped_and_says_how_to_probe() {
    for verdict in [
        judge_create_only(None),
        judge_delete(None, false, true),
        judge_clock(None),
    ] {
        assert_eq!(verdict.status, Status::Skip);
        assert!(
            verdict.evidence.contains("pgkeep doctor --probe"),
            "{}",
            verdict.evidence
        );
    }
}

#[test]
fn a_database_host_that_may_delete_is_advised_and_one_that_may_not_passes() {
    let may = probed(true, Ok(()));
    let denied = probed(true, Err(Error::denied("AccessDenied")));
    assert_eq!(judge_delete(Some(&may), false, true).status, Status::Warn);
    assert_eq!(judge_delete(Some(&may), false, false).status, Status::Pass);
    assert_eq!(judge_delete(Some(&denied), false, true).status, Status::Pass);
    assert_eq!(judge_delete(Some(&may), true, true).status, Status::Skip);
}

#[test]
fn a_store_that_overwrites_and_a_clock_that_is_off_are_advice() {
    let probe = probed(false, Ok(()));
    assert_eq!(judge_create_only(Some(&probe)).status, Status::Warn);
    assert_eq!(judge_clock(Some(&probe)).status, Status::Warn);
    assert_eq!(judge_create_only(Some(&probed(true, Ok(())))).status, Status::Pass);
    assert_eq!(
        judge_create_only(Some(&Err(Error::denied("no")))).status,
        Status::Unknown
    );
}

#[test]
fn a_repository_beside_the_database_is_advice_until_there_is_another() {
    let here = std::env::temp_dir();
    assert_eq!(judge_apart(&here, &[], None).status, Status::Skip);
    let shared = judge_apart(&here, &[&here], None);
    assert_eq!(shared.status, Status::Warn);
    assert!(shared.evidence.contains("same file system"), "{}", shared.evidence);
    assert_eq!(judge_apart(&here, &[&here], Some("offsite")).status, Status::Pass);
    assert_eq!(judge_apart(&here, &[Path::new("/proc")], None).status, Status::Warn);
    assert_eq!(
        judge_apart(Path::new("/nowhere/at/all"), &[&here], None).status,
        Status::Unknown
    );
}
