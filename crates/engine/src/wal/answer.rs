//! What `wal fetch` answers PostgreSQL: the whole table, as a function.
//!
//! PostgreSQL takes every exit from 1 to 125 of `restore_command` as "end of archive" and opens the database; above
//! that it stops with FATAL. So 1 is for what is proven to lie outside of the recovery, 255 for everything that
//! recovery needs and doesn't get. In standby mode PostgreSQL retries by itself, and 1 is always safe.

/// What PostgreSQL asked for, in relation to the plan of the recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// A segment that the plan names.
    Planned,
    /// A segment after the plan's last: `recovery_prefetch` looks ahead; the explicit target guards.
    BeyondPlan,
    /// A segment number in the plan's range, under a timeline newer than the plan's.
    NewerTimeline,
    /// A segment number before the plan's range, or in it under an older timeline than the plan's.
    OlderTimeline,
    /// A history file, in recovery to a target; `named` if segments, heads or other histories know the timeline.
    History {
        /// Something of that timeline exists.
        named: bool,
    },
    /// A segment for a standby; `past_fork` if the newest archived descendant left its timeline before its end.
    StandbySegment {
        /// Handing it out could lead the standby down a dead branch.
        past_fork: bool,
    },
    /// A history file for a standby.
    StandbyHistory,
    /// A file asked for without a plan (hand-written recovery, `pg_rewind`); `later` if the archive goes on after it.
    Unplanned {
        /// A later segment of this timeline or of a descendant exists.
        later: bool,
    },
    /// A segment for a recovery without a plan that aims at a newer timeline, which began in this segment or before.
    PastFork,
}

/// What the places have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Verified content.
    Good,
    /// Something is there, and no copy of it is good.
    Bad,
    /// Every place proved that nothing is there.
    Absent,
    /// At least one place could not be asked, and no other has it.
    Unknown,
}

/// The exit codes of `wal fetch`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// 0: the file is there.
    Served,
    /// 1: the archive ends here.
    End,
    /// 255: PostgreSQL must stop.
    Stop,
}

impl Answer {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Answer::Served => 0,
            Answer::End => 1,
            Answer::Stop => 255,
        }
    }
}

/// The table.
pub fn answer(asked: Asked, found: Found) -> Answer {
    use Answer::{End, Served, Stop};
    match (asked, found) {
        (Asked::NewerTimeline, _) => End,
        (Asked::OlderTimeline | Asked::PastFork, _) => Stop,
        (Asked::StandbySegment { past_fork: true }, _) => End,
        (_, Found::Good) => Served,
        (Asked::Planned, _) => Stop,
        (Asked::BeyondPlan | Asked::StandbySegment { .. } | Asked::StandbyHistory, _) => End,
        (Asked::History { named: false } | Asked::Unplanned { later: false }, Found::Absent) => End,
        (Asked::History { .. } | Asked::Unplanned { .. }, _) => Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: every cell of the table. Method: the table, written out.
    #[test]
    fn every_cell_of_the_contract() {
        let rows = [
            (Asked::Planned, [0, 255, 255, 255]),
            (Asked::BeyondPlan, [0, 1, 1, 1]),
            (Asked::NewerTimeline, [1, 1, 1, 1]),
            (Asked::OlderTimeline, [255, 255, 255, 255]),
            (Asked::History { named: false }, [0, 255, 1, 255]),
            (Asked::History { named: true }, [0, 255, 255, 255]),
            (Asked::StandbySegment { past_fork: false }, [0, 1, 1, 1]),
            (Asked::StandbySegment { past_fork: true }, [1, 1, 1, 1]),
            (Asked::StandbyHistory, [0, 1, 1, 1]),
            (Asked::Unplanned { later: false }, [0, 255, 1, 255]),
            (Asked::Unplanned { later: true }, [0, 255, 255, 255]),
            (Asked::PastFork, [255, 255, 255, 255]),
        ];
        for (asked, codes) in rows {
            for (found, code) in [Found::Good, Found::Bad, Found::Absent, Found::Unknown]
                .into_iter()
                .zip(codes)
            {
                assert_eq!(answer(asked, found).code(), code, "{asked:?} {found:?}");
            }
        }
    }
}
