//! `wal salvage`: brings into the archive what a dead, or living, cluster's data directory has and the archive never took.
//!
//! Invariants: nothing in the data directory is changed. Complete segments are stored as `wal push` would store them;
//! of an unfinished one its valid beginning is stored as a `.partial` file, never under the segment's own name: the
//! server may yet go on in it. What another cluster wrote is passed over and told.

use std::path::{Path, PathBuf};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use pgkeep_base::facts::SegmentFacts;
use pgkeep_base::{ClusterName, Error, ErrorKind, Event, Lsn, Result, ResultExt, WalFile, WalSegment};
use pgkeep_pg::server::is_running;
use pgkeep_repo::lineage::Lineage;

use super::content::Content;
use super::inspect::facts_in_parts;
use super::lineage::{admit, choose_cluster};
use super::local::{Inspected, LocalHistory, LocalSegment, LocalWal, Site};
use super::map::Holder;
use super::push::Pushed;
use super::store::{Known, store};
use super::there::{OfSegment, There};
use crate::engine::Engine;
use crate::state::State;
use crate::window::{Range, window};

/// Files in work at once; one where segments are large.
const IN_FLIGHT: usize = 4;
const SMALL_SEGMENT_BYTES: u64 = 16 << 20;

/// What to salvage.
#[derive(Clone, Debug)]
pub struct SalvageRequest {
    /// The data directory.
    pub data_directory: PathBuf,
    /// The cluster, where it can't be told from the system identifier.
    pub cluster: Option<ClusterName>,
}

/// How much of a segment there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// All of it.
    Complete,
    /// Valid records up to here; the end of the last one.
    UpTo(Lsn),
}

/// Something that the archive lacks.
#[derive(Clone, Debug)]
pub struct Lacking {
    /// The file that it will be in the archive.
    pub file: WalFile,
    /// Of a segment: how much there is.
    pub extent: Option<Extent>,
    from: Origin,
}

#[derive(Clone, Debug)]
enum Origin {
    Segment(LocalSegment),
    History(PathBuf),
}

/// What will be stored.
#[derive(Debug)]
pub struct SalvagePlan {
    /// Whose WAL it is.
    pub lineage: Lineage,
    /// Where it is.
    pub data_directory: PathBuf,
    /// A server runs on it.
    pub running: bool,
    /// What the archive lacks, in order.
    pub lacking: Vec<Lacking>,
    /// How many files the archive has already.
    pub there: u64,
    /// Files that are passed over, with the reason.
    pub passed_over: Vec<(String, String)>,
    /// Files whose place in the archive other content has, with what becomes of them.
    pub conflicts: Vec<(String, String)>,
    /// The end of the last valid record of the newest timeline, and the latest time of a transaction's end there.
    pub end: Option<WalEnd>,
    segment_bytes: u64,
}

/// The end of the WAL in a data directory.
#[derive(Clone, Copy, Debug)]
pub struct WalEnd {
    /// The segment that it lies in.
    pub segment: WalSegment,
    /// First byte behind the last valid record.
    pub lsn: Lsn,
    /// Time of the last commit in that segment.
    pub last_commit: Option<Timestamp>,
}

/// What was stored.
#[derive(Debug)]
pub struct Salvaged {
    /// What came into the archive, in order.
    pub stored: Vec<Pushed>,
    /// What was found to be there after all.
    pub there: u64,
    /// What was not taken, with the reason: the run's result is impaired.
    pub refused: Vec<(String, Error)>,
    /// The moments that can be restored now; `None` where this host may not look.
    pub reachable: Option<Vec<Range>>,
}

/// Looks at a data directory and at the archive; changes nothing.
///
/// # Errors
/// `Refused` where there is no WAL that could be salvaged; `Conflict` where its system identifier is not that of the
/// cluster; `Unavailable` where a required place does not answer.
pub async fn plan(engine: &Engine, request: &SalvageRequest) -> Result<SalvagePlan> {
    let local = LocalWal::read(&request.data_directory)?.ok_or_else(|| nobodys(&request.data_directory))?;
    let running = is_running(&request.data_directory)?.is_some();
    let state = engine.state().ok();
    let system_identifier = local.system_identifier;
    let cluster = choose_cluster(engine, state.as_ref(), request.cluster.as_ref(), system_identifier)?;
    let lineage = Lineage {
        cluster,
        system_identifier,
    };
    admit(engine, state.as_ref(), &lineage, false).await?;
    let there = There::look(engine, state.as_ref(), &lineage, &local).await?;
    let mut plan = SalvagePlan {
        lineage: lineage.clone(),
        data_directory: request.data_directory.clone(),
        running,
        lacking: Vec::new(),
        there: 0,
        passed_over: shown(&local.strange),
        conflicts: Vec::new(),
        end: None,
        segment_bytes: local.segment_size.bytes(),
    };
    for history in &local.histories {
        plan.add_history(engine, &there, history)?;
    }
    for segment in &local.segments {
        plan.add_segment(engine, &there, segment).await?;
    }
    Ok(plan)
}

fn nobodys(data_directory: &Path) -> Error {
    Error::refused(format!("nothing in {} says whose WAL it is", data_directory.display()))
        .detail("its global/pg_control can't be read, and no segment in its pg_wal can")
        .hint("Name the data directory, the one that holds PG_VERSION; `pgkeep wal list` shows what is archived.")
}

fn shown(files: &[(PathBuf, String)]) -> Vec<(String, String)> {
    files
        .iter()
        .map(|(path, why)| (path.display().to_string(), why.clone()))
        .collect()
}

impl SalvagePlan {
    fn add_history(&mut self, engine: &Engine, there: &There<'_>, local: &LocalHistory) -> Result<()> {
        let file = WalFile::History(local.history.timeline());
        let content = Content::open(&local.path, &file).during(|| format!("read {}", local.path.display()))?;
        if there.has(&file, &engine.naming().digest(content.source())?.hash) {
            self.there += 1;
            return Ok(());
        }
        let from = Origin::History(local.path.clone());
        self.lacking.push(Lacking {
            file,
            extent: None,
            from,
        });
        Ok(())
    }

    async fn add_segment(&mut self, engine: &Engine, there: &There<'_>, local: &LocalSegment) -> Result<()> {
        if local.site == Site::SavedOfCopy {
            let why = "it was saved from a restored copy that was never adopted".to_owned();
            self.passed_over.push((local.path.display().to_string(), why));
            return Ok(());
        }
        let inspected = match local.inspect() {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let why = error.detail_text().unwrap_or_else(|| error.to_string());
                self.passed_over.push((local.path.display().to_string(), why));
                return Ok(());
            }
            inspected => inspected?,
        };
        if there.has(&local.file(), &engine.naming().digest(inspected.content.source())?.hash) {
            self.note_end(local, &inspected.facts);
            self.there += 1;
            return Ok(());
        }
        let Some((file, extent)) = what_it_is(local, &inspected) else {
            return Ok(());
        };
        self.note_end(local, &inspected.facts);
        let found = there.of(&local.segment, &file, engine.naming(), &inspected).await?;
        let shown = local.path.display().to_string();
        let lacking = Lacking {
            file,
            extent: Some(extent),
            from: Origin::Segment(local.clone()),
        };
        match found {
            OfSegment::AsMuch => self.there += 1,
            OfSegment::Less => self.lacking.push(lacking),
            OfSegment::OtherSegment => {
                let why = format!(
                    "the archive has other WAL as {}: another server wrote it",
                    local.segment
                );
                self.conflicts.push((shown, why + "; it is not stored"));
            }
            OfSegment::OtherTail => {
                let why = format!(
                    "the archive has other WAL as {}.partial: another server wrote it",
                    local.segment
                );
                self.conflicts
                    .push((shown, why + "; both are kept, and no restore chooses between them"));
                self.lacking.push(lacking);
            }
        }
        Ok(())
    }

    /// Segments come in order, so what comes later is newer.
    fn note_end(&mut self, local: &LocalSegment, facts: &SegmentFacts) {
        let before = self.end.filter(|end| end.segment.timeline == local.segment.timeline);
        let Some(lsn) = facts
            .last_record_end
            .filter(|lsn| before.is_none_or(|end| end.lsn < *lsn))
        else {
            return;
        };
        let before = before.and_then(|end| end.last_commit);
        self.end = Some(WalEnd {
            segment: local.segment,
            lsn,
            last_commit: facts.last_commit_time.or(before),
        });
    }
}

/// What a segment's file is to the archive; `None` for an unfinished segment in which no record ends. Where one goes on
/// from the segment before, which is not at hand, it is taken to end where its bytes do.
fn what_it_is(local: &LocalSegment, inspected: &Inspected) -> Option<(WalFile, Extent)> {
    if inspected.is_complete(local.holder) {
        return Some((local.file(), Extent::Complete));
    }
    let facts = &inspected.facts;
    let continued = (facts.continued_bytes > 0 && facts.valid_to > facts.start).then_some(facts.valid_to);
    let end = facts.last_record_end.or(continued)?;
    Some((Holder::Partial.file(&local.segment), Extent::UpTo(end)))
}

/// Stores what the archive lacks.
///
/// # Errors
/// `Unavailable`, `Denied` or `Io` where a required place does not take it: running it again goes on there.
pub async fn run(engine: &Engine, plan: &SalvagePlan) -> Result<Salvaged> {
    engine.setup().progress.event(Event::Phase {
        name: "store WAL".to_owned(),
        bytes_total: Some(plan.lacking.len() as u64 * plan.segment_bytes),
    });
    let state = engine.state().ok();
    let in_flight = if plan.segment_bytes > SMALL_SEGMENT_BYTES {
        1
    } else {
        IN_FLIGHT
    };
    let mut storing = stream::iter(&plan.lacking)
        .map(|lacking| store_one(engine, state.as_ref(), plan, lacking))
        .buffered(in_flight);
    let mut salvaged = Salvaged {
        stored: Vec::new(),
        there: plan.there,
        refused: Vec::new(),
        reachable: None,
    };
    let mut done = 0;
    while let Some((file, result)) = storing.next().await {
        match result {
            Ok(Some(pushed)) if pushed.was_there => salvaged.there += 1,
            Ok(Some(pushed)) => salvaged.stored.push(pushed),
            Ok(None) => {}
            // One file's own fault is no reason to leave the others.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Corrupt) => {
                salvaged.refused.push((file.to_string(), error));
            }
            Err(error) => return Err(error.during(format!("could not salvage {file}"))),
        }
        done += plan.segment_bytes;
        engine.setup().progress.event(Event::Bytes { done });
    }
    drop(storing);
    salvaged.reachable = reachable(engine, &plan.lineage).await;
    Ok(salvaged)
}

async fn store_one<'a>(
    engine: &Engine,
    state: Option<&State>,
    plan: &SalvagePlan,
    lacking: &'a Lacking,
) -> (&'a WalFile, Result<Option<Pushed>>) {
    let stored = match &lacking.from {
        Origin::History(path) => store_history(engine, state, plan, path, &lacking.file).await.map(Some),
        Origin::Segment(local) => store_segment(engine, state, plan, local, lacking).await,
    };
    (&lacking.file, stored)
}

async fn store_history(
    engine: &Engine,
    state: Option<&State>,
    plan: &SalvagePlan,
    path: &Path,
    file: &WalFile,
) -> Result<Pushed> {
    let content = Content::open(path, file).during(|| format!("read {}", path.display()))?;
    store(
        engine,
        state,
        plan.lineage.clone(),
        file,
        content.source(),
        None,
        Known::Refused,
    )
    .await
}

/// `None` where nothing is left of what was planned: a living server has taken the file for another segment.
async fn store_segment(
    engine: &Engine,
    state: Option<&State>,
    plan: &SalvagePlan,
    local: &LocalSegment,
    lacking: &Lacking,
) -> Result<Option<Pushed>> {
    let inspected = match local.inspect() {
        Err(error) if plan.running && matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            return Ok(None);
        }
        inspected => inspected?,
    };
    if plan.running {
        // What was read may not be on disk yet. If it got lost in a power cut, the server would write other records in
        // its place, and the archive would hold two histories.
        make_durable(&local.path)?;
    }
    let lineage = plan.lineage.clone();
    let (content, facts) = match lacking.extent {
        Some(Extent::UpTo(_)) => {
            let beginning = inspected.beginning();
            let facts = facts_in_parts(&beginning, &local.segment)?;
            return store(
                engine,
                state,
                lineage,
                &lacking.file,
                &beginning,
                Some(facts),
                Known::Kept,
            )
            .await
            .map(Some);
        }
        _ => (inspected.content.source(), inspected.facts),
    };
    store(engine, state, lineage, &lacking.file, content, Some(facts), Known::Kept)
        .await
        .map(Some)
}

fn make_durable(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path).during(|| format!("open {}", path.display()))?;
    file.sync_data().during(|| format!("make {} durable", path.display()))
}

/// What can be restored now, as far as this host may look.
async fn reachable(engine: &Engine, lineage: &Lineage) -> Option<Vec<Range>> {
    let windows = match window(engine, Some(&lineage.cluster)).await {
        Ok(windows) => windows,
        Err(error) => {
            engine.note(format!(
                "up to where recovery is possible now, this host can't tell: {error}"
            ));
            return None;
        }
    };
    let first = windows.into_iter().next()?;
    Some(
        first
            .ranges
            .into_iter()
            .filter(|range| range.lineage == *lineage)
            .collect(),
    )
}
