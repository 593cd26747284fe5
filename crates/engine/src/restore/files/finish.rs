//! Ends a restore: links, the last files, durability, and `pg_control` behind everything else.
//!
//! Invariant: before `pg_control` has its name, everything else is durable, so a directory that PostgreSQL would start
//! is a complete one. The marks of the unfinished restore go after that.

use std::sync::Arc;

use pgkeep_base::{Error, Result, failpoint};
use pgkeep_pg::label::{TABLESPACE_MAP, format_tablespace_map, parse_tablespace_map};
use pgkeep_repo::manifest::{Content, Entry};

use super::claim::Places;
use super::directory::{Directory, Making, failed};
use super::entries::Tops;
use super::marker::Marker;
use super::owner::Ownership;
use crate::restore::layout::Layout;

/// `pg_control` until everything else is durable; `settings` reads it here.
pub(in crate::restore) const WAITING_CONTROL: &[u8] = b".pgkeep-pg_control";
const CONTROL: &str = "global/pg_control";

/// Makes what no entry says: `pg_wal` with its directory, and the links to tablespaces.
pub(super) fn complete(places: &Places, tops: &Tops, layout: &Layout, making: Making) -> Result<()> {
    let directory = Making {
        mode: 0o700 | making.mode,
        ..making
    };
    let pg_wal = match (&tops.pg_wal, &places.wal_elsewhere) {
        (Some(pg_wal), _) | (None, Some(pg_wal)) => pg_wal.clone(),
        (None, None) if places.over => Arc::new(places.target.take_over(b"pg_wal", directory)?),
        (None, None) => Arc::new(places.target.make(b"pg_wal", directory)?),
    };
    if pg_wal.enter(b"archive_status")?.is_none() {
        pg_wal.make(b"archive_status", directory)?;
    }
    // Recovery itself links what it makes.
    let mut tablespaces = layout
        .tablespaces
        .iter()
        .filter(|tablespace| tablespace.made_at.is_none())
        .peekable();
    if tablespaces.peek().is_none() {
        return Ok(());
    }
    let links = tops
        .pg_tblspc
        .as_ref()
        .ok_or_else(|| Error::corrupt("the backup has tablespaces and no directory \"pg_tblspc\""))?;
    for tablespace in tablespaces {
        let oid = tablespace.oid.to_string();
        match places.over {
            true => links.relink(oid.as_bytes(), &tablespace.to, making.ids)?,
            false => links.link(oid.as_bytes(), &tablespace.to, making.ids)?,
        }
    }
    Ok(())
}

/// Writes `backup_label`, the `tablespace_map` of the new places, and `pg_control` under another name.
pub(super) fn write_last(
    places: &Places,
    tops: &Tops,
    last: &[Entry],
    layout: &Layout,
    ownership: &Ownership,
) -> Result<()> {
    let put = |directory: &Directory, name: &[u8], content: &[u8], making| match places.over {
        true => directory.replace(name, content, making),
        false => directory.write(name, content, making),
    };
    for entry in last {
        let making = Making {
            mode: entry.mode,
            ids: ownership.of_entry(entry),
        };
        let content = match entry.file().map(|span| &span.content) {
            Some(Content::Inline(content)) => content,
            _ => {
                return Err(Error::corrupt(format!(
                    "the backup's last entry \"{}\" is no file",
                    entry.path
                )));
            }
        };
        match entry.path.as_bytes() {
            path if path == CONTROL.as_bytes() => put(global(tops)?, WAITING_CONTROL, content, making)?,
            path if path == TABLESPACE_MAP.as_bytes() => {
                let map = mapped(content, layout)?;
                if !map.is_empty() {
                    put(&places.target, path, &map, making)?;
                }
            }
            path => put(&places.target, path, content, making)?,
        }
    }
    Ok(())
}

/// The map with the new places. PostgreSQL replaces the links by what it says, so both must agree; a tablespace in
/// place has no link, and PostgreSQL would fail to replace its directory by one.
fn mapped(content: &[u8], layout: &Layout) -> Result<Vec<u8>> {
    let mut map = parse_tablespace_map(content)?;
    map.retain(|tablespace| tablespace.location.is_absolute());
    for tablespace in &mut map {
        let place = layout
            .tablespace(tablespace.oid)
            .ok_or_else(|| Error::internal(format!("the layout has no place for tablespace {}", tablespace.oid)))?;
        tablespace.location.clone_from(&place.to);
    }
    Ok(format_tablespace_map(&map))
}

fn global(tops: &Tops) -> Result<&Directory> {
    let global = tops.global.as_deref();
    global.ok_or_else(|| Error::corrupt("the backup has no directory \"global\""))
}

/// Makes everything that was written durable.
///
/// # Errors
/// `Io` where the system could not write something back: the restore must begin anew, maybe elsewhere.
pub(super) fn sync_all(places: &Places) -> Result<()> {
    let mut devices = Vec::new();
    for place in places.all() {
        let device = place.stat()?.st_dev;
        if devices.contains(&device) {
            continue;
        }
        devices.push(device);
        // The descriptor is older than all writes, so an error of any of them is reported here.
        failpoint::at("engine.restore.sync-all")
            .and_then(|()| Ok(rustix::fs::syncfs(place.as_fd())?))
            .map_err(|source| failed(format!("make {} durable", place.path().display()), source))?;
    }
    Ok(())
}

/// Gives `pg_control` its name, then takes the marks off. Returns what an operator should read.
///
/// Without its mark the data directory is a finished restore, which no rerun would touch: whatever fails then fails
/// nobody's restore.
pub(super) fn publish(places: &Places, tops: &Tops) -> Result<Option<String>> {
    let global = global(tops)?;
    failpoint::at("engine.restore.control")?;
    global.rename(WAITING_CONTROL, b"pg_control")?;
    Marker::lift(&places.target)?;
    let unsettled = places.settle_marks().err().map(|error| {
        let why = error
            .detail_text()
            .map_or_else(String::new, |detail| format!(": {detail}"));
        format!("the restore is complete, but its mark may come back after a power cut: {error}{why}")
    });
    Ok(unsettled)
}
