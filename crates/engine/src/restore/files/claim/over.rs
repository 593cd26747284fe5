//! Takes over the places of an existing cluster.
//!
//! Invariant: between [`Held::take`] and the end of the restore the directory has no `pg_control`, so that no server can
//! start on what is half old and half new. The mark is durable before that, so that the next run knows whose it is.

use super::*;
use crate::restore::existing::Existing;

const GLOBAL: &[u8] = b"global";
const CONTROL: &[u8] = b"pg_control";
/// What `pg_control` is called while it is being seen whether a server came to run meanwhile, with its name behind it.
const OLD: &[u8] = b".pgkeep-old-";

/// An existing cluster that is locked and was judged once more; nothing in it was changed.
pub(in crate::restore::files) struct Held<'a> {
    layout: &'a Layout,
    existing: &'a Existing,
    /// The data directory.
    pub target: Directory,
    before: Option<Marker>,
    tablespaces: BTreeMap<u32, Directory>,
}

impl<'a> Held<'a> {
    /// Locks and judges.
    ///
    /// # Errors
    /// `Refused` where something is no longer as it was when the restore was planned, or a server runs; `Conflict` where
    /// another restore is at work.
    pub fn hold(layout: &'a Layout, existing: &'a Existing, making: Making) -> Result<Held<'a>> {
        let target = Directory::open(&layout.target)?;
        lock(&target)?;
        if is_running(&layout.target)?.is_some() {
            return Err(running(&layout.target));
        }
        if Existing::look(&layout.target)?.as_ref() != Some(existing) {
            return Err(changed(&layout.target));
        }
        let before = Marker::of_target(&target)?.filter(|marker| marker.is_for(&layout.target));
        let mut tablespaces = BTreeMap::new();
        for tablespace in &layout.tablespaces {
            let directory = open_or_make(&tablespace.to, Making { mode: 0o700, ..making })?;
            if !existing.links_to(tablespace.oid, &tablespace.to) {
                judge_tablespace(&directory, before.as_ref())?;
            }
            tablespaces.insert(tablespace.oid, directory);
        }
        Ok(Held {
            layout,
            existing,
            target,
            before,
            tablespaces,
        })
    }

    /// Marks everything, and makes the cluster impossible to start.
    ///
    /// # Errors
    /// `Conflict` where a server has been started in the last moment: everything is as it was; `Io`.
    pub fn take(self, head: &Head, now: Timestamp, making: Making) -> Result<Places> {
        let Held {
            layout,
            existing,
            target,
            before,
            tablespaces,
        } = self;
        let marker = Marker::new(head, now, layout, before.as_ref(), true);
        let mark = marker.put(&target, Making { mode: 0o700, ..making });
        mark.map_err(|error| error.or_hint("The cluster is as it was; run the same `pgkeep restore` again."))?;
        disable(&target, layout)?;
        Marker::clear_own(&target)?;
        target.own(making)?;
        for tablespace in tablespaces.values() {
            marker.put_in_tablespace(tablespace, making)?;
        }
        let wal_elsewhere = existing.wal_elsewhere.as_deref().map(Directory::open).transpose()?;
        let abandoned = before.iter().flat_map(|before| before.abandoned(layout));
        Ok(Places {
            abandoned: abandoned.map(str::to_owned).collect(),
            target: Arc::new(target),
            tablespaces: tablespaces
                .into_iter()
                .map(|(oid, directory)| (oid, Arc::new(directory)))
                .collect(),
            over: true,
            wal_elsewhere: wal_elsewhere.map(Arc::new),
        })
    }
}

/// Takes `pg_control` away, durably; a link in the place of its directory, too. A server that was started after the last
/// look has read it already, and needs it back.
fn disable(target: &Directory, layout: &Layout) -> Result<()> {
    let global = match target.is_directory(GLOBAL)? {
        true => target.enter(GLOBAL)?,
        false => None,
    };
    let (place, name) = global.as_ref().map_or((target, GLOBAL), |global| (global, CONTROL));
    let old = [OLD, name].concat();
    if place.stat_of(name)?.is_none() {
        return place.remove_any(&old);
    }
    place.rename(name, &old)?;
    if is_running(&layout.target)?.is_some() {
        place.rename(&old, name)?;
        Marker::lift(target)?;
        Marker::settle(target)?;
        return Err(running(&layout.target));
    }
    place.remove_any(&old)?;
    place.sync()
}

fn running(path: &Path) -> Error {
    Error::refused(format!("a server runs on {}", path.display()))
        .detail("`pgkeep restore` never touches a running cluster")
        .hint("Stop it, or choose another directory with `--into`.")
}

fn changed(path: &Path) -> Error {
    Error::refused(format!("{} is not as it was", path.display()))
        .detail("something in it was changed since the restore was planned")
        .hint("See who does; then run the same `pgkeep restore` again.")
}
