//! Destroys hosts, restores them, and compares with what was acknowledged; for development only.
//!
//! It starts nothing but the real `pgkeep`, PostgreSQL and an S3 server. Everything that is left to chance follows from
//! the seed (`draw`), except for the moments at which faults strike. A cycle is in `cycle`; what it works with in
//! `world`; what it does in `actions` and `failover`; what must come back in `claims`, and whether it does in `audit`;
//! `report` writes down what came of it and `table` counts that. `lies` shows that a pgkeep that lies is found out.

// A panic is how a cycle fails: helpers panic instead of returning what every caller would unwrap.
#![allow(clippy::unwrap_used)]

mod actions;
mod audit;
mod claims;
mod cycle;
mod damage;
mod document;
mod draw;
mod failover;
mod inventory;
mod killer;
#[cfg(test)]
mod lies;
mod report;
mod table;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Parser;
use pgkeep_testkit::Run;
use pgkeep_testkit::faults::disk::Disk;

use crate::cycle::Stage;
use crate::draw::Draw;
use crate::report::Report;

/// Destroy hosts, restore them, and compare with what was acknowledged
#[derive(Debug, Parser)]
struct Arguments {
    /// What decides on everything that is left to chance [default: by chance; with --brief always the same]
    #[arg(long)]
    seed: Option<u64>,
    /// The first cycle's number: goes on with a longer run, or repeats one of its cycles
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many cycles
    #[arg(long, default_value_t = 10)]
    cycles: u64,
    /// Begins no further cycle after so many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// Few faults and little work in each cycle, for a gate
    #[arg(long)]
    brief: bool,
    /// Goes on after a failure
    #[arg(long)]
    keep_going: bool,
    /// Appends a JSON document for each cycle to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Writes the table of all that the report holds into this document, between its marks
    #[arg(long, value_name = "FILE", requires = "report")]
    document: Option<PathBuf>,
    /// Keeps what a failed cycle leaves in a directory below this one
    #[arg(long, value_name = "DIR", default_value = "/tmp/pgkeep-chaos")]
    keep: PathBuf,
    /// The program under test
    #[arg(long, value_name = "FILE")]
    pgkeep: PathBuf,
    /// What it was built from, for the report
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    revision: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let failed = go(&arguments);
    if let (Some(document), Some(report)) = (&arguments.document, &arguments.report) {
        document::renew(document, "scripts/chaos", &table::of(report));
    }
    ExitCode::from(u8::from(failed > 0))
}

/// Goes through all cycles; how many failed.
fn go(arguments: &Arguments) -> u64 {
    let seed = arguments.seed.or_else(pgkeep_testkit::seed::given);
    let draw = draw(seed, arguments.brief);
    let seed = draw.seed;
    remember_panics();
    let begun = Instant::now();
    let mut stage = Stage::default();
    let (mut done, mut failed, mut commits, mut restores) = (0u64, 0u64, 0u64, 0u64);
    let late = |begun: Instant| {
        let allowed = arguments.minutes.map(|minutes| Duration::from_secs(minutes * 60));
        allowed.is_some_and(|allowed| begun.elapsed() > allowed)
    };
    for number in arguments.from..arguments.from.saturating_add(arguments.cycles) {
        if late(begun) {
            break;
        }
        let failure = one(arguments, &mut stage, &draw, number);
        done += 1;
        failed += u64::from(failure);
        commits += stage.found.commits;
        restores += stage.found.audited.restores;
        if failure && !arguments.keep_going {
            break;
        }
    }
    drop(stage);
    println!(
        "{done} cycles, {failed} failed; {commits} commits acknowledged, {restores} restores compared; seed {seed}; {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    failed
}

/// Runs one cycle and reports it; true for a failure.
fn one(arguments: &Arguments, stage: &mut Stage, draw: &Draw, number: u64) -> bool {
    let cycle = draw.cycle(number);
    let installation = draw.installation(cycle.since);
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        cycle::run(stage, &cycle, &installation, &arguments.pgkeep)
    }));
    let failure = outcome.err().map(|_| last_panic());
    let since = stage.since.unwrap_or(number);
    let report = Report::new(draw, &cycle, &installation, stage, begun.elapsed(), failure.as_deref());
    println!("{report}");
    if let Some(path) = &arguments.report {
        report.append(path, &arguments.revision);
    }
    let Some(failure) = failure else { return false };
    println!("{failure}");
    let Draw { seed, brief, .. } = draw;
    keep(stage, &arguments.keep.join(format!("{seed}-{number}")), &failure);
    println!(
        "repeat with: scripts/chaos --seed {seed} --from {since} --cycles {}{}",
        number - since + 1,
        if *brief { " --brief" } else { "" }
    );
    true
}

/// What the machine allows, said where that is not all.
fn draw(seed: Option<u64>, brief: bool) -> Draw {
    let usual = || if brief { draw::BRIEF_SEED } else { rand::random() };
    Draw {
        seed: seed.unwrap_or_else(usual),
        brief,
        mounts: Disk::memory("size=1m", "full disks").is_some(),
        loops: Disk::ext4(4, "power cuts").is_some(),
    }
}

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// The first panic of a cycle is its failure; those that follow while things are torn down say less.
fn remember_panics() {
    std::panic::set_hook(Box::new(|info| {
        let mut last = LAST_PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_empty() {
            *last = info.to_string();
        }
    }));
}

fn last_panic() -> String {
    let mut last = LAST_PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::mem::take(&mut *last)
}

/// Saves what is there of an installation, and ends it.
fn keep(stage: &mut Stage, into: &Path, failure: &str) {
    let Some(mut world) = stage.world.take() else { return };
    let saved = std::fs::create_dir_all(into).and_then(|()| std::fs::write(into.join("failure"), failure));
    if let Err(error) = saved {
        println!("could not keep anything in {}: {error}", into.display());
        return;
    }
    world.shop.cluster.kill9();
    let log = std::fs::write(into.join("postgresql.log"), world.shop.cluster.log());
    log.unwrap_or_else(|error| println!("could not keep the log of PostgreSQL: {error}"));
    for (name, from) in world.belongings() {
        Run::new("/bin/cp").arg("-a").arg(from).arg(into.join(name)).run();
    }
    println!("kept in {}", into.display());
}
