//! Claims about settings files that hold for any bytes.

use pgkeep_base::{Lsn, PgMajor, RecoveryTarget, TargetTimeline};
use proptest::prelude::*;

use super::guc::{Line, SettingsFile, parse_line, quote};
use super::*;

/// Lines that a damaged file could consist of, beside plain noise.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "# BEGIN pgkeep recovery settings: removed at the end of recovery",
        "# END pgkeep recovery settings",
        "pgkeep.recovery_begin = '00000000'",
        "pgkeep.recovery_end = '00000000'",
        "pgkeep.archive_begin = 'x'",
        "# END pgkeep archive settings",
        "recovery_target_xid = '3'",
        "RESTORE_COMMAND 'x'",
        "primary_conninfo = 'host=a'",
        "work_mem = '1MB'",
        "broken",
        "",
    ]);
    prop_oneof![
        4 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(line(), 0..12), any::<bool>()).prop_map(|(lines, ended)| {
        let mut content = lines.join(&b'\n');
        content.extend(ended.then_some(b'\n'));
        content
    })
}

fn some_settings(command: String) -> RecoverySettings {
    RecoverySettings {
        restore_command: command,
        end_command: None,
        target: RecoveryTarget::Lsn(Lsn(1)),
        inclusive: true,
        timeline: TargetTimeline::Current,
        action: TargetAction::Promote,
        standby: None,
        in_place_tablespaces: false,
    }
}

proptest! {
    #[test]
    fn any_value_reads_back_as_it_was_quoted(value in "[^\\x00-\\x1f\\x7f]*") {
        let line = format!("a.b ={}", quote(&value).unwrap());
        let Line::Setting(setting) = parse_line(line.as_bytes()) else { panic!("{line}") };
        prop_assert_eq!(setting.text(), value);
    }

    #[test]
    fn a_block_is_intact_after_whatever_was_inherited(content in content(), command in "[ -~]{0,40}") {
        let settings = some_settings(command.clone());
        let with = with_recovery_block(&content, &settings, PgMajor::NEWEST).unwrap();
        let with = with_archive_block(&with, &ArchiveChoice::Off, PgMajor::NEWEST).unwrap();
        prop_assert_eq!(find_block(&with, Purpose::Recovery).state, BlockState::Intact);
        prop_assert_eq!(find_block(&with, Purpose::Archive).state, BlockState::Intact);
        let read = SettingsFile::parse(&with);
        prop_assert_eq!(read.get("restore_command").unwrap().text(), command);
        prop_assert_eq!(read.get("recovery_target_xid").unwrap().text(), "");
        let again = with_recovery_block(&with, &settings, PgMajor::NEWEST).unwrap();
        let again = with_archive_block(&again, &ArchiveChoice::Off, PgMajor::NEWEST).unwrap();
        prop_assert_eq!(again, with);
    }

    #[test]
    fn a_removed_block_leaves_no_mark_and_no_target(content in content()) {
        let with = with_recovery_block(&content, &some_settings(String::new()), PgMajor::NEWEST).unwrap();
        let without = remove_block(&with, Purpose::Recovery);
        prop_assert_eq!(find_block(&without, Purpose::Recovery).state, BlockState::Absent);
        let read = SettingsFile::parse(&without);
        prop_assert!(RECOVERY_SETTINGS.iter().all(|name| read.get(name).is_none()));
        prop_assert_eq!(remove_block(&without, Purpose::Recovery), without);
    }

    #[test]
    fn what_is_not_pgkeeps_is_kept(lines in prop::collection::vec("[a-z]{1,5} = '[a-z0-9]*'", 0..8)) {
        let content = lines.iter().map(|line| line.clone() + "\n").collect::<String>().into_bytes();
        let with = with_recovery_block(&content, &some_settings(String::new()), PgMajor::NEWEST).unwrap();
        prop_assert_eq!(remove_block(&with, Purpose::Recovery), content);
    }
}
