//! `status`: am I safe, to which moments can I return, is it proven.
//!
//! Invariant: computed from what storage can restore now, never from job history. What can't be known is
//! `unknown`, which is not green; what was never proven is `warn`.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pgkeep_base::{BackupId, ClusterName, Error, ErrorKind, Lsn, Result, SegmentSize, TimelineId, WalSegment};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::facts::{ArchiverFacts, ServerFacts};
use pgkeep_repo::lineage::Lineage;

use crate::catalogue::{self, Backup, Catalogue, missing_packs};
use crate::controls::{Stale, stale_recipients};
use crate::engine::Engine;
use crate::setup::ClusterConfig;
use crate::window::{ClusterWindow, window};

mod windows;

use windows::judge_windows;

/// A daily backup that is this old has been missed.
const BACKUP_AGE_MAX: SignedDuration = SignedDuration::from_hours(30);
/// An idle server's WAL position stands right behind the header of a segment's first page.
const FIRST_PAGE_HEADER_BYTES: u64 = 40;
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// The verdict on a cluster, from good to bad.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Restorable and proven.
    Ok,
    /// Restorable, with something to look at.
    Warn,
    /// Nobody can tell from here.
    Unknown,
    /// Something that was promised can't be restored.
    Fail,
}

/// One reason for a verdict.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Reason {
    /// Stable name, such as `wal-gap`.
    pub code: &'static str,
    /// What it makes of the verdict.
    pub severity: Health,
    /// What is the case.
    pub message: String,
    /// The next command.
    pub hint: String,
}

/// The newest backup.
#[derive(Clone, Debug)]
pub struct LastBackup {
    /// Its id.
    pub id: BackupId,
    /// When it finished.
    pub finished_at: Timestamp,
}

/// The newest archived segment.
#[derive(Clone, Debug)]
pub struct LastWal {
    /// The segment.
    pub segment: WalSegment,
    /// When this host pushed it, where it did.
    pub archived_at: Option<Timestamp>,
    /// End of its last complete record.
    pub lsn: Option<Lsn>,
}

/// The status of one cluster.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster: ClusterName,
    /// The verdict: the worst reason.
    pub health: Health,
    /// Why.
    pub reasons: Vec<Reason>,
    /// The newest backup.
    pub last_backup: Option<LastBackup>,
    /// The newest archived segment.
    pub last_wal: Option<LastWal>,
    /// Seconds since the newest moment that can be restored.
    pub rpo_seconds: Option<i64>,
    /// From the earliest to the latest moment of the newest timeline's range.
    pub window: Option<(Option<Timestamp>, Option<Timestamp>)>,
}

/// The status of every configured cluster.
///
/// # Errors
/// `Invalid` setups only: a place that doesn't answer makes a cluster `unknown`, not an error.
pub async fn status(engine: &Engine) -> Result<Vec<ClusterStatus>> {
    let mut all = Vec::new();
    for cluster in &engine.setup().clusters {
        all.push(of_cluster(engine, cluster).await);
    }
    Ok(all)
}

struct Building {
    status: ClusterStatus,
}

impl Building {
    fn reason(&mut self, severity: Health, code: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.status.health = self.status.health.max(severity);
        self.status.reasons.push(Reason {
            code,
            severity,
            message: message.into(),
            hint: hint.into(),
        });
    }
}

async fn of_cluster(engine: &Engine, config: &ClusterConfig) -> ClusterStatus {
    let status = ClusterStatus {
        cluster: config.name.clone(),
        health: Health::Ok,
        reasons: Vec::new(),
        last_backup: None,
        last_wal: None,
        rpo_seconds: None,
        window: None,
    };
    let mut building = Building { status };
    match look(engine, &config.name).await {
        Ok((catalogue, windows)) => {
            judge_storage(engine, &mut building, &catalogue, &windows);
            judge_packs(engine, &mut building, &catalogue).await;
            judge_chain(&mut building, &catalogue);
            judge_recipients(engine, &mut building, &catalogue).await;
        }
        Err(error) => judge_unreadable(engine, &mut building, &error),
    }
    judge_server(engine, config, &mut building).await;
    judge_rpo(config, &mut building);
    building.status
}

async fn look(engine: &Engine, cluster: &ClusterName) -> Result<(Catalogue, Vec<ClusterWindow>)> {
    let catalogue = catalogue::load(engine, Some(cluster)).await?;
    let windows = window(engine, Some(cluster)).await?;
    Ok((catalogue, windows))
}

fn judge_storage(engine: &Engine, building: &mut Building, catalogue: &Catalogue, windows: &[ClusterWindow]) {
    for bad in &catalogue.bad {
        let why = bad.error.detail_text().unwrap_or_else(|| bad.error.to_string());
        building.reason(
            Health::Fail,
            "bad-backup",
            format!("backup {} can't be used: {why}", bad.id),
            "`pgkeep list` shows the others.",
        );
    }
    let Some(newest) = catalogue.newest() else {
        building.reason(
            Health::Fail,
            "no-backup",
            "there is no backup",
            "Take one with `pgkeep backup`.",
        );
        return;
    };
    let head = newest.head();
    building.status.last_backup = Some(LastBackup {
        id: head.id.clone(),
        finished_at: head.finished_at,
    });
    let age = engine.now().duration_since(head.finished_at);
    if age > BACKUP_AGE_MAX {
        let message = format!("the newest backup is {} hours old", age.as_hours());
        building.reason(Health::Warn, "backup-old", message, "Take one with `pgkeep backup`.");
    }
    judge_places(engine, building, newest);
    judge_windows(engine, building, newest, windows);
    building.reason(
        Health::Warn,
        "never-proven",
        "no restore of this cluster was ever proven",
        "Restore it and look: `pgkeep restore --into DIR --start --check`.",
    );
}

/// Whether every pack of the newest backup is there.
async fn judge_packs(engine: &Engine, building: &mut Building, catalogue: &Catalogue) {
    let Some(newest) = catalogue.newest() else {
        return;
    };
    let id = &newest.head().id;
    let hint = "`pgkeep backup --full` stores everything anew; `pgkeep list` shows older backups.";
    match missing_packs(engine, newest.head()).await {
        Ok(missing) if missing.is_empty() => {}
        Ok(missing) => {
            let message = format!(
                "backup {id} can't be restored: {} is missing or has another length",
                missing[0]
            );
            building.reason(Health::Fail, "backup-incomplete", message, hint);
        }
        Err(error) => {
            let why = error
                .detail_text()
                .map_or_else(|| error.to_string(), |detail| format!("{error}: {detail}"));
            let health = if error.kind() == ErrorKind::Corrupt {
                Health::Fail
            } else {
                Health::Unknown
            };
            building.reason(
                health,
                "backup-incomplete",
                format!("the packs of backup {id}: {why}"),
                hint,
            );
        }
    }
}

/// Each head names the one before it by its writer: one that is gone was removed by somebody.
fn judge_chain(building: &mut Building, catalogue: &Catalogue) {
    if !catalogue.bad.is_empty() {
        return;
    }
    let known: BTreeSet<_> = catalogue.backups.iter().map(|backup| backup.verified.blake3).collect();
    for backup in &catalogue.backups {
        if backup
            .head()
            .previous_head
            .is_some_and(|previous| !known.contains(&previous))
        {
            let message = format!("the backup before {} was removed from storage", backup.head().id);
            building.reason(
                Health::Warn,
                "backup-removed",
                message,
                "Nothing of pgkeep removes backups yet: find out who did.",
            );
        }
    }
}

/// Whether this host, and whoever took the newest backup, seals to the recipients of now.
async fn judge_recipients(engine: &Engine, building: &mut Building, catalogue: &Catalogue) {
    let stale = match stale_recipients(engine).await {
        Ok(stale) => stale,
        Err(error) => {
            let message = format!("whether the recipients have changed is not known: {error}");
            return building.reason(
                Health::Unknown,
                "recipients-unknown",
                message,
                "`pgkeep doctor` tells more.",
            );
        }
    };
    let current = match &stale {
        Some(stale) => stale.should_be.clone(),
        None => engine.sealer().recipients(),
    };
    if let Some(stale) = stale {
        building.reason(Health::Warn, "recipients-stale", stale.to_string(), Stale::HINT);
    }
    if let Some(newest) = catalogue.newest()
        && newest.head().recipients != current
    {
        building.reason(
            Health::Warn,
            "backup-recipients",
            format!(
                "the newest backup {} is sealed to other recipients than those of now",
                newest.head().id
            ),
            "`pgkeep backup` stores everything anew for them; `pgkeep keys rotate --rewrap` opens what is there.",
        );
    }
}

fn judge_places(engine: &Engine, building: &mut Building, newest: &Backup) {
    for place in engine
        .places()
        .iter()
        .filter(|place| !newest.places.contains(&place.name))
    {
        let severity = if place.required { Health::Fail } else { Health::Warn };
        let message = format!(
            "repository \"{}\" lacks the newest backup {}",
            place.name,
            newest.head().id
        );
        building.reason(
            severity,
            "place-behind",
            message,
            "`pgkeep backup --full` stores everything there.",
        );
    }
    if newest.head().physical().is_ok_and(|physical| physical.bad_pages > 0) {
        let message = format!(
            "the newest backup has pages that failed their checksum: `pgkeep show {}`",
            newest.head().id
        );
        building.reason(
            Health::Warn,
            "bad-pages",
            message,
            "Look at the disk, and compare with an older backup.",
        );
    }
}

/// A writer that may not look knows only what it did itself.
fn judge_unreadable(engine: &Engine, building: &mut Building, error: &Error) {
    let cluster = building.status.cluster.clone();
    let why = error
        .detail_text()
        .map_or_else(|| error.to_string(), |detail| format!("{error}: {detail}"));
    if error.kind() != ErrorKind::Denied {
        let hint = error.hint_text().unwrap_or("`pgkeep doctor` tells more.").to_owned();
        return building.reason(Health::Unknown, "storage-unreadable", why, hint);
    }
    let known = engine
        .state()
        .ok()
        .and_then(|state| written(&state, &cluster).ok().flatten());
    let message = match known {
        Some((wal, backup)) => {
            building.status.last_backup = backup;
            let up_to = wal.lsn.map_or_else(|| wal.segment.to_string(), |lsn| lsn.to_string());
            building.status.last_wal = Some(wal);
            format!("written up to LSN {up_to}; these credentials may not read, ask the keeper")
        }
        None => format!("nothing is known of what was written, and these credentials may not read ({why})"),
    };
    building.reason(
        Health::Unknown,
        "write-only",
        message,
        "Run `pgkeep status` with credentials that may list and read.",
    );
}

type Written = (LastWal, Option<LastBackup>);

fn written(state: &crate::state::State, cluster: &ClusterName) -> Result<Option<Written>> {
    let Some(system_identifier) = state.lineages(cluster)?.pop() else {
        return Ok(None);
    };
    let lineage = Lineage {
        cluster: cluster.clone(),
        system_identifier,
    };
    let Some(timeline) = state.newest_pushed_timeline(&lineage)? else {
        return Ok(None);
    };
    let Some(pushed) = state.last_pushed_segment(&lineage, timeline)? else {
        return Ok(None);
    };
    let size = pushed
        .facts
        .as_ref()
        .and_then(|facts| SegmentSize::new(facts.segment.segment_bytes).ok());
    let Some(segment) = WalSegment::parse(&pushed.file, size.unwrap_or(SegmentSize::DEFAULT)) else {
        return Ok(None);
    };
    let lsn = pushed.facts.and_then(|facts| facts.segment.last_record_end);
    let backup = state.last_head(&lineage)?.map(|head| LastBackup {
        id: head.id,
        finished_at: head.finished_at,
    });
    Ok(Some((
        LastWal {
            segment,
            archived_at: Some(pushed.pushed_at),
            lsn,
        },
        backup,
    )))
}

/// What the server says of its archiving; a server that doesn't answer says nothing about what can be restored.
async fn judge_server(engine: &Engine, config: &ClusterConfig, building: &mut Building) {
    let environment = std::sync::Arc::clone(&engine.setup().environment);
    let asking = async {
        let connection = Connection::open(&config.connection, &*environment).await?;
        Ok::<_, Error>((
            ServerFacts::gather(&connection).await?,
            ArchiverFacts::gather(&connection).await?,
        ))
    };
    let Ok(Ok((facts, archiver))) = tokio::time::timeout(CONNECT_PATIENCE, asking).await else {
        return;
    };
    if facts.archive_mode == "off" && !facts.in_recovery {
        let message = "the running server does not archive (archive_mode = off)".to_owned();
        building.reason(
            Health::Fail,
            "archiving-off",
            message,
            "A restored cluster becomes a protected one with `pgkeep adopt`.",
        );
    } else if archiver.is_failing() {
        let file = archiver
            .last_failed
            .as_ref()
            .map_or_else(String::new, |failed| format!(" on {}", failed.file));
        building.reason(
            Health::Fail,
            "archiver-failing",
            format!("PostgreSQL's archiver fails{file}"),
            "`pgkeep doctor` tells why.",
        );
    }
    if building
        .status
        .last_wal
        .as_ref()
        .is_some_and(|wal| is_all_archived(&facts, wal))
    {
        building.status.rpo_seconds = Some(0);
    }
    if let Some(wal) = &building.status.last_wal
        && facts.timeline > wal.segment.timeline
        && facts.archive_mode != "off"
    {
        let message = timeline_message(facts.timeline, wal.segment.timeline);
        building.reason(
            Health::Warn,
            "timeline-new",
            message,
            "Wait for its first segment, or `pgkeep mark NAME`; then `pgkeep backup`.",
        );
    }
}

/// The age of the newest moment that can be restored, against the objective.
fn judge_rpo(config: &ClusterConfig, building: &mut Building) {
    let (Some(rpo), Some(age)) = (config.rpo, building.status.rpo_seconds) else {
        return;
    };
    if age.unsigned_abs() > rpo.as_secs() {
        let message = format!(
            "the newest moment that can be restored is {age} s old, and the objective is {} s",
            rpo.as_secs()
        );
        building.reason(
            Health::Fail,
            "rpo-exceeded",
            message,
            "`pgkeep doctor` tells whether WAL arrives; `archive_timeout` bounds the age.",
        );
    }
}

/// True if everything that the server has written is in the archive: nothing would be lost, whatever the time.
fn is_all_archived(facts: &ServerFacts, wal: &LastWal) -> bool {
    facts.timeline == wal.segment.timeline && facts.wal_lsn <= Lsn(wal.segment.end().0 + FIRST_PAGE_HEADER_BYTES)
}

fn timeline_message(server: TimelineId, archived: TimelineId) -> String {
    format!("the server is on timeline {server}, the archive ends on timeline {archived}")
}
