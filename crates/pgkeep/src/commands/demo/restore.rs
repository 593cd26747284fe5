//! Point-in-time recovery to the moment before the disaster.

use std::ffi::OsString;

use pgkeep_base::Result;
use pgkeep_pg::server::is_running;

use super::act::restore_arguments;
use super::stage::{Stage, Told, unproven};

/// `OLD=NEW` for the second tablespace: its place is taken by the cluster that still runs.
pub fn move_fast(stage: &Stage, to: &str) -> OsString {
    let mut words = stage.scratch().path("fast").into_os_string();
    words.push("=");
    words.push(stage.scratch().path(to));
    words
}

/// Restores to the moment, starts the cluster and lets it recover.
pub async fn to_just_before(stage: &mut Stage) -> Result<Told> {
    let into = stage.restored.data.clone();
    let moves = move_fast(stage, "restored-fast");
    let (moment, port) = (stage.moment.clone(), stage.restored.port.to_string());
    let more = ["--at", &moment, "--action", "promote", "--start", "--port", &port];
    let more: Vec<_> = more.iter().map(|word| word.as_ref()).collect();
    let arguments = restore_arguments(into.as_os_str(), &moves, &more);
    stage.pgkeep_well(&arguments).await?;
    let running = is_running(&into)?.ok_or_else(|| unproven("`restore --start` left no server running"))?;
    stage.restored.port = running.port.unwrap_or(stage.restored.port);
    if let Some(socket_dir) = running.socket_dir {
        stage.restored.socket_dir = socket_dir;
    }
    if stage
        .ask(&stage.restored, "postgres", "SELECT pg_is_in_recovery()")
        .await?
        != "f"
    {
        return Err(unproven(
            "the restored server is still in recovery after `restore --start`",
        ));
    }
    Ok(Told::new(format!(
        "restored beside the lost cluster, recovered to {}, open for writing",
        stage.moment
    )))
}
