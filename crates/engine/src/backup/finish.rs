//! Ends a backup: control file, stop, WAL, manifest, head.
//!
//! Invariant: the head comes last, to each place only when all that it names is there and all WAL that the backup
//! needs has arrived.

use std::sync::Arc;

use pgkeep_base::{Error, Result, ResultExt, TimelineId, failpoint};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::control::{ControlFile, PATH as CONTROL_PATH};
use pgkeep_pg::facts::ServerFacts;
use pgkeep_pg::label::{BACKUP_LABEL, BackupLabel, TABLESPACE_MAP};
use pgkeep_pg::session::{BackupSession, Stopped};
use pgkeep_repo::head::{Head, HeadKind, ObjectHash, PhysicalHead, SignedHead, SourceRole};
use pgkeep_repo::manifest::{Entry, Mode};
use pgkeep_repo::packlist::PackList;
use pgkeep_repo::reuse::{ReuseEnd, ReuseWriter};
use pgkeep_repo::seal::SealedObject;

use super::BackedUp;
use super::assemble::{Assembler, Counts, inline_entry};
use super::context::Context;
use super::copy::CopyTask;
use super::gather::Copied;
use super::journals::{cache_path, forget_all};
use crate::path::DatabaseCopies;
use crate::state::HeadRecord;

/// What is known when the server has left backup mode.
struct End {
    control: ControlFile,
    control_bytes: Vec<u8>,
    stopped: Stopped,
    timeline: TimelineId,
    label: BackupLabel,
}

/// Finishes the backup.
pub(super) async fn finish(context: Context, session: BackupSession, copied: Copied) -> Result<BackedUp> {
    let engine = context.engine.clone();
    if context.request.strict && !copied.assembler.counts.bad_files.is_empty() {
        copied.uploading.abort();
        return Err(bad_pages(&copied.assembler.counts));
    }
    context.phase("take the server out of backup mode");
    let task = Arc::clone(&copied.task);
    let end = stop(&context, session, &task).await?;
    context.phase("wait for WAL");
    wait_for_wal(&context, &end).await?;
    check_databases(&context, &end)?;
    context.phase("write manifest and head");
    let last = last_entries(&end, context.root.mode & 0o666, engine.now().as_second())?;
    let closed = close(&context, copied, last).await?;
    let head = head(&context, &closed, &end, &task)?;
    context.check_lease()?;
    publish(context, closed, head).await
}

/// Reads `pg_control` last of all files, and takes the server out of backup mode.
async fn stop(context: &Context, session: BackupSession, task: &CopyTask) -> Result<End> {
    let started = session.started().clone();
    failpoint::at("engine.backup.control")?;
    let (control, control_bytes) = task.data_dir.read_control().during(|| "read global/pg_control")?;
    failpoint::at("engine.backup.stop")?;
    let stopped = session.finish().await?;
    failpoint::at("engine.backup.stopped")?;
    let label = BackupLabel::parse(&String::from_utf8_lossy(&stopped.backup_label))?;
    label.check(started.start_lsn, context.facts.wal_segment_size)?;
    let timeline = label.timeline;
    let end = End {
        control,
        control_bytes,
        stopped,
        timeline,
        label,
    };
    check_end(&end, &context.facts)?;
    Ok(end)
}

async fn wait_for_wal(context: &Context, end: &End) -> Result<()> {
    let setup = context.engine.setup();
    let text = &setup.cluster(Some(&context.lineage.cluster))?.connection;
    let connection = Connection::open(text, &*setup.environment).await?;
    let (start, stop) = (end.label.start_lsn, end.stopped.stop_lsn);
    failpoint::at("engine.backup.wal")?;
    let archiving = context.archiving();
    archiving.wait_for_range(&connection, end.timeline, start, stop).await?;
    for place in context.places.standing().iter().filter(|place| !place.required) {
        if let Some(segment) = archiving.first_missing_in(place, end.timeline, start, stop).await? {
            let error = Error::unavailable(format!("it lacks WAL segment {segment}, which this backup needs"));
            context.places.drop_out(place, &error)?;
        }
    }
    Ok(())
}

/// A database that replay would copy from files that are gone is not in this backup. By the facts that pushes noted.
fn check_databases(context: &Context, end: &End) -> Result<()> {
    let (start, stop) = (end.label.start_lsn, end.stopped.stop_lsn);
    let mut copies = DatabaseCopies::default();
    for segment in context.archiving().segments(end.timeline, start, stop) {
        let pushed = context.state.pushed(&context.lineage, &segment.name())?;
        let facts = pushed.iter().rev().find_map(|pushed| pushed.facts.as_ref());
        let of_segment = facts.map_or(&[][..], |facts| &facts.segment.database_files);
        let of_backup = of_segment.iter().filter(|fact| (start..stop).contains(&fact.record));
        of_backup.for_each(|fact| copies.take(fact));
    }
    match copies.lost() {
        None => Ok(()),
        Some(lost) => Err(lost.error().hint(
            "Run `pgkeep backup` again: it reuses what was stored. Such databases are best copied between backups.",
        )),
    }
}

fn bad_pages(counts: &Counts) -> Error {
    let list: Vec<String> = counts
        .bad_files
        .iter()
        .take(20)
        .map(|(path, pages)| format!("{path}: {pages}"))
        .collect();
    Error::corrupt("pages failed PostgreSQL's checksum, and --strict was given")
        .detail(list.join(", "))
        .hint("Without `--strict` the backup is taken and the pages are recorded. Look at the disk first.")
}

/// The copy and the end must belong together.
fn check_end(end: &End, facts: &ServerFacts) -> Result<()> {
    if end.control.system_id != facts.system_identifier {
        return Err(Error::refused(
            "the data directory changed its system identifier during the backup",
        ));
    }
    if end.control.checkpoint.timeline != end.timeline {
        return Err(Error::refused("the timeline changed during the backup").detail(format!(
            "it began on timeline {}, pg_control says {}",
            end.timeline, end.control.checkpoint.timeline
        )));
    }
    if end.control.checkpoint.lsn < end.label.checkpoint_lsn {
        return Err(Error::refused("the control file on disk is older than the backup")
            .detail(format!(
                "its checkpoint is {}, the backup's {}",
                end.control.checkpoint.lsn, end.label.checkpoint_lsn
            ))
            .hint("The file system does not show what PostgreSQL wrote; `pgkeep doctor` checks the data directory."));
    }
    Ok(())
}

/// What a restore writes after everything else, in that order: `pg_control` last.
fn last_entries(end: &End, mode: u32, now: i64) -> Result<Vec<Entry>> {
    let mut last = vec![inline_entry(BACKUP_LABEL, &end.stopped.backup_label, mode, now)?];
    if !end.stopped.tablespace_map.is_empty() {
        last.push(inline_entry(TABLESPACE_MAP, &end.stopped.tablespace_map, mode, now)?);
    }
    last.push(inline_entry(CONTROL_PATH, &end.control_bytes, mode, now)?);
    Ok(last)
}

/// Manifest and packs list, written; the journal, ready to become the cache.
struct Closed {
    manifest: SealedObject,
    packs_object: SealedObject,
    packs: PackList,
    journal: Option<ReuseWriter>,
    counts: Counts,
    base: Option<pgkeep_base::BackupId>,
}

async fn close(context: &Context, copied: Copied, last: Vec<Entry>) -> Result<Closed> {
    let Copied {
        assembler, uploading, ..
    } = copied;
    let lineage = &context.lineage;
    let ended = tokio::task::spawn_blocking(move || end_blocks(assembler, last))
        .await
        .expect("it does not panic");
    let assembler = match ended {
        Ok(assembler) => assembler,
        // The uploads know better why they ended.
        Err(error) => return Err(uploading.await.expect("uploads do not panic").err().unwrap_or(error)),
    };
    let Assembler {
        index,
        list,
        journal,
        base,
        outlets,
        counts,
        ..
    } = assembler;
    let durable = Arc::clone(&outlets.durable);
    drop(outlets);
    uploading.await.expect("uploads do not panic")?;
    let journal = journal.and_then(|mut journal| journal.release(durable.below()).is_ok().then_some(journal));

    let sealer = context.engine.sealer();
    let manifest = index.to_object(sealer, &lineage.manifest_name(&context.id))?;
    let packs = list.finish()?;
    let packs_object = packs.to_object(sealer, &lineage.packs_name(&context.id))?;
    for object in [&manifest, &packs_object] {
        failpoint::at("engine.backup.manifest")?;
        context.places.create(&object.name, &object.payload).await?;
        context.durable.count(object.bytes);
    }
    for why in base.damage() {
        context
            .engine
            .note(format!("part of the reuse cache could not be used: {why}"));
    }
    Ok(Closed {
        manifest,
        packs_object,
        packs,
        journal,
        counts,
        base: base.backup.clone(),
    })
}

fn end_blocks(mut assembler: Assembler, last: Vec<Entry>) -> Result<Assembler> {
    let blocks = std::mem::take(&mut assembler.blocks);
    if let Some(block) = blocks.finish(&last)? {
        assembler.block(block)?;
    }
    assembler.index.last = last;
    if let Some(pack) = assembler.packs.close()? {
        assembler.hand_over(pack)?;
    }
    Ok(assembler)
}

fn read_history(task: &CopyTask, timeline: TimelineId) -> Result<Option<String>> {
    if timeline == TimelineId::FIRST {
        return Ok(None);
    }
    let path = task
        .data_dir
        .path()
        .join("pg_wal")
        .join(format!("{}.history", timeline.hex()));
    std::fs::read_to_string(&path)
        .map(Some)
        .during(|| format!("read {}", path.display()))
}

fn head(context: &Context, closed: &Closed, end: &End, task: &CopyTask) -> Result<Head> {
    let Context {
        facts,
        request,
        lineage,
        root,
        ..
    } = context;
    let history = read_history(task, end.timeline)?;
    let owners = crate::owners::Owners::of_this_machine((root.uid, root.gid));
    let previous = context.state.last_head(lineage)?;
    let known = context.state.lineages(&lineage.cluster)?;
    let before = known
        .into_iter()
        .take_while(|known| *known != lineage.system_identifier);
    let tablespaces = task
        .data_dir
        .tablespaces()?
        .iter()
        .map(|tablespace| tablespace.oid)
        .collect();
    let physical = PhysicalHead {
        catalog_version: end.control.catalog_version,
        timeline: end.timeline,
        start_lsn: end.label.start_lsn,
        stop_lsn: end.stopped.stop_lsn,
        history,
        segment_bytes: facts.wal_segment_size,
        block_bytes: facts.block_size,
        checksums: end.control.has_data_checksums(),
        source_role: SourceRole::Primary,
        tablespaces,
        owner: owners.user(root.uid),
        group: owners.group(root.gid),
        directory_mode: Mode(root.mode),
        files: closed.counts.files,
        bad_pages: closed.counts.bad_files.iter().map(|(_, pages)| pages).sum(),
        base: closed.base.clone(),
        manifest: ObjectHash::of(&closed.manifest),
        packs: ObjectHash::of(&closed.packs_object),
    };
    Ok(Head {
        id: context.id.clone(),
        cluster: lineage.cluster.clone(),
        system_identifier: lineage.system_identifier,
        started_at: context.started_at,
        finished_at: context.engine.now(),
        pg_version: version_text(facts.version_num),
        pg_version_num: facts.version_num,
        labels: request.labels.clone(),
        tier: request.tier.clone(),
        source_bytes: closed.counts.bytes,
        new_bytes: context.durable.bytes(),
        stored_bytes: closed.packs.live_bytes(),
        recipients: context.engine.sealer().recipients(),
        sequence: previous.as_ref().map(|previous| previous.sequence + 1).or(Some(1)),
        previous_head: previous.and_then(|previous| previous.blake3.parse().ok()),
        follows: before.collect(),
        places: context
            .places
            .standing()
            .iter()
            .map(|place| place.name.clone())
            .collect(),
        program: concat!("pgkeep ", env!("CARGO_PKG_VERSION")).to_owned(),
        kind: HeadKind::Physical(Box::new(physical)),
    })
}

fn version_text(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

/// Writes the head to every place that stands, and remembers it.
async fn publish(context: Context, closed: Closed, head: Head) -> Result<BackedUp> {
    let engine = &context.engine;
    let signed: SignedHead = head.sign(engine.sealer())?;
    failpoint::at("engine.backup.head")?;
    context
        .places
        .create(&signed.name, &signed.bytes.clone().into())
        .await?;
    failpoint::at("engine.backup.remember")?;
    let places: Vec<String> = context
        .places
        .standing()
        .iter()
        .map(|place| place.name.clone())
        .collect();
    let record = HeadRecord {
        id: context.id.clone(),
        sequence: head.sequence.unwrap_or(1),
        blake3: signed.blake3.to_string(),
        finished_at: head.finished_at,
        places: places.clone(),
    };
    if let Err(error) = context.state.remember_head(&context.lineage, &record) {
        engine.note(format!(
            "the backup exists, but the local state did not take note: {error}"
        ));
    }
    keep_cache(&context, closed.journal, &closed.packs, &head, &signed, &places);
    Ok(BackedUp {
        id: context.id.clone(),
        lineage: context.lineage.clone(),
        started_at: context.started_at,
        finished_at: head.finished_at,
        head,
        places,
        missed: context.places.missed(),
        bad_files: closed.counts.bad_files,
    })
}

/// Makes the journal the cache for the next backup; without it the next one stores everything anew.
fn keep_cache(
    context: &Context,
    journal: Option<ReuseWriter>,
    packs: &PackList,
    head: &Head,
    signed: &SignedHead,
    places: &[String],
) {
    let Some(journal) = journal else { return };
    let end = ReuseEnd {
        finished_at: head.finished_at,
        head: signed.blake3,
        places: places.to_vec(),
    };
    let directory = &context.reuse_directory;
    match journal.finish(&end, packs, &cache_path(directory)) {
        Ok(()) => forget_all(directory, &context.id),
        Err(error) => context
            .engine
            .note(format!("the next backup will store everything anew: {error}")),
    }
}
