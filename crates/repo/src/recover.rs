//! Makes a lost repository file again from the store and an identity.
//!
//! Invariant: what it says is what a trusted signer says: the genesis, and the newest change of recipients. Where nobody
//! is known to be trusted (`Trust::accept_any`), the signer of the genesis is shown, to be compared by a person, and whom
//! the genesis names counts as trusted, as it did in the file that was lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use pgkeep_base::limits::HEAD_BYTES_MAX;
use pgkeep_base::{Error, ErrorKind, RepositoryId, Result};
use pgkeep_store::{ObjectName, Store};

use crate::control::recipients::{RecipientsChange, read_changes};
use crate::control::signers::{judge, read_statements};
use crate::control::{ControlKind, list_control};
use crate::fetch::{find_copy, open_copy};
use crate::genesis::{GENESIS_BYTES_MAX, Genesis, genesis_name, open_naming_key};
use crate::keys::Identity;
use crate::names::logical;
use crate::open::Opener;
use crate::repofile::{NamingKey, RepositoryFile};
use crate::seal::SealMode;
use crate::sign::{Fingerprint, Trust, verify_document};

/// Heads of a place that are looked at to see which repository it is.
const HEADS_LOOKED_AT: usize = 16;

/// Makes the file again. Also returns who signed the genesis.
///
/// # Errors
/// `NotFound` where there is no genesis; `Refused` where its signer is not trusted or no identity opens it; what
/// reading the places gives.
pub async fn recover(
    stores: &[Arc<dyn Store>],
    identities: Vec<Identity>,
    trust: Trust,
) -> Result<(RepositoryFile, Fingerprint)> {
    let name = genesis_name();
    let trust = Arc::new(trust);
    let beside = repositories_of_heads(stores).await;
    let read = |bytes: Bytes| {
        let genesis = Genesis::read(&bytes, &trust)?;
        match beside.is_empty() || beside.contains(&genesis.id) {
            true => Ok(genesis),
            false => Err(Error::corrupt(format!("{name} is that of another repository"))
                .detail(format!("it says {}, and no backup beside it does", genesis.id))),
        }
    };
    let genesis = find_copy(stores, &name, GENESIS_BYTES_MAX, read).await;
    let genesis = genesis.map_err(|why| why.into_error(&name))?;
    let controls = control_names(stores).await?;
    let opener = opener(stores, &genesis, identities.clone(), &trust, &controls).await?;
    let names = of_kind(&controls, ControlKind::Recipients);
    let changes = read_changes(stores, &opener, names).await?.changes;
    let naming_key = naming_key(stores, &opener, &identities, &changes).await?;
    let mode = match changes.into_iter().next() {
        Some(newest) => SealMode::Age(newest.recipients),
        None => genesis.mode,
    };
    let file = RepositoryFile {
        id: genesis.id,
        naming_key,
        reuse_horizon: genesis.reuse_horizon,
        mode,
        signers: genesis.signers,
        withdrawn: Vec::new(),
    };
    Ok((file, genesis.by))
}

/// Which repositories some of the heads say that they are of. Nobody knows ours by now: a genesis that was put in the
/// place of another is told by what lies beside it.
async fn repositories_of_heads(stores: &[Arc<dyn Store>]) -> BTreeSet<RepositoryId> {
    let mut found = BTreeSet::new();
    for store in stores {
        let mut listed = store.list("backups", None);
        let mut looked = 0;
        while let (true, Ok(Some(meta))) = (looked < HEADS_LOOKED_AT, listed.try_next().await) {
            let name = logical(&meta.name);
            if !name.as_str().ends_with("/head") {
                continue;
            }
            looked += 1;
            let read = store.read(&meta.name, HEAD_BYTES_MAX).await;
            let any = Trust::default().accept_any();
            let verified = read.and_then(|bytes| verify_document(&name, &bytes, &any));
            found.extend(verified.and_then(|verified| verified.repository()));
        }
    }
    found
}

/// From every place that answers; what is in one required place is in all.
async fn control_names(stores: &[Arc<dyn Store>]) -> Result<Vec<(ObjectName, ControlKind)>> {
    let (mut names, mut failures) = (Vec::new(), Vec::new());
    for store in stores {
        match list_control(store.as_ref()).await {
            Ok(listed) => names.extend(listed),
            Err(error) => failures.push(error.during(format!("list the control objects of {}", store.url()))),
        }
    }
    if failures.len() == stores.len()
        && let Some(error) = failures.pop()
    {
        return Err(error);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn of_kind(controls: &[(ObjectName, ControlKind)], wanted: ControlKind) -> Vec<ObjectName> {
    let wanted = controls.iter().filter(|(_, kind)| *kind == wanted);
    wanted.map(|(name, _)| name.clone()).collect()
}

/// Trusts whom a reader with the lost file would trust.
async fn opener(
    stores: &[Arc<dyn Store>],
    genesis: &Genesis,
    identities: Vec<Identity>,
    trust: &Trust,
    controls: &[(ObjectName, ControlKind)],
) -> Result<Opener> {
    let statements = read_statements(stores, genesis.id, of_kind(controls, ControlKind::Signer)).await?;
    let roots = Trust::new(genesis.signers.iter().chain(trust.signers()).cloned());
    let judged = judge(statements.good, roots);
    Ok(Opener::new(genesis.id, identities, Arc::new(judged.trust.accept_any())))
}

/// From the genesis, or from the newest change of recipients that one of the identities opens.
async fn naming_key(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    identities: &[Identity],
    changes: &[RecipientsChange],
) -> Result<NamingKey> {
    let name = genesis_name();
    let open = |bytes: Bytes| open_naming_key(opener, &bytes);
    let refused = match open_copy(stores, opener, &name, GENESIS_BYTES_MAX, open).await {
        Ok(key) => return Ok(key),
        Err(why) => why.into_error(&name),
    };
    if refused.kind() != ErrorKind::Refused {
        return Err(refused);
    }
    let opened = changes.iter().find_map(|change| change.naming_key(identities).ok());
    opened.ok_or_else(|| Error::refused("no identity opens the naming key").source(refused))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::recipients::seal_recipients;
    use crate::genesis::seal_genesis;
    use crate::sign::SigningKey;
    use crate::test_support::{Place, run};
    use pgkeep_base::SystemClock;

    fn stores(place: &Arc<Place>) -> Vec<Arc<dyn Store>> {
        vec![place.clone() as Arc<dyn Store>]
    }

    #[test]
    fn a_lost_repository_file_comes_back_with_an_identity_and_only_so() {
        let identity = Identity::generate();
        let key = Arc::new(SigningKey::generate().unwrap());
        for mode in [SealMode::Age(vec![identity.recipient()]), SealMode::None] {
            let file = RepositoryFile::new(mode.clone(), vec![key.fingerprint()]).unwrap();
            let sealer = file.sealer(key.clone(), Arc::new(SystemClock)).unwrap();
            let place = Place::new();
            let bytes = seal_genesis(&sealer, &file).unwrap().to_bytes();
            run(place.put(&genesis_name(), bytes.clone()));
            let any = || Trust::default().accept_any();
            let (again, signer) = run(recover(&stores(&place), vec![identity.clone()], any())).unwrap();
            assert_eq!(*again.to_text().unwrap(), *file.to_text().unwrap());
            assert_eq!(signer, key.fingerprint());
            let stranger = run(recover(&stores(&place), vec![Identity::generate()], any()));
            assert_eq!(stranger.is_ok(), mode == SealMode::None);
            let unknown = run(recover(&stores(&place), vec![identity.clone()], Trust::default())).unwrap_err();
            assert_eq!(unknown.kind(), ErrorKind::Refused);
            for cut in [0, 4, 11, 12, 100, bytes.len() - 1] {
                place.damage(&genesis_name(), |bytes| bytes.truncate(cut));
                let error = run(recover(&stores(&place), vec![identity.clone()], any())).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {cut}");
                place.damage(&genesis_name(), |rest| *rest = bytes.to_vec());
            }
        }
    }

    /// Aim: after a rotation either generation of identities makes the file again, and it names the new recipients.
    #[test]
    fn a_file_that_was_lost_after_a_rotation_names_the_new_recipients() {
        let (before, after) = (Identity::generate(), Identity::generate());
        let key = Arc::new(SigningKey::generate().unwrap());
        let mut file = RepositoryFile::new(SealMode::Age(vec![before.recipient()]), vec![key.fingerprint()]).unwrap();
        let place = Place::new();
        let sealer = |file: &RepositoryFile| file.sealer(key.clone(), Arc::new(SystemClock)).unwrap();
        let genesis = seal_genesis(&sealer(&file), &file).unwrap().to_bytes();
        run(place.put(&genesis_name(), genesis));
        file.mode = SealMode::Age(vec![after.recipient()]);
        let change = seal_recipients(&sealer(&file), &file).unwrap();
        run(place.put(&change.name, change.payload));
        for identity in [before, after] {
            let any = Trust::default().accept_any();
            let (again, _) = run(recover(&stores(&place), vec![identity], any)).unwrap();
            assert_eq!(*again.to_text().unwrap(), *file.to_text().unwrap());
        }
    }
}
