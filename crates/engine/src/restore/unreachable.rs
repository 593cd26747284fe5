//! Says why a target can't be reached, and the nearest moments that can, on both sides.
//!
//! Invariant: whatever stands behind `--lsn` or `--at` in a hint can be asked for as it stands there.

use jiff::Timestamp;
use pgkeep_base::{BackupId, Error, ErrorKind, Lsn, RecoveryTarget};

use crate::path::{PathEnd, Walked};

/// The moment at which a backup is consistent.
#[derive(Clone, Debug)]
pub struct BackupEnd {
    /// Of which backup.
    pub backup: BackupId,
    /// The record that makes it so, where facts tell; else the end of that record.
    pub lsn: Lsn,
    /// When it finished, by its writer's clock: to tell, not to be asked for, since WAL may hold no record of that time.
    pub finished_at: Timestamp,
}

impl std::fmt::Display for BackupEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let BackupEnd {
            backup,
            lsn,
            finished_at,
        } = self;
        write!(f, "--lsn {lsn} (the end of backup {backup}, {finished_at})")
    }
}

/// The last moment that a walk can prove. Where the archive ends by itself, its last known time can be asked for. Where
/// WAL is missing or bad, that may hold more commits of the same time: only a time before the last commit is certain.
fn last_moment(walked: &Walked) -> Option<String> {
    walked.search.consistent()?;
    let last = walked.search.last()?;
    if walked.end.is_natural() {
        let time = last.time.map(|time| format!("{time} "));
        return Some(format!("{}(--lsn {})", time.unwrap_or_default(), last.record));
    }
    let by_time = walked
        .search
        .latest_certain_time()
        .map(|time| format!(", or by time --at {time}"));
    Some(format!("--lsn {}{}", last.record, by_time.unwrap_or_default()))
}

/// The words for a target.
pub fn describe(target: &RecoveryTarget) -> String {
    match target {
        RecoveryTarget::Immediate => "the end of the backup".to_owned(),
        RecoveryTarget::EndOfWal => "the end of the archive".to_owned(),
        RecoveryTarget::Time(time) => time.to_string(),
        RecoveryTarget::Lsn(lsn) => format!("LSN {lsn}"),
        RecoveryTarget::Xid(xid) => format!("transaction {xid}"),
        RecoveryTarget::Name(name) => format!("restore point \"{name}\""),
    }
}

/// No backup lies before the target; `first` is the oldest one that leads there.
pub fn before_first(target: &RecoveryTarget, first: Option<&BackupEnd>) -> Error {
    let error = Error::refused(format!("{} can't be reached", describe(target)));
    match first {
        Some(first) => error
            .detail(format!(
                "it lies before the end of the first backup that leads there, {}",
                first.backup
            ))
            .hint(format!("The earliest moment is {first}; `pgkeep window` shows all.")),
        None => error
            .detail("no backup leads there")
            .hint("`pgkeep list` shows the backups, `pgkeep window` the moments that can be reached."),
    }
}

/// The walk from the best backup ended before the target; `next` is the end of the first backup behind that.
pub fn past_end(target: &RecoveryTarget, walked: &Walked, next: Option<&BackupEnd>) -> Error {
    let message = format!("{} can't be reached", describe(target));
    let error = match &walked.end {
        // Trying again may help.
        PathEnd::Bad { error, .. } if error.kind() == ErrorKind::Unavailable => Error::unavailable(message),
        _ => Error::refused(message),
    };
    error.detail(reason(walked)).hint(nearest(walked, next))
}

fn nearest(walked: &Walked, next: Option<&BackupEnd>) -> String {
    let again = |joined: &str| next.map_or_else(String::new, |next| format!("{joined} again from {next}"));
    match last_moment(walked) {
        Some(moment) => format!(
            "Recovery is possible up to {moment}{}; `pgkeep window` shows all.",
            again(", and")
        ),
        None => format!(
            "This backup can't be recovered, because WAL that it needs is missing or bad{}; `pgkeep window` shows all.",
            again("; recovery is possible")
        ),
    }
}

/// Why the walk ended, in words that name the segment.
pub fn reason(walked: &Walked) -> String {
    let at_end = walked.search.last().map_or_else(String::new, |last| match last.time {
        Some(time) => format!(" at {} ({time})", last.record),
        None => format!(" at {}", last.record),
    });
    match &walked.end {
        PathEnd::Missing {
            segment,
            later: Some(later),
        } if later.number <= segment.number => {
            format!("WAL segment {segment} is missing from the archive, where a history says that there was more")
        }
        PathEnd::Missing {
            segment,
            later: Some(later),
        } => {
            format!("WAL segment {segment} is missing from the archive, which goes on with {later}")
        }
        PathEnd::Missing { segment, later: None } => {
            format!("the archive ends{at_end}; the next segment would be {segment}")
        }
        PathEnd::Bad { segment, error } => {
            let why = error
                .detail_text()
                .map_or_else(|| error.to_string(), |detail| format!("{error}: {detail}"));
            match error.kind() {
                ErrorKind::Unavailable | ErrorKind::Denied => format!("WAL segment {segment} can't be read: {why}"),
                _ => format!("WAL segment {segment} is bad: {why}"),
            }
        }
        PathEnd::Invalid {
            at,
            reason,
            later: Some(later),
        } => {
            format!("valid WAL ends at {at} ({reason}), although the archive goes on with {later}")
        }
        PathEnd::Invalid {
            at,
            reason,
            later: None,
        } => format!("valid WAL ends at {at}: {reason}"),
        PathEnd::Left { at, missing, .. } => {
            format!("the timeline is left at {at}, and WAL segment {missing} of the next one is missing")
        }
        PathEnd::Minimal { at } => {
            format!("the server ran with wal_level = minimal from {at} on, which PostgreSQL can't recover across")
        }
        PathEnd::Stop => format!("the WAL was walked{at_end}"),
    }
}
