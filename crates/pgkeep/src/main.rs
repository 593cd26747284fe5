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
    std::process::exit(run(&arguments, rules).into());
}

fn run(arguments: &[OsString], rules: Rules) -> u8 {
    let environment = Environment::of_process();
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
        Err(error) => return usage(&error, rules, &Output::new(has("--json"), false, true, &environment)),
    };
    let flags = &cli.global;
    let output = Arc::new(Output::new(flags.json, flags.quiet, flags.no_color, &environment));
    logging::start(&output, flags.verbose, &environment);
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
    if output.json {
        let text = error.render().to_string();
        let message = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned();
        output.error(
            &Error::invalid(message).hint("`pgkeep help` lists the commands and their flags."),
            code,
        );
    } else {
        let _ = error.print();
    }
    code
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
