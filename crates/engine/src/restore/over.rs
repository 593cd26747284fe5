//! What a restore over an existing cluster will find there: what is missing, what is too much, what fits.
//!
//! Invariant: looking changes nothing. What PostgreSQL did not make by itself is named before it is removed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgkeep_base::{Error, Result};
use pgkeep_repo::manifest::Entry;
use pgkeep_repo::paths::escape;
use pgkeep_repo::reader::BackupReader;
use rustix::fs::{FileType, Stat};

use super::existing::Existing;
use super::files::{
    Directory, Findings, JobBuilder, Making, Piece, Remembered, Sites, Surplus, Taking, Target, Together, entry_name,
    is, pieces, sift, survey,
};
use super::layout::{Layout, resolve};
use crate::engine::Engine;
use pgkeep_pg::datadir::is_postgresqls_own;

/// How many foreign files are named.
pub const FOREIGN_NAMED_MAX: usize = 1000;
/// Pieces, and bytes of files, that are compared together.
const COMPARED_PIECES: usize = 512;
const COMPARED_BYTES: u64 = 16 << 20;
/// How deep surplus directories are looked into.
const DEPTH_MAX: u32 = 80;

/// What was found, by names and lengths.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Found {
    /// Files of the backup that are there.
    pub files: u64,
    /// Their bytes, as far as the backup has as many.
    pub bytes: u64,
    /// Bytes that files have to grow by, with those that are not there.
    pub missing_bytes: u64,
    /// Files that will be removed.
    pub surplus_files: u64,
    /// The space that they take.
    pub surplus_bytes: u64,
    /// How many of them PostgreSQL did not make by itself.
    pub foreign_files: u64,
    /// The first of those, escaped, relative to the data directory.
    pub foreign: Vec<String>,
    /// Tells the paths of all of them from others.
    #[serde(skip)]
    foreign_seal: u64,
}

/// What was found by comparing every byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Compared {
    /// Bytes of files that fit.
    pub kept_bytes: u64,
    /// Bytes of files that don't, or are missing.
    pub differing_bytes: u64,
    /// Bytes that have to be read from the repository for them.
    pub fetched_bytes: u64,
}

/// Looks at names and lengths.
///
/// # Errors
/// `Refused` where another file system is mounted in what would be removed; what reading the manifest gives.
pub async fn look(reader: &BackupReader, layout: &Layout, existing: &Existing) -> Result<Found> {
    let sites = sites(layout, existing)?;
    let mut looking = Looking::default();
    let looked = survey(reader, &sites, &mut looking).await;
    looked.map_err(|error| if is_denied(&error) { denied(error) } else { error })?;
    Ok(looking.found)
}

/// Refuses where something lies there now that the plan doesn't name, and that would be removed.
///
/// # Errors
/// `Refused`; as [`look`].
pub async fn must_be_as_found(
    reader: &BackupReader,
    layout: &Layout,
    existing: &Existing,
    found: &Found,
) -> Result<()> {
    let now = look(reader, layout, existing).await?;
    let same = |a: &Found, b: &Found| a.foreign_files == b.foreign_files && a.foreign_seal == b.foreign_seal;
    if same(&now, found) {
        return Ok(());
    }
    let new = now.foreign.iter().find(|path| !found.foreign.contains(path));
    let target = layout.target.display();
    Err(Error::refused(format!("files came to be in {target} since the restore was planned"))
        .detail(match new {
            Some(path) => format!("{path} would be removed, and the plan doesn't name it"),
            None => format!("{} files would be removed, and the plan names {}", now.foreign_files, found.foreign_files),
        })
        .hint("Nothing was changed. See who writes there, then look at the plan again with `pgkeep restore --dry-run`."))
}

/// Compares the content of every file; costs reading all of the cluster.
///
/// # Errors
/// As [`look`].
pub async fn compare(engine: &Engine, reader: &BackupReader, layout: &Layout, existing: &Existing) -> Result<Compared> {
    let sites = sites(layout, existing)?;
    let mut comparing = Comparing {
        reader,
        sites: &sites,
        open: None,
        together: Together::default(),
        remembered: Remembered::of(engine, reader.verified_head()),
        bytes: 0,
        jobs: JobBuilder::default(),
        compared: Compared::default(),
    };
    survey(reader, &sites, &mut comparing).await?;
    comparing.finish()
}

/// Refuses to restore over what holds this installation's own files, or a repository: they would be too much there.
///
/// # Errors
/// `Refused`, naming the file.
pub fn spare(engine: &Engine, precious: &[PathBuf], layout: &Layout) -> Result<()> {
    let setup = engine.setup();
    let urls = setup.places.iter().map(|place| place.store.url());
    let repositories = urls.filter_map(|url| url.strip_prefix("file://")).map(PathBuf::from);
    let all = precious
        .iter()
        .cloned()
        .chain([setup.state_dir.clone()])
        .chain(repositories);
    let tablespaces = layout.tablespaces.iter().map(|tablespace| &tablespace.to);
    let places: Vec<PathBuf> = tablespaces
        .chain([&layout.target])
        .map(|place| resolve(place))
        .collect();
    for path in all {
        let real = resolve(&path);
        if let Some(place) = places.iter().find(|place| real.starts_with(place)) {
            return Err(
                Error::refused(format!("{} lies in what would be restored over", path.display()))
                    .detail(format!(
                        "the backup has nothing there, so that it would be removed from {}",
                        place.display()
                    ))
                    .hint("Move it elsewhere, change the configuration, and run `pgkeep restore` again."),
            );
        }
    }
    Ok(())
}

fn sites(layout: &Layout, existing: &Existing) -> Result<Sites> {
    let open = |path: &Path| -> Result<Option<Arc<Directory>>> {
        match path.symlink_metadata() {
            Ok(_) => Directory::open(path).map(|directory| Some(Arc::new(directory))),
            Err(_) => Ok(None),
        }
    };
    let mut tablespaces = std::collections::BTreeMap::new();
    for tablespace in &layout.tablespaces {
        if let Some(directory) = open(&tablespace.to)? {
            tablespaces.insert(tablespace.oid, directory);
        }
    }
    Ok(Sites {
        target: Arc::new(Directory::open(&layout.target)?),
        tablespaces,
        wal_elsewhere: existing.wal_elsewhere.as_deref().map(open).transpose()?.flatten(),
    })
}

#[derive(Default)]
struct Looking {
    found: Found,
}

impl Findings for Looking {
    fn surplus(&mut self, surplus: &Surplus<'_>) -> Result<()> {
        // It is written last, and taken away first.
        if surplus.path == b"global/pg_control" {
            return Ok(());
        }
        self.count(surplus.directory, surplus.name, &surplus.path, &surplus.stat, DEPTH_MAX)
    }

    fn file(&mut self, entry: &Entry, there: Option<(&Arc<Directory>, Option<Stat>)>) -> Result<()> {
        let Some(span) = entry.file().filter(|span| span.at == 0) else {
            return Ok(());
        };
        let length = there.and_then(|(_, stat)| stat).map(|stat| stat.st_size as u64);
        self.found.files += u64::from(length.is_some());
        let length = length.unwrap_or(0).min(span.bytes);
        self.found.bytes += length;
        self.found.missing_bytes += span.bytes - length;
        Ok(())
    }
}

impl Looking {
    fn count(&mut self, directory: &Directory, name: &[u8], path: &[u8], stat: &Stat, depth: u32) -> Result<()> {
        if is(stat, FileType::Directory) {
            return match directory.enter(name)? {
                Some(inner) if inner.stat()?.st_dev != directory.stat()?.st_dev => Err(mounted(&inner)),
                Some(inner) => self.count_all(&inner, path, depth),
                None => Ok(()),
            };
        }
        self.found.surplus_files += 1;
        self.found.surplus_bytes += (stat.st_blocks as u64).saturating_mul(512);
        let linked = is(stat, FileType::Symlink) && !path.starts_with(b"pg_tblspc/");
        let own = name.starts_with(b".pgkeep-") || (is_postgresqls_own(path) && !linked);
        if !own {
            self.found.foreign_files += 1;
            let mut hasher = DefaultHasher::new();
            (self.found.foreign_seal, path).hash(&mut hasher);
            self.found.foreign_seal = hasher.finish();
            if self.found.foreign.len() < FOREIGN_NAMED_MAX {
                self.found.foreign.push(escape(path).into_owned());
            }
        }
        Ok(())
    }

    fn count_all(&mut self, directory: &Directory, path: &[u8], depth: u32) -> Result<()> {
        if depth == 0 {
            return Err(Error::refused(format!(
                "{} nests too deeply",
                directory.path().display()
            )));
        }
        let mut names = directory.sorted_names()?;
        while let Some(name) = names.advance() {
            let name = name.to_bytes();
            if !directory.may_be_changed() {
                return Err(not_ours(directory));
            }
            if let Some(stat) = directory.stat_of(name)? {
                self.count(directory, name, &[path, b"/", name].concat(), &stat, depth - 1)?;
            }
        }
        Ok(())
    }
}

fn not_ours(directory: &Directory) -> Error {
    Error::refused(format!("{} belongs to another user", directory.path().display()))
        .detail("the backup has nothing there, and what is in it can't be removed")
        .hint("Move it away, or run `pgkeep restore` as root.")
}

/// Whether the operating system said that we may not.
fn is_denied(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| source.kind() == std::io::ErrorKind::PermissionDenied)
}

fn denied(error: Error) -> Error {
    Error::refused("the data directory can't be looked at, all of it")
        .source(error)
        .hint("Run `pgkeep restore` as the user that runs PostgreSQL, or as root; see what belongs to somebody else.")
}

fn mounted(directory: &Directory) -> Error {
    Error::refused(format!("another file system is at {}", directory.path().display()))
        .detail("the backup has nothing there, so that it would have to be removed")
        .hint("Unmount it, then run `pgkeep restore` again.")
}

struct Comparing<'a> {
    reader: &'a BackupReader,
    sites: &'a Sites,
    /// The file whose spans are coming in.
    open: Option<(Vec<u8>, Arc<Target>)>,
    together: Together,
    remembered: Option<Remembered>,
    bytes: u64,
    jobs: JobBuilder,
    compared: Compared,
}

impl Findings for Comparing<'_> {
    fn surplus(&mut self, _: &Surplus<'_>) -> Result<()> {
        Ok(())
    }

    fn file(&mut self, entry: &Entry, there: Option<(&Arc<Directory>, Option<Stat>)>) -> Result<()> {
        let Some(span) = entry.file().cloned() else {
            return Ok(());
        };
        let found = there
            .filter(|(_, stat)| stat.is_some())
            .map(|(directory, _)| directory.clone());
        let is_there = found.is_some();
        let target = self.target(entry, found.unwrap_or_else(|| self.sites.target.clone()));
        let new = pieces(&target, span, true);
        if !is_there {
            return self.want(new);
        }
        self.bytes += new.iter().map(Piece::bytes).sum::<u64>();
        if let Some(remembered) = &mut self.remembered {
            self.together.add_known(remembered, entry, &target);
        }
        self.together.pieces.extend(new);
        if self.together.pieces.len() >= COMPARED_PIECES || self.bytes >= COMPARED_BYTES {
            self.sift()?;
        }
        Ok(())
    }
}

impl Comparing<'_> {
    fn target(&mut self, entry: &Entry, directory: Arc<Directory>) -> Arc<Target> {
        match &self.open {
            Some((path, target)) if path == entry.path.as_bytes() => target.clone(),
            _ => {
                let making = Making { mode: 0o600, ids: None };
                let target = Arc::new(Target::new(directory, entry_name(&entry.path), making, Taking::Look));
                self.open = Some((entry.path.as_bytes().to_vec(), target.clone()));
                target
            }
        }
    }

    fn sift(&mut self) -> Result<()> {
        self.bytes = 0;
        let together = std::mem::take(&mut self.together);
        let sifted = super::files::block(|| sift(together, false))?;
        self.compared.kept_bytes += sifted.kept;
        self.want(sifted.wanted)
    }

    fn want(&mut self, wanted: Vec<Piece>) -> Result<()> {
        for piece in wanted {
            self.compared.differing_bytes += piece.bytes();
            if let Some(job) = self.jobs.push(piece) {
                self.compared.fetched_bytes += job.bytes_to_fetch(self.reader.source())?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Compared> {
        self.sift()?;
        if let Some(job) = self.jobs.finish() {
            self.compared.fetched_bytes += job.bytes_to_fetch(self.reader.source())?;
        }
        Ok(self.compared)
    }
}
