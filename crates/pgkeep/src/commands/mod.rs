//! The commands, a file each: their flags, the call into the engine, and how the result is shown.

pub mod adopt;
pub mod backup;
pub mod completions;
pub mod config;
pub mod demo;
pub mod doctor;
mod entry;
pub mod init;
pub mod keys;
pub mod list;
pub mod man;
pub mod mark;
pub mod repository;
pub mod restore;
pub mod show;
pub mod status;
pub mod store;
pub mod wal;
pub mod window;

use pgkeep_base::Result;

use crate::cli::Command;
use crate::context::Context;
use crate::exit::Outcome;

/// Runs the command that was asked for.
pub fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Demo(arguments) => demo::run(&arguments, context),
        Command::Init(arguments) => init::run(&arguments, context),
        Command::Repository(command) => repository::run(command, context),
        Command::Doctor(arguments) => doctor::run(&arguments, context),
        Command::Keys(command) => keys::run(command, context),
        Command::Config(command) => config::run(command, context),
        Command::Status(arguments) => status::run(&arguments, context),
        Command::List(arguments) => list::run(&arguments, context),
        Command::Show(arguments) => show::run(&arguments, context),
        Command::Window(arguments) => window::run(&arguments, context),
        Command::Backup(arguments) => backup::run(&arguments, context),
        Command::Mark(arguments) => mark::run(&arguments, context),
        Command::Restore(arguments) => restore::run(&arguments, context),
        Command::Adopt(arguments) => adopt::run(&arguments, context),
        Command::Store(command) => store::run(command, context),
        Command::Wal(command) => wal::run(command, context),
        Command::Completions(arguments) => completions::run(&arguments, context),
        Command::Man(arguments) => man::run(&arguments, context),
    }
}
