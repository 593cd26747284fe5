//! Runs a backup: lock, lease, backup mode, copy, finish.
//!
//! Invariants: whatever ends the run early closes the session, so that the server leaves backup mode; without a head
//! nothing looks restorable; what was stored stays reusable through the journal.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::{BackupId, Event, Result, ResultExt};
use pgkeep_pg::session::{AdvisoryKey, BackupSession};
use pgkeep_repo::lease::seal_lease;
use pgkeep_repo::pack::PackWriter;
use pgkeep_repo::reuse::{PageHasher, ReuseStart, ReuseWriter};
use tokio::sync::mpsc;

use super::archiving::Archiving;
use super::assemble::Assembler;
use super::base::{Base, journal_path};
use super::copy::{self, CopyTask};
use super::finish::{Copied, finish};
use super::lock::BackupLock;
use super::rate::Rate;
use super::upload::{Durable, Places, upload};
use super::{BackedUp, BackupPlan};
use crate::engine::Engine;
use crate::owners::Owners;
use crate::state::{Run, RunOutcome, State};

/// zstd level of data.
const DATA_LEVEL: i32 = 3;
/// How often the session is asked whether it still lives.
const PING: Duration = Duration::from_secs(5);

/// What stays the same during a run.
pub(super) struct Context {
    pub engine: Engine,
    pub state: State,
    pub id: BackupId,
    pub started_at: Timestamp,
    pub reuse_directory: std::path::PathBuf,
    pub places: Arc<Places>,
    pub durable: Arc<Durable>,
}

/// Runs a plan.
///
/// # Errors
/// `Conflict` where another backup of the cluster runs; whatever stops the copy or keeps its WAL from arriving.
/// Afterwards nothing is restorable that was not before, and running again reuses what was stored.
pub async fn run(engine: &Engine, plan: BackupPlan) -> Result<BackedUp> {
    let started_at = engine.now();
    let id = BackupId::new(started_at);
    let state = engine.state()?;
    let cluster = plan.lineage.cluster.clone();
    let _lock = BackupLock::take(&state.backup_lock_path(&cluster), &id)?;
    state.begin_run(&Run {
        id: id.clone(),
        kind: "backup",
        cluster: cluster.clone(),
        started_at,
    })?;
    let result = locked(engine, plan, id.clone(), started_at)
        .await
        .map_err(|error| error.during(format!("could not back up cluster \"{cluster}\"")));
    let (outcome, message) = match &result {
        Ok(done) if done.is_impaired() => (RunOutcome::Impaired, String::new()),
        Ok(_) => (RunOutcome::Ok, String::new()),
        Err(error) => (
            RunOutcome::Failed,
            error.detail_text().unwrap_or_else(|| error.to_string()),
        ),
    };
    if let Err(error) = state.end_run(&id, engine.now(), outcome, &message) {
        engine.note(format!("the history did not take note: {error}"));
    }
    result
}

async fn locked(engine: &Engine, plan: BackupPlan, id: BackupId, started_at: Timestamp) -> Result<BackedUp> {
    let state = engine.state()?;
    let size = plan.facts.wal_segment_size;
    let archiving = Archiving {
        engine,
        state: &state,
        lineage: &plan.lineage,
        size,
        timeout: plan.archive_timeout,
    };
    phase(engine, "check archiving", None);
    archiving.prove(&plan.connection, &plan.facts).await?;

    let places = Arc::new(Places::new(engine.places().to_vec(), Vec::new()));
    write_lease(engine, &plan, &id, &places).await?;
    let reuse_directory = engine.state()?.reuse_directory(&plan.lineage)?;
    let durable = Arc::new(Durable::default());
    let context = Context {
        engine: engine.clone(),
        state,
        id,
        started_at,
        reuse_directory,
        places,
        durable,
    };

    let BackupPlan {
        request,
        lineage,
        facts,
        connection,
        data_dir,
        jobs,
        archive_timeout,
        ..
    } = plan;
    phase(engine, "put the server into backup mode", None);
    let label = format!("pgkeep {}", context.id);
    let key = AdvisoryKey::for_backups_of(&lineage.cluster);
    let session = BackupSession::begin(connection, &label, !request.spread_checkpoint, key).await?;

    let start = reuse_start(&context, &lineage, data_dir.control().block_bytes);
    let base = Arc::new(Base::open(engine, &context.reuse_directory, &start, request.full));
    base.notes.iter().for_each(|note| engine.note(note.clone()));
    let places = leave_out_lagging(&context, &base);
    let root = data_dir.root_entry()?;
    let owners = Owners::of_this_machine((root.uid, root.gid));
    let task = CopyTask {
        data_dir,
        base: Arc::clone(&base),
        hasher: PageHasher::new(&engine.setup().repository.naming_key),
        level: DATA_LEVEL,
        jobs,
        rate: Rate::new(request.rate.map(|rate| rate.0)),
        start_lsn: session.started().start_lsn,
    };
    let context = Context { places, ..context };
    let task = Arc::new(task);
    let copied = copy_all(&context, &session, &lineage, &task, base, owners, start).await?;
    let lineage_for_wait = lineage.clone();
    finish(
        context,
        session,
        copied,
        &task,
        root,
        facts,
        request,
        lineage_for_wait,
        archive_timeout,
    )
    .await
}

fn phase(engine: &Engine, name: &str, bytes_total: Option<u64>) {
    engine.setup().progress.event(Event::Phase {
        name: name.to_owned(),
        bytes_total,
    });
}

async fn write_lease(engine: &Engine, plan: &BackupPlan, id: &BackupId, places: &Places) -> Result<()> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (name, payload) = seal_lease(engine.sealer(), &plan.lineage, id, &host)?;
    places.create(&name.object_name(), &payload).await
}

fn reuse_start(context: &Context, lineage: &pgkeep_repo::lineage::Lineage, block_bytes: u32) -> ReuseStart {
    let places = context.engine.places();
    ReuseStart {
        repository: context.engine.sealer().repository(),
        cluster: lineage.cluster.clone(),
        system_identifier: lineage.system_identifier,
        backup: context.id.clone(),
        started_at: context.started_at,
        recipients: context.engine.sealer().recipients(),
        places: places.iter().map(|place| place.name.clone()).collect(),
        block_bytes,
    }
}

/// Optional places that lack what is reused get nothing of this backup: their head would name what is not there.
fn leave_out_lagging(context: &Context, base: &Base) -> Arc<Places> {
    let Some(complete) = &base.places else {
        return Arc::clone(&context.places);
    };
    let mut missed = context.places.missed();
    for place in context
        .engine
        .places()
        .iter()
        .filter(|place| !complete.contains(&place.name))
    {
        let why = "it lacks earlier packs that this backup refers to; `pgkeep backup --full` stores everything there"
            .to_owned();
        missed.push((place.name.clone(), why));
    }
    Arc::new(Places::new(context.engine.places().to_vec(), missed))
}

/// Copies all files, while the session is watched.
async fn copy_all(
    context: &Context,
    session: &BackupSession,
    lineage: &pgkeep_repo::lineage::Lineage,
    task: &Arc<CopyTask>,
    base: Arc<Base>,
    owners: Owners,
    start: ReuseStart,
) -> Result<Copied> {
    let engine = &context.engine;
    phase(engine, "copy data files", None);
    let journal = ReuseWriter::create(&journal_path(&context.reuse_directory), &start)
        .inspect_err(|error| engine.note(format!("the next backup will store everything anew: {error}")))
        .ok();
    let (uploads_to, uploads) = mpsc::channel(1);
    let packs = PackWriter::new(engine.sealer().clone(), lineage.clone(), context.id.clone());
    let progress = Arc::clone(&engine.setup().progress);
    let mut assembler = Assembler::new(
        packs,
        journal,
        base,
        owners,
        uploads_to,
        Arc::clone(&context.durable),
        progress,
    );
    let items = copy::start(Arc::clone(task));
    let assembling = tokio::task::spawn_blocking(move || {
        assembler.run(&items)?;
        Ok(assembler)
    });
    let (places, durable) = (Arc::clone(&context.places), Arc::clone(&context.durable));
    let uploading = tokio::spawn(async move { upload(&places, &durable, uploads).await });
    tokio::select! {
        assembled = assembling => match assembled.expect("the assembler does not panic") {
            Ok(assembler) => Ok(Copied { assembler, uploading }),
            // The uploads know better why they ended.
            Err(error) if uploading.is_finished() => match uploading.await.expect("uploads do not panic") {
                Err(upload) => Err(upload),
                Ok(()) => Err(error),
            },
            Err(error) => {
                uploading.abort();
                Err(error)
            }
        },
        lost = watch(session) => {
            uploading.abort();
            Err(lost)
        }
    }
    .during(|| "copy the data files")
}

/// Ends when the session is lost.
async fn watch(session: &BackupSession) -> pgkeep_base::Error {
    loop {
        tokio::time::sleep(PING).await;
        if let Err(error) = session.ping().await {
            return error.during("the backup's session was lost");
        }
    }
}
