//! The settings of a recovery, as values and as the block that PostgreSQL reads.
//!
//! Invariant: every setting that steers a recovery stands in the block, the unused ones as empty, so that nothing
//! inherited from the source's `postgresql.conf` can add a second target or another command. PostgreSQL refuses to
//! start when an empty target follows a used one, so the used one comes last.

use jiff::Timestamp;
use pgkeep_base::{Error, PgMajor, RecoveryTarget, Result, TargetTimeline};

use super::block::{BlockState, Purpose, find_block, format_block, remove_block};
use super::guc::{self, Line};

/// Settings that a copy must not inherit from its source's `postgresql.auto.conf`.
///
/// `recovery_min_apply_delay` is not among them: it is a property of the host, and a block overrules it where it
/// would hold up a recovery.
pub const RECOVERY_SETTINGS: &[&str] = &[
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
    "promote_trigger_file",
];

/// Settings that only a standby may inherit.
const STANDBY_SETTINGS: &[&str] = &["primary_conninfo", "primary_slot_name"];

/// Longest name of a restore point, in bytes.
const RESTORE_POINT_BYTES_MAX: usize = 63;

/// `recovery_target_action`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TargetAction {
    /// Open for writing, on a new timeline.
    Promote,
    /// Open for reading and wait; PostgreSQL's default.
    #[default]
    Pause,
    /// Shut down.
    Shutdown,
}

impl TargetAction {
    fn as_str(self) -> &'static str {
        match self {
            TargetAction::Promote => "promote",
            TargetAction::Pause => "pause",
            TargetAction::Shutdown => "shutdown",
        }
    }
}

/// What a copy does with the WAL that it writes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ArchiveChoice {
    /// `archive_mode = off`, until `pgkeep adopt`: the copy can't pollute its source's archive.
    #[default]
    Off,
    /// Archives with this command.
    On {
        /// `archive_command`.
        command: String,
    },
    /// As the source did.
    Keep,
}

/// What makes a copy follow a primary.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StandbySettings {
    /// `primary_conninfo`; without it the copy's own, inherited one counts.
    pub primary_conninfo: Option<String>,
    /// `primary_slot_name`; likewise.
    pub primary_slot_name: Option<String>,
}

/// Everything that steers one recovery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoverySettings {
    /// `restore_command`; must be complete, because it runs with no environment worth the name.
    pub restore_command: String,
    /// `recovery_end_command`; what removes the block.
    pub end_command: Option<String>,
    /// The target. `EndOfWal` sets none and lets PostgreSQL end where the archive ends: for standbys only, because
    /// a missing segment then means a smaller database; everyone else resolves it to an LSN.
    pub target: RecoveryTarget,
    /// `recovery_target_inclusive`.
    pub inclusive: bool,
    /// `recovery_target_timeline`.
    pub timeline: TargetTimeline,
    /// `recovery_target_action`.
    pub action: TargetAction,
    /// Set for a standby: no target then.
    pub standby: Option<StandbySettings>,
    /// The data directory has tablespaces in place, without which setting recovery ends in PANIC.
    pub in_place_tablespaces: bool,
}

impl RecoverySettings {
    /// The settings in the order of the block. Only names that `major` knows: it refuses to start on others.
    fn settings(&self, major: PgMajor) -> Result<Vec<(&'static str, String)>> {
        let mut settings = vec![
            ("restore_command", self.restore_command.clone()),
            ("recovery_end_command", self.end_command.clone().unwrap_or_default()),
            ("archive_cleanup_command", String::new()),
        ];
        if self.in_place_tablespaces {
            settings.push(("allow_in_place_tablespaces", "on".to_owned()));
        }
        if major.get() <= 15 {
            settings.push(("promote_trigger_file", String::new()));
        }
        match &self.standby {
            Some(standby) => {
                let conninfo = standby
                    .primary_conninfo
                    .clone()
                    .map(|value| ("primary_conninfo", value));
                let slot = standby
                    .primary_slot_name
                    .clone()
                    .map(|value| ("primary_slot_name", value));
                settings.extend(conninfo.into_iter().chain(slot));
            }
            None => {
                settings.extend(STANDBY_SETTINGS.iter().map(|name| (*name, String::new())));
                // Inherited from a delayed standby it would hold up a restore by hours.
                settings.push(("recovery_min_apply_delay", "0".to_owned()));
            }
        }
        settings.extend([
            ("recovery_target_timeline", timeline(self.timeline)),
            (
                "recovery_target_inclusive",
                if self.inclusive { "on" } else { "off" }.to_owned(),
            ),
            ("recovery_target_action", self.action.as_str().to_owned()),
        ]);
        settings.extend(self.targets()?);
        Ok(settings)
    }

    /// The five targets, the used one last.
    fn targets(&self) -> Result<Vec<(&'static str, String)>> {
        let used = match &self.target {
            RecoveryTarget::EndOfWal => None,
            RecoveryTarget::Immediate => Some(("recovery_target", "immediate".to_owned())),
            RecoveryTarget::Time(time) => Some(("recovery_target_time", timestamp(*time))),
            RecoveryTarget::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            RecoveryTarget::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
            RecoveryTarget::Name(name) => Some(("recovery_target_name", restore_point(name)?)),
        };
        if used.is_some() && self.standby.is_some() {
            return Err(Error::invalid("a standby can't have a recovery target")
                .hint("Use either `--standby` or a target with `pgkeep restore`."));
        }
        let all = [
            "recovery_target",
            "recovery_target_name",
            "recovery_target_time",
            "recovery_target_xid",
            "recovery_target_lsn",
        ];
        let is_used = |name: &str| used.as_ref().is_some_and(|(used, _)| *used == name);
        let empty = all
            .iter()
            .filter(|name| !is_used(name))
            .map(|name| (*name, String::new()));
        Ok(empty.chain(used.clone()).collect())
    }
}

/// Puts a recovery block at the end of an inherited `postgresql.auto.conf`, without the recovery settings and without
/// an earlier block that it may hold. The same settings twice give the same file.
///
/// # Errors
/// `Invalid` for values that no setting can hold, and for a standby with a target.
pub fn with_recovery_block(inherited: &[u8], settings: &RecoverySettings, major: PgMajor) -> Result<Vec<u8>> {
    let without = remove_block(inherited, Purpose::Recovery);
    let stripped = strip_inherited(&without, settings.standby.is_some());
    append(stripped, &format_block(Purpose::Recovery, &settings.settings(major)?)?)
}

/// Puts an archive block at the end, or takes it out for [`ArchiveChoice::Keep`].
///
/// # Errors
/// `Invalid` for a command that no setting can hold.
pub fn with_archive_block(content: &[u8], choice: &ArchiveChoice, major: PgMajor) -> Result<Vec<u8>> {
    let without = remove_block(content, Purpose::Archive);
    let settings = match choice {
        ArchiveChoice::Keep => return Ok(without),
        ArchiveChoice::Off => vec![("archive_mode", "off".to_owned())],
        ArchiveChoice::On { command } => {
            let mut settings = vec![("archive_mode", "on".to_owned())];
            if major.get() >= 15 {
                // With both set, 16 and newer archive nothing.
                settings.push(("archive_library", String::new()));
            }
            settings.push(("archive_command", command.clone()));
            settings
        }
    };
    append(without, &format_block(Purpose::Archive, &settings)?)
}

/// Whether pgkeep's archive block keeps a restored copy from archiving: it was never adopted. An adopted one has a block,
/// too, which turns archiving on.
pub fn keeps_silent(content: &[u8]) -> bool {
    let block = find_block(content, Purpose::Archive);
    let off = block
        .settings
        .iter()
        .any(|setting| setting.name == "archive_mode" && setting.text() == "off");
    block.state != BlockState::Absent && off
}

/// Takes out the lines that set [`RECOVERY_SETTINGS`], and those that make a standby unless `standby`.
pub fn strip_inherited(content: &[u8], standby: bool) -> Vec<u8> {
    let goes = |name: &str| RECOVERY_SETTINGS.contains(&name) || (!standby && STANDBY_SETTINGS.contains(&name));
    let stays = |text: &&[u8]| match guc::parse_line(text.strip_suffix(b"\n").unwrap_or(text)) {
        Line::Setting(setting) => !goes(&setting.name),
        Line::Blank | Line::Bad => true,
    };
    content
        .split_inclusive(|byte| *byte == b'\n')
        .filter(stays)
        .collect::<Vec<_>>()
        .concat()
}

fn append(mut content: Vec<u8>, block: &[u8]) -> Result<Vec<u8>> {
    if content.last().is_some_and(|byte| *byte != b'\n') {
        content.push(b'\n');
    }
    content.extend_from_slice(block);
    Ok(content)
}

fn timeline(timeline: TargetTimeline) -> String {
    match timeline {
        TargetTimeline::Latest => "latest".to_owned(),
        TargetTimeline::Current => "current".to_owned(),
        TargetTimeline::Numbered(timeline) => timeline.to_string(),
    }
}

/// With its offset, so that the server's time zone does not matter; to the microsecond, as PostgreSQL counts.
fn timestamp(time: Timestamp) -> String {
    format!("{}+00", time.strftime("%Y-%m-%d %H:%M:%S.%6f"))
}

fn restore_point(name: &str) -> Result<String> {
    if (1..=RESTORE_POINT_BYTES_MAX).contains(&name.len()) {
        return Ok(name.to_owned());
    }
    Err(
        Error::invalid(format!("\"{name}\" can't be the name of a restore point"))
            .detail(format!("a name has 1 to {RESTORE_POINT_BYTES_MAX} bytes"))
            .hint("`pgkeep find` lists the restore points."),
    )
}
