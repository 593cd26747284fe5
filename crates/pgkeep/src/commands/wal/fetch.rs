//! `pgkeep wal fetch NAME DEST`: the `restore_command`.
//!
//! Invariant: 0 where the file is there and verified, 1 where PostgreSQL may take it for the end of the archive, 255
//! for everything else; the table is the engine's. No handler is installed: it dies of its signals, at once.

use std::path::PathBuf;

use pgkeep_base::{ClusterName, ErrorKind, Result};
use pgkeep_engine::wal::answer::Answer;
use pgkeep_engine::wal::fetch::{FetchRequest, fetch};
use serde::Serialize;

use crate::assemble::{self, Wishes};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime;

/// Get one WAL file back: restore_command = 'pgkeep wal fetch %f %p'
///
/// Exit 0 with the file verified and in place, 1 where PostgreSQL may end recovery or ask again, 255 to stop PostgreSQL
/// rather than let it open a database that lacks something.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Name of the file (%f)
    #[arg(value_name = "NAME")]
    name: String,
    /// Where to put it (%p)
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    /// Answer as for a standby, also without standby.signal
    #[arg(long)]
    standby: bool,
    /// The cluster that it belongs to, where the data directory doesn't tell
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<ClusterName>,
    /// Identity that decrypts
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Get it from this repository only
    #[arg(long, value_name = "NAME")]
    repository: Vec<String>,
    /// Accept signers that nothing vouches for
    #[arg(long)]
    accept_signer: bool,
    /// Give back history files only: for a cluster that recovers from its own WAL
    #[arg(long, hide = true)]
    only_history: bool,
}

#[derive(Serialize)]
struct Answered<'a> {
    file: &'a str,
    served: bool,
    exit_code: u8,
}

impl View for Answered<'_> {
    fn text(&self, _: &mut Page) {}
}

/// Answers PostgreSQL.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let own = context.directory.join("pg_wal").join(&arguments.name);
    // Its own histories are right there, and the archive may have others under the same numbers.
    if arguments.only_history && (!arguments.name.ends_with(".history") || own.exists()) {
        context.output.print(&Answered {
            file: &arguments.name,
            served: false,
            exit_code: 1,
        })?;
        return Ok(Outcome::Code(1));
    }
    let request = FetchRequest {
        name: arguments.name.clone(),
        destination: arguments.destination.clone(),
        working_directory: context.directory.clone(),
        standby: arguments.standby,
        cluster: arguments.cluster.clone(),
    };
    let wishes = Wishes {
        identity: arguments.identity.clone(),
        with_identity: true,
        accept_signer: arguments.accept_signer,
        repositories: arguments.repository.clone(),
        ..Wishes::default()
    };
    let engine = assemble::engine(context, &wishes)?.engine;
    let fetched = runtime::run_bare(fetch(&engine, &request))??;
    let code = fetched.answer.code();
    context.output.print(&Answered {
        file: &arguments.name,
        served: fetched.answer == Answer::Served,
        exit_code: code,
    })?;
    match fetched.why {
        // Recovery always asks for one file more than there is: nothing to be alarmed at.
        Some(why) if code == 1 && why.kind() == ErrorKind::NotFound => context.output.note(why.message()),
        Some(why) => context.output.error(&why, code),
        None => {}
    }
    Ok(Outcome::Code(code))
}
