//! Chooses the backup and resolves the target to the start of one record.
//!
//! Invariants: the backup's timeline leads to the target's, and the backup is consistent before the stop; what is
//! chosen was walked from the backup's start to the stop. A backup is never chosen by a file's modification time.

use pgkeep_base::{Error, ErrorKind, Lsn, RecoveryTarget, Result, TargetTimeline, TimelineId, WalSegment};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_repo::head::PhysicalHead;

use super::request::RestoreRequest;
use super::unreachable::{BackupEnd, before_first, past_end};
use crate::catalogue::Backup;
use crate::engine::Engine;
use crate::path::heads::{ends_behind, history_meant, leads};
use crate::path::past::{Past, prove};
use crate::path::{Archive, From, LostCopy, Position, Stop, Walked, walk};

/// A backup, the way from it, and the record at which to stop.
#[derive(Debug)]
pub struct Resolved<'a> {
    /// The backup to restore.
    pub backup: &'a Backup,
    /// The walk from it.
    pub walked: Walked,
    /// The last record to replay.
    pub stop: Position,
    /// The history of the timeline that was asked for.
    pub history: TimelineHistory,
}

/// Finds backup and stop.
///
/// # Errors
/// `Refused` where the target can't be reached, with the nearest moments that can.
pub async fn resolve<'a>(
    engine: &Engine,
    archive: &Archive,
    backups: &[&'a Backup],
    request: &RestoreRequest,
) -> Result<Resolved<'a>> {
    let history = target_history(archive, backups, request)?;
    let oldest = end_of(engine, archive, oldest(archive, backups, &history)).await?;
    let candidates = candidates(archive, backups, &history, request)?;
    let target = &request.target;
    // A way that ends says more than a backup that begins behind the target.
    let (mut blocked, mut unfit) = (None, None);
    for (index, backup) in candidates.iter().enumerate() {
        let (from, target) = (from(backup)?, target.clone());
        let walked = walk(engine, archive, from, &history, target, request.exclusive).await?;
        let target = &request.target;
        if let Some(lost) = walked.search.lost_copy() {
            unfit.get_or_insert(lost_copy(backup, lost));
            continue;
        }
        match walked.stop() {
            Some(Stop::At(stop)) if !is_known_behind(archive, backups, &history, &walked) => {
                let mut resolved = cut(backup, walked, stop, history);
                note_past(engine, archive, &mut resolved).await?;
                return Ok(resolved);
            }
            Some(Stop::BeforeConsistency) => {
                unfit.get_or_insert_with(|| not_found(target, &walked, oldest.as_ref()));
            }
            None if is_to_be_sought(target, &walked) && index + 1 < candidates.len() => {
                unfit.get_or_insert_with(|| not_found(target, &walked, oldest.as_ref()));
            }
            Some(Stop::At(_)) | None => {
                let next = end_of(engine, archive, next_backup(archive, backups, &history, &walked)).await?;
                blocked.get_or_insert_with(|| past_end(target, &walked, next.as_ref()));
                if !may_lie_before(target, &walked) {
                    break;
                }
            }
        }
    }
    Err(blocked
        .or(unfit)
        .unwrap_or_else(|| before_first(target, oldest.as_ref())))
}

/// Whether a backup says that there was more behind the end of the archive, where that is what was reached.
fn is_known_behind(archive: &Archive, backups: &[&Backup], history: &TimelineHistory, walked: &Walked) -> bool {
    let end = walked.search.last().map_or(Lsn::INVALID, |last| last.end);
    let heads = backups.iter().filter_map(|backup| physical(backup).ok());
    walked.search.stop().is_none() && ends_behind(&archive.tree, heads, history, end)
}

fn lost_copy(backup: &Backup, lost: LostCopy) -> Error {
    lost.error()
        .during(format!("restore backup {}", backup.head().id))
        .hint("Restore another backup with `--backup ID`; `pgkeep list` shows them.")
}

fn cut<'a>(backup: &'a Backup, mut walked: Walked, stop: Position, history: TimelineHistory) -> Resolved<'a> {
    let last = walked.map.segment_size().number_before(stop.end);
    walked.map.truncate(last);
    Resolved {
        backup,
        walked,
        stop,
        history,
    }
}

/// A stop on an ancestor is the past of the timeline that was asked for, or what is archived can't tell.
async fn note_past(engine: &Engine, archive: &Archive, resolved: &mut Resolved<'_>) -> Result<()> {
    let (history, stop) = (&resolved.history, resolved.stop.record);
    let (own, wanted) = (history.timeline_at(stop), history.timeline());
    if own == wanted {
        return Ok(());
    }
    if let Past::Unproven(missing) = prove(engine, archive, history, stop).await? {
        resolved.walked.notes.push(format!(
            "WAL segment {missing} between the stop and timeline {wanted} is missing: that timeline {wanted} went on from \
             this state of timeline {own} is not proven"
        ));
    }
    Ok(())
}

/// Targets whose place is known only once they are found.
fn is_looked_for(target: &RecoveryTarget) -> bool {
    matches!(target, RecoveryTarget::Xid(_) | RecoveryTarget::Name(_))
}

/// Whether an older backup may lead to a target that this one could not reach: it never became consistent, and by LSN or
/// by the clock of whoever took it, it does not begin behind the target.
fn may_lie_before(target: &RecoveryTarget, walked: &Walked) -> bool {
    let is_ordered = matches!(target, RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_));
    is_ordered && walked.search.consistent().is_none()
}

/// Whether a target that is not after this backup is looked for from an older one. A name may stand for several restore
/// points: where something is missing, the newest of them may be there, and an older one is not what was asked for.
fn is_to_be_sought(target: &RecoveryTarget, walked: &Walked) -> bool {
    match target {
        RecoveryTarget::Name(_) => walked.end.is_natural(),
        target => is_looked_for(target),
    }
}

fn not_found(target: &RecoveryTarget, walked: &Walked, oldest: Option<&BackupEnd>) -> Error {
    if is_looked_for(target) && walked.search.stop().is_none() && !walked.search.seen_too_early() {
        return past_end(target, walked, None);
    }
    before_first(target, oldest)
}

/// The history of the timeline that was asked for.
fn target_history(archive: &Archive, backups: &[&Backup], request: &RestoreRequest) -> Result<TimelineHistory> {
    let wanted = match request.timeline {
        TargetTimeline::Numbered(timeline) => timeline,
        TargetTimeline::Latest => newest_reachable(archive, backups, request)?,
        TargetTimeline::Current => {
            let backup = backups.iter().rfind(|backup| is_asked_for(backup, request));
            physical(backup.ok_or_else(|| before_first(&request.target, None))?)?.timeline
        }
    };
    let asked_for = backups.iter().filter(|backup| is_asked_for(backup, request));
    let heads = asked_for.filter_map(|backup| physical(backup).ok());
    history_meant(&archive.tree, heads, wanted).ok_or_else(|| {
        let hint = match archive.tree.is_begun_twice(wanted) {
            true => "Name a backup of the server that you mean with `--backup ID`; `pgkeep list` shows them.",
            false => "`pgkeep wal list` shows the timelines that there are.",
        };
        refusal(archive, wanted, format!("timeline {wanted} can't be reached"))
            .detail(archive.why_unexplained(wanted))
            .hint(hint)
    })
}

fn is_asked_for(backup: &Backup, request: &RestoreRequest) -> bool {
    request.backup.as_ref().is_none_or(|id| *id == backup.head().id)
}

/// Where a place did not answer, trying again may help; what is lost, bad or closed to us is refused.
fn refusal(archive: &Archive, timeline: TimelineId, message: String) -> Error {
    let found = archive.bad_histories.iter().find(|(bad, _)| *bad == timeline);
    match found.map(|(_, error)| error.kind()) {
        Some(ErrorKind::Unavailable) => Error::unavailable(message),
        _ => Error::refused(message),
    }
}

/// The newest timeline that some backup leads to.
fn newest_reachable(archive: &Archive, backups: &[&Backup], request: &RestoreRequest) -> Result<TimelineId> {
    let mut newest = None;
    for backup in backups.iter().filter(|backup| is_asked_for(backup, request)) {
        let head = physical(backup)?;
        let mut reached = archive
            .tree
            .timelines()
            .filter(|history| leads(&archive.tree, head, history));
        let reached = reached.next_back().map(TimelineHistory::timeline);
        newest = newest.max(reached.or(Some(head.timeline)));
    }
    if let Some(lost) = archive
        .tree
        .unexplained()
        .filter(|timeline| Some(*timeline) > newest)
        .last()
    {
        return Err(
            refusal(archive, lost, format!("the newest timeline, {lost}, can't be reached"))
                .detail(archive.why_unexplained(lost))
                .hint("Name the timeline with `--timeline N`; `pgkeep wal list` shows them."),
        );
    }
    newest.ok_or_else(|| before_first(&request.target, None))
}

/// The backups to try, best first.
fn candidates<'a>(
    archive: &Archive,
    backups: &[&'a Backup],
    history: &TimelineHistory,
    request: &RestoreRequest,
) -> Result<Vec<&'a Backup>> {
    let mut found = Vec::new();
    for backup in backups.iter().copied() {
        let head = physical(backup)?;
        if is_asked_for(backup, request) && leads(&archive.tree, head, history) && may_precede(backup, head, request) {
            found.push((head.stop_lsn, backup));
        }
    }
    found.sort_by_key(|(stop_lsn, backup)| std::cmp::Reverse((*stop_lsn, backup.head().id.clone())));
    Ok(found.into_iter().map(|(_, backup)| backup).collect())
}

/// False where the backup surely begins after the target. That only sorts out; the walk decides whether the backup is
/// consistent by then: its stop LSN is the *end* of the record that makes it so.
fn may_precede(backup: &Backup, head: &PhysicalHead, request: &RestoreRequest) -> bool {
    match &request.target {
        RecoveryTarget::Lsn(lsn) => head.start_lsn <= *lsn,
        RecoveryTarget::Time(time) => backup.head().started_at <= *time,
        _ => true,
    }
}

fn oldest<'a>(archive: &Archive, backups: &[&'a Backup], history: &TimelineHistory) -> Option<&'a Backup> {
    let leads = |head: &PhysicalHead| leads(&archive.tree, head, history);
    let stop = |backup: &&Backup| physical(backup).map_or(Lsn::INVALID, |head| head.stop_lsn);
    backups
        .iter()
        .copied()
        .filter(|backup| physical(backup).is_ok_and(leads))
        .min_by_key(stop)
}

/// The first backup after the walk's end, which makes moments reachable again.
fn next_backup<'a>(
    archive: &Archive,
    backups: &[&'a Backup],
    history: &TimelineHistory,
    walked: &Walked,
) -> Option<&'a Backup> {
    let end = walked.search.last().map_or(Lsn::INVALID, |last| last.end);
    let behind = backups.iter().copied().filter(|backup| {
        physical(backup).is_ok_and(|head| leads(&archive.tree, head, history) && head.start_lsn >= end)
    });
    behind.min_by_key(|backup| physical(backup).map_or(Lsn(u64::MAX), |head| head.stop_lsn))
}

/// The moment at which a backup is consistent: exact where the facts of its last segment are at hand.
async fn end_of(engine: &Engine, archive: &Archive, backup: Option<&Backup>) -> Result<Option<BackupEnd>> {
    let Some(backup) = backup else { return Ok(None) };
    let head = physical(backup)?;
    let number = archive.segment_size.number_before(head.stop_lsn);
    let mut lsn = head.stop_lsn;
    for content in archive.contents(head.timeline, number) {
        let segment = WalSegment {
            timeline: head.timeline,
            number,
            size: archive.segment_size,
        };
        let facts = archive.facts(engine, segment, content).await;
        let ends = facts.iter().flat_map(|facts| &facts.segment.backup_ends);
        let own = ends.filter(|end| end.start_lsn == head.start_lsn && end.end == head.stop_lsn);
        lsn = own.map(|end| end.record).next().unwrap_or(lsn);
    }
    Ok(Some(BackupEnd {
        backup: backup.head().id.clone(),
        lsn,
        finished_at: backup.head().finished_at,
    }))
}

fn physical(backup: &Backup) -> Result<&PhysicalHead> {
    backup.head().physical()
}

fn from(backup: &Backup) -> Result<From> {
    let head = physical(backup)?;
    let major = pgkeep_base::PgMajor::from_version_num(backup.head().pg_version_num)?;
    Ok(From {
        timeline: head.timeline,
        start_lsn: head.start_lsn,
        stop_lsn: head.stop_lsn,
        major,
    })
}
