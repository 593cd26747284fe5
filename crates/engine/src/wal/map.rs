//! Which object serves each segment number of a recovery.
//!
//! Invariant: exactly one (timeline, content) per number, and no number missing between the first and the last.

use pgkeep_base::{Error, Result, SegmentSize, TimelineId, WalSegment};

/// A run of consecutive segments of one timeline.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Run {
    timeline: TimelineId,
    first: u64,
    hashes: Vec<String>,
}

/// The segments of a recovery, from the backup's start to its target.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SegmentMap {
    segment_bytes: SegmentSize,
    runs: Vec<Run>,
}

impl SegmentMap {
    /// An empty map.
    pub fn new(segment_bytes: SegmentSize) -> SegmentMap {
        SegmentMap {
            segment_bytes,
            runs: Vec::new(),
        }
    }

    /// Adds the next segment.
    ///
    /// # Errors
    /// `Internal` if it doesn't follow the last one.
    pub fn push(&mut self, segment: WalSegment, hash: String) -> Result<()> {
        if self.last().is_some_and(|last| last + 1 != segment.number) {
            return Err(Error::internal(format!(
                "segment {segment} does not follow the plan's last"
            )));
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
        self.runs.retain(|run| run.first <= last);
        if let Some(run) = self.runs.last_mut() {
            run.hashes.truncate((last - run.first + 1) as usize);
        }
    }

    /// Timeline and content hash that serve a segment number.
    pub fn get(&self, number: u64) -> Option<(WalSegment, &str)> {
        let run = self
            .runs
            .iter()
            .find(|run| (run.first..run.first + run.hashes.len() as u64).contains(&number))?;
        let segment = WalSegment {
            timeline: run.timeline,
            number,
            size: self.segment_bytes,
        };
        Some((segment, &run.hashes[(number - run.first) as usize]))
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

    /// All segments with their content hashes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (WalSegment, &str)> {
        let size = self.segment_bytes;
        self.runs.iter().flat_map(move |run| {
            run.hashes.iter().zip(run.first..).map(move |(hash, number)| {
                (
                    WalSegment {
                        timeline: run.timeline,
                        number,
                        size,
                    },
                    hash.as_str(),
                )
            })
        })
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
        map.push(segment(5), "a".into()).unwrap();
        assert!(map.push(segment(7), "c".into()).is_err());
        map.push(
            WalSegment {
                timeline: TimelineId::new(2).unwrap(),
                ..segment(6)
            },
            "b".into(),
        )
        .unwrap();
        assert_eq!(
            map.get(6).map(|(found, hash)| (found.timeline.get(), hash)),
            Some((2, "b"))
        );
        assert_eq!((map.first(), map.last(), map.len()), (Some(5), Some(6), 2));
        assert_eq!(map.get(7), None);
        assert_eq!(map.iter().count(), 2);
        map.truncate(5);
        assert_eq!((map.last(), map.len()), (Some(5), 1));
    }
}
