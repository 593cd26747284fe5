//! `pgkeep list`: the backups that storage has now. Needs no identity.

use clap::ValueEnum;
use pgkeep_base::{ClusterName, Error, Result, ResultExt};
use pgkeep_engine::catalogue;
use serde::Serialize;

use super::entry::{self, Entry};
use crate::assemble::{self, Wishes};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// List the backups that are in storage
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only those of this cluster
    cluster: Option<ClusterName>,
    /// Only those of this kind
    #[arg(long)]
    kind: Option<Kind>,
    /// Only those of this tier
    #[arg(long)]
    tier: Option<String>,
    /// Look only into this repository
    #[arg(long, value_name = "NAME")]
    repository: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Base backups
    Physical,
    /// Dumps
    Dump,
    /// Configuration files
    Config,
}

#[derive(Serialize)]
struct Listed {
    backups: Vec<Entry>,
    #[serde(skip)]
    filtered: bool,
}

impl View for Listed {
    fn text(&self, page: &mut Page) {
        let nothing = if self.filtered {
            "no such backup"
        } else {
            "no backup yet"
        };
        entry::table(&self.backups, page, nothing);
    }
}

/// Lists.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let wishes = Wishes {
        repositories: arguments.repository.clone(),
        ..Wishes::default()
    };
    let engine = assemble::engine(context, &wishes)?.engine;
    let catalogue = runtime::run(Threads::Two, catalogue::load(&engine, arguments.cluster.as_ref()))
        .during(|| "could not list the backups")?;
    let mut backups = Entry::of_catalogue(&catalogue);
    if let Some(cluster) = &arguments.cluster
        && backups.is_empty()
    {
        known_cluster(&engine, cluster)?;
    }
    if let Some(kind) = arguments.kind {
        let value = kind.to_possible_value();
        backups.retain(|backup| backup.kind == value.as_ref().map(|value| value.get_name()));
    }
    if arguments.tier.is_some() {
        backups.retain(|backup| backup.tier == arguments.tier);
    }
    let filtered = arguments.kind.is_some() || arguments.tier.is_some();
    context.output.print(&Listed { backups, filtered })?;
    Ok(Outcome::Done)
}

/// A cluster of which storage has nothing must at least be configured.
pub fn known_cluster(engine: &pgkeep_engine::Engine, cluster: &ClusterName) -> Result<()> {
    match engine
        .setup()
        .clusters
        .iter()
        .any(|configured| configured.name == *cluster)
    {
        true => Ok(()),
        false => Err(Error::not_found(format!(
            "there is no cluster \"{cluster}\", neither in the configuration nor in storage"
        ))
        .hint("`pgkeep list` shows all backups, `pgkeep config show` the configured clusters.")),
    }
}
