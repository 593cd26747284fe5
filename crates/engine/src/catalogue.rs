//! The backups of a repository, read from their heads: `list` and `show`.
//!
//! Invariant: a backup is listed from what its signed head says and from which places have that head; nothing is
//! taken from job history. No identity is needed. Which backup of a lineage is the newest is told by WAL,
//! which lineage is by heads.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use pgkeep_base::{BackupId, ClusterName, Error, ErrorKind, Lsn, Result, ResultExt, TimelineId, limits};
use pgkeep_repo::fetch::find_copy;
use pgkeep_repo::head::{Head, VerifiedHead};
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::names::logical;
use pgkeep_repo::open::Opener;
use pgkeep_repo::reader::read_packs;
use pgkeep_store::{ObjectName, Store};

use crate::engine::Engine;

/// A backup that exists: its head, and the places that have it.
#[derive(Clone, Debug)]
pub struct Backup {
    /// What its head says.
    pub verified: VerifiedHead,
    /// Names of the places that have the head.
    pub places: Vec<String>,
}

impl Backup {
    /// Its head.
    pub fn head(&self) -> &Head {
        &self.verified.head
    }

    /// Where a physical one ends: of two of a lineage, the one with the greater position is the newer one.
    fn position(&self) -> Option<(TimelineId, Lsn)> {
        let physical = self.head().physical().ok()?;
        Some((physical.timeline, physical.stop_lsn))
    }
}

/// A head that is there and can't be used.
#[derive(Debug)]
pub struct BadHead {
    /// Whose.
    pub lineage: Lineage,
    /// Which backup it would be.
    pub id: BackupId,
    /// What is wrong.
    pub error: Error,
}

/// All backups that were found.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Good ones, oldest id first.
    pub backups: Vec<Backup>,
    /// Heads that can't be used.
    pub bad: Vec<BadHead>,
}

impl Catalogue {
    /// The backup of that id.
    ///
    /// # Errors
    /// `NotFound`, or what is wrong with its head.
    pub fn get(&self, id: &BackupId) -> Result<&Backup> {
        if let Some(backup) = self.backups.iter().find(|backup| &backup.head().id == id) {
            return Ok(backup);
        }
        match self.bad.iter().find(|bad| &bad.id == id) {
            Some(bad) => Err(Error::new(bad.error.kind(), format!("backup {id} can't be used"))
                .detail(bad.error.detail_text().unwrap_or_else(|| bad.error.to_string()))
                .hint(
                    bad.error
                        .hint_text()
                        .unwrap_or("`pgkeep list` shows the others.")
                        .to_owned(),
                )),
            None => {
                Err(Error::not_found(format!("there is no backup {id}")).hint("`pgkeep list` shows what there is."))
            }
        }
    }

    /// The newest physical backup.
    pub fn newest(&self) -> Option<&Backup> {
        newest(&self.backups)
    }

    /// A head that can't be used, of a lineage of which no other can, and of which nothing says that this one followed it.
    pub fn unread_beside(&self, lineage: &Lineage) -> Option<&BadHead> {
        let is_read = |other: &Lineage| self.backups.iter().any(|backup| backup.head().lineage() == *other);
        let own = || self.backups.iter().filter(|backup| backup.head().lineage() == *lineage);
        let is_older = |other: &Lineage| own().flat_map(follows).any(|before| before == *other);
        self.bad.iter().find(|bad| {
            let other = &bad.lineage;
            other.cluster == lineage.cluster && other != lineage && !is_read(other) && !is_older(other)
        })
    }

    /// Physical backups of a lineage, the newest last: on each timeline, the highest stop LSN.
    pub fn physical(&self, lineage: &Lineage) -> Vec<&Backup> {
        let own = self.backups.iter().filter(|backup| backup.head().lineage() == *lineage);
        let mut physical: Vec<_> = own.filter(|backup| backup.position().is_some()).collect();
        physical.sort_by_key(|backup| backup.position());
        physical
    }
}

/// The newest physical backup of some: of a lineage the one on the newest timeline, and on that the one that ends last,
/// which is where a restore to "latest" begins. Of several lineages the one that none follows; only where no head says
/// that, a host's clock tells.
pub fn newest<'a>(backups: impl IntoIterator<Item = &'a Backup>) -> Option<&'a Backup> {
    let mut of_lineage: BTreeMap<Lineage, (Timestamp, &Backup)> = BTreeMap::new();
    let mut followed = BTreeSet::new();
    for backup in backups.into_iter().filter(|backup| backup.position().is_some()) {
        followed.extend(follows(backup));
        let finished_at = backup.head().finished_at;
        let (last, newest) = of_lineage
            .entry(backup.head().lineage())
            .or_insert((finished_at, backup));
        *last = finished_at.max(*last);
        if backup.position() > newest.position() {
            *newest = backup;
        }
    }
    let newest = of_lineage
        .into_iter()
        .max_by_key(|(lineage, (last, _))| (!followed.contains(lineage), *last));
    newest.map(|(_, (_, backup))| backup)
}

/// The lineages that a backup's own came after.
fn follows(backup: &Backup) -> impl Iterator<Item = Lineage> {
    let head = backup.head();
    head.follows.iter().map(|system_identifier| Lineage {
        cluster: head.cluster.clone(),
        system_identifier: *system_identifier,
    })
}

/// Reads the heads of one cluster, or of all, in every place.
///
/// # Errors
/// `Unavailable` or `Denied` where a required place can't be listed; the hint names the places that can.
pub async fn load(engine: &Engine, cluster: Option<&ClusterName>) -> Result<Catalogue> {
    let mut heads: BTreeMap<(Lineage, BackupId), Listed> = BTreeMap::new();
    for place in engine.places() {
        let listed = list_heads(&*place.store, cluster)
            .await
            .during(|| format!("list repository \"{}\"", place.name));
        let found = match listed {
            Err(error) if !place.required => {
                let why = error.detail_text().unwrap_or_default();
                engine.note(format!("without the optional repository \"{}\": {why}", place.name));
                continue;
            }
            Err(error) => return Err(or_elsewhere(engine, cluster, error).await),
            Ok(found) => found,
        };
        for (lineage, id, missing) in found {
            let listed = heads.entry((lineage, id)).or_default();
            match missing {
                None => listed.places.push(place.name.clone()),
                Some(name) => listed.missing = Some(name),
            }
        }
    }
    let opener = engine.opener().await?;
    let reads = heads
        .into_iter()
        .map(|((lineage, id), listed)| read_head(engine, opener, lineage, id, listed));
    let read: Vec<_> = stream::iter(reads).buffered(limits::REQUESTS_IN_FLIGHT).collect().await;
    let mut catalogue = Catalogue::default();
    for result in read {
        match result {
            Ok(backup) => catalogue.backups.push(backup),
            Err(bad) => catalogue.bad.push(bad),
        }
    }
    catalogue.backups.sort_by(|a, b| a.head().id.cmp(&b.head().id));
    Ok(catalogue)
}

/// The error of a place that does not tell, with the places that do: whoever has lost one can go on with another.
///
/// A place is named only after it was asked and told of whole backups. Nobody goes on without being told to: what only
/// the silent place has is not seen then.
async fn or_elsewhere(engine: &Engine, cluster: Option<&ClusterName>, error: Error) -> Error {
    let asking = engine
        .places()
        .iter()
        .map(|place| async move { (&place.name, list_heads(&*place.store, cluster).await) });
    let mut others = Vec::new();
    for (name, listed) in futures::future::join_all(asking).await {
        let found = listed.unwrap_or_default();
        let whole = found.iter().filter(|(_, _, missing)| missing.is_none()).count();
        if whole > 0 {
            let backups = if whole == 1 { "backup" } else { "backups" };
            others.push(format!("`--repository {name}` ({whole} {backups})"));
        }
    }
    if others.is_empty() {
        return error;
    }
    let go_on = format!("To go on without it, add {}.", others.join(" or "));
    let hint = error.hint_text().map(|hint| format!("{hint} {go_on}"));
    error.hint(hint.unwrap_or(go_on))
}

/// Where a head is.
#[derive(Default)]
struct Listed {
    /// Places that have the manifest and the list of packs, too.
    places: Vec<String>,
    /// What another place lacks.
    missing: Option<ObjectName>,
}

type Found = (Lineage, BackupId, Option<ObjectName>);

async fn list_heads(store: &dyn Store, cluster: Option<&ClusterName>) -> Result<Vec<Found>> {
    let clusters = match cluster {
        Some(cluster) => vec![cluster.to_string()],
        None => directories(store, "backups").await?,
    };
    let mut found = Vec::new();
    for cluster in clusters.iter().filter_map(|name| name.parse::<ClusterName>().ok()) {
        for system in directories(store, &format!("backups/{cluster}")).await? {
            let Ok(system_identifier) = system.parse() else {
                continue;
            };
            let lineage = Lineage {
                cluster: cluster.clone(),
                system_identifier,
            };
            found.extend(heads_of(store, &lineage).await?);
        }
    }
    Ok(found)
}

/// The backups whose head is there, with the name of the manifest or packs object where that is not.
async fn heads_of(store: &dyn Store, lineage: &Lineage) -> Result<Vec<Found>> {
    let entries = pgkeep_repo::catalogue::backups(store, lineage).await?;
    let with_head = entries.into_iter().filter(|entry| entry.head);
    let found = with_head.map(|entry| {
        let missing = match (entry.manifest, entry.packs) {
            (false, _) => Some(lineage.manifest_name(&entry.id)),
            (true, false) => Some(lineage.packs_name(&entry.id)),
            (true, true) => None,
        };
        (lineage.clone(), entry.id, missing)
    });
    Ok(found.collect())
}

async fn directories(store: &dyn Store, prefix: &str) -> Result<Vec<String>> {
    match store.list_directories(prefix).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

async fn read_head(
    engine: &Engine,
    opener: &Opener,
    lineage: Lineage,
    id: BackupId,
    listed: Listed,
) -> std::result::Result<Backup, BadHead> {
    let name = lineage.head_name(&id);
    let check = |bytes: bytes::Bytes| {
        let verified = Head::read(opener, &name, &bytes)?;
        let same = verified.head.id == id && verified.head.lineage() == lineage;
        if same {
            Ok(verified)
        } else {
            Err(Error::corrupt("the head is that of another backup"))
        }
    };
    let read = find_copy(&engine.stores(), &name, limits::HEAD_BYTES_MAX, check).await;
    let error = match (read, listed.missing) {
        (Ok(_), Some(missing)) if listed.places.is_empty() => Error::corrupt(format!("{missing} is missing")),
        (Ok(verified), _) => {
            let places = listed.places;
            return Ok(Backup { verified, places });
        }
        (Err(why), _) => why.into_error(&name),
    };
    Err(BadHead { lineage, id, error })
}

/// The packs of a backup that no place has with the right length. Needs no identity; costs a listing for each run that
/// wrote one of them.
///
/// # Errors
/// What reading the list of packs and listing a required place give.
pub async fn missing_packs(engine: &Engine, head: &Head) -> Result<Vec<ObjectName>> {
    let packs = read_packs(&engine.stores(), engine.opener().await?, head).await?;
    let mut missing: BTreeMap<ObjectName, u64> = packs
        .packs()
        .iter()
        .map(|pack| (pack.name.clone(), pack.bytes))
        .collect();
    let directories: BTreeSet<String> = packs
        .packs()
        .iter()
        .map(|pack| pack.name.directory().to_owned())
        .collect();
    for place in engine.places() {
        for directory in &directories {
            let mut objects = place.store.list(directory, None);
            loop {
                let object = match objects.try_next().await {
                    Ok(Some(object)) => object,
                    Ok(None) => break,
                    Err(error) if error.kind() == ErrorKind::NotFound || !place.required => break,
                    Err(error) => return Err(error.during(format!("list repository \"{}\"", place.name))),
                };
                let logical = logical(&object.name);
                if missing.get(&logical) == Some(&object.bytes) {
                    missing.remove(&logical);
                }
            }
        }
    }
    Ok(missing.into_keys().collect())
}

#[cfg(test)]
mod tests;
