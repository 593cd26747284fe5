//! The files of the reuse directory: the cache of the last finished backup, and a journal for each run since.
//!
//! Invariant: beside a journal, `.missed` names the places that fell out while it was written, durably, before the
//! journal mentions a pack that they lack.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pgkeep_base::{BackupId, failpoint};
use pgkeep_repo::reuse::ReuseReader;

/// Journals of interrupted runs that are kept: the longest ones.
const JOURNALS_MAX: usize = 4;

/// The cache of the last finished backup.
pub fn cache_path(directory: &Path) -> PathBuf {
    directory.join("cache")
}

/// The journal of a run, which stays where the run is interrupted.
pub fn journal_path(directory: &Path, id: &BackupId) -> PathBuf {
    directory.join(format!("journal-{id}"))
}

/// Names the places that fell out while that journal was written.
pub fn missed_path(directory: &Path, id: &BackupId) -> PathBuf {
    directory.join(format!("journal-{id}.missed"))
}

/// Opens the journals that interrupted runs left, oldest first, each with the places that fell out of it.
pub fn open_all(directory: &Path) -> Vec<(ReuseReader, Vec<String>)> {
    let open = |id: &BackupId| {
        let missed = match fs::read_to_string(missed_path(directory, id)) {
            Ok(text) => text.lines().map(str::to_owned).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(_) => return None,
        };
        Some((ReuseReader::open_journal(&journal_path(directory, id)).ok()?, missed))
    };
    interrupted(directory).iter().filter_map(open).collect()
}

/// Notes, durably, that a place fell out while a journal is being written.
pub fn note_missed(path: &Path, place: &str) -> io::Result<()> {
    failpoint::at("engine.journal.missed")?;
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path)?;
    writeln!(file, "{place}")?;
    file.sync_all()?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes room for the journal of another run.
pub fn forget_short(directory: &Path) {
    let bytes = |id: &BackupId| fs::metadata(journal_path(directory, id)).map_or(0, |metadata| metadata.len());
    let mut ids = interrupted(directory);
    ids.sort_by_key(|id| std::cmp::Reverse(bytes(id)));
    ids.iter().skip(JOURNALS_MAX - 1).for_each(|id| forget(directory, id));
}

/// Removes all journals: a finished backup has all that they know, and more.
pub fn forget_all(directory: &Path, finished: &BackupId) {
    interrupted(directory).iter().for_each(|id| forget(directory, id));
    forget(directory, finished);
}

fn forget(directory: &Path, id: &BackupId) {
    // The journal first: without it the other file says nothing. What can't be removed is too old one day.
    if !matches!(fs::remove_file(journal_path(directory, id)), Err(error) if error.kind() != io::ErrorKind::NotFound) {
        let _ = fs::remove_file(missed_path(directory, id));
    }
}

/// Whose journals are there, oldest first.
fn interrupted(directory: &Path) -> Vec<BackupId> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let id = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix("journal-")?.parse().ok();
    let mut ids: Vec<BackupId> = entries.filter_map(id).collect();
    ids.sort();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_journals_are_kept_with_what_fell_out_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let ids: Vec<BackupId> = (1..=6)
            .map(|n| format!("2026112{n}T101512Z-0000000000").parse().unwrap())
            .collect();
        for (id, bytes) in ids.iter().zip([1, 9, 8, 2, 7, 3]) {
            fs::write(journal_path(at, id), vec![0; bytes]).unwrap();
            note_missed(&missed_path(at, id), "offsite").unwrap();
        }
        forget_short(at);
        assert_eq!(interrupted(at), [ids[1].clone(), ids[2].clone(), ids[4].clone()]);
        assert_eq!(fs::read_dir(at).unwrap().count(), 6);
        assert_eq!(open_all(at).len(), 0, "what is no journal is no source");
        forget_all(at, &ids[5]);
        assert_eq!(fs::read_dir(at).unwrap().count(), 0);
    }
}
