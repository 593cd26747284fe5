//! Timeline history files: which timelines a timeline descends from, and where it left each.
//!
//! Invariant: ancestors stand in strictly increasing order of number, and all are below the timeline itself. Switch
//! points may run backwards: recovery that aims at timeline 3 and stops on timeline 1, before 3 began, leaves 1 there
//! and records 3 as the parent. What was left earlier was left for good, so an ancestor ends where it, or any younger
//! ancestor, was left first ([`TimelineHistory::switch_point`]). A history of a timeline contains those of its ancestors, so that a lost file is
//! rebuilt, byte for byte, from any descendant's ([`TimelineHistory::ancestor`]).
//! Format: `src/backend/access/transam/timeline.c`.

use std::fmt::Write;

use pgkeep_base::{Error, Lsn, Result, TimelineId};

/// One switch: the ancestor, where it was left, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Switch {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// The first byte that does not belong to it any more.
    pub lsn: Lsn,
    /// PostgreSQL's words, such as `no recovery target specified`; one line.
    pub reason: String,
}

/// A timeline and its ancestors, oldest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineHistory {
    timeline: TimelineId,
    switches: Vec<Switch>,
}

impl TimelineHistory {
    /// The history of a timeline without ancestors: 1, or one that `pg_resetwal` began.
    pub fn root(timeline: TimelineId) -> TimelineHistory {
        TimelineHistory {
            timeline,
            switches: Vec::new(),
        }
    }

    /// Reads the content of `<timeline>.history`.
    ///
    /// # Errors
    /// `Corrupt` where PostgreSQL would refuse it, and where it would not but should: no ancestor at all (a file cut
    /// to nothing), or switch points that run backwards.
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<TimelineHistory> {
        let text = String::from_utf8_lossy(bytes);
        let bad = |why: String| corrupt(timeline, why);
        let mut switches: Vec<Switch> = Vec::new();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let switch = parse_line(line).ok_or_else(|| bad(format!("no such line: \"{}\"", line.escape_debug())))?;
            if let Some(before) = switches.last().filter(|before| switch.timeline <= before.timeline) {
                return Err(bad(format!("timeline {} follows {}", switch.timeline, before.timeline)));
            }
            switches.push(switch);
        }
        match switches.last() {
            None => Err(bad("it names no ancestor".to_owned())),
            Some(last) if last.timeline >= timeline => Err(bad(format!(
                "timeline {} can't be an ancestor of {timeline}",
                last.timeline
            ))),
            Some(_) => Ok(TimelineHistory { timeline, switches }),
        }
    }

    /// The content of the file, as PostgreSQL writes it: a blank line between switches, and one more behind a reason that
    /// is a time or an LSN (`getRecoveryStopReason` in `xlogrecovery.c`). Empty without ancestors, and then there is no
    /// file.
    pub fn format(&self) -> String {
        let mut text = String::new();
        for (n, switch) in self.switches.iter().enumerate() {
            let blank = if n == 0 { "" } else { "\n" };
            let Switch { timeline, lsn, reason } = switch;
            let is_stop = reason.starts_with("before ") || reason.starts_with("after ");
            let after = if is_stop && !reason.contains(" transaction ") {
                "\n"
            } else {
                ""
            };
            writeln!(text, "{blank}{timeline}\t{lsn}\t{reason}{after}").expect("a String takes every write");
        }
        text
    }

    /// The history of a timeline that a promotion at `lsn` begins.
    ///
    /// # Errors
    /// `Invalid` unless `timeline` is newer than this one and `lsn` not before its beginning.
    pub fn child(&self, timeline: TimelineId, lsn: Lsn, reason: &str) -> Result<TimelineHistory> {
        let begin = self.switches.last().map_or(Lsn::INVALID, |switch| switch.lsn);
        if timeline <= self.timeline || lsn < begin || reason.contains(['\n', '\r']) {
            return Err(Error::invalid(format!(
                "timeline {timeline} can't begin at {lsn} of timeline {}",
                self.timeline
            )));
        }
        let mut switches = self.switches.clone();
        switches.push(Switch {
            timeline: self.timeline,
            lsn,
            reason: reason.to_owned(),
        });
        Ok(TimelineHistory { timeline, switches })
    }

    /// The timeline itself.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The switches that led to it, oldest first.
    pub fn switches(&self) -> &[Switch] {
        &self.switches
    }

    /// The timeline that it was forked from; `None` for one without ancestors.
    pub fn parent(&self) -> Option<TimelineId> {
        self.switches.last().map(|switch| switch.timeline)
    }

    /// True for the timelines that this one descends from; false for itself.
    pub fn is_ancestor(&self, timeline: TimelineId) -> bool {
        self.switches.iter().any(|switch| switch.timeline == timeline)
    }

    /// The timeline that the byte at `lsn` lies on.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        let left_later = (0..self.switches.len()).find(|n| lsn < self.end(*n));
        left_later.map_or(self.timeline, |n| self.switches[n].timeline)
    }

    /// Where this history leaves its ancestor `from`; `None` for itself and for strangers.
    pub fn switch_point(&self, from: TimelineId) -> Option<Lsn> {
        let n = self.switches.iter().position(|switch| switch.timeline == from)?;
        Some(self.end(n))
    }

    /// Where the n-th ancestor ends: where it or a younger one was left first.
    fn end(&self, n: usize) -> Lsn {
        self.switches[n..]
            .iter()
            .map(|switch| switch.lsn)
            .min()
            .expect("n is one of them")
    }

    /// Where `timeline`, itself or an ancestor, begins in this history; [`Lsn::INVALID`] for the oldest.
    pub fn begin_of(&self, timeline: TimelineId) -> Option<Lsn> {
        let known = |n: usize| self.switches.get(n).map_or(self.timeline, |switch| switch.timeline);
        let position = (0..=self.switches.len()).find(|n| known(*n) == timeline)?;
        Some(
            position
                .checked_sub(1)
                .map_or(Lsn::INVALID, |before| self.switches[before].lsn),
        )
    }

    /// True if a cluster that has replayed `timeline` up to `lsn` (the end of a record) can go on to this timeline:
    /// `lsn` lies neither before the timeline's beginning nor past the point where it was left.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        let Some(begin) = self.begin_of(timeline) else {
            return false;
        };
        begin <= lsn && self.switch_point(timeline).is_none_or(|end| lsn <= end)
    }

    /// The history of `timeline`, itself or an ancestor: the beginning of this one. Rebuilds a lost history file.
    pub fn ancestor(&self, timeline: TimelineId) -> Option<TimelineHistory> {
        if timeline == self.timeline {
            return Some(self.clone());
        }
        let position = self.switches.iter().position(|switch| switch.timeline == timeline)?;
        Some(TimelineHistory {
            timeline,
            switches: self.switches[..position].to_vec(),
        })
    }

    /// The last point that both histories share, on the newest timeline that both have; `None` for strangers.
    ///
    /// For a timeline and its own descendant that is where the descendant left it.
    pub fn fork_point(&self, other: &TimelineHistory) -> Option<(TimelineId, Option<Lsn>)> {
        let shared = |timeline: &TimelineId| {
            let begin = self.begin_of(*timeline);
            begin.is_some() && other.begin_of(*timeline) == begin
        };
        let older = self.switches.iter().rev().map(|switch| switch.timeline);
        let shared = [self.timeline].into_iter().chain(older).find(shared)?;
        let ends = [self.switch_point(shared), other.switch_point(shared)];
        Some((shared, ends.into_iter().flatten().min()))
    }
}

/// Reads `1<tab>0/3000060<tab>reason`; PostgreSQL takes any blanks between the first two.
fn parse_line(line: &str) -> Option<Switch> {
    let (timeline, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (lsn, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let plain = timeline.bytes().all(|byte| byte.is_ascii_digit());
    let lsn: Lsn = lsn.parse().ok()?;
    (plain && lsn.is_valid()).then_some(())?;
    Some(Switch {
        timeline: TimelineId::new(timeline.parse().ok()?)?,
        lsn,
        reason: reason.trim().to_owned(),
    })
}

fn corrupt(timeline: TimelineId, why: String) -> Error {
    Error::corrupt(format!("{}.history is not one that PostgreSQL wrote", timeline.hex()))
        .detail(why)
        .hint("`pgkeep wal list` shows which timelines can be explained without it.")
}

#[cfg(test)]
mod tests;
