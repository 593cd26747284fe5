//! Finds in a server's log what went wrong.
//!
//! Invariant: what is read is bounded: the last 256 KiB, the last 12 complaints. Works on any `log_line_prefix`, as it
//! looks for the severity; understands English messages (the servers that pgkeep starts speak it).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// How much of a log's end is read.
const TAIL_BYTES_MAX: u64 = 256 << 10;
/// How many complaints are returned.
const COMPLAINTS_MAX: usize = 12;

const SEVERITIES: [&str; 3] = ["FATAL:  ", "PANIC:  ", "ERROR:  "];
const COMPANIONS: [&str; 3] = ["DETAIL:  ", "HINT:  ", "CONTEXT:  "];
/// What a server tells everyone who knocks too early or too late: no complaint of its own.
const GREETINGS: [&str; 6] = [
    "the database system is starting up",
    "the database system is not yet accepting connections",
    "the database system is not accepting connections",
    "the database system is shutting down",
    "the database system is in recovery mode",
    "terminating connection due to administrator command",
];

/// The last errors of a log, oldest first, each with its DETAIL, HINT and CONTEXT; empty if it can't be read.
pub fn last_complaints(log: &Path) -> Vec<String> {
    complaints_since(log, 0)
}

/// The last errors after byte `offset` of a log.
pub(super) fn complaints_since(log: &Path, offset: u64) -> Vec<String> {
    complaints(&tail(log, offset))
}

/// The end of a log after byte `offset`, at most 256 KiB of it.
pub(super) fn tail(log: &Path, offset: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        // A file that shrank was begun anew.
        let from = if offset > length { 0 } else { offset };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES_MAX))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

fn complaints(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let at = |words: &[&str]| words.iter().filter_map(|word| line.find(word)).min();
        if let Some(continued) = line.strip_prefix('\t') {
            if let (true, Some(last)) = (open, found.last_mut()) {
                *last += &format!(" {}", continued.trim());
            }
        } else if let Some(start) = at(&SEVERITIES) {
            open = !GREETINGS.iter().any(|greeting| line[start..].contains(greeting));
            if open {
                found.push(tidy(&line[start..]));
            }
        } else if let (true, Some(start), Some(last)) = (open, at(&COMPANIONS), found.last_mut()) {
            *last += &format!("; {}", tidy(&line[start..]));
        } else {
            open = false;
        }
    }
    found.drain(..found.len().saturating_sub(COMPLAINTS_MAX));
    found
}

/// One space after the severity, as everywhere else.
fn tidy(text: &str) -> String {
    text.replacen(":  ", ": ", 1).trim_end().to_owned()
}

/// Where a server with `logging_collector = on` writes now (`current_logfiles` in its data directory).
pub(super) fn collected(data_dir: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(data_dir.join("current_logfiles")).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("stderr "))?;
    Some(data_dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-20 06:00:00.000 UTC [7] LOG:  starting PostgreSQL\n\
        2026-11-20 06:00:00.100 UTC [8] FATAL:  the database system is starting up\n\
        2026-11-20 06:00:00.200 UTC [9] FATAL:  recovery ended before configured recovery target was reached\n\
        2026-11-20 06:00:00.200 UTC [9] DETAIL:  first\n\tsecond\n\
        2026-11-20 06:00:00.300 UTC [7] LOG:  startup process (PID 9) exited with exit code 1\n\
        2026-11-20 06:00:00.300 UTC [7] DETAIL:  of the LOG line\n\
        \tof the LOG line\n\
        pg-17 ERROR:  relation \"x\" does not exist\n";

    #[test]
    fn complaints_come_with_their_details_and_without_greetings() {
        assert_eq!(
            complaints(LOG),
            [
                "FATAL: recovery ended before configured recovery target was reached; DETAIL: first second",
                "ERROR: relation \"x\" does not exist",
            ]
        );
    }

    #[test]
    fn only_the_end_of_a_log_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert!(last_complaints(&log).is_empty(), "an absent log has none");
        let many: String = (0..20_000).map(|n| format!("ERROR:  number {n}\n")).collect();
        std::fs::write(&log, &many).unwrap();
        let found = last_complaints(&log);
        assert_eq!(found.len(), COMPLAINTS_MAX);
        assert_eq!(found.last().unwrap(), "ERROR: number 19999");
        assert!(complaints_since(&log, many.len() as u64).is_empty());
        assert_eq!(
            complaints_since(&log, 1 << 40).len(),
            COMPLAINTS_MAX,
            "a log begun anew is read from its start"
        );
    }
}
