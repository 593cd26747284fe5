//! The commands, a file each: their flags, the call into the engine, and how the result is shown.

pub mod completions;
pub mod config;
pub mod keys;
pub mod man;
pub mod store;
pub mod wal;

use pgkeep_base::Result;

use crate::cli::Command;
use crate::context::Context;
use crate::exit::Outcome;

/// Runs the command that was asked for.
pub fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Keys(command) => keys::run(command, context),
        Command::Config(command) => config::run(command, context),
        Command::Store(command) => store::run(command, context),
        Command::Wal(command) => wal::run(command, context),
        Command::Completions(arguments) => completions::run(&arguments, context),
        Command::Man(arguments) => man::run(&arguments, context),
    }
}
