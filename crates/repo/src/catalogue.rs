//! What is in a place, by its names alone: lineages, backups, WAL.
//!
//! Invariant: nothing here is proof. A name that is listed may hold anything, and a listing may lack what was created
//! a moment ago; whoever acts reads and verifies. Memory holds one name at a time, except for lineages, timelines and
//! backups, of which there are few. Names that no program of this format makes are left out.

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use pgkeep_base::{BackupId, Result, TimelineId};
use pgkeep_store::{ObjectMeta, ObjectName, Store};

use crate::lineage::Lineage;
use crate::names::split_alternate;
use crate::wal::{WalObjectName, parse_object_name};

/// The areas of a repository that are divided by lineage.
const AREAS: [&str; 3] = ["backups", "wal", "packs"];

/// All lineages that have anything in this place, sorted.
pub async fn lineages(store: &dyn Store) -> Result<Vec<Lineage>> {
    let mut found = Vec::new();
    for area in AREAS {
        for cluster in store.list_directories(area).await? {
            let Ok(cluster_name) = cluster.parse() else { continue };
            for sysid in store.list_directories(&format!("{area}/{cluster}")).await? {
                found.extend(lineage(&cluster_name, &sysid));
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn lineage(cluster: &pgkeep_base::ClusterName, sysid: &str) -> Option<Lineage> {
    let system_identifier: pgkeep_base::SystemId = sysid.parse().ok()?;
    let canonical = system_identifier.to_string() == sysid;
    canonical.then(|| Lineage {
        cluster: cluster.clone(),
        system_identifier,
    })
}

/// A backup as its names show it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BackupEntry {
    /// The backup.
    pub id: BackupId,
    /// Whether its head is there: only then does the backup exist.
    pub head: bool,
    /// Whether its manifest is there.
    pub manifest: bool,
    /// Whether its packs object is there.
    pub packs: bool,
}

/// The backups and dumps of a lineage, finished or not, oldest first. Costs one listing.
pub async fn backups(store: &dyn Store, lineage: &Lineage) -> Result<Vec<BackupEntry>> {
    let directory = format!("backups/{lineage}");
    let mut listed = store.list(&directory, None);
    let mut found: Vec<BackupEntry> = Vec::new();
    while let Some(meta) = listed.try_next().await? {
        let (logical, _) = split_alternate(meta.name.as_str());
        let Ok(logical) = ObjectName::new(logical) else {
            continue;
        };
        let Some((of, id, what)) = Lineage::of_name("backups", &logical) else {
            continue;
        };
        if of != *lineage {
            continue;
        }
        if found.last().is_none_or(|last| last.id != id) {
            let (head, manifest, packs) = (false, false, false);
            found.push(BackupEntry {
                id,
                head,
                manifest,
                packs,
            });
        }
        let entry = found.last_mut().expect("just pushed");
        match what {
            "head" => entry.head = true,
            "manifest" => entry.manifest = true,
            "packs" => entry.packs = true,
            _ => {}
        }
    }
    Ok(merged(found))
}

/// Sorted, one entry per backup, also if the listing was not in order.
fn merged(mut found: Vec<BackupEntry>) -> Vec<BackupEntry> {
    found.sort();
    found.dedup_by(|entry, kept| {
        let same = entry.id == kept.id;
        if same {
            kept.head |= entry.head;
            kept.manifest |= entry.manifest;
            kept.packs |= entry.packs;
        }
        same
    });
    found
}

/// The timelines of which a place has WAL, sorted.
pub async fn wal_timelines(store: &dyn Store, lineage: &Lineage) -> Result<Vec<TimelineId>> {
    let directories = store.list_directories(&format!("wal/{lineage}")).await?;
    let mut timelines: Vec<TimelineId> = directories
        .iter()
        .filter_map(|name| TimelineId::from_hex(name))
        .collect();
    timelines.sort();
    timelines.dedup();
    Ok(timelines)
}

/// A WAL object as its names show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalEntry {
    /// What its name says.
    pub object: WalObjectName,
    /// Its logical name.
    pub name: ObjectName,
    /// Length of the object itself (of an alternate where it is missing), without parts; 0 where there are only parts.
    pub bytes: u64,
    /// Whether the object itself, or an alternate of it, is there. Without it parts mean nothing yet.
    pub whole: bool,
    /// How many parts are there.
    pub parts: u32,
    /// Length of all parts.
    pub parts_bytes: u64,
    /// How many alternates of the object itself are there: somebody healed it.
    pub alternates: u32,
}

/// The WAL objects of a timeline in order of file name, beginning with `from` (a file name, or the beginning of one).
///
/// Objects of one file name are next to each other; parts and alternates are counted to their object.
pub fn wal_entries<'a>(
    store: &'a dyn Store,
    lineage: &Lineage,
    timeline: TimelineId,
    from: Option<&str>,
) -> BoxStream<'a, Result<WalEntry>> {
    let directory = format!("wal/{lineage}/{}", timeline.hex());
    // No object is named like a file alone, and all of that file's sort behind it.
    let after = from.and_then(|from| ObjectName::new(format!("{directory}/{from}")).ok());
    let listed = store.list(&directory, after.as_ref());
    let state = (listed, None::<WalEntry>);
    stream::try_unfold(state, |(mut listed, mut open)| async move {
        loop {
            let Some(meta) = listed.try_next().await? else {
                return Ok(open.take().map(|entry| (entry, (listed, None))));
            };
            let Some((name, object, alternate)) = parse(&meta) else {
                continue;
            };
            match &mut open {
                Some(entry) if same_object(&entry.object, &object) => count(entry, &object, alternate, meta.bytes),
                _ => {
                    let mut entry = begin(name, &object);
                    count(&mut entry, &object, alternate, meta.bytes);
                    if let Some(done) = open.replace(entry) {
                        return Ok(Some((done, (listed, open))));
                    }
                }
            }
        }
    })
    .boxed()
}

/// All objects of one file name in a place: more than one are longer tails or forks (see `wal::compare`).
pub async fn wal_candidates(
    store: &dyn Store,
    lineage: &Lineage,
    timeline: TimelineId,
    file: &str,
) -> Result<Vec<WalEntry>> {
    let mut found = Vec::new();
    let mut entries = wal_entries(store, lineage, timeline, Some(&format!("{file}-")));
    while let Some(entry) = entries.try_next().await? {
        let name = entry.object.file.to_string();
        if name == file {
            found.push(entry);
        } else if name.as_str() > file {
            break;
        }
    }
    Ok(found)
}

fn parse(meta: &ObjectMeta) -> Option<(ObjectName, WalObjectName, u32)> {
    let (logical, alternate) = split_alternate(meta.name.as_str());
    let logical = ObjectName::new(logical).ok()?;
    let object = parse_object_name(&logical)?;
    Some((logical, object, alternate))
}

fn same_object(a: &WalObjectName, b: &WalObjectName) -> bool {
    (&a.file, &a.hash, &a.cluster, a.sysid) == (&b.file, &b.hash, &b.cluster, b.sysid)
}

fn begin(name: ObjectName, object: &WalObjectName) -> WalEntry {
    let name = match object.part {
        None => name,
        Some(_) => {
            let whole = name.as_str().rsplit_once(".p").expect("a part's name has a suffix").0;
            ObjectName::new(whole).expect("a name without its suffix is a name")
        }
    };
    let object = WalObjectName {
        part: None,
        ..object.clone()
    };
    WalEntry {
        object,
        name,
        bytes: 0,
        whole: false,
        parts: 0,
        parts_bytes: 0,
        alternates: 0,
    }
}

fn count(entry: &mut WalEntry, object: &WalObjectName, alternate: u32, bytes: u64) {
    match (object.part, alternate) {
        (None, 0) => {
            entry.whole = true;
            entry.bytes = bytes;
        }
        (None, _) => {
            entry.bytes = if entry.whole { entry.bytes } else { bytes };
            entry.whole = true;
            entry.alternates += 1;
        }
        (Some(_), 0) => {
            entry.parts += 1;
            entry.parts_bytes += bytes;
        }
        (Some(_), _) => {}
    }
}

#[cfg(test)]
mod tests;
