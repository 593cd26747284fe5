//! Archiving: is it on, is the command pgkeep's, can it run, and does WAL arrive.
//!
//! Invariant: an archiver that is killed, or whose command ends above 125, is restarted by PostgreSQL without counting
//! a failure; therefore the age of what waits is judged beside the counters.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::WalSegment;
use pgkeep_base::segment::is_segment_name;
use pgkeep_pg::facts::{ArchiveBacklog, ArchiverFacts, ServerFacts};

use super::Context;
use super::access::{Answer, Want, Who};
use super::ask::{Answers, Asked, DataDirectory, ago, as_user, restart, unasked};
use super::command;
use super::findings::{Findings, Verdict, words};
use super::leftovers::is_unadopted;
use super::local::Recorder;
use crate::engine::Engine;
use crate::state::PushedFile;

const ALL: &[&str] = &[
    "archive-mode",
    "archive-command",
    "archive-command-program",
    "archive-command-files",
    "archive-timeout",
    "archiver",
    "archive-backlog",
    "last-pushed",
];
/// Nothing should wait longer than this.
const WAITING_MAX: Duration = Duration::from_secs(300);
/// More than this many is advice, even when they are young.
const WAITING_MANY: u64 = 16;

/// Judges archiving of one cluster.
pub fn check(engine: &Engine, context: &Context, recorder: &Recorder, one: &Asked, findings: &mut Findings) {
    let Ok(answers) = &one.answers else {
        return findings.put_all(ALL, &unasked());
    };
    let facts = match one.facts_or_verdict() {
        Ok(facts) => facts,
        Err(verdict) => {
            findings.put_all(&ALL[..5], &verdict);
            check_archiver(engine, context, one, answers, findings);
            return findings.put("last-pushed", verdict);
        }
    };
    findings.put("archive-mode", judge_mode(facts, is_unadopted(one), context));
    let command = facts.archive_command.as_deref();
    findings.put("archive-command", judge_command(facts, context));
    findings.put("archive-command-program", judge_program(command, one.here(), context));
    findings.put("archive-command-files", judge_files(engine, context, one.here()));
    let rpo = context.rpo.get(&one.config.name).copied();
    findings.put("archive-timeout", judge_timeout(facts.archive_timeout_seconds, rpo));
    if let Some(verdict) = not_archiving(facts) {
        return findings.put_all(&ALL[5..], &verdict);
    }
    check_archiver(engine, context, one, answers, findings);
    findings.put("last-pushed", last_pushed(engine, recorder, one, facts, answers));
}

/// The archiver's counters and backlog, which any server tells, whatever else it keeps to itself.
fn check_archiver(engine: &Engine, context: &Context, one: &Asked, answers: &Answers, findings: &mut Findings) {
    findings.put(
        "archiver",
        match &answers.archiver {
            Ok(archiver) => judge_archiver(archiver, engine.now(), &retry(context, one, archiver)),
            Err(error) => Verdict::untold(error, "See PostgreSQL's log."),
        },
    );
    findings.put(
        "archive-backlog",
        match &answers.backlog {
            Ok(backlog) => judge_backlog(backlog, engine.now()),
            Err(error) => Verdict::untold(error, "See `role-grants`."),
        },
    );
}

/// Why there is nothing to say of an archiver at work.
fn not_archiving(facts: &ServerFacts) -> Option<Verdict> {
    match facts.archive_mode.as_str() {
        "off" => Some(Verdict::skip("archive_mode is off: see `archive-mode`")),
        "on" if facts.in_recovery => Some(Verdict::skip(
            "a server in recovery archives only with archive_mode = always",
        )),
        _ => None,
    }
}

fn judge_mode(facts: &ServerFacts, unadopted: bool, context: &Context) -> Verdict {
    match facts.archive_mode.as_str() {
        "off" if unadopted => Verdict::fail(
            "archive_mode = off, by the restore that made this copy",
            format!("pgkeep adopt {}", facts.data_directory.display()),
        ),
        "off" if facts.in_recovery => Verdict::warn(
            "archive_mode = off: after a promotion this server would not archive",
            format!("ALTER SYSTEM SET archive_mode = on; {}", restart(&facts.data_directory)),
        ),
        "off" => Verdict::fail(
            "archive_mode = off: no WAL is archived, so only backups taken while it was on can be restored",
            format!(
                "ALTER SYSTEM SET archive_mode = on; {} {}",
                command::setting(&context.archive_command),
                restart(&facts.data_directory)
            ),
        ),
        mode => Verdict::pass(format!("archive_mode = {mode}")),
    }
}

fn judge_command(facts: &ServerFacts, context: &Context) -> Verdict {
    let fix = command::setting(&context.archive_command);
    if let Some(library) = &facts.archive_library {
        return Verdict::fail(
            format!("archive_library = '{library}' archives instead of any archive_command"),
            format!("ALTER SYSTEM SET archive_library = ''; {fix}"),
        );
    }
    match &facts.archive_command {
        None if facts.archive_mode == "off" => Verdict::skip("the server hides it while archive_mode is off"),
        None => Verdict::fail("archive_command is empty: WAL is kept and archived nowhere", fix),
        Some(command) => {
            let config = context.config_file.as_ref().map(|file| file.path.as_path());
            command::judge(command, &context.archive_command, config)
        }
    }
}

/// The program of the command; where that can't be seen, of the command that should be set.
fn judge_program(command: Option<&str>, here: Option<&DataDirectory>, context: &Context) -> Verdict {
    let Some(directory) = here else {
        return Verdict::skip("the server's files are not at hand");
    };
    let in_force = command.map(command::parse).filter(|parsed| parsed.pushes);
    let parsed = in_force.unwrap_or_else(|| command::parse(&context.archive_command));
    let Some(program) = parsed.program.filter(|program| program.is_absolute()) else {
        return Verdict::skip("its path is not absolute: see `archive-command`");
    };
    judge_runnable(&program, &directory.owner)
}

fn judge_runnable(program: &Path, who: &Who) -> Verdict {
    let (shown, name) = (program.display(), &who.name);
    let install = format!("install -m 755 {shown} /usr/local/bin/pgkeep, and name that in archive_command");
    match who.may(program, Want::Run) {
        Answer::Yes => Verdict::pass(format!("user {name} can run {shown}")),
        Answer::Missing => Verdict::fail(
            format!("there is no {shown}"),
            "Install pgkeep there, or name the program that is there in archive_command.",
        ),
        Answer::No(at) if at == program => Verdict::fail(
            format!("user {name} may not run {shown}"),
            format!("chmod a+rx {shown}"),
        ),
        Answer::No(at) => Verdict::fail(
            format!("user {name} can't get to {shown}: {} is closed to it", at.display()),
            install,
        ),
        Answer::Unknown(why) => Verdict::unknown(why, as_user(who, &format!("{shown} --version"))),
    }
}

/// `wal push` runs as the server's user: it must be able to read what the configuration names.
fn judge_files(engine: &Engine, context: &Context, here: Option<&DataDirectory>) -> Verdict {
    let Some(directory) = here else {
        return Verdict::skip("the server's files are not at hand");
    };
    let who = &directory.owner;
    let key = &context.signing_key_file.path;
    let key_wanted = match context.signing_key_file.mode {
        Some(_) => (key.as_path(), Want::Read),
        None => (key.parent().unwrap_or(key), Want::Write),
    };
    let config = context
        .config_file
        .as_ref()
        .map(|file| (file.path.as_path(), Want::Read));
    let state_dir = &engine.setup().state_dir;
    let state = state_dir.exists().then_some((state_dir.as_path(), Want::Write));
    let wanted = config
        .into_iter()
        .chain([(context.repository_file.path.as_path(), Want::Read), key_wanted])
        .chain(state);
    let (mut no, mut unknown, mut fixes) = (Vec::new(), Vec::new(), Vec::new());
    for (path, want) in wanted {
        let verb = if want == Want::Write { "write in" } else { "read" };
        match who.may(path, want) {
            Answer::Yes => {}
            Answer::Missing => no.push(format!("{} is missing", path.display())),
            Answer::No(at) => {
                no.push(format!(
                    "user {} may not {verb} {} ({} is in the way)",
                    who.name,
                    path.display(),
                    at.display()
                ));
                fixes.push(format!("chown {} {}", who.name, path.display()));
            }
            Answer::Unknown(why) => unknown.push(why),
        }
    }
    if !no.is_empty() {
        fixes.push("see who owns them with `ls -l`".to_owned());
        return Verdict::fail(
            format!("`wal push` runs as {}: {}", who.name, no.join("; ")),
            fixes.join("; "),
        );
    }
    match unknown.is_empty() {
        true => Verdict::pass(format!(
            "user {} can read configuration, repository file and signing key",
            who.name
        )),
        false => Verdict::unknown(unknown.join("; "), as_user(who, "pgkeep doctor")),
    }
}

fn judge_timeout(seconds: u32, rpo: Option<Duration>) -> Verdict {
    let setting = |seconds: u64| format!("ALTER SYSTEM SET archive_timeout = '{seconds}s'; SELECT pg_reload_conf();");
    let wanted = rpo.map_or(60, |rpo| rpo.as_secs().clamp(2, 3600) / 2);
    match (seconds, rpo) {
        (0, _) => Verdict::warn(
            "archive_timeout = 0: on a quiet server the last commits wait for a full segment, maybe for days",
            setting(wanted),
        ),
        (seconds, Some(rpo)) if u64::from(seconds) > rpo.as_secs() => Verdict::warn(
            format!(
                "archive_timeout = {seconds} s is longer than the objective (rpo) of {} s",
                rpo.as_secs()
            ),
            setting(wanted),
        ),
        (seconds, None) if seconds > 3600 => Verdict::warn(
            format!("archive_timeout = {seconds} s: that much of the latest work may be lost"),
            setting(wanted),
        ),
        (seconds, _) => Verdict::pass(format!("archive_timeout = {seconds} s")),
    }
}

/// The very command that failed, for a person to run and read.
fn retry(context: &Context, one: &Asked, archiver: &ArchiverFacts) -> String {
    let Some(facts) = one.facts() else {
        return "PostgreSQL's log has what archive_command said.".to_owned();
    };
    let file = archiver
        .last_failed
        .as_ref()
        .map_or("NAME", |failed| failed.file.as_str());
    let command = facts.archive_command.as_deref().unwrap_or(&context.archive_command);
    let command = command
        .replace("%p", &format!("pg_wal/{file}"))
        .replace("%f", file)
        .replace("%%", "%");
    let by_hand = one
        .here()
        .map_or(command.clone(), |directory| as_user(&directory.owner, &command));
    format!("See what it says: `cd {} && {by_hand}`", facts.data_directory.display())
}

fn judge_archiver(archiver: &ArchiverFacts, now: Timestamp, retry: &str) -> Verdict {
    let archived = match &archiver.last_archived {
        Some(event) => format!("{} archived {}", event.file, ago(now, event.at)),
        None => "nothing archived yet".to_owned(),
    };
    match &archiver.last_failed {
        Some(failed) if archiver.is_failing() => Verdict::fail(
            format!(
                "fails on {}, last {}, {} failures; {archived}",
                failed.file,
                ago(now, failed.at),
                archiver.failed_count
            ),
            retry,
        ),
        Some(failed) => Verdict::pass(format!(
            "{archived}; {} earlier failures, the last on {} {}",
            archiver.failed_count,
            failed.file,
            ago(now, failed.at)
        )),
        None if archiver.last_archived.is_none() => Verdict::warn(
            archived,
            "Make WAL move and wait for it: `pgkeep mark doctor`, or take a backup with `pgkeep backup`.",
        ),
        None => Verdict::pass(format!("{archived}; no failure")),
    }
}

fn judge_backlog(backlog: &ArchiveBacklog, now: Timestamp) -> Verdict {
    let Some(oldest) = backlog.oldest else {
        return Verdict::pass("nothing waits for the archiver");
    };
    let evidence = format!(
        "{} files wait for the archiver, the oldest marked {}",
        backlog.waiting,
        ago(now, oldest)
    );
    let late = now.duration_since(oldest).as_secs() > WAITING_MAX.as_secs().cast_signed();
    match (late, backlog.waiting) {
        (true, _) => Verdict::fail(
            evidence,
            "PostgreSQL's log has what archive_command said; a command that is killed or ends above 125 is not counted as a failure. See `archiver`.",
        ),
        (false, waiting) if waiting > WAITING_MANY => Verdict::warn(
            evidence,
            "Archiving is slower than writing: watch it with `pgkeep status`, and look at the network to the repository.",
        ),
        _ => Verdict::pass(evidence),
    }
}

fn last_pushed(engine: &Engine, recorder: &Recorder, one: &Asked, facts: &ServerFacts, answers: &Answers) -> Verdict {
    let lineage = pgkeep_repo::lineage::Lineage {
        cluster: one.config.name.clone(),
        system_identifier: facts.system_identifier,
    };
    let last = match recorder.state() {
        Some(state) => state.last_pushed_segment(&lineage, facts.timeline),
        None if recorder.is_absent() => Ok(None),
        None => return Verdict::unknown("this host's record of pushes can't be read", "See `state-dir`."),
    };
    let last = match last {
        Ok(last) => last,
        Err(error) => return Verdict::unknown(words(&error), "See `state-dir`."),
    };
    let current = WalSegment::at(facts.timeline, facts.wal_lsn, facts.wal_segment_size);
    let archived = answers
        .archiver
        .as_ref()
        .ok()
        .and_then(|archiver| archiver.last_archived.as_ref());
    let archived = archived
        .map(|event| event.file.as_str())
        .filter(|file| is_segment_name(file));
    judge_record(last.as_ref(), current, archived, engine.now())
}

/// Compares what this host pushed with where the server writes, and with what PostgreSQL believes to be archived.
fn judge_record(last: Option<&PushedFile>, current: WalSegment, archived: Option<&str>, now: Timestamp) -> Verdict {
    const ELSEWHERE: &str =
        "See `archive-command`: it may be another command, another configuration or another `state_dir`.";
    let on_timeline = |file: &&str| file.starts_with(&current.timeline.hex());
    let believed = archived
        .filter(on_timeline)
        .and_then(|file| WalSegment::parse(file, current.size));
    let Some(last) = last else {
        return match believed {
            Some(believed) => Verdict::warn(
                format!(
                    "PostgreSQL says that {believed} is archived, but this host's record knows of no push on timeline {}",
                    current.timeline
                ),
                ELSEWHERE,
            ),
            None => Verdict::warn(
                format!("this host's record knows of no push on timeline {}", current.timeline),
                "Make WAL move and wait for it: `pgkeep mark doctor`.",
            ),
        };
    };
    let number = WalSegment::parse(&last.file, current.size).map_or(0, |segment| segment.number);
    let evidence = format!(
        "{} stored {} in {}; the server writes {current}",
        last.file,
        ago(now, last.pushed_at),
        last.places.join(", ")
    );
    match believed {
        Some(believed) if believed.number > number => Verdict::warn(
            format!("{evidence}, and PostgreSQL says that {believed} is archived"),
            ELSEWHERE,
        ),
        _ if number + 2 < current.number => Verdict::warn(
            format!("{evidence}: {} segments behind", current.number - number - 1),
            "See `archiver` and `archive-backlog`.",
        ),
        _ => Verdict::pass(evidence),
    }
}

#[cfg(test)]
#[path = "archiving_tests.rs"]
mod tests;
