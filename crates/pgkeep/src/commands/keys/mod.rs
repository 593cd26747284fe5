//! `pgkeep keys`: identities, recipients and signers.

pub mod check;
pub mod list;
pub mod new;
pub mod rotate;
pub mod trust;

use clap::Subcommand;
use pgkeep_base::Result;

use crate::context::Context;
use crate::exit::Outcome;

/// Make, check and change keys: identities that decrypt, recipients, signers
#[derive(Debug, Subcommand)]
pub enum Command {
    New(new::Arguments),
    List(list::Arguments),
    Check(check::Arguments),
    Rotate(rotate::Arguments),
    Trust(trust::TrustArguments),
    Distrust(trust::DistrustArguments),
}

/// Runs one of them.
pub fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::New(arguments) => new::run(&arguments, context),
        Command::List(arguments) => list::run(&arguments, context),
        Command::Check(arguments) => check::run(&arguments, context),
        Command::Rotate(arguments) => rotate::run(&arguments, context),
        Command::Trust(arguments) => trust::trust(&arguments, context),
        Command::Distrust(arguments) => trust::distrust(&arguments, context),
    }
}
