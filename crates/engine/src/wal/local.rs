//! The WAL in a data directory: what is in `pg_wal`, and what an earlier `restore --delta` saved from it.
//!
//! Invariants: a segment is listed only if its first page says that it is that segment, of that cluster: PostgreSQL
//! gives the names of future segments to old files, and writes over them. Reading changes nothing.
//! Memory: the names; content is read one file at a time, and in parts where it is large.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pgkeep_base::facts::SegmentFacts;
use pgkeep_base::{Error, ErrorKind, Result, ResultExt, SegmentSize, SystemId, TimelineId, WalFile, WalSegment};
use pgkeep_pg::control::ControlFile;
use pgkeep_pg::history::TimelineHistory;
use pgkeep_repo::wal::WalSource;

use super::content::Content;
use super::inspect::{FIRST_PAGE_BYTES, identify, inspect};
use super::map::Holder;
use crate::restore::OWN_DIRECTORY;

/// Directory of saved WAL below [`OWN_DIRECTORY`]; its files are named `<24 digits>-<hash>` and `<8 digits>.history-<hash>`.
pub const SAVED_DIRECTORY: &str = "saved-wal";
const HASH_DIGITS: usize = 32;

/// A segment's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalSegment {
    /// Which segment.
    pub segment: WalSegment,
    /// Whether it bears the segment's own name, or that of its `.partial` file.
    pub holder: Holder,
    /// Where it is.
    pub path: PathBuf,
    /// It was saved by an earlier restore.
    pub saved: bool,
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
    /// Files that bear the name of WAL and are not this cluster's, with the reason.
    pub strange: Vec<(PathBuf, String)>,
}

impl LocalWal {
    /// Lists the WAL of a data directory. `pg_wal` may be a link. The control file may be lost: then the segments tell
    /// whose they are.
    ///
    /// # Errors
    /// `Refused` where there is no `pg_wal`, or nothing in it says which cluster it is of; `Io` where it can't be read.
    pub fn read(data_directory: &Path) -> Result<LocalWal> {
        let files = list(data_directory)?;
        let control = ControlFile::read(data_directory).ok();
        let known = control.map(|control| (control.system_id, control.segment_size));
        let (system_identifier, segment_size) = known
            .or_else(|| files.iter().find_map(|file| file.identity()))
            .ok_or_else(|| nobodys(data_directory))?;
        let mut wal = LocalWal {
            system_identifier,
            segment_size,
            segments: Vec::new(),
            histories: Vec::new(),
            strange: Vec::new(),
        };
        for file in files {
            wal.take(file);
        }
        wal.segments
            .sort_by_key(|s| (s.segment.timeline, s.segment.number, s.holder, s.saved));
        wal.histories.sort_by_key(|history| history.history.timeline());
        Ok(wal)
    }

    fn take(&mut self, found: FoundFile) {
        let holder = match &found.file {
            WalFile::Segment(_) => Holder::Segment,
            WalFile::Partial(_) => Holder::Partial,
            WalFile::History(timeline) => return self.take_history(*timeline, found.path),
            WalFile::BackupHistory(_) => return,
        };
        // What does not begin as its name says was prepared for later use, or was never written.
        let Some((header, segment)) = found.identified() else {
            return;
        };
        if header.system_id != self.system_identifier {
            let why = format!(
                "it was written by another cluster, with system identifier {}",
                header.system_id
            );
            return self.strange.push((found.path, why));
        }
        if header.segment_size == self.segment_size && header.page_timeline <= segment.timeline {
            self.segments.push(LocalSegment {
                segment,
                holder,
                path: found.path,
                saved: found.saved,
            });
        }
    }

    fn take_history(&mut self, timeline: TimelineId, path: PathBuf) {
        let read = std::fs::read(&path).map_err(Error::from);
        match read.and_then(|text| TimelineHistory::parse(timeline, &text)) {
            Ok(history) => self.histories.push(LocalHistory { history, path }),
            Err(error) => self.strange.push((path, error.to_string())),
        }
    }

    /// The smallest number of each timeline.
    pub fn first_numbers(&self) -> BTreeMap<TimelineId, u64> {
        let mut first = BTreeMap::new();
        for LocalSegment { segment, .. } in &self.segments {
            first.entry(segment.timeline).or_insert(segment.number);
        }
        first
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
    saved: bool,
}

impl FoundFile {
    fn identified(&self) -> Option<(pgkeep_pg::wal::SegmentHeader, WalSegment)> {
        let content = Content::open(&self.path, &self.file).ok()?;
        identify(&self.file, &content.beginning(FIRST_PAGE_BYTES).ok()?).ok()
    }

    fn identity(&self) -> Option<(SystemId, SegmentSize)> {
        matches!(self.file, WalFile::Segment(_) | WalFile::Partial(_)).then_some(())?;
        let (header, _) = self.identified()?;
        Some((header.system_id, header.segment_size))
    }
}

fn list(data_directory: &Path) -> Result<Vec<FoundFile>> {
    let saved = data_directory.join(OWN_DIRECTORY).join(SAVED_DIRECTORY);
    let mut found = list_directory(&data_directory.join("pg_wal"), false).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::refused(format!("there is no WAL in {}", data_directory.display()))
            .detail("it has no directory pg_wal, or that leads nowhere")
            .hint("Name the data directory, the one that holds PG_VERSION, as PGDATA of `pgkeep wal salvage`."),
        _ => error,
    })?;
    match list_directory(&saved, true) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        kept => found.extend(kept?),
    }
    Ok(found)
}

fn list_directory(directory: &Path, saved: bool) -> Result<Vec<FoundFile>> {
    let during = || format!("list {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::not_found(format!("there is no {}", directory.display())));
        }
        entries => entries.during(during)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.during(during)?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let name = match (saved, name.len().checked_sub(HASH_DIGITS + 1)) {
            (false, _) => name,
            (true, Some(end)) => name.get(..end).unwrap_or_default(),
            (true, None) => continue,
        };
        if let Some(file) = WalFile::parse(name) {
            let path = entry.path();
            found.push(FoundFile { file, path, saved });
        }
    }
    Ok(found)
}

fn nobodys(data_directory: &Path) -> Error {
    Error::refused(format!(
        "nothing in {} says which cluster it is",
        data_directory.display()
    ))
    .detail("its global/pg_control can't be read, and no WAL segment of it can")
    .hint("Name the data directory, the one that holds PG_VERSION; `pgkeep wal list` shows what is archived.")
}

#[cfg(test)]
mod tests {
    use super::*;

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
