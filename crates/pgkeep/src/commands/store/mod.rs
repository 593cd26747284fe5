//! `pgkeep store`: storages themselves, without a repository.

pub mod check;
pub mod flags;

use clap::Subcommand;
use pgkeep_base::Result;

use crate::context::Context;
use crate::exit::Outcome;

/// Check a storage
#[derive(Debug, Subcommand)]
pub enum Command {
    Check(check::Arguments),
}

/// Runs it.
pub fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Check(arguments) => check::run(&arguments, context),
    }
}
