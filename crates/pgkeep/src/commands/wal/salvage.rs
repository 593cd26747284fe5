//! `pgkeep wal salvage PGDATA`: archives what a dead server's data directory has and the archive never took.
//!
//! Invariant: the data directory is only read. It needs no identity.

use std::path::{Path, PathBuf};

use pgkeep_base::{ClusterName, Lsn, Result, ResultExt, SystemId, TimelineId};
use pgkeep_engine::wal::push::Pushed;
use pgkeep_engine::wal::salvage::{self, Extent, SalvagePlan, SalvageRequest, Salvaged};
use serde::Serialize;

use crate::assemble::{self, Wishes};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};
use crate::times;

/// The exit code where the archive has other content; everything else was stored.
const CONFLICT: u8 = 6;

/// Archive the WAL that a dead or living server's data directory has and the archive lacks
///
/// Complete segments are stored as `wal push` would, and the valid beginning of the last, unfinished one as a .partial
/// file. Nothing in the data directory is changed. Exit 3 where a file was passed over or an optional repository missed,
/// 6 where the archive has other WAL in the place of a file.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The data directory
    #[arg(value_name = "PGDATA")]
    data_directory: PathBuf,
    /// The cluster that it belongs to, where the system identifier doesn't tell
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<ClusterName>,
    /// Show what would be stored
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Shown {
    dry_run: bool,
    cluster: ClusterName,
    system_identifier: SystemId,
    data_directory: PathBuf,
    running: bool,
    /// What was, or would be, stored.
    files: Vec<File>,
    /// How many files the archive had already.
    there: u64,
    passed_over: Vec<PassedOver>,
    conflicts: Vec<PassedOver>,
    missed: Vec<Missed>,
    /// The end of the WAL in the data directory.
    end: Option<End>,
    /// What can be restored now; `null` where this host may not look.
    reachable: Option<Vec<Reachable>>,
}

#[derive(Serialize)]
struct File {
    file: String,
    /// Of an unfinished segment: the end of its last valid record.
    up_to: Option<Lsn>,
}

#[derive(Serialize)]
struct PassedOver {
    file: String,
    reason: String,
}

#[derive(Serialize)]
struct Missed {
    file: String,
    repository: String,
    reason: String,
}

#[derive(Serialize)]
struct End {
    timeline: TimelineId,
    lsn: Lsn,
    last_commit_at: Option<String>,
}

#[derive(Serialize)]
struct Reachable {
    timeline: TimelineId,
    to: Option<String>,
    to_lsn: Lsn,
    #[serde(skip)]
    time: Option<jiff::Timestamp>,
}

impl Shown {
    fn of(plan: &SalvagePlan, done: Option<&Salvaged>) -> Shown {
        let up_to = |name: &str| {
            let found = plan.lacking.iter().find(|lacking| lacking.file.to_string() == name);
            found.and_then(|lacking| match lacking.extent {
                Some(Extent::UpTo(lsn)) => Some(lsn),
                _ => None,
            })
        };
        let names: Vec<String> = match done {
            Some(done) => done.stored.iter().map(|pushed| pushed.file.clone()).collect(),
            None => plan.lacking.iter().map(|lacking| lacking.file.to_string()).collect(),
        };
        let mut conflicts: Vec<PassedOver> = plan.conflicts.iter().map(PassedOver::of).collect();
        let refused = done.into_iter().flat_map(|done| &done.refused);
        conflicts.extend(refused.map(|(file, error)| {
            PassedOver {
                file: file.clone(),
                reason: error
                    .detail_text()
                    .map_or_else(|| error.to_string(), |why| format!("{error}: {why}")),
            }
        }));
        Shown {
            dry_run: done.is_none(),
            cluster: plan.lineage.cluster.clone(),
            system_identifier: plan.lineage.system_identifier,
            data_directory: plan.data_directory.clone(),
            running: plan.running,
            files: names
                .into_iter()
                .map(|file| File {
                    up_to: up_to(&file),
                    file,
                })
                .collect(),
            there: done.map_or(plan.there, |done| done.there),
            passed_over: plan.passed_over.iter().map(PassedOver::of).collect(),
            conflicts,
            missed: done.map(missed).unwrap_or_default(),
            end: plan.end.map(|end| End {
                timeline: end.segment.timeline,
                lsn: end.lsn,
                last_commit_at: end.last_commit.map(times::utc),
            }),
            reachable: done.and_then(|done| done.reachable.as_ref()).map(|ranges| {
                let reachable = ranges.iter().map(|range| Reachable {
                    timeline: range.timeline,
                    to: range.to.map(times::utc),
                    to_lsn: range.to_lsn,
                    time: range.to,
                });
                reachable.collect()
            }),
        }
    }
}

impl PassedOver {
    fn of((file, reason): &(String, String)) -> PassedOver {
        PassedOver {
            file: file.clone(),
            reason: reason.clone(),
        }
    }
}

fn missed(done: &Salvaged) -> Vec<Missed> {
    let of_file = |pushed: &Pushed| {
        let file = pushed.file.clone();
        let missed = pushed.missed.clone().into_iter();
        missed.map(move |(repository, reason)| Missed {
            file: file.clone(),
            repository,
            reason,
        })
    };
    done.stored.iter().flat_map(of_file).collect()
}

impl View for Shown {
    fn text(&self, page: &mut Page) {
        page.field(
            "cluster",
            format!("{} (system identifier {})", self.cluster, self.system_identifier),
        );
        let state = if self.running { ", in which a server runs" } else { "" };
        page.field("from", format!("{}{state}", self.data_directory.display()));
        let verb = if self.dry_run { "would store" } else { "stored" };
        for file in &self.files {
            let up_to = file
                .up_to
                .map_or_else(String::new, |lsn| format!(", valid up to {lsn}"));
            page.field(verb, format!("{}{up_to}", file.file));
        }
        if self.files.is_empty() {
            page.field(verb, "nothing: the archive has all of it");
        }
        page.field("had already", format!("{} files", self.there));
        for file in &self.passed_over {
            page.field("passed over", format!("{}: {}", file.file, file.reason));
        }
        for file in &self.conflicts {
            page.field("CONFLICT", format!("{}: {}", file.file, file.reason));
        }
        if let Some(end) = &self.end {
            page.field("its WAL ends", format!("at {} on timeline {}", end.lsn, end.timeline));
        }
        match &self.reachable {
            Some(ranges) if ranges.is_empty() => page.field("recovery", "not possible: there is no backup of it"),
            Some(ranges) => {
                for range in ranges {
                    let time = range
                        .time
                        .map_or_else(String::new, |time| format!(" ({})", page.time(time)));
                    page.field(
                        "recovery",
                        format!("possible up to {}{time} on timeline {}", range.to_lsn, range.timeline),
                    );
                }
            }
            None => {}
        }
        if self.dry_run {
            page.line("Nothing was stored.");
        }
    }
}

/// Salvages, or shows what would be stored.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let wishes = Wishes {
        writes: true,
        ..Wishes::default()
    };
    let assembled = assemble::engine(context, &wishes)?;
    let engine = &assembled.engine;
    let data_directory = context.path(&arguments.data_directory);
    let request = SalvageRequest {
        data_directory: data_directory.clone(),
        cluster: arguments.cluster.clone(),
    };
    let work = async {
        let plan = salvage::plan(engine, &request).await?;
        let done = match arguments.dry_run {
            true => None,
            false => Some(salvage::run(engine, &plan).await?),
        };
        Ok(Shown::of(&plan, done.as_ref()))
    };
    let result = runtime::run(Threads::Current, work).during(|| during(&data_directory));
    assembled.display.finish();
    let shown = result?;
    for missed in &shown.missed {
        context.output.warn(&format!(
            "{} is not in the optional repository \"{}\": {}",
            missed.file, missed.repository, missed.reason
        ));
    }
    context.output.print(&shown)?;
    Ok(
        match (
            shown.conflicts.is_empty(),
            shown.missed.is_empty() && shown.passed_over.is_empty(),
        ) {
            (false, _) => Outcome::Code(CONFLICT),
            (true, false) => Outcome::Impaired,
            (true, true) => Outcome::Done,
        },
    )
}

fn during(data_directory: &Path) -> String {
    format!("could not salvage the WAL of {}", data_directory.display())
}
