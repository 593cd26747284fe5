//! The newest backup of a cluster: by the heads in the places, else by what this host remembers of its own doing.
//!
//! Whether the cluster can be restored is `status`'s question; here it matters only that backups happen at all.

use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::{BackupId, ClusterName, Error, ErrorKind, Result};

use super::ask::{Asked, ago};
use super::findings::{Findings, Verdict, words};
use super::local::Recorder;
use crate::catalogue::{self, Catalogue};
use crate::engine::Engine;
use crate::setup::Place;

/// How long the heads of one cluster may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// A day and some hours for a nightly backup that took longer than the one before.
const AGE_MAX: Duration = Duration::from_secs(30 * 3600);

/// What the heads of one cluster say.
#[derive(Debug)]
pub struct Heads {
    cluster: ClusterName,
    newest: Result<Option<Newest>>,
}

/// The newest physical backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    pub id: BackupId,
    pub system_identifier: pgkeep_base::SystemId,
    pub finished_at: Timestamp,
    pub stored_bytes: u64,
    pub places: Vec<String>,
    /// Every place could be looked at, so that `places` is all of them.
    pub complete: bool,
    /// Heads that can't be used.
    pub bad: usize,
}

impl Heads {
    /// The newest backup, if there is one that we may see.
    pub fn newest(&self) -> Option<&Newest> {
        self.newest.as_ref().ok()?.as_ref()
    }
}

/// Reads the heads of a cluster: in all places, else in those that answer.
pub async fn ask(engine: &Engine, cluster: &ClusterName) -> Heads {
    let newest = match load(engine, cluster).await {
        Ok(catalogue) => Ok(newest_of([&catalogue], true)),
        Err(error) => in_any_place(engine, cluster, error).await,
    };
    Heads {
        cluster: cluster.clone(),
        newest,
    }
}

async fn in_any_place(engine: &Engine, cluster: &ClusterName, error: Error) -> Result<Option<Newest>> {
    if engine.places().len() < 2 {
        return Err(error);
    }
    let look = |place: &Place| {
        let only = engine.only_place(&place.name);
        async move { load(&only.ok()?, cluster).await.ok() }
    };
    let looked = futures::future::join_all(engine.places().iter().map(look)).await;
    let catalogues: Vec<Catalogue> = looked.into_iter().flatten().collect();
    newest_of(&catalogues, false).map(Some).ok_or(error)
}

async fn load(engine: &Engine, cluster: &ClusterName) -> Result<Catalogue> {
    tokio::time::timeout(PATIENCE, catalogue::load(engine, Some(cluster)))
        .await
        .unwrap_or_else(|_| {
            Err(Error::unavailable(format!(
                "the heads could not be read within {} s",
                PATIENCE.as_secs()
            )))
        })
}

/// The newest of what some places told; `complete` where those are all.
fn newest_of<'a>(catalogues: impl IntoIterator<Item = &'a Catalogue>, complete: bool) -> Option<Newest> {
    let catalogues: Vec<_> = catalogues.into_iter().collect();
    let newest = catalogue::newest(catalogues.iter().flat_map(|catalogue| &catalogue.backups))?;
    let head = newest.head();
    Some(Newest {
        id: head.id.clone(),
        system_identifier: head.system_identifier,
        finished_at: head.finished_at,
        stored_bytes: head.stored_bytes,
        places: newest.places.clone(),
        complete,
        bad: catalogues
            .iter()
            .map(|catalogue| catalogue.bad.len())
            .max()
            .unwrap_or(0),
    })
}

/// Judges the newest backup.
pub fn check(engine: &Engine, recorder: &Recorder, one: &Asked, heads: &[Heads], findings: &mut Findings) {
    let Some(heads) = heads.iter().find(|heads| heads.cluster == one.config.name) else {
        return;
    };
    let now = engine.now();
    findings.put(
        "newest-backup",
        match &heads.newest {
            Ok(newest) => {
                let answering = one
                    .answers
                    .as_ref()
                    .ok()
                    .and_then(|answers| answers.system_identifier.as_ref().ok());
                judge(newest.as_ref(), answering.copied(), &one.config.name, now)
            }
            Err(error) if error.kind() == ErrorKind::Denied => judge_remembered(recorder, &one.config.name, now),
            Err(error) => Verdict::unknown(words(error), "See `repository-reachable`."),
        },
    );
}

fn judge(
    newest: Option<&Newest>,
    answering: Option<pgkeep_base::SystemId>,
    cluster: &ClusterName,
    now: Timestamp,
) -> Verdict {
    let take = format!("pgkeep backup {cluster}");
    let Some(newest) = newest else {
        return Verdict::fail("there is no backup", take);
    };
    let evidence = format!("{} finished {}", newest.id, ago(now, newest.finished_at));
    if let Some(answering) = answering.filter(|answering| *answering != newest.system_identifier) {
        return Verdict::fail(
            format!(
                "{evidence}, of system identifier {}; {answering} answers now",
                newest.system_identifier
            ),
            take,
        );
    }
    if newest.bad > 0 {
        return Verdict::warn(
            format!("{evidence}; {} other heads can't be used", newest.bad),
            "`pgkeep status` tells which, and why.",
        );
    }
    match now.duration_since(newest.finished_at).as_secs() > AGE_MAX.as_secs().cast_signed() {
        true => Verdict::warn(evidence, format!("{take} (and let a timer run it daily)")),
        false => Verdict::pass(evidence),
    }
}

/// A writer that may not read knows what it wrote itself.
fn judge_remembered(recorder: &Recorder, cluster: &ClusterName, now: Timestamp) -> Verdict {
    let remembered = recorder.state().and_then(|state| {
        let system_identifier = state.lineages(cluster).ok()?.pop()?;
        let lineage = pgkeep_repo::lineage::Lineage {
            cluster: cluster.clone(),
            system_identifier,
        };
        state.last_head(&lineage).ok()?
    });
    let ask = "Ask where the credentials may list and read: `pgkeep status`.";
    match remembered {
        Some(head) => Verdict::unknown(
            format!(
                "this host wrote {} {}; these credentials may not read whether it is still there",
                head.id,
                ago(now, head.finished_at)
            ),
            ask,
        ),
        None => Verdict::unknown("these credentials may not read, and this host remembers no backup", ask),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use pgkeep_base::SystemId;

    #[test]
    fn a_backup_counts_while_it_is_young_and_of_the_cluster_that_answers() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let cluster = "shop".parse().unwrap();
        let newest = |hours: i64, bad| {
            let finished_at = Timestamp::from_second(1_800_000_000 - hours * 3600).unwrap();
            let (id, places) = (BackupId::new(finished_at), vec!["main".to_owned()]);
            Newest {
                id,
                system_identifier: SystemId(7),
                finished_at,
                stored_bytes: 1,
                places,
                complete: true,
                bad,
            }
        };
        let status = |newest: &Newest, id| judge(Some(newest), Some(SystemId(id)), &cluster, now).status;
        assert_eq!(status(&newest(29, 0), 7), Status::Pass);
        assert_eq!(status(&newest(31, 0), 7), Status::Warn);
        assert_eq!(status(&newest(1, 2), 7), Status::Warn);
        assert_eq!(status(&newest(1, 0), 8), Status::Fail);
        let none = judge(None, None, &cluster, now);
        assert_eq!((none.status, none.fix.as_str()), (Status::Fail, "pgkeep backup shop"));
    }
}
