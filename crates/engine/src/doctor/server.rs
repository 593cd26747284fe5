//! The server: does it answer, as what, to whom, where are its files, and is it set up for backups.

use pgkeep_base::{ErrorKind, PgMajor};
use pgkeep_pg::facts::ServerFacts;

use super::access::Who;
use super::ask::{Answers, Asked, DataDirectory, Disk, as_user, restart, unasked};
use super::findings::{Findings, Verdict, hint_or, words};
use super::space::Space;
use crate::engine::Engine;
use pgkeep_base::ByteSize;

const IDENTITY: &[&str] = &[
    "server-version",
    "server-role",
    "role-grants",
    "data-directory",
    "runs-as",
    "system-identifier",
];
const SETTINGS: &[&str] = &[
    "wal-level",
    "full-page-writes",
    "data-checksums",
    "wal-segment-size",
    "pg-wal-space",
];

/// Who answers, and where its files are.
pub fn check(engine: &Engine, one: &Asked, findings: &mut Findings) {
    let answers = match &one.answers {
        Ok(answers) => answers,
        Err(error) if error.kind() == ErrorKind::Unsupported && words(error).contains("PostgreSQL") => {
            findings.put("server-reachable", Verdict::pass("a server answers"));
            findings.put(
                "server-version",
                Verdict::broken(error, "Upgrade the server to PostgreSQL 14 to 18."),
            );
            return findings.put_all(&IDENTITY[1..], &unasked());
        }
        Err(error) => {
            findings.put("server-reachable", Verdict::fail(words(error), reach(one, error)));
            return findings.put_all(IDENTITY, &unasked());
        }
    };
    findings.put("server-reachable", Verdict::pass(answers.place.clone()));
    findings.put("server-version", judge_version(answers));
    findings.put("server-role", judge_role(answers.in_recovery, one));
    findings.put("role-grants", judge_grants(answers));
    findings.put("data-directory", judge_disk(&answers.disk));
    findings.put("runs-as", judge_runs_as(engine, one));
    findings.put("system-identifier", judge_identifier(answers));
}

fn reach(one: &Asked, error: &pgkeep_base::Error) -> String {
    let name = &one.config.name;
    hint_or(
        error,
        &match error.kind() {
            ErrorKind::Denied => format!(
                "Let the role in: a line for it in pg_hba.conf, then `SELECT pg_reload_conf();`; `connection` of [cluster.{name}] says who asks."
            ),
            _ => format!(
                "Start PostgreSQL, or correct `connection` of [cluster.{name}]: `pgkeep config show` prints it."
            ),
        },
    )
}

fn judge_version(answers: &Answers) -> Verdict {
    let minor = answers.version_num % 10_000;
    let (oldest, newest) = (PgMajor::OLDEST, PgMajor::NEWEST);
    Verdict::pass(format!(
        "PostgreSQL {}.{minor}; {oldest} to {newest} are supported",
        answers.major
    ))
}

fn judge_role(in_recovery: bool, one: &Asked) -> Verdict {
    if !in_recovery {
        return Verdict::pass("primary");
    }
    let evidence = "the server is in recovery (a standby, or a restored copy that still replays): backups are taken from the primary";
    Verdict::warn(
        evidence,
        format!(
            "Add `target_session_attrs=primary` and all hosts to `connection` of [cluster.{}], or run pgkeep on the primary's host.",
            one.config.name
        ),
    )
}

fn judge_grants(answers: &Answers) -> Verdict {
    let missing = match &answers.missing_grants {
        Ok(missing) => missing,
        Err(error) => return Verdict::untold(error, "See PostgreSQL's log."),
    };
    if missing.is_empty() {
        let superuser = answers.facts.as_ref().is_ok_and(|facts| facts.is_superuser);
        let also = if superuser {
            " (it is superuser, which is more than it needs)"
        } else {
            ""
        };
        return Verdict::pass(format!("role {} may do all that a backup needs{also}", answers.user));
    }
    let labels: Vec<String> = missing
        .iter()
        .map(|missing| format!("{} (to {})", missing.grant.label(), missing.grant.purpose))
        .collect();
    let sql: Vec<&str> = missing.iter().map(|missing| missing.sql.as_str()).collect();
    Verdict::fail(
        format!("role {} lacks {}", answers.user, labels.join(", ")),
        sql.join(" "),
    )
}

fn judge_disk(disk: &Disk) -> Verdict {
    match disk {
        Disk::Untold => Verdict::unknown(
            "the server did not say where its data directory is",
            "See `role-grants`.",
        ),
        Disk::Elsewhere(path) => Verdict::skip(format!(
            "{} is on another host: run `pgkeep doctor` there, too",
            path.display()
        )),
        Disk::Gone(path, error) => Verdict::fail(
            format!(
                "{} is not on this host, though the connection is local: {}",
                path.display(),
                words(error)
            ),
            "Run pgkeep where the server's files are: in its container, or with the directory mounted at the same path.",
        ),
        Disk::Here(directory) => match &directory.control {
            Ok(_) => Verdict::pass(format!("{} is readable", directory.path.display())),
            Err(error) => Verdict::broken(
                error,
                &format!("Run it as its owner: `{}`.", as_user(&directory.owner, "pgkeep doctor")),
            ),
        },
    }
}

fn judge_runs_as(engine: &Engine, one: &Asked) -> Verdict {
    match one.here() {
        Some(directory) => judge_user(&Who::me(), directory, engine.setup().clusters.len(), one),
        None => Verdict::skip("the data directory is not at hand"),
    }
}

fn judge_user(me: &Who, directory: &DataDirectory, clusters: usize, one: &Asked) -> Verdict {
    let owner = &directory.owner;
    if me.uid == owner.uid {
        return Verdict::pass(format!("{}, who owns the data directory", me.name));
    }
    let name = if clusters > 1 {
        format!(" {}", one.config.name)
    } else {
        String::new()
    };
    let evidence = format!(
        "this runs as {}, the data directory belongs to {}: backups run as its owner",
        me.name, owner.name
    );
    let fix = format!("sudo -u {} pgkeep doctor{name}", owner.name);
    if me.uid == 0 {
        Verdict::warn(evidence, fix)
    } else {
        Verdict::fail(evidence, fix)
    }
}

fn judge_identifier(answers: &Answers) -> Verdict {
    let by_sql = match &answers.system_identifier {
        Ok(id) => id,
        Err(error) => return Verdict::untold(error, "See `role-grants`."),
    };
    let Disk::Here(directory) = &answers.disk else {
        return Verdict::pass(format!("{by_sql} by SQL; the files are not at hand"));
    };
    match &directory.control {
        Ok(control) if control.system_id == *by_sql => Verdict::pass(format!("{by_sql}, by SQL and on disk")),
        Ok(control) => Verdict::fail(
            format!(
                "{by_sql} by SQL, {} in {}: two clusters",
                control.system_id,
                directory.path.display()
            ),
            "Correct the port or socket directory in `connection`: `pgkeep config show` prints it.",
        ),
        Err(_) => Verdict::unknown(
            format!("{by_sql} by SQL; the control file can't be read"),
            "See `data-directory`.",
        ),
    }
}

/// Settings that backups and recovery depend on.
pub fn check_settings(one: &Asked, findings: &mut Findings) {
    let facts = match one.facts_or_verdict() {
        Ok(facts) => facts,
        Err(verdict) => return findings.put_all(SETTINGS, &verdict),
    };
    findings.put(
        "wal-level",
        judge_wal_level(&facts.wal_level, &restart(&facts.data_directory)),
    );
    findings.put("full-page-writes", judge_full_page_writes(facts.full_page_writes));
    findings.put("data-checksums", judge_checksums(facts));
    findings.put("wal-segment-size", judge_segment_size(one, facts));
    findings.put("pg-wal-space", judge_wal_space(one, facts));
}

fn judge_wal_level(level: &str, restart: &str) -> Verdict {
    match level {
        "minimal" => Verdict::fail(
            "wal_level = minimal: WAL lacks what archive recovery needs",
            format!("ALTER SYSTEM SET wal_level = 'replica'; {restart}"),
        ),
        level => Verdict::pass(format!("wal_level = {level}")),
    }
}

fn judge_full_page_writes(on: bool) -> Verdict {
    match on {
        true => Verdict::pass("full_page_writes = on"),
        false => Verdict::warn(
            "full_page_writes = off: a crash can leave torn pages that WAL does not mend (backups switch it on while they run)",
            "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();",
        ),
    }
}

fn judge_checksums(facts: &ServerFacts) -> Verdict {
    match facts.data_checksums {
        true => Verdict::pass("data checksums are on"),
        false => Verdict::warn(
            "data checksums are off: a backup can't tell a page that the disk damaged",
            format!(
                "Stop PostgreSQL, run `pg_checksums --enable -D {}`, start it.",
                facts.data_directory.display()
            ),
        ),
    }
}

fn judge_segment_size(one: &Asked, facts: &ServerFacts) -> Verdict {
    let size = facts.wal_segment_size;
    let shown = ByteSize(size.bytes());
    match one.here().and_then(|directory| directory.control.as_ref().ok()) {
        Some(control) if control.segment_size != size => Verdict::fail(
            format!(
                "{shown} by SQL, {} in the control file",
                ByteSize(control.segment_size.bytes())
            ),
            "See `system-identifier`: the connection and the data directory are of two clusters.",
        ),
        _ => Verdict::pass(shown.to_string()),
    }
}

/// A full `pg_wal` stops the server; WAL that can't be archived stays there.
fn judge_wal_space(one: &Asked, facts: &ServerFacts) -> Verdict {
    let Some(directory) = one.here() else {
        return Verdict::skip("pg_wal is not at hand");
    };
    let pg_wal = directory.path.join("pg_wal");
    let space = match Space::of(&pg_wal) {
        Ok(space) => space,
        Err(error) => return Verdict::unknown(format!("{}: {error}", pg_wal.display()), "See `runs-as`."),
    };
    let segment = facts.wal_segment_size.bytes();
    let wal_max = facts
        .setting("max_wal_size")
        .and_then(|mib| mib.parse().ok())
        .map_or(ByteSize::mib(1024), ByteSize::mib);
    let enough = ByteSize(wal_max.0.max(64 * segment));
    let least = ByteSize((8 * segment).min(enough.0 / 2));
    let fix = "Make room there, or mend archiving (`archiver`): PostgreSQL keeps what is not archived, and stops when the disk is full.";
    space.judge(&pg_wal.display().to_string(), least, enough, fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use pgkeep_base::Error;

    #[test]
    fn settings_that_break_recovery_fail_and_risky_ones_are_advice() {
        let minimal = judge_wal_level("minimal", "then restart");
        assert_eq!(minimal.status, Status::Fail);
        assert_eq!(minimal.fix, "ALTER SYSTEM SET wal_level = 'replica'; then restart");
        assert_eq!(judge_wal_level("logical", "").status, Status::Pass);
        assert_eq!(judge_full_page_writes(false).status, Status::Warn);
    }

    #[test]
    fn files_on_another_host_are_skipped_but_missing_local_ones_fail() {
        assert_eq!(judge_disk(&Disk::Elsewhere("/data".into())).status, Status::Skip);
        assert_eq!(
            judge_disk(&Disk::Gone("/data".into(), Error::not_found("gone"))).status,
            Status::Fail
        );
        assert_eq!(judge_disk(&Disk::Untold).status, Status::Unknown);
    }
}
