//! What a restore left behind: recovery settings that outlived their recovery, and a copy that nobody adopted.
//!
//! Invariant: settings count as left over only while their file still says so, and nothing is removed here: the fix is
//! printed. Who removes them: `pgkeep_pg::settings::finish_recovery` and `adopt`.

use pgkeep_pg::settings::guc::SettingsFile;
use pgkeep_pg::settings::{AUTO_CONF, BlockState, Purpose, RECOVERY_SIGNAL, STANDBY_SIGNAL, find_block, keeps_silent};

use super::ask::{Answers, Asked, DataDirectory, RecoverySetting, unasked};
use super::findings::{Findings, Verdict};

/// Looks at the settings file and at what the server says.
pub fn check(one: &Asked, findings: &mut Findings) {
    let Ok(answers) = &one.answers else {
        return findings.put_all(&["leftover-recovery", "unadopted-restore"], &unasked());
    };
    findings.put("leftover-recovery", judge_recovery(answers, one.here()));
    findings.put(
        "unadopted-restore",
        match one.here() {
            Some(_) => judge_adoption(one),
            None => Verdict::skip("the settings files are not at hand"),
        },
    );
}

/// True for a restored copy that pgkeep keeps from archiving.
pub fn is_unadopted(one: &Asked) -> bool {
    let Some(Ok(content)) = one.here().map(|directory| &directory.auto_conf) else {
        return false;
    };
    keeps_silent(content)
}

fn judge_recovery(answers: &Answers, here: Option<&DataDirectory>) -> Verdict {
    if answers.in_recovery {
        return Verdict::skip("the server is in recovery");
    }
    let mut left = here.map(left_in).unwrap_or_default();
    match &answers.recovery_settings {
        Ok(settings) => left.extend(settings.iter().filter(|setting| stands(setting)).map(|setting| Left {
            what: format!("{} = '{}' is still set", setting.name, setting.value),
            fix: reset(setting),
        })),
        Err(error) if left.is_empty() => return Verdict::untold(error, "See PostgreSQL's log."),
        Err(_) => {}
    }
    if left.is_empty() {
        return Verdict::pass("none");
    }
    let join = |part: fn(&Left) -> &str| left.iter().map(part).collect::<Vec<_>>().join("; ");
    let evidence = join(|left| &left.what);
    Verdict::warn(
        format!("{evidence}; a standby made from this server would stop at the old target"),
        join(|left| &left.fix),
    )
}

/// Something that outlived its recovery.
struct Left {
    what: String,
    fix: String,
}

/// Signal files, and pgkeep's own block of recovery settings.
fn left_in(directory: &DataDirectory) -> Vec<Left> {
    let path = &directory.path;
    let signals = [RECOVERY_SIGNAL, STANDBY_SIGNAL].map(|signal| (signal, path.join(signal)));
    let there = signals.into_iter().filter(|(_, path)| path.exists());
    let mut left: Vec<Left> = there
        .map(|(signal, path)| Left {
            what: format!("{signal} is there: the next start would recover again"),
            fix: format!("rm {}", path.display()),
        })
        .collect();
    let block = directory
        .auto_conf
        .as_ref()
        .map(|content| find_block(content, Purpose::Recovery).state);
    if matches!(block, Ok(BlockState::Intact | BlockState::Altered)) {
        left.push(Left {
            what: "pgkeep's recovery settings are still in postgresql.auto.conf".to_owned(),
            fix: format!("pgkeep wal finish-recovery {}", path.display()),
        });
    }
    left
}

/// The server shows the target of its last start until the next one: the file tells whether it is still there.
fn stands(setting: &RecoverySetting) -> bool {
    let Some(content) = setting.file.as_ref().and_then(|file| std::fs::read(file).ok()) else {
        return false;
    };
    let block = find_block(&content, Purpose::Recovery);
    let ours = block.settings.iter().any(|ours| ours.name == setting.name);
    !ours
        && SettingsFile::parse(&content)
            .get(&setting.name)
            .is_some_and(|found| !found.value.is_empty())
}

fn reset(setting: &RecoverySetting) -> String {
    match &setting.file {
        Some(file) if !file.ends_with(AUTO_CONF) => format!("remove {} from {}", setting.name, file.display()),
        _ => format!("ALTER SYSTEM RESET {};", setting.name),
    }
}

fn judge_adoption(one: &Asked) -> Verdict {
    match one.here() {
        Some(directory) if is_unadopted(one) => Verdict::fail(
            "this is a restored copy, and it does not archive: what happens in it can't be restored",
            format!("pgkeep adopt {}", directory.path.display()),
        ),
        _ => Verdict::pass("not a restored copy, or adopted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_stands_only_while_its_file_says_so() {
        let path = std::env::temp_dir().join(format!("pgkeep-doctor-target-{}", std::process::id()));
        let setting = RecoverySetting {
            name: "recovery_target_lsn".to_owned(),
            value: "0/1".to_owned(),
            file: Some(path.clone()),
        };
        assert!(!stands(&setting), "no file");
        for (content, expected) in [
            ("recovery_target_lsn = '0/1'\n", true),
            ("recovery_target_lsn = ''\n", false),
            ("", false),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(stands(&setting), expected, "{content}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(reset(&setting).starts_with("remove recovery_target_lsn from /"));
    }
}
