//! `pgkeep window`: the moments to which a cluster can be returned, and the gaps. Needs no identity.

use jiff::Timestamp;
use pgkeep_base::{ClusterName, Lsn, Result, ResultExt, SystemId, TimelineId};
use pgkeep_engine::Engine;
use pgkeep_engine::window::{self, ClusterWindow};
use serde::Serialize;

use super::list::known_cluster;
use crate::assemble::{self, Wishes};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};
use crate::times;

/// Show the moments to which clusters can be returned
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only those of this cluster
    cluster: Option<ClusterName>,
}

#[derive(Serialize)]
struct Windows {
    clusters: Vec<Window>,
}

#[derive(Serialize)]
struct Window {
    cluster: ClusterName,
    repository: String,
    ranges: Vec<Range>,
    gaps: Vec<Gap>,
    /// Segments under whose name two histories were archived.
    conflicts: Vec<String>,
    /// Timelines that nothing leads to.
    unreachable: Vec<Unreachable>,
}

#[derive(Serialize)]
struct Unreachable {
    system_identifier: SystemId,
    timeline: TimelineId,
    reason: String,
}

#[derive(Serialize)]
struct Range {
    system_identifier: SystemId,
    timeline: TimelineId,
    from: Option<String>,
    to: Option<String>,
    from_lsn: Lsn,
    to_lsn: Lsn,
    #[serde(skip)]
    moments: [Option<Timestamp>; 2],
}

/// A run of missing segments.
#[derive(Serialize)]
pub struct Gap {
    timeline: TimelineId,
    first_missing: String,
    last_missing: String,
    system_identifier: SystemId,
    from: Option<String>,
    to: Option<String>,
    from_lsn: Lsn,
    to_lsn: Lsn,
    #[serde(skip)]
    moments: [Option<Timestamp>; 2],
}

impl From<&window::Gap> for Gap {
    fn from(gap: &window::Gap) -> Gap {
        Gap {
            timeline: gap.timeline,
            first_missing: gap.first_missing.name(),
            last_missing: gap.last_missing.name(),
            system_identifier: gap.lineage.system_identifier,
            from: gap.from.map(times::utc),
            to: gap.to.map(times::utc),
            from_lsn: gap.from_lsn,
            to_lsn: gap.to_lsn,
            moments: [gap.from, gap.to],
        }
    }
}

impl Gap {
    /// For people.
    pub fn show(&self, page: &mut Page) {
        let to = match self.first_missing == self.last_missing {
            true => String::new(),
            false => format!(" to {}", self.last_missing),
        };
        let [from, until] = self.moments.map(|at| page.time_or(at, "an unknown time"));
        page.line(format!("  missing: {}{to}", self.first_missing));
        page.line(format!(
            "           LSN {} to {}, {from} to {until}",
            self.from_lsn, self.to_lsn
        ));
    }
}

impl Window {
    fn of(window: &ClusterWindow) -> Window {
        let unreachable = |unreachable: &window::Unreachable| Unreachable {
            system_identifier: unreachable.lineage.system_identifier,
            timeline: unreachable.timeline,
            reason: unreachable.why.to_string(),
        };
        let range = |range: &window::Range| Range {
            system_identifier: range.lineage.system_identifier,
            timeline: range.timeline,
            from: range.from.map(times::utc),
            to: range.to.map(times::utc),
            from_lsn: range.from_lsn,
            to_lsn: range.to_lsn,
            moments: [range.from, range.to],
        };
        Window {
            cluster: window.cluster.clone(),
            repository: window.repository.clone(),
            ranges: window.ranges.iter().map(range).collect(),
            gaps: window.gaps.iter().map(Gap::from).collect(),
            conflicts: window.conflicts.iter().map(|(_, segment)| segment.name()).collect(),
            unreachable: window.unreachable.iter().map(unreachable).collect(),
        }
    }

    fn empty(cluster: ClusterName, repository: String) -> Window {
        Window {
            cluster,
            repository,
            ranges: Vec::new(),
            gaps: Vec::new(),
            conflicts: Vec::new(),
            unreachable: Vec::new(),
        }
    }
}

impl View for Windows {
    fn text(&self, page: &mut Page) {
        for window in &self.clusters {
            page.line(format!(
                "cluster \"{}\" in repository \"{}\"",
                window.cluster, window.repository
            ));
            if window.ranges.is_empty() {
                page.line("  no moment can be reached yet: `pgkeep backup` makes the first backup");
            }
            for range in &window.ranges {
                let [from, to] = range.moments.map(|at| page.time_or(at, "an unknown time"));
                page.line(format!("  timeline {}: {from} to {to}", range.timeline));
                page.line(format!(
                    "  {} LSN {} to {}",
                    " ".repeat(range.timeline.to_string().len() + 9),
                    range.from_lsn,
                    range.to_lsn
                ));
            }
            window.gaps.iter().for_each(|gap| gap.show(page));
            for segment in &window.conflicts {
                page.line(format!("  conflict: two different segments were archived as {segment}"));
            }
            for Unreachable { timeline, reason, .. } in &window.unreachable {
                page.line(format!("  timeline {timeline} can't be reached: {reason}"));
            }
        }
    }
}

/// Shows.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let engine = assemble::engine(context, &Wishes::default())?.engine;
    let found = runtime::run(Threads::Two, window::window(&engine, arguments.cluster.as_ref()))
        .during(|| "could not tell which moments can be reached")?;
    let mut clusters: Vec<Window> = found.iter().map(Window::of).collect();
    add_empty(&engine, arguments.cluster.as_ref(), &mut clusters);
    if let Some(cluster) = &arguments.cluster
        && clusters.is_empty()
    {
        known_cluster(&engine, cluster)?;
    }
    clusters.sort_by(|a, b| (&a.cluster, &a.repository).cmp(&(&b.cluster, &b.repository)));
    context.output.print(&Windows { clusters })?;
    Ok(Outcome::Done)
}

/// A configured cluster that a repository has nothing of is shown as such.
fn add_empty(engine: &Engine, wanted: Option<&ClusterName>, clusters: &mut Vec<Window>) {
    let configured = engine.setup().clusters.iter().map(|cluster| &cluster.name);
    for cluster in configured.filter(|name| wanted.is_none_or(|wanted| wanted == *name)) {
        for place in engine.places() {
            if !clusters
                .iter()
                .any(|known| known.cluster == *cluster && known.repository == place.name)
            {
                clusters.push(Window::empty(cluster.clone(), place.name.clone()));
            }
        }
    }
}
