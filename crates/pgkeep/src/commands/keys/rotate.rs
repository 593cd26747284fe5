//! `pgkeep keys rotate`: seals everything to new recipients from now on; with `--rewrap` opens what is there for them.
//!
//! Invariant: the configuration and the repository file never disagree afterwards on this host, and what the change
//! can't do is said with what it did. How it is done, and in which order: `pgkeep_engine::keys`.

use std::path::PathBuf;

use pgkeep_base::{Error, Result, ResultExt};
use pgkeep_engine::Engine;
use pgkeep_engine::keys::{Rewrapped, Rotation, plan_rotation, rewrap, run_rotation};
use pgkeep_repo::keys::Recipient;
use pgkeep_repo::seal::SealMode;
use pgkeep_store::ObjectName;
use serde::Serialize;

use crate::assemble::{self, Wishes};
use crate::config::Config;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// Seal to other recipients from now on, in every place and for every host
///
/// The new list is that of `recipients` below [encryption]: change it there, then run this; where the configuration has
/// none, name the list with --recipients. It takes the place of the old one.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// All recipients from now on, where the configuration names none
    #[arg(long, value_name = "age1…", value_delimiter = ',')]
    recipients: Vec<String>,
    /// Make what was sealed before open for the new recipients, too; needs an identity that opens it
    #[arg(long)]
    rewrap: bool,
    /// Identity for --rewrap [default: PGKEEP_IDENTITY_FILE, restore.identity_file]
    #[arg(long, value_name = "FILE", requires = "rewrap")]
    identity: Option<PathBuf>,
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Rotated {
    dry_run: bool,
    recipients: Vec<String>,
    added: Vec<String>,
    removed: Vec<String>,
    repository_file: PathBuf,
    /// Whether the repository file of this host changed (or would).
    repository_file_changed: bool,
    /// Whether the repository was told (or would be).
    repository_told: bool,
    control_object: Option<ObjectName>,
    rewrap: Option<Rewrap>,
    /// What is left to do, and what this can't do.
    next: Vec<String>,
}

#[derive(Serialize)]
struct Rewrap {
    complete: bool,
    objects: u64,
    wrapped: u64,
    already: u64,
    /// Sealed since the recipients changed, so that only theirs open it.
    newer: u64,
    closed: u64,
    unusable: u64,
    /// Some of those that were left out.
    left_out: Vec<LeftOut>,
}

#[derive(Serialize)]
struct LeftOut {
    object: ObjectName,
    why: String,
}

impl View for Rotated {
    fn text(&self, page: &mut Page) {
        let would = if self.dry_run { "would be " } else { "" };
        for recipient in &self.recipients {
            let new = if self.added.contains(recipient) { " (new)" } else { "" };
            page.field("sealed to", format!("{recipient}{new}"));
        }
        for recipient in &self.removed {
            page.field("no longer to", recipient);
        }
        let file = self.repository_file.display();
        page.line(match self.repository_file_changed {
            true => format!("repository file {file} {would}changed"),
            false => format!("repository file {file} says so already"),
        });
        page.line(match (&self.control_object, self.repository_told) {
            (Some(object), _) => format!("the repository records it as {object}"),
            (None, true) => "the repository would record it".to_owned(),
            (None, false) => "the repository has nothing new to record".to_owned(),
        });
        if let Some(rewrap) = &self.rewrap {
            rewrap.text(page);
        }
        for next in &self.next {
            page.line("");
            page.line(next);
        }
    }
}

impl Rewrap {
    fn text(&self, page: &mut Page) {
        page.line(format!(
            "of {} sealed objects {} open for the recipients of now, too ({} newly), and {} are sealed to them anyway",
            self.objects,
            self.wrapped + self.already,
            self.wrapped,
            self.newer
        ));
        if self.closed > 0 {
            page.line(format!("{} don't open for the identity at hand", self.closed));
        }
        if self.unusable > 0 {
            page.line(format!(
                "{} are damaged, or signed by nobody who is trusted",
                self.unusable
            ));
        }
        for left_out in &self.left_out {
            page.line(format!("  {}: {}", left_out.object, left_out.why));
        }
    }
}

impl From<Rewrapped> for Rewrap {
    fn from(done: Rewrapped) -> Rewrap {
        let left_out = |(object, why)| LeftOut { object, why };
        Rewrap {
            complete: done.is_complete(),
            objects: done.objects,
            wrapped: done.wrapped,
            already: done.already,
            newer: done.newer,
            closed: done.closed,
            unusable: done.unusable,
            left_out: done.left_out.into_iter().map(left_out).collect(),
        }
    }
}

/// Rotates.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let wishes = Wishes {
        writes: !arguments.dry_run,
        identity: arguments.identity.clone(),
        with_identity: arguments.rewrap,
        any_recipients: true,
        ..Wishes::default()
    };
    let assembled = assemble::engine(context, &wishes)?;
    let (engine, config) = (&assembled.engine, &assembled.config);
    let recipients = wanted(arguments, config, engine)?;
    let rotated = runtime::run(Threads::Two, async {
        let plan = plan_rotation(engine, recipients).await?;
        match arguments.dry_run {
            true => Ok(shown(&plan, config, arguments.rewrap)),
            false => rotate(engine, &plan, config, arguments.rewrap).await,
        }
    });
    assembled.display.finish();
    let rotated = rotated?;
    context.output.print(&rotated)?;
    let complete = rotated.rewrap.as_ref().is_none_or(|rewrap| rewrap.complete);
    Ok(if complete { Outcome::Done } else { Outcome::Impaired })
}

/// The list that is to hold.
fn wanted(arguments: &Arguments, config: &Config, engine: &Engine) -> Result<Vec<Recipient>> {
    let parse = |texts: &[String]| -> Result<Vec<Recipient>> { texts.iter().map(|text| text.parse()).collect() };
    let configured = parse(&config.recipients).during(|| "read `encryption.recipients`")?;
    let named = parse(&arguments.recipients)?;
    let sorted = |list: &[Recipient]| pgkeep_repo::control::recipients::sorted(list);
    match (&configured[..], &named[..]) {
        ([], []) => match &engine.setup().repository.mode {
            SealMode::Age(recipients) if arguments.rewrap => Ok(recipients.clone()),
            _ => Err(Error::invalid("to whom shall everything be sealed?")
                .hint("Name all recipients, also those that stay: `pgkeep keys rotate --recipients age1…,age1…`.")),
        },
        ([], _) => Ok(named),
        (_, []) => Ok(configured),
        _ if sorted(&configured) == sorted(&named) => Ok(configured),
        _ => Err(
            Error::invalid("the configuration names other recipients than --recipients")
                .detail("every other command refuses to run while configuration and repository file disagree")
                .hint(
                    "Change `recipients` below [encryption] first, then run `pgkeep keys rotate` without --recipients.",
                ),
        ),
    }
}

async fn rotate(engine: &Engine, plan: &Rotation, config: &Config, also_rewrap: bool) -> Result<Rotated> {
    let (control_object, sealing) = run_rotation(engine, plan, &config.repository_file).await?;
    let rewrap = match also_rewrap {
        true => Some(rewrap(&sealing).await?.into()),
        false => None,
    };
    Ok(Rotated {
        dry_run: false,
        control_object,
        rewrap,
        ..shown(plan, config, also_rewrap)
    })
}

fn shown(plan: &Rotation, config: &Config, also_rewrap: bool) -> Rotated {
    Rotated {
        dry_run: true,
        recipients: plan.after(),
        added: plan.added(),
        removed: plan.removed(),
        repository_file: config.repository_file.clone(),
        repository_file_changed: plan.changes_file(),
        repository_told: plan.tells_repository(),
        control_object: None,
        rewrap: None,
        next: next(plan, config, also_rewrap),
    }
}

fn next(plan: &Rotation, config: &Config, also_rewrap: bool) -> Vec<String> {
    let mut next = Vec::new();
    if plan.changes_file() || plan.tells_repository() {
        let file = config.repository_file.display();
        next.push(format!(
            "Copy {file} to every other host of this configuration, database hosts first, and set `recipients` below \
             [encryption] there to the same list where it is set: until then they go on sealing to the recipients of \
             before. `pgkeep status` tells while the newest backup is sealed to others."
        ));
    }
    if !plan.added().is_empty() && !also_rewrap {
        next.push(
            "What was sealed before doesn't open for the new recipients, and the next backup stores everything anew. \
             Whoever has an identity of before makes it open: `pgkeep keys rotate --rewrap --identity FILE`."
                .to_owned(),
        );
    }
    if !plan.removed().is_empty() {
        next.push(
            "An identity of a recipient that was removed still opens what was sealed to it: rotation does not take \
             that back."
                .to_owned(),
        );
    }
    if plan.after().len() == 1 {
        next.push(
            "One recipient: if its identity is lost, so is everything. Add a second one, kept offline.".to_owned(),
        );
    }
    next
}
