//! The places: does each answer, is it this repository, can we write there, and what happens to it when this host burns.
//!
//! Invariant: nothing is written unless the caller allows a probe. "Denied" is what a writer is told on purpose: it
//! makes a check unknown, not failed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use pgkeep_base::{BackupId, ByteSize, Error, ErrorKind, Result};
use pgkeep_repo::genesis::{GENESIS_BYTES_MAX, genesis_name};
use pgkeep_store::{Created, ObjectName, Payload};

use super::access::{Answer, Want, Who};
use super::ask::{Asked, ago};
use super::findings::{Findings, Verdict, hint_or, words};
use super::history::Heads;
use super::local::Recorder;
use super::mounts::{FileSystem, root_of};
use super::space::Space;
use crate::engine::Engine;
use crate::setup::Place;
use crate::state::PushedFile;

const PATIENCE: Duration = Duration::from_secs(20);
/// Clocks further apart than this are worth mending; S3 refuses requests at 15 minutes.
const SKEW_MAX: Duration = Duration::from_secs(60);
const PROBE: &str = "`pgkeep doctor --probe` writes a tiny object to find out";

/// What one place answered.
#[derive(Debug)]
pub struct Answers {
    genesis: Result<Bytes>,
    probe: Option<Result<Probe>>,
}

/// What a tiny object went through.
#[derive(Debug)]
struct Probe {
    create_only: bool,
    /// Our clock when it was written, and the store's.
    clocks: Option<(Timestamp, Timestamp)>,
    deleted: Result<()>,
}

/// Asks all places at once, in their order.
pub async fn ask(engine: &Engine, probe_allowed: bool) -> Vec<Answers> {
    futures::future::join_all(
        engine
            .places()
            .iter()
            .map(|place| ask_one(engine, place, probe_allowed)),
    )
    .await
}

async fn ask_one(engine: &Engine, place: &Place, probe_allowed: bool) -> Answers {
    let genesis = in_time(place.store.read(&genesis_name(), GENESIS_BYTES_MAX)).await;
    let reachable = genesis.as_ref().err().is_none_or(|error| answers(error.kind()));
    let probe = match probe_allowed && reachable {
        true => Some(in_time(probe(engine, place)).await),
        false => None,
    };
    Answers { genesis, probe }
}

async fn in_time<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| Err(Error::unavailable(format!("no answer within {} s", PATIENCE.as_secs()))))
}

/// Kinds of error that only a store that was reached gives.
fn answers(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Corrupt | ErrorKind::Refused
    )
}

async fn probe(engine: &Engine, place: &Place) -> Result<Probe> {
    let store = &place.store;
    let name = ObjectName::new(format!("control/doctor-{}", BackupId::new(engine.now())))?;
    let written_at = engine.now();
    let first = store.create(&name, Payload::from("first")).await?;
    // A retry of a write whose answer was lost is told that the name is taken: that is a proof, too.
    let create_only =
        first == Created::AlreadyThere || store.create(&name, Payload::from("second")).await? == Created::AlreadyThere;
    let modified = store.stat(&name).await.ok().and_then(|object| object.modified);
    let deleted = store.delete(&name).await;
    Ok(Probe {
        create_only,
        clocks: modified.map(|modified| (written_at, modified)),
        deleted,
    })
}

/// Judges every place.
pub fn check(
    engine: &Engine,
    seen: &[Answers],
    recorder: &Recorder,
    asked: &[Asked],
    heads: &[Heads],
    findings: &mut Findings,
) {
    let databases: Vec<&Path> = asked
        .iter()
        .filter_map(Asked::here)
        .map(|directory| directory.path.as_path())
        .collect();
    let server = asked.iter().find_map(Asked::here).map(|directory| &directory.owner);
    let pushed: Vec<PushedFile> = asked.iter().filter_map(|one| last_pushed(recorder, one)).collect();
    for (place, answers) in engine.places().iter().zip(seen) {
        findings.about_place(&place.name);
        let root = root_of(place.store.url());
        let mut put = |id, verdict| findings.put_of_place(place.required, id, verdict);
        let probed = answers.probe.as_ref();
        put("repository-reachable", judge_reachable(place, &answers.genesis));
        put("repository-ours", judge_ours(engine, place, &answers.genesis));
        let by_permission = root.as_deref().map(|root| may_write(root, server));
        put(
            "repository-writable",
            judge_writable(place, probed, by_permission, &pushed, engine.now()),
        );
        put("create-only", judge_create_only(probed));
        put(
            "delete-denied",
            judge_delete(probed, root.is_some(), !databases.is_empty()),
        );
        put("repository-clock", judge_clock(probed));
        let others = engine.places().iter().filter(|other| other.name != place.name);
        let away = others
            .filter(|other| is_away(other))
            .map(|other| other.name.as_str())
            .next();
        put(
            "repository-apart",
            match &root {
                Some(root) => judge_apart(root, &databases, away),
                None => Verdict::pass("not a directory of this host"),
            },
        );
        let largest = heads
            .iter()
            .filter_map(|heads| heads.newest())
            .map(|newest| newest.stored_bytes)
            .max();
        put(
            "repository-space",
            match &root {
                Some(root) => judge_space(root, largest),
                None => Verdict::skip("the store does not tell"),
            },
        );
        put(
            "repository-lagging",
            judge_lagging(place, engine.places().len(), &pushed, heads),
        );
    }
    findings.about_host();
}

fn last_pushed(recorder: &Recorder, one: &Asked) -> Option<PushedFile> {
    let state = recorder.state()?;
    let system_identifier = match one.answers.as_ref().ok().map(|answers| &answers.system_identifier) {
        Some(Ok(id)) => *id,
        _ => state.lineages(&one.config.name).ok()?.pop()?,
    };
    let lineage = pgkeep_repo::lineage::Lineage {
        cluster: one.config.name.clone(),
        system_identifier,
    };
    let timeline = state.newest_pushed_timeline(&lineage).ok()??;
    state.last_pushed_segment(&lineage, timeline).ok()?
}

fn is_away(place: &Place) -> bool {
    root_of(place.store.url()).is_none_or(|root| FileSystem::of(&root).is_some_and(|found| found.remote))
}

fn judge_reachable(place: &Place, genesis: &Result<Bytes>) -> Verdict {
    let url = place.store.url();
    match genesis {
        Ok(_) => Verdict::pass(format!("{url} answers")),
        Err(error) if answers(error.kind()) => Verdict::pass(format!("{url} answers ({})", words(error))),
        Err(error) => {
            let fix = hint_or(
                error,
                &format!(
                    "Correct `url` and credentials of [repository.{}]; `pgkeep store check {url}` tells more.",
                    place.name
                ),
            );
            let evidence = format!("{url}: {}", words(error));
            Verdict::fail(evidence, fix)
        }
    }
}

fn judge_ours(engine: &Engine, place: &Place, genesis: &Result<Bytes>) -> Verdict {
    let create = format!("pgkeep repository create {}", place.name);
    match genesis {
        Ok(bytes) => match engine.opener_of_file().verify_keyless(&genesis_name(), bytes) {
            Ok(_) => Verdict::pass(format!("repository {}", engine.setup().repository.id)),
            Err(error) => Verdict::broken(&error, "Use that repository's own `repository.toml`, or another place."),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Verdict::fail(format!("there is no repository at {}", place.store.url()), create)
        }
        Err(error) if error.kind() == ErrorKind::Denied => Verdict::unknown(
            "these credentials may not read, as befits a writer",
            "Run `pgkeep doctor` where the credentials may list and read; if they should here, correct them.",
        ),
        Err(error) => Verdict::untold(error, "See `repository-reachable`."),
    }
}

/// Whether the server's user may make files below a directory that is a store, looking two levels deep.
fn may_write(root: &Path, server: Option<&Who>) -> Verdict {
    const LOOKED_AT_MAX: usize = 64;
    let me = Who::me();
    let who = server.unwrap_or(&me);
    let below = |directory: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .take(LOOKED_AT_MAX);
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    let first = below(root);
    let second: Vec<PathBuf> = first.iter().flat_map(|directory| below(directory)).collect();
    for directory in std::iter::once(root.to_owned()).chain(first).chain(second) {
        match who.may(&directory, Want::Write) {
            Answer::Yes => {}
            Answer::No(_) => {
                return Verdict::fail(
                    format!(
                        "user {} may not write in {}: a command may have been run once as another user",
                        who.name,
                        directory.display()
                    ),
                    format!("chown -R {} {}", who.name, root.display()),
                );
            }
            Answer::Missing => {
                return Verdict::fail(
                    format!("there is no {}", directory.display()),
                    "Mount it, or see `repository-ours`.",
                );
            }
            Answer::Unknown(why) => return Verdict::unknown(why, format!("sudo -u {} pgkeep doctor", who.name)),
        }
    }
    Verdict::pass(format!("user {} may write in {}", who.name, root.display()))
}

fn judge_writable(
    place: &Place,
    probed: Option<&Result<Probe>>,
    by_permission: Option<Verdict>,
    pushed: &[PushedFile],
    now: Timestamp,
) -> Verdict {
    match probed {
        Some(Ok(_)) => return Verdict::pass("a probe object was written"),
        Some(Err(error)) => {
            let fix = hint_or(
                error,
                &format!("Let these credentials create objects at {}.", place.store.url()),
            );
            return Verdict::fail(words(error), fix);
        }
        None => {}
    }
    if let Some(verdict) = by_permission {
        return verdict;
    }
    let stored = pushed
        .iter()
        .filter(|pushed| pushed.places.contains(&place.name))
        .max_by_key(|pushed| pushed.pushed_at);
    match stored {
        Some(pushed) => Verdict::pass(format!(
            "{} was stored there {}",
            pushed.file,
            ago(now, pushed.pushed_at)
        )),
        None => Verdict::skip(format!("nothing was stored there from this host yet; {PROBE}")),
    }
}

fn judge_create_only(probed: Option<&Result<Probe>>) -> Verdict {
    match probed {
        Some(Ok(probe)) if probe.create_only => Verdict::pass("a second write of the same name was refused"),
        Some(Ok(_)) => Verdict::warn(
            "the store ignores create-only writes (If-None-Match): a stolen writer, or two writers of one name, can replace objects; only signatures would tell",
            "Use a store that honours `If-None-Match` (`pgkeep store check URL` tells), or turn on versioning or object lock there.",
        ),
        Some(Err(_)) => Verdict::unknown("the probe failed", "See `repository-writable`."),
        None => Verdict::skip(format!("not tried: {PROBE}")),
    }
}

fn judge_delete(probed: Option<&Result<Probe>>, directory: bool, database_here: bool) -> Verdict {
    if directory {
        return Verdict::skip("a directory can't deny it to its owner: see `repository-apart`");
    }
    match probed {
        Some(Ok(Probe {
            deleted: Err(error), ..
        })) if error.kind() == ErrorKind::Denied => Verdict::pass("these credentials may not delete"),
        Some(Ok(Probe { deleted: Ok(()), .. })) if database_here => Verdict::warn(
            "the credentials of this database host may delete: who takes it can destroy its backups",
            "Give it credentials with `s3:PutObject` alone, and keep deleting for another host (docs/roles.md); until then, turn on versioning or object lock.",
        ),
        Some(Ok(Probe { deleted: Ok(()), .. })) => {
            Verdict::pass("these credentials may delete, and no configured cluster runs on this host")
        }
        Some(Ok(Probe {
            deleted: Err(error), ..
        })) => Verdict::untold(error, "See `repository-reachable`."),
        Some(Err(_)) => Verdict::unknown("the probe failed", "See `repository-writable`."),
        None => Verdict::skip(format!("not tried: {PROBE}")),
    }
}

fn judge_clock(probed: Option<&Result<Probe>>) -> Verdict {
    let Some(probed) = probed else {
        return Verdict::skip(format!("not compared: {PROBE}"));
    };
    let Some((ours, theirs)) = probed.as_ref().ok().and_then(|probe| probe.clocks) else {
        return Verdict::skip("the store did not tell when the probe was written");
    };
    let apart = ours.duration_since(theirs).as_secs().unsigned_abs();
    let evidence = format!("{apart} s between this host's clock and the store's");
    match apart > SKEW_MAX.as_secs() {
        true => Verdict::warn(evidence, "timedatectl set-ntp true"),
        false => Verdict::pass(evidence),
    }
}

fn judge_apart(root: &Path, databases: &[&Path], away: Option<&str>) -> Verdict {
    const FIX: &str = "Add a repository elsewhere: `[repository.offsite]` with `url = \"s3://BUCKET/PREFIX\"`, then `pgkeep repository create offsite`.";
    let Some(ours) = FileSystem::of(root) else {
        return Verdict::unknown(
            format!("{} can't be looked at", root.display()),
            "See `repository-reachable`.",
        );
    };
    if databases.is_empty() {
        return Verdict::skip("no configured cluster runs on this host");
    }
    let shared = databases
        .iter()
        .find(|path| FileSystem::of(path).is_some_and(|theirs| theirs.device == ours.device));
    match (shared, ours.remote, away) {
        (_, true, _) => Verdict::pass(format!("{} is on a file server", root.display())),
        (_, _, Some(other)) => Verdict::pass(format!(
            "{} is on this host; repository \"{other}\" is elsewhere",
            root.display()
        )),
        (Some(database), ..) => Verdict::warn(
            format!(
                "{} is on the same file system as {}: one disk takes both, and root of this host can read and delete it",
                root.display(),
                database.display()
            ),
            FIX,
        ),
        (None, ..) => Verdict::warn(
            format!(
                "{} is on the database host: neither fire nor theft of the host is covered, and its root can delete it",
                root.display()
            ),
            FIX,
        ),
    }
}

/// The next full backup should fit.
fn judge_space(root: &Path, newest_stored: Option<u64>) -> Verdict {
    let space = match Space::of(root) {
        Ok(space) => space,
        Err(error) => return Verdict::unknown(format!("{}: {error}", root.display()), "See `repository-reachable`."),
    };
    let enough = ByteSize(newest_stored.unwrap_or_default().max(1 << 30));
    space.judge(
        &root.display().to_string(),
        ByteSize::mib(256),
        enough,
        "Make room there, or move the repository to a larger disk and correct `url`.",
    )
}

/// What this host wrote and what the heads say, where one place has less than the others.
fn judge_lagging(place: &Place, places: usize, pushed: &[PushedFile], heads: &[Heads]) -> Verdict {
    if places < 2 {
        return Verdict::skip("there is one repository");
    }
    let lacks = |has: &[String]| !has.is_empty() && !has.contains(&place.name);
    let wal = pushed
        .iter()
        .filter(|pushed| lacks(&pushed.places))
        .map(|pushed| format!("WAL segment {}", pushed.file));
    let newest = heads
        .iter()
        .filter_map(Heads::newest)
        .filter(|newest| newest.complete && lacks(&newest.places));
    let missing: Vec<String> = wal
        .chain(newest.map(|newest| format!("backup {}", newest.id)))
        .collect();
    if missing.is_empty() {
        return Verdict::pass("it has the newest backup and the newest segment that are known here");
    }
    let evidence = format!("it lacks {}", missing.join(", "));
    let fix = "See `repository-reachable`; a new `pgkeep backup` stores everything there that it needs.";
    Verdict::fail(evidence, fix)
}

#[cfg(test)]
#[path = "places_tests.rs"]
mod tests;
