//! `keys check`: proves that the identity at hand opens what this repository seals.
//!
//! Invariant: proven by opening what is stored (the genesis, the newest backup's manifest), not by comparing keys.

use std::sync::Arc;

use pgkeep_base::{Error, Result, ResultExt};
use pgkeep_repo::fetch::read_object;
use pgkeep_repo::genesis::{GENESIS_BYTES_MAX, genesis_name};
use pgkeep_repo::seal::Kind;
use pgkeep_store::Store;

use crate::catalogue;
use crate::engine::Engine;

/// What an identity was seen to open.
#[derive(Clone, Debug)]
pub struct KeysChecked {
    /// It opened the repository's genesis.
    pub genesis: bool,
    /// The newest physical backup whose manifest it opened.
    pub backup: Option<pgkeep_base::BackupId>,
}

/// Opens the genesis and the newest backup's manifest with the identities of the engine.
///
/// # Errors
/// `Refused` without an identity that opens them; what reading gives.
pub async fn check(engine: &Engine) -> Result<KeysChecked> {
    if !engine.opener().has_identity() && !engine.sealer().recipients().is_empty() {
        return Err(Error::refused("there is no identity to check")
            .hint("Name one with `--identity FILE`, PGKEEP_IDENTITY_FILE, or `[restore] identity_file`."));
    }
    let stores: Vec<Arc<dyn Store>> = engine.stores();
    let name = genesis_name();
    read_object(&stores, engine.opener(), &name, Kind::Genesis, GENESIS_BYTES_MAX)
        .await
        .map_err(|why| why.into_error(&name))
        .during(|| "open the repository's test object")?;
    let newest = catalogue::load(engine, None)
        .await?
        .backups
        .into_iter()
        .rfind(|backup| backup.head().physical().is_ok());
    let Some(newest) = newest else {
        return Ok(KeysChecked {
            genesis: true,
            backup: None,
        });
    };
    let head = newest.head();
    let manifest = head.lineage().manifest_name(&head.id);
    let bytes = head.physical()?.manifest.bytes;
    read_object(&stores, engine.opener(), &manifest, Kind::Manifest, bytes)
        .await
        .map_err(|why| why.into_error(&manifest))
        .during(|| format!("open the manifest of backup {}", head.id))?;
    Ok(KeysChecked {
        genesis: true,
        backup: Some(head.id.clone()),
    })
}
