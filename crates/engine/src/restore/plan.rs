//! The plan of a restore: what is put where, from which backup, and how far recovery goes.
//!
//! Invariant: making it reads and changes nothing; a plan exists only if its target can be reached.

use std::path::{Path, PathBuf};

use pgkeep_base::{Error, PgMajor, RecoveryTarget, Result, ResultExt, TargetTimeline};
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::reader::BackupReader;
use pgkeep_repo::sign::TrustList;

use super::aim::aim_at_stop;
use super::existing::Existing;
use super::layout::{self, Layout, TargetState};
use super::left_behind::{LeftBehind, left_behind};
use super::notes::notes;
use super::over::{self, Compared, Found};
use super::recovery::RecoveryPlan;
use super::request::RestoreRequest;
use super::resolve::{Resolved, resolve};
use super::saved::SavedWal;
use super::sources::{Sources, load};
use crate::catalogue::{self, Backup, BadHead, Catalogue, missing_packs};
use crate::engine::Engine;
use crate::path::Position;
use crate::wal::local::LocalWal;

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
    /// The cluster that is restored over, with `--delta`, and what was found there.
    pub over: Option<(Existing, Found)>,
    /// WAL of the target that the archive doesn't have: all of it is kept.
    pub saved: SavedWal,
    pub(super) reader: BackupReader,
}

impl RestorePlan {
    /// Major of the cluster.
    pub fn major(&self) -> Result<PgMajor> {
        PgMajor::from_version_num(self.backup.head().pg_version_num)
    }

    /// What a restore over an existing cluster would keep and fetch, by comparing every byte; `None` for any other.
    ///
    /// # Errors
    /// As [`over::compare`].
    pub async fn compare(&self, engine: &Engine) -> Result<Option<Compared>> {
        match &self.over {
            Some((existing, _)) => over::compare(engine, &self.reader, &self.layout, existing)
                .await
                .map(Some),
            None => Ok(None),
        }
    }

    /// Whether a saved segment is one that will be replayed.
    pub fn replays(&self, file: &super::saved::SavedFile) -> bool {
        let planned = file
            .segment
            .zip(self.recovery.as_ref())
            .and_then(|(segment, recovery)| recovery.segments.get(segment.number));
        planned.is_some_and(|planned| Some(planned.segment) == file.segment && planned.hash == file.hash)
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
    let (target, existing) = look(&request)?;
    let catalogue = catalogue::load(engine, Some(&cluster)).await?;
    let lineage = choose_lineage(&catalogue, &request, existing.as_ref())?;
    if let Some(existing) = &existing {
        existing.must_be(lineage.system_identifier, &target)?;
    }
    let backups = catalogue.physical(&lineage);
    let sources = load(engine, &lineage, &backups, local_wal(&target, &request, &lineage)?).await?;
    let asked = as_asked(&request);
    let (mut sources, resolved, left_behind) =
        resolve_all(engine, sources, &backups, &asked, existing.as_ref()).await?;
    let resolved = aim_at_stop(engine, &sources.archive, &backups, &asked, resolved).await?;
    sources.saved.keep_planned(&sources.archive, &resolved.walked.map);
    let archive = &sources.archive;

    let backup = resolved.backup.clone();
    let reader =
        BackupReader::of_head(engine.stores(), engine.opener().await?.clone(), backup.verified.clone()).await?;
    refuse_incomplete(engine, &backup).await?;
    let (layout, target_state, over) = places(engine, &request, &resolved, &reader, existing).await?;
    let bytes = backup.head().source_bytes;
    let free_bytes = free_everywhere(&layout);
    if over.is_some() {
        sources.saved.must_fit(&layout.target)?;
    }
    let needed = needed(
        bytes,
        target_state,
        over.as_ref().map(|(_, found)| found),
        &sources.saved,
        &layout,
    );
    if let Some(free) = free_bytes.filter(|free| *free < needed) {
        return Err(no_room(&layout.target, needed, free));
    }
    let notes = notes(&catalogue, &lineage, &sources, &resolved, &left_behind);
    let why = why(&resolved, &request);
    let wal_bytes = resolved.walked.map.len() * archive.segment_size.bytes();
    let trust = engine.opener().await?.trust().to_list();
    let recovery = (!request.standby).then(|| recovery_plan(&sources, &resolved, trust));
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
        over,
        saved: sources.saved,
        reader,
        request,
    })
}

/// Where everything goes, and what is there.
async fn places(
    engine: &Engine,
    request: &RestoreRequest,
    resolved: &Resolved<'_>,
    reader: &BackupReader,
    existing: Option<Existing>,
) -> Result<(Layout, TargetState, Option<(Existing, Found)>)> {
    let made = resolved.walked.search.tablespaces();
    let layout = layout::plan(&request.into, &request.tablespaces, made, reader, existing.as_ref()).await?;
    let Some(existing) = existing else {
        let state = layout::inspect(&layout.target)?;
        return Ok((layout, state, None));
    };
    existing.must_be_of(PgMajor::from_version_num(reader.head().pg_version_num)?, &layout.target)?;
    over::spare(engine, &request.precious, &layout)?;
    let found = over::look(reader, &layout, &existing).await?;
    Ok((layout, TargetState::Existing, Some((existing, found))))
}

/// The target without links, and the cluster that is there, where it is to be restored over.
fn look(request: &RestoreRequest) -> Result<(PathBuf, Option<Existing>)> {
    let absolute = std::path::absolute(&request.into).during(|| format!("find {}", request.into.display()))?;
    let target = layout::resolve(&absolute);
    let existing = match layout::inspect(&target)? {
        _ if request.delta => Existing::look(&target)?,
        TargetState::Unfinished => Existing::unfinished_over(&target)?,
        _ => None,
    };
    Ok((target, existing))
}

/// The WAL of the target, where that is one that is restored over, or an unfinished restore that saved some.
fn local_wal(target: &Path, request: &RestoreRequest, lineage: &Lineage) -> Result<Option<LocalWal>> {
    let ours = request.delta || layout::inspect(target)? == TargetState::Unfinished;
    let found = match ours {
        true => LocalWal::read(target)?,
        false => None,
    };
    Ok(found.filter(|found| found.system_identifier == lineage.system_identifier))
}

/// Resolves the target with all WAL that there is. Where the newest timeline is one that only the target directory knows,
/// and the archive goes on past the point where it begins, that is some other copy's history, not the cluster's.
async fn resolve_all<'a>(
    engine: &Engine,
    mut sources: Sources,
    backups: &[&'a Backup],
    asked: &RestoreRequest,
    existing: Option<&Existing>,
) -> Result<(Sources, Resolved<'a>, Vec<LeftBehind>)> {
    sources.use_local(engine, asked, existing, false).await?;
    let resolved = resolve(engine, &sources.archive, backups, asked).await?;
    let left = left_behind(engine, &sources.archive, &resolved).await?;
    let own = sources.saved.own_timelines.contains(&resolved.history.timeline());
    if !own || left.is_empty() || asked.timeline != TargetTimeline::Latest {
        return Ok((sources, resolved, left));
    }
    sources.use_local(engine, asked, existing, true).await?;
    let resolved = resolve(engine, &sources.archive, backups, asked).await?;
    let left = left_behind(engine, &sources.archive, &resolved).await?;
    Ok((sources, resolved, left))
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

fn choose_lineage(catalogue: &Catalogue, request: &RestoreRequest, existing: Option<&Existing>) -> Result<Lineage> {
    if let Some(id) = &request.backup {
        return Ok(catalogue.get(id)?.head().lineage());
    }
    let wanted = existing.and_then(|existing| existing.system_identifier);
    // Of another cluster than the one that is there none is wanted; what is wrong is said by whoever compares.
    let same = |backup: &Backup| wanted.is_none_or(|wanted| backup.head().system_identifier == wanted);
    let ours = catalogue.backups.iter().filter(|backup| same(backup));
    let newest = catalogue::newest(ours).or_else(|| catalogue.newest());
    let newest = newest.map(|backup| backup.head().lineage());
    if let (None, Some(bad)) = (
        wanted,
        newest.as_ref().and_then(|newest| catalogue.unread_beside(newest)),
    ) {
        return Err(which_cluster(bad));
    }
    newest.ok_or_else(|| match catalogue.bad.first() {
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

fn which_cluster(bad: &BadHead) -> Error {
    let why = bad.error.detail_text().unwrap_or_else(|| bad.error.to_string());
    Error::refused("it can't be told which cluster is the newest")
        .detail(format!(
            "there are backups of system identifier {}, and none of them can be used: {}: {why}",
            bad.lineage.system_identifier, bad.id
        ))
        .hint("Make them usable, or name the backup to restore with `--backup ID`; `pgkeep list` shows all.")
}

fn recovery_plan(sources: &Sources, resolved: &Resolved<'_>, trust: TrustList) -> RecoveryPlan {
    let archive = &sources.archive;
    let lineage = archive.lineage.clone();
    let id = resolved.backup.head().id.clone();
    let mut plan = RecoveryPlan::new(
        lineage,
        id,
        resolved.walked.aim,
        resolved.stop.record,
        resolved.walked.map.clone(),
    );
    let of_way = resolved.history.switches().iter();
    let of_way = of_way.filter_map(|switch| resolved.history.ancestor(switch.timeline));
    // PostgreSQL looks for a free number at promotion. Those that only the target directory knows are taken, and those that
    // two servers took; of these what the way says counts.
    let taken = archive
        .tree
        .begun_twice()
        .filter(|history| history.timeline() > resolved.walked.aim);
    let known = taken
        .chain(&sources.saved.histories)
        .chain(archive.tree.timelines())
        .cloned();
    let histories = known.chain(of_way).chain([resolved.history.clone()]);
    plan.histories = histories
        .filter(|history| history.parent().is_some())
        .map(|history| (history.timeline(), history.format()))
        .collect();
    let unexplained = archive.tree.unexplained();
    plan.unexplained = unexplained
        .filter(|timeline| !plan.histories.contains_key(timeline))
        .collect();
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

/// Bytes that the restore needs beside what is there: it removes first what is too much.
fn needed(bytes: u64, state: TargetState, found: Option<&Found>, saved: &SavedWal, layout: &Layout) -> u64 {
    let Some(found) = found else {
        return if state == TargetState::Unfinished { 0 } else { bytes };
    };
    let (copied, linked) = saved.bytes_kept(&layout.target);
    let freed = found.surplus_bytes.saturating_sub(linked);
    (found.missing_bytes + copied).saturating_sub(freed)
}

/// Free bytes of all file systems that the restore writes to, each counted once.
fn free_everywhere(layout: &Layout) -> Option<u64> {
    let mut counted = std::collections::BTreeSet::new();
    let mut free = None;
    for place in paths(layout) {
        let existing = place.ancestors().find_map(|path| std::fs::metadata(path).ok());
        let device = existing.map(|metadata| std::os::unix::fs::MetadataExt::dev(&metadata));
        if let (Some(bytes), true) = (layout::free_bytes(&place), counted.insert(device)) {
            free = Some(free.unwrap_or(0) + bytes);
        }
    }
    free
}

fn no_room(target: &Path, bytes: u64, free: u64) -> Error {
    use pgkeep_base::ByteSize;
    Error::refused(format!("{} has no room for the restore", target.display()))
        .detail(format!("{} needed, {} free", ByteSize(bytes), ByteSize(free)))
        .hint("Make space, choose another directory with `--into`, or map tablespaces with `--tablespace OLD=NEW`.")
}

/// The paths that a restore writes below.
fn paths(layout: &Layout) -> Vec<PathBuf> {
    std::iter::once(layout.target.clone())
        .chain(layout.tablespaces.iter().map(|tablespace| tablespace.to.clone()))
        .collect()
}
