//! What was reported as durable, to PostgreSQL and to us: what a restore must bring back whatever happened.
//!
//! PostgreSQL was told by an exit code 0 of `wal push`, which it notes as a `.done` file; we are told by those of
//! `backup`, `mark` and `wal salvage`. Invariant: nothing here is taken from what pgkeep says about its own archive.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pgkeep_base::{Lsn, SegmentSize, TimelineId, WalSegment};
use serde_json::Value;

/// All claims about one lineage.
#[derive(Debug)]
pub struct Claims {
    size: SegmentSize,
    /// Files that PostgreSQL was told to be archived.
    archived: BTreeSet<String>,
    backups: Vec<Backup>,
    marks: Vec<Mark>,
    /// Timelines whose dead server's disk was saved: all that was acknowledged there is durable.
    salvaged: BTreeSet<TimelineId>,
}

/// A backup that was reported as done.
#[derive(Clone, Debug)]
pub struct Backup {
    pub timeline: TimelineId,
    pub stop: Lsn,
}

/// A restore point that was reported as durable.
#[derive(Clone, Debug)]
pub struct Mark {
    pub name: String,
    pub timeline: TimelineId,
    pub lsn: Lsn,
}

/// The timelines that a cluster went through, oldest first, each with the LSN that it began at.
#[derive(Clone, Debug)]
pub struct Way(Vec<(TimelineId, Lsn)>);

impl Default for Way {
    fn default() -> Way {
        Way(vec![(TimelineId::FIRST, Lsn(0))])
    }
}

impl Way {
    /// The timeline that is written now.
    pub fn timeline(&self) -> TimelineId {
        self.0[self.0.len() - 1].0
    }

    /// Where it began.
    pub fn begin(&self) -> Lsn {
        self.0[self.0.len() - 1].1
    }

    /// Goes on, on a timeline that forks at `begin` from `parent`, which is on this way.
    pub fn fork(&mut self, parent: TimelineId, timeline: TimelineId, begin: Lsn) {
        let at = self.0.iter().position(|(known, _)| *known == parent);
        let at = at.unwrap_or_else(|| panic!("timeline {parent} is not on the way {self:?}"));
        self.0.truncate(at + 1);
        self.0.push((timeline, begin));
    }

    /// Where the part on `timeline` ends; nothing for the newest one, and for what is not on the way.
    fn end_of(&self, timeline: TimelineId) -> Option<Lsn> {
        let at = self.0.iter().position(|(known, _)| *known == timeline)?;
        Some(self.0.get(at + 1).map_or(Lsn(u64::MAX), |(_, begin)| *begin))
    }

    /// Whether that LSN of that timeline is on the way.
    fn leads_over(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.end_of(timeline).is_some_and(|end| lsn <= end)
    }

    /// The segment of that number as the archive names it: after a fork within it, by the newer timeline.
    fn segment(&self, number: u64, size: SegmentSize) -> WalSegment {
        let end = Lsn((number + 1) * size.bytes());
        let (timeline, _) = self
            .0
            .iter()
            .rev()
            .find(|(_, begin)| *begin < end)
            .expect("the first begins at 0");
        WalSegment {
            timeline: *timeline,
            number,
            size,
        }
    }
}

impl Claims {
    /// Of a cluster with segments of that size.
    pub fn new(size: SegmentSize) -> Claims {
        Claims {
            size,
            archived: BTreeSet::new(),
            backups: Vec::new(),
            marks: Vec::new(),
            salvaged: BTreeSet::new(),
        }
    }

    /// Notes what PostgreSQL has been told so far about the timeline that it writes now. What was streamed to a standby
    /// counts as archived there, too, but nobody has promised that: older timelines are left out.
    pub fn look(&mut self, data_dir: &Path, timeline: TimelineId) {
        let Ok(entries) = fs::read_dir(data_dir.join("pg_wal/archive_status")) else {
            return;
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let done = names.filter_map(|name| name.strip_suffix(".done").map(str::to_owned));
        self.archived
            .extend(done.filter(|name| name.starts_with(&timeline.hex())));
        self.note_removed(timeline, |name| data_dir.join("pg_wal").join(name).exists());
    }

    /// PostgreSQL removes a segment, and the `.done` of it, only when it was told that it is archived: what is gone
    /// between two that are archived was archived, though nobody looked in time.
    fn note_removed(&mut self, timeline: TimelineId, is_there: impl Fn(&str) -> bool) {
        let known = self.archived.iter().filter_map(|name| self.number_of(name, timeline));
        let known: BTreeSet<u64> = known.collect();
        let between = known.first().zip(known.last());
        let numbers = between.map_or(0..0, |(first, last)| *first..*last);
        for number in numbers.filter(|number| !known.contains(number)) {
            let name = self.segment(timeline, number).name();
            if !is_there(&name) {
                self.archived.insert(name);
            }
        }
    }

    fn segment(&self, timeline: TimelineId, number: u64) -> WalSegment {
        let size = self.size;
        WalSegment { timeline, number, size }
    }

    /// The number of a segment of that timeline; nothing for other files.
    fn number_of(&self, name: &str, timeline: TimelineId) -> Option<u64> {
        let segment = WalSegment::parse(name, self.size)?;
        (segment.timeline == timeline).then_some(segment.number)
    }

    /// A backup was reported as done, by this document: with the WAL up to its stop, which ends its segment.
    pub fn backup(&mut self, done: &Value) {
        let backup = Backup {
            timeline: TimelineId::new(number(done, "timeline") as u32).expect("a timeline is not 0"),
            stop: lsn(done, "stop_lsn"),
        };
        let last = self.segment(backup.timeline, self.size.number_before(backup.stop));
        self.archived.insert(last.name());
        self.backups.push(backup);
    }

    /// A restore point was reported as durable, by this document.
    pub fn mark(&mut self, done: &Value) {
        self.marks.push(Mark {
            name: text(done, "name"),
            timeline: TimelineId::new(number(done, "timeline") as u32).expect("a timeline is not 0"),
            lsn: lsn(done, "lsn"),
        });
    }

    /// The disk of a dead server was saved.
    pub fn salvaged(&mut self, timeline: TimelineId) {
        self.salvaged.insert(timeline);
    }

    /// Whether PostgreSQL was told that this file is archived.
    pub fn is_archived(&self, name: &str) -> bool {
        self.archived.contains(name)
    }

    /// Backups on the way.
    pub fn backups<'a>(&'a self, way: &'a Way) -> impl Iterator<Item = &'a Backup> {
        self.backups
            .iter()
            .filter(|backup| way.leads_over(backup.timeline, backup.stop))
    }

    /// Restore points on the way.
    pub fn marks<'a>(&'a self, way: &'a Way) -> impl Iterator<Item = &'a Mark> {
        self.marks.iter().filter(|mark| way.leads_over(mark.timeline, mark.lsn))
    }

    /// Everything up to here was reported as durable and follows a backup without a gap.
    pub fn durable(&self, way: &Way) -> Lsn {
        let size = self.size;
        let Some(newest) = self.backups(way).max_by_key(|backup| backup.stop) else {
            return Lsn(0);
        };
        // A backup is done once the WAL up to its stop is durable.
        let mut number = size.number_before(newest.stop);
        while self.archived.contains(&way.segment(number, size).name()) {
            number += 1;
        }
        if self.salvaged.contains(&way.timeline()) {
            return Lsn(u64::MAX);
        }
        let durable = newest.stop.max(Lsn(number * size.bytes()));
        let marks = self.marks(way).filter(|mark| mark.timeline == way.timeline());
        marks.map(|mark| mark.lsn).fold(durable, Lsn::max)
    }
}

/// A text of a JSON document.
pub fn text(document: &Value, key: &str) -> String {
    let found = document[key].as_str();
    found
        .unwrap_or_else(|| panic!("no text \"{key}\" in {document}"))
        .to_owned()
}

/// A number of a JSON document.
pub fn number(document: &Value, key: &str) -> u64 {
    document[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no number \"{key}\" in {document}"))
}

/// An LSN of a JSON document.
pub fn lsn(document: &Value, key: &str) -> Lsn {
    text(document, key)
        .parse()
        .unwrap_or_else(|_| panic!("no LSN \"{key}\" in {document}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    const SIZE: u32 = 1 << 20;

    fn claims() -> Claims {
        Claims::new(SegmentSize::new(SIZE).unwrap())
    }

    fn note(claims: &mut Claims, names: &[&str]) {
        claims.archived.extend(names.iter().map(|name| (*name).to_owned()));
    }

    #[test]
    fn a_gap_ends_what_is_durable_until_there_is_a_newer_backup() {
        let mut way = Way::default();
        let mut claims = claims();
        assert_eq!(claims.durable(&way), Lsn(0));
        claims.backup(&json!({"timeline": 1, "start_lsn": "0/200028", "stop_lsn": "0/200100"}));
        assert_eq!(claims.durable(&way), Lsn(0x30_0000));
        note(&mut claims, &["000000010000000000000003"]);
        assert_eq!(claims.durable(&way), Lsn(0x40_0000));
        note(&mut claims, &["000000010000000000000005"]);
        assert_eq!(claims.durable(&way), Lsn(0x40_0000));

        way.fork(timeline(1), timeline(2), Lsn(0x48_0000));
        note(&mut claims, &["000000020000000000000004"]);
        assert_eq!(claims.durable(&way), Lsn(0x50_0000));
        note(&mut claims, &["000000020000000000000005"]);
        assert_eq!(claims.durable(&way), Lsn(0x60_0000));
        assert_eq!((way.timeline(), way.begin()), (timeline(2), Lsn(0x48_0000)));

        claims.backup(&json!({"timeline": 2, "start_lsn": "0/900028", "stop_lsn": "0/900100"}));
        assert_eq!(claims.durable(&way), Lsn(0xA0_0000));
        claims.salvaged(timeline(2));
        assert_eq!(claims.durable(&way), Lsn(u64::MAX));
        let before_the_backup = {
            let mut way = way.clone();
            way.fork(timeline(1), timeline(3), Lsn(0x30_0000));
            way
        };
        assert_eq!(claims.durable(&before_the_backup), Lsn(0x30_0000));
    }

    #[test]
    fn what_postgresql_removed_between_two_archived_segments_was_archived() {
        let mut claims = claims();
        claims.backup(&json!({"timeline": 1, "start_lsn": "0/200028", "stop_lsn": "0/200100"}));
        note(&mut claims, &["000000010000000000000007", "00000001.history"]);
        claims.note_removed(timeline(1), |name| name.ends_with('5'));
        let way = Way::default();
        assert_eq!(
            claims.durable(&way),
            Lsn(0x50_0000),
            "5 is there and was never called archived"
        );
        assert!(!claims.is_archived("000000010000000000000005"));
        claims.note_removed(timeline(1), |_| false);
        assert_eq!(claims.durable(&way), Lsn(0x80_0000));
    }
}
