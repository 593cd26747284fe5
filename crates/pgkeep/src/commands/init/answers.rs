//! What `init` is told: by flags, or by answers on a terminal.

use pgkeep_base::{ClusterName, Error, Result};
use pgkeep_store::StoreConfig;

use super::Arguments;
use crate::config::mask;
use crate::context::Context;
use crate::prompt;

/// Everything that `init` must know.
#[derive(Debug)]
pub struct Answers {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// Where backups go.
    pub store: StoreConfig,
    /// How to reach the cluster.
    pub connection: String,
    /// Whether to set PostgreSQL's settings.
    pub apply: bool,
}

impl Answers {
    /// Takes the flags, and asks for the rest on a terminal.
    ///
    /// # Errors
    /// `Invalid`, naming the flag, for what is missing off a terminal; `Cancelled` where the last question is denied.
    pub fn gather(arguments: &Arguments, context: &Context) -> Result<Answers> {
        let output = &context.output;
        let asking = output.interactive && !arguments.yes;
        let cluster: ClusterName = match &arguments.cluster {
            Some(cluster) => cluster.clone(),
            None if asking => prompt::ask(output, "A name for the cluster", "main", "CLUSTER")?.parse()?,
            None => "main".parse()?,
        };
        let url = match &arguments.repository {
            Some(url) => url.clone(),
            None if asking => {
                let default = format!("file:///srv/backups/{cluster}");
                prompt::ask(
                    output,
                    "Where backups go (file:///directory or s3://bucket/prefix)",
                    &default,
                    "--repository URL",
                )?
            }
            None => return Err(prompt::missing("--repository URL")),
        };
        let connection = match &arguments.connection {
            Some(connection) => connection.clone(),
            None if asking => prompt::ask(
                output,
                "Connection string of the cluster",
                "host=/run/postgresql dbname=postgres",
                "--connection CONNINFO",
            )?,
            None => return Err(prompt::missing("--connection CONNINFO")),
        };
        refuse_password(&connection)?;
        let store = arguments.store.at(&url);
        pgkeep_store::open(&store, &context.lookup())?;
        let apply = arguments.apply
            || (asking
                && !arguments.dry_run
                && prompt::agree(output, "Set PostgreSQL's settings with ALTER SYSTEM", false, "--apply")?);
        if asking && !arguments.dry_run && !prompt::agree(output, "Go ahead", true, "--yes")? {
            return Err(Error::cancelled("nothing was changed"));
        }
        Ok(Answers {
            cluster,
            store,
            connection,
            apply,
        })
    }
}

fn refuse_password(connection: &str) -> Result<()> {
    match mask::holds_password(connection) {
        true => Err(
            Error::invalid("a password on the command line can be read by everybody on this host")
                .hint("Use a `passfile` in the connection string, or PGPASSWORD in the environment of `pgkeep init`."),
        ),
        false => Ok(()),
    }
}
