//! Counts what the reports of many cycles hold, as a part of a document that a command renews.
//!
//! Invariant: every figure is a count over the report's lines; nothing is typed by hand, and a failed cycle is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::document::shorten;

/// Zero failures in n trials bound the true rate at 3/n with 95 % confidence.
const RULE_OF_THREE: f64 = 3.0;

/// What some cycles came to.
#[derive(Clone, Debug, Default)]
struct Tally {
    cycles: u64,
    failed: u64,
    commits: u64,
    restores: u64,
    looked: u64,
    promised: u64,
    refused: u64,
}

impl Tally {
    fn add(&mut self, cycle: &Value) {
        self.cycles += 1;
        self.failed += u64::from(!cycle["failure"].is_null());
        self.commits += number(cycle, "commits");
        self.restores += number(cycle, "restores");
        self.looked += number(cycle, "compared");
        self.promised += number(cycle, "promised");
        self.refused += cycle["refusals"].as_array().map_or(0, |refusals| refusals.len() as u64);
    }

    /// The cells of a line.
    fn cells(&self) -> String {
        let Tally {
            cycles,
            failed,
            commits,
            restores,
            looked,
            promised,
            refused,
        } = self;
        let bound = match failed {
            0 => format!("< {:.1} %", (RULE_OF_THREE / *cycles as f64 * 100.0).min(100.0)),
            _ => "–".to_owned(),
        };
        format!("{cycles} | {commits} | {restores} | {looked} | {promised} | {refused} | {failed} | {bound} |")
    }
}

/// The table of a report.
///
/// # Panics
/// When the report can't be read.
pub fn of(report: &Path) -> String {
    let text = fs::read_to_string(report).unwrap_or_else(|error| panic!("read {}: {error}", report.display()));
    table(&cycles(&text))
}

fn cycles(report: &str) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    report.lines().map(line).collect()
}

fn table(cycles: &[Value]) -> String {
    let mut all = Tally::default();
    let mut kinds: BTreeMap<&str, Tally> = BTreeMap::new();
    for cycle in cycles {
        all.add(cycle);
        for kind in cycle["kinds"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            kinds.entry(kind).or_default().add(cycle);
        }
    }
    let mut table = String::from(
        "| fault | cycles | commits acknowledged | restores started and compared | commits looked for in them | \
         of them reported as durable | restores rightly refused | cycles failed | rate of failure, with 95 % confidence |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for (kind, tally) in &kinds {
        let _ = writeln!(table, "| {kind} | {}", tally.cells());
    }
    let _ = writeln!(table, "| **all** | {}\n", all.cells());
    table + &besides(cycles) + &failures(cycles)
}

/// What else was counted.
fn besides(cycles: &[Value]) -> String {
    let sum = |key: &str| cycles.iter().map(|cycle| number(cycle, key)).sum::<u64>();
    let with = |key: &str, value: &str| cycles.iter().filter(|cycle| cycle[key] == value).count();
    let by = |key: &str| {
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        for cycle in cycles {
            *found.entry(plain(&cycle["installation"][key])).or_default() += 1;
        }
        let shown = found.iter().map(|(value, count)| format!("{value}: {count}"));
        shown.collect::<Vec<_>>().join(", ")
    };
    let mut waits: Vec<u64> = cycles.iter().flat_map(waits).collect();
    waits.sort_unstable();
    let wait = |at: usize| waits.get(at).map_or(0.0, |ms| *ms as f64 / 1000.0);
    let seconds: f64 = cycles.iter().filter_map(|cycle| cycle["seconds"].as_f64()).sum();
    let each = |key: &str| {
        let values: BTreeSet<String> = cycles.iter().map(|cycle| plain(&cycle[key])).collect();
        values.into_iter().collect::<Vec<_>>().join(", ")
    };
    format!(
        "Cycles by major of PostgreSQL: {}; by layout: {}. Processes killed at random moments: {}. Hosts whose disk was \
         read once more (`wal salvage`): {}. Restores that went on from another place, as the hint said: {}. Objects seen \
         unchanged: {}. Without faults all was well again {} times, after {:.1} s in the middle and {:.1} s at most. \
         {:.1} hours; built from {}; seeds {}.\n",
        by("major"),
        by("layout"),
        sum("kills"),
        with("end", "salvaged"),
        sum("elsewhere"),
        sum("objects"),
        waits.len(),
        wait(waits.len() / 2),
        wait(waits.len().saturating_sub(1)),
        seconds / 3600.0,
        each("revision"),
        each("run_seed"),
    )
}

fn waits(cycle: &Value) -> impl Iterator<Item = u64> {
    let waits = cycle["healthy_after_ms"].as_array().into_iter().flatten();
    waits.filter_map(Value::as_u64)
}

fn failures(cycles: &[Value]) -> String {
    let mut text = String::new();
    for cycle in cycles {
        let Some(failure) = cycle["failure"].as_str() else {
            continue;
        };
        // The first line says where in the harness.
        let said = failure.lines().nth(1).unwrap_or(failure);
        let (seed, at) = (plain(&cycle["run_seed"]), number(cycle, "number"));
        let _ = writeln!(text, "\nFailed: cycle {at} of seed {seed}: {}", shorten(said));
    }
    text
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

/// A text without its quotes, a number as it is.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cycle(kinds: &[&str], failure: Option<&str>) -> Value {
        json!({
            "run_seed": 3, "number": 4, "kinds": kinds, "failure": failure, "commits": 100, "restores": 2,
            "compared": 150, "promised": 80, "refusals": ["damaged"], "kills": 5, "elsewhere": 1, "objects": 7, "end": "salvaged",
            "healthy_after_ms": [1500], "seconds": 36.0, "revision": "abc",
            "installation": {"major": 17, "layout": "bucket"},
        })
    }

    #[test]
    fn figures_are_counts_and_a_failure_is_listed() {
        let good = [cycle(&["crash"], None), cycle(&["crash", "failover"], None)];
        let counted = table(&good);
        assert!(
            counted.contains("| crash | 2 | 200 | 4 | 300 | 160 | 2 | 0 | < 100.0 % |"),
            "{counted}"
        );
        assert!(counted.contains("| failover | 1 | 100 |"), "{counted}");
        let hundred: Vec<Value> = (0..100).map(|_| cycle(&["crash"], None)).collect();
        assert!(table(&hundred).contains("| **all** | 100 | 10000 | 200 | 15000 | 8000 | 100 | 0 | < 3.0 % |"));
        assert!(!counted.contains("Failed"));

        let bad = [
            cycle(&["crash"], Some("panicked at x:\nI1: lost /dev/shm/pgkt-Ab12/host-2/x")),
            cycle(&["crash"], None),
        ];
        let counted = table(&bad);
        assert!(
            counted.contains("| **all** | 2 | 200 | 4 | 300 | 160 | 2 | 1 | – |"),
            "{counted}"
        );
        assert!(
            counted.ends_with("Failed: cycle 4 of seed 3: I1: lost host-2/x\n"),
            "{counted}"
        );
    }
}
