//! `pgkeep keys trust` and `keys distrust`: whose signatures count, for every host or for this one.
//!
//! Invariant: without `--repository-file` nothing of this host changes, and with it nothing else does.

use jiff::Timestamp;
use pgkeep_base::{Clock, Result, SystemClock};
use pgkeep_engine::keys::{plan_distrust, plan_trust, run_distrust, run_trust};
use pgkeep_repo::control::signers::SignerChange;
use pgkeep_repo::repofile::RepositoryFile;
use pgkeep_repo::sign::Fingerprint;
use pgkeep_store::ObjectName;
use serde::Serialize;
use std::path::PathBuf;

use crate::assemble::{self, Wishes};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};
use crate::times;

/// Believe what a signer signs: on every host, by a control object in the repository
#[derive(Debug, clap::Args)]
pub struct TrustArguments {
    /// Its fingerprint, s-…; a refusal names it, and `keys list` on its host
    #[arg(value_name = "FINGERPRINT")]
    signer: Fingerprint,
    /// What people call it, such as its host
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// Change this host's repository file alone: where no host is left that others trust
    #[arg(long)]
    repository_file: bool,
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Believe a signer no longer: on every host, by a control object in the repository
///
/// What it signed with an earlier time stays believed. Whoever has the key can choose the times that it signs: name a
/// moment from before it could have been stolen.
#[derive(Debug, clap::Args)]
pub struct DistrustArguments {
    /// Its fingerprint, s-…
    #[arg(value_name = "FINGERPRINT")]
    signer: Fingerprint,
    /// Documents that bear this time or a later one are refused [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Change this host's repository file alone: the signer has no say in who else is trusted then
    #[arg(long)]
    repository_file: bool,
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Changed {
    dry_run: bool,
    signer: Fingerprint,
    /// From when on it is not believed; `null` where it is.
    withdrawn_from: Option<Timestamp>,
    /// It was so already.
    already: bool,
    control_object: Option<ObjectName>,
    repository_file: Option<PathBuf>,
    /// Whom the withdrawn signer enrolled and who stays trusted.
    keeps: Vec<Kept>,
}

#[derive(Serialize)]
struct Kept {
    signer: Fingerprint,
    name: String,
}

impl View for Changed {
    fn text(&self, page: &mut Page) {
        let would = if self.dry_run { "would be " } else { "is " };
        page.line(match self.withdrawn_from {
            None => format!("{} {would}trusted", self.signer),
            Some(from) => format!("what {} signed from {} on {would}refused", self.signer, page.time(from)),
        });
        if self.already {
            page.line("it was so already");
        }
        if let Some(object) = &self.control_object {
            page.line(format!("every host learns it from {object}"));
        }
        if let Some(file) = &self.repository_file {
            page.line(format!(
                "only this host knows: {} has to be copied to every other one that reads",
                file.display()
            ));
        }
        for kept in &self.keeps {
            page.line(format!(
                "it enrolled {} {}, which stays trusted: `pgkeep keys distrust {}` if it isn't yours",
                kept.signer, kept.name, kept.signer
            ));
        }
    }
}

/// Enrols.
pub fn trust(arguments: &TrustArguments, context: &Context) -> Result<Outcome> {
    let signer = arguments.signer.clone();
    if arguments.repository_file {
        let trusting = signer.clone();
        return in_file(arguments.dry_run, context, signer, None, move |file| {
            file.trust_signer(trusting)
        });
    }
    let wishes = Wishes {
        writes: !arguments.dry_run,
        ..Wishes::default()
    };
    let engine = assemble::engine(context, &wishes)?.engine;
    let changed = runtime::run(Threads::Two, async {
        let plan = plan_trust(&engine, signer, arguments.name.clone()).await?;
        let control_object = match arguments.dry_run {
            true => None,
            false => run_trust(&engine, &plan).await?,
        };
        Ok(Changed {
            dry_run: arguments.dry_run,
            signer: plan.signer,
            withdrawn_from: None,
            already: plan.already,
            control_object,
            repository_file: None,
            keeps: Vec::new(),
        })
    })?;
    context.output.print(&changed)?;
    Ok(Outcome::Done)
}

/// Withdraws.
pub fn distrust(arguments: &DistrustArguments, context: &Context) -> Result<Outcome> {
    let signer = arguments.signer.clone();
    let from = moment(arguments.from.as_deref(), context)?;
    if arguments.repository_file {
        let withdrawn = signer.clone();
        return in_file(arguments.dry_run, context, signer, Some(from), move |file| {
            file.withdraw_signer(withdrawn, from)
        });
    }
    let wishes = Wishes {
        writes: !arguments.dry_run,
        ..Wishes::default()
    };
    let engine = assemble::engine(context, &wishes)?.engine;
    let changed = runtime::run(Threads::Two, async {
        let plan = plan_distrust(&engine, signer, from).await?;
        let control_object = match arguments.dry_run {
            true => None,
            false => run_distrust(&engine, &plan).await?,
        };
        let kept = plan.keeps.into_iter().filter_map(|statement| match statement.change {
            SignerChange::Add { add, name } => Some(Kept { signer: add, name }),
            SignerChange::Remove { .. } => None,
        });
        Ok(Changed {
            dry_run: arguments.dry_run,
            keeps: kept.collect(),
            signer: plan.signer,
            withdrawn_from: Some(plan.from),
            already: plan.already,
            control_object,
            repository_file: None,
        })
    })?;
    context.output.print(&changed)?;
    Ok(Outcome::Done)
}

fn moment(text: Option<&str>, context: &Context) -> Result<Timestamp> {
    let now = SystemClock.now();
    let Some(text) = text else { return Ok(now) };
    let moment = times::read(text, &context.reading(now))?;
    if moment.zone_assumed {
        let utc = times::utc(moment.at);
        context.output.note(&format!("\"{text}\" is read as local time: {utc}"));
    }
    Ok(moment.at)
}

/// Changes the repository file of this host; `change` says whether there was anything to change.
fn in_file(
    dry_run: bool,
    context: &Context,
    signer: Fingerprint,
    withdrawn_from: Option<Timestamp>,
    change: impl FnOnce(&mut RepositoryFile) -> bool,
) -> Result<Outcome> {
    let path = context.config()?.repository_file;
    let changes = match dry_run {
        true => change(&mut RepositoryFile::load(&path)?),
        false => RepositoryFile::update(&path, change)?,
    };
    context.output.print(&Changed {
        dry_run,
        signer,
        withdrawn_from,
        already: !changes,
        control_object: None,
        repository_file: Some(path),
        keeps: Vec::new(),
    })?;
    Ok(Outcome::Done)
}
