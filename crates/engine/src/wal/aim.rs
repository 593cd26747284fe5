//! Where a recovery that was set up by hand turns off a timeline, as far as its data directory tells.
//!
//! PostgreSQL asks for a segment under the newest timeline that it aims at, and where that is absent under older ones
//! (`XLogFileReadAnyTLI`); it then replays all of it, also what lies behind the point where the newer timeline began.
//! Nothing in PostgreSQL notices: the database opens with commits of another history, and says that it is on the newer.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use pgkeep_base::{Error, Lsn, Result, TimelineId, WalSegment};
use pgkeep_pg::control::ControlFile;
use pgkeep_pg::settings::guc::SettingsFile;
use pgkeep_pg::settings::read_auto_conf;

use crate::path::Tree;

/// The name under which PostgreSQL's recovery wants a segment; `pg_rewind` uses the segment's own, and asks for a dead
/// branch on purpose.
const RECOVERY_FILE: &str = "RECOVERYXLOG";

/// Why a segment, wanted as `destination`, must not be given to the recovery in `directory`: it goes on behind the LSN
/// where that recovery leaves the segment's timeline for a newer one. `None` where it doesn't.
///
/// # Errors
/// `Io` where the settings can't be read.
pub(super) fn past_fork(
    tree: &Tree,
    segment: WalSegment,
    destination: &Path,
    directory: &Path,
) -> Result<Option<Error>> {
    if destination.file_name() != Some(OsStr::new(RECOVERY_FILE)) {
        return Ok(None);
    }
    let left = leaves(tree, segment.timeline, directory)?;
    let left = left.filter(|left| segment.number >= segment.size.number_of(*left));
    Ok(left.map(|left| {
        let (timeline, name) = (segment.timeline, segment.name());
        Error::refused(format!("{name} is not given to recovery, which leaves timeline {timeline} at {left}"))
            .detail("PostgreSQL would replay what an old primary wrote behind that; the newer timeline's segment is not archived")
            .hint("`pgkeep restore` plans recovery up to there. To recover the old timeline by hand, set recovery_target_timeline to it in postgresql.auto.conf.")
    }))
}

/// The LSN where recovery in `directory` leaves `timeline`; `None` where it stays on it.
fn leaves(tree: &Tree, timeline: TimelineId, directory: &Path) -> Result<Option<Lsn>> {
    let aim = match target_timeline(directory)?.as_deref() {
        Some("current") => ControlFile::read(directory)?.checkpoint.timeline,
        Some(text) => number(text).unwrap_or_else(|| tree.newest_descendant(timeline)),
        None => tree.newest_descendant(timeline),
    };
    Ok(tree.history(aim).and_then(|history| history.switch_point(timeline)))
}

/// As PostgreSQL reads it: decimal, or hexadecimal with `0x`.
fn number(text: &str) -> Option<TimelineId> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    number.and_then(TimelineId::new)
}

/// `recovery_target_timeline` of `postgresql.conf` and `postgresql.auto.conf`; what is set elsewhere is not seen.
fn target_timeline(directory: &Path) -> Result<Option<String>> {
    let auto = SettingsFile::parse(&read_auto_conf(directory)?);
    // Debian's is elsewhere, and what can't be read says nothing.
    let main = SettingsFile::parse(&fs::read(directory.join("postgresql.conf")).unwrap_or_default());
    let said = |file: &SettingsFile| file.get("recovery_target_timeline").map(|setting| setting.text());
    Ok(said(&auto).or_else(|| said(&main)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgkeep_pg::history::TimelineHistory;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    #[test]
    fn settings_say_where_a_timeline_is_left() {
        let second = TimelineHistory::root(timeline(1)).child(timeline(2), Lsn(200), "a");
        let third = TimelineHistory::root(timeline(1)).child(timeline(3), Lsn(300), "b");
        let tree = Tree::new([second.unwrap(), third.unwrap()], []);
        let directory = tempfile::tempdir().unwrap();
        let left = |auto: &str| {
            fs::write(directory.path().join("postgresql.auto.conf"), auto).unwrap();
            leaves(&tree, timeline(1), directory.path()).unwrap()
        };
        assert_eq!(left(""), Some(Lsn(300)), "the newest is PostgreSQL's default");
        assert_eq!(left("recovery_target_timeline = 'latest'"), Some(Lsn(300)));
        assert_eq!(left("recovery_target_timeline = 2"), Some(Lsn(200)));
        assert_eq!(left("recovery_target_timeline = '0x2'"), Some(Lsn(200)));
        assert_eq!(left("recovery_target_timeline = '1'"), None);
        fs::write(directory.path().join("postgresql.conf"), "recovery_target_timeline = 1").unwrap();
        assert_eq!(left(""), None);
        assert_eq!(
            left("recovery_target_timeline = 2"),
            Some(Lsn(200)),
            "the last word is ALTER SYSTEM's"
        );
    }
}
