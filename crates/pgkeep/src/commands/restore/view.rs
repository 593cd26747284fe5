//! A restore as it is shown: planned, done, started.

use std::path::PathBuf;

use jiff::Timestamp;
use pgkeep_base::{BackupId, ByteSize, ClusterName, Lsn, SystemId, TimelineId};
use pgkeep_engine::restore::layout::TablespaceTarget;
use pgkeep_engine::restore::over::Compared;
use pgkeep_engine::restore::plan::RestorePlan;
use pgkeep_engine::restore::run::Restored;
use pgkeep_engine::restore::start::{StartCheck, StartPhase, Started};
use pgkeep_pg::settings::TargetAction;
use serde::Serialize;

use self::over::{Over, SavedView};
use crate::render::{self, Page};
use crate::times;

mod over;

/// What is shown of a restore.
#[derive(Serialize)]
pub struct View {
    dry_run: bool,
    cluster: ClusterName,
    system_identifier: SystemId,
    data_directory: PathBuf,
    backup: BackupId,
    backup_why: String,
    target: Option<Target>,
    action: &'static str,
    standby: bool,
    tablespaces: Vec<TablespaceTarget>,
    bytes: u64,
    wal_bytes: u64,
    free_bytes: Option<u64>,
    left_behind: Vec<LeftBehind>,
    notes: Vec<String>,
    /// What is restored over, with `--delta`.
    over: Option<Over>,
    /// WAL of the target that the archive doesn't have.
    saved_wal: Option<SavedView>,
    written: Option<Written>,
    started: Option<StartedView>,
    next: Vec<String>,
    #[serde(skip)]
    outcome: Option<Started>,
    #[serde(skip)]
    last_commit: Option<Timestamp>,
}

/// Where recovery stops.
#[derive(Serialize)]
struct Target {
    timeline: TimelineId,
    /// Start of the last record that is replayed.
    lsn: Lsn,
    /// First byte after it.
    end_lsn: Lsn,
    /// Latest time in any record up to it.
    time: Option<String>,
    /// Time of the last commit or abort that is replayed.
    last_commit_at: Option<String>,
}

#[derive(Serialize)]
struct LeftBehind {
    timeline: TimelineId,
    left_at: Lsn,
    commits: u64,
    first: Option<String>,
    last: Option<String>,
}

#[derive(Serialize)]
struct Written {
    files: u64,
    bytes: u64,
    seconds: f64,
    /// Of the bytes, how many were there already.
    kept_bytes: u64,
    fetched_bytes: u64,
    written_bytes: u64,
    removed: u64,
}

#[derive(Serialize)]
struct StartedView {
    end: &'static str,
    end_lsn: Option<Lsn>,
    timeline: Option<TimelineId>,
    pid: Option<i32>,
    port: u16,
    socket_directory: PathBuf,
    user: String,
    log_file: PathBuf,
    phases: Vec<StartPhase>,
    checks: Vec<StartCheck>,
}

impl View {
    /// Of a plan, and what came of it so far.
    pub fn of(
        plan: &RestorePlan,
        compared: Option<Compared>,
        restored: Option<Restored>,
        started: Option<Started>,
    ) -> View {
        let target = plan.stop.map(|stop| Target {
            timeline: stop.timeline,
            lsn: stop.record,
            end_lsn: stop.end,
            time: stop.time.map(times::utc),
            last_commit_at: plan.last_finished.map(times::utc),
        });
        let left_behind = plan.left_behind.iter().map(|left| LeftBehind {
            timeline: left.timeline,
            left_at: left.left_at,
            commits: left.commits,
            first: left.first.map(times::utc),
            last: left.last.map(times::utc),
        });
        let written = restored.as_ref().map(|done| Written {
            files: done.written.files,
            bytes: done.written.bytes,
            seconds: done.written.seconds,
            kept_bytes: done.written.kept_bytes,
            fetched_bytes: done.written.fetched_bytes,
            written_bytes: done.written.written_bytes,
            removed: done.written.removed,
        });
        View {
            dry_run: restored.is_none(),
            cluster: plan.lineage.cluster.clone(),
            system_identifier: plan.lineage.system_identifier,
            data_directory: plan.layout.target.clone(),
            backup: plan.backup.head().id.clone(),
            backup_why: plan.why.clone(),
            target,
            action: action(plan),
            standby: plan.request.standby,
            tablespaces: plan.layout.tablespaces.clone(),
            bytes: plan.bytes,
            wal_bytes: plan.wal_bytes,
            free_bytes: plan.free_bytes,
            left_behind: left_behind.collect(),
            notes: plan
                .notes
                .iter()
                .cloned()
                .chain(restored.iter().flat_map(|done| done.notes.clone()))
                .collect(),
            over: Over::of(plan, compared),
            saved_wal: SavedView::of(plan),
            written,
            next: next(plan, started.as_ref()),
            started: started.as_ref().map(StartedView::of),
            outcome: started,
            last_commit: plan.last_finished,
        }
    }

    /// The cluster that was started, if one was.
    pub fn started(&self) -> Option<&Started> {
        self.outcome.as_ref()
    }

    fn target_text(&self, page: &Page) -> String {
        match (&self.target, self.standby) {
            (Some(target), _) => {
                let commit = self.last_commit.map(|at| format!(", last commit {}", page.time(at)));
                format!(
                    "LSN {} on timeline {}{}, then {}",
                    target.lsn,
                    target.timeline,
                    commit.unwrap_or_default(),
                    self.action
                )
            }
            (None, true) => "a standby that follows the archive".to_owned(),
            (None, false) => String::new(),
        }
    }
}

impl Written {
    fn text(&self, over: bool) -> String {
        let (files, bytes, seconds) = (self.files, ByteSize(self.bytes), self.seconds);
        match over {
            false => format!("{files} files, {bytes} in {seconds:.1} s"),
            true => format!(
                "{} of {bytes} in {seconds:.1} s: {} kept, {} fetched, {} removed",
                ByteSize(self.written_bytes),
                ByteSize(self.kept_bytes),
                ByteSize(self.fetched_bytes),
                self.removed
            ),
        }
    }
}

impl StartedView {
    fn of(started: &Started) -> StartedView {
        StartedView {
            end: started.end,
            end_lsn: started.end_lsn,
            timeline: started.timeline,
            pid: started.pid,
            port: started.port,
            socket_directory: started.socket_directory.clone(),
            user: started.user.clone(),
            log_file: started.log_file.clone(),
            phases: started.phases.clone(),
            checks: started.checks.clone(),
        }
    }
}

fn action(plan: &RestorePlan) -> &'static str {
    match plan.request.action() {
        _ if plan.request.standby => "follow",
        TargetAction::Promote => "promote",
        TargetAction::Pause => "pause",
        TargetAction::Shutdown => "shut down",
    }
}

/// The commands that come next.
fn next(plan: &RestorePlan, started: Option<&Started>) -> Vec<String> {
    let directory = plan.layout.target.display();
    let resume = "look at the data, then go on from there for good: SELECT pg_wal_replay_resume();".to_owned();
    let adopt = format!("to make it a protected cluster: pgkeep adopt {directory}");
    let start = format!("pg_ctl -D {directory} start");
    let mut next = match (started.map(|started| started.end), action(plan)) {
        (None, "pause") => vec![start, resume, adopt],
        (Some("paused"), _) => vec![resume, adopt],
        (None, "promote") => vec![start, adopt],
        (None, _) => vec![start],
        (Some("promoted"), _) => vec![adopt],
        (Some(_), _) => Vec::new(),
    };
    if plan.saved.files.iter().any(|file| plan.replays(file)) {
        next.push(format!(
            "to bring saved WAL into the archive: pgkeep wal salvage {directory}"
        ));
    }
    next
}

impl render::View for View {
    fn text(&self, page: &mut Page) {
        page.field(
            "cluster",
            format!("{} (system identifier {})", self.cluster, self.system_identifier),
        );
        page.field("backup", format!("{}, {}", self.backup, self.backup_why));
        let target = self.target_text(page);
        page.field("target", target);
        page.field("into", self.data_directory.display());
        for tablespace in &self.tablespaces {
            let made = tablespace.made_at.map(|at| format!(", made by recovery at {at}"));
            page.field(
                "tablespace",
                format!(
                    "{} -> {}{}",
                    tablespace.from.display(),
                    tablespace.to.display(),
                    made.unwrap_or_default()
                ),
            );
        }
        let free = self
            .free_bytes
            .map_or_else(String::new, |free| format!(", {} free", ByteSize(free)));
        page.field("size", format!("{}{free}", ByteSize(self.bytes)));
        page.field("WAL to replay", ByteSize(self.wal_bytes));
        self.over.iter().for_each(|over| over.text(page));
        self.saved_wal.iter().for_each(|saved| saved.text(page, self.dry_run));
        if let Some(written) = &self.written {
            page.field("written", written.text(self.over.is_some()));
        }
        if let Some(started) = &self.started {
            page.field("recovery", started.end);
            page.field(
                "server",
                format!(
                    "psql -h {} -p {} -U {}",
                    started.socket_directory.display(),
                    started.port,
                    started.user
                ),
            );
            for phase in &started.phases {
                page.field("", format!("{}: {:.1} s", phase.name, phase.seconds));
            }
            for check in &started.checks {
                let verdict = if check.ok { "ok" } else { "FAILED" };
                page.field(
                    "check",
                    format!(
                        "{} {verdict}: {} (expected {})",
                        check.name, check.actual, check.expected
                    ),
                );
            }
        }
        if self.dry_run {
            page.line("Nothing was changed.");
        } else if !self.next.is_empty() {
            page.line("Next:");
            self.next.iter().for_each(|step| page.line(format!("  {step}")));
        }
    }
}
