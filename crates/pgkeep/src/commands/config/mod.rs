//! `pgkeep config`: the configuration in force.

pub mod check;
pub mod reference;
pub mod show;

use clap::Subcommand;
use pgkeep_base::Result;

use crate::context::Context;
use crate::exit::Outcome;

/// Show and check the configuration
#[derive(Debug, Subcommand)]
pub enum Command {
    Show(show::Arguments),
    Check(check::Arguments),
    Reference(reference::Arguments),
}

/// Runs one of them.
pub fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Show(arguments) => show::run(&arguments, context),
        Command::Check(arguments) => check::run(&arguments, context),
        Command::Reference(arguments) => reference::run(&arguments, context),
    }
}
