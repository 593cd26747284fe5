//! Runs a backup: lock, lease, backup mode, copy, finish.
//!
//! Invariants: whatever ends the run early closes the session, so that the server leaves backup mode; without a head
//! nothing looks restorable; what was stored stays reusable through the journal.

use std::sync::Arc;

use jiff::Timestamp;
use pgkeep_base::{BackupId, ErrorKind, Result, failpoint};
use pgkeep_pg::session::{AdvisoryKey, BackupSession};
use pgkeep_repo::lease::seal_lease;

use super::context::Context;
use super::finish::finish;
use super::gather::gather;
use super::lock::BackupLock;
use super::upload::Places;
use super::{BackedUp, BackupPlan};
use crate::controls::{Stale, stale_recipients};
use crate::engine::Engine;
use crate::state::{Run, RunOutcome};

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
    failpoint::at("engine.backup.lock")?;
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
    let reuse_directory = state.reuse_directory(&plan.lineage)?;
    tell_stale(engine).await;
    let mut context = Context {
        engine: engine.clone(),
        state,
        id,
        started_at,
        lineage: plan.lineage,
        request: plan.request,
        facts: plan.facts,
        root: plan.data_dir.root_entry()?,
        archive_timeout: plan.archive_timeout,
        reuse_directory,
        places: Arc::new(Places::new(engine.places().to_vec(), Vec::new())),
        durable: Arc::default(),
    };
    context.phase("check archiving");
    failpoint::at("engine.backup.prove")?;
    context.archiving().prove(&plan.connection, &context.facts).await?;
    failpoint::at("engine.backup.lease")?;
    write_lease(&context).await?;

    context.phase("put the server into backup mode");
    let label = format!("pgkeep {}", context.id);
    let key = AdvisoryKey::for_backups_of(&context.lineage.cluster);
    let fast = !context.request.spread_checkpoint;
    failpoint::at("engine.backup.start")?;
    let session = BackupSession::begin(plan.connection, &label, fast, key).await?;
    failpoint::at("engine.backup.started")?;
    let copied = gather(&mut context, &session, plan.data_dir, plan.jobs).await?;
    finish(context, session, copied).await
}

/// Warns where this host's repository file names other recipients than the repository; a writer that may not look can't
/// know.
async fn tell_stale(engine: &Engine) {
    match stale_recipients(engine).await {
        Ok(Some(stale)) => engine.warn(format!("{stale}. {}", Stale::HINT)),
        Ok(None) => {}
        Err(error) if error.kind() == ErrorKind::Denied => {}
        Err(error) => engine.note(format!("whether the recipients have changed is not known: {error}")),
    }
}

async fn write_lease(context: &Context) -> Result<()> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (name, payload) = seal_lease(context.engine.sealer(), &context.lineage, &context.id, &host)?;
    context.places.create(&name.object_name(), &payload).await
}
