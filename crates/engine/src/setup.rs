//! What an operation needs to know, assembled by whoever calls: the binary from its configuration, a library user by hand.
//!
//! Invariant: the engine learns of the world only through this; [`Setup::validate`] refuses what makes no sense.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgkeep_base::{Clock, ClusterName, Error, Progress, Result};
use pgkeep_repo::keys::Identity;
use pgkeep_repo::repofile::RepositoryFile;
use pgkeep_repo::sign::{Fingerprint, SigningKey};
use pgkeep_store::Store;

/// Looks up an environment variable, as far as the caller lets libpq's rules see it.
pub type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// One repository of the configuration: a place where the logical repository rests.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name in the configuration.
    pub name: String,
    /// Where the bytes rest.
    pub store: Arc<dyn Store>,
    /// Success is reported only when this place has the bytes.
    pub required: bool,
}

/// A cluster of the configuration.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Its configured name.
    pub name: ClusterName,
    /// libpq connection string, which may hold a password; empty means libpq's defaults.
    pub connection: String,
    /// Where PostgreSQL's programs are, if not where they are usually found.
    pub postgres_bin: Option<PathBuf>,
    /// How long a backup waits for the archiver, before copying and after. Default 60 s.
    pub archive_timeout: Duration,
    /// How much of the newest work may be lost; `None`: no objective.
    pub rpo: Option<Duration>,
}

/// Everything that operations share.
#[derive(Clone)]
pub struct Setup {
    /// Local state: what was pushed, reuse caches, locks. Losing it costs a backup that stores everything anew.
    pub state_dir: PathBuf,
    /// At least one, of which at least one is required.
    pub places: Vec<Place>,
    /// The repository's id, naming key, recipients and trusted signers.
    pub repository: RepositoryFile,
    /// This host's own signing key.
    pub signing_key: Arc<SigningKey>,
    /// Signers trusted beside those of the repository file.
    pub signers: Vec<Fingerprint>,
    /// Accept signers that nothing vouches for (`--accept-signer`).
    pub accept_signer: bool,
    /// What can decrypt; empty on a writer.
    pub identities: Vec<Identity>,
    /// The clusters of the configuration.
    pub clusters: Vec<ClusterConfig>,
    /// What environment variables the caller lets libpq's rules see.
    pub environment: Variables,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Receives progress.
    pub progress: Arc<dyn Progress>,
}

impl Setup {
    /// The cluster that was named, or the only one.
    ///
    /// # Errors
    /// `NotFound` for an unknown name, `Invalid` where none is named and there are several or none.
    pub fn cluster(&self, name: Option<&ClusterName>) -> Result<&ClusterConfig> {
        let names = || {
            self.clusters
                .iter()
                .map(|c| c.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match name {
            Some(wanted) => self.clusters.iter().find(|c| &c.name == wanted).ok_or_else(|| {
                Error::not_found(format!("there is no cluster \"{wanted}\" in the configuration"))
                    .detail(format!("configured: {}", names()))
                    .hint("`pgkeep config show` prints the configuration in force.")
            }),
            None => match self.clusters.as_slice() {
                [only] => Ok(only),
                [] => Err(Error::invalid("no cluster is configured").hint("Run `pgkeep init` to configure one.")),
                _ => Err(Error::invalid("which cluster? several are configured").detail(names())),
            },
        }
    }

    /// Fails unless places and clusters make sense together.
    pub fn validate(&self) -> Result<()> {
        if self.places.is_empty() {
            return Err(Error::invalid("no repository is configured").hint("Run `pgkeep init` to configure one."));
        }
        if !self.places.iter().any(|place| place.required) {
            return Err(Error::invalid("at least one repository must be required")
                .hint("Set `required = true` for one `[repository.NAME]`; `pgkeep config show` prints them."));
        }
        Ok(())
    }
}
