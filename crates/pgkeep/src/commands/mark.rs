//! `pgkeep mark NAME`: a restore point that can be restored to once the command returns.

use pgkeep_base::{ClusterName, Lsn, Result, SystemId, TimelineId};
use pgkeep_engine::mark::mark;
use serde::Serialize;

use crate::assemble::{self, Wishes};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};
use crate::times;

/// Make a restore point, and return when it can be restored to
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Its name
    name: String,
    /// The cluster; may be left out where only one is configured
    #[arg(long)]
    cluster: Option<ClusterName>,
}

#[derive(Serialize)]
struct Marked {
    name: String,
    cluster: ClusterName,
    system_identifier: SystemId,
    timeline: TimelineId,
    lsn: Lsn,
    segment: String,
    durable_at: String,
}

impl View for Marked {
    fn text(&self, page: &mut Page) {
        page.line(format!(
            "restore point \"{}\" of cluster \"{}\" is durable: LSN {}",
            self.name, self.cluster, self.lsn
        ));
        page.line(format!(
            "`pgkeep restore {} --into DIR --restore-point '{}'` returns to it",
            self.cluster, self.name
        ));
    }
}

/// Marks.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let assembled = assemble::engine(
        context,
        &Wishes {
            writes: true,
            ..Wishes::default()
        },
    )?;
    let result = runtime::run(
        Threads::Two,
        mark(&assembled.engine, arguments.cluster.as_ref(), &arguments.name),
    );
    assembled.display.finish();
    let marked = result?;
    context.output.print(&Marked {
        name: marked.name,
        cluster: marked.lineage.cluster,
        system_identifier: marked.lineage.system_identifier,
        timeline: marked.segment.timeline,
        lsn: marked.lsn,
        segment: marked.segment.name(),
        durable_at: times::utc(marked.durable_at),
    })?;
    Ok(Outcome::Done)
}
