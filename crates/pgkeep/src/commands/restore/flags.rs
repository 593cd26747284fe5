//! The flags of `pgkeep restore`, and the request that they make.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgGroup, ValueEnum};
use jiff::Timestamp;
use pgkeep_base::{BackupId, ClusterName, Error, Lsn, RecoveryTarget, Result, TargetTimeline, TimelineId};
use pgkeep_engine::restore::{Archiving, RestoreRequest};
use pgkeep_pg::settings::TargetAction;

use crate::context::Context;
use crate::times;

/// Restore a cluster into a new directory, ready to start
///
/// The target is checked before anything is touched: what can't be reached is refused (exit 4), with the nearest
/// moments that can. Without a target, everything in the archive is recovered.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("target").multiple(false))]
pub struct Arguments {
    /// The cluster; may be left out where only one is configured
    pub cluster: Option<ClusterName>,
    /// The data directory to be: absent or empty, unless with --delta
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// This backup, or `latest`, instead of the one that fits
    #[arg(long, value_name = "ID|latest")]
    pub backup: Option<BackupChoice>,
    /// Use only this repository
    #[arg(long, value_name = "NAME")]
    pub repository: Vec<String>,
    /// Identity that decrypts [default: PGKEEP_IDENTITY_FILE, restore.identity_file]
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,

    /// Everything in the archive (default)
    #[arg(long, group = "target", help_heading = "Target")]
    pub latest: bool,
    /// Just before the first commit past this time: RFC 3339, `2026-09-20 14:03 Europe/Berlin`, `5 minutes ago`
    #[arg(long, value_name = "TIME", group = "target", help_heading = "Target")]
    pub at: Option<String>,
    /// The record that begins at this LSN
    #[arg(long, group = "target", help_heading = "Target")]
    pub lsn: Option<Lsn>,
    /// The end of this transaction
    #[arg(long, group = "target", help_heading = "Target")]
    pub xid: Option<u32>,
    /// A restore point, such as `pgkeep mark` makes
    #[arg(long, value_name = "NAME", group = "target", help_heading = "Target")]
    pub restore_point: Option<String>,
    /// The end of the backup
    #[arg(long, group = "target", help_heading = "Target")]
    pub immediate: bool,
    /// Stop just before the target
    #[arg(long, help_heading = "Target")]
    pub exclusive: bool,
    /// The timeline to end on: a number, `latest` or `current` (the backup's) [default: latest]
    #[arg(long, value_name = "N|latest|current", value_parser = timeline, help_heading = "Target")]
    pub timeline: Option<TargetTimeline>,
    /// What PostgreSQL does at the target [default: promote for --latest, else pause]
    #[arg(long, help_heading = "Target")]
    pub action: Option<Action>,

    /// Whether the copy archives [default: off; keep with --standby]
    #[arg(long)]
    pub archive: Option<Archive>,
    /// Make a standby that follows the archive
    #[arg(long, conflicts_with_all = ["target", "exclusive", "action"])]
    pub standby: bool,
    /// Restore over the cluster that is there, of the same system identifier: keep what fits, fetch what differs,
    /// remove what is too much. Its WAL that the archive lacks is saved first, and counts
    #[arg(long)]
    pub delta: bool,
    /// Put a tablespace elsewhere
    ///
    /// Write `\=` for an equals sign in a path.
    #[arg(long, value_name = "OLD=NEW", value_parser = OsStringValueParser::new().try_map(tablespace))]
    pub tablespace: Vec<(PathBuf, PathBuf)>,
    /// Accept signers that nothing vouches for
    #[arg(long)]
    pub accept_signer: bool,
    /// Requests in work at once, 1 to 6 [default: number of processors, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=6))]
    pub jobs: Option<u8>,
    /// Start the cluster and wait until recovery has ended
    #[arg(long)]
    pub start: bool,
    /// Port to start on [default: any that is free]
    #[arg(long, value_name = "N", requires = "start", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Ask the started cluster whether it works; exit 8 where it doesn't
    #[arg(long, requires = "start")]
    pub check: bool,
    /// Show what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// Which backup.
#[derive(Clone, Debug)]
pub enum BackupChoice {
    /// The newest.
    Latest,
    /// That one.
    Id(BackupId),
}

impl std::str::FromStr for BackupChoice {
    type Err = Error;
    fn from_str(text: &str) -> Result<BackupChoice> {
        if text == "latest" {
            Ok(BackupChoice::Latest)
        } else {
            text.parse().map(BackupChoice::Id)
        }
    }
}

/// What PostgreSQL does at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Open for writing, on a new timeline
    Promote,
    /// Open for reading, and wait
    Pause,
    /// Shut down
    Shutdown,
}

/// Whether the copy archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Archive {
    /// No, until `pgkeep adopt`
    Off,
    /// Yes, to this configuration's repositories
    On,
    /// As the source did
    Keep,
}

fn timeline(text: &str) -> Result<TargetTimeline, String> {
    match text {
        "latest" => Ok(TargetTimeline::Latest),
        "current" => Ok(TargetTimeline::Current),
        number => number
            .parse()
            .ok()
            .and_then(TimelineId::new)
            .map(TargetTimeline::Numbered)
            .ok_or_else(|| "a timeline is a number from 1 on, `latest` or `current`".to_owned()),
    }
}

/// `OLD=NEW`, split at the first equals sign without a backslash before it. Paths are bytes.
fn tablespace(text: OsString) -> Result<(PathBuf, PathBuf), String> {
    let mut paths = [Vec::new(), Vec::new()];
    let mut at = 0;
    let mut bytes = text.as_bytes().iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if bytes.peek() == Some(&&b'=') => paths[at].extend(bytes.next()),
            b'=' if at == 0 => at = 1,
            byte => paths[at].push(*byte),
        }
    }
    let [old, new] = paths.map(|path| PathBuf::from(OsString::from_vec(path)));
    match old.as_os_str().is_empty() || new.as_os_str().is_empty() {
        true => Err("write it as OLD=NEW".to_owned()),
        false => Ok((old, new)),
    }
}

impl Arguments {
    /// What is asked of the engine; the backup, where one is named, is put in later.
    ///
    /// # Errors
    /// `Invalid` for a time that can't be read.
    pub fn request(&self, context: &Context, now: Timestamp) -> Result<RestoreRequest> {
        Ok(RestoreRequest {
            cluster: self.cluster.clone(),
            into: context.path(&self.into),
            backup: None,
            target: self.target(context, now)?,
            exclusive: self.exclusive,
            timeline: self.timeline.unwrap_or_default(),
            action: self.action.map(|action| match action {
                Action::Promote => TargetAction::Promote,
                Action::Pause => TargetAction::Pause,
                Action::Shutdown => TargetAction::Shutdown,
            }),
            archive: self.archive.map(|archive| match archive {
                Archive::Off => Archiving::Off,
                Archive::On => Archiving::On,
                Archive::Keep => Archiving::Keep,
            }),
            standby: self.standby,
            tablespaces: self.tablespace.clone(),
            delta: self.delta,
            precious: Vec::new(),
        })
    }

    fn target(&self, context: &Context, now: Timestamp) -> Result<RecoveryTarget> {
        Ok(match (&self.at, self.lsn, self.xid, &self.restore_point) {
            (Some(text), ..) => {
                let moment = times::read(text, &context.reading(now))?;
                if moment.zone_assumed {
                    context
                        .output
                        .note(&format!("\"{text}\" is read as local time: {}", times::utc(moment.at)));
                }
                RecoveryTarget::Time(moment.at)
            }
            (_, Some(lsn), ..) => RecoveryTarget::Lsn(lsn),
            (_, _, Some(xid), _) => RecoveryTarget::Xid(xid),
            (_, _, _, Some(name)) => RecoveryTarget::Name(name.clone()),
            _ if self.immediate => RecoveryTarget::Immediate,
            _ => RecoveryTarget::EndOfWal,
        })
    }
}
