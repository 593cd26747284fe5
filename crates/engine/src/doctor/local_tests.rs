//! Claims about judging this host.

use super::*;
use crate::doctor::Status;
use std::os::unix::fs::PermissionsExt;

struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("pgkeep-doctor-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn looking_makes_no_state_directory() {
    let scratch = Scratch::new("absent");
    let directory = scratch.0.join("state");
    let recorder = Recorder::open(&directory, None);
    assert_eq!(
        (recorder.verdict.status, recorder.state.is_none()),
        (Status::Pass, true),
        "{:?}",
        recorder.verdict
    );
    assert!(!directory.exists());
}

#[test]
fn a_state_directory_that_others_can_write_is_advice_and_one_of_another_user_fails() {
    let scratch = Scratch::new("mode");
    std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o777)).unwrap();
    let recorder = Recorder::open(&scratch.0, None);
    assert_eq!(
        (recorder.verdict.status, recorder.state.is_some()),
        (Status::Warn, true)
    );
    let server = Who::of(4_000_000, 4_000_000);
    let verdict = Recorder::open(&scratch.0, Some(&server)).verdict;
    assert_eq!(verdict.status, Status::Fail);
    assert_eq!(verdict.fix, format!("chown -R 4000000 {}", scratch.0.display()));
    let me = Who::me();
    let verdict = judge_owner(&scratch.0, &me, None, vec!["state.db".to_owned()]).unwrap();
    assert!(verdict.evidence.contains("state.db"), "{}", verdict.evidence);
}

#[test]
fn a_configuration_that_others_can_change_fails() {
    let file = |mode| PrivateFile {
        path: "/etc/pgkeep/pgkeep.toml".into(),
        mode: Some(mode),
    };
    assert_eq!(judge_config_file(&file(0o664), false).status, Status::Fail);
    assert_eq!(judge_config_file(&file(0o644), false).status, Status::Pass);
    assert_eq!(judge_config_file(&file(0o644), true).status, Status::Warn);
    assert_eq!(judge_config_file(&file(0o640), true).status, Status::Pass);
}

#[test]
fn passwords_are_seen_in_strings_and_in_uris() {
    for connection in ["host=a password=x", "password = x", "postgresql://u:p@h/d"] {
        assert!(holds_password(connection), "{connection}");
    }
    for connection in [
        "",
        "host=a passfile=/x",
        "postgresql://u@h:5432/d",
        "postgresql:///d?host=/run",
    ] {
        assert!(!holds_password(connection), "{connection}");
    }
}

#[test]
fn another_identifier_under_a_known_name_fails() {
    assert_eq!(judge_lineage(SystemId(7), &[]).status, Status::Pass);
    assert_eq!(
        judge_lineage(SystemId(7), &[SystemId(6), SystemId(7)]).status,
        Status::Pass
    );
    assert_eq!(judge_lineage(SystemId(7), &[SystemId(6)]).status, Status::Fail);
}

#[test]
fn two_clusters_with_one_identifier_fail_unless_one_is_a_standby() {
    let (shop, old): (ClusterName, ClusterName) = ("shop".parse().unwrap(), "old".parse().unwrap());
    let judged = |twins: &[(&ClusterName, bool)], recorded| judge_duplicate(&shop, SystemId(7), twins, recorded).status;
    assert_eq!(judged(&[(&old, false)], None), Status::Fail);
    assert_eq!(judged(&[(&old, true)], None), Status::Warn);
    assert_eq!(judged(&[], Some(&old)), Status::Warn);
    assert_eq!(judged(&[], Some(&shop)), Status::Pass);
    assert_eq!(judged(&[], None), Status::Pass);
}
