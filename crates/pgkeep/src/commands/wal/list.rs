//! `pgkeep wal list`: which segments are archived, and which are missing. Needs no identity.

use pgkeep_base::{ClusterName, Lsn, Result, ResultExt, SystemId, TimelineId};
use pgkeep_engine::wal::list::{self, LineageListing, TimelineListing};
use serde::Serialize;

use crate::assemble::{self, Wishes};
use crate::commands::list::known_cluster;
use crate::commands::window::Gap;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// List archived WAL, timeline by timeline
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only that of this cluster
    cluster: Option<ClusterName>,
    /// Show only what is missing or in conflict
    #[arg(long)]
    gaps: bool,
}

#[derive(Serialize)]
struct Listing {
    lineages: Vec<Lineage>,
    #[serde(skip)]
    only_gaps: bool,
}

#[derive(Serialize)]
struct Lineage {
    cluster: ClusterName,
    system_identifier: SystemId,
    timelines: Vec<Timeline>,
    gaps: Vec<Gap>,
    conflicts: Vec<String>,
}

#[derive(Serialize)]
struct Timeline {
    timeline: TimelineId,
    forked_from: Option<Fork>,
    /// Whether its history is known.
    explained: bool,
    runs: Vec<Run>,
    /// Segments of which only the beginning is archived.
    partials: Vec<String>,
}

#[derive(Serialize)]
struct Fork {
    timeline: TimelineId,
    lsn: Lsn,
}

#[derive(Serialize)]
struct Run {
    first: String,
    last: String,
    segments: u64,
}

impl Lineage {
    fn of(listing: &LineageListing) -> Lineage {
        Lineage {
            cluster: listing.lineage.cluster.clone(),
            system_identifier: listing.lineage.system_identifier,
            timelines: listing.timelines.iter().map(Timeline::of).collect(),
            gaps: listing.gaps.iter().map(Gap::from).collect(),
            conflicts: listing.conflicts.iter().map(|segment| segment.name()).collect(),
        }
    }
}

impl Timeline {
    fn of(listing: &TimelineListing) -> Timeline {
        let runs = listing.runs.iter().map(|run| Run {
            first: run.first.name(),
            last: run.last.name(),
            segments: run.last.number - run.first.number + 1,
        });
        Timeline {
            timeline: listing.timeline,
            forked_from: listing.forked_from.map(|(timeline, lsn)| Fork { timeline, lsn }),
            explained: listing.explained,
            runs: runs.collect(),
            partials: listing.partials.iter().map(ToString::to_string).collect(),
        }
    }
}

impl View for Listing {
    fn text(&self, page: &mut Page) {
        if self.lineages.is_empty() {
            page.line("no WAL is archived yet");
        }
        for lineage in &self.lineages {
            page.line(format!(
                "cluster \"{}\", system identifier {}",
                lineage.cluster, lineage.system_identifier
            ));
            for timeline in lineage.timelines.iter().filter(|_| !self.only_gaps) {
                let fork = timeline
                    .forked_from
                    .as_ref()
                    .map(|fork| format!(", from timeline {} at {}", fork.timeline, fork.lsn));
                let unknown = if timeline.explained {
                    ""
                } else {
                    ", whose history is missing"
                };
                page.line(format!(
                    "  timeline {}{}{unknown}",
                    timeline.timeline,
                    fork.unwrap_or_default()
                ));
                for run in &timeline.runs {
                    page.line(format!("    {} to {} ({})", run.first, run.last, run.segments));
                }
                for partial in &timeline.partials {
                    page.line(format!("    {partial}.partial (its beginning only)"));
                }
            }
            lineage.gaps.iter().for_each(|gap| gap.show(page));
            for segment in &lineage.conflicts {
                page.line(format!("  conflict: two different segments were archived as {segment}"));
            }
            if self.only_gaps && lineage.gaps.is_empty() && lineage.conflicts.is_empty() {
                page.line("  nothing is missing");
            }
        }
    }
}

/// Lists.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let engine = assemble::engine(context, &Wishes::default())?.engine;
    let found = runtime::run(Threads::Two, list::list(&engine, arguments.cluster.as_ref()))
        .during(|| "could not list the archive")?;
    if let Some(cluster) = &arguments.cluster
        && found.is_empty()
    {
        known_cluster(&engine, cluster)?;
    }
    context.output.print(&Listing {
        lineages: found.iter().map(Lineage::of).collect(),
        only_gaps: arguments.gaps,
    })?;
    Ok(Outcome::Done)
}
