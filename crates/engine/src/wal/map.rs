//! Which object serves each segment number of a recovery.
//!
//! Invariant: exactly one (timeline, content) per number, and no number missing between the first and the last; also in
//! a map that was read from a file, whoever wrote it.

use std::collections::BTreeMap;

use pgkeep_base::{Error, Result, SegmentSize, TimelineId, WalFile, WalSegment};

/// What holds the content of a segment. Ordered by how much it promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// The object of the segment itself.
    #[default]
    Segment,
    /// The object of its `.partial` file: only its beginning is valid.
    Partial,
    /// A file that was saved from the data directory that is being restored over. The archive doesn't have it.
    Saved,
}

impl Holder {
    /// The archived file that holds, or would hold, the content of `segment`.
    pub fn file(self, segment: &WalSegment) -> WalFile {
        match self {
            Holder::Segment | Holder::Saved => WalFile::Segment(segment.name()),
            Holder::Partial => WalFile::Partial(format!("{}.partial", segment.name())),
        }
    }
}

/// One segment of a recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planned<'a> {
    /// The segment, under the timeline that serves it.
    pub segment: WalSegment,
    /// Keyed hash of its content.
    pub hash: &'a str,
    /// What holds the content.
    pub holder: Holder,
}

/// A run of consecutive segments of one timeline.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Run {
    timeline: TimelineId,
    first: u64,
    hashes: Vec<String>,
}

impl Run {
    /// The number after its last; `None` where WAL can't reach so far.
    fn end(&self, size: SegmentSize) -> Option<u64> {
        let end = self.first.checked_add(self.hashes.len() as u64)?;
        end.checked_mul(size.bytes()).map(|_| end)
    }
}

/// The segments of a recovery, from the backup's start to its target.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Stored")]
pub struct SegmentMap {
    segment_bytes: SegmentSize,
    runs: Vec<Run>,
    /// By number, where it is not the object of the segment itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    holders: BTreeMap<u64, Holder>,
}

/// A map as it lies in a file.
#[derive(serde::Deserialize)]
struct Stored {
    segment_bytes: SegmentSize,
    runs: Vec<Run>,
    #[serde(default)]
    holders: BTreeMap<u64, Holder>,
}

impl TryFrom<Stored> for SegmentMap {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<SegmentMap, &'static str> {
        let Stored {
            segment_bytes,
            runs,
            holders,
        } = stored;
        let mut next = None;
        for run in &runs {
            let end = run.end(segment_bytes).ok_or("a run goes beyond the end of all WAL")?;
            if run.hashes.is_empty() || next.is_some_and(|next| next != run.first) {
                return Err("its runs don't follow each other");
            }
            next = Some(end);
        }
        let map = SegmentMap {
            segment_bytes,
            runs,
            holders,
        };
        let has = |number: &u64| map.first() <= Some(*number) && Some(*number) <= map.last();
        match map.holders.keys().all(has) {
            true => Ok(map),
            false => Err("it says who holds a segment that it doesn't have"),
        }
    }
}

impl SegmentMap {
    /// An empty map.
    pub fn new(segment_bytes: SegmentSize) -> SegmentMap {
        SegmentMap {
            segment_bytes,
            runs: Vec::new(),
            holders: BTreeMap::new(),
        }
    }

    /// Adds the next segment.
    ///
    /// # Errors
    /// `Internal` if it doesn't follow the last one.
    pub fn push(&mut self, segment: WalSegment, hash: String, holder: Holder) -> Result<()> {
        if self.last().is_some_and(|last| last + 1 != segment.number) {
            return Err(Error::internal(format!(
                "segment {segment} does not follow the plan's last"
            )));
        }
        if holder != Holder::Segment {
            self.holders.insert(segment.number, holder);
        }
        match self.runs.last_mut() {
            Some(run) if run.timeline == segment.timeline => run.hashes.push(hash),
            _ => self.runs.push(Run {
                timeline: segment.timeline,
                first: segment.number,
                hashes: vec![hash],
            }),
        }
        Ok(())
    }

    /// Forgets every segment after `last`.
    pub fn truncate(&mut self, last: u64) {
        self.holders.retain(|number, _| *number <= last);
        self.runs.retain(|run| run.first <= last);
        if let Some(run) = self.runs.last_mut() {
            run.hashes.truncate((last - run.first + 1) as usize);
        }
    }

    /// What serves a segment number.
    pub fn get(&self, number: u64) -> Option<Planned<'_>> {
        let run = self
            .runs
            .iter()
            .find(|run| (run.first..run.first + run.hashes.len() as u64).contains(&number))?;
        Some(self.planned(run, number))
    }

    fn planned<'a>(&self, run: &'a Run, number: u64) -> Planned<'a> {
        Planned {
            segment: WalSegment {
                timeline: run.timeline,
                number,
                size: self.segment_bytes,
            },
            hash: &run.hashes[(number - run.first) as usize],
            holder: self.holders.get(&number).copied().unwrap_or_default(),
        }
    }

    /// The cluster's segment size.
    pub fn segment_size(&self) -> SegmentSize {
        self.segment_bytes
    }

    /// First segment number.
    pub fn first(&self) -> Option<u64> {
        self.runs.first().map(|run| run.first)
    }

    /// Last segment number.
    pub fn last(&self) -> Option<u64> {
        self.runs.last().map(|run| run.first + run.hashes.len() as u64 - 1)
    }

    /// How many segments.
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| run.hashes.len() as u64).sum()
    }

    /// True if there is no segment.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// All segments, in order.
    pub fn iter(&self) -> impl Iterator<Item = Planned<'_>> {
        let numbers = |run: &Run| run.first..run.first + run.hashes.len() as u64;
        let of_run = move |run| numbers(run).map(move |number| self.planned(run, number));
        self.runs.iter().flat_map(of_run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_can_not_be_planned() {
        let segment = |number| WalSegment {
            timeline: TimelineId::FIRST,
            number,
            size: SegmentSize::DEFAULT,
        };
        let mut map = SegmentMap::new(SegmentSize::DEFAULT);
        map.push(segment(5), "a".into(), Holder::Segment).unwrap();
        assert!(map.push(segment(7), "c".into(), Holder::Segment).is_err());
        let second = WalSegment {
            timeline: TimelineId::new(2).unwrap(),
            ..segment(6)
        };
        map.push(second, "b".into(), Holder::Partial).unwrap();
        let expected = Planned {
            segment: second,
            hash: "b",
            holder: Holder::Partial,
        };
        assert_eq!(map.get(6), Some(expected));
        assert_eq!(map.get(5).unwrap().holder, Holder::Segment);
        assert_eq!((map.first(), map.last(), map.len()), (Some(5), Some(6), 2));
        assert_eq!(map.get(7), None);
        assert_eq!(map.iter().count(), 2);
        assert_eq!(
            serde_json::from_str::<SegmentMap>(&serde_json::to_string(&map).unwrap()).unwrap(),
            map
        );
        map.truncate(5);
        assert_eq!((map.last(), map.len()), (Some(5), 1));
        assert!(
            !serde_json::to_string(&map).unwrap().contains("holders"),
            "as before there were any"
        );
    }

    /// Aim: `wal fetch` never serves by a map that no restore made. Method: one broken rule each.
    #[test]
    fn a_map_that_could_not_have_been_planned_is_not_read() {
        let read = |runs: &str, holders: &str| {
            let json = format!(r#"{{"segment_bytes":16777216,"runs":[{runs}],"holders":{{{holders}}}}}"#);
            serde_json::from_str::<SegmentMap>(&json)
        };
        let good = r#"{"timeline":1,"first":5,"hashes":["a","b"]},{"timeline":2,"first":7,"hashes":["c"]}"#;
        assert_eq!(read(good, r#""6":"saved""#).unwrap().len(), 3);
        let last = u64::MAX / SegmentSize::DEFAULT.bytes();
        for (runs, holders) in [
            (r#"{"timeline":1,"first":0,"hashes":[]}"#.to_owned(), ""),
            (good.replace("\"first\":7", "\"first\":8"), ""),
            (good.replace("\"first\":7", "\"first\":6"), ""),
            (good.replace("\"first\":7", "\"first\":18446744073709551615"), ""),
            (format!(r#"{{"timeline":1,"first":{last},"hashes":["a"]}}"#), ""),
            (good.to_owned(), r#""8":"saved""#),
        ] {
            assert!(read(&runs, holders).is_err(), "{runs} {holders}");
        }
    }
}
