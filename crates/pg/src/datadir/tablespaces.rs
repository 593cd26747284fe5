//! What the links in `pg_tblspc` may point to.
//!
//! Invariant: a tablespace is backed up whole, once, or the backup is refused with words. Refused are: a link to
//! nothing, a link to a link, a relative link, a location that is no directory or that lies inside the data directory
//! (its files would be listed twice, and a restore could not tell them apart).
//! Locations that are prefixes of each other are fine: only `PG_<major>_<catalog>` inside a location is PostgreSQL's.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use pgkeep_base::{Error, Result, ResultExt};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::names::Names;
use super::{classify, open_directory, stat_at, system_error};

/// A tablespace that `CREATE TABLESPACE … LOCATION` made.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tablespace {
    /// Its OID, which names the link.
    pub oid: u32,
    /// Where the link points: absolute, as `tablespace_map` repeats it.
    pub location: PathBuf,
}

/// Lists and checks all links of an open data directory, by ascending OID.
pub(super) fn list(data_dir: &Path, root: impl AsFd) -> Result<Vec<Tablespace>> {
    let parent = open_directory(root, Path::new("pg_tblspc"), OFlags::NOFOLLOW)
        .map_err(|errno| system_error(errno, "open pg_tblspc"))?;
    let mut names = Names::list(&parent).during(|| "list pg_tblspc")?;
    let mut found = Vec::new();
    while let Some(name) = names.advance() {
        let Some(oid) = classify::oid(name.to_bytes()) else {
            continue;
        };
        let is_link = stat_at(&parent, name, false)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink());
        if is_link {
            found.extend(inspect(data_dir, parent.as_fd(), oid)?);
        }
    }
    found.sort();
    Ok(found)
}

/// Checks the link `oid` in the open `pg_tblspc`; `None` if it has vanished.
pub(super) fn inspect(data_dir: &Path, pg_tblspc: BorrowedFd<'_>, oid: u32) -> Result<Option<Tablespace>> {
    let name = CString::new(oid.to_string()).expect("digits hold no NUL");
    let target = match rustix::fs::readlinkat(pg_tblspc, &name, Vec::new()) {
        Ok(target) => PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes())),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(system_error(errno, format!("read link pg_tblspc/{oid}"))),
    };
    check_location(data_dir, oid, &target)?;
    Ok(Some(Tablespace { oid, location: target }))
}

fn check_location(data_dir: &Path, oid: u32, target: &Path) -> Result<()> {
    let shown = target.display();
    if !target.is_absolute() {
        return Err(refused(oid, format!("its link is relative: {shown}")));
    }
    // Rebuilt from its components, because a trailing slash would make the last link invisible.
    let location: PathBuf = target.components().collect();
    let metadata = match location.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(refused(oid, format!("its location does not exist: {shown}")));
        }
        Err(error) => return Err(error).during(|| format!("look at {shown}, the location of tablespace {oid}")),
    };
    if metadata.is_symlink() {
        return Err(refused(oid, format!("its location is itself a symbolic link: {shown}")));
    }
    if !metadata.is_dir() {
        return Err(refused(oid, format!("its location is not a directory: {shown}")));
    }
    let canonical = location.canonicalize().during(|| format!("resolve {shown}"))?;
    if canonical.starts_with(data_dir) {
        return Err(refused(
            oid,
            format!("its location lies inside the data directory: {shown}"),
        ));
    }
    Ok(())
}

/// The location holds no directory of this major although the link is still there.
pub(super) fn no_version_directory(tablespace: &Tablespace, name: &str) -> Error {
    let shown = tablespace.location.display();
    refused(tablespace.oid, format!("its location {shown} holds no {name}"))
}

fn refused(oid: u32, why: String) -> Error {
    Error::refused(format!("tablespace {oid} can't be backed up"))
        .detail(why)
        .hint(format!(
            "With PostgreSQL stopped, make pg_tblspc/{oid} a link to the absolute path of a plain directory outside \
             of the data directory, then run `pgkeep doctor`."
        ))
}
