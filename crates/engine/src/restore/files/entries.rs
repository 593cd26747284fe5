//! Goes along the entries of a backup: makes directories, or takes them over, and turns files into pieces.
//!
//! Invariant: an entry is put below the directory that this walk itself made or took over for the entry before it, found
//! by its descriptor; tablespaces have their own. What PostgreSQL or pgkeep would misunderstand in a restored directory
//! is refused by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgkeep_base::{Error, Result};
use pgkeep_repo::manifest::{Content, Entry, EntryKind, Extent, FileSpan, Source};
use pgkeep_repo::paths::DataPath;

use super::claim::Places;
use super::directory::{Directory, Making, OWN};
use super::owner::Ownership;
use super::target::{Piece, PieceSource, Taking, Target};

/// What must not come out of a backup: each would change what the restored directory is.
const REFUSED_AT_TOP: [&[u8]; 4] = [
    b"postmaster.pid",
    b"postmaster.opts",
    b"recovery.signal",
    b"standby.signal",
];

/// How much was met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub files: u64,
    pub directories: u64,
    pub bytes: u64,
    /// Of these bytes, how many need no piece, because they are holes.
    pub holes: u64,
}

/// The walk.
pub(super) struct Entries<'a> {
    places: &'a Places,
    ownership: &'a Ownership,
    levels: Vec<Level>,
    /// The file whose spans are coming in.
    open: Option<(DataPath, Arc<Target>)>,
    tops: Tops,
    skipped: BTreeSet<u32>,
    counts: Counts,
}

/// A directory on the way to the current entry; the first is the data directory.
struct Level {
    path: Option<DataPath>,
    /// `None` below a tablespace that is not restored.
    directory: Option<Arc<Directory>>,
}

/// Directories that are needed when everything is written.
#[derive(Default)]
pub(super) struct Tops {
    pub global: Option<Arc<Directory>>,
    pub pg_tblspc: Option<Arc<Directory>>,
    pub pg_wal: Option<Arc<Directory>>,
}

/// What the walk leaves behind.
pub(super) struct Walked {
    pub tops: Tops,
    /// Tablespaces that were left out.
    pub skipped: BTreeSet<u32>,
    pub counts: Counts,
}

impl<'a> Entries<'a> {
    pub fn new(places: &'a Places, ownership: &'a Ownership) -> Entries<'a> {
        let top = Level {
            path: None,
            directory: Some(places.target.clone()),
        };
        Entries {
            places,
            ownership,
            levels: vec![top],
            open: None,
            tops: Tops::default(),
            skipped: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// So much was met until now.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes the next entry; gives the pieces of a file.
    ///
    /// # Errors
    /// `Corrupt`, naming the path, for what a backup must not hold; `Conflict` and `Io` where it can't be made.
    pub fn next(&mut self, entry: Entry) -> Result<Vec<Piece>> {
        refuse_strange(&entry)?;
        self.leave(&entry.path);
        let above = self.levels.last().expect("the first level is never left");
        if entry.path.parent() != above.path.as_ref().map(DataPath::as_bytes) {
            return Err(bad(&entry.path, "it lies below what is not a directory of the backup"));
        }
        let Some(directory) = above.directory.clone() else {
            self.skip_level(entry);
            return Ok(Vec::new());
        };
        let making = Making {
            mode: entry.mode,
            ids: self.ownership.of_entry(&entry),
        };
        match entry.kind {
            EntryKind::File(span) => return self.file(entry.path, span, &directory, making),
            EntryKind::Directory => self.directory(entry.path, &directory, making)?,
            EntryKind::Tablespace { location: None } => self.directory(entry.path, &directory, making)?,
            EntryKind::Tablespace { location: Some(_) } => self.tablespace(entry.path, making)?,
        }
        Ok(Vec::new())
    }

    /// Ends the walk.
    pub fn finish(self) -> Walked {
        Walked {
            tops: self.tops,
            skipped: self.skipped,
            counts: self.counts,
        }
    }

    /// Goes up to the directory that `path` lies below.
    fn leave(&mut self, path: &DataPath) {
        let outside = |level: &Level| {
            level
                .path
                .as_ref()
                .is_some_and(|above| !path.is_below(above.as_bytes()))
        };
        while self.levels.last().is_some_and(outside) {
            self.levels.pop();
        }
    }

    fn skip_level(&mut self, entry: Entry) {
        if entry.is_directory() {
            self.levels.push(Level {
                path: Some(entry.path),
                directory: None,
            });
        }
    }

    fn directory(&mut self, path: DataPath, parent: &Directory, making: Making) -> Result<()> {
        if path
            .tablespace_oid()
            .is_some_and(|oid| self.places.tablespaces.contains_key(&oid))
        {
            return Err(bad(&path, "it is a directory here and a link in tablespace_map"));
        }
        let made = match (&self.places.wal_elsewhere, path.as_bytes()) {
            // The link stays, and what it leads to is used.
            (Some(elsewhere), b"pg_wal") => elsewhere.clone(),
            _ if self.places.over => Arc::new(parent.take_over(name(&path), making)?),
            _ => Arc::new(parent.make(name(&path), making)?),
        };
        match path.as_bytes() {
            b"global" => self.tops.global = Some(made.clone()),
            b"pg_tblspc" => self.tops.pg_tblspc = Some(made.clone()),
            b"pg_wal" => self.tops.pg_wal = Some(made.clone()),
            _ => {}
        }
        self.enter(path, Some(made));
        Ok(())
    }

    /// A tablespace has its directory already; the link is made when everything is written.
    fn tablespace(&mut self, path: DataPath, making: Making) -> Result<()> {
        let oid = path
            .tablespace_oid()
            .ok_or_else(|| bad(&path, "no tablespace can be there"))?;
        let directory = self.places.tablespaces.get(&oid).cloned();
        match &directory {
            Some(directory) => directory.own(making)?,
            // Neither there when the backup began, nor when it ended.
            None => drop(self.skipped.insert(oid)),
        }
        self.enter(path, directory);
        Ok(())
    }

    fn enter(&mut self, path: DataPath, directory: Option<Arc<Directory>>) {
        self.counts.directories += u64::from(directory.is_some());
        self.open = None;
        self.levels.push(Level {
            path: Some(path),
            directory,
        });
    }

    fn file(&mut self, path: DataPath, span: FileSpan, parent: &Arc<Directory>, making: Making) -> Result<Vec<Piece>> {
        let target = match self.open.take() {
            Some((open, target)) if open == path => target,
            _ if span.at != 0 => return Err(bad(&path, "the beginning of the file is missing")),
            _ => {
                self.counts.files += 1;
                let covered = span.is_last() && !has_holes(&span);
                let taking = match self.places.over {
                    true => Taking::Over { length: span.bytes },
                    false => Taking::Create {
                        length: (!covered).then_some(span.bytes),
                    },
                };
                Arc::new(Target::new(parent.clone(), name(&path), making, taking))
            }
        };
        self.counts.bytes += span.span_bytes();
        if !self.places.over {
            self.counts.holes += holes(&span);
        }
        self.open = (!span.is_last()).then(|| (path, target.clone()));
        Ok(pieces(&target, span, self.places.over))
    }
}

/// The pieces of a span; with its zeros, where something else may be in their place.
pub(in crate::restore) fn pieces(target: &Arc<Target>, span: FileSpan, with_zeros: bool) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut at = span.at;
    let mut push = |at, source| {
        let target = target.clone();
        found.push(Piece { target, at, source });
    };
    match span.content {
        Content::Inline(bytes) => push(at, PieceSource::Inline(bytes)),
        Content::Extents(extents) => {
            let nothing = |extent: &Extent| extent.source == Source::Zeros;
            if span.at == 0 && !with_zeros && extents.iter().all(nothing) {
                push(at, PieceSource::Nothing);
            }
            for extent in extents {
                let bytes = extent.bytes;
                match extent.source {
                    Source::Zeros if with_zeros => push(at, PieceSource::Zeros { bytes }),
                    Source::Zeros => {}
                    Source::Chunk { chunk, offset } => push(at, PieceSource::Chunk { chunk, offset, bytes }),
                }
                at += bytes;
            }
        }
    }
    found
}

fn holes(span: &FileSpan) -> u64 {
    match &span.content {
        Content::Inline(_) => 0,
        Content::Extents(extents) => {
            let zeros = extents.iter().filter(|extent| extent.source == Source::Zeros);
            zeros.map(|extent| extent.bytes).sum()
        }
    }
}

fn has_holes(span: &FileSpan) -> bool {
    holes(span) > 0
}

/// The last name of a path.
pub(in crate::restore) fn name(path: &DataPath) -> &[u8] {
    path.as_bytes()
        .rsplit(|byte| *byte == b'/')
        .next()
        .expect("a split has at least one part")
}

fn refuse_strange(entry: &Entry) -> Result<()> {
    let path = entry.path.as_bytes();
    if path.starts_with(OWN.as_bytes()) || name(&entry.path).starts_with(b".pgkeep-") {
        return Err(bad(&entry.path, "the name is pgkeep's own"));
    }
    if REFUSED_AT_TOP.contains(&path) {
        return Err(bad(&entry.path, "a restore decides itself whether that is there"));
    }
    if entry.path.is_below(b"pg_wal") && !entry.is_directory() {
        return Err(bad(&entry.path, "WAL comes from the archive only"));
    }
    Ok(())
}

fn bad(path: &DataPath, rule: &str) -> Error {
    Error::corrupt(format!("the backup's entry \"{path}\" can't be restored"))
        .detail(rule)
        .hint("Restore from another backup; `pgkeep list` shows them.")
}
