//! What a cycle leaves for people and for counting: one line, and one JSON document in the report file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::cycle::Stage;
use crate::draw::{Cycle, Draw, Installation};

/// One cycle, as it is reported.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    run_seed: u64,
    brief: bool,
    #[serde(flatten)]
    cycle: &'a Cycle,
    installation: &'a Installation,
    commits: u64,
    restores: u64,
    compared: u64,
    promised: u64,
    refusals: &'a [String],
    /// Restores that went on without a place that was gone.
    elsewhere: u64,
    kills: u64,
    objects: usize,
    harm: &'a Option<String>,
    healthy_after_ms: Vec<u128>,
    seconds: f64,
    /// How commands ended, by name and code.
    codes: &'a BTreeMap<String, u64>,
    /// Where the time went, in milliseconds.
    steps: Vec<(&'a str, u128)>,
    failure: Option<&'a str>,
}

impl<'a> Report<'a> {
    /// Of a cycle that took so long, and failed with this text or not.
    pub fn new(
        draw: &Draw,
        cycle: &'a Cycle,
        installation: &'a Installation,
        stage: &'a Stage,
        took: Duration,
        failure: Option<&'a str>,
    ) -> Report<'a> {
        let found = &stage.found;
        Report {
            run_seed: draw.seed,
            brief: draw.brief,
            cycle,
            installation,
            commits: found.commits,
            restores: found.audited.restores,
            compared: found.audited.compared,
            promised: found.audited.promised,
            refusals: &found.audited.refusals,
            elsewhere: found.audited.elsewhere,
            kills: found.kills,
            objects: found.objects,
            harm: &found.harm,
            healthy_after_ms: found.healthy_after.iter().map(Duration::as_millis).collect(),
            seconds: took.as_secs_f64(),
            codes: stage.codes(),
            steps: found
                .steps
                .iter()
                .map(|(step, took)| (step.as_str(), took.as_millis()))
                .collect(),
            failure,
        }
    }

    /// Appends the document to a file, with what the program under test was built from.
    pub fn append(&self, path: &Path, revision: &str) {
        let mut document = serde_json::to_value(self).expect("a report is plain data");
        document["revision"] = revision.into();
        let line = document.to_string() + "\n";
        let written = OpenOptions::new().create(true).append(true).open(path);
        let written = written.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("append to {}: {error}", path.display()));
    }
}

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds: Vec<String> = self.cycle.kinds.iter().map(word).collect();
        let age = self.cycle.number - self.cycle.since;
        write!(
            f,
            "cycle {:>4}  PostgreSQL {}, {}{}  [{}]  ",
            self.cycle.number,
            self.installation.major,
            word(&self.installation.layout),
            if age == 0 {
                String::new()
            } else {
                format!(", host {}", age + 1)
            },
            kinds.join(" ")
        )?;
        write!(f, "{} commits, {} restores", self.commits, self.restores)?;
        if !self.refusals.is_empty() {
            write!(f, ", {} refused", self.refusals.len())?;
        }
        let healthy = self.healthy_after_ms.iter().max();
        healthy.map_or(Ok(()), |ms| write!(f, ", healthy after {:.1} s", *ms as f64 / 1000.0))?;
        let verdict = if self.failure.is_some() { "FAILED" } else { "ok" };
        write!(f, ", {:.1} s: {verdict}", self.seconds)
    }
}

/// The name that a value has in JSON.
fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).expect("a name is plain data");
    value.as_str().unwrap_or_default().to_owned()
}
