//! `pgkeep demo`: backup, disaster, point-in-time recovery and proof, with real data, on a scratch cluster.
//!
//! Invariant: all is done by this very program and PostgreSQL's own, run as commands that are printed and can be
//! repeated; nothing is outside of one temporary directory; whatever ends the demo, its servers are stopped and the
//! directory is removed, unless `--keep` says otherwise. Where things are: `scratch`; what a step may do: `stage`.

mod act;
mod compare;
mod environment;
mod hurt;
mod prepare;
mod program;
mod proof;
mod refusals;
mod report;
mod restore;
mod scratch;
mod stage;

use std::sync::Arc;
use std::time::Instant;

use pgkeep_base::{Error, Result, ResultExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::context::Context;
use crate::exit::{self, Outcome};
use crate::runtime::{self, Threads};
use report::{Report, Step, Teller};
use scratch::{Guard, Scratch};
use stage::{Stage, Told};

/// Show backup, disaster and recovery on a scratch cluster
///
/// Needs PostgreSQL's programs on this machine and about 1 GiB below the temporary directory; no configuration, no
/// network. Takes less than a minute. PGKEEP_POSTGRES_BIN names the directory of PostgreSQL's programs.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Leave everything as it is at the end, and say how to look at it
    #[arg(long)]
    keep: bool,
}

/// Plays the demo.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    environment::leave_behind()?;
    let (report, failure) = runtime::run(Threads::Two, until_hangup(play(arguments.keep, context)))?;
    report.print(&context.output)?;
    match failure {
        None => Ok(Outcome::Done),
        Some(error) => Err(error),
    }
}

/// A terminal that was closed ends the demo as an interrupt does.
async fn until_hangup<T>(playing: impl Future<Output = Result<T>>) -> Result<T> {
    let mut hangup = signal(SignalKind::hangup()).during(|| "listen for signals")?;
    tokio::select! {
        result = playing => result,
        _ = hangup.recv() => {
            exit::note_signal(1);
            Err(Error::cancelled("the terminal was closed"))
        }
    }
}

/// The report, and the first failure; an error where it could not even begin.
async fn play(keep: bool, context: &Context) -> Result<(Report, Option<Error>)> {
    let scratch = Scratch::create()?;
    let guard = Guard::new(&scratch, keep, &context.output);
    let mut stage = Stage::set(Arc::clone(&scratch), context)?;
    let mut show = Show {
        teller: Teller::new(Arc::clone(&context.output)),
        report: Report::new(&stage),
        failure: None,
    };
    show.teller.open(&show.report);
    show.story(&mut stage).await;
    if keep {
        show.report.kept = Some(stage.how_to_look());
    } else {
        show.step(&mut stage, "clean-up", clean_up).await;
    }
    guard.done();
    Ok(show.close())
}

struct Show {
    teller: Teller,
    report: Report,
    failure: Option<Error>,
}

impl Show {
    /// The acts in their order; each needs those before it, except that both refusals are shown in any case.
    async fn story(&mut self, stage: &mut Stage) {
        let went_well = self.step(stage, "start-cluster", prepare::start_cluster).await
            && self.step(stage, "make-keys", prepare::make_keys).await
            && self.step(stage, "create-repository", prepare::create_repository).await
            && self.step(stage, "load", act::load).await
            && self.step(stage, "backup", act::backup).await
            && self.step(stage, "more-load", act::more_load).await
            && self.step(stage, "incremental-backup", act::incremental_backup).await
            && self.step(stage, "business", act::business).await
            && self.step(stage, "drop-table", act::drop_table).await
            && self.step(stage, "window", act::window).await
            && self.step(stage, "restore-point-in-time", restore::to_just_before).await
            && self.step(stage, "proof", proof::every_row).await;
        if went_well {
            self.step(stage, "flipped-byte", refusals::flipped_byte).await;
            self.step(stage, "missing-segment", refusals::missing_segment).await;
        }
    }

    /// Plays one step and tells how it went; false where it failed.
    async fn step(
        &mut self,
        stage: &mut Stage,
        name: &'static str,
        act: impl AsyncFnOnce(&mut Stage) -> Result<Told>,
    ) -> bool {
        self.teller.begin(name);
        let began = Instant::now();
        let result = act(stage).await;
        let commands = stage.take_commands();
        let (told, failure) = match result {
            Ok(told) => (told, None),
            Err(error) => (Told::failed(&error), Some(error)),
        };
        let step = Step::new(name, failure.is_none(), began.elapsed(), commands, told);
        self.teller.end(&step);
        self.report.steps.push(step);
        let ok = failure.is_none();
        self.failure = self.failure.take().or(failure);
        ok
    }

    fn close(self) -> (Report, Option<Error>) {
        let mut report = self.report;
        report.ok = self.failure.is_none();
        (report, self.failure)
    }
}

async fn clean_up(stage: &mut Stage) -> Result<Told> {
    stage.scratch().clean_up()?;
    Ok(Told::new("stopped both servers, removed the directory"))
}
