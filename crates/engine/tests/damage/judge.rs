//! What readers make of an object: its content and what follows from it, or a refusal.
//!
//! Rule: an answer is right only if it equals what the undamaged repository gives. Everything else must be a refusal or a
//! note that names the object which is damaged, or one that can't be had without it.

use std::sync::Arc;

use pgkeep_base::{Error, RecoveryTarget, Result, TargetTimeline};
use pgkeep_engine::controls::recipients_changes;
use pgkeep_engine::keys::opens_test_object;
use pgkeep_engine::restore::{RestoreRequest, plan};
use pgkeep_engine::window::window;
use pgkeep_engine::{Engine, catalogue};
use pgkeep_repo::fetch::find_copy;
use pgkeep_repo::lease::{LeaseName, leases, open_lease};
use pgkeep_repo::manifest::Entry;
use pgkeep_repo::reader::BackupReader;
use pgkeep_repo::recover::recover;
use pgkeep_repo::sign::Trust;
use pgkeep_repo::wal::open_wal;
use pgkeep_store::{ObjectName, Store};

use crate::memory::MemoryStore;
use crate::tiny;
use crate::world::{Told, What, World, lineage_of, what};

/// Everything that was said, and the answer.
pub struct Answer {
    pub result: Result<String>,
    pub told: String,
}

/// Asks the readers of an object.
pub async fn ask(world: &World, name: &ObjectName, places: &[Arc<MemoryStore>]) -> Answer {
    let told = Arc::new(Told::default());
    let identities = match what(name) {
        What::Rewrap => std::slice::from_ref(&world.later),
        _ => &world.identities[..],
    };
    let engine = world.engine(places, identities, &told);
    let result = match what(name) {
        What::Genesis => genesis(world, &engine).await,
        What::Signer => signers(&engine).await,
        What::Recipients => recipients(&engine).await,
        What::Rewrap => rewrapped(world, &engine).await,
        What::Segment | What::History | What::BackupFile | What::Partial | What::Part => wal(&engine, name).await,
        What::Pack | What::Manifest | What::Packs | What::Head => backups(&engine, name).await,
        What::Lease => lease(&engine).await,
    };
    Answer {
        result,
        told: told.text(),
    }
}

/// Asks for a plan to restore the golden cluster to the end of its archive, and for its window.
pub async fn ask_plan(world: &World, name: &ObjectName, places: &[Arc<MemoryStore>]) -> Answer {
    let told = Arc::new(Told::default());
    let engine = world.engine(places, &world.identities, &told);
    let result = planned(world, &engine, name).await;
    Answer {
        result,
        told: told.text(),
    }
}

async fn planned(world: &World, engine: &Engine, _: &ObjectName) -> Result<String> {
    let cluster = "shop".parse()?;
    window(engine, Some(&cluster)).await?;
    let request = RestoreRequest {
        cluster: Some(cluster),
        into: world.scratch.path().join("restored"),
        backup: None,
        target: RecoveryTarget::EndOfWal,
        exclusive: false,
        timeline: TargetTimeline::Latest,
        action: None,
        archive: None,
        standby: false,
        delta: false,
        precious: Vec::new(),
        tablespaces: world
            .tablespace
            .iter()
            .map(|old| (old.clone(), world.scratch.path().join("tablespace")))
            .collect(),
    };
    let plan = plan::plan(engine, request).await?;
    plan.notes.iter().for_each(|note| engine.note(note));
    Ok(format!("{:?} {:?}", plan.stop, plan.last_finished))
}

async fn genesis(world: &World, engine: &Engine) -> Result<String> {
    opens_test_object(engine).await?;
    let trust = Trust::new(world.file.signers.iter().cloned().chain([world.key.fingerprint()]));
    let (file, _) = recover(&engine.stores(), world.identities.clone(), trust).await?;
    Ok(file.to_text()?.to_string())
}

async fn signers(engine: &Engine) -> Result<String> {
    Ok(format!("{:?}", engine.controls().await?.vouched))
}

async fn recipients(engine: &Engine) -> Result<String> {
    let changes = recipients_changes(engine).await?.changes;
    Ok(changes
        .iter()
        .map(|change| format!("{} {:?}\n", change.name, change.sorted()))
        .collect())
}

async fn rewrapped(world: &World, engine: &Engine) -> Result<String> {
    let opener = engine.opener().await?;
    let mut opened = String::new();
    for name in &world.rewrapped {
        let kind = pgkeep_repo::seal::Kind::Manifest;
        let read = pgkeep_repo::fetch::read_object(&engine.stores(), opener, name, kind, 1 << 20).await;
        let (_, frames) = read.map_err(|why| why.into_error(name))?;
        opened += &hash(&frames.concat());
    }
    Ok(opened)
}

async fn wal(engine: &Engine, name: &ObjectName) -> Result<String> {
    let whole = match name.as_str().split_once(".p00") {
        Some((whole, _)) => ObjectName::new(whole)?,
        None => name.clone(),
    };
    let opened = open_wal(&engine.stores(), engine.opener().await?, engine.naming(), &whole).await;
    let (header, content) = opened.map_err(|why| why.into_error(&whole))?;
    Ok(format!("{} {} {:?}", header.file, hash(&content), header.facts))
}

/// Every byte of every backup of a lineage; the first that can't be had is the answer.
async fn backups(engine: &Engine, name: &ObjectName) -> Result<String> {
    let lineage = lineage_of(name);
    let catalogue = catalogue::load(engine, Some(&lineage.cluster)).await?;
    if let Some(bad) = catalogue.bad.into_iter().next() {
        return Err(bad.error);
    }
    let mut all = String::new();
    for backup in &catalogue.backups {
        let missing = catalogue::missing_packs(engine, backup.head()).await?;
        if let Some(missing) = missing.first() {
            return Err(Error::corrupt(format!("{missing} is missing")));
        }
        let opener = engine.opener().await?.clone();
        let reader = BackupReader::of_head(engine.stores(), opener, backup.verified.clone()).await?;
        all += &format!("{} {}\n", backup.head().id, everything(&reader).await?);
    }
    Ok(all)
}

async fn everything(reader: &BackupReader) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut entries = reader.entries();
    let mut spans: Vec<Entry> = Vec::new();
    while let Some(entry) = entries.next().await? {
        if spans.first().is_some_and(|first| first.path != entry.path) {
            file(reader, &std::mem::take(&mut spans), &mut hasher).await?;
        }
        spans.push(entry);
    }
    file(reader, &spans, &mut hasher).await?;
    for entry in reader.last() {
        hasher.update(format!("{entry:?}").as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

async fn file(reader: &BackupReader, spans: &[Entry], hasher: &mut blake3::Hasher) -> Result<()> {
    let Some(first) = spans.first() else { return Ok(()) };
    hasher.update(first.path.to_string().as_bytes());
    if let Some(span) = first.file() {
        hasher.update(&reader.read_at(spans, 0, span.bytes as usize).await?);
    }
    Ok(())
}

async fn lease(engine: &Engine) -> Result<String> {
    let stores = engine.stores();
    let opener = engine.opener().await?;
    let mut names: Vec<LeaseName> = Vec::new();
    for store in &stores {
        names.extend(leases(store.as_ref() as &dyn Store, &tiny::lineage()).await?);
    }
    names.sort();
    names.dedup();
    let mut all = String::new();
    for name in names {
        let object = name.object_name();
        let read = find_copy(&stores, &object, 1 << 20, |bytes| open_lease(opener, &name, &bytes)).await;
        all += &format!("{:?}\n", read.map_err(|why| why.into_error(&object))?);
    }
    Ok(all)
}

fn hash(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

/// An error as an operator sees it.
pub fn words(error: &Error) -> String {
    let detail = error.detail_text().unwrap_or_default();
    format!("{error}: {detail}: {}", error.hint_text().unwrap_or_default())
}
