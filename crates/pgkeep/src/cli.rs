//! The command line: global flags, commands, and their grouping in the help.
//!
//! Names and flags are a contract with other people's scripts: additions are welcome, changes need an ADR. A command's
//! own flags are in its file below `commands`.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use crate::commands;

/// Backup, recovery and proof for PostgreSQL
#[derive(Debug, Parser)]
#[command(
    name = "pgkeep",
    version,
    propagate_version = false,
    max_term_width = 100,
    subcommand_required = true
)]
#[command(arg_required_else_help = true, disable_help_subcommand = false)]
pub struct Cli {
    /// Flags for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes, before or behind it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// Configuration file [default: $PGKEEP_CONFIG, ./pgkeep.toml, $XDG_CONFIG_HOME/pgkeep/pgkeep.toml, /etc/pgkeep/pgkeep.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub config: Option<PathBuf>,
    /// Print one JSON document to standard output, and events to standard error
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Show no progress and no notes
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub quiet: bool,
    /// Log more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Everywhere")]
    pub verbose: u8,
    /// Use no colours (also: NO_COLOR)
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub no_color: bool,
}

/// The commands; each is described where it is defined.
#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(commands::demo::Arguments),
    Init(commands::init::Arguments),
    #[command(subcommand)]
    Repository(commands::repository::Command),
    Doctor(commands::doctor::Arguments),
    #[command(subcommand)]
    Keys(commands::keys::Command),
    #[command(subcommand)]
    Config(commands::config::Command),
    Status(commands::status::Arguments),
    List(commands::list::Arguments),
    Show(commands::show::Arguments),
    Window(commands::window::Arguments),
    Backup(commands::backup::Arguments),
    Mark(commands::mark::Arguments),
    Restore(Box<commands::restore::RestoreArguments>),
    Adopt(commands::adopt::Arguments),
    #[command(subcommand)]
    Store(commands::store::Command),
    #[command(subcommand)]
    Wal(commands::wal::Command),
    Completions(commands::completions::Arguments),
    Man(commands::man::Arguments),
}

/// The headings of the help, and every command that may stand below them.
const GROUPS: &[(&str, &[&str])] = &[
    ("Set up", &["demo", "init", "repository", "doctor", "keys", "config"]),
    ("Every day", &["status", "list", "show", "window", "backup", "mark"]),
    ("When things go wrong", &["restore", "adopt"]),
    ("Plumbing", &["wal", "store", "completions", "man"]),
];

/// The command line as clap knows it, with the commands grouped in the help.
pub fn command() -> clap::Command {
    let plain = Cli::command();
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{}Options:\n{{options}}\n\n\
         `pgkeep help COMMAND` tells more. Exit codes: 0 ok, 1 error, 2 usage or configuration, 3 finished but impaired,\n\
         4 refused before anything was changed, 5 not found, 6 conflict or lock, 7 database or storage unreachable,\n\
         8 verification failed, 9 unhealthy, 130 interrupted, 143 terminated.\n",
        groups(&plain)
    );
    plain.help_template(template).subcommand_help_heading("Commands")
}

fn groups(plain: &clap::Command) -> String {
    let mut text = String::new();
    for (heading, names) in GROUPS {
        let commands: Vec<&clap::Command> = names.iter().filter_map(|name| plain.find_subcommand(name)).collect();
        if commands.is_empty() {
            continue;
        }
        text.push_str(&format!("\n{heading}:\n"));
        for command in commands {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {:<12} {about}\n", command.get_name()));
        }
    }
    text + "\n"
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
