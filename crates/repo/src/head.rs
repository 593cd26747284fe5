//! The head of a backup: signed, without a key readable, and without a name of a database, relation or file.
//!
//! Invariant: a head leaves this module, in either direction, only after [`Head::check`] passed and its members agree
//! with the name it is under. The backup exists once its head does, so the head is the last object written.
//! Format: docs/format.md, section 6; what it points to is in `manifest` and `packlist`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use jiff::Timestamp;
use pgkeep_base::limits::HEAD_BYTES_MAX;
use pgkeep_base::{BackupId, ClusterName, Error, Lsn, Result, ResultExt, SegmentSize, SystemId, TimelineId};
use pgkeep_store::ObjectName;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::lineage::Lineage;
use crate::manifest::Mode;
use crate::open::Opener;
use crate::seal::{SealedObject, Sealer};
use crate::sign::Fingerprint;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The backup.
    pub id: BackupId,
    /// The configured name of its cluster.
    pub cluster: ClusterName,
    /// The cluster's system identifier.
    pub system_identifier: SystemId,
    /// By the writer's clock.
    pub started_at: Timestamp,
    /// By the writer's clock.
    pub finished_at: Timestamp,
    /// The server's version as it shows it: `18.1`.
    pub pg_version: String,
    /// The same as a number: 180001.
    pub pg_version_num: u32,
    /// Given by the operator.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Given by the operator.
    #[serde(default)]
    pub tier: Option<String>,
    /// Length of what was backed up.
    pub source_bytes: u64,
    /// Bytes of the objects that this backup added.
    pub new_bytes: u64,
    /// Live bytes of all its packs.
    pub stored_bytes: u64,
    /// To whom it is sealed, sorted; empty with mode `none`.
    pub recipients: Vec<String>,
    /// Count of heads by this writer in this lineage; `None` where the writer lost its local state.
    pub sequence: Option<u64>,
    /// Hash of the writer's previous head in this lineage.
    pub previous_head: Option<Digest>,
    /// System identifiers that the cluster had before this one, as far as the writer knows, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follows: Vec<SystemId>,
    /// Names of the repositories that it was written to.
    pub places: Vec<String>,
    /// Name and version of the writer.
    pub program: String,
    /// What kind of backup it is, with the members of that kind.
    #[serde(flatten)]
    pub kind: HeadKind,
}

/// The kinds of backups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum HeadKind {
    /// A copy of the data directory, which needs WAL.
    Physical(Box<PhysicalHead>),
    /// The output of `pg_dump`.
    Dump(Box<DumpHead>),
}

/// What is said of a physical backup only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhysicalHead {
    /// The catalog version in `pg_control`.
    pub catalog_version: u32,
    /// The timeline that it was taken on.
    pub timeline: TimelineId,
    /// The redo point in `backup_label`.
    pub start_lsn: Lsn,
    /// End of the backup-end record.
    pub stop_lsn: Lsn,
    /// Full text of the timeline's history file; `None` on timeline 1.
    pub history: Option<String>,
    /// The cluster's WAL segment size.
    pub segment_bytes: SegmentSize,
    /// The cluster's page size.
    pub block_bytes: u32,
    /// Whether pages have checksums.
    pub checksums: bool,
    /// Which server it was taken from.
    pub source_role: SourceRole,
    /// OIDs, ascending.
    pub tablespaces: Vec<u32>,
    /// Owner of the data directory, and of all files whose entry doesn't say otherwise.
    pub owner: String,
    /// Group of the same.
    pub group: String,
    /// Permission bits of the data directory.
    pub directory_mode: Mode,
    /// How many files.
    pub files: u64,
    /// How many pages failed PostgreSQL's checksum.
    pub bad_pages: u64,
    /// The backup whose extents were reused.
    pub base: Option<BackupId>,
    /// The manifest object.
    pub manifest: ObjectHash,
    /// The packs object.
    pub packs: ObjectHash,
}

/// What is said of a dump only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DumpHead {
    /// The database; `None` for the globals of a cluster.
    #[serde(default)]
    pub database: Option<String>,
    /// The dump itself.
    pub object: DumpObject,
}

/// Names an object by name and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpObject {
    /// Logical name.
    pub name: ObjectName,
    /// Length of the whole object.
    pub bytes: u64,
    /// Hash of the whole object.
    pub blake3: Digest,
}

/// Names the content of an object whose name follows from the backup's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectHash {
    /// Length of the whole object.
    pub bytes: u64,
    /// Hash of the whole object.
    pub blake3: Digest,
}

impl ObjectHash {
    /// Of an object that is ready to be created.
    pub fn of(object: &SealedObject) -> ObjectHash {
        ObjectHash {
            bytes: object.bytes,
            blake3: object.blake3.parse().expect("a sealed object's hash is one"),
        }
    }

    /// # Errors
    /// `Corrupt` where `bytes` are not the object's.
    pub fn check(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 == self.bytes && Digest::of(bytes) == self.blake3 {
            return Ok(());
        }
        Err(
            Error::corrupt(format!("{name} is not the object that the backup's head names"))
                .detail(format!("it should have {} bytes and hash {}", self.bytes, self.blake3)),
        )
    }
}

/// Which server a backup was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceRole {
    /// The one that takes writes.
    Primary,
    /// One in recovery.
    Standby,
}

/// A head that is ready to be created.
#[derive(Clone, Debug)]
pub struct SignedHead {
    /// Its name.
    pub name: ObjectName,
    /// The document.
    pub bytes: Bytes,
    /// Its hash: what the writer's next head names as `previous_head`.
    pub blake3: Digest,
}

/// A head that was read.
#[derive(Clone, Debug)]
pub struct VerifiedHead {
    /// What it says.
    pub head: Head,
    /// Hash of the document.
    pub blake3: Digest,
    /// Who signed it.
    pub signer: Fingerprint,
    /// False where only `--accept-signer` let it pass.
    pub trusted: bool,
}

impl Head {
    /// The lineage that it belongs to.
    pub fn lineage(&self) -> Lineage {
        Lineage {
            cluster: self.cluster.clone(),
            system_identifier: self.system_identifier,
        }
    }

    /// The name that it is created under.
    pub fn name(&self) -> ObjectName {
        self.lineage().head_name(&self.id)
    }

    /// What is said of a physical backup.
    ///
    /// # Errors
    /// `Invalid` for a dump.
    pub fn physical(&self) -> Result<&PhysicalHead> {
        match &self.kind {
            HeadKind::Physical(physical) => Ok(physical),
            HeadKind::Dump(_) => Err(
                Error::invalid(format!("backup {} is a dump, not a physical backup", self.id))
                    .hint("`pgkeep list --kind physical` shows the physical backups."),
            ),
        }
    }

    /// Checks and signs it.
    ///
    /// # Errors
    /// `Internal` for a head that no reader would take.
    pub fn sign(&self, sealer: &Sealer) -> Result<SignedHead> {
        if let Some(rule) = self.broken_rule() {
            return Err(Error::internal(format!("the head of backup {} would not be valid", self.id)).detail(rule));
        }
        let name = self.name();
        let bytes = sealer.sign(&name, self)?;
        if bytes.len() as u64 > HEAD_BYTES_MAX {
            return Err(Error::internal(format!(
                "the head of backup {} would exceed 16 MiB",
                self.id
            )));
        }
        let blake3 = Digest::of(&bytes);
        Ok(SignedHead { name, bytes, blake3 })
    }

    /// Verifies and reads a head that was found under `name` or an alternate.
    ///
    /// # Errors
    /// As [`Opener::document`]; `Unsupported` for a kind that this program does not know; `Corrupt` for a head that
    /// contradicts itself or its name.
    pub fn read(opener: &Opener, name: &ObjectName, bytes: &[u8]) -> Result<VerifiedHead> {
        let verified = opener.document(name, bytes)?;
        let kind = verified.payload.get("kind").and_then(|kind| kind.as_str());
        if let Some(kind) = kind.filter(|kind| !["physical", "dump"].contains(kind)) {
            return Err(Error::unsupported(format!(
                "{name} is of the kind \"{kind}\", which this program does not know"
            ))
            .hint("Install a newer pgkeep; `pgkeep --version` shows this one."));
        }
        let head: Head = verified.parse().during(|| format!("read {name}"))?;
        let wrong_name = (crate::names::logical(name) != head.name()).then_some("it lies under another backup's name");
        if let Some(rule) = wrong_name.or_else(|| head.broken_rule()) {
            return Err(Error::corrupt(format!("{name} is not a valid head")).detail(rule));
        }
        Ok(VerifiedHead {
            head,
            blake3: Digest::of(bytes),
            signer: verified.signer,
            trusted: verified.trusted,
        })
    }

    fn broken_rule(&self) -> Option<&'static str> {
        if self.recipients.iter().any(String::is_empty) {
            return Some("it names an empty recipient");
        }
        match &self.kind {
            HeadKind::Physical(physical) => physical.broken_rule(),
            HeadKind::Dump(dump) if !dump.object.name.is_below("dumps") => Some("its dump lies elsewhere"),
            HeadKind::Dump(_) => None,
        }
    }
}

impl PhysicalHead {
    /// Numbers of the WAL segments on `timeline` without which the backup can't be restored.
    pub fn needed_wal(&self) -> RangeInclusive<u64> {
        self.segment_bytes.number_of(self.start_lsn)..=self.segment_bytes.number_before(self.stop_lsn)
    }

    fn broken_rule(&self) -> Option<&'static str> {
        let block_sizes = [1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10];
        if !self.start_lsn.is_valid() || self.stop_lsn <= self.start_lsn {
            Some("it does not stop behind its start")
        } else if self.history.is_some() && self.timeline == TimelineId::FIRST {
            Some("timeline 1 has no history")
        } else if !block_sizes.contains(&self.block_bytes) {
            Some("no page has that size")
        } else if !self.tablespaces.is_sorted_by(|a, b| a < b) || self.tablespaces.first() == Some(&0) {
            Some("its tablespaces are not OIDs in order")
        } else if self.owner.is_empty() || self.group.is_empty() {
            Some("it does not say whom the data directory belongs to")
        } else {
            None
        }
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
pub(crate) mod tests;
