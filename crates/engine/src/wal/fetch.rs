//! `wal fetch`: gives PostgreSQL one file of the archive, or tells it that there is none.
//!
//! Invariant: the answer follows the table in `answer`; "the archive ends here" is said only where that can't
//! lose data. A file is verified before PostgreSQL sees it under the name that it asked for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgkeep_base::{ClusterName, Error, ErrorKind, Result, TimelineId, WalFile, WalSegment, limits};
use pgkeep_repo::fetch::Unread;
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::wal::{object_name, open_wal_to};
use pgkeep_store::ObjectName;

use super::aim;
use super::answer::{Answer, Asked, Found, answer};
use super::content::Content;
use super::deliver::Delivery;
use super::lineage::{choose_cluster, data_directories_of, system_identifier_near};
use super::local::saved_path;
use super::lookup::{Lookup, Offer, Timelines};
use super::map::{Holder, Planned};
use crate::engine::Engine;
use crate::path::Tree;
use crate::restore::RecoveryPlan;

/// How long a standby waits for a place that doesn't answer: PostgreSQL asks again by itself.
const STANDBY_PATIENCE: Duration = Duration::from_secs(1);

/// What PostgreSQL asked for.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// `%f` of `restore_command`.
    pub name: String,
    /// `%p`, relative to `working_directory` or absolute.
    pub destination: PathBuf,
    /// Where PostgreSQL runs the command: the data directory. (`pg_rewind` runs it elsewhere.)
    pub working_directory: PathBuf,
    /// Answer as for a standby, also without `standby.signal`.
    pub standby: bool,
    /// The cluster, where it can't be told from the data directory.
    pub cluster: Option<ClusterName>,
}

/// The answer, and why it is not the file.
#[derive(Debug)]
pub struct Fetched {
    /// The answer.
    pub answer: Answer,
    /// Why, where the answer is not the file.
    pub why: Option<Error>,
}

/// What was found, with the reason where it is not good.
pub(super) struct Finding {
    pub found: Found,
    pub why: Option<Error>,
}

impl Finding {
    fn good() -> Finding {
        Finding {
            found: Found::Good,
            why: None,
        }
    }

    pub(super) fn absent(what: impl std::fmt::Display) -> Finding {
        Finding {
            found: Found::Absent,
            why: Some(Error::not_found(format!("{what} is not in the archive"))),
        }
    }

    pub(super) fn from_error(error: Error) -> Finding {
        let found = match error.kind() {
            ErrorKind::NotFound => Found::Absent,
            ErrorKind::Corrupt | ErrorKind::Conflict | ErrorKind::Refused | ErrorKind::Unsupported => Found::Bad,
            _ => Found::Unknown,
        };
        Finding {
            found,
            why: Some(error),
        }
    }

    fn unread(why: Unread, name: &ObjectName) -> Finding {
        let found = match &why {
            Unread::Absent => Found::Absent,
            Unread::Bad(_) | Unread::Refused(_) => Found::Bad,
            Unread::Unknown(_) => Found::Unknown,
        };
        Finding {
            found,
            why: Some(why.into_error(name)),
        }
    }
}

/// Answers one request.
///
/// # Errors
/// Whatever keeps it from giving an answer at all; the caller exits with 255, so that PostgreSQL stops.
pub async fn fetch(engine: &Engine, request: &FetchRequest) -> Result<Fetched> {
    let file = WalFile::parse(&request.name).ok_or_else(|| {
        Error::invalid(format!("\"{}\" is not the name of a WAL file", request.name))
            .hint("`restore_command` is `pgkeep wal fetch %f %p`.")
    })?;
    if request.standby || request.working_directory.join("standby.signal").exists() {
        return standby(engine, request, &file).await;
    }
    match RecoveryPlan::in_force(&request.working_directory)? {
        Some(plan) => planned(engine, request, &file, &plan).await,
        None => unplanned(engine, request, &file).await,
    }
}

fn conclude(asked: Asked, finding: Finding) -> Fetched {
    let answer = answer(asked, finding.found);
    let why = (answer != Answer::Served).then_some(finding.why).flatten();
    Fetched { answer, why }
}

async fn planned(engine: &Engine, request: &FetchRequest, file: &WalFile, plan: &RecoveryPlan) -> Result<Fetched> {
    // The plan was made by walking these very contents: who was trusted then need not be asked for each file.
    let trusting = plan.trust.clone().map(|list| engine.trusting(list));
    let engine = trusting.as_ref().unwrap_or(engine);
    let lookup = Lookup::new(engine, plan.lineage.clone(), &request.working_directory);
    if let WalFile::History(timeline) = file {
        if let Some(text) = plan.histories.get(timeline) {
            write_whole(request, text.as_bytes())?;
            return Ok(conclude(Asked::History { named: true }, Finding::good()));
        }
        let (finding, named) = history(&lookup, request, file).await;
        let named = named || plan.unexplained.contains(timeline);
        return Ok(conclude(Asked::History { named }, finding));
    }
    let Some(segment) = file
        .segment(plan.segments.segment_size())
        .filter(|_| matches!(file, WalFile::Segment(_)))
    else {
        return unplanned_file(&lookup, request, file, None).await;
    };
    let asked = relate(plan, segment);
    let finding = match (asked, plan.segments.get(segment.number)) {
        (Asked::Planned, Some(planned)) => serve_planned(&lookup, request, plan, &planned).await?,
        (Asked::BeyondPlan, _) => serve_best(&lookup, request, file).await,
        _ => Finding::absent(format!(
            "segment {segment}, which the recovery plan takes from another timeline,"
        )),
    };
    Ok(conclude(asked, finding))
}

async fn serve_planned(
    lookup: &Lookup<'_>,
    request: &FetchRequest,
    plan: &RecoveryPlan,
    planned: &Planned<'_>,
) -> Result<Finding> {
    let saved = (planned.holder == Holder::Saved).then(|| serve_saved(lookup, request, planned));
    if let Some(found) = &saved
        && found.found == Found::Good
    {
        return Ok(Finding::good());
    }
    let Lineage {
        cluster,
        system_identifier,
    } = &plan.lineage;
    let held_by = planned.holder.file(&planned.segment);
    let name = object_name(cluster, *system_identifier, &held_by, planned.hash)?;
    let archived = serve(lookup, request, &name).await;
    // What was saved may have been archived meanwhile. Where it was not, what is wrong with the saved file counts.
    Ok(match saved {
        Some(saved) if archived.found != Found::Good => saved,
        _ => archived,
    })
}

/// Where a segment lies in relation to the plan.
fn relate(plan: &RecoveryPlan, segment: WalSegment) -> Asked {
    match plan.segments.get(segment.number) {
        Some(planned) if planned.segment.timeline == segment.timeline => Asked::Planned,
        Some(planned) if planned.segment.timeline < segment.timeline => Asked::NewerTimeline,
        None if plan.segments.last().is_some_and(|last| segment.number > last) => Asked::BeyondPlan,
        _ => Asked::OlderTimeline,
    }
}

async fn standby(engine: &Engine, request: &FetchRequest, file: &WalFile) -> Result<Fetched> {
    let directory = data_directory(request);
    let lookup = Lookup::new(engine, lineage_at(engine, request, &directory)?, &directory);
    if let WalFile::History(_) = file {
        let finding = in_time(async { Ok(history(&lookup, request, file).await.0) }).await;
        return Ok(conclude(
            Asked::StandbyHistory,
            finding.unwrap_or_else(Finding::from_error),
        ));
    }
    let asked = |past_fork| Asked::StandbySegment { past_fork };
    // Only what is asked first has a limit: a place that has just answered may take its time to send a segment.
    let offer = in_time(async {
        match past_fork(&lookup, file).await? {
            true => Ok(None),
            false => lookup.offer(file).await.map(Some),
        }
    });
    Ok(match offer.await {
        Ok(None) => conclude(
            asked(true),
            Finding::absent(format!("{file}, which a newer timeline has left,")),
        ),
        Ok(Some(offer)) => conclude(asked(false), serve_offer(&lookup, request, file, offer).await),
        Err(error) => conclude(asked(false), Finding::from_error(error)),
    })
}

/// Gives up after [`STANDBY_PATIENCE`].
async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let outcome = tokio::time::timeout(STANDBY_PATIENCE, work).await;
    outcome.unwrap_or_else(|_| Err(Error::unavailable("the archive did not answer within a second")))
}

/// True if the newest archived descendant leaves the segment's timeline in this segment or before.
async fn past_fork(lookup: &Lookup<'_>, file: &WalFile) -> Result<bool> {
    let Some(timeline) = file.timeline() else {
        return Ok(false);
    };
    let tree = lookup.timelines_above(timeline).await?.complete()?;
    let newest = tree.newest_descendant(timeline);
    let left = tree.history(newest).and_then(|history| history.switch_point(timeline));
    let Some(left) = left else { return Ok(false) };
    let size = lookup.segment_size()?;
    Ok(file
        .segment(size)
        .is_some_and(|segment| segment.number >= size.number_of(left)))
}

async fn unplanned(engine: &Engine, request: &FetchRequest, file: &WalFile) -> Result<Fetched> {
    let directory = data_directory(request);
    let lookup = Lookup::new(engine, lineage_at(engine, request, &directory)?, &directory);
    if matches!(file, WalFile::History(_)) {
        let (finding, named) = history(&lookup, request, file).await;
        return Ok(conclude(Asked::History { named }, finding));
    }
    let tree = match file.timeline() {
        Some(timeline) => Some(lookup.timelines_above(timeline).await.and_then(Timelines::complete)),
        None => None,
    };
    if let (Some(Ok(tree)), WalFile::Segment(_)) = (&tree, file)
        && let Some(segment) = file.segment(lookup.segment_size()?)
        && let Some(why) = aim::past_fork(tree, segment, &request.destination, &request.working_directory)?
    {
        return Ok(conclude(Asked::PastFork, Finding::from_error(why)));
    }
    unplanned_file(&lookup, request, file, tree).await
}

async fn unplanned_file(
    lookup: &Lookup<'_>,
    request: &FetchRequest,
    file: &WalFile,
    tree: Option<Result<Tree>>,
) -> Result<Fetched> {
    let finding = serve_best(lookup, request, file).await;
    if finding.found != Found::Absent {
        return Ok(conclude(Asked::Unplanned { later: true }, finding));
    }
    let later = match tree {
        Some(Ok(tree)) => lookup.goes_on_after(file, &tree).await,
        Some(Err(error)) => Err(error),
        None => Ok(false),
    };
    Ok(match later {
        Ok(later) => conclude(Asked::Unplanned { later }, finding),
        Err(error) => conclude(Asked::Unplanned { later: true }, Finding::from_error(error)),
    })
}

/// Serves a history file; also tells whether anything names its timeline.
async fn history(lookup: &Lookup<'_>, request: &FetchRequest, file: &WalFile) -> (Finding, bool) {
    // The first timeline has no history; PostgreSQL asks for it when it promotes.
    let Some(timeline) = file.timeline().filter(|timeline| *timeline != TimelineId::FIRST) else {
        return (Finding::absent(file), false);
    };
    let mut timelines = match lookup.timelines_above(timeline).await {
        Ok(timelines) => timelines,
        Err(error) => return (Finding::from_error(error), true),
    };
    let known = timelines.tree.history(timeline);
    match known.filter(|history| history.parent().is_some()) {
        Some(history) => match write_whole(request, history.format().as_bytes()) {
            Ok(()) => (Finding::good(), true),
            Err(error) => (undelivered(error), true),
        },
        None => match timelines.take_reason(timeline) {
            Some(why) => (Finding::from_error(why), true),
            None => no_history(file, timeline, timelines),
        },
    }
}

/// Nothing is stored as the history. A newer timeline of which nothing is known may be a descendant.
fn no_history(file: &WalFile, timeline: TimelineId, timelines: Timelines) -> (Finding, bool) {
    match timelines.complete() {
        Ok(tree) => {
            let named = tree.is_named(timeline) || tree.unexplained().next().is_some();
            (Finding::absent(file), named)
        }
        Err(error) => (Finding::from_error(error), true),
    }
}

/// Serves the one content of a name, or the longest of several.
async fn serve_best(lookup: &Lookup<'_>, request: &FetchRequest, file: &WalFile) -> Finding {
    match lookup.offer(file).await {
        Ok(offer) => serve_offer(lookup, request, file, offer).await,
        Err(error) => Finding::from_error(error),
    }
}

async fn serve_offer(lookup: &Lookup<'_>, request: &FetchRequest, file: &WalFile, offer: Offer) -> Finding {
    match offer {
        Offer::One(name) => serve(lookup, request, &name).await,
        Offer::Nothing => Finding::absent(file),
    }
}

/// Writes an object's content to the destination.
async fn serve(lookup: &Lookup<'_>, request: &FetchRequest, name: &ObjectName) -> Finding {
    let mut delivery = match Delivery::begin(&destination(request), &request.working_directory) {
        Ok(delivery) => delivery,
        Err(error) => return undelivered(error),
    };
    let engine = lookup.engine();
    let stores = engine.stores();
    let opener = match engine.opener().await {
        Ok(opener) => opener,
        Err(error) => return Finding::from_error(error),
    };
    let written = open_wal_to(&stores, opener, engine.naming(), name, |bytes| delivery.write(bytes));
    match written.await {
        Ok(_) => delivery.finish().map_or_else(undelivered, |()| Finding::good()),
        Err(why) => Finding::unread(why, name),
    }
}

/// Writes a segment that was saved from the directory that was restored over.
fn serve_saved(lookup: &Lookup<'_>, request: &FetchRequest, planned: &Planned<'_>) -> Finding {
    let path = saved_path(&request.working_directory, planned);
    let mut delivery = match Delivery::begin(&destination(request), &request.working_directory) {
        Ok(delivery) => delivery,
        Err(error) => return undelivered(error),
    };
    match copy_saved(lookup.engine(), &path, planned, &mut delivery) {
        Ok(()) => delivery.finish().map_or_else(undelivered, |()| Finding::good()),
        Err(error) => Finding::from_error(error.during(format!("read {}", path.display()))),
    }
}

/// Hands over what has the hash that the plan names.
fn copy_saved(engine: &Engine, path: &Path, planned: &Planned<'_>, delivery: &mut Delivery) -> Result<()> {
    let content = Content::open(path, &WalFile::Segment(planned.segment.name()))?;
    let source = content.source();
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < source.bytes() {
        let length = (source.bytes() - at).min(limits::CHUNK_BYTES_MAX);
        delivery.write(source.read(at, length as usize, &mut buffer)?)?;
        at += length;
    }
    // Hashed from what was just read or from the same open file; a file that is written to meanwhile is nobody's.
    if engine.naming().digest(source)?.hash == planned.hash {
        return Ok(());
    }
    Err(Error::corrupt(
        "its content is not the one that the recovery plan names",
    ))
}

/// It is there and good, and still PostgreSQL does not get it.
fn undelivered(error: Error) -> Finding {
    Finding {
        found: Found::Unknown,
        why: Some(error),
    }
}

fn destination(request: &FetchRequest) -> PathBuf {
    request.working_directory.join(&request.destination)
}

fn write_whole(request: &FetchRequest, content: &[u8]) -> Result<()> {
    let mut delivery = Delivery::begin(&destination(request), &request.working_directory)?;
    delivery.write(content)?;
    delivery.finish()
}

/// The data directory that the file is for: PostgreSQL runs the command in it, `pg_rewind` names its `pg_wal`.
fn data_directory(request: &FetchRequest) -> PathBuf {
    let mut candidates = data_directories_of(&request.destination, &request.working_directory).into_iter();
    let found = candidates.find(|directory| directory.join("global/pg_control").is_file());
    found.unwrap_or_else(|| request.working_directory.clone())
}

fn lineage_at(engine: &Engine, request: &FetchRequest, data_directory: &Path) -> Result<Lineage> {
    let found = system_identifier_near(&[data_directory.to_owned()]);
    let system_identifier =
        found.ok_or_else(|| {
            Error::invalid("which cluster is being recovered?")
            .detail(format!("there is no readable global/pg_control in {}", data_directory.display()))
            .hint("PostgreSQL runs `restore_command` in the data directory; run `pgkeep wal fetch` by hand there, too.")
        })?;
    let state = engine.state().ok();
    let cluster = choose_cluster(engine, state.as_ref(), request.cluster.as_ref(), system_identifier)?;
    Ok(Lineage {
        cluster,
        system_identifier,
    })
}
