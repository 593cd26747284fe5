//! `wal push`: takes one file from PostgreSQL's archiver into every place.
//!
//! Invariant: `Ok` is returned only when every required place has the bytes durably under a name that proves
//! them. The local state only ever adds refusals; it never turns a write into a "was there already", and its loss or
//! damage does not stop archiving.

use std::path::{Path, PathBuf};

use pgkeep_base::facts::SegmentFacts;
use pgkeep_base::{ClusterName, Error, Result, ResultExt, SystemId, WalFile, failpoint};
use pgkeep_repo::lineage::Lineage;

use super::content::Content;
use super::inspect::inspect;
use super::lineage::{admit, choose_cluster, data_directories_of, system_identifier_near};
use super::store::{Known, store};
use crate::engine::Engine;

/// What to push.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// `%p` of `archive_command`, relative to `working_directory` or absolute.
    pub path: PathBuf,
    /// Where PostgreSQL runs the command: the data directory.
    pub working_directory: PathBuf,
    /// The cluster, where it can't be told from the system identifier.
    pub cluster: Option<ClusterName>,
    /// Accept a new system identifier under a known cluster name.
    pub new_lineage: bool,
}

/// A file that is durable now.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Its lineage.
    pub lineage: Lineage,
    /// Name as PostgreSQL gave it.
    pub file: String,
    /// Bytes stored in each place, sealed.
    pub stored_bytes: u64,
    /// Places that have it.
    pub places: Vec<String>,
    /// Optional places that do not, with the reason: the exit code stays 0, `status` shows it.
    pub missed: Vec<(String, String)>,
    /// Every required place had the same content already.
    pub was_there: bool,
}

/// Pushes one file.
///
/// # Errors
/// `Conflict` where this host pushed other content under that name, or the system identifier is new under the
/// cluster's name; `Corrupt` where the file is not the WAL that its name says; `Unavailable` or `Denied` where a
/// required place did not take it. After an error the object may be in some places; pushing again is safe.
pub async fn push(engine: &Engine, request: &PushRequest) -> Result<Pushed> {
    let path = request.working_directory.join(&request.path);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let file = WalFile::parse(name).ok_or_else(|| not_a_wal_file(name))?;
    push_file(engine, request, &path, &file)
        .await
        .map_err(|error| error.during(format!("could not archive {}", describe(&file))))
}

async fn push_file(engine: &Engine, request: &PushRequest, path: &Path, file: &WalFile) -> Result<Pushed> {
    failpoint::at("engine.push.read")?;
    let content = Content::open(path, file).during(|| format!("read {}", path.display()))?;
    let near = system_identifier_near(&data_directories_of(&request.path, &request.working_directory));
    let facts = inspect(path, file, &content)?;
    let system_identifier = whose(facts.as_ref(), near, file)?;
    let state = engine
        .state()
        .inspect_err(|error| engine.note(format!("archiving without local state: {error}")))
        .ok();
    let cluster = choose_cluster(engine, state.as_ref(), request.cluster.as_ref(), system_identifier)?;
    let lineage = Lineage {
        cluster,
        system_identifier,
    };
    failpoint::at("engine.push.admit")?;
    admit(engine, state.as_ref(), &lineage, request.new_lineage).await?;

    store(
        engine,
        state.as_ref(),
        lineage,
        file,
        content.source(),
        facts,
        Known::Refused,
    )
    .await
}

/// The system identifier, from the file where it bears one, checked against the data directory.
fn whose(facts: Option<&SegmentFacts>, near: Option<SystemId>, file: &WalFile) -> Result<SystemId> {
    match (facts.map(|facts| facts.system_identifier), near) {
        (Some(inside), Some(near)) if inside != near => Err(Error::corrupt(
            "it was written by another cluster than the one that archives it",
        )
        .detail(format!(
            "system identifier {inside} in the segment, {near} in global/pg_control"
        ))),
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => Err(Error::invalid(format!("which cluster does {file} belong to?"))
            .detail("only segments bear a system identifier, and no global/pg_control is near")
            .hint("Run `pgkeep wal push %p` from PostgreSQL's `archive_command`, which runs in the data directory.")),
    }
}

fn not_a_wal_file(name: &str) -> Error {
    Error::invalid(format!("\"{name}\" is not the name of a WAL file"))
        .hint("`archive_command` is `pgkeep wal push %p`: PostgreSQL puts the path of the file in place of %p.")
}

fn describe(file: &WalFile) -> String {
    match file {
        WalFile::Segment(name) => format!("WAL segment {name}"),
        other => format!("WAL file {other}"),
    }
}
