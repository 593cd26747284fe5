//! The plan of a restore: what is put where, from which backup, and how far recovery goes.
//!
//! Invariant: making it reads and changes nothing; a plan exists only if its target can be reached.

use std::path::PathBuf;

use pgkeep_base::{Error, PgMajor, RecoveryTarget, Result};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::reader::BackupReader;
use pgkeep_repo::sign::TrustList;

use super::layout::{self, Layout, TargetState};
use super::left_behind::{LeftBehind, left_behind};
use super::recovery::RecoveryPlan;
use super::request::RestoreRequest;
use super::resolve::{Resolved, resolve};
use crate::catalogue::{self, Backup, Catalogue, missing_packs};
use crate::engine::Engine;
use crate::path::{Archive, Position};
use crate::window::head_timelines;

/// A restore that can be run.
pub struct RestorePlan {
    /// What was asked for.
    pub request: RestoreRequest,
    /// Whose backup it is.
    pub lineage: Lineage,
    /// The backup to restore.
    pub backup: Backup,
    /// Why this one, in words.
    pub why: String,
    /// Where files go.
    pub layout: Layout,
    /// What the target is now.
    pub target_state: TargetState,
    /// The last record to replay; `None` for a standby, which follows.
    pub stop: Option<Position>,
    /// Time of the last commit or abort that is replayed.
    pub last_finished: Option<jiff::Timestamp>,
    /// Bytes that will be written.
    pub bytes: u64,
    /// Bytes of WAL that will be replayed.
    pub wal_bytes: u64,
    /// Free bytes where the target is; `None` where the system doesn't tell.
    pub free_bytes: Option<u64>,
    /// Commits that an older timeline holds past the point where the path leaves it.
    pub left_behind: Vec<LeftBehind>,
    /// What an operator should read before running it.
    pub notes: Vec<String>,
    /// What `wal fetch` will answer by; `None` for a standby.
    pub recovery: Option<RecoveryPlan>,
    pub(super) reader: BackupReader,
}

impl RestorePlan {
    /// Major of the cluster.
    pub fn major(&self) -> Result<PgMajor> {
        PgMajor::from_version_num(self.backup.head().pg_version_num)
    }
}

/// Plans a restore.
///
/// # Errors
/// `Refused` where the target can't be reached, no identity is at hand, or the directory is not disposable; `NotFound`
/// without a backup; `Unavailable` or `Denied` where a place can't be read.
pub async fn plan(engine: &Engine, request: RestoreRequest) -> Result<RestorePlan> {
    let cluster = engine.setup().cluster(request.cluster.as_ref())?.name.clone();
    need_identity(engine)?;
    let target_state = layout::inspect(&request.into)?;
    let catalogue = catalogue::load(engine, Some(&cluster)).await?;
    let lineage = choose_lineage(&catalogue, &request)?;
    let backups: Vec<&Backup> = catalogue.physical(&lineage).collect();
    let archive = load_archive(engine, &lineage, &backups).await?;
    let asked = as_asked(&request);
    let resolved = resolve(engine, &archive, &backups, &asked).await?;
    let left_behind = left_behind(engine, &archive, &resolved).await?;
    let resolved = aim_at_stop(engine, &archive, &backups, &asked, resolved).await?;

    let backup = resolved.backup.clone();
    let reader =
        BackupReader::of_head(engine.stores(), engine.opener().await?.clone(), backup.verified.clone()).await?;
    refuse_incomplete(engine, &backup).await?;
    let layout = layout::plan(
        &request.into,
        &request.tablespaces,
        resolved.walked.search.tablespaces(),
        &reader,
    )
    .await?;
    let bytes = backup.head().source_bytes;
    let free_bytes = free_everywhere(&layout);
    if let Some(free) = free_bytes.filter(|free| *free < bytes && target_state != TargetState::Unfinished) {
        return Err(no_room(&layout.target, bytes, free));
    }
    let notes = notes(&catalogue, &lineage, &archive, &resolved, &left_behind);
    let why = why(&resolved, &request);
    let wal_bytes = resolved.walked.map.len() * archive.segment_size.bytes();
    let trust = engine.opener().await?.trust().to_list();
    let recovery = (!request.standby).then(|| recovery_plan(&archive, &resolved, trust));
    let (stop, last_finished) = (resolved.stop, resolved.walked.search.last_finished());
    Ok(RestorePlan {
        lineage,
        backup,
        why,
        layout,
        target_state,
        stop: (!request.standby).then_some(stop),
        last_finished,
        bytes,
        wal_bytes,
        free_bytes,
        left_behind,
        notes,
        recovery,
        reader,
        request,
    })
}

/// A backup of which a pack is missing is refused before anything is written.
async fn refuse_incomplete(engine: &Engine, backup: &Backup) -> Result<()> {
    let missing = missing_packs(engine, backup.head()).await?;
    let Some(first) = missing.first() else {
        return Ok(());
    };
    let id = &backup.head().id;
    Err(Error::corrupt(format!(
        "backup {id} can't be restored: {} of its packs are missing",
        missing.len()
    ))
    .detail(format!("{first} is missing or has another length in every repository"))
    .hint("Restore another one with `--backup ID`; `pgkeep list` shows them."))
}

fn need_identity(engine: &Engine) -> Result<()> {
    if engine.has_identity() || engine.sealer().recipients().is_empty() {
        return Ok(());
    }
    Err(Error::refused("there is no identity, so nothing can be decrypted")
        .detail(format!(
            "the repository is sealed to {}",
            engine.sealer().recipients().join(", ")
        ))
        .hint("Name the identity file with `--identity FILE`, PGKEEP_IDENTITY_FILE, or `[restore] identity_file`."))
}

/// A standby is restored from the newest backup that is consistent; it finds its way on by itself.
fn as_asked(request: &RestoreRequest) -> RestoreRequest {
    let mut asked = request.clone();
    if request.standby {
        asked.target = RecoveryTarget::Immediate;
    }
    asked
}

fn choose_lineage(catalogue: &Catalogue, request: &RestoreRequest) -> Result<Lineage> {
    if let Some(id) = &request.backup {
        return Ok(catalogue.get(id)?.head().lineage());
    }
    let physical = catalogue
        .backups
        .iter()
        .filter(|backup| backup.head().physical().is_ok());
    let newest = physical.max_by_key(|backup| backup.head().finished_at);
    newest
        .map(|backup| backup.head().lineage())
        .ok_or_else(|| match catalogue.bad.first() {
            Some(bad) => Error::new(bad.error.kind(), "no backup can be used")
                .detail(bad.error.detail_text().unwrap_or_else(|| bad.error.to_string()))
                .hint(
                    bad.error
                        .hint_text()
                        .unwrap_or("`pgkeep list` shows what there is.")
                        .to_owned(),
                ),
            None => Error::not_found("there is no backup of this cluster").hint("`pgkeep list` shows what there is."),
        })
}

async fn load_archive(engine: &Engine, lineage: &Lineage, backups: &[&Backup]) -> Result<Archive> {
    let heads = backups.iter().filter_map(|backup| backup.head().physical().ok());
    let first = heads.clone().map(|head| *head.needed_wal().start()).min().unwrap_or(0);
    let size = heads
        .map(|head| head.segment_bytes)
        .next()
        .unwrap_or(pgkeep_base::SegmentSize::DEFAULT);
    Archive::load(engine, lineage, size, first, head_timelines(backups)).await
}

/// Recovery is told the timeline on which the stop lies: PostgreSQL records the timeline that it aims at as the parent
/// of the one that it begins, whether it got there or not.
async fn aim_at_stop<'a>(
    engine: &Engine,
    archive: &Archive,
    backups: &[&'a Backup],
    asked: &RestoreRequest,
    resolved: Resolved<'a>,
) -> Result<Resolved<'a>> {
    let own = resolved.history.timeline_at(resolved.stop.record);
    if own == resolved.history.timeline() {
        return Ok(resolved);
    }
    let mut again = asked.clone();
    again.backup = Some(resolved.backup.head().id.clone());
    again.target = RecoveryTarget::Lsn(resolved.stop.record);
    again.exclusive = false;
    again.timeline = pgkeep_base::TargetTimeline::Numbered(own);
    let aimed = resolve(engine, archive, backups, &again).await?;
    Ok(Resolved {
        history: aimed.history.clone(),
        ..aimed
    })
}

fn recovery_plan(archive: &Archive, resolved: &Resolved<'_>, trust: TrustList) -> RecoveryPlan {
    let lineage = archive.lineage.clone();
    let id = resolved.backup.head().id.clone();
    let mut plan = RecoveryPlan::new(
        lineage,
        id,
        resolved.walked.aim,
        resolved.stop.record,
        resolved.walked.map.clone(),
    );
    let with_file = |history: &&TimelineHistory| history.parent().is_some();
    let histories = archive.tree.timelines().filter(with_file);
    plan.histories = histories
        .map(|history| (history.timeline(), history.format()))
        .collect();
    plan.unexplained = archive.tree.unexplained().collect();
    plan.trust = Some(trust);
    plan
}

fn why(resolved: &Resolved<'_>, request: &RestoreRequest) -> String {
    let head = resolved.backup.head();
    match &request.backup {
        Some(_) => "as asked".to_owned(),
        None => format!(
            "the newest backup that is consistent before the target (finished {})",
            head.finished_at
        ),
    }
}

fn notes(
    catalogue: &Catalogue,
    lineage: &Lineage,
    archive: &Archive,
    resolved: &Resolved<'_>,
    left_behind: &[LeftBehind],
) -> Vec<String> {
    let mut notes: Vec<String> = left_behind.iter().map(ToString::to_string).collect();
    notes.extend(resolved.walked.notes.iter().cloned());
    let mut others: Vec<String> = catalogue
        .backups
        .iter()
        .map(|backup| backup.head().lineage())
        .filter(|other| other != lineage)
        .map(|other| other.system_identifier.to_string())
        .collect();
    others.dedup();
    if !others.is_empty() {
        notes.push(format!(
            "backups of another cluster lie under the same name and are not considered: system identifier {}",
            others.join(", ")
        ));
    }
    for bad in catalogue.bad.iter().filter(|bad| bad.lineage == *lineage) {
        notes.push(format!("backup {} is not considered: {}", bad.id, bad.error));
    }
    for (timeline, error) in &archive.bad_histories {
        notes.push(format!(
            "the history file of timeline {timeline} can't be used: {error}"
        ));
    }
    for timeline in archive.tree.unexplained() {
        notes.push(format!(
            "timeline {timeline} is in the archive, but nothing says where it began: PostgreSQL stops when it asks for its \
             history to find a free number at promotion"
        ));
    }
    let untrusted = !resolved.backup.verified.trusted;
    if untrusted {
        notes.push(format!(
            "the backup's signer {} is accepted because you said so",
            resolved.backup.verified.signer.as_str()
        ));
    }
    notes
}

/// Free bytes of all file systems that the restore writes to, each counted once.
fn free_everywhere(layout: &Layout) -> Option<u64> {
    let mut counted = std::collections::BTreeSet::new();
    let mut free = None;
    for place in places(layout) {
        let existing = place.ancestors().find_map(|path| std::fs::metadata(path).ok());
        let device = existing.map(|metadata| std::os::unix::fs::MetadataExt::dev(&metadata));
        if let (Some(bytes), true) = (layout::free_bytes(&place), counted.insert(device)) {
            free = Some(free.unwrap_or(0) + bytes);
        }
    }
    free
}

fn no_room(target: &std::path::Path, bytes: u64, free: u64) -> Error {
    use pgkeep_base::ByteSize;
    Error::refused(format!("{} has no room for the restore", target.display()))
        .detail(format!("{} needed, {} free", ByteSize(bytes), ByteSize(free)))
        .hint("Choose another directory with `--into`, or map tablespaces with `--tablespace OLD=NEW`.")
}

/// The paths that a restore writes below.
fn places(layout: &Layout) -> Vec<PathBuf> {
    std::iter::once(layout.target.clone())
        .chain(layout.tablespaces.iter().map(|tablespace| tablespace.to.clone()))
        .collect()
}
