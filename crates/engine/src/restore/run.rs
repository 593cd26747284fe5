//! Runs a restore's plan: files, settings, and (with `--start`) recovery.
//!
//! Invariant: whatever fails, the directory can't be started before everything is in place: `files` has the settings
//! written before `pg_control`, which comes last. Starting is a step of its own, in `start`.

use std::path::{Path, PathBuf};

use pgkeep_base::{Event, RecoveryTarget, Result, ResultExt, TargetTimeline};
use pgkeep_pg::settings::{ArchiveChoice, RecoverySettings, StandbySettings};

use super::files::{self, Directory, Written};
use super::plan::RestorePlan;
use super::request::Archiving;
use super::{over, saved, settings};
use crate::engine::Engine;

/// The complete commands that PostgreSQL will run: absolute program, configuration, identity, repository.
#[derive(Clone, Debug)]
pub struct Commands {
    /// `restore_command`, with `%f` and `%p`.
    pub restore: String,
    /// `recovery_end_command`: removes the recovery settings.
    pub end: String,
    /// `archive_command`, with `%p`.
    pub archive: String,
}

/// A restored data directory, ready for `pg_ctl start`.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Where it is.
    pub data_directory: PathBuf,
    /// What was written.
    pub written: Written,
    /// What an operator should read.
    pub notes: Vec<String>,
}

/// Puts the files back and writes the recovery settings.
///
/// # Errors
/// `Corrupt` where the backup's content can't be had; `Io` for the target. The directory can't be started then, and the
/// same restore run again completes it.
pub async fn run(engine: &Engine, plan: &RestorePlan, commands: &Commands, jobs: usize) -> Result<Restored> {
    engine.setup().progress.event(Event::Phase {
        name: "write data files".to_owned(),
        bytes_total: Some(plan.bytes),
    });
    let (settings, archive) = (recovery_settings(plan, commands), archive_choice(plan, commands));
    let major = plan.major()?;
    let mut notes = Vec::new();
    let finish = async |target: &Path| {
        notes = settings::write_settings(
            target,
            &settings,
            &archive,
            major,
            plan.recovery.as_ref(),
            plan.backup.head(),
        )?;
        Ok(())
    };
    let written = match &plan.over {
        None => files::write_all(engine, &plan.reader, &plan.layout, jobs, finish).await,
        Some((existing, found)) => {
            let keep = async |target: &Directory, making| {
                over::must_be_as_found(&plan.reader, &plan.layout, existing, found).await?;
                saved::keep(engine, &plan.saved, target, making)
            };
            files::write_over(engine, &plan.reader, &plan.layout, existing, jobs, keep, finish).await
        }
    }
    .during(|| {
        format!(
            "could not restore backup {} into {}",
            plan.backup.head().id,
            plan.layout.target.display()
        )
    })?;
    Ok(Restored {
        data_directory: plan.layout.target.clone(),
        written,
        notes,
    })
}

fn recovery_settings(plan: &RestorePlan, commands: &Commands) -> RecoverySettings {
    let standby = plan.request.standby.then(StandbySettings::default);
    let (target, timeline) = match &plan.recovery {
        Some(recovery) => (
            RecoveryTarget::Lsn(recovery.target_lsn),
            TargetTimeline::Numbered(recovery.timeline),
        ),
        None => (RecoveryTarget::EndOfWal, TargetTimeline::Latest),
    };
    RecoverySettings {
        restore_command: commands.restore.clone(),
        end_command: Some(commands.end.clone()),
        target,
        inclusive: true,
        timeline,
        action: plan.request.action(),
        standby,
        in_place_tablespaces: false,
    }
}

fn archive_choice(plan: &RestorePlan, commands: &Commands) -> ArchiveChoice {
    match plan.request.archive() {
        Archiving::Off => ArchiveChoice::Off,
        Archiving::On => ArchiveChoice::On {
            command: commands.archive.clone(),
        },
        Archiving::Keep => ArchiveChoice::Keep,
    }
}
