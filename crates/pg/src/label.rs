//! `backup_label` and `tablespace_map`: what tells a restored directory where recovery begins.
//!
//! Both come from `pg_backup_stop` and are stored exactly as the server gave them; what is read here is only checked.
//! Invariant: a label that PostgreSQL would misread or refuse does not pass; a map reads back as it was written.
//! Formats: `src/backend/access/transam/xlogbackup.c`, `read_backup_label` and `read_tablespace_map` of
//! `src/backend/access/transam/xlogrecovery.c`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use pgkeep_base::segment::is_segment_name;
use pgkeep_base::{Error, Lsn, Result, SegmentSize, TimelineId, WalSegment};

use crate::datadir::Tablespace;
use crate::datadir::classify::oid;

/// File name of the label in a data directory.
pub const BACKUP_LABEL: &str = "backup_label";
/// File name of the map in a data directory.
pub const TABLESPACE_MAP: &str = "tablespace_map";

/// What a `backup_label` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupLabel {
    /// Where replay begins (the redo point of the backup's checkpoint).
    pub start_lsn: Lsn,
    /// Name of the segment that holds `start_lsn`, for the cluster's segment size.
    pub start_segment: String,
    /// The backup's checkpoint record.
    pub checkpoint_lsn: Lsn,
    /// True if it was taken from a standby.
    pub from_standby: bool,
    /// When it began, in the words of the server's `log_timezone`: for people only.
    pub start_time: String,
    /// The name that was given to `pg_backup_start`.
    pub label: String,
    /// The timeline that it began on.
    pub timeline: TimelineId,
}

impl BackupLabel {
    /// Reads a label.
    ///
    /// # Errors
    /// `Corrupt` where PostgreSQL would refuse it, where fields are missing, or where they contradict each other;
    /// `Unsupported` for labels of `pg_rewind` and of incremental `pg_basebackup`.
    pub fn parse(text: &str) -> Result<BackupLabel> {
        let fields = Fields::of(text)?;
        let (start_lsn, start_segment) = parse_start(fields.required("START WAL LOCATION")?)?;
        let method = fields.required("BACKUP METHOD")?;
        if method != "streamed" {
            return Err(Error::unsupported(format!("backup_label was made by {method}"))
                .detail("only labels of pg_backup_stop and pg_basebackup tell where the backup ends"));
        }
        if fields.get("INCREMENTAL FROM LSN").is_some() {
            return Err(
                Error::unsupported("backup_label belongs to an incremental pg_basebackup")
                    .hint("Combine it with `pg_combinebackup` first; `pgkeep backup` needs no chains."),
            );
        }
        let timeline = timeline_of(&start_segment)?;
        let named = fields.required("START TIMELINE")?;
        if named.parse() != Ok(timeline.get()) {
            return Err(corrupt(format!(
                "it begins on timeline {named}, but in segment {start_segment}"
            )));
        }
        Ok(BackupLabel {
            start_lsn,
            start_segment,
            checkpoint_lsn: parse_lsn(fields.required("CHECKPOINT LOCATION")?)?,
            from_standby: parse_source(fields.required("BACKUP FROM")?)?,
            start_time: fields.required("START TIME")?.to_owned(),
            label: fields.required("LABEL")?.to_owned(),
            timeline,
        })
    }

    /// Checks the label against what the backup knows: its start, and the cluster's segment size.
    ///
    /// # Errors
    /// `Corrupt` where they differ: the label is not of this backup.
    pub fn check(&self, start_lsn: Lsn, size: SegmentSize) -> Result<()> {
        let segment = WalSegment::at(self.timeline, self.start_lsn, size).name();
        if segment != self.start_segment {
            return Err(corrupt(format!(
                "{} lies in {segment}, not in {}",
                self.start_lsn, self.start_segment
            )));
        }
        if self.start_lsn != start_lsn {
            return Err(corrupt(format!(
                "it begins at {}, the backup at {start_lsn}",
                self.start_lsn
            )));
        }
        if self.checkpoint_lsn < self.start_lsn {
            return Err(corrupt(format!(
                "its checkpoint {} lies before its start {}",
                self.checkpoint_lsn, self.start_lsn
            )));
        }
        Ok(())
    }
}

/// The `KEY: value` lines of a label, in PostgreSQL's order.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    /// PostgreSQL reads the lines in this order and stops understanding at the first that is out of place.
    const ORDER: [&'static str; 9] = [
        "START WAL LOCATION",
        "CHECKPOINT LOCATION",
        "BACKUP METHOD",
        "BACKUP FROM",
        "START TIME",
        "LABEL",
        "START TIMELINE",
        "INCREMENTAL FROM LSN",
        "INCREMENTAL FROM TLI",
    ];

    fn of(text: &'a str) -> Result<Fields<'a>> {
        if !text.ends_with('\n') {
            return Err(corrupt("its last line has no end".to_owned()));
        }
        let mut fields = Vec::new();
        let mut order = Fields::ORDER.iter();
        for line in text.lines() {
            let (key, value) = line
                .split_once(": ")
                .ok_or_else(|| corrupt(format!("no such line: \"{}\"", line.escape_debug())))?;
            if !order.any(|expected| *expected == key) {
                return Err(corrupt(format!("unexpected line: \"{}\"", line.escape_debug())));
            }
            fields.push((key, value));
        }
        Ok(Fields(fields))
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    fn required(&self, key: &str) -> Result<&'a str> {
        self.get(key).ok_or_else(|| corrupt(format!("it has no line {key}")))
    }
}

fn corrupt(why: String) -> Error {
    Error::corrupt("backup_label is not one that PostgreSQL wrote")
        .detail(why)
        .hint("Restore from another backup; `pgkeep list` shows them.")
}

/// Reads `16/B374D848 (file 0000000300000016000000B3)`.
fn parse_start(value: &str) -> Result<(Lsn, String)> {
    let bad = || corrupt(format!("its start is \"{}\"", value.escape_debug()));
    let (lsn, rest) = value.split_once(" (file ").ok_or_else(bad)?;
    let segment = rest.strip_suffix(')').ok_or_else(bad)?;
    if !is_segment_name(segment) {
        return Err(bad());
    }
    Ok((parse_lsn(lsn)?, segment.to_owned()))
}

fn parse_lsn(text: &str) -> Result<Lsn> {
    let lsn: Lsn = text
        .parse()
        .map_err(|error| corrupt("a position does not read".to_owned()).source(error))?;
    if lsn.is_valid() {
        return Ok(lsn);
    }
    Err(corrupt("a position is 0/0".to_owned()))
}

fn parse_source(text: &str) -> Result<bool> {
    match text {
        "primary" => Ok(false),
        "standby" => Ok(true),
        other => Err(corrupt(format!("it is from \"{}\"", other.escape_debug()))),
    }
}

fn timeline_of(segment: &str) -> Result<TimelineId> {
    TimelineId::from_hex(&segment[..8]).ok_or_else(|| corrupt(format!("segment {segment} has no timeline")))
}

/// Reads a `tablespace_map`. In-place tablespaces (16 and newer list them) have a relative location.
///
/// # Errors
/// `Corrupt` where PostgreSQL would refuse it, or where an OID occurs twice.
pub fn parse_tablespace_map(bytes: &[u8]) -> Result<Vec<Tablespace>> {
    let mut tablespaces: Vec<Tablespace> = Vec::new();
    for line in unescaped_lines(bytes)? {
        let bad = || bad_map(format!("no such line: \"{}\"", line.escape_ascii()));
        // One space; more belong to the location.
        let space = line.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let (oid, location) = (oid(&line[..space]).ok_or_else(bad)?, &line[space + 1..]);
        if location.is_empty() {
            return Err(bad());
        }
        if tablespaces.iter().any(|known| known.oid == oid) {
            return Err(bad_map(format!("tablespace {oid} occurs twice")));
        }
        tablespaces.push(Tablespace {
            oid,
            location: PathBuf::from(OsString::from_vec(location.to_vec())),
        });
    }
    Ok(tablespaces)
}

/// Writes a `tablespace_map`, for a restore that puts tablespaces elsewhere.
pub fn format_tablespace_map(tablespaces: &[Tablespace]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for tablespace in tablespaces {
        bytes.extend_from_slice(format!("{} ", tablespace.oid).as_bytes());
        for byte in tablespace.location.as_os_str().as_bytes() {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                bytes.push(b'\\');
            }
            bytes.push(*byte);
        }
        bytes.push(b'\n');
    }
    bytes
}

fn bad_map(why: String) -> Error {
    Error::corrupt("tablespace_map is not one that PostgreSQL wrote")
        .detail(why)
        .hint("Restore from another backup; `pgkeep list` shows them.")
}

/// Splits at newlines that no backslash precedes, and takes the backslashes out.
fn unescaped_lines(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => line.push(
                *bytes
                    .next()
                    .ok_or_else(|| bad_map("its last line has no end".to_owned()))?,
            ),
            b'\n' | b'\r' if line.is_empty() => {}
            b'\n' | b'\r' => lines.push(std::mem::take(&mut line)),
            byte => line.push(*byte),
        }
    }
    if line.is_empty() {
        return Ok(lines);
    }
    Err(bad_map("its last line has no end".to_owned()))
}

#[cfg(test)]
mod tests;
