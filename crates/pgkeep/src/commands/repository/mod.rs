//! `pgkeep repository`: the places where backups rest.

pub mod create;
pub mod show;

use clap::Subcommand;
use pgkeep_base::Result;

use crate::context::Context;
use crate::exit::Outcome;

/// Create and show the repository
#[derive(Debug, Subcommand)]
pub enum Command {
    Create(create::Arguments),
    Show(show::Arguments),
}

/// Runs one of them.
pub fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Create(arguments) => create::run(&arguments, context),
        Command::Show(arguments) => show::run(&arguments, context),
    }
}
