//! `pgkeep wal`: what PostgreSQL calls to archive WAL and to get it back, and what people call to see and save it.

pub mod fetch;
pub mod finish_recovery;
pub mod list;
pub mod push;
pub mod salvage;

use clap::Subcommand;
use pgkeep_base::Result;

use crate::context::Context;
use crate::exit::Outcome;

/// Archive WAL and give it back (called by PostgreSQL)
#[derive(Debug, Subcommand)]
pub enum Command {
    Push(push::Arguments),
    Fetch(fetch::Arguments),
    List(list::Arguments),
    Salvage(salvage::Arguments),
    FinishRecovery(finish_recovery::Arguments),
}

/// Runs one of them.
pub fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Push(arguments) => push::run(&arguments, context),
        Command::Fetch(arguments) => fetch::run(&arguments, context),
        Command::List(arguments) => list::run(&arguments, context),
        Command::Salvage(arguments) => salvage::run(&arguments, context),
        Command::FinishRecovery(arguments) => finish_recovery::run(&arguments, context),
    }
}
