//! A cluster's family: branches of WAL, what each archived, what became of it.
//!
//! Rule: only what PostgreSQL does. A promotion goes on from the end of a record on the next timeline number that the
//! promoted server can know of; a copy goes on from the same state on the same timeline; segments are archived whole.

use std::collections::{BTreeMap, BTreeSet};

use pgkeep_base::{Lsn, SegmentSize};
use pgkeep_testkit::wal::Writer;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// 2026-11-20 in microseconds since 2000.
const BEGIN: i64 = 848_000_000_000_000;

/// What a record says, as far as targets are concerned.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    Commit {
        xid: u32,
        time: i64,
    },
    Abort {
        xid: u32,
        time: i64,
    },
    Point {
        name: String,
        time: i64,
    },
    BackupEnd {
        start: Lsn,
    },
    /// The first record of a timeline.
    Begin {
        time: i64,
    },
    Other,
}

/// One record.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    pub start: Lsn,
    pub end: Lsn,
    pub what: What,
}

impl Event {
    /// The time that the record bears.
    pub fn time(&self) -> Option<i64> {
        match &self.what {
            What::Commit { time, .. } | What::Abort { time, .. } => Some(*time),
            What::Point { time, .. } | What::Begin { time } => Some(*time),
            What::BackupEnd { .. } | What::Other => None,
        }
    }
}

/// One server's WAL: that of its ancestors up to where it parted, then its own.
#[derive(Clone, Debug)]
pub struct Branch {
    pub timeline: u32,
    /// Timelines that it descends from, with the point where each was left.
    pub history: Vec<(u32, Lsn)>,
    pub writer: Writer,
    pub events: Vec<Event>,
    /// It archives nothing.
    pub mute: bool,
    next_xid: u32,
    /// Segments before this one are archived, or another branch's business.
    archived: u64,
    /// So long are its records, always: positions agree with those of its twin.
    weight: Option<usize>,
    index: usize,
    /// Where it parts from each branch, once all is written.
    parts: Vec<Lsn>,
}

impl Branch {
    pub fn segment_of(&self, lsn: Lsn) -> u64 {
        self.writer.size.number_of(lsn)
    }

    /// The bytes of a segment, filled up with zeros.
    pub fn segment(&self, number: u64) -> Vec<u8> {
        let size = self.writer.size.bytes() as usize;
        let begin = (number - self.writer.first) as usize * size;
        let end = (begin + size).min(self.writer.bytes.len());
        let mut bytes = self.writer.bytes[begin..end].to_vec();
        bytes.resize(size, 0);
        bytes
    }

    /// The first byte at which two branches differ.
    pub fn parts_from(&self, other: &Branch) -> Lsn {
        self.parts[other.index]
    }

    fn compare(&self, other: &Branch) -> Lsn {
        let same = common_prefix(&self.writer.bytes, &other.writer.bytes);
        let both_end = same == self.writer.bytes.len() && same == other.writer.bytes.len();
        Lsn(if both_end {
            u64::MAX
        } else {
            self.writer.base() + same as u64
        })
    }
}

/// How many bytes two have in common. Whole blocks first, since there are many.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    const BLOCK: usize = 8 << 10;
    let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK)).take_while(|(a, b)| a == b);
    let same = (blocks.count() * BLOCK).min(a.len()).min(b.len());
    same + a[same..].iter().zip(&b[same..]).take_while(|(a, b)| a == b).count()
}

/// A base backup.
#[derive(Clone, Debug)]
pub struct Backup {
    pub branch: usize,
    pub start: Lsn,
    pub stop: Lsn,
    pub started_at: i64,
    pub finished_at: i64,
}

/// What holds a content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Whole,
    /// Pushed before it was complete.
    Early,
    Partial,
}

/// What was archived under the name of a segment.
#[derive(Clone, Debug)]
pub struct Content {
    pub timeline: u32,
    pub number: u64,
    pub branch: usize,
    pub kind: Kind,
    /// Up to where it holds the branch's WAL.
    pub valid_to: Lsn,
    pub bytes: Vec<u8>,
    pub damaged: bool,
}

/// Everything.
pub struct World {
    pub seed: u64,
    pub branches: Vec<Branch>,
    pub backups: Vec<Backup>,
    pub archive: Vec<Content>,
    /// Histories that are in the archive, by the branch whose they are.
    pub histories: BTreeSet<usize>,
    pub size: SegmentSize,
    rng: StdRng,
    clock: i64,
    points: u32,
    alike: bool,
}

impl std::fmt::Display for World {
    /// What there is, for whoever looks into a seed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, branch) in self.branches.iter().enumerate() {
            let Branch {
                timeline,
                history,
                mute,
                ..
            } = branch;
            let end = branch.writer.at();
            writeln!(
                f,
                "branch {number}: timeline {timeline}, to {end}, mute {mute}, left {history:?}"
            )?;
            for (other, twin) in self.branches.iter().enumerate().take(number) {
                writeln!(f, "  parts from {other} at {}", branch.parts_from(twin))?;
            }
        }
        for (number, backup) in self.backups.iter().enumerate() {
            writeln!(f, "backup {number}: {backup:?}")?;
        }
        for content in &self.archive {
            let Content {
                timeline,
                number,
                branch,
                kind,
                valid_to,
                damaged,
                ..
            } = content;
            let spoiled = if *damaged { ", damaged" } else { "" };
            writeln!(f, "{timeline}/{number:X} of {branch}: {kind:?} to {valid_to}{spoiled}")?;
        }
        writeln!(f, "histories of {:?}", self.histories)
    }
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let writer = Writer::new(8192);
        let size = writer.size;
        let alike = rng.random_bool(0.15);
        let first = writer.first;
        let root = Branch {
            timeline: 1,
            history: Vec::new(),
            writer,
            events: Vec::new(),
            mute: false,
            next_xid: 700,
            archived: first,
            weight: alike.then_some(48),
            index: 0,
            parts: Vec::new(),
        };
        let mut world = World {
            seed,
            branches: vec![root],
            backups: Vec::new(),
            archive: Vec::new(),
            histories: BTreeSet::new(),
            size,
            rng,
            clock: BEGIN,
            points: 0,
            alike,
        };
        world.live();
        world.lose();
        world.compare_all();
        world
    }

    fn live(&mut self) {
        self.commit(0);
        self.backup(0);
        let steps = self.rng.random_range(12..40);
        for _ in 0..steps {
            let branch = self.rng.random_range(0..self.branches.len());
            match self.rng.random_range(0..100) {
                0..38 => self.commits(branch),
                38..58 => self.switch(branch),
                58..64 => self.point(branch),
                64..68 => self.big(branch),
                68..76 => self.backup(branch),
                76..86 if self.branches.len() < 7 => self.promote(branch),
                86..91 if self.branches.len() < 7 => self.copy(branch),
                91..94 => self.push_early(branch),
                _ => self.commits(branch),
            }
        }
        for branch in 0..self.branches.len() {
            if self.rng.random_bool(0.7) {
                self.commits(branch);
                self.switch(branch);
            }
        }
        (0..self.branches.len()).for_each(|branch| self.archive_complete(branch));
    }

    fn compare_all(&mut self) {
        let of = |branch: &Branch| self.branches.iter().map(|other| branch.compare(other)).collect();
        let parts: Vec<Vec<Lsn>> = self.branches.iter().map(of).collect();
        for (branch, parts) in self.branches.iter_mut().zip(parts) {
            branch.parts = parts;
        }
    }

    fn tick(&mut self) -> i64 {
        self.clock += self.rng.random_range(1..2_000_000);
        self.clock
    }

    fn weight(&mut self, branch: usize) -> usize {
        let random = self.rng.random_range(0..3000);
        self.branches[branch].weight.unwrap_or(random)
    }

    fn note(&mut self, branch: usize, what: What) {
        let branch = &mut self.branches[branch];
        let shown = branch.writer.written.last().expect("a record was just written");
        branch.events.push(Event {
            start: shown.start,
            end: shown.end,
            what,
        });
    }

    fn filler(&mut self, branch: usize, bytes: usize) {
        let fill = vec![self.rng.random::<u8>(); bytes];
        self.branches[branch].writer.record(10, 0, 0, &fill);
        self.note(branch, What::Other);
    }

    fn commits(&mut self, branch: usize) {
        for _ in 0..self.rng.random_range(1..4) {
            self.commit(branch);
        }
    }

    fn commit(&mut self, branch: usize) {
        let (weight, time) = (self.weight(branch), self.tick());
        self.filler(branch, weight);
        let xid = self.branches[branch].next_xid;
        self.branches[branch].next_xid += 1;
        let aborts = self.rng.random_bool(0.1);
        let info = if aborts { 0x20 } else { 0x00 };
        self.branches[branch].writer.record(1, info, xid, &time.to_le_bytes());
        self.note(
            branch,
            if aborts {
                What::Abort { xid, time }
            } else {
                What::Commit { xid, time }
            },
        );
    }

    fn point(&mut self, branch: usize) {
        // Now and then a name that exists already.
        let number = self.rng.random_range(0..=self.points);
        self.points = self.points.max(number + 1);
        let (name, time) = (format!("point-{number}"), self.tick());
        let mut main = time.to_le_bytes().to_vec();
        main.extend(name.as_bytes());
        main.resize(72, 0);
        self.branches[branch].writer.record(0, 0x70, 0, &main);
        self.note(branch, What::Point { name, time });
    }

    /// A record that lies in more than one segment.
    fn big(&mut self, branch: usize) {
        let bytes = self.rng.random_range(300_000..1_300_000);
        self.filler(branch, bytes);
        self.archive_complete(branch);
    }

    fn switch(&mut self, branch: usize) {
        self.branches[branch].writer.switch();
        self.note(branch, What::Other);
        self.archive_complete(branch);
    }

    fn backup(&mut self, branch: usize) {
        if self.rng.random_bool(0.5) {
            self.switch(branch);
        }
        let started_at = self.tick();
        let start = self.branches[branch].writer.record(0, 0xE0, 0, &[1, 0, 0, 0]);
        self.note(branch, What::Other);
        if self.rng.random_bool(0.6) {
            self.commits(branch);
        }
        self.branches[branch].writer.record(0, 0x50, 0, &start.0.to_le_bytes());
        self.note(branch, What::BackupEnd { start });
        let stop = self.branches[branch].events.last().expect("it was just noted").end;
        let finished_at = self.tick();
        if self.branches[branch].mute {
            return;
        }
        self.switch(branch);
        self.backups.push(Backup {
            branch,
            start,
            stop,
            started_at,
            finished_at,
        });
    }

    /// A server that has replayed so much of a branch goes on as one of its own.
    fn part(&mut self, from: usize, keep: usize) -> (Branch, Lsn) {
        let parent = &self.branches[from];
        let last = &parent.events[keep - 1];
        let mut child = parent.clone();
        child.index = self.branches.len();
        child.events.truncate(keep);
        child.writer.written.truncate(keep);
        child
            .writer
            .bytes
            .truncate((last.end.0 - parent.writer.base()) as usize);
        child.writer.prev = last.start;
        child.archived = self.size.number_of(last.end);
        let xids = child.events.iter().filter_map(|event| match event.what {
            What::Commit { xid, .. } | What::Abort { xid, .. } => Some(xid),
            _ => None,
        });
        child.next_xid = xids.max().unwrap_or(699) + 1;
        (child, last.end)
    }

    /// How many events of a branch somebody may have replayed: mostly nearly all, sometimes any number behind the first
    /// backup.
    fn replayed(&mut self, branch: usize) -> usize {
        let all = self.branches[branch].events.len();
        let least = match self.rng.random_bool(0.7) {
            true => all.saturating_sub(6),
            false => 0,
        };
        self.rng.random_range(least.max(4).min(all)..=all)
    }

    fn promote(&mut self, from: usize) {
        let keep = self.replayed(from);
        let (mut child, at) = self.part(from, keep);
        // Where recovery stops on an ancestor, it is the ancestor that is left.
        let parent = child
            .history
            .iter()
            .find(|(_, left)| at <= *left)
            .map_or(child.timeline, |(timeline, _)| *timeline);
        child.history.retain(|(_, left)| *left < at);
        child.history.retain(|(timeline, _)| *timeline < parent);
        child.history.push((parent, at));
        let known = self.branches.iter().map(|branch| branch.timeline).max().unwrap_or(1);
        let unseen = self.rng.random_bool(0.2);
        child.timeline = if unseen { parent + 1 } else { known + 1 };
        child.mute = unseen && self.rng.random_bool(0.5);
        child.writer.timeline = child.timeline;
        child.weight = self.alike.then_some(48);
        let time = self.tick();
        let mut main = time.to_le_bytes().to_vec();
        main.extend(child.timeline.to_le_bytes());
        main.extend(parent.to_le_bytes());
        child.writer.record(0, 0x90, 0, &main);
        let shown = child.writer.written.last().expect("it was just written").clone();
        child.events.push(Event {
            start: shown.start,
            end: shown.end,
            what: What::Begin { time },
        });
        let mute = child.mute;
        self.branches.push(child);
        let new = self.branches.len() - 1;
        if !mute {
            self.histories.insert(new);
            if self.rng.random_bool(0.4) {
                self.archive_partial(new, parent, at);
            }
        }
    }

    /// What the promoted server has of the last segment of the timeline that it leaves.
    fn archive_partial(&mut self, new: usize, parent: u32, at: Lsn) {
        let number = self.size.number_of(at);
        let start = Lsn(number * self.size.bytes());
        if at <= start {
            return;
        }
        let mut bytes = self.branches[new].segment(number);
        bytes[(at.0 - start.0) as usize..].fill(0);
        self.archive.push(Content {
            timeline: parent,
            number,
            branch: new,
            kind: Kind::Partial,
            valid_to: at,
            bytes,
            damaged: false,
        });
    }

    /// A copy of the server that goes on under the same timeline.
    fn copy(&mut self, from: usize) {
        let keep = self.branches[from].events.len();
        let (child, _) = self.part(from, keep);
        self.branches.push(child);
    }

    /// Archives every segment that is complete and was not archived yet.
    fn archive_complete(&mut self, branch: usize) {
        let of = &self.branches[branch];
        let numbers = of.archived..self.size.number_of(of.writer.at());
        let contents: Vec<Content> = numbers
            .clone()
            .map(|number| Content {
                timeline: of.timeline,
                number,
                branch,
                kind: Kind::Whole,
                valid_to: Lsn((number + 1) * self.size.bytes()),
                bytes: of.segment(number),
                damaged: false,
            })
            .collect();
        if !of.mute {
            self.archive.extend(contents);
        }
        self.branches[branch].archived = numbers.end.max(numbers.start);
    }

    /// Archives the segment at hand as far as it is written.
    fn push_early(&mut self, branch: usize) {
        let of = &self.branches[branch];
        let number = self.size.number_of(of.writer.at());
        let start = Lsn(number * self.size.bytes());
        if of.mute || of.writer.at().0 < start.0 + 200 {
            return;
        }
        self.archive.push(Content {
            timeline: of.timeline,
            number,
            branch,
            kind: Kind::Early,
            valid_to: of.writer.at(),
            bytes: of.segment(number),
            damaged: false,
        });
    }

    /// Some of it is lost, some damaged.
    fn lose(&mut self) {
        let (lost, damaged) = *[(0.0, 0.0), (0.0, 0.0), (0.06, 0.0), (0.03, 0.05), (0.1, 0.03)]
            .choose(&mut self.rng)
            .expect("there are some");
        let rng = &mut self.rng;
        self.archive.retain(|_| !rng.random_bool(lost));
        for content in &mut self.archive {
            content.damaged = rng.random_bool(damaged);
        }
        self.histories.retain(|_| !rng.random_bool(lost * 1.5));
        self.merge_equal();
    }

    /// The same content under the same name is one object, damaged or not.
    fn merge_equal(&mut self) {
        let mut known: BTreeMap<(u32, u64, bool, Vec<u8>), Content> = BTreeMap::new();
        for content in std::mem::take(&mut self.archive) {
            let partial = content.kind == Kind::Partial;
            let key = (content.timeline, content.number, partial, content.bytes.clone());
            known.entry(key).or_insert(content);
        }
        self.archive = known.into_values().collect();
    }

    /// A random number below `limit`, of the same source.
    pub fn random(&mut self, limit: usize) -> usize {
        self.rng.random_range(0..limit.max(1))
    }
}
