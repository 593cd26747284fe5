//! The binary: arguments, configuration file and environment in; text, JSON and exit codes out.
//!
//! Invariant: nothing that a library user would miss is here; what pgkeep does is in the engine. Commands are a file
//! each below [`commands`]; exit codes are [`exit`]'s business.

mod assemble;
mod cli;
mod commands;
mod config;
mod context;
mod exit;
#[cfg(debug_assertions)]
mod faults;
mod files;
mod invocation;
mod logging;
mod prompt;
mod render;
mod runtime;
mod times;

use std::ffi::OsString;
use std::sync::Arc;

use clap::FromArgMatches;
use pgkeep_base::{Error, Result};

use crate::config::Environment;
use crate::context::Context;
use crate::exit::{Outcome, Rules};
use crate::render::Output;

fn main() {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let rules = Rules::of(&arguments);
    rules.install_panic_hook();
    let environment = Environment::of_process();
    keep_memory_private(&environment);
    std::process::exit(run(&arguments, environment, rules).into());
}

/// Identities and keys are in memory: no core dump, and no other process of the same user may look (but for root).
#[cfg_attr(
    not(debug_assertions),
    expect(unused_variables, reason = "tests alone ask for an exception")
)]
fn keep_memory_private(environment: &Environment) {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    #[cfg(debug_assertions)]
    if faults::is_looked_at(environment) {
        return;
    }
    // A kernel that doesn't know it protects as it did before.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

fn run(arguments: &[OsString], environment: Environment, rules: Rules) -> u8 {
    let has = |flag: &str| arguments.iter().any(|word| word == flag);
    let parsed = cli::command()
        .color(if has("--no-color") {
            clap::ColorChoice::Never
        } else {
            clap::ColorChoice::Auto
        })
        .try_get_matches_from(arguments)
        .and_then(|matches| cli::Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            return usage(
                &error,
                rules,
                &Output::new(has("--json"), false, has("--no-color"), &environment),
            );
        }
    };
    let flags = &cli.global;
    let output = Arc::new(Output::new(flags.json, flags.quiet, flags.no_color, &environment));
    logging::start(&output, flags.verbose, &environment);
    #[cfg(debug_assertions)]
    if let Err(error) = faults::arm(&environment) {
        return finish(Err(error), rules, &output);
    }
    let result = Context::of_process(cli.global, Arc::clone(&output), environment)
        .and_then(|context| commands::run(cli.command, &context));
    finish(result, rules, &output)
}

/// Help and version are results; everything else that clap says is a usage error.
fn usage(error: &clap::Error, rules: Rules, output: &Output) -> u8 {
    if !error.use_stderr() {
        let _ = error.print();
        return 0;
    }
    let code = rules.apply(2);
    match error.kind() {
        clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !output.json => {
            let _ = error.print();
        }
        _ => output.error(&usage_error(&error.render().to_string()), code),
    }
    code
}

/// What clap says (`error: …`, `tip: …`, `Usage: …`), in PostgreSQL's words.
fn usage_error(text: &str) -> Error {
    let mut sections = text.trim().split("\n\n");
    let first = sections.next().unwrap_or_default().trim_start_matches("error: ");
    let mut lines = first.lines().map(str::trim);
    let message = lines.next().unwrap_or_default().trim_end_matches(':').to_owned();
    let mut details: Vec<String> = lines.map(str::to_owned).collect();
    let mut hint = "`pgkeep help` lists the commands and their flags.".to_owned();
    for section in sections {
        match section.trim().strip_prefix("Usage: ") {
            Some(usage) => hint = format!("Usage: {usage} (`pgkeep help` tells more)."),
            None if section.contains("tip: ") => {
                details.extend(
                    section
                        .lines()
                        .map(|line| line.trim().trim_start_matches("tip: ").to_owned()),
                );
            }
            None => {}
        }
    }
    let error = Error::invalid(message).hint(hint);
    if details.is_empty() {
        error
    } else {
        error.detail(details.join("; "))
    }
}

fn finish(result: Result<Outcome>, rules: Rules, output: &Output) -> u8 {
    match result {
        Ok(Outcome::Done) if output.is_impaired() => rules.apply(Outcome::Impaired.code()),
        Ok(outcome) => rules.apply(outcome.code()),
        Err(error) => {
            let code = rules.code_of(&error);
            output.error(&error, code);
            code
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &[&str]) -> Error {
        let error = cli::command().try_get_matches_from(line).expect_err("a usage error");
        usage_error(&error.render().to_string())
    }

    #[test]
    fn usage_errors_speak_as_all_errors_do() {
        let missing = said(&["pgkeep", "wal", "fetch"]);
        assert_eq!(
            missing.to_string(),
            "the following required arguments were not provided"
        );
        assert_eq!(missing.detail_text().unwrap(), "<NAME>; <DEST>");
        assert!(
            missing
                .hint_text()
                .unwrap()
                .starts_with("Usage: pgkeep wal fetch <NAME> <DEST>")
        );
        let typo = said(&["pgkeep", "statsu"]);
        assert_eq!(typo.to_string(), "unrecognized subcommand 'statsu'");
        assert_eq!(typo.detail_text().unwrap(), "a similar subcommand exists: 'status'");
    }
}
