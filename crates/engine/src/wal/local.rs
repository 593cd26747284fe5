//! The WAL in a data directory: what is in `pg_wal`, and what an earlier `restore --delta` saved from it.
//!
//! Invariants: a segment is listed only if its first page says that it is that segment, of that cluster: PostgreSQL
//! gives the names of future segments to old files, and writes over them. Reading changes nothing.
//! Memory: the names; content is read one file at a time, and in parts where it is large.

use std::path::{Path, PathBuf};

use pgkeep_base::facts::SegmentFacts;
use pgkeep_base::{Error, Result, ResultExt, SegmentSize, SystemId, TimelineId, WalFile, WalSegment};
use pgkeep_pg::control::ControlFile;
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::wal::read_segment_header;
use pgkeep_repo::wal::WalSource;

use super::content::Content;
use super::inspect::{FIRST_PAGE_BYTES, identify, inspect};
use super::map::{Holder, Planned};
use crate::restore::OWN_DIRECTORY;

/// Directory of saved WAL below [`OWN_DIRECTORY`]; its files are named `<24 digits>-<hash>` and `<8 digits>.history-<hash>`,
/// with `.copy` behind it for what a copy wrote that was never adopted.
pub const SAVED_DIRECTORY: &str = "saved-wal";
const HASH_DIGITS: usize = 32;
const OF_COPY: &str = ".copy";
/// Read at a time where nothing but zeros may be.
const READ_BYTES: u64 = 1 << 20;

/// Where a file of WAL was found; of equal ones the first is used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Site {
    /// Saved by an earlier restore over the directory.
    Saved,
    /// In its `pg_wal`.
    PgWal,
    /// Saved by an earlier restore over the directory, which held a copy that was never adopted.
    SavedOfCopy,
}

/// The name under which a segment's content is saved.
pub fn saved_name(segment: &WalSegment, hash: &str) -> String {
    format!("{segment}-{hash}")
}

/// The name under which something is saved that is not the cluster's own.
pub fn of_copy(name: &str) -> String {
    format!("{name}{OF_COPY}")
}

/// Where a segment of a recovery lies that was saved from its data directory.
pub fn saved_path(data_directory: &Path, planned: &Planned<'_>) -> PathBuf {
    let directory = data_directory.join(OWN_DIRECTORY).join(SAVED_DIRECTORY);
    directory.join(saved_name(&planned.segment, planned.hash))
}

/// A segment's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalSegment {
    /// Which segment.
    pub segment: WalSegment,
    /// Whether it bears the segment's own name, or that of its `.partial` file.
    pub holder: Holder,
    /// Where it is.
    pub path: PathBuf,
    /// What kind of place that is.
    pub site: Site,
}

/// What a segment's file holds now.
pub(crate) struct Inspected {
    /// Its bytes.
    pub content: Content,
    /// What its records say.
    pub facts: SegmentFacts,
}

/// A history file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalHistory {
    /// What it says.
    pub history: TimelineHistory,
    /// Where it is.
    pub path: PathBuf,
    /// What kind of place that is.
    pub site: Site,
}

/// The WAL of one data directory.
#[derive(Debug)]
pub struct LocalWal {
    /// Who wrote it.
    pub system_identifier: SystemId,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// By timeline and number.
    pub segments: Vec<LocalSegment>,
    /// By timeline.
    pub histories: Vec<LocalHistory>,
    /// Files that bear the name of WAL and are not this cluster's, or can't be read, with the reason.
    pub strange: Vec<(PathBuf, String)>,
    /// Files in `pg_wal` that bear the name of WAL, hold something, and are no segments or histories: damaged, unreadable,
    /// or another cluster's.
    pub unread: Vec<(WalFile, PathBuf)>,
}

impl LocalWal {
    /// Lists the WAL of a data directory. `pg_wal` may be a link. The control file may be lost: then the segments tell
    /// whose they are. `None` where nothing does.
    ///
    /// # Errors
    /// `Io` where it can't be read.
    pub fn read(data_directory: &Path) -> Result<Option<LocalWal>> {
        let files = list(data_directory)?;
        let control = ControlFile::read(data_directory).ok();
        let known = control.map(|control| (control.system_id, control.segment_size));
        let known = known.or_else(|| files.iter().find_map(|file| file.identity()));
        let Some((system_identifier, segment_size)) = known else {
            return Ok(None);
        };
        let mut wal = LocalWal {
            system_identifier,
            segment_size,
            segments: Vec::new(),
            histories: Vec::new(),
            strange: Vec::new(),
            unread: Vec::new(),
        };
        for file in files {
            wal.take(file);
        }
        wal.segments
            .sort_by_key(|s| (s.segment.timeline, s.segment.number, s.holder, s.site));
        wal.histories.sort_by_key(|history| history.history.timeline());
        Ok(Some(wal))
    }

    fn take(&mut self, found: FoundFile) {
        let holder = match &found.file {
            WalFile::Segment(_) => Holder::Segment,
            WalFile::Partial(_) => Holder::Partial,
            WalFile::History(timeline) => return self.take_history(*timeline, found),
            WalFile::BackupHistory(_) => return,
        };
        let identified = match found.identified() {
            Ok(identified) => identified,
            // A server that runs may have taken it away meanwhile.
            Err(_) if !found.path.exists() => return,
            Err(error) => {
                // What can't be read may be the only copy of somebody's commits.
                self.strange
                    .push((found.path.clone(), format!("it can't be read: {error}")));
                return self.take_unread(found);
            }
        };
        let Some((header, segment)) = identified else {
            // What is whole and another segment was prepared for later use.
            if found.holds_something() {
                self.take_unread(found);
            }
            return;
        };
        if header.system_id != self.system_identifier {
            let why = format!(
                "it was written by another cluster, with system identifier {}",
                header.system_id
            );
            self.strange.push((found.path.clone(), why));
            return self.take_unread(found);
        }
        if header.segment_size != self.segment_size || header.page_timeline > segment.timeline {
            return self.take_unread(found);
        }
        self.segments.push(LocalSegment {
            segment,
            holder,
            path: found.path,
            site: found.site,
        });
    }

    fn take_unread(&mut self, found: FoundFile) {
        if found.site == Site::PgWal {
            self.unread.push((found.file, found.path));
        }
    }

    fn take_history(&mut self, timeline: TimelineId, found: FoundFile) {
        let read = std::fs::read(&found.path).map_err(Error::from);
        match read.and_then(|text| TimelineHistory::parse(timeline, &text)) {
            Ok(history) => self.histories.push(LocalHistory {
                history,
                path: found.path,
                site: found.site,
            }),
            Err(error) => {
                self.strange.push((found.path.clone(), error.to_string()));
                self.take_unread(found);
            }
        }
    }
}

impl LocalSegment {
    /// The archived file that it would be.
    pub fn file(&self) -> WalFile {
        self.holder.file(&self.segment)
    }

    /// Reads it: what it holds may have changed since it was listed.
    ///
    /// # Errors
    /// `Corrupt` where it is not that segment (any more); `Io`.
    pub(crate) fn inspect(&self) -> Result<Inspected> {
        let file = self.file();
        let content = Content::open(&self.path, &file).during(|| format!("read {}", self.path.display()))?;
        let facts = inspect(&self.path, &file, &content)?;
        let facts = facts.ok_or_else(|| Error::internal("a segment has facts"))?;
        Ok(Inspected { content, facts })
    }
}

impl Inspected {
    /// Whether nothing more can come to be in it: valid WAL goes to its end.
    pub fn is_complete(&self, holder: Holder) -> bool {
        holder == Holder::Segment && self.facts.stopped.is_none()
    }

    /// Its valid beginning.
    pub fn beginning(&self) -> Beginning<'_> {
        Beginning {
            of: self.content.source(),
            valid: self.facts.valid_to.0 - self.facts.start.0,
        }
    }
}

/// The valid beginning of an unfinished segment, with zeros behind it: the same however often it is read, as long as
/// nothing is added.
pub(crate) struct Beginning<'a> {
    of: &'a dyn WalSource,
    valid: u64,
}

impl WalSource for Beginning<'_> {
    fn bytes(&self) -> u64 {
        self.of.bytes()
    }

    fn may_change(&self) -> bool {
        self.of.may_change()
    }

    fn read<'a>(&'a self, offset: u64, length: usize, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let valid = self.valid.saturating_sub(offset).min(length as u64) as usize;
        let mut scratch = Vec::new();
        let head = self.of.read(offset, valid, &mut scratch)?;
        buffer.clear();
        buffer.extend_from_slice(head);
        buffer.resize(length, 0);
        Ok(buffer)
    }
}

/// A file whose name is that of WAL.
struct FoundFile {
    file: WalFile,
    path: PathBuf,
    site: Site,
}

impl FoundFile {
    /// What it is, where that can be told.
    ///
    /// # Errors
    /// Where it can't be read.
    fn identified(&self) -> Result<Option<(pgkeep_pg::wal::SegmentHeader, WalSegment)>> {
        let beginning = Content::open(&self.path, &self.file)?.beginning(FIRST_PAGE_BYTES)?;
        Ok(identify(&self.file, &beginning).ok())
    }

    /// Whether it is neither whole, under whatever name, nor empty. What can't be told counts as something.
    fn holds_something(&self) -> bool {
        let Ok(content) = Content::open(&self.path, &self.file) else {
            return true;
        };
        let beginning = content.beginning(FIRST_PAGE_BYTES).unwrap_or_default();
        read_segment_header(&beginning).is_err() && !is_zero(content.source())
    }

    fn identity(&self) -> Option<(SystemId, SegmentSize)> {
        matches!(self.file, WalFile::Segment(_) | WalFile::Partial(_)).then_some(())?;
        let (header, _) = self.identified().ok().flatten()?;
        Some((header.system_id, header.segment_size))
    }
}

fn is_zero(source: &dyn WalSource) -> bool {
    let mut buffer = Vec::new();
    let parts = (0..source.bytes()).step_by(READ_BYTES as usize);
    parts.into_iter().all(|at| {
        let length = (source.bytes() - at).min(READ_BYTES) as usize;
        let read = source.read(at, length, &mut buffer);
        read.is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0))
    })
}

fn list(data_directory: &Path) -> Result<Vec<FoundFile>> {
    let saved = data_directory.join(OWN_DIRECTORY).join(SAVED_DIRECTORY);
    let mut found = list_directory(&data_directory.join("pg_wal"), &in_pg_wal)?;
    found.extend(list_directory(&saved, &in_saved)?);
    Ok(found)
}

/// The name of the WAL file that a file is, and where it is, by the name that it has there.
type Reading<'a> = &'a dyn Fn(&str) -> Option<(&str, Site)>;

fn in_pg_wal(name: &str) -> Option<(&str, Site)> {
    Some((name, Site::PgWal))
}

fn in_saved(name: &str) -> Option<(&str, Site)> {
    let (name, site) = match name.strip_suffix(OF_COPY) {
        Some(name) => (name, Site::SavedOfCopy),
        None => (name, Site::Saved),
    };
    let end = name.len().checked_sub(HASH_DIGITS + 1)?;
    name.get(..end).map(|name| (name, site))
}

fn list_directory(directory: &Path, reading: Reading<'_>) -> Result<Vec<FoundFile>> {
    let during = || format!("list {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.during(during)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.during(during)?;
        let name = entry.file_name();
        let read = name.to_str().and_then(reading);
        if let Some((file, site)) = read.and_then(|(name, site)| Some((WalFile::parse(name)?, site))) {
            let path = entry.path();
            found.push(FoundFile { file, path, site });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: what can't be read is told and counts as WAL: whoever would remove it has to save it first, and can't.
    #[test]
    fn what_cant_be_read_is_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let pg_wal = directory.path().join("pg_wal");
        let unreadable = pg_wal.join("000000010000000000000007");
        // Not even root can read a directory as a file.
        std::fs::create_dir_all(&unreadable).unwrap();
        let mut wal = LocalWal {
            system_identifier: SystemId(7),
            segment_size: SegmentSize::DEFAULT,
            segments: Vec::new(),
            histories: Vec::new(),
            strange: Vec::new(),
            unread: Vec::new(),
        };
        for file in list(directory.path()).unwrap() {
            wal.take(file);
        }
        assert_eq!(wal.unread.len(), 1);
        let [(path, why)] = &wal.strange[..] else {
            panic!("{:?}", wal.strange)
        };
        assert!(*path == unreadable && why.starts_with("it can't be read"), "{why}");
    }

    /// Aim: what stands behind the valid beginning never leaves, wherever the borders of reading fall.
    #[test]
    fn a_beginning_ends_in_zeros() {
        let content = vec![7u8; 100];
        let beginning = Beginning {
            of: &content,
            valid: 42,
        };
        let mut expected = vec![7u8; 42];
        expected.resize(100, 0);
        for step in [1, 7, 41, 42, 43, 100] {
            let mut all = Vec::new();
            let mut buffer = Vec::new();
            while all.len() < 100 {
                let length = step.min(100 - all.len());
                all.extend_from_slice(beginning.read(all.len() as u64, length, &mut buffer).unwrap());
            }
            assert_eq!(all, expected, "{step}");
        }
        assert_eq!(beginning.bytes(), 100);
    }
}
