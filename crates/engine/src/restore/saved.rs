//! The WAL of a data directory that is to be restored over: what of it counts for the restore, and what is only kept.
//!
//! Invariants: whatever the archive does not have is kept. It counts only where it continues the archive: segment by
//! segment, on a timeline that is the same in both, with nothing missing and nothing forking between. What does not is
//! set aside and told, never used silently.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pgkeep_base::facts::SegmentFacts;
use pgkeep_base::{ByteSize, Error, Result, ResultExt, TimelineId, WalFile, WalSegment};
use pgkeep_pg::history::TimelineHistory;
use pgkeep_repo::wal::{Longer, Relation};

use crate::engine::Engine;
use crate::path::contents::{Chosen, open_local, open_segment, relation};
use crate::path::{Archive, Tree, route};
use crate::restore::OWN_DIRECTORY;
use crate::restore::layout::free_bytes;
use crate::wal::Content;
use crate::wal::local::{LocalSegment, LocalWal, SAVED_DIRECTORY, Site, of_copy, saved_name};
use crate::wal::map::{Holder, SegmentMap};

mod keep;

pub(super) use keep::keep;

/// A file that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedFile {
    /// Its name where it is kept: that of the segment or history, and the hash of its content.
    pub name: String,
    /// Where it is now.
    pub from: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Which segment it is; `None` for a history.
    pub segment: Option<WalSegment>,
    /// Keyed hash of its content.
    pub hash: String,
    /// It was saved under this name by an earlier run.
    pub in_place: bool,
}

impl SavedFile {
    fn segment(found: &LocalSegment, name: String, hash: &str) -> SavedFile {
        let segment = found.segment;
        SavedFile {
            in_place: found.site != Site::PgWal && found.path.ends_with(&name),
            name,
            from: found.path.clone(),
            bytes: segment.size.bytes(),
            segment: Some(segment),
            hash: hash.to_owned(),
        }
    }
}

/// WAL that is not used, though the archive doesn't have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetAside {
    /// Which segment.
    pub segment: WalSegment,
    /// Commits in it.
    pub commits: u64,
    /// Time of the last.
    pub last_commit: Option<Timestamp>,
    /// Why not.
    pub why: String,
}

/// What becomes of the WAL of a data directory.
#[derive(Clone, Debug, Default)]
pub struct SavedWal {
    /// All that is kept.
    pub files: Vec<SavedFile>,
    /// What is not used.
    pub set_aside: Vec<SetAside>,
    /// Timelines of which only this WAL knows.
    pub own_timelines: BTreeSet<TimelineId>,
    /// The histories of all its timelines that do not contradict the archive's.
    pub histories: Vec<TimelineHistory>,
    /// What an earlier run saved, and is not what its name says.
    pub damaged: Vec<PathBuf>,
    /// What can't be read, or is another cluster's, and is kept as it is.
    pub unread: Vec<PathBuf>,
}

impl SavedWal {
    /// Keeps what the archive lists and can't give, too, where recovery needs it.
    pub fn keep_planned(&mut self, archive: &Archive, planned: &SegmentMap) {
        for planned in planned.iter().filter(|planned| planned.holder == Holder::Saved) {
            let segment = planned.segment;
            let contents = archive.contents(segment.timeline, segment.number).iter();
            let same = contents.filter(|content| content.hash == planned.hash);
            let found = same.filter_map(|content| content.local.as_ref()).next();
            let name = saved_name(&segment, planned.hash);
            self.keep(found.map(|found| SavedFile::segment(found, name, planned.hash)));
        }
    }

    fn keep(&mut self, file: impl IntoIterator<Item = SavedFile>) {
        for file in file {
            if !self.files.iter().any(|known| known.name == file.name) {
                self.files.push(file);
            }
        }
    }

    /// Bytes that have to be copied, because they lie on another file system than `target`, and bytes that only get
    /// another name.
    pub fn bytes_kept(&self, target: &Path) -> (u64, u64) {
        let device = |path: &Path| path.metadata().ok().map(|found| found.dev());
        let here = device(target);
        let news = self.files.iter().filter(|file| !file.in_place);
        news.fold((0, 0), |(copied, linked), file| match device(&file.from) == here {
            true => (copied, linked + file.bytes),
            false => (copied + file.bytes, linked),
        })
    }

    /// Refuses where what has to be copied doesn't fit beside what is there: nothing may be removed before it is saved.
    ///
    /// # Errors
    /// `Refused`, with both sizes.
    pub fn must_fit(&self, target: &Path) -> Result<()> {
        let (copied, _) = self.bytes_kept(target);
        match free_bytes(target) {
            Some(free) if free < copied => Err(Error::refused(format!(
                "{} has no room for the WAL that must be saved first",
                target.display()
            ))
            .detail(format!(
                "its pg_wal is on another file system and has {} that the archive lacks; {} free",
                ByteSize(copied),
                ByteSize(free)
            ))
            .hint(format!(
                "Make space, or store that WAL in the archive with `pgkeep wal salvage {}`; then run `pgkeep restore` \
                 again.",
                target.display()
            ))),
            _ => Ok(()),
        }
    }

    /// What an operator should read of what is not used.
    pub fn notes(&self) -> Vec<String> {
        let same = |a: &SetAside, b: &SetAside| a.why == b.why && a.segment.timeline == b.segment.timeline;
        let runs = self.set_aside.chunk_by(same);
        let aside = runs.map(|run| {
            let (first, last) = (run.first(), run.last());
            let (first, last) = first.zip(last).expect("a run is not empty");
            let segments = match first.segment == last.segment {
                true => format!("WAL segment {} of the directory is", first.segment),
                false => format!("WAL segments {} to {} of the directory are", first.segment, last.segment),
            };
            let commits: u64 = run.iter().map(|aside| aside.commits).sum();
            let latest = run.iter().filter_map(|aside| aside.last_commit).max();
            let latest = latest.map_or_else(String::new, |time| format!(", the last at {time}"));
            format!(
                "{segments} not used, with {commits} commits{latest}: {}; what is kept of it lies in {OWN_DIRECTORY}/{SAVED_DIRECTORY}",
                first.why
            )
        });
        let damaged = self.damaged.iter();
        let damaged = damaged.map(|path| format!("{} was damaged since it was saved, and is not used", path.display()));
        let unread = self.unread.iter().map(|path| {
            format!(
                "{} can't be read as WAL of this cluster and is not used; it is kept in {OWN_DIRECTORY}/{SAVED_DIRECTORY}",
                path.display()
            )
        });
        aside.chain(damaged).chain(unread).collect()
    }
}

/// What is known beforehand.
pub struct Terms<'a> {
    /// The first segment that any backup needs; what lies before is kept, and not asked for.
    pub first: u64,
    /// The directory holds a copy that was never adopted: what lies in its `pg_wal` may be its own.
    pub never_adopted: bool,
    /// Why WAL of a timeline is set aside, whatever it is; the second value tells whether a copy wrote it.
    pub excluded: &'a dyn Fn(TimelineId, bool) -> Option<String>,
}

/// Compares the WAL of a directory with the archive, and adds to that what continues it.
///
/// # Errors
/// What reading either gives, but for bad content.
pub async fn reconcile(engine: &Engine, archive: &mut Archive, local: &LocalWal, terms: Terms<'_>) -> Result<SavedWal> {
    let mut work = Reconciling {
        engine,
        terms,
        tree: archive.tree.clone(),
        archive,
        saved: SavedWal::default(),
    };
    work.take_histories(engine, local)?;
    for (file, path) in &local.unread {
        work.keep_unread(file, path)?;
    }
    let timelines: BTreeSet<TimelineId> = local.segments.iter().map(|found| found.segment.timeline).collect();
    for timeline in timelines {
        work.take_timeline(local, timeline).await?;
    }
    Ok(work.saved)
}

struct Reconciling<'a> {
    engine: &'a Engine,
    archive: &'a mut Archive,
    terms: Terms<'a>,
    /// The timelines of both.
    tree: Tree,
    saved: SavedWal,
}

impl Reconciling<'_> {
    fn take_histories(&mut self, engine: &Engine, local: &LocalWal) -> Result<()> {
        for found in &local.histories {
            let timeline = found.history.timeline();
            let bytes = std::fs::read(&found.path)?;
            let hash = engine.naming().hash(&bytes);
            let file = WalFile::History(timeline);
            match self.archive.tree.history(timeline) {
                Some(known) if *known == found.history => continue,
                Some(_) => {}
                None => {
                    self.tree = self.tree.with(&found.history);
                    self.saved.own_timelines.insert(timeline);
                    self.saved.histories.push(found.history.clone());
                }
            }
            self.saved.keep([SavedFile {
                name: format!("{file}-{hash}"),
                from: found.path.clone(),
                bytes: bytes.len() as u64,
                segment: None,
                hash,
                in_place: found.site != Site::PgWal,
            }]);
        }
        Ok(())
    }

    /// Keeps what can't be used as it is: whatever it holds, nothing else has it.
    fn keep_unread(&mut self, file: &WalFile, path: &Path) -> Result<()> {
        let content = Content::open(path, file).during(|| format!("read {}", path.display()))?;
        let hash = self.engine.naming().digest(content.source())?.hash;
        self.saved.unread.push(path.to_owned());
        self.saved.keep([SavedFile {
            name: format!("{file}-{hash}"),
            from: path.to_owned(),
            bytes: content.source().bytes(),
            segment: None,
            hash,
            in_place: false,
        }]);
        Ok(())
    }

    async fn take_timeline(&mut self, local: &LocalWal, timeline: TimelineId) -> Result<()> {
        let mut barred = self.contradiction(local, timeline);
        let before = self.saved.files.len();
        for found in local.segments.iter().filter(|found| found.segment.timeline == timeline) {
            self.take_segment(found, &mut barred).await?;
        }
        let used = self.saved.files[before..].iter().any(|file| self.is_used(file));
        if used
            && self.archive.tree.history(timeline).is_none()
            && let Some(history) = self.tree.history(timeline)
        {
            self.archive.tree = self.archive.tree.with(history);
        }
        Ok(())
    }

    /// `barred` says why the rest of the timeline can't be used, once that is so.
    async fn take_segment(&mut self, found: &LocalSegment, barred: &mut Option<String>) -> Result<()> {
        let Some((facts, hash)) = self.read(found)? else {
            return Ok(());
        };
        let of_a_copy = self.is_of_copy(found.site);
        let excluded = (self.terms.excluded)(found.segment.timeline, of_a_copy);
        let verdict = match excluded.as_ref().or(barred.as_ref()) {
            Some(why) => Verdict::Aside(why.clone()),
            None => self.judge(found, &hash).await?,
        };
        // What is used counts as the cluster's from now on: that was asked for.
        let name = saved_name(&found.segment, &hash);
        let name = match of_a_copy && verdict != Verdict::Continues {
            true => of_copy(&name),
            false => name,
        };
        if verdict != Verdict::InArchive {
            self.saved.keep([SavedFile::segment(found, name, &hash)]);
        }
        let why = match verdict {
            Verdict::InArchive => return Ok(()),
            Verdict::Continues => {
                self.archive.add_saved(found, hash);
                return Ok(());
            }
            Verdict::Aside(why) => why,
            Verdict::Forks(why) => {
                *barred = Some(format!("{}, before it, forks from the archive", found.segment));
                why
            }
        };
        self.saved.set_aside.push(SetAside {
            segment: found.segment,
            commits: facts.commits,
            last_commit: facts.last_commit_time,
            why,
        });
        Ok(())
    }

    /// What a segment's file holds that neither the archive nor another file has, and its hash.
    fn read(&mut self, found: &LocalSegment) -> Result<Option<(SegmentFacts, String)>> {
        let was_saved = found.site != Site::PgWal;
        let inspected = match found.inspect() {
            Ok(inspected) => inspected,
            Err(_) if was_saved => {
                self.saved.damaged.push(found.path.clone());
                return Ok(None);
            }
            Err(_) => return self.keep_unread(&found.file(), &found.path).map(|()| None),
        };
        let hash = self.engine.naming().digest(inspected.content.source())?.hash;
        let name = saved_name(&found.segment, &hash);
        if was_saved && !found.path.ends_with(&name) && !found.path.ends_with(of_copy(&name)) {
            self.saved.damaged.push(found.path.clone());
            return Ok(None);
        }
        if self.archive.note_local(found, &hash) || self.is_known(found.segment, &hash) {
            return Ok(None);
        }
        let facts = inspected.facts;
        // Prepared for use, or just begun, nothing in it can be replayed. Where a record goes on from the segment before,
        // its end counts, whether it could be put together or not.
        let nothing = facts.last_record.is_none() && facts.continued_bytes == 0 && facts.stopped.is_some();
        Ok((!nothing).then_some((facts, hash)))
    }

    fn is_of_copy(&self, site: Site) -> bool {
        match site {
            Site::Saved => false,
            Site::PgWal => self.terms.never_adopted,
            Site::SavedOfCopy => true,
        }
    }

    /// Whether a kept file was added to the archive.
    fn is_used(&self, file: &SavedFile) -> bool {
        let contents = file
            .segment
            .map(|segment| self.archive.contents(segment.timeline, segment.number));
        contents.into_iter().flatten().any(|content| content.hash == file.hash)
    }

    /// Why nothing of a timeline can be used.
    fn contradiction(&self, local: &LocalWal, timeline: TimelineId) -> Option<String> {
        let own = local
            .histories
            .iter()
            .find(|found| found.history.timeline() == timeline);
        match (own, self.archive.tree.history(timeline)) {
            (Some(own), Some(known)) if own.history != *known => Some(format!(
                "the archive has another timeline {timeline}: both were promoted to that number"
            )),
            (None, None) => Some(format!("nothing says where timeline {timeline} began")),
            _ => None,
        }
    }

    fn is_known(&self, segment: WalSegment, hash: &str) -> bool {
        self.saved
            .files
            .iter()
            .any(|file| file.segment == Some(segment) && file.hash == hash)
    }

    async fn judge(&self, found: &LocalSegment, hash: &str) -> Result<Verdict> {
        let segment = found.segment;
        if self.archive.was_cut(segment.timeline, segment.number, hash) {
            return Ok(self.judge_next(segment));
        }
        let stores = self.engine.stores();
        let Some(archived) = open_segment(self.engine, &stores, self.archive, segment, None).await? else {
            return Ok(self.judge_next(segment));
        };
        let archived: Chosen = match archived {
            Ok(archived) => archived,
            Err(error) => {
                return Ok(Verdict::Aside(format!(
                    "the archive's {segment} can't be compared with it: {error}"
                )));
            }
        };
        let own = open_local(self.engine, found, hash)?;
        Ok(match relation(&archived, &own) {
            Relation::LongerTail(Longer::Second) => Verdict::Continues,
            Relation::Same | Relation::LongerTail(Longer::First) => Verdict::InArchive,
            Relation::Fork | Relation::Unknown => Verdict::Forks(format!(
                "the archive has other WAL as {segment}: another server wrote it"
            )),
        })
    }

    /// Of a segment that the archive has no other content of.
    fn judge_next(&self, segment: WalSegment) -> Verdict {
        match self.is_continued(segment) {
            true => Verdict::Continues,
            false => {
                Verdict::Aside("the segment before it is neither in the archive nor in the data directory".to_owned())
            }
        }
    }

    /// Whether the segment before is there, on the way to this one.
    fn is_continued(&self, segment: WalSegment) -> bool {
        if segment.number <= self.terms.first {
            return true;
        }
        let Some(history) = self.tree.history(segment.timeline) else {
            return false;
        };
        let Some(before) = segment.number.checked_sub(1) else {
            return true;
        };
        let choices = route::choices(&self.tree, history, before, segment.size);
        let there = |choice: &route::Choice| !self.archive.contents(choice.segment.timeline, before).is_empty();
        choices.iter().any(there)
    }
}

#[derive(PartialEq, Eq)]
enum Verdict {
    /// It goes on where the archive ends.
    Continues,
    /// The archive has all that is in it.
    InArchive,
    /// It can't be used.
    Aside(String),
    /// It can't be used, and neither can what follows it on its timeline.
    Forks(String),
}
