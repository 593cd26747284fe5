//! `pgkeep doctor`: is this set up right? Each check with its evidence and its fix.
//!
//! Invariant: without `--probe` nothing is written to a repository; advice never changes the exit code. The checks:
//! `pgkeep_engine::doctor`, and for people docs/guide/doctor.md.

use std::collections::BTreeMap;

use pgkeep_base::{ClusterName, ErrorKind, Result};
use pgkeep_engine::doctor::{self, PrivateFile, Report, Status};
use serde::Serialize;

use crate::assemble::{self, Assembled, Wishes};
use crate::config::Config;
use crate::context::Context;
use crate::exit::Outcome;
use crate::invocation::Invocation;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// Check prerequisites and common troubles, each with its fix
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only this cluster
    cluster: Option<ClusterName>,
    /// Exit 9 where a check fails or can't be made
    #[arg(long)]
    check: bool,
    /// Also write a tiny object to each repository, and delete it
    #[arg(long)]
    probe: bool,
}

#[derive(Serialize)]
struct Shown {
    ok: bool,
    checks: Vec<Shape>,
    #[serde(skip)]
    report: Report,
    #[serde(skip)]
    all: bool,
}

/// A check in JSON: three verdicts, of which what doesn't apply is a pass, and what nobody can tell is a fail.
#[derive(Serialize)]
struct Shape {
    id: &'static str,
    cluster: Option<ClusterName>,
    repository: Option<String>,
    status: &'static str,
    evidence: String,
    fix: String,
    /// It doesn't apply here.
    skipped: bool,
    /// Nobody can tell from here.
    unknown: bool,
}

impl Shape {
    fn of(check: &doctor::Check) -> Shape {
        Shape {
            id: check.id,
            cluster: check.cluster.clone(),
            repository: check.repository.clone(),
            status: match check.status {
                Status::Pass | Status::Skip => "pass",
                Status::Warn => "warn",
                Status::Fail | Status::Unknown => "fail",
            },
            evidence: check.evidence.clone(),
            fix: check.fix.clone(),
            skipped: check.status == Status::Skip,
            unknown: check.status == Status::Unknown,
        }
    }
}

impl View for Shown {
    fn text(&self, page: &mut Page) {
        let mut hidden = 0;
        for check in &self.report.checks {
            if !self.all && matches!(check.status, Status::Pass | Status::Skip) {
                hidden += 1;
                continue;
            }
            let about: Vec<String> = [
                check.cluster.as_ref().map(ToString::to_string),
                check.repository.clone(),
            ]
            .into_iter()
            .flatten()
            .collect();
            let about = if about.is_empty() {
                String::new()
            } else {
                format!(" ({})", about.join(", "))
            };
            page.line(format!(
                "{:<7} {}{about}: {}",
                word(check.status),
                check.id,
                check.evidence
            ));
            if !check.fix.is_empty() {
                page.line(format!("        {}", check.fix.replace('\n', "\n        ")));
            }
        }
        if hidden > 0 {
            page.line(format!("{hidden} checks pass or don't apply; -v shows them"));
        }
    }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Pass => "pass",
        Status::Skip => "skip",
        Status::Warn => "warn",
        Status::Unknown => "unknown",
        Status::Fail => "fail",
    }
}

/// Checks. What keeps an engine from being assembled is a finding, too.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let assembled = context.config().and_then(|config| {
        // A host without the identity is as it should be; what can't be read of one that is there is a finding.
        let with_identity = config
            .identity_file
            .as_deref()
            .is_some_and(|path| assemble::read_identities(path).is_ok());
        assemble::engine(
            context,
            &Wishes {
                with_identity,
                ..Wishes::default()
            },
        )
    });
    let report = match assembled {
        Ok(assembled) => {
            let about = about(&assembled.config, arguments.probe)?;
            let Assembled { engine, display, .. } = assembled;
            let report = runtime::run(
                Threads::Two,
                doctor::doctor(&engine, arguments.cluster.as_ref(), &about),
            );
            display.finish();
            report?
        }
        Err(error) if error.kind() == ErrorKind::Internal => return Err(error),
        Err(error) => Report::of_failed_setup(&error),
    };
    let ok = report.ok;
    context.output.print(&Shown {
        ok,
        checks: report.checks.iter().map(Shape::of).collect(),
        report,
        all: context.global.verbose > 0,
    })?;
    Ok(if arguments.check && !ok {
        Outcome::Unhealthy
    } else {
        Outcome::Done
    })
}

fn about(config: &Config, probe: bool) -> Result<doctor::Context> {
    let rpo: BTreeMap<ClusterName, _> = config
        .clusters
        .iter()
        .filter_map(|cluster| Some((cluster.name.clone(), cluster.rpo?)))
        .collect();
    Ok(doctor::Context {
        config_file: config.file.as_deref().map(PrivateFile::look),
        repository_file: PrivateFile::look(&config.repository_file),
        signing_key_file: PrivateFile::look(&config.signing_key_file),
        identity_files: config
            .identity_file
            .iter()
            .map(|path| PrivateFile::look(path))
            .collect(),
        archive_command: Invocation::new(config.file.as_deref())?.archive(),
        rpo,
        probe,
    })
}
