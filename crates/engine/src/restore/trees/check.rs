//! Puts a world's archive into a repository, asks the plan, and replays what it names.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use pgkeep_base::{Lsn, PgMajor, RecoveryTarget, TargetTimeline, TimelineId, WalFile, WalSegment, pgtime};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::wal::{Meaning, Walker, meaning, segment_facts};
use pgkeep_repo::head::{Head, HeadKind};
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::wal::seal_wal;
use pgkeep_store::{ObjectName, Payload, Store as _};

use super::model::{Model, Moment, Request, Target, Verdict, Wanted};
use super::world::{Content, Kind, What, World};
use crate::catalogue::{self, Backup};
use crate::path::Archive;
use crate::restore::aim::aim_at_stop;
use crate::restore::files::fixture::{Fixture, head, run};
use crate::restore::request::RestoreRequest;
use crate::restore::resolve::{Resolved, resolve};
use crate::window::{head_timelines, window};

/// What came of it.
#[derive(Default)]
pub struct Tally {
    /// Targets that must be reached and were.
    reached: u64,
    /// Targets that must be refused and were.
    refused: u64,
    /// Agreed exceptions: reached, refused.
    exceptions: [u64; 2],
    /// Moments that `window` promises and the plan reaches.
    promised: u64,
    /// What must not be.
    pub faults: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.reached += other.reached;
        self.refused += other.refused;
        self.exceptions[0] += other.exceptions[0];
        self.exceptions[1] += other.exceptions[1];
        self.promised += other.promised;
        self.faults.extend(other.faults.iter().cloned());
    }

    pub fn covers_everything(&self) -> bool {
        let [kept, given_up] = self.exceptions;
        [self.reached, self.refused, kept, given_up, self.promised]
            .iter()
            .all(|count| *count > 0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} targets reached, {} refused, {} and {} of the agreed exceptions; {} promises \
             of window kept; {} faults",
            self.reached,
            self.refused,
            self.exceptions[0],
            self.exceptions[1],
            self.promised,
            self.faults.len()
        )
    }
}

/// Makes the tree of a seed and checks so many targets on it.
pub fn tree(seed: u64, targets: usize) -> Tally {
    let mut world = World::new(seed);
    let requests: Vec<Request> = (0..targets).map(|_| any_request(&mut world)).collect();
    let repository = Repository::of(&world);
    let model = Model::new(&world);
    let mut tally = Tally::default();
    for request in &requests {
        repository.check(&world, &model, request, &mut tally);
    }
    repository.check_window(&world, &model, &mut tally);
    tally
}

fn any_request(world: &mut World) -> Request {
    let branch = world.random(world.branches.len());
    let at = world.random(world.branches[branch].events.len());
    let event = world.branches[branch].events[at].clone();
    let nudge = [-1, 0, 0, 0, 1][world.random(5)];
    let target = match (world.random(10), &event.what) {
        (0, _) => Target::Immediate,
        (1 | 2, _) => Target::End,
        (3 | 4, _) => Target::Lsn(Lsn(event.start.0.saturating_add_signed(8 * nudge))),
        (_, What::Commit { xid, .. } | What::Abort { xid, .. }) if nudge == 1 => Target::Xid(*xid),
        (_, What::Point { name, .. }) => Target::Name(name.clone()),
        _ => match event.time() {
            Some(time) => Target::Time(time + nudge),
            None => Target::Lsn(event.start),
        },
    };
    let has_exclusive = matches!(target, Target::Time(_) | Target::Lsn(_) | Target::Xid(_));
    let wanted = match world.random(3) {
        0 => Wanted::Newest,
        1 => Wanted::Numbered(world.branches[branch].timeline),
        _ => {
            let other = world.random(world.branches.len());
            Wanted::Numbered(world.branches[other].timeline)
        }
    };
    Request {
        target,
        exclusive: has_exclusive && world.random(4) == 0,
        wanted,
        backup: (world.random(4) == 0).then(|| world.random(world.backups.len())),
    }
}

/// A world's archive in a repository.
struct Repository {
    fixture: Fixture,
    backups: Vec<Backup>,
    archive: Archive,
    /// Contents by what a plan names: timeline, number, hash.
    contents: BTreeMap<(u32, u64, String), Vec<u8>>,
}

impl Repository {
    fn of(world: &World) -> Repository {
        let fixture = Fixture::new();
        let lineage = Lineage {
            cluster: "shop".parse().unwrap(),
            system_identifier: world.branches[0].writer.system_id,
        };
        let mut contents = BTreeMap::new();
        for content in &world.archive {
            let hash = store_content(&fixture, &lineage, content);
            contents.insert((content.timeline, content.number, hash), content.bytes.clone());
        }
        for branch in &world.histories {
            store_history(&fixture, &lineage, &history(world, *branch));
        }
        for number in 0..world.backups.len() {
            store_head(&fixture, world, &lineage, number);
        }
        let (backups, archive) = run(async {
            let catalogue = catalogue::load(&fixture.engine, Some(&lineage.cluster)).await.unwrap();
            assert!(catalogue.bad.is_empty(), "{:?}", catalogue.bad);
            let backups: Vec<Backup> = catalogue.physical(&lineage).into_iter().cloned().collect();
            let known = head_timelines(&backups.iter().collect::<Vec<_>>());
            let archive = Archive::load(&fixture.engine, &lineage, world.size, 0, known)
                .await
                .unwrap();
            (backups, archive)
        });
        Repository {
            fixture,
            backups,
            archive,
            contents,
        }
    }

    fn plan(&self, request: &RestoreRequest) -> Result<Resolved<'_>, pgkeep_base::Error> {
        let backups: Vec<&Backup> = self.backups.iter().collect();
        let engine = &self.fixture.engine;
        run(async {
            let resolved = resolve(engine, &self.archive, &backups, request).await?;
            aim_at_stop(engine, &self.archive, &backups, request, resolved).await
        })
    }

    fn check(&self, world: &World, model: &Model<'_>, request: &Request, tally: &mut Tally) {
        let asked = self.asked(request);
        let planned = self.plan(&asked);
        let verdict = match (&planned, &request.target) {
            // The backup's own end is what it is, whoever took that: of which backup, the plan says.
            (Ok(resolved), Target::Immediate) => Verdict::May(model.own_end(self.number_of(resolved))),
            _ => model.verdict(request),
        };
        let fault = |what: String| format!("seed {}: {request:?}: {what}", world.seed);
        match (verdict, &planned) {
            (Verdict::Must(moment) | Verdict::May(moment), Ok(resolved)) => {
                match self.compare(world, moment, resolved) {
                    Ok(()) if matches!(verdict, Verdict::Must(_)) => tally.reached += 1,
                    Ok(()) => tally.exceptions[0] += 1,
                    Err(why) => tally.faults.push(fault(format!("{verdict:?}: {why}"))),
                }
            }
            // The newest backup's end is meant, and that is lost; or so many contents that nobody compares them.
            (_, Err(error)) if request.target == Target::Immediate || is_too_much(error) => tally.exceptions[1] += 1,
            (Verdict::Must(moment), Err(error)) => {
                let why = error.detail_text().unwrap_or_default();
                tally
                    .faults
                    .push(fault(format!("{moment:?} was refused: {error}: {why}")));
            }
            (Verdict::Refuse, Ok(resolved)) => {
                let (backup, stop) = (&resolved.backup.head().id, resolved.stop);
                tally
                    .faults
                    .push(fault(format!("reached {stop:?} from {backup}, which must be refused")));
            }
            (Verdict::May(_), Err(_)) => tally.exceptions[1] += 1,
            (Verdict::Refuse, Err(_)) => tally.refused += 1,
        }
    }

    fn number_of(&self, resolved: &Resolved<'_>) -> usize {
        let id = resolved.backup.head().id.to_string();
        (0..self.backups.len())
            .find(|number| backup_id(*number) == id)
            .expect("it is one of these")
    }

    fn asked(&self, request: &Request) -> RestoreRequest {
        RestoreRequest {
            cluster: None,
            into: "/nowhere".into(),
            backup: request.backup.map(|number| backup_id(number).parse().unwrap()),
            target: match &request.target {
                Target::Immediate => RecoveryTarget::Immediate,
                Target::End => RecoveryTarget::EndOfWal,
                Target::Time(time) => RecoveryTarget::Time(timestamp(*time)),
                Target::Lsn(lsn) => RecoveryTarget::Lsn(*lsn),
                Target::Xid(xid) => RecoveryTarget::Xid(*xid),
                Target::Name(name) => RecoveryTarget::Name(name.clone()),
            },
            exclusive: request.exclusive,
            timeline: match request.wanted {
                Wanted::Newest => TargetTimeline::Latest,
                Wanted::Numbered(number) => TargetTimeline::Numbered(timeline(number)),
            },
            action: None,
            archive: None,
            standby: false,
            tablespaces: Vec::new(),
            delta: false,
            precious: Vec::new(),
        }
    }

    /// Replays what the plan names: it must be the records of the branch, from the backup's start to the moment.
    fn compare(&self, world: &World, moment: Moment, resolved: &Resolved<'_>) -> Result<(), String> {
        let branch = &world.branches[moment.branch];
        let head = resolved.backup.head().physical().unwrap();
        let of_branch = |event: &&super::world::Event| event.start >= head.start_lsn;
        let expected: Vec<_> = branch.events[..moment.events]
            .iter()
            .filter(of_branch)
            .map(|event| (event.start, event.time()))
            .collect();
        let mut walker = Walker::new(Some(head.start_lsn));
        let mut replayed = Vec::new();
        for planned in resolved.walked.map.iter() {
            let key = (
                planned.segment.timeline.get(),
                planned.segment.number,
                planned.hash.to_owned(),
            );
            let bytes = self
                .contents
                .get(&key)
                .ok_or_else(|| format!("the plan names {key:?}, which nobody archived"))?;
            let end = walker.feed(bytes, &planned.segment, &mut |record| {
                replayed.push((record.start, time_of(&meaning(record, PgMajor::NEWEST))));
                match record.start >= resolved.stop.record {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            end.map_err(|error| error.to_string())?;
        }
        if replayed == expected {
            return Ok(());
        }
        let differ = replayed.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        let named = resolved.walked.map.iter().map(|planned| {
            let is_it = |content: &&Content| {
                content.timeline == planned.segment.timeline.get()
                    && content.number == planned.segment.number
                    && self.fixture.engine.naming().hash(&content.bytes) == planned.hash
            };
            let of = world.archive.iter().find(is_it).map(|content| content.branch);
            format!("{} of {of:?}", planned.segment)
        });
        let named: Vec<String> = named.collect();
        Err(format!(
            "{} records are replayed, expected {}; from number {differ} on {:?}, expected {:?}; {named:?}",
            replayed.len(),
            expected.len(),
            replayed.get(differ),
            expected.get(differ)
        ))
    }

    /// Both ends of every range that `window` shows can be reached.
    fn check_window(&self, world: &World, model: &Model<'_>, tally: &mut Tally) {
        let windows = run(window(&self.fixture.engine, None)).unwrap();
        for range in windows.into_iter().flat_map(|window| window.ranges) {
            // Right behind a backup nothing bears a time yet.
            let is_empty = range.from == range.to;
            let times = [range.from, range.to].into_iter().flatten().filter(|_| !is_empty);
            let times = times.map(|time| Target::Time(time.as_microsecond() - timestamp(0).as_microsecond()));
            for target in times.chain([Target::Lsn(range.from_lsn)]) {
                let request = Request {
                    target,
                    exclusive: false,
                    wanted: Wanted::Numbered(range.timeline.get()),
                    backup: None,
                };
                match self.plan(&self.asked(&request)) {
                    Ok(_) => tally.promised += 1,
                    // From listings and headers nobody sees that a body is bad, or not the next one's beginning.
                    Err(error) if is_unseen(world, &error) && !matches!(model.verdict(&request), Verdict::Must(_)) => {}
                    Err(error) => tally.faults.push(format!(
                        "seed {}: window promises {:?} of {range:?}: {error}: {}",
                        world.seed,
                        request.target,
                        error.detail_text().unwrap_or_default()
                    )),
                }
            }
        }
    }
}

fn is_too_much(error: &pgkeep_base::Error) -> bool {
    error.to_string().contains("more than")
}

fn is_unseen(world: &World, error: &pgkeep_base::Error) -> bool {
    let detail = error.detail_text().unwrap_or_default();
    let unseen = [
        "is damaged",
        "valid WAL ends at",
        "another server was promoted to the same number",
    ];
    unseen.iter().any(|words| detail.contains(words)) || is_fork_of_early(world, &detail)
}

/// Facts of what was archived before it was complete can't tell where in its last part it forks from another content.
fn is_fork_of_early(world: &World, detail: &str) -> bool {
    let of_segment = |content: &&Content| {
        let segment = WalSegment {
            timeline: timeline(content.timeline),
            number: content.number,
            size: world.size,
        };
        detail.contains(&format!("two different segments were archived as {segment}:"))
    };
    let mut contents = world.archive.iter().filter(of_segment);
    contents.any(|content| content.kind != Kind::Whole)
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn timestamp(time: i64) -> jiff::Timestamp {
    pgtime::from_timestamptz(time).unwrap()
}

fn time_of(meaning: &Meaning) -> Option<i64> {
    let time = match meaning {
        Meaning::Commit { time, .. } | Meaning::Abort { time, .. } | Meaning::RestorePoint { time, .. } => time,
        Meaning::EndOfRecovery { time, .. } => time,
        _ => return None,
    };
    Some(time.as_microsecond() - timestamp(0).as_microsecond())
}

fn backup_id(number: usize) -> String {
    format!("20261120T101512Z-{number:010}")
}

/// The history of a branch; none for the first timeline.
fn history(world: &World, branch: usize) -> TimelineHistory {
    let branch = &world.branches[branch];
    let mut history = TimelineHistory::root(timeline(1));
    let newer = branch
        .history
        .iter()
        .skip(1)
        .map(|(timeline, _)| *timeline)
        .chain([branch.timeline]);
    for ((_, left), next) in branch.history.iter().zip(newer) {
        history = history
            .child(timeline(next), *left, "no recovery target specified")
            .unwrap();
    }
    history
}

fn create(fixture: &Fixture, name: &ObjectName, payload: Payload) {
    run(fixture.store.create(name, payload)).unwrap();
}

/// Stores a content, damaged if it is, and gives its hash.
fn store_content(fixture: &Fixture, lineage: &Lineage, content: &Content) -> String {
    let size = pgkeep_base::SegmentSize::new(content.bytes.len() as u32).unwrap();
    let segment = WalSegment {
        timeline: timeline(content.timeline),
        number: content.number,
        size,
    };
    let file = match content.kind {
        Kind::Partial => WalFile::Partial(format!("{segment}.partial")),
        Kind::Whole | Kind::Early => WalFile::Segment(segment.name()),
    };
    let facts = segment_facts(&content.bytes, &segment, None).unwrap();
    let engine = &fixture.engine;
    let (cluster, sysid) = (&lineage.cluster, lineage.system_identifier);
    let sealed = seal_wal(
        engine.sealer(),
        engine.naming(),
        cluster,
        sysid,
        &file,
        &content.bytes,
        Some(facts),
    )
    .unwrap();
    for object in sealed {
        let mut bytes = object.payload.parts().concat();
        if content.damaged {
            let at = bytes.len() - 20;
            bytes[at] ^= 4;
        }
        create(fixture, &object.name, bytes.into());
    }
    engine.naming().hash(&content.bytes)
}

fn store_history(fixture: &Fixture, lineage: &Lineage, history: &TimelineHistory) {
    let engine = &fixture.engine;
    let (cluster, sysid) = (&lineage.cluster, lineage.system_identifier);
    let file = WalFile::History(history.timeline());
    let text = history.format();
    for object in seal_wal(
        engine.sealer(),
        engine.naming(),
        cluster,
        sysid,
        &file,
        text.as_bytes(),
        None,
    )
    .unwrap()
    {
        create(fixture, &object.name, object.payload);
    }
}

fn store_head(fixture: &Fixture, world: &World, lineage: &Lineage, number: usize) {
    let backup = &world.backups[number];
    let branch = &world.branches[backup.branch];
    let mut head: Head = head();
    head.id = backup_id(number).parse().unwrap();
    head.cluster = lineage.cluster.clone();
    head.system_identifier = lineage.system_identifier;
    head.started_at = timestamp(backup.started_at);
    head.finished_at = timestamp(backup.finished_at);
    (head.pg_version, head.pg_version_num) = ("17.1".to_owned(), 170_001);
    let HeadKind::Physical(physical) = &mut head.kind else {
        panic!("it is a physical one")
    };
    physical.timeline = timeline(branch.timeline);
    physical.segment_bytes = world.size;
    (physical.start_lsn, physical.stop_lsn) = (backup.start, backup.stop);
    physical.history = (branch.timeline > 1).then(|| history(world, backup.branch).format());
    let signed = head.sign(fixture.engine.sealer()).unwrap();
    for name in [lineage.manifest_name(&head.id), lineage.packs_name(&head.id)] {
        create(fixture, &name, vec![0u8; 300].into());
    }
    create(fixture, &signed.name, signed.bytes.into());
}
