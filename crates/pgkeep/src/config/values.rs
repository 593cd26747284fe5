//! Reads the values of configuration keys: lengths of time, flags, lists.
//!
//! Invariant: what is read back from what was shown is the same value. Moments are in `times`, sizes in
//! `pgkeep_base::ByteSize`.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use pgkeep_base::{Error, Result};

/// Reads `5 minutes`, `90 s`, `1 hour 30 minutes`, `2 days`, `1 week`. Months and years have no fixed length.
pub fn duration(text: &str) -> Result<Duration> {
    let bad = || {
        Error::invalid(format!("\"{text}\" is not a length of time"))
            .hint("Write for example `90 s`, `5 minutes`, `1 hour 30 minutes` or `2 days`.")
    };
    let span: Span = text.trim().parse().map_err(|_| bad())?;
    let length = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| bad())?;
    Duration::try_from(length).map_err(|_| bad())
}

/// The opposite of [`duration`], in the largest units that lose nothing.
pub fn show_duration(length: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let seconds = length.as_secs();
    if seconds == 0 {
        return format!("{} ms", length.subsec_millis());
    }
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, name) in UNITS {
        let count = rest / size;
        rest %= size;
        match count {
            0 => {}
            1 => parts.push(format!("1 {name}")),
            _ => parts.push(format!("{count} {name}s")),
        }
    }
    parts.join(" ")
}

/// Reads a flag from the environment.
pub fn flag(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Reads a list from the environment: separated by commas or white space, or as TOML writes it.
pub fn list(text: &str) -> Vec<String> {
    text.split([',', ' ', '\t', '\n'])
        .map(|item| item.trim_matches(['[', ']', '"', '\'', ' ']))
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_as_people_write_them() {
        for (text, seconds) in [
            ("5 minutes", 300),
            ("90s", 90),
            ("1 hour 30 minutes", 5400),
            ("1h30m", 5400),
            ("2 days", 172_800),
            ("1 week", 604_800),
        ] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "5", "-5 minutes", "5 minutes ago", "1 month", "soon"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lengths_are_shown_as_they_read() {
        for seconds in [1, 59, 60, 5400, 90_061, 604_800] {
            let length = Duration::from_secs(seconds);
            assert_eq!(duration(&show_duration(length)).unwrap(), length);
        }
        assert_eq!(show_duration(Duration::from_secs(5400)), "1 hour 30 minutes");
    }

    #[test]
    fn lists_are_read_in_both_spellings() {
        assert_eq!(list("age1a, age1b"), ["age1a", "age1b"]);
        assert_eq!(list("[\"age1a\", 'age1b']"), ["age1a", "age1b"]);
        assert!(list("[]").is_empty());
    }
}
