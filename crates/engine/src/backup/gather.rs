//! Copies all files into packs, while the session is watched: wires walker and workers, assembler and uploads.
//!
//! Invariant: whatever of them fails ends the others; an upload's error is told before the assembler's, which only
//! noticed that nobody takes its packs any more.

use std::sync::Arc;
use std::time::Duration;

use pgkeep_base::{Error, ErrorKind, Result, ResultExt};
use pgkeep_pg::datadir::DataDir;
use pgkeep_pg::session::BackupSession;
use pgkeep_repo::pack::PackWriter;
use pgkeep_repo::reuse::{PageHasher, ReuseStart, ReuseWriter};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::assemble::{Assembler, Outlets};
use super::base::Base;
use super::context::Context;
use super::copy::{self, CopyTask};
use super::journals::{forget_short, journal_path, missed_path};
use super::rate::Rate;
use super::upload::{Places, upload};
use crate::owners::Owners;

/// zstd level of data.
const DATA_LEVEL: i32 = 3;
/// How often the session is asked whether it still lives.
const PING: Duration = Duration::from_secs(5);

/// Everything that was copied, with the uploads that still run.
pub(super) struct Copied {
    pub assembler: Assembler,
    pub uploading: JoinHandle<Result<()>>,
    pub task: Arc<CopyTask>,
}

/// Opens what may be reused and copies everything else.
pub(super) async fn gather(
    context: &mut Context,
    session: &BackupSession,
    data_dir: DataDir,
    jobs: usize,
) -> Result<Copied> {
    let start = reuse_start(context, data_dir.control().block_bytes);
    let base = Arc::new(Base::open(
        &context.engine,
        &context.reuse_directory,
        &start,
        context.request.full,
    ));
    base.notes.iter().for_each(|note| context.engine.note(note.clone()));
    context.places = leave_out_lagging(context, &base);
    let start = ReuseStart {
        places: names_of(&context.places),
        ..start
    };
    let task = Arc::new(CopyTask {
        data_dir,
        base,
        hasher: PageHasher::new(&context.engine.setup().repository.naming_key),
        level: DATA_LEVEL,
        jobs,
        rate: Rate::new(context.request.rate.map(|rate| rate.0)),
        start_lsn: session.started().start_lsn,
    });
    copy_all(context, session, task, &start)
        .await
        .during(|| "copy the data files")
}

fn reuse_start(context: &Context, block_bytes: u32) -> ReuseStart {
    let places = context.engine.places();
    ReuseStart {
        repository: context.engine.sealer().repository(),
        cluster: context.lineage.cluster.clone(),
        system_identifier: context.lineage.system_identifier,
        backup: context.id.clone(),
        started_at: context.started_at,
        recipients: context.engine.sealer().recipients(),
        places: places.iter().map(|place| place.name.clone()).collect(),
        block_bytes,
    }
}

/// Optional places that lack what is reused get nothing of this backup: their head would name what is not there.
fn leave_out_lagging(context: &Context, base: &Base) -> Arc<Places> {
    let mut missed = context.places.missed();
    let all = names_of(&context.places);
    let complete = base.places.as_ref().unwrap_or(&all);
    for place in context
        .engine
        .places()
        .iter()
        .filter(|place| all.contains(&place.name) && !complete.contains(&place.name))
    {
        let why = "it lacks earlier packs that this backup refers to; `pgkeep backup --full` stores everything there"
            .to_owned();
        missed.push((place.name.clone(), why));
    }
    let places = Places::new(context.engine.places().to_vec(), missed);
    Arc::new(places.noting_missed_in(missed_path(&context.reuse_directory, &context.id)))
}

fn names_of(places: &Places) -> Vec<String> {
    places.standing().into_iter().map(|place| place.name).collect()
}

async fn copy_all(
    context: &Context,
    session: &BackupSession,
    task: Arc<CopyTask>,
    start: &ReuseStart,
) -> Result<Copied> {
    context.phase("copy data files");
    let (packs_to, packs) = mpsc::channel(1);
    let mut assembler = assembler(context, &task, start, packs_to);
    let items = copy::start(Arc::clone(&task));
    let assembling = tokio::task::spawn_blocking(move || assembler.run(&items).map(|()| assembler));
    let (places, durable) = (Arc::clone(&context.places), Arc::clone(&context.durable));
    let uploading = tokio::spawn(async move { upload(&places, &durable, packs).await });
    let failed = tokio::select! {
        assembled = assembling => match assembled.expect("the assembler does not panic") {
            Ok(assembler) => return Ok(Copied { assembler, uploading, task }),
            Err(error) => error,
        },
        lost = watch(context, session) => lost,
    };
    if failed.kind() == ErrorKind::Cancelled {
        // The assembler noticed only that nobody takes its packs any more.
        return Err(uploading.await.expect("uploads do not panic").err().unwrap_or(failed));
    }
    // Without uploads the assembler ends, too.
    uploading.abort();
    Err(failed)
}

fn assembler(
    context: &Context,
    task: &CopyTask,
    start: &ReuseStart,
    packs: mpsc::Sender<pgkeep_repo::pack::ClosedPack>,
) -> Assembler {
    let engine = &context.engine;
    forget_short(&context.reuse_directory);
    let journal = ReuseWriter::create(&journal_path(&context.reuse_directory, &context.id), start)
        .inspect_err(|error| engine.note(format!("the next backup will store everything anew: {error}")))
        .ok();
    let writer = PackWriter::new(engine.sealer().clone(), context.lineage.clone(), context.id.clone());
    let owners = Owners::of_this_machine((context.root.uid, context.root.gid));
    let outlets = Outlets {
        packs,
        durable: Arc::clone(&context.durable),
        progress: Arc::clone(&engine.setup().progress),
    };
    Assembler::new(writer, journal, Arc::clone(&task.base), owners, outlets)
}

/// Ends when the session is lost, or the run has outlived its lease.
async fn watch(context: &Context, session: &BackupSession) -> Error {
    loop {
        tokio::time::sleep(PING).await;
        if let Err(error) = session.ping().await {
            return error.during("the backup's session was lost");
        }
        if let Err(error) = context.check_lease() {
            return error;
        }
    }
}
