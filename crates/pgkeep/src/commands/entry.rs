//! A backup as `list`, `show` and `backup` show it: the fields of the command contract.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgkeep_base::{BackupId, ByteSize, ClusterName, Lsn, SystemId, TimelineId};
use pgkeep_engine::catalogue::{BadHead, Catalogue};
use pgkeep_repo::head::{Head, HeadKind};
use serde::Serialize;

use crate::render::Page;
use crate::render::table::Table;
use crate::times;

/// What is listed of a backup; `null` where it doesn't apply or isn't known.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Unique and sortable.
    pub id: BackupId,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its cluster's.
    pub system_identifier: SystemId,
    /// `physical`, `dump`; `null` where the head can't be read.
    pub kind: Option<&'static str>,
    /// `complete`, or `bad` where the head can't be used.
    pub state: &'static str,
    started_at: Option<String>,
    finished_at: Option<String>,
    timeline: Option<TimelineId>,
    start_lsn: Option<Lsn>,
    stop_lsn: Option<Lsn>,
    pg_version: Option<String>,
    source_bytes: Option<u64>,
    new_bytes: Option<u64>,
    stored_bytes: Option<u64>,
    labels: BTreeMap<String, String>,
    /// Given by the operator.
    pub tier: Option<String>,
    database: Option<String>,
    repositories: Vec<String>,
    recipients: Vec<String>,
    verified_at: Option<String>,
    proven_at: Option<String>,
    pinned: bool,
    /// What is wrong with a bad one.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip)]
    finished: Option<Timestamp>,
}

impl Entry {
    /// Of a head, and the places that have it.
    pub fn of_head(head: &Head, places: &[String]) -> Entry {
        let physical = head.physical().ok();
        let (kind, database) = match &head.kind {
            HeadKind::Physical(_) => ("physical", None),
            HeadKind::Dump(dump) => ("dump", dump.database.clone()),
        };
        Entry {
            id: head.id.clone(),
            cluster: head.cluster.clone(),
            system_identifier: head.system_identifier,
            kind: Some(kind),
            state: "complete",
            started_at: Some(times::utc(head.started_at)),
            finished_at: Some(times::utc(head.finished_at)),
            timeline: physical.map(|physical| physical.timeline),
            start_lsn: physical.map(|physical| physical.start_lsn),
            stop_lsn: physical.map(|physical| physical.stop_lsn),
            pg_version: Some(head.pg_version.clone()),
            source_bytes: Some(head.source_bytes),
            new_bytes: Some(head.new_bytes),
            stored_bytes: Some(head.stored_bytes),
            labels: head.labels.clone(),
            tier: head.tier.clone(),
            database,
            repositories: places.to_vec(),
            recipients: head.recipients.clone(),
            verified_at: None,
            proven_at: None,
            pinned: false,
            problem: None,
            finished: Some(head.finished_at),
        }
    }

    /// Of a head that can't be used.
    pub fn of_bad(bad: &BadHead) -> Entry {
        let problem = match bad.error.detail_text() {
            Some(detail) => format!("{}: {detail}", bad.error),
            None => bad.error.to_string(),
        };
        Entry {
            id: bad.id.clone(),
            cluster: bad.lineage.cluster.clone(),
            system_identifier: bad.lineage.system_identifier,
            kind: None,
            state: "bad",
            started_at: None,
            finished_at: None,
            timeline: None,
            start_lsn: None,
            stop_lsn: None,
            pg_version: None,
            source_bytes: None,
            new_bytes: None,
            stored_bytes: None,
            labels: BTreeMap::new(),
            tier: None,
            database: None,
            repositories: Vec::new(),
            recipients: Vec::new(),
            verified_at: None,
            proven_at: None,
            pinned: false,
            problem: Some(problem),
            finished: None,
        }
    }

    /// All of a catalogue, oldest first.
    pub fn of_catalogue(catalogue: &Catalogue) -> Vec<Entry> {
        let good = catalogue
            .backups
            .iter()
            .map(|backup| Entry::of_head(backup.head(), &backup.places));
        let mut entries: Vec<Entry> = good.chain(catalogue.bad.iter().map(Entry::of_bad)).collect();
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        entries
    }
}

/// A table of backups.
pub fn table(entries: &[Entry], page: &mut Page, instead: &str) {
    let mut table = Table::new([
        "id", "cluster", "kind", "finished", ">size", ">added", "server", "tier", "labels", "in",
    ]);
    for entry in entries {
        let size = |bytes: Option<u64>| bytes.map_or_else(String::new, |bytes| ByteSize(bytes).to_string());
        let labels: Vec<String> = entry
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        table.row([
            entry.id.to_string(),
            entry.cluster.to_string(),
            entry.kind.unwrap_or(entry.state).to_owned(),
            page.time_or(entry.finished, ""),
            size(entry.source_bytes),
            size(entry.new_bytes),
            entry.pg_version.clone().unwrap_or_default(),
            entry.tier.clone().unwrap_or_default(),
            labels.join(" "),
            entry.repositories.join(", "),
        ]);
    }
    page.table(&table, instead);
    for entry in entries {
        if let Some(problem) = &entry.problem {
            page.line(format!("{} can't be used: {problem}", entry.id));
        }
    }
}
