//! Says why a target can't be reached, and the nearest moments that can, on both sides.

use jiff::Timestamp;
use pgkeep_base::{Error, ErrorKind, Lsn, RecoveryTarget};

use crate::catalogue::Backup;
use crate::path::{PathEnd, Position, Walked};

/// A moment that can be reached.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// As an LSN.
    pub lsn: Lsn,
    /// As a time, where one is known.
    pub time: Option<Timestamp>,
}

impl From<Position> for Moment {
    fn from(position: Position) -> Moment {
        Moment {
            lsn: position.record,
            time: position.time,
        }
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.time {
            Some(time) => write!(f, "{time} (--lsn {})", self.lsn),
            None => write!(f, "--lsn {}", self.lsn),
        }
    }
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

/// No backup lies before the target.
pub fn before_first(target: &RecoveryTarget, first: Option<&Backup>) -> Error {
    let error = Error::refused(format!("{} can't be reached", describe(target)));
    match first.and_then(|backup| backup.head().physical().ok().map(|physical| (backup.head(), physical))) {
        Some((head, physical)) => error
            .detail(format!(
                "it lies before the end of the first backup that leads there, {}",
                head.id
            ))
            .hint(format!(
                "The earliest moment is {} (--lsn {}); `pgkeep window` shows all.",
                head.finished_at, physical.stop_lsn
            )),
        None => error
            .detail("no backup leads there")
            .hint("`pgkeep list` shows the backups, `pgkeep window` the moments that can be reached."),
    }
}

/// The walk from the best backup ended before the target.
pub fn past_end(target: &RecoveryTarget, walked: &Walked, next: Option<Moment>) -> Error {
    let consistent = walked.search.consistent().is_some();
    let before = walked.search.last().filter(|_| consistent).map(Moment::from);
    let message = format!("{} can't be reached", describe(target));
    let error = match &walked.end {
        // Trying again may help.
        PathEnd::Bad { error, .. } if error.kind() == ErrorKind::Unavailable => Error::unavailable(message),
        _ => Error::refused(message),
    };
    let error = error.detail(reason(walked));
    error.hint(nearest(before, next, !consistent))
}

fn nearest(before: Option<Moment>, next: Option<Moment>, inconsistent: bool) -> String {
    let before_words = match before {
        Some(moment) => format!("Recovery is possible up to {moment}"),
        None if inconsistent => "This backup can't be recovered at all: WAL that it needs is missing or bad".to_owned(),
        None => "Nothing before it can be reached".to_owned(),
    };
    match next {
        Some(moment) => format!("{before_words}, and again from {moment}; `pgkeep window` shows all."),
        None => format!("{before_words}; `pgkeep window` shows all."),
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
