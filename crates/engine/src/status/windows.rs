//! The part of `status` that windows tell: what leads on from the newest backup, and what does not.
//!
//! Invariant: what lies before the newest backup's end warns; what a restore to now would have to cross fails.

use pgkeep_base::{Lsn, SegmentSize, TimelineId, WalFile, WalSegment};
use pgkeep_repo::lineage::Lineage;

use super::{Building, Health, LastWal};
use crate::catalogue::Backup;
use crate::engine::Engine;
use crate::window::{ClusterWindow, Gap, Range, Unreachable, Why};

pub(super) fn judge_windows(engine: &Engine, building: &mut Building, newest: &Backup, windows: &[ClusterWindow]) {
    let lineage = newest.head().lineage();
    let Ok(physical) = newest.head().physical() else { return };
    let required = |window: &&ClusterWindow| {
        engine
            .places()
            .iter()
            .any(|place| place.required && place.name == window.repository)
    };
    for window in windows.iter().filter(required) {
        judge_window(building, window, &lineage, physical.timeline, physical.stop_lsn);
    }
    let newest_range = windows
        .iter()
        .filter(required)
        .filter_map(|window| newest_range(window, &lineage))
        .next();
    let Some(range) = newest_range else { return };
    building.status.window = Some((range.from, range.to));
    building.status.rpo_seconds = range.to.map(|to| engine.now().duration_since(to).as_secs().max(0));
    building.status.last_wal = last_wal(engine, range, physical.segment_bytes);
}

fn judge_window(
    building: &mut Building,
    window: &ClusterWindow,
    lineage: &Lineage,
    timeline: TimelineId,
    newest_stop: Lsn,
) {
    let covers =
        |range: &&Range| range.lineage == *lineage && range.from_lsn <= newest_stop && newest_stop <= range.to_lsn;
    let repository = &window.repository;
    let is_doubted = |of: &Unreachable| of.lineage == *lineage && of.timeline == timeline;
    let is_reached = window.ranges.iter().any(|range| covers(&range));
    if !is_reached && !window.unreachable.iter().any(is_doubted) {
        let message = format!("WAL that the newest backup needs is missing from repository \"{repository}\"");
        building.reason(
            Health::Fail,
            "backup-wal-missing",
            message,
            "`pgkeep wal list --gaps` names the segments; take a backup now.",
        );
    }
    for gap in window.gaps.iter().filter(|gap| gap.lineage == *lineage) {
        judge_gap(building, gap, repository, timeline, newest_stop);
    }
    for unreachable in window.unreachable.iter().filter(|of| of.lineage == *lineage) {
        judge_unreachable(building, unreachable, repository, (timeline, is_reached));
    }
    for (_, segment) in window.conflicts.iter().filter(|(of, _)| of == lineage) {
        judge_conflict(building, segment, repository, timeline, newest_stop);
    }
}

/// Two servers wrote one segment: whatever leads through it can't be restored.
fn judge_conflict(
    building: &mut Building,
    segment: &WalSegment,
    repository: &str,
    timeline: TimelineId,
    newest_stop: Lsn,
) {
    let is_behind = segment.timeline < timeline || segment.end() <= newest_stop;
    building.reason(
        if is_behind { Health::Warn } else { Health::Fail },
        "wal-conflict",
        format!("two different segments were archived as {segment} in repository \"{repository}\""),
        "Two servers may archive as one cluster: `pgkeep doctor` on both hosts. `pgkeep backup` on the one that shall live \
         begins a new range.",
    );
}

fn judge_gap(building: &mut Building, gap: &Gap, repository: &str, timeline: TimelineId, newest_stop: Lsn) {
    let severity = match gap.is_ahead_of(timeline, newest_stop) {
        true => Health::Fail,
        false => Health::Warn,
    };
    let segments = match gap.first_missing == gap.last_missing {
        true => format!("WAL segment {} is", gap.first_missing),
        false => format!("WAL segments {} to {} are", gap.first_missing, gap.last_missing),
    };
    building.reason(
        severity,
        "wal-gap",
        format!(
            "{segments} missing from repository \"{repository}\": LSN {} to {}",
            gap.from_lsn, gap.to_lsn
        ),
        "Moments from there on can't be restored until a new `pgkeep backup` begins a new range. Where the disk of the \
         server that wrote it is still there, `pgkeep wal salvage PGDATA` stores what it has.",
    );
}

/// A timeline that nothing can be restored of, although something of it is there.
fn judge_unreachable(
    building: &mut Building,
    unreachable: &Unreachable,
    repository: &str,
    (newest, is_reached): (TimelineId, bool),
) {
    let Unreachable { timeline, why, .. } = unreachable;
    let message = format!("timeline {timeline} is known to repository \"{repository}\", and {why}");
    match why {
        Why::NoHistory(_) => {
            let severity = match *timeline >= newest {
                true => Health::Fail,
                false => Health::Warn,
            };
            let hint = "Nothing of it can be restored. Where a server's pg_wal still has its history file, `pgkeep wal \
                        push` stores it; else `pgkeep backup` begins a new range.";
            building.reason(severity, "timeline-unexplained", message, hint);
        }
        Why::TwoHistories => {
            let severity = match *timeline > newest || (*timeline == newest && !is_reached) {
                true => Health::Fail,
                false => Health::Warn,
            };
            let hint = "Stop the server that shall not live; `pgkeep backup` on the other one begins a range that can be \
                        restored. Where both have backups on it, `pgkeep restore --backup ID` says whose is meant.";
            building.reason(severity, "timeline-unexplained", message, hint);
        }
        Why::NoWal => {
            let hint = "After a failover its first segment follows at the latest after `archive_timeout`; `pgkeep mark \
                        NAME` sends it now.";
            building.reason(Health::Warn, "timeline-empty", message, hint);
        }
    }
}

fn newest_range<'a>(window: &'a ClusterWindow, lineage: &Lineage) -> Option<&'a Range> {
    window
        .ranges
        .iter()
        .filter(|range| range.lineage == *lineage)
        .max_by_key(|range| (range.timeline, range.to_lsn))
}

fn last_wal(engine: &Engine, range: &Range, size: SegmentSize) -> Option<LastWal> {
    let segment = WalSegment {
        timeline: range.timeline,
        number: size.number_before(range.to_lsn),
        size,
    };
    let pushed = engine
        .state()
        .ok()?
        .pushed(&range.lineage, &WalFile::Segment(segment.name()).to_string())
        .ok();
    let archived_at = pushed.and_then(|pushed| pushed.last().map(|pushed| pushed.pushed_at));
    Some(LastWal {
        segment,
        archived_at,
        lsn: Some(range.to_lsn),
    })
}
