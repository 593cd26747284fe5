//! `pgkeep backup`: a base backup of a running cluster.
//!
//! Invariant: a backup that exists but is impaired (an optional repository missed, bad pages) ends with 3, not 0.
//! What happens: `pgkeep_engine::backup`.

use std::collections::BTreeMap;

use pgkeep_base::{ByteSize, ClusterName, Error, Result};
use pgkeep_engine::backup::{self, BackedUp, BackupRequest};
use serde::Serialize;

use super::entry::Entry;
use crate::assemble::{self, Wishes};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};
use crate::times;

/// Back up a cluster
///
/// Runs on the database host, as the user that the data directory belongs to. Reuses what is stored already; every
/// backup can be restored alone.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The cluster; may be left out where only one is configured
    cluster: Option<ClusterName>,
    /// Store everything anew
    #[arg(long)]
    full: bool,
    /// Label for your own use
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Tier, such as daily
    #[arg(long)]
    tier: Option<String>,
    /// Write only to this repository
    #[arg(long, value_name = "NAME")]
    repository: Vec<String>,
    /// Workers that read, hash and compress, 1 to 16 [default: number of processors, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    jobs: Option<u8>,
    /// Read at most so many bytes per second, such as `100 MiB`
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    rate: Option<ByteSize>,
    /// Let the server spread its checkpoint instead of doing it at once
    #[arg(long)]
    spread_checkpoint: bool,
    /// Fail on a bad page
    #[arg(long)]
    strict: bool,
    /// Accept a new system identifier under a known cluster name (after pg_upgrade or initdb)
    #[arg(long)]
    new_lineage: bool,
}

/// Reads `KEY=VALUE`.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<ByteSize, String> {
    match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) => Err("nothing would ever be read".to_owned()),
        Ok(rate) => Ok(rate),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Serialize)]
struct Done {
    #[serde(flatten)]
    entry: Entry,
    seconds: u64,
    missed: Vec<Missed>,
    bad_files: Vec<BadFile>,
}

#[derive(Serialize)]
struct Missed {
    repository: String,
    reason: String,
}

#[derive(Serialize)]
struct BadFile {
    path: String,
    pages: u64,
}

impl Done {
    fn of(done: &BackedUp) -> Done {
        let missed = done
            .missed
            .iter()
            .cloned()
            .map(|(repository, reason)| Missed { repository, reason });
        let seconds = done.finished_at.duration_since(done.started_at).as_secs();
        Done {
            entry: Entry::of_head(&done.head, &done.places),
            seconds: u64::try_from(seconds).unwrap_or(0),
            missed: missed.collect(),
            bad_files: done
                .bad_files
                .iter()
                .cloned()
                .map(|(path, pages)| BadFile { path, pages })
                .collect(),
        }
    }
}

impl View for Done {
    fn text(&self, page: &mut Page) {
        page.line(self.entry.id.to_string());
    }
}

/// Backs up.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let wishes = Wishes {
        writes: true,
        repositories: arguments.repository.clone(),
        ..Wishes::default()
    };
    let assembled = assemble::engine(context, &wishes)?;
    let request = BackupRequest {
        cluster: arguments.cluster.clone(),
        full: arguments.full,
        labels: labels(&arguments.label)?,
        tier: arguments.tier.clone(),
        jobs: arguments.jobs.map(usize::from),
        rate: arguments.rate,
        spread_checkpoint: arguments.spread_checkpoint,
        strict: arguments.strict,
        new_lineage: arguments.new_lineage,
    };
    let engine = &assembled.engine;
    let result = runtime::run(Threads::Two, async {
        backup::run(engine, backup::plan(engine, request).await?).await
    });
    assembled.display.finish();
    let backed_up = result?;
    let done = Done::of(&backed_up);
    for missed in &done.missed {
        context.output.impair(&format!(
            "the backup is not in repository \"{}\": {}",
            missed.repository, missed.reason
        ));
    }
    for file in &done.bad_files {
        context
            .output
            .impair(&format!("{} has {} bad pages", file.path, file.pages));
    }
    let head = &backed_up.head;
    context.output.note(&format!(
        "backed up {} of cluster \"{}\" in {}, adding {} to {}",
        ByteSize(head.source_bytes),
        head.cluster,
        times::elapsed(done.seconds),
        ByteSize(head.new_bytes),
        backed_up.places.join(", ")
    ));
    context.output.print(&done)?;
    Ok(if backed_up.is_impaired() {
        Outcome::Impaired
    } else {
        Outcome::Done
    })
}

fn labels(given: &[(String, String)]) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (key, value) in given {
        if labels.insert(key.clone(), value.clone()).is_some() {
            return Err(
                Error::invalid(format!("the label \"{key}\" is given twice")).hint("Give each `--label` another key.")
            );
        }
    }
    Ok(labels)
}
