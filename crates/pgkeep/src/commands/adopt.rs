//! `pgkeep adopt DIR|CONNINFO`: makes a restored cluster a protected one again.
//!
//! Invariant: `--dry-run` shows the plan that a run would follow. What happens: `pgkeep_engine::adopt`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgkeep_base::{ClusterName, Error, Progress, Result, SystemId, TimelineId};
use pgkeep_engine::Engine;
use pgkeep_engine::adopt::{self, AdoptPlan, AdoptRequest};
use pgkeep_pg::server::is_running;
use serde::Serialize;

use super::entry::Entry;
use crate::assemble::{self, Wishes};
use crate::config::{Config, mask};
use crate::context::Context;
use crate::exit::Outcome;
use crate::invocation::Invocation;
use crate::render::progress::Display;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// Make a restored cluster a protected one again: own timeline, archiving on, backup
///
/// Restarts the cluster. It must have left recovery.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Data directory of the running cluster, or connection string
    #[arg(value_name = "DIR|CONNINFO")]
    target: String,
    /// The cluster of the configuration that it is; may be left out where only one is configured
    #[arg(long)]
    cluster: Option<ClusterName>,
    /// Identity that decrypts [default: PGKEEP_IDENTITY_FILE, restore.identity_file]
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Adopted {
    dry_run: bool,
    cluster: ClusterName,
    system_identifier: SystemId,
    data_directory: PathBuf,
    timeline: TimelineId,
    /// Why it must leave its timeline number, if it must.
    timeline_taken: Option<String>,
    /// Whether archiving was on already.
    archives: bool,
    archive_command: String,
    backup: Option<Entry>,
}

impl View for Adopted {
    fn text(&self, page: &mut Page) {
        let would = if self.dry_run { "would be " } else { "" };
        page.line(format!(
            "cluster \"{}\" in {}",
            self.cluster,
            self.data_directory.display()
        ));
        if let Some(why) = &self.timeline_taken {
            page.line(format!("timeline {} {would}left: {why}", self.timeline));
        }
        page.line(format!("archiving {would}turned on: {}", self.archive_command));
        match &self.backup {
            Some(backup) => page.line(format!("backed up as {}; `pgkeep status` shows how it is", backup.id)),
            None => page.line("the cluster would be restarted and backed up"),
        }
    }
}

/// Adopts.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let mut config = context.config()?;
    let at = chosen(&config, arguments.cluster.as_ref())?;
    let (connection, programs) = reach(&arguments.target, &config.clusters[at].connection, context)?;
    config.clusters[at].connection = connection;
    // The programs that run it are the ones to restart it with.
    config.clusters[at].postgres_bin = config.clusters[at].postgres_bin.take().or(programs);
    let cluster = config.clusters[at].name.clone();

    let invocation = Invocation::new(config.file.as_deref())?;
    let identity = arguments
        .identity
        .as_ref()
        .map(|path| context.path(path))
        .or_else(|| config.identity_file.clone());
    let request = AdoptRequest {
        cluster: Some(cluster),
        archive_command: invocation.archive(),
        history_command: invocation.histories(identity.as_deref()),
    };
    let wishes = Wishes {
        writes: true,
        identity: arguments.identity.clone(),
        with_identity: true,
        ..Wishes::default()
    };
    let display = Arc::new(Display::new(Arc::clone(&context.output)));
    let engine = Engine::new(assemble::setup(
        context,
        &config,
        &wishes,
        Arc::clone(&display) as Arc<dyn Progress>,
    )?)?;
    let result = runtime::run(Threads::Two, async {
        let plan = adopt::plan(&engine, request).await?;
        let mut adopted = describe(&plan, arguments.dry_run);
        if !arguments.dry_run {
            let backup = adopt::run(&engine, plan).await?;
            adopted.backup = Some(Entry::of_head(&backup.head, &backup.places));
        }
        Ok(adopted)
    });
    display.finish();
    context.output.print(&result?)?;
    Ok(Outcome::Done)
}

fn describe(plan: &AdoptPlan, dry_run: bool) -> Adopted {
    Adopted {
        dry_run,
        cluster: plan.lineage.cluster.clone(),
        system_identifier: plan.lineage.system_identifier,
        data_directory: plan.data_directory.clone(),
        timeline: plan.timeline,
        timeline_taken: plan.timeline_taken.clone(),
        archives: plan.archives,
        archive_command: plan.request.archive_command.clone(),
        backup: None,
    }
}

/// Where in the configuration the cluster is.
fn chosen(config: &Config, named: Option<&ClusterName>) -> Result<usize> {
    let at = match (named, config.clusters.as_slice()) {
        (None, [_]) => Some(0),
        (None, _) => None,
        (Some(name), clusters) => clusters.iter().position(|cluster| cluster.name == *name),
    };
    at.ok_or_else(|| match named {
        Some(name) => Error::not_found(format!("there is no cluster \"{name}\" in the configuration"))
            .hint("`pgkeep config show` prints the configured clusters."),
        None => Error::invalid("which cluster of the configuration is it?").hint("Name it with `--cluster NAME`."),
    })
}

/// The connection to a directory's server and where its programs are, or the connection string that was given.
fn reach(target: &str, configured: &str, context: &Context) -> Result<(String, Option<PathBuf>)> {
    let path = context.path(Path::new(target));
    if !path.is_dir() {
        let conninfo = target.contains('=') || target.contains("://");
        if mask::holds_password(target) {
            return Err(
                Error::invalid("a password on the command line can be read by everybody on this host")
                    .hint("Use a `passfile`, or PGPASSWORD in the environment."),
            );
        }
        return if conninfo {
            Ok((target.to_owned(), None))
        } else {
            Err(Error::not_found(format!("there is no directory {}", path.display()))
                .hint("Name the data directory of the running cluster, or give a connection string."))
        };
    }
    let Some(server) = is_running(&path)? else {
        return Err(
            Error::refused(format!("no server runs on {}", path.display())).hint(format!(
                "Start it with `pg_ctl -D {} start`, look at its data, then run `pgkeep adopt` again.",
                path.display()
            )),
        );
    };
    let base = match configured.contains("://") {
        true => "dbname=postgres",
        false => configured,
    };
    let quoted = |path: &Path| format!("'{}'", path.to_string_lossy().replace('\\', r"\\").replace('\'', r"\'"));
    let host = server
        .socket_dir
        .as_deref()
        .map_or_else(|| "localhost".to_owned(), quoted);
    // The last word counts, as in libpq.
    let connection = format!("{base} host={host} hostaddr='' port={}", server.port.unwrap_or(5432));
    Ok((connection, server.program_dir()))
}
