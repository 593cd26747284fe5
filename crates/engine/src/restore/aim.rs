//! Which timeline recovery is told to aim at.
//!
//! Invariant: whatever it aims at, the same records are replayed; a plan never changes to other WAL of the same name.

use pgkeep_base::{ErrorKind, RecoveryTarget, Result, TargetTimeline};

use super::request::RestoreRequest;
use super::resolve::{Resolved, resolve};
use crate::catalogue::Backup;
use crate::engine::Engine;
use crate::path::Archive;
use crate::path::contents::open_segment;

/// Recovery is told the timeline on which the stop lies: PostgreSQL records the timeline that it aims at as the parent
/// of the one that it begins, whether it got there or not.
pub async fn aim_at_stop<'a>(
    engine: &Engine,
    archive: &Archive,
    backups: &[&'a Backup],
    asked: &RestoreRequest,
    resolved: Resolved<'a>,
) -> Result<Resolved<'a>> {
    let own = resolved.history.timeline_at(resolved.stop.record);
    // What the archive has under a number that two servers took is another one's WAL.
    if own == resolved.history.timeline() || !archive.tree.is_past_of(own, &resolved.history) {
        return Ok(resolved);
    }
    let mut again = asked.clone();
    again.backup = Some(resolved.backup.head().id.clone());
    again.target = RecoveryTarget::Lsn(resolved.stop.record);
    again.exclusive = false;
    again.timeline = TargetTimeline::Numbered(own);
    match resolve(engine, archive, backups, &again).await {
        Ok(mut aimed) if is_same_wal(engine, archive, &resolved, &aimed).await? => {
            let mut notes = resolved.walked.notes;
            notes.retain(|note| !aimed.walked.notes.contains(note));
            aimed.walked.notes.extend(notes);
            Ok(aimed)
        }
        Err(error) if error.kind() != ErrorKind::Refused => Err(error),
        // Only the newer timeline's segments are proven to be of the way: recovery aims at that one.
        _ => Ok(resolved),
    }
}

/// Whether two ways to a stop replay the same bytes. They may name the segment of a switch differently, and what was
/// archived under the older timeline's name may be another server's.
async fn is_same_wal(engine: &Engine, archive: &Archive, one: &Resolved<'_>, other: &Resolved<'_>) -> Result<bool> {
    let stores = engine.stores();
    for planned in one.walked.map.iter() {
        let same = other.walked.map.get(planned.segment.number);
        if same.is_some_and(|same| same.hash == planned.hash) {
            continue;
        }
        let length = one.stop.end.0.saturating_sub(planned.segment.start().0) as usize;
        let mut beginnings = Vec::new();
        for segment in same.map(|same| same.segment).into_iter().chain([planned.segment]) {
            let until = Some(one.stop.end);
            if let Some(Ok(chosen)) = open_segment(engine, &stores, archive, segment, until).await? {
                let mut bytes = chosen.bytes;
                bytes.truncate(length);
                beginnings.push(bytes);
            }
        }
        if !matches!(&beginnings[..], [one, other] if one == other) {
            return Ok(false);
        }
    }
    Ok(one.stop.record == other.stop.record)
}
