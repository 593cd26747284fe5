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

/// Refuses WAL of a system identifier that is new under a known cluster name, unless `new_lineage` says that it is meant.
pub async fn admit(engine: &Engine, state: Option<&State>, lineage: &Lineage, new_lineage: bool) -> Result<()> {
    let recorded = recorded(state, lineage);
    let listed = match recorded.is_empty() || new_lineage {
        true => listed(engine, lineage).await?,
        false => Vec::new(),
    };
    let is_known = |known: &[SystemId]| known.contains(&lineage.system_identifier);
    let is_new = !is_known(&recorded) && !is_known(&listed);
    if is_new && !new_lineage && !(recorded.is_empty() && listed.is_empty()) {
        let known = recorded.iter().chain(&listed).map(ToString::to_string);
        return Err(another(lineage).detail(format!(
            "known: {}; this one: {}",
            known.collect::<Vec<_>>().join(", "),
            lineage.system_identifier
        )));
    }
    // Those that came before first, so that heads can tell.
    let before = listed.into_iter().filter(|_| is_new || new_lineage);
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

/// As [`admit`], for a backup: of several known lineages only the one that was accepted last is backed up, unless
/// `new_lineage` accepts this one again. Which cluster a restore means follows from it.
pub async fn admit_backup(engine: &Engine, state: &State, lineage: &Lineage, new_lineage: bool) -> Result<()> {
    admit(engine, Some(state), lineage, new_lineage).await?;
    let newest = recorded(Some(state), lineage).pop();
    match newest.filter(|newest| *newest != lineage.system_identifier) {
        None => Ok(()),
        Some(_) if new_lineage => state.accept_again(lineage, engine.now()),
        Some(newest) => Err(another(lineage).detail(format!(
            "it went on with {newest}, and this one is {}, which came before",
            lineage.system_identifier
        ))),
    }
}

fn another(lineage: &Lineage) -> Error {
    Error::conflict(format!(
        "cluster \"{}\" is known by another system identifier",
        lineage.cluster
    ))
    .hint(
        "After pg_upgrade or initdb, or to go back to the cluster of before, accept this one once with `pgkeep backup \
         --new-lineage`; if it is another cluster, give it a name of its own.",
    )
}

/// What local state knows, in the order in which it was accepted. A state that can't be read must not stop archiving: the
/// places are asked instead.
fn recorded(state: Option<&State>, lineage: &Lineage) -> Vec<SystemId> {
    let known = state.and_then(|state| state.lineages(&lineage.cluster).ok());
    known.unwrap_or_default()
}

/// What the places show, as far as they let us look.
async fn listed(engine: &Engine, lineage: &Lineage) -> Result<Vec<SystemId>> {
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
