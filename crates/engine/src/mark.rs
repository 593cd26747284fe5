//! `mark`: a restore point whose WAL is durable when the command returns.
//!
//! Invariant: success means that the segment with the restore point is in every required place: `backup::Archiving`.

use std::sync::Arc;

use jiff::Timestamp;
use pgkeep_base::{ClusterName, Lsn, Result, ResultExt, TimelineId, WalSegment};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::facts::ServerFacts;
use pgkeep_repo::lineage::Lineage;

use crate::backup::Archiving;
use crate::engine::Engine;

/// A restore point that can be restored to.
#[derive(Clone, Debug)]
pub struct Marked {
    /// Its lineage.
    pub lineage: Lineage,
    /// Its name.
    pub name: String,
    /// End of its record, as PostgreSQL returned it.
    pub lsn: Lsn,
    /// When it was durable.
    pub durable_at: Timestamp,
    /// The segment that holds it.
    pub segment: WalSegment,
}

/// Makes a restore point, switches WAL, and waits until the segment is in every required place.
///
/// # Errors
/// `Invalid` for a name that no restore point can have; `Refused` where WAL does not arrive; the restore point exists
/// in the WAL then, and can be restored to once its segment does arrive.
pub async fn mark(engine: &Engine, cluster: Option<&ClusterName>, name: &str) -> Result<Marked> {
    let cluster = engine.setup().cluster(cluster)?;
    let environment = Arc::clone(&engine.setup().environment);
    let connection = Connection::open(&cluster.connection, &*environment)
        .await
        .during(|| format!("connect to cluster \"{}\"", cluster.name))?;
    let facts = ServerFacts::gather(&connection).await?;
    let lineage = Lineage {
        cluster: cluster.name.clone(),
        system_identifier: facts.system_identifier,
    };
    let size = facts.wal_segment_size;
    let lsn = connection.create_restore_point(name).await?;
    connection.switch_wal().await?;
    let state = engine.checked_state()?;
    let timeout = cluster.archive_timeout;
    let archiving = Archiving {
        engine,
        state: &state,
        lineage: &lineage,
        size,
        data_directory: &facts.data_directory,
        timeout,
    };
    let timeline: TimelineId = facts.timeline;
    let segment = WalSegment {
        timeline,
        number: size.number_before(lsn),
        size,
    };
    archiving
        .wait_for(&connection, segment)
        .await
        .during(|| format!("restore point \"{name}\" was made at {lsn}, but its WAL is not durable"))?;
    Ok(Marked {
        lineage,
        name: name.to_owned(),
        lsn,
        durable_at: engine.now(),
        segment,
    })
}
