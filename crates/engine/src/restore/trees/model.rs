//! What a target must give: by the truth of the world, and PostgreSQL's rules.
//!
//! Rule: nothing here looks at how pgkeep does it. A branch is what a server really wrote; a moment on it can be reached
//! if a backup of it is there, and every segment from there to the record that decides the target is archived with that
//! branch's WAL, under a name that recovery would ask for.
//!
//! Where several branches bear the timeline that was asked for, each is asked. If they give different answers, nobody
//! can choose, unless the newest backup that leads there is undisputed. If one gives an answer, it is the only one
//! allowed.
//!
//! Agreed exceptions, where a refusal is as good as the answer ([`Verdict::May`]): segments of which several contents
//! are archived, or damaged ones beside others; a stop on an
//! ancestor that was promoted, with a gap between it and the timeline that was asked for; numbers that were taken twice.

use std::collections::{BTreeMap, BTreeSet};

use pgkeep_base::Lsn;

use super::world::{Backup, Branch, Content, Event, What, World};

/// Where to stop.
#[derive(Clone, PartialEq, Debug)]
pub enum Target {
    Immediate,
    End,
    Time(i64),
    Lsn(Lsn),
    Xid(u32),
    Name(String),
}

/// On which timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    Newest,
    Numbered(u32),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub target: Target,
    pub exclusive: bool,
    pub wanted: Wanted,
    pub backup: Option<usize>,
}

/// A moment on a branch: how many of its records are replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    pub branch: usize,
    pub events: usize,
}

/// What the plan has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Reach this moment.
    Must(Moment),
    /// Reach this moment, or refuse.
    May(Moment),
    /// Refuse.
    Refuse,
}

/// A history, as a list of ancestors and where each was left.
type History = Vec<(u32, Lsn)>;

/// What is known of timelines from what is there.
struct Known {
    histories: BTreeMap<u32, History>,
    twice: BTreeSet<u32>,
    seen: BTreeSet<u32>,
}

impl Known {
    fn of(world: &World) -> Known {
        let stored = world.histories.iter().map(|branch| &world.branches[*branch]);
        let heads = world.backups.iter().map(|backup| &world.branches[backup.branch]);
        let mut direct: BTreeMap<u32, BTreeSet<History>> = BTreeMap::new();
        let mut told: BTreeMap<u32, BTreeSet<History>> = BTreeMap::new();
        for branch in stored.clone().chain(heads.clone()) {
            if branch.timeline > 1 {
                direct
                    .entry(branch.timeline)
                    .or_default()
                    .insert(branch.history.clone());
            }
            for (index, (ancestor, _)) in branch.history.iter().enumerate() {
                told.entry(*ancestor)
                    .or_default()
                    .insert(branch.history[..index].to_vec());
            }
        }
        let mut known = Known {
            histories: [(1, Vec::new())].into(),
            twice: BTreeSet::new(),
            seen: world.archive.iter().map(|content| content.timeline).collect(),
        };
        known.seen.extend(stored.chain(heads).map(|branch| branch.timeline));
        let all: BTreeSet<u32> = direct
            .keys()
            .chain(told.keys())
            .copied()
            .filter(|timeline| *timeline > 1)
            .collect();
        for timeline in all {
            let says = direct
                .get(&timeline)
                .or_else(|| told.get(&timeline))
                .expect("it is of one of them");
            match says.len() {
                1 => drop(
                    known
                        .histories
                        .insert(timeline, says.first().expect("there is one").clone()),
                ),
                _ => drop(known.twice.insert(timeline)),
            }
        }
        known
    }

    fn unexplained(&self) -> impl Iterator<Item = u32> + '_ {
        self.seen
            .iter()
            .copied()
            .filter(|timeline| !self.histories.contains_key(timeline))
    }

    /// The newest timeline that a backup leads to.
    fn newest_from(&self, branch: &Branch, stop: Lsn) -> Option<u32> {
        let leads = |(own, history): &(&u32, &History)| {
            **own == branch.timeline && **history == branch.history && begins(history) <= stop
                || contains(history, branch, stop)
        };
        self.histories.iter().filter(leads).map(|(own, _)| *own).max()
    }
}

fn begins(history: &History) -> Lsn {
    history.last().map_or(Lsn(0), |(_, left)| *left)
}

/// Whether a history leads on from so much of an ancestor.
fn contains(history: &History, ancestor: &Branch, lsn: Lsn) -> bool {
    let at = history.iter().position(|(timeline, _)| *timeline == ancestor.timeline);
    at.is_some_and(|at| {
        let own = history[..at].to_vec();
        own == ancestor.history && begins(&own) <= lsn && lsn <= history[at].1
    })
}

/// Answers for one world.
pub struct Model<'a> {
    world: &'a World,
    known: Known,
}

/// What one branch gives.
struct Given {
    moment: Moment,
    /// First and last segment that decide it.
    segments: (u64, u64),
    backup: usize,
    /// Nothing newer of that name can have been lost.
    is_newest: bool,
}

impl<'a> Model<'a> {
    pub fn new(world: &'a World) -> Model<'a> {
        Model {
            world,
            known: Known::of(world),
        }
    }

    /// The verdict on a request.
    pub fn verdict(&self, request: &Request) -> Verdict {
        let Some(wanted) = self.wanted(request) else {
            return Verdict::Refuse;
        };
        let Some(history) = self.history(wanted, request) else {
            return Verdict::Refuse;
        };
        let branches = (0..self.world.branches.len()).filter(|index| {
            let branch = &self.world.branches[*index];
            branch.timeline == wanted && branch.history == history
        });
        let mut given: Vec<Given> = branches.filter_map(|branch| self.given(branch, request)).collect();
        given.sort_by_key(|given| std::cmp::Reverse(self.world.backups[given.backup].stop));
        let Some(first) = given.first() else {
            return Verdict::Refuse;
        };
        if given.iter().all(|other| self.same(first.moment, other.moment)) {
            // Of several branches that say the same the one whose segments are there without doubt counts.
            return match given.iter().any(|given| self.is_plain(given, request)) {
                true => Verdict::Must(first.moment),
                false => Verdict::May(first.moment),
            };
        }
        // The newest backup leads there without touching what is contested: the others are another server's.
        let alone = given[1..].iter().all(|other| other.backup != first.backup);
        if alone && self.is_undisputed(first) {
            return Verdict::May(first.moment);
        }
        // What was archived under a timeline's own numbers stands for it, whatever a descendant's copy says.
        let mut own = given.iter().filter(|given| self.is_archived_as_its_own(given));
        match (own.next(), own.next()) {
            (Some(own), None) => Verdict::May(own.moment),
            _ => Verdict::Refuse,
        }
    }

    /// The history of a timeline; of those of a number that two servers took, the one that all backups on it have.
    fn history(&self, timeline: u32, request: &Request) -> Option<History> {
        let branches = self
            .backups(request)
            .map(|(_, backup)| &self.world.branches[backup.branch]);
        let is_own = |branch: &&Branch| branch.timeline == timeline && self.known.twice.contains(&timeline);
        let mut own = branches.filter(is_own).map(|branch| &branch.history);
        let first = own.next().filter(|first| own.all(|other| other == *first));
        self.known.histories.get(&timeline).or(first).cloned()
    }

    fn wanted(&self, request: &Request) -> Option<u32> {
        let Wanted::Numbered(number) = request.wanted else {
            let backups = self.backups(request);
            let newest = backups.map(|(_, backup)| {
                let own = &self.world.branches[backup.branch];
                self.known.newest_from(own, backup.stop).unwrap_or(own.timeline)
            });
            let newest = newest.max()?;
            return self
                .known
                .unexplained()
                .all(|timeline| timeline <= newest)
                .then_some(newest);
        };
        Some(number)
    }

    fn backups(&self, request: &Request) -> impl Iterator<Item = (usize, &'a Backup)> {
        let named = request.backup;
        let all = self.world.backups.iter().enumerate();
        all.filter(move |(index, _)| named.is_none_or(|named| named == *index))
    }

    /// True if two moments are the same state.
    fn same(&self, a: Moment, b: Moment) -> bool {
        let of = |moment: Moment| &self.world.branches[moment.branch].events[..moment.events];
        let (first, second) = (&self.world.branches[a.branch], &self.world.branches[b.branch]);
        of(a) == of(b) && of(a).last().is_none_or(|last| last.end <= first.parts_from(second))
    }

    /// The moment that a branch gives, if the archive has it.
    fn given(&self, index: usize, request: &Request) -> Option<Given> {
        let branch = &self.world.branches[index];
        let mut backups: Vec<(usize, &Backup)> = self
            .backups(request)
            .filter(|(_, backup)| backup.stop <= branch.parts_from(&self.world.branches[backup.branch]))
            .filter(|(_, backup)| branch.events.iter().any(|event| event.end == backup.stop))
            .filter(|(_, backup)| self.is_on_the_way(branch, backup))
            .filter(|(_, backup)| may_precede(backup, &request.target))
            .collect();
        backups.sort_by_key(|(_, backup)| std::cmp::Reverse(backup.stop));
        let mut is_newest = true;
        for (number, backup) in backups {
            if let Some(given) = self.from(index, (number, backup), request) {
                return Some(Given { is_newest, ..given });
            }
            // A newer restore point of that name may be in what is lost, or in dispute.
            is_newest =
                is_newest && (!matches!(request.target, Target::Name(_)) || self.is_known(branch, backup.start));
        }
        None
    }

    /// Whether all that a branch wrote from a position on is archived without doubt.
    fn is_known(&self, branch: &Branch, from: Lsn) -> bool {
        let (reach, natural) = self.reach(branch, from);
        natural && self.is_archived_alone(branch, (branch.segment_of(from), branch.segment_of(reach)))
    }

    /// A backup bears a timeline; what other servers archived under that number must not have been taken for it.
    fn is_on_the_way(&self, branch: &Branch, backup: &Backup) -> bool {
        let own = &self.world.branches[backup.branch];
        own.timeline == branch.timeline || contains(&branch.history, own, backup.stop)
    }

    fn from(&self, index: usize, (number, backup): (usize, &Backup), request: &Request) -> Option<Given> {
        let branch = &self.world.branches[index];
        let first = branch.events.iter().position(|event| event.start >= backup.start)?;
        let (reach, natural) = self.reach(branch, backup.start);
        let seen = branch.events[first..]
            .iter()
            .take_while(|event| event.end <= reach)
            .count();
        let events = &branch.events[first..first + seen];
        let consistent = events.iter().position(|event| event.end == backup.stop)?;
        let (replayed, decided) = decide(events, consistent, request, natural)?;
        if replayed <= consistent {
            return None;
        }
        let last = &events[replayed - 1];
        let decided_at = decided.map_or(last, |decided| &events[decided]);
        Some(Given {
            moment: Moment {
                branch: index,
                events: first + replayed,
            },
            segments: (
                branch.segment_of(backup.start),
                // Where only the end decides, it must be plain that it is the end.
                branch.segment_of(decided.map_or(reach, |_| Lsn(decided_at.end.0 - 1))),
            ),
            backup: number,
            is_newest: true,
        })
    }

    /// How far the archive has a branch without a gap, and whether nothing of it comes after.
    fn reach(&self, branch: &Branch, from: Lsn) -> (Lsn, bool) {
        let mut number = branch.segment_of(from);
        loop {
            let end = Lsn((number + 1) * self.world.size.bytes());
            let limit = self.limit(branch, number);
            if limit < end {
                let natural = !self.goes_on_after(branch, number) && !self.goes_on_in(branch, number, limit);
                // Something is there and nothing of it is good: nobody knows what it holds.
                let mut here = self.named(branch, number).peekable();
                let spoiled = here.peek().is_some() && here.all(|content| content.damaged);
                return (limit, natural && !spoiled && !self.is_known_behind(branch, limit));
            }
            number += 1;
        }
    }

    /// A backup says that there was more.
    fn is_known_behind(&self, branch: &Branch, limit: Lsn) -> bool {
        let mut backups = self.world.backups.iter();
        backups.any(|backup| {
            let own = &self.world.branches[backup.branch];
            let is_own = own.timeline == branch.timeline && own.history == branch.history;
            (is_own || contains(&branch.history, own, backup.stop)) && backup.stop > limit
        }) || self.is_left_behind(branch, limit)
    }

    /// A history says that the timeline begins, or was left, behind it.
    fn is_left_behind(&self, branch: &Branch, limit: Lsn) -> bool {
        let mut known = self.known.histories.values();
        begins(&branch.history) > limit
            || known.any(|history| {
                let at = history.iter().position(|(ancestor, _)| *ancestor == branch.timeline);
                at.is_some_and(|at| history[..at] == branch.history[..] && history[at].1 > limit)
            })
    }

    /// Up to where a segment of a branch is there, under names that recovery asks for.
    fn limit(&self, branch: &Branch, number: u64) -> Lsn {
        let start = Lsn(number * self.world.size.bytes());
        let good = self.named(branch, number).filter(|content| !content.damaged);
        let limit = |content: &Content| {
            let parts = branch.parts_from(&self.world.branches[content.branch]);
            parts
                .min(content.valid_to)
                .min(Lsn((number + 1) * self.world.size.bytes()))
        };
        good.map(limit).max().unwrap_or(start).max(start)
    }

    /// What was archived under the names that recovery asks for on the way to the end of a branch.
    fn named<'b>(&'b self, branch: &'b Branch, number: u64) -> impl Iterator<Item = &'b Content> {
        let names = self.names(branch, number);
        let contents = self.world.archive.iter();
        contents.filter(move |content| content.number == number && names.contains(&content.timeline))
    }

    /// Timelines of a branch's own history under which a segment of it may lie.
    fn line(&self, branch: &Branch, number: u64) -> Vec<u32> {
        let size = self.world.size;
        let line = branch.history.iter().map(|(timeline, left)| (*timeline, Some(*left)));
        let mut begin = Lsn(0);
        let mut names = Vec::new();
        for (timeline, left) in line.chain([(branch.timeline, None)]) {
            let begun = size.number_of(begin) <= number;
            let not_left = left.is_none_or(|left| number <= size.number_before(left));
            if begun && not_left {
                names.push(timeline);
            }
            begin = left.unwrap_or(begin);
        }
        names
    }

    /// Timelines under which a segment of a branch may lie.
    fn names(&self, branch: &Branch, number: u64) -> Vec<u32> {
        let size = self.world.size;
        let mut names = self.line(branch, number);
        // The last segment of the wanted timeline may be there only as the beginning of a descendant's first one.
        let own = branch.timeline;
        for (timeline, history) in &self.known.histories {
            let at = history.iter().position(|(ancestor, _)| *ancestor == own);
            let fork = at
                .filter(|at| history[..*at] == branch.history[..])
                .map(|at| history[at].1);
            let start = Lsn(number * size.bytes());
            if fork.is_some_and(|fork| size.number_of(fork) == number && start < fork) {
                names.push(*timeline);
            }
        }
        names
    }

    /// Whether somebody goes on where the branch is not archived further: the archive does not end there.
    fn goes_on_in(&self, branch: &Branch, number: u64, limit: Lsn) -> bool {
        let mut here = self.named(branch, number);
        here.any(|content| !content.damaged && content.valid_to.min(self.left(branch, content.timeline)) > limit)
    }

    /// Where the way to the end of a branch leaves what is archived as that timeline.
    fn left(&self, branch: &Branch, timeline: u32) -> Lsn {
        let of = |history: &History, ancestor: u32| history.iter().find(|(other, _)| *other == ancestor).copied();
        let descendant = || of(self.known.histories.get(&timeline)?, branch.timeline);
        let left = of(&branch.history, timeline).or_else(descendant);
        left.map_or(Lsn(u64::MAX), |(_, left)| left)
    }

    fn goes_on_after(&self, branch: &Branch, number: u64) -> bool {
        let later = self.world.archive.iter().filter(|content| content.number > number);
        let mut later = later.map(|content| (content.number, content.timeline));
        later.any(|(number, timeline)| self.names(branch, number).contains(&timeline))
    }

    /// True where nothing that is archived speaks against it or is in the way: then it must be reached.
    fn is_plain(&self, given: &Given, request: &Request) -> bool {
        let branch = &self.world.branches[given.moment.branch];
        let no_number_twice = branch
            .history
            .iter()
            .all(|(timeline, _)| self.is_one(*timeline, branch));
        let plain = self.is_archived_alone(branch, given.segments);
        // A backup of another branch on the same way would be tried first.
        let own_backups = self.backups(request).all(|(_, backup)| {
            let other = &self.world.branches[backup.branch];
            backup.stop <= branch.parts_from(other) || !self.is_on_the_way(branch, backup)
        });
        no_number_twice && plain && own_backups && given.is_newest && self.is_connected(branch, given)
    }

    /// Whether every segment that decides it is archived with this branch's WAL alone.
    fn is_undisputed(&self, given: &Given) -> bool {
        self.is_archived_alone(&self.world.branches[given.moment.branch], given.segments)
    }

    /// Whether what is archived of these segments is a branch's own WAL.
    fn is_archived_alone(&self, branch: &Branch, (first, last): (u64, u64)) -> bool {
        (first..=last).all(|number| self.named(branch, number).all(|content| self.agrees(branch, content)))
    }

    /// The same of what bears the numbers of its own history only, all of which is there.
    fn is_archived_as_its_own(&self, given: &Given) -> bool {
        let branch = &self.world.branches[given.moment.branch];
        let mut numbers = given.segments.0..=given.segments.1;
        numbers.all(|number| {
            let names = self.line(branch, number);
            let contents = self.world.archive.iter();
            let mut own = contents
                .filter(|content| content.number == number && names.contains(&content.timeline))
                .peekable();
            own.peek().is_some() && own.all(|content| self.agrees(branch, content))
        })
    }

    /// Whether all that is archived under an ancestor's number, and said of it, is that ancestor's.
    fn is_one(&self, timeline: u32, branch: &Branch) -> bool {
        let at = branch.history.iter().position(|(ancestor, _)| *ancestor == timeline);
        let at = at.expect("it is of this history");
        let others = self.world.branches.iter().filter(|other| other.timeline == timeline);
        others.clone().all(|other| other.history == branch.history[..at])
            && others.clone().all(|other| {
                // It was left where this branch says, or later.
                other.mute || branch.history[at].1 <= branch.parts_from(other)
            })
            && others.clone().any(|other| !other.mute)
    }

    /// Whether a content is no more than this branch's WAL, as far as the branch goes its way.
    fn agrees(&self, branch: &Branch, content: &Content) -> bool {
        let other = &self.world.branches[content.branch];
        let left = branch
            .history
            .iter()
            .find(|(timeline, _)| *timeline == content.timeline);
        let end = left.map_or(content.valid_to, |(_, left)| content.valid_to.min(*left));
        !content.damaged && end <= branch.parts_from(other)
    }

    /// The moment at which a backup is consistent: what is reached where nothing more is asked for.
    pub fn own_end(&self, backup: usize) -> Moment {
        let Backup { branch, stop, .. } = self.world.backups[backup];
        let events = &self.world.branches[branch].events;
        Moment {
            branch,
            events: events.iter().take_while(|event| event.end <= stop).count(),
        }
    }

    /// Whether the archive leads on from a stop on an ancestor to the branch's own timeline, without a second history; from
    /// the first timeline of all also over a gap.
    fn is_connected(&self, branch: &Branch, given: &Given) -> bool {
        let stop = &branch.events[given.moment.events - 1];
        let on = branch.history.iter().position(|(_, left)| stop.start < *left);
        let Some(on) = on else { return true };
        let last = branch.segment_of(branch.history[branch.history.len() - 1].1);
        let mut numbers = branch.segment_of(stop.start)..=last;
        numbers.all(|number| {
            let mut named = self.named(branch, number).peekable();
            (on == 0 || named.peek().is_some()) && named.all(|content| self.agrees(branch, content))
        })
    }
}

/// A backup that began after the moment does not lead there.
fn may_precede(backup: &Backup, target: &Target) -> bool {
    match target {
        Target::Time(time) => backup.started_at <= *time,
        Target::Lsn(lsn) => backup.start <= *lsn,
        _ => true,
    }
}

/// How many of the events are replayed, and the event that decides that, if it is one.
fn decide(events: &[Event], consistent: usize, request: &Request, natural: bool) -> Option<(usize, Option<usize>)> {
    let finished = |event: &Event| match event.what {
        What::Commit { xid, time } | What::Abort { xid, time } => Some((xid, time)),
        _ => None,
    };
    let after = |at: usize| Some((at + 1, Some(at)));
    let before = |at: usize| Some((at, Some(at)));
    let first = |found: &dyn Fn(&Event) -> bool| events.iter().position(found);
    match &request.target {
        Target::Immediate => after(consistent),
        Target::Lsn(lsn) => match request.exclusive {
            false => after(first(&|event| event.start >= *lsn)?),
            true => before(first(&|event| event.start >= *lsn)?),
        },
        Target::Xid(wanted) => {
            let at = first(&|event| finished(event).is_some_and(|(xid, _)| xid == *wanted))?;
            if request.exclusive { before(at) } else { after(at) }
        }
        Target::Name(wanted) => {
            let is_it = |event: &Event| matches!(&event.what, What::Point { name, .. } if name == wanted);
            let at = events
                .iter()
                .enumerate()
                .position(|(at, event)| at > consistent && is_it(event))?;
            after(at)
        }
        Target::Time(target) => {
            let past = |time: i64| {
                if request.exclusive {
                    time >= *target
                } else {
                    time > *target
                }
            };
            match first(&|event| finished(event).is_some_and(|(_, time)| past(time))) {
                Some(at) => before(at),
                None => {
                    let known = events.iter().filter_map(Event::time).max()?;
                    (natural && *target <= known).then_some((events.len(), None))
                }
            }
        }
        Target::End => natural.then_some((events.len(), None)),
    }
}
