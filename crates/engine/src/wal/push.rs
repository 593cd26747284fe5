//! `wal push`: takes one file from PostgreSQL's archiver into every place.
//!
//! Invariant: `Ok` is returned only when every required place has the bytes durably under a name that proves
//! them. The local state only ever adds refusals; it never turns a write into a "was there already", and its loss or
//! damage does not stop archiving.

use std::fs::File;
use std::path::{Path, PathBuf};

use pgkeep_base::facts::SegmentFacts;
use pgkeep_base::{ClusterName, Error, Result, ResultExt, SystemId, TimelineId, WalFile, WalSegment, limits};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::wal::{FactsWalk, read_segment_header, segment_facts};
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::seal::SealedObject;
use pgkeep_repo::wal::{Relation, WalFacts, WalPlan, WalSource, compare};
use pgkeep_store::Created;

use super::content::Content;
use super::lineage::{admit, choose_cluster, data_directories_of, system_identifier_near};
use super::patience;
use crate::engine::Engine;
use crate::setup::Place;
use crate::state::{PushedFile, State};

/// Enough for the first page of any `wal_block_size`.
pub(crate) const FIRST_PAGE_BYTES: usize = 64 << 10;

/// What to push.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// `%p` of `archive_command`, relative to `working_directory` or absolute.
    pub path: PathBuf,
    /// Where PostgreSQL runs the command: the data directory.
    pub working_directory: PathBuf,
    /// The cluster, where it can't be told from the system identifier.
    pub cluster: Option<ClusterName>,
    /// Accept a new system identifier under a known cluster name.
    pub new_lineage: bool,
}

/// A file that is durable now.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Its lineage.
    pub lineage: Lineage,
    /// Name as PostgreSQL gave it.
    pub file: String,
    /// Bytes stored in each place, sealed.
    pub stored_bytes: u64,
    /// Places that have it.
    pub places: Vec<String>,
    /// Optional places that do not, with the reason: the exit code stays 0, `status` shows it.
    pub missed: Vec<(String, String)>,
    /// Every required place had the same content already.
    pub was_there: bool,
}

/// Pushes one file.
///
/// # Errors
/// `Conflict` where this host pushed other content under that name, or the system identifier is new under the
/// cluster's name; `Corrupt` where the file is not the WAL that its name says; `Unavailable` or `Denied` where a
/// required place did not take it. After an error the object may be in some places; pushing again is safe.
pub async fn push(engine: &Engine, request: &PushRequest) -> Result<Pushed> {
    let path = request.working_directory.join(&request.path);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let file = WalFile::parse(name).ok_or_else(|| not_a_wal_file(name))?;
    push_file(engine, request, &path, &file)
        .await
        .map_err(|error| error.during(format!("could not archive {}", describe(&file))))
}

async fn push_file(engine: &Engine, request: &PushRequest, path: &Path, file: &WalFile) -> Result<Pushed> {
    let content = Content::open(path, file).during(|| format!("read {}", path.display()))?;
    let near = system_identifier_near(&data_directories_of(&request.path, &request.working_directory));
    let facts = inspect(path, file, &content)?;
    let system_identifier = whose(facts.as_ref(), near, file)?;
    let state = engine
        .state()
        .inspect_err(|error| engine.note(format!("archiving without local state: {error}")))
        .ok();
    let cluster = choose_cluster(engine, state.as_ref(), request.cluster.as_ref(), system_identifier)?;
    let lineage = Lineage {
        cluster,
        system_identifier,
    };
    admit(engine, state.as_ref(), &lineage, request.new_lineage).await?;

    let plan = WalPlan::new(
        engine.naming(),
        &lineage.cluster,
        system_identifier,
        file,
        content.source(),
    )?;
    let digest = plan.digest().clone();
    let known = facts.clone().map(|segment| WalFacts {
        segment,
        prefix: digest.prefix,
    });
    if let Some(state) = &state {
        refuse_known_conflict(state, &lineage, file, &digest.hash, known.as_ref())?;
    }
    let mut writing = Writing::new(engine.places());
    for object in plan.seal(engine.sealer(), facts) {
        writing.write(&object?).await;
    }
    let pushed = writing.finish(lineage, file)?;
    if let Some(state) = &state {
        remember(engine, state, &pushed, file, digest.hash, known);
    }
    Ok(pushed)
}

/// Facts of a segment or partial segment; a check of a history file; nothing for `.backup` files.
fn inspect(path: &Path, file: &WalFile, content: &Content) -> Result<Option<SegmentFacts>> {
    match file {
        WalFile::Segment(_) | WalFile::Partial(_) => inspect_segment(path, file, content).map(Some),
        WalFile::History(timeline) => {
            let text = content.beginning(limits::HEADER_BYTES_MAX)?;
            TimelineHistory::parse(*timeline, &text).map(|_| None)
        }
        WalFile::BackupHistory(_) => Ok(None),
    }
}

fn inspect_segment(path: &Path, file: &WalFile, content: &Content) -> Result<SegmentFacts> {
    let header = read_segment_header(&content.beginning(FIRST_PAGE_BYTES)?)?;
    let segment = file.segment(header.segment_size).ok_or_else(|| {
        Error::corrupt("its name can't be, with the segment size in its header").detail(format!(
            "the header says segments of {} bytes",
            header.segment_size.bytes()
        ))
    })?;
    let bytes = content.source().bytes();
    if bytes != header.segment_size.bytes() {
        let says = header.segment_size.bytes();
        return Err(Error::corrupt("it is not as long as a segment must be")
            .detail(format!("{bytes} bytes, and its header says {says}")));
    }
    if header.start != segment.start() {
        return Err(Error::corrupt("its content belongs to another segment").detail(format!(
            "the first page says {}, the name says {}",
            header.start,
            segment.start()
        )));
    }
    check_timeline(path, segment, header.page_timeline)?;
    match content {
        Content::Memory(bytes) => {
            let previous = read_previous(path, segment, header.continued_bytes);
            segment_facts(bytes, &segment, previous.as_deref())
        }
        Content::Disk(file) => facts_in_parts(file, &segment),
    }
}

/// Facts of a segment too large for memory; a record that continues into it stays unknown.
fn facts_in_parts(file: &(File, u64), segment: &WalSegment) -> Result<SegmentFacts> {
    let mut walk = FactsWalk::new();
    walk.begin(segment)?;
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < file.bytes() {
        let length = (file.bytes() - at).min(limits::CHUNK_BYTES_MAX);
        walk.part(file.read(at, length as usize, &mut buffer)?)?;
        at += length;
    }
    walk.finish()
}

/// The first page's timeline must be the name's, or an ancestor of it (the first segment after a promotion).
fn check_timeline(path: &Path, segment: WalSegment, page_timeline: TimelineId) -> Result<()> {
    if page_timeline == segment.timeline {
        return Ok(());
    }
    let wrong = || {
        Error::corrupt("its content belongs to another timeline").detail(format!(
            "the first page says timeline {page_timeline}, the name says timeline {}",
            segment.timeline
        ))
    };
    if page_timeline > segment.timeline {
        return Err(wrong());
    }
    let history_path = path.with_file_name(WalFile::History(segment.timeline).to_string());
    let Ok(text) = std::fs::read_to_string(history_path) else {
        return Ok(());
    };
    let history = TimelineHistory::parse(segment.timeline, text.as_bytes())?;
    if history.is_ancestor(page_timeline) {
        Ok(())
    } else {
        Err(wrong())
    }
}

/// The segment before, if a record continues from it and PostgreSQL still has it.
fn read_previous(path: &Path, segment: WalSegment, continued_bytes: u32) -> Option<Vec<u8>> {
    if continued_bytes == 0 || segment.number == 0 {
        return None;
    }
    let previous = WalSegment {
        number: segment.number - 1,
        ..segment
    };
    let content = std::fs::read(path.with_file_name(previous.name())).ok()?;
    let header = read_segment_header(&content).ok()?;
    let whole = content.len() as u64 == segment.size.bytes() && header.start == previous.start();
    whole.then_some(content)
}

/// The system identifier, from the file where it bears one, checked against the data directory.
fn whose(facts: Option<&SegmentFacts>, near: Option<SystemId>, file: &WalFile) -> Result<SystemId> {
    match (facts.map(|facts| facts.system_identifier), near) {
        (Some(inside), Some(near)) if inside != near => Err(Error::corrupt(
            "it was written by another cluster than the one that archives it",
        )
        .detail(format!(
            "system identifier {inside} in the segment, {near} in global/pg_control"
        ))),
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => Err(Error::invalid(format!("which cluster does {file} belong to?"))
            .detail("only segments bear a system identifier, and no global/pg_control is near")
            .hint("Run `pgkeep wal push %p` from PostgreSQL's `archive_command`, which runs in the data directory.")),
    }
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

fn not_a_wal_file(name: &str) -> Error {
    Error::invalid(format!("\"{name}\" is not the name of a WAL file"))
        .hint("`archive_command` is `pgkeep wal push %p`: PostgreSQL puts the path of the file in place of %p.")
}

fn describe(file: &WalFile) -> String {
    match file {
        WalFile::Segment(name) => format!("WAL segment {name}"),
        other => format!("WAL file {other}"),
    }
}
