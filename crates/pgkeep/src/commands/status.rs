//! `pgkeep status`: am I safe, to which moments can I return, is it proven.
//!
//! Invariant: unknown is not green: `--check` ends with 9 for it, `--nagios` with 3.

use jiff::Timestamp;
use pgkeep_base::{BackupId, ClusterName, Error, Lsn, Result};
use pgkeep_engine::status::{ClusterStatus, Health, Reason, status};
use serde::Serialize;

use crate::assemble::{self, Wishes};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};
use crate::times;

/// Show whether clusters are safe, and to which moments they can return
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Exit 9 where a cluster has failed or is unknown
    #[arg(long)]
    check: bool,
    /// Print one line for Nagios, and exit 0, 1, 2 or 3
    #[arg(long, conflicts_with = "check")]
    nagios: bool,
}

#[derive(Serialize)]
struct Report {
    clusters: Vec<Cluster>,
    #[serde(skip)]
    nagios: bool,
}

#[derive(Serialize)]
struct Cluster {
    cluster: ClusterName,
    health: Health,
    reasons: Vec<Reason>,
    last_backup: Option<LastBackup>,
    last_wal: Option<LastWal>,
    rpo_seconds: Option<i64>,
    window: Option<Window>,
    last_drill: Option<()>,
    last_verify: Option<()>,
    #[serde(skip)]
    moments: Moments,
}

#[derive(Serialize)]
struct LastBackup {
    id: BackupId,
    finished_at: String,
}

#[derive(Serialize)]
struct LastWal {
    segment: String,
    archived_at: Option<String>,
    lsn: Option<Lsn>,
}

#[derive(Serialize)]
struct Window {
    from: Option<String>,
    to: Option<String>,
}

#[derive(Default)]
struct Moments {
    backup: Option<Timestamp>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

impl Cluster {
    fn of(status: ClusterStatus) -> Cluster {
        let (from, to) = status.window.unwrap_or((None, None));
        Cluster {
            moments: Moments {
                backup: status.last_backup.as_ref().map(|backup| backup.finished_at),
                from,
                to,
            },
            cluster: status.cluster,
            health: status.health,
            reasons: status.reasons,
            last_backup: status.last_backup.map(|backup| LastBackup {
                id: backup.id,
                finished_at: times::utc(backup.finished_at),
            }),
            last_wal: status.last_wal.map(|wal| LastWal {
                segment: wal.segment.name(),
                archived_at: wal.archived_at.map(times::utc),
                lsn: wal.lsn,
            }),
            rpo_seconds: status.rpo_seconds,
            window: status.window.map(|_| Window {
                from: from.map(times::utc),
                to: to.map(times::utc),
            }),
            last_drill: None,
            last_verify: None,
        }
    }

    fn text(&self, page: &mut Page) {
        page.line(format!("cluster \"{}\": {}", self.cluster, word(self.health)));
        if let Some(backup) = &self.last_backup {
            page.line(format!(
                "  last backup  {}, finished {}",
                backup.id,
                page.time_or(self.moments.backup, "")
            ));
        }
        if let Some(wal) = &self.last_wal {
            let lsn = wal.lsn.map_or_else(String::new, |lsn| format!(", up to LSN {lsn}"));
            page.line(format!("  last WAL     {}{lsn}", wal.segment));
        }
        if self.window.is_some() {
            let [from, to] = [self.moments.from, self.moments.to].map(|at| page.time_or(at, "an unknown time"));
            page.line(format!("  can return   {from} to {to}"));
        }
        if let Some(seconds) = self.rpo_seconds.and_then(|seconds| u64::try_from(seconds).ok()) {
            page.line(format!("  behind now   {}", times::elapsed(seconds)));
        }
        for reason in &self.reasons {
            page.line(format!("  {}: {}", word(reason.severity), reason.message));
            page.line(format!("    {}", reason.hint));
        }
    }

    fn summary(&self) -> String {
        let worst = self.reasons.iter().filter(|reason| reason.severity == self.health);
        let codes: Vec<&str> = worst.map(|reason| reason.code).collect();
        match codes.as_slice() {
            [] => format!("{}: {}", self.cluster, word(self.health)),
            codes => format!("{}: {} ({})", self.cluster, word(self.health), codes.join(", ")),
        }
    }
}

impl Report {
    fn worst(&self) -> Health {
        // Nothing configured is nothing known.
        self.clusters
            .iter()
            .map(|cluster| cluster.health)
            .max()
            .unwrap_or(Health::Unknown)
    }

    /// `PGKEEP WARNING - shop: warn (never-proven) | shop_rpo=12s`.
    fn nagios_line(&self) -> String {
        let summaries: Vec<String> = self.clusters.iter().map(Cluster::summary).collect();
        let rpo = |cluster: &Cluster| {
            cluster
                .rpo_seconds
                .map(|seconds| format!("{}_rpo={seconds}s", cluster.cluster))
        };
        let data: Vec<String> = self.clusters.iter().filter_map(rpo).collect();
        let data = if data.is_empty() {
            String::new()
        } else {
            format!(" | {}", data.join(" "))
        };
        format!("PGKEEP {} - {}{data}", nagios_word(self.worst()), summaries.join("; "))
    }
}

impl View for Report {
    fn text(&self, page: &mut Page) {
        if self.nagios {
            return page.line(self.nagios_line());
        }
        if self.clusters.is_empty() {
            page.line("no cluster is configured");
        }
        self.clusters.iter().for_each(|cluster| cluster.text(page));
    }
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Ok => "ok",
        Health::Warn => "warn",
        Health::Unknown => "unknown",
        Health::Fail => "fail",
    }
}

fn nagios_word(health: Health) -> &'static str {
    match health {
        Health::Ok => "OK",
        Health::Warn => "WARNING",
        Health::Unknown => "UNKNOWN",
        Health::Fail => "CRITICAL",
    }
}

fn nagios_code(health: Health) -> u8 {
    match health {
        Health::Ok => 0,
        Health::Warn => 1,
        Health::Fail => 2,
        Health::Unknown => 3,
    }
}

/// Shows.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    match report(arguments, context) {
        Ok(report) => {
            context.output.print(&report)?;
            Ok(match (arguments.nagios, report.worst()) {
                (true, worst) => Outcome::Code(nagios_code(worst)),
                (false, Health::Fail | Health::Unknown) if arguments.check => Outcome::Unhealthy,
                (false, _) => Outcome::Done,
            })
        }
        // Whatever keeps us from knowing is "unknown" to Nagios, with its reason in the one line that is shown.
        Err(error) if arguments.nagios => {
            context
                .output
                .print_bare(&format!("PGKEEP UNKNOWN - {}\n", one_line(&error)))?;
            Ok(Outcome::Code(nagios_code(Health::Unknown)))
        }
        Err(error) => Err(error),
    }
}

fn report(arguments: &Arguments, context: &Context) -> Result<Report> {
    let engine = assemble::engine(context, &Wishes::default())?.engine;
    let clusters = runtime::run(Threads::Two, status(&engine))?;
    Ok(Report {
        clusters: clusters.into_iter().map(Cluster::of).collect(),
        nagios: arguments.nagios && !context.output.json,
    })
}

fn one_line(error: &Error) -> String {
    let text = error
        .detail_text()
        .map_or_else(|| error.to_string(), |detail| format!("{error}: {detail}"));
    // A bar would begin performance data.
    text.replace(['\n', '|'], " ")
}
