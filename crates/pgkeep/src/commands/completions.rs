//! `pgkeep completions SHELL`: a script that completes commands and flags.

use clap_complete::Shell;
use pgkeep_base::Result;

use crate::cli;
use crate::context::Context;
use crate::exit::Outcome;

/// Print a script that completes commands and flags
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The shell that it is for
    shell: Shell,
}

/// Prints the script, as it is even with `--json`: it is for the shell.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut cli::command(), "pgkeep", &mut script);
    context.output.print_bare(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}
