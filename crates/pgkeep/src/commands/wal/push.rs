//! `pgkeep wal push PATH`: the `archive_command`.
//!
//! Invariant: exit 0 only when every required repository has the file; see `exit` for the codes that never occur.

use std::path::PathBuf;

use pgkeep_base::{ClusterName, Result, SystemId};
use pgkeep_engine::wal::push::{PushRequest, Pushed, push};
use serde::Serialize;

use crate::assemble::{self, Wishes};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// Archive one WAL file: archive_command = 'pgkeep wal push %p'
///
/// Exit 0 when every required repository has the file durably; 1 to 125 otherwise, and PostgreSQL tries again.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The file (%p)
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The cluster that it belongs to, where the system identifier doesn't tell
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<ClusterName>,
    /// Accept a new system identifier under a known cluster name (after pg_upgrade or initdb)
    #[arg(long)]
    new_lineage: bool,
}

#[derive(Serialize)]
struct Archived<'a> {
    file: &'a str,
    cluster: &'a ClusterName,
    system_identifier: SystemId,
    stored_bytes: u64,
    repositories: &'a [String],
    missed: Vec<Missed<'a>>,
    was_there: bool,
    #[serde(skip)]
    terminal: bool,
}

#[derive(Serialize)]
struct Missed<'a> {
    repository: &'a str,
    reason: &'a str,
}

impl View for Archived<'_> {
    fn text(&self, page: &mut Page) {
        // PostgreSQL's log has no need of a line for each segment.
        if self.terminal {
            let what = if self.was_there { "was in" } else { "is in" };
            page.line(format!(
                "{} of cluster \"{}\" {what} {}",
                self.file,
                self.cluster,
                self.repositories.join(", ")
            ));
        }
    }
}

/// Pushes the file.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let request = PushRequest {
        path: arguments.path.clone(),
        working_directory: context.directory.clone(),
        cluster: arguments.cluster.clone(),
        new_lineage: arguments.new_lineage,
    };
    let assembled = assemble::engine(
        context,
        &Wishes {
            writes: true,
            ..Wishes::default()
        },
    )?;
    let pushed = runtime::run(Threads::Current, push(&assembled.engine, &request))?;
    for (repository, reason) in &pushed.missed {
        context.output.warn(&format!(
            "{} is not in the optional repository \"{repository}\": {reason}",
            pushed.file
        ));
    }
    context.output.print(&view(&pushed, context.output.stdout_terminal))?;
    Ok(Outcome::Done)
}

fn view(pushed: &Pushed, terminal: bool) -> Archived<'_> {
    Archived {
        file: &pushed.file,
        cluster: &pushed.lineage.cluster,
        system_identifier: pushed.lineage.system_identifier,
        stored_bytes: pushed.stored_bytes,
        repositories: &pushed.places,
        missed: pushed
            .missed
            .iter()
            .map(|(repository, reason)| Missed { repository, reason })
            .collect(),
        was_there: pushed.was_there,
        terminal,
    }
}
