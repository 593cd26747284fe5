//! Stores one WAL file in every place, under a name that proves its content.
//!
//! Invariant: success means that every required place has the bytes durably. The local state only ever adds refusals;
//! it never turns a write into a "was there already".

use pgkeep_base::facts::SegmentFacts;
use pgkeep_base::{Error, Result, TimelineId, WalFile, failpoint};
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::seal::SealedObject;
use pgkeep_repo::wal::{Relation, WalFacts, WalPlan, WalSource, compare};
use pgkeep_store::Created;

use super::patience;
use super::push::Pushed;
use crate::engine::Engine;
use crate::setup::Place;
use crate::state::{PushedFile, State};

/// What to do with a file of whose name this host stored other content before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// Refuse it: two servers archive as one.
    Refused,
    /// Keep it beside the other. Readers never choose between the two silently.
    Kept,
}

/// Stores `source` as `file` of a lineage; `facts` are those of its records.
///
/// # Errors
/// `Conflict` where this host stored other content under that name; `Unavailable` or `Denied` where a required place
/// did not take it. After an error the object may be in some places; storing it again is safe.
pub(super) async fn store(
    engine: &Engine,
    state: Option<&State>,
    lineage: Lineage,
    file: &WalFile,
    source: &dyn WalSource,
    facts: Option<SegmentFacts>,
    known_conflicts: Known,
) -> Result<Pushed> {
    let plan = WalPlan::new(
        engine.naming(),
        &lineage.cluster,
        lineage.system_identifier,
        file,
        source,
    )?;
    let digest = plan.digest().clone();
    let known = facts.clone().map(|segment| WalFacts {
        segment,
        prefix: digest.prefix,
    });
    if let Some(state) = state.filter(|_| known_conflicts == Known::Refused) {
        refuse_known_conflict(state, &lineage, file, &digest.hash, known.as_ref())?;
    }
    let mut writing = Writing::new(engine.places());
    for object in plan.seal(engine.sealer(), facts) {
        failpoint::at("engine.archive.seal")?;
        writing.write(&object?).await;
    }
    let pushed = writing.finish(lineage, file)?;
    if let Some(state) = state {
        failpoint::at("engine.archive.remember")?;
        remember(engine, state, &pushed, file, digest.hash, known);
    }
    failpoint::at("engine.archive.done")?;
    Ok(pushed)
}

/// Same name, other content, and this host pushed it: a longer tail is fine, anything else is two histories.
fn refuse_known_conflict(
    state: &State,
    lineage: &Lineage,
    file: &WalFile,
    hash: &str,
    facts: Option<&WalFacts>,
) -> Result<()> {
    for earlier in state.pushed(lineage, &file.to_string()).unwrap_or_default() {
        let relation = match (&earlier.facts, facts) {
            (Some(earlier), Some(new)) => compare(earlier, new),
            _ => Relation::Fork,
        };
        if earlier.hash == hash || matches!(relation, Relation::Same | Relation::LongerTail(_) | Relation::Unknown) {
            continue;
        }
        return Err(Error::conflict("this host archived a different file of that name before")
            .detail(format!("content {} on {}, now {hash}", earlier.hash, earlier.pushed_at))
            .hint("Two servers may archive as one cluster. Compare `pgkeep doctor` on both hosts before anything else."));
    }
    Ok(())
}

/// Writes a file's objects, in order, to all places at once.
struct Writing<'a> {
    places: &'a [Place],
    outcomes: Vec<Result<Created>>,
    stored_bytes: u64,
}

impl Writing<'_> {
    fn new(places: &[Place]) -> Writing<'_> {
        Writing {
            places,
            outcomes: places.iter().map(|_| Ok(Created::AlreadyThere)).collect(),
            stored_bytes: 0,
        }
    }

    /// Writes the next object to every place that took all before it.
    async fn write(&mut self, object: &SealedObject) {
        self.stored_bytes += object.bytes;
        let writes = self
            .places
            .iter()
            .zip(&self.outcomes)
            .map(|(place, outcome)| async move {
                match outcome {
                    Ok(_) => Some(patience::create(place, &object.name, object.payload.clone()).await),
                    Err(_) => None,
                }
            });
        let results = futures::future::join_all(writes).await;
        for (outcome, result) in self.outcomes.iter_mut().zip(results) {
            if let Some(result) = result {
                *outcome = result;
            }
        }
    }

    /// Fails with the first required place that failed.
    fn finish(self, lineage: Lineage, file: &WalFile) -> Result<Pushed> {
        let (mut places, mut missed, mut was_there) = (Vec::new(), Vec::new(), true);
        for (place, outcome) in self.places.iter().zip(self.outcomes) {
            match outcome {
                Ok(created) => {
                    was_there &= created == Created::AlreadyThere;
                    places.push(place.name.clone());
                }
                Err(error) if place.required => {
                    return Err(error.during(format!("store in repository \"{}\"", place.name)).or_hint(
                        "Nothing is lost: PostgreSQL keeps the file and tries again. `pgkeep doctor` tells what is wrong.",
                    ));
                }
                Err(error) => {
                    let why = error
                        .detail_text()
                        .map_or_else(|| error.to_string(), |detail| format!("{error}: {detail}"));
                    missed.push((place.name.clone(), why));
                }
            }
        }
        Ok(Pushed {
            lineage,
            file: file.to_string(),
            stored_bytes: self.stored_bytes,
            places,
            missed,
            was_there,
        })
    }
}

fn remember(engine: &Engine, state: &State, pushed: &Pushed, file: &WalFile, hash: String, facts: Option<WalFacts>) {
    let record = PushedFile {
        file: pushed.file.clone(),
        hash,
        timeline: file.timeline().unwrap_or(TimelineId::FIRST),
        pushed_at: engine.now(),
        facts,
        places: pushed.places.clone(),
    };
    if let Err(error) = state.remember_push(&pushed.lineage, &record) {
        engine.note(format!(
            "{} is archived, but the local state did not take note: {error}",
            pushed.file
        ));
    }
}
