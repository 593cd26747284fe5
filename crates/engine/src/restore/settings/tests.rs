//! What stands in a restored directory before its first start.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use pgkeep_base::{Lsn, RecoveryTarget, TargetTimeline, TimelineId};
use pgkeep_pg::settings::{BlockState, Purpose, StandbySettings, TargetAction, find_block};

use super::*;
use crate::restore::files::fixture::Fixture;

fn settings(standby: bool) -> RecoverySettings {
    RecoverySettings {
        restore_command: "/usr/bin/pgkeep wal fetch %f %p".to_owned(),
        end_command: Some("/usr/bin/pgkeep wal finish-recovery".to_owned()),
        target: if standby {
            RecoveryTarget::EndOfWal
        } else {
            RecoveryTarget::Lsn(Lsn(0x300_0060))
        },
        inclusive: true,
        timeline: TargetTimeline::Numbered(TimelineId::FIRST),
        action: TargetAction::Promote,
        standby: standby.then(StandbySettings::default),
        in_place_tablespaces: false,
    }
}

/// A directory as `write_all` has it when it calls.
fn directory(fixture: &Fixture) -> std::path::PathBuf {
    let data = fixture.path("data");
    std::fs::create_dir_all(data.join("global")).unwrap();
    std::fs::create_dir_all(data.join(".pgkeep")).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o750)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&data, Some(65_534), Some(65_534)).unwrap();
    }
    data
}

fn write(fixture: &Fixture, data: &Path, standby: bool) -> Vec<String> {
    let head = fixture.backup().head;
    let major = PgMajor::new(18).unwrap();
    write_settings(data, &settings(standby), &ArchiveChoice::Off, major, None, &head).unwrap()
}

#[test]
fn a_directory_with_its_configuration_gets_blocks_and_a_signal() {
    let fixture = Fixture::new();
    let data = directory(&fixture);
    std::fs::write(data.join("postgresql.conf"), "port = 5433\n").unwrap();
    std::fs::write(data.join("pg_hba.conf"), "local all all trust\n").unwrap();
    let inherited = "work_mem = '8MB'\nrestore_command = 'old'\nprimary_conninfo = 'host=x'\n";
    std::fs::write(data.join(AUTO_CONF), inherited).unwrap();
    std::fs::write(data.join(STANDBY_SIGNAL), "").unwrap();
    std::fs::write(RecoveryPlan::path(&data), "stale").unwrap();
    for _ in 0..2 {
        assert!(write(&fixture, &data, false).is_empty());
        let content = std::fs::read(data.join(AUTO_CONF)).unwrap();
        for purpose in [Purpose::Recovery, Purpose::Archive] {
            assert_eq!(find_block(&content, purpose).state, BlockState::Intact);
        }
        let text = String::from_utf8(content).unwrap();
        assert!(text.starts_with("work_mem = '8MB'\n"), "{text}");
        assert!(!text.contains("old") && !text.contains("host=x"), "{text}");
        assert!(data.join(RECOVERY_SIGNAL).exists() && !data.join(STANDBY_SIGNAL).exists());
        assert!(!RecoveryPlan::path(&data).exists());
    }
    let owner = data.metadata().unwrap().uid();
    for name in [AUTO_CONF, RECOVERY_SIGNAL] {
        let meta = data.join(name).metadata().unwrap();
        assert_eq!(
            (meta.uid(), meta.permissions().mode() & 0o7777),
            (owner, 0o640),
            "{name}"
        );
    }
    assert_eq!(std::fs::read(data.join("postgresql.conf")).unwrap(), b"port = 5433\n");
}

#[test]
fn a_standby_gets_its_own_signal() {
    let fixture = Fixture::new();
    let data = directory(&fixture);
    write(&fixture, &data, false);
    write(&fixture, &data, true);
    assert!(data.join(STANDBY_SIGNAL).exists() && !data.join(RECOVERY_SIGNAL).exists());
}

#[test]
fn a_directory_whose_configuration_was_elsewhere_gets_one() {
    let fixture = Fixture::new();
    let data = directory(&fixture);
    let notes = write(&fixture, &data, false);
    assert_eq!(notes.len(), 2, "{notes:?}");
    let text = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
    assert!(text.contains("20261120T101512Z-"), "{text}");
    assert!(
        std::fs::read_to_string(data.join("pg_hba.conf"))
            .unwrap()
            .contains("peer")
    );
    assert!(write(&fixture, &data, false).is_empty(), "what is there is left alone");
    std::fs::remove_file(data.join("pg_hba.conf")).unwrap();
    let elsewhere =
        "hba_file = '/nowhere/hba'\ninclude_dir = 'conf.d'\ninclude_if_exists = 'x'\nident_file = '/etc/passwd'\n";
    std::fs::write(data.join("postgresql.conf"), elsewhere).unwrap();
    let notes = write(&fixture, &data, false);
    assert!(!data.join("pg_hba.conf").exists(), "it is elsewhere");
    let told: Vec<bool> = ["/nowhere/hba", "conf.d"]
        .iter()
        .zip(&notes)
        .map(|(path, note)| note.contains(path))
        .collect();
    assert_eq!((told, notes.len()), (vec![true; 2], 2), "{notes:?}");
}

/// Aim: the restore's own files can't be led astray by links that a backup brought along or somebody made.
#[test]
fn links_in_the_way_are_replaced_not_followed() {
    let fixture = Fixture::new();
    let data = directory(&fixture);
    let outside = fixture.path("outside");
    std::fs::write(&outside, "untouched").unwrap();
    for name in [RECOVERY_SIGNAL, "postgresql.conf"] {
        std::os::unix::fs::symlink(&outside, data.join(name)).unwrap();
    }
    let head = fixture.backup().head;
    let major = PgMajor::new(18).unwrap();
    let error = write_settings(&data, &settings(false), &ArchiveChoice::Off, major, None, &head).unwrap_err();
    assert!(error.message().contains("postgresql.conf"), "{error}");
    assert!(data.join(RECOVERY_SIGNAL).symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(&outside).unwrap(), b"untouched");
}
