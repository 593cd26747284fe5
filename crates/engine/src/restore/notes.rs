//! What an operator should read before a restore is run.

use super::left_behind::LeftBehind;
use super::resolve::Resolved;
use super::sources::Sources;
use crate::catalogue::Catalogue;
use pgkeep_repo::lineage::Lineage;

/// Everything that is odd about a plan, in sentences.
pub(super) fn notes(
    catalogue: &Catalogue,
    lineage: &Lineage,
    sources: &Sources,
    resolved: &Resolved<'_>,
    left_behind: &[LeftBehind],
) -> Vec<String> {
    let archive = &sources.archive;
    let mut notes: Vec<String> = left_behind.iter().map(ToString::to_string).collect();
    notes.extend(sources.saved.notes());
    notes.extend(resolved.walked.notes.iter().cloned());
    notes.extend(other_lineages(catalogue, lineage));
    for bad in catalogue.bad.iter().filter(|bad| bad.lineage == *lineage) {
        notes.push(format!("backup {} is not considered: {}", bad.id, bad.error));
    }
    for (timeline, error) in &archive.bad_histories {
        notes.push(format!(
            "the history file of timeline {timeline} can't be used: {error}"
        ));
    }
    let unexplained = archive.tree.unexplained();
    for timeline in unexplained.filter(|timeline| !archive.tree.is_begun_twice(*timeline)) {
        notes.push(format!(
            "timeline {timeline} is in the archive, but nothing says where it began: PostgreSQL stops when it asks for its \
             history to find a free number at promotion"
        ));
    }
    let untrusted = !resolved.backup.verified.trusted;
    if untrusted {
        notes.push(format!(
            "the backup's signer {} is accepted because you said so",
            resolved.backup.verified.signer.as_str()
        ));
    }
    notes
}

fn other_lineages(catalogue: &Catalogue, lineage: &Lineage) -> Option<String> {
    let mut others: Vec<String> = catalogue
        .backups
        .iter()
        .map(|backup| backup.head().lineage())
        .filter(|other| other != lineage)
        .map(|other| other.system_identifier.to_string())
        .collect();
    others.dedup();
    (!others.is_empty()).then(|| {
        format!(
            "backups of another cluster lie under the same name and are not considered: system identifier {}",
            others.join(", ")
        )
    })
}
