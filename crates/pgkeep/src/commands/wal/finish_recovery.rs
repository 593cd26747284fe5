//! `pgkeep wal finish-recovery`: the `recovery_end_command` of a restored copy. Needs no configuration.
//!
//! Takes pgkeep's recovery settings away, so that the next standby that is cloned from the copy does not stop at the old
//! target.

use std::path::PathBuf;

use pgkeep_base::Result;
use pgkeep_pg::settings::finish_recovery;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};

/// Remove a restore's recovery settings: recovery_end_command = 'pgkeep wal finish-recovery'
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The data directory [default: the working directory]
    #[arg(value_name = "PGDATA")]
    directory: Option<PathBuf>,
}

#[derive(Serialize)]
struct Finished {
    removed: bool,
}

impl View for Finished {
    fn text(&self, _: &mut Page) {}
}

/// Removes them; nothing to do where there are none.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let directory = arguments
        .directory
        .as_ref()
        .map_or_else(|| context.directory.clone(), |path| context.path(path));
    let removed = finish_recovery(&directory)?;
    context.output.print(&Finished { removed })?;
    Ok(Outcome::Done)
}
