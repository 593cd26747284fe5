//! `pgkeep store check URL`: whether a storage does what pgkeep needs of it.

use pgkeep_base::{Error, Result};
use pgkeep_store::StoreConfig;
use pgkeep_store::conformance::{self, Case, Effort};
use serde::Serialize;

use super::flags::StoreFlags;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// Try whether a storage does what pgkeep needs of it
///
/// Writes and removes some dozens of small objects below a fresh directory. Exit 8 where the storage fails a case.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// `file:///directory`, `s3://bucket/prefix`, or the name of a repository of the configuration
    #[arg(value_name = "URL")]
    url: String,
    /// Directory below the URL to work in
    #[arg(long, value_name = "DIR", default_value = "pgkeep-store-check")]
    prefix: String,
    /// Also list more names than one page of a listing holds
    #[arg(long)]
    thorough: bool,
    #[command(flatten)]
    flags: StoreFlags,
}

#[derive(Serialize)]
struct Checked {
    ok: bool,
    url: String,
    cases: Vec<Case>,
}

impl View for Checked {
    fn text(&self, page: &mut Page) {
        for case in &self.cases {
            page.line(format!(
                "{}  {:<22} {}",
                if case.passed { "pass" } else { "FAIL" },
                case.name,
                case.evidence
            ));
        }
        match self.ok {
            true => page.line(format!("{} does what pgkeep needs", self.url)),
            false => page.line(format!("{} does not do what pgkeep needs", self.url)),
        }
    }
}

/// Runs the cases.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let store = pgkeep_store::open(&store_config(arguments, context)?, &context.lookup())?;
    let effort = if arguments.thorough {
        Effort::Thorough
    } else {
        Effort::Quick
    };
    let report = runtime::run(Threads::Two, async {
        // An unreachable storage is told as such (7), before its cases would all fail.
        store.list_directories("").await?;
        Ok(conformance::check_with(&*store, &arguments.prefix, effort).await)
    })?;
    let checked = Checked {
        ok: report.passed(),
        url: report.url,
        cases: report.cases,
    };
    context.output.print(&checked)?;
    Ok(if checked.ok { Outcome::Done } else { Outcome::Failed })
}

fn store_config(arguments: &Arguments, context: &Context) -> Result<StoreConfig> {
    if arguments.url.contains("://") {
        return Ok(arguments.flags.at(&arguments.url));
    }
    let named = |config: crate::config::Config| {
        config
            .repositories
            .into_iter()
            .find(|repository| repository.name == arguments.url)
            .map(|repository| repository.store)
    };
    context.config().ok().and_then(named).ok_or_else(|| {
        Error::invalid(format!(
            "\"{}\" is neither a URL nor the name of a repository",
            arguments.url
        ))
        .hint("Write `pgkeep store check file:///srv/backups`; `pgkeep config show` prints the names.")
    })
}
