//! Moments as operators write them, and as they are shown.
//!
//! Invariant: a moment is never guessed. One without a zone is local, which is said back in UTC, and refused where
//! nobody can read that; one that the clock's change skips or repeats is refused, with the spellings that are meant.
//! Elapsed time such as `5 minutes` is in `config::values`.

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Span, SpanRelativeTo, Timestamp};
use pgkeep_base::{Error, Result};

/// What a text is read against.
#[derive(Clone, Debug)]
pub struct Reading {
    /// For `5 minutes ago`.
    pub now: Timestamp,
    /// For times without a zone.
    pub local: TimeZone,
    /// Whether a person reads along; off a terminal a time without a zone is refused.
    pub terminal: bool,
}

/// A moment that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// In UTC.
    pub at: Timestamp,
    /// Whether the zone was added by us, so that the caller must say back what was understood.
    pub zone_assumed: bool,
}

/// Reads RFC 3339, `2026-09-20 14:03 Europe/Berlin`, `5 minutes ago`, `now`, or a local time without a zone.
///
/// # Errors
/// `Invalid`, with an example, for everything else.
pub fn read(text: &str, reading: &Reading) -> Result<Moment> {
    let text = text.trim();
    let known = |at| {
        Ok(Moment {
            at,
            zone_assumed: false,
        })
    };
    if text.eq_ignore_ascii_case("now") {
        return known(reading.now);
    }
    if let Some(elapsed) = text.strip_suffix("ago") {
        return known(ago(text, elapsed, reading.now)?);
    }
    if let Some((civil, offset)) = split_offset(text) {
        let moment = civil_time(civil).and_then(|civil| offset.to_timestamp(civil).ok());
        return known(moment.ok_or_else(|| unreadable(text))?);
    }
    if let Some((civil, zone)) = split_zone(text) {
        let zone = TimeZone::get(zone).map_err(|source| {
            Error::invalid(format!("\"{zone}\" is not a time zone"))
                .source(source)
                .hint("Write a name such as `Europe/Berlin`, or `Z` for UTC: `--at '2026-09-20 14:03 Europe/Berlin'`.")
        })?;
        return known(in_zone(civil_time(civil).ok_or_else(|| unreadable(text))?, &zone)?);
    }
    let civil = civil_time(text).ok_or_else(|| unreadable(text))?;
    if !reading.terminal {
        return Err(Error::invalid(format!("the time \"{text}\" has no zone"))
            .detail("off a terminal, a time without a zone is not guessed")
            .hint(format!("Append `Z` for UTC or a zone: `--at '{text} Europe/Berlin'`.")));
    }
    Ok(Moment {
        at: in_zone(civil, &reading.local)?,
        zone_assumed: true,
    })
}

/// UTC as in JSON, to the microsecond at most: `2026-09-20T12:03:00Z`.
pub fn utc(at: Timestamp) -> String {
    let micro = at.round(jiff::Unit::Microsecond).unwrap_or(at);
    micro.to_string()
}

/// For people: `2026-09-20 12:03:00Z`, with the local time behind it on a terminal that isn't on UTC.
pub fn show(at: Timestamp, local: Option<&TimeZone>) -> String {
    let text = at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    match local.filter(|zone| zone.to_offset(at) != Offset::UTC) {
        Some(zone) => {
            let local = at.to_zoned(zone.clone());
            let same_day = local.date() == at.to_zoned(TimeZone::UTC).date();
            let format = if same_day { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
            format!("{text} ({} local)", local.strftime(format))
        }
        None => text,
    }
}

/// How long something is, in its two largest units: `3 h 20 min`.
pub fn elapsed(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let first = UNITS
        .iter()
        .position(|(size, _)| seconds >= *size)
        .unwrap_or(UNITS.len() - 1);
    let (size, name) = UNITS[first];
    let mut text = format!("{} {name}", seconds / size);
    if let Some((smaller, name)) = UNITS.get(first + 1) {
        let rest = seconds % size / smaller;
        if rest > 0 {
            text.push_str(&format!(" {rest} {name}"));
        }
    }
    text
}

fn ago(text: &str, elapsed: &str, now: Timestamp) -> Result<Timestamp> {
    let span: Span = elapsed.trim().parse().map_err(|_| unreadable(text))?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| {
        Error::invalid(format!("\"{text}\" has no fixed length")).hint("Count in days or weeks: `--at '30 days ago'`.")
    })?;
    if duration.is_negative() {
        return Err(unreadable(text));
    }
    now.checked_sub(duration).map_err(|_| unreadable(text))
}

/// `2026-09-20 14:03`, with `T` or a space, with or without seconds and their fraction.
fn civil_time(text: &str) -> Option<DateTime> {
    let has_time = text.len() > "2026-09-20".len() && text.contains(':');
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b"-: Tt.".contains(&b));
    if !(has_time && plain) {
        return None;
    }
    text.trim_end().parse().ok()
}

/// Splits `Z`, `+02`, `+02:00` or `-0330` off the end.
fn split_offset(text: &str) -> Option<(&str, Offset)> {
    if let Some(civil) = text.strip_suffix(['Z', 'z']) {
        return Some((civil.trim_end(), Offset::UTC));
    }
    // A minus sign behind the time of day, not one of the date's.
    let colon = text.find(':')?;
    let sign = colon + text[colon..].find(['+', '-'])?;
    let (civil, offset) = text.split_at(sign);
    let digits: String = offset[1..].chars().filter(|c| *c != ':').collect();
    if !matches!(digits.len(), 2 | 4 | 6) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |at: usize| digits.get(at..at + 2).map_or(Some(0), |two| two.parse::<i32>().ok());
    let (hours, minutes, seconds) = (part(0)?, part(2)?, part(4)?);
    if minutes > 59 || seconds > 59 {
        return None;
    }
    let total = hours * 3600 + minutes * 60 + seconds;
    let signed = if offset.starts_with('-') { -total } else { total };
    Some((civil.trim_end(), Offset::from_seconds(signed).ok()?))
}

/// Splits a zone's name, such as `Europe/Berlin` or `UTC`, off the end; also as `[Europe/Berlin]`.
fn split_zone(text: &str) -> Option<(&str, &str)> {
    // Behind the date and the letter that may follow it.
    let time = "2026-09-20T".len();
    let start = time + text.get(time..)?.find(|c: char| c.is_ascii_alphabetic())?;
    let (civil, zone) = text.split_at(start);
    let civil = civil.trim_end().trim_end_matches('[').trim_end();
    (!civil.is_empty()).then(|| (civil, zone.trim_end_matches(']')))
}

fn in_zone(civil: DateTime, zone: &TimeZone) -> Result<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    let name = zone.iana_name().unwrap_or("local time");
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous
            .unambiguous()
            .map_err(|source| Error::invalid(format!("{civil} is out of range")).source(source)),
        AmbiguousOffset::Gap { before, after } => Err(Error::invalid(format!(
            "{civil} does not exist in {name}: the clocks were put forward"
        ))
        .hint(format!(
            "Write the offset: `--at '{civil}{before}'` or `--at '{civil}{after}'`."
        ))),
        AmbiguousOffset::Fold { before, after } => Err(Error::invalid(format!(
            "{civil} occurs twice in {name}: the clocks were put back"
        ))
        .hint(format!(
            "Write the offset: `--at '{civil}{before}'` (first) or `--at '{civil}{after}'` (second)."
        ))),
    }
}

fn unreadable(text: &str) -> Error {
    Error::invalid(format!("\"{text}\" is not a time"))
        .hint("Write `--at 2026-09-20T14:03:00Z`, `--at '2026-09-20 14:03 Europe/Berlin'` or `--at '5 minutes ago'`.")
}

#[cfg(test)]
#[path = "times_tests.rs"]
mod tests;
