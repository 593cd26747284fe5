//! `doctor`: is this set up right? Every prerequisite and common trouble as a named check, with evidence and the fix.
//!
//! Invariants: each check stands alone, so that one that fails hides no other: what could not be asked is `unknown`,
//! not left out. Nothing is changed, and nothing is written to a place unless [`Context::probe`] allows it. A fix is a
//! command or a setting line, ready to be run. `status` says what can be restored, `doctor` why that may go wrong.
//! What each check means is in docs/guide/doctor.md; a test compares its table with [`IDS`].

mod access;
mod archiving;
mod ask;
mod command;
mod findings;
mod history;
mod keys;
mod leftovers;
mod local;
mod mounts;
mod places;
mod server;
mod space;
mod standbys;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use pgkeep_base::{ClusterName, Error, Result};

use crate::engine::Engine;
use crate::setup::ClusterConfig;
use ask::Asked;
use findings::Findings;

/// What the caller knows and the engine does not: where things are that the engine was assembled from.
#[derive(Clone, Debug)]
pub struct Context {
    /// The configuration file; `None` where the environment says everything.
    pub config_file: Option<PrivateFile>,
    /// The repository file.
    pub repository_file: PrivateFile,
    /// This host's signing key.
    pub signing_key_file: PrivateFile,
    /// The identity files that the configuration or the command names, read or not.
    pub identity_files: Vec<PrivateFile>,
    /// The complete `archive_command` that the servers should have: absolute program, configuration, `%p`.
    pub archive_command: String,
    /// How much of the latest work may be lost, for clusters that say so.
    pub rpo: BTreeMap<ClusterName, Duration>,
    /// Write one tiny object below `control/` of each place, twice, look at it and delete it.
    pub probe: bool,
}

/// A file that few should read, as it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateFile {
    /// Where.
    pub path: PathBuf,
    /// Permission bits; `None` where there is no such file or it can't be looked at.
    pub mode: Option<u32>,
}

impl PrivateFile {
    /// Looks at a file.
    pub fn look(path: &Path) -> PrivateFile {
        let mode = std::fs::metadata(path).ok().map(|metadata| metadata.mode() & 0o777);
        PrivateFile {
            path: path.to_owned(),
            mode,
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Pass,
    /// It doesn't apply here.
    Skip,
    /// Works, with advice; never changes an exit code.
    Warn,
    /// Nobody can tell from here.
    Unknown,
    /// Broken, or missing.
    Fail,
}

/// One check.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Check {
    /// Stable name, one of [`IDS`]; repeats where it is about several clusters or places.
    pub id: &'static str,
    /// The cluster that it is about.
    pub cluster: Option<ClusterName>,
    /// The place that it is about.
    pub repository: Option<String>,
    /// How it ended.
    pub status: Status,
    /// What was seen.
    pub evidence: String,
    /// The command or setting that mends it; empty where there is nothing to do.
    pub fix: String,
}

/// All checks, in the order in which an operator would go through them.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Report {
    /// No check failed, and none is unknown: `--check` exits 9 otherwise.
    pub ok: bool,
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    fn of(checks: Vec<Check>) -> Report {
        let ok = !checks
            .iter()
            .any(|check| matches!(check.status, Status::Fail | Status::Unknown));
        Report { ok, checks }
    }

    /// The report where no engine could be assembled: configuration, repository file or keys can't be read.
    pub fn of_failed_setup(error: &Error) -> Report {
        let evidence = findings::words(error);
        let fix = match evidence.contains("Permission denied") {
            true => "Run it as the user that runs PostgreSQL: `sudo -u postgres pgkeep doctor`.".to_owned(),
            false => findings::hint_or(error, "Correct the configuration; `pgkeep config check` tells more."),
        };
        Report::of(vec![Check {
            id: "configuration",
            cluster: None,
            repository: None,
            status: Status::Fail,
            evidence,
            fix,
        }])
    }
}

/// Every check, in order: those of the host, of each place, of each cluster.
pub const IDS: &[&str] = &[
    "configuration",
    "config-file",
    "state-dir",
    "state-space",
    "encryption-mode",
    "recipients",
    "repository-file",
    "signing-key",
    "signer-trusted",
    "identity-file",
    "identity-opens",
    "identity-away",
    "repository-reachable",
    "repository-ours",
    "repository-writable",
    "create-only",
    "delete-denied",
    "repository-clock",
    "repository-apart",
    "repository-space",
    "repository-lagging",
    "server-reachable",
    "server-version",
    "server-role",
    "role-grants",
    "data-directory",
    "runs-as",
    "system-identifier",
    "cluster-lineage",
    "cluster-duplicate",
    "wal-level",
    "full-page-writes",
    "data-checksums",
    "wal-segment-size",
    "pg-wal-space",
    "leftover-recovery",
    "unadopted-restore",
    "archive-mode",
    "archive-command",
    "archive-command-program",
    "archive-command-files",
    "archive-timeout",
    "archiver",
    "archive-backlog",
    "last-pushed",
    "replication-slots",
    "replication-lag",
    "postgres-programs",
    "newest-backup",
];

/// Checks this host, every place, and one cluster or all of them.
///
/// Costs some ten statements per cluster, one read and the listing of the heads per place, all at once; a place or a
/// server that is silent for 20 s is taken for unreachable.
///
/// # Errors
/// `NotFound` for a cluster that isn't configured; everything else is a finding.
pub async fn doctor(engine: &Engine, cluster: Option<&ClusterName>, context: &Context) -> Result<Report> {
    let clusters: Vec<&ClusterConfig> = match cluster {
        Some(_) => vec![engine.setup().cluster(cluster)?],
        None => engine.setup().clusters.iter().collect(),
    };
    let servers = join_all(clusters.iter().map(|config| ask::ask(engine, config)));
    let heads = join_all(clusters.iter().map(|config| history::ask(engine, &config.name)));
    let places = places::ask(engine, context.probe);
    let (asked, heads, answers, told) = futures::join!(servers, heads, places, keys::ask(engine));
    // From here on nothing is asked of anybody else.
    let server = asked.iter().find_map(Asked::here).map(|directory| &directory.owner);
    let recorder = local::Recorder::open(&engine.setup().state_dir, server);
    let mut findings = Findings::default();
    local::check_host(engine, context, &recorder, &mut findings);
    keys::check(engine, context, told, &asked, &mut findings);
    places::check(engine, &answers, &recorder, &asked, &heads, &mut findings);
    for one in &asked {
        findings.about_cluster(&one.config.name);
        server::check(engine, one, &mut findings);
        local::check_lineage(&recorder, &asked, one, &mut findings);
        server::check_settings(one, &mut findings);
        leftovers::check(one, &mut findings);
        archiving::check(engine, context, &recorder, one, &mut findings);
        standbys::check(engine, one, &mut findings);
        local::check_programs(engine, one, &mut findings);
        history::check(engine, &recorder, one, &heads, &mut findings);
    }
    Ok(Report::of(findings.checks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_ok_but_failure_and_ignorance_are_not() {
        let report = |status| {
            let check = Check {
                id: "x",
                cluster: None,
                repository: None,
                status,
                evidence: String::new(),
                fix: String::new(),
            };
            Report::of(vec![check]).ok
        };
        assert!(report(Status::Pass) && report(Status::Warn) && report(Status::Skip));
        assert!(!report(Status::Fail) && !report(Status::Unknown));
    }

    #[test]
    fn a_setup_that_fails_is_one_finding_with_its_hint() {
        let error = Error::invalid("no recipient is configured").hint("Make one with `pgkeep keys new FILE`.");
        let report = Report::of_failed_setup(&error);
        assert!(!report.ok);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["checks"][0]["status"], "fail");
        assert_eq!(json["checks"][0]["fix"], "Make one with `pgkeep keys new FILE`.");
    }

    #[test]
    fn every_check_is_in_the_guide_and_the_guide_names_no_other() {
        let guide = include_str!("../../../docs/guide/doctor.md");
        let (_, table) = guide.split_once("## Every check").unwrap();
        let named: Vec<&str> = table
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(id, _)| id))
            .collect();
        assert_eq!(named, IDS);
    }
}
