//! What a restore left behind: recovery settings that outlived their recovery, and a copy that nobody adopted.

use pgkeep_pg::settings::{BlockState, Purpose, RECOVERY_SIGNAL, STANDBY_SIGNAL, find_block};

use super::ask::{Answers, Asked, DataDirectory, unasked};
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

fn keeps_silent(auto_conf: &[u8]) -> bool {
    let block = find_block(auto_conf, Purpose::Archive);
    let off = block
        .settings
        .iter()
        .any(|setting| setting.name == "archive_mode" && setting.text() == "off");
    block.state != BlockState::Absent && off
}

fn judge_recovery(answers: &Answers, here: Option<&DataDirectory>) -> Verdict {
    if answers.in_recovery {
        return Verdict::skip("the server is in recovery");
    }
    let mut left = Vec::new();
    let mut fixes = Vec::new();
    if let Some(directory) = here {
        for signal in [RECOVERY_SIGNAL, STANDBY_SIGNAL] {
            let path = directory.path.join(signal);
            if path.exists() {
                left.push(format!("{signal} is there: the next start would recover again"));
                fixes.push(format!("rm {}", path.display()));
            }
        }
        let block = directory
            .auto_conf
            .as_ref()
            .map(|content| find_block(content, Purpose::Recovery).state);
        if matches!(block, Ok(BlockState::Intact | BlockState::Altered)) {
            left.push("pgkeep's recovery settings are still in postgresql.auto.conf".to_owned());
            fixes.push(
                "Remove the lines from `# BEGIN pgkeep recovery settings` to its END in postgresql.auto.conf (`pgkeep adopt` does), then SELECT pg_reload_conf();".to_owned(),
            );
        }
    }
    match &answers.recovery_settings {
        Ok(settings) if fixes.is_empty() => {
            let targets = settings.iter().filter(|(name, _)| is_target(name));
            for (name, value) in targets {
                left.push(format!("{name} = '{value}'"));
                fixes.push(format!(
                    "ALTER SYSTEM RESET {name}; SELECT pg_reload_conf(); (or in postgresql.conf)"
                ));
            }
        }
        Ok(_) => {}
        Err(error) if left.is_empty() => return Verdict::untold(error, "See PostgreSQL's log."),
        Err(_) => {}
    }
    match left.is_empty() {
        true => Verdict::pass("none"),
        false => {
            let evidence = format!(
                "{}; a standby made from this server would stop at the old target",
                left.join("; ")
            );
            Verdict::warn(evidence, fixes.join("; "))
        }
    }
}

/// Settings that end a recovery; timeline, action and the like do no harm.
fn is_target(name: &str) -> bool {
    [
        "recovery_target",
        "recovery_target_lsn",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
    ]
    .contains(&name)
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
    use pgkeep_base::PgMajor;
    use pgkeep_pg::settings::{ArchiveChoice, with_archive_block};

    #[test]
    fn only_a_block_that_turns_archiving_off_makes_a_copy_unadopted() {
        let block =
            |choice: &ArchiveChoice| with_archive_block(b"work_mem = '1MB'\n", choice, PgMajor::NEWEST).unwrap();
        assert!(keeps_silent(&block(&ArchiveChoice::Off)));
        assert!(!keeps_silent(&block(&ArchiveChoice::On {
            command: "pgkeep wal push %p".into()
        })));
        assert!(!keeps_silent(b"archive_mode = 'off'\n"));
    }
}
