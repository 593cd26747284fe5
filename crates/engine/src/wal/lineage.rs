//! Which cluster a WAL file belongs to, and whether that cluster may archive under this name.
//!
//! Invariant: WAL of two system identifiers never mixes silently under one cluster name. What this host can't know
//! (an old lineage, with the local state lost and listing denied) it does not guess about: docs/roles.md says so.

use std::path::{Path, PathBuf};

use pgkeep_base::{ClusterName, Error, ErrorKind, Result, SystemId};
use pgkeep_pg::control::ControlFile;

use pgkeep_repo::lineage::Lineage;

use crate::engine::Engine;
use crate::state::State;

/// The system identifier in the control file of the first of `directories` that has one.
pub fn system_identifier_near(directories: &[PathBuf]) -> Option<SystemId> {
    let has_control = |directory: &&PathBuf| directory.join("global/pg_control").is_file();
    let directory = directories.iter().find(has_control)?;
    ControlFile::read(directory).ok().map(|control| control.system_id)
}

/// Data directories that a file in `pg_wal` may belong to: its grandparent, and the working directory.
pub fn data_directories_of(wal_path: &Path, working_directory: &Path) -> Vec<PathBuf> {
    let absolute = working_directory.join(wal_path);
    let grandparent = absolute.parent().and_then(Path::parent).map(Path::to_owned);
    grandparent.into_iter().chain([working_directory.to_owned()]).collect()
}

/// Chooses the cluster: the one that was named, the only one, or the one that this host knows by the identifier.
pub fn choose_cluster(
    engine: &Engine,
    state: Option<&State>,
    named: Option<&ClusterName>,
    system_identifier: SystemId,
) -> Result<ClusterName> {
    let setup = engine.setup();
    if named.is_some() || setup.clusters.len() == 1 {
        return Ok(setup.cluster(named)?.name.clone());
    }
    if let Some(cluster) = state.and_then(|state| state.cluster_of(system_identifier).ok().flatten()) {
        return Ok(cluster);
    }
    setup.cluster(None).map(|cluster| cluster.name.clone()).map_err(|error| {
        error
            .detail(format!("several are configured, and none is known yet by the system identifier {system_identifier}"))
            .hint("Name it once: `pgkeep wal push --cluster NAME …`, or take its first backup with `pgkeep backup NAME`.")
    })
}

/// Refuses a system identifier that is new under a known cluster name, unless `new_lineage` says that it is meant; then
/// this host remembers those that came before.
pub async fn admit(engine: &Engine, state: Option<&State>, lineage: &Lineage, new_lineage: bool) -> Result<()> {
    let known = known_lineages(engine, state, lineage).await?;
    let is_new = !known.contains(&lineage.system_identifier);
    if !known.is_empty() && is_new && !new_lineage {
        let list = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(Error::conflict(format!(
            "cluster \"{}\" is known by another system identifier",
            lineage.cluster
        ))
        .detail(format!("known: {list}; this one: {}", lineage.system_identifier))
        .hint(
            "After pg_upgrade or initdb, accept the new lineage once with `pgkeep backup --new-lineage`; \
                 if this is another cluster, give it a name of its own.",
        ));
    }
    let before = known.into_iter().filter(|_| is_new);
    for system_identifier in before.chain([lineage.system_identifier]) {
        let lineage = Lineage {
            cluster: lineage.cluster.clone(),
            system_identifier,
        };
        if let Some(Err(error)) = state.map(|state| state.remember_lineage(&lineage, engine.now())) {
            engine.note(format!("the local state did not take note of {lineage}: {error}"));
        }
    }
    Ok(())
}

/// What local state knows, else what the places show, as far as they let us look.
async fn known_lineages(engine: &Engine, state: Option<&State>, lineage: &Lineage) -> Result<Vec<SystemId>> {
    // A state that can't be read must not stop archiving: the places are asked instead.
    let recorded = state
        .and_then(|state| state.lineages(&lineage.cluster).ok())
        .unwrap_or_default();
    if !recorded.is_empty() {
        return Ok(recorded);
    }
    for place in engine.places() {
        let mut found = Vec::new();
        for kind in ["backups", "wal"] {
            match place
                .store
                .list_directories(&format!("{kind}/{}", lineage.cluster))
                .await
            {
                Ok(names) => found.extend(names.iter().filter_map(|name| name.parse::<SystemId>().ok())),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Unavailable
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        if !found.is_empty() {
            found.sort();
            found.dedup();
            return Ok(found);
        }
    }
    Ok(Vec::new())
}
