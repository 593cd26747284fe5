//! The list of acknowledged commits, in a file outside the cluster.
//!
//! Rule: a line is written only after the server has acknowledged (or a later look has proven) the commit, in one
//! write, so that what a killed test leaves is true up to its last complete line.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;

use jiff::Timestamp;
use pgkeep_base::Lsn;
use serde::{Deserialize, Serialize};

/// What a transaction did besides inserting its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// It was committed in two phases.
    Prepared,
    /// It also made a table.
    Ddl,
    /// It also replaced the writer's bulk load: heavy writers only.
    Bulk,
}

/// One acknowledged commit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// Which writer.
    pub writer: u32,
    /// Its how-manieth row, from 1.
    pub seq: u64,
    /// Hash of the row, which covers the previous one's.
    pub hash: String,
    /// What the transaction did.
    pub kind: Kind,
    /// The commit record begins here or later.
    pub from_lsn: Lsn,
    /// The commit record ends here or earlier.
    pub to_lsn: Lsn,
    /// PostgreSQL's time of the commit is this or later.
    pub from_time: Timestamp,
    /// PostgreSQL's time of the commit is this or earlier.
    pub to_time: Timestamp,
}

/// All acknowledged commits of one oracle, by writer and sequence.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub(super) commits: Vec<Commit>,
}

impl Ledger {
    /// Reads the file of an oracle, even a dead one's: an incomplete last line was never acknowledged to anyone.
    ///
    /// # Panics
    /// When the file can't be read or isn't a ledger.
    pub fn read(path: &Path) -> Ledger {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut commits: Vec<Commit> = complete.lines().map(parse).collect();
        commits.sort_by_key(|commit| (commit.writer, commit.seq));
        Ledger { commits }
    }

    /// By writer and sequence.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// The newest commit of a writer.
    pub(super) fn newest_of(&self, writer: u32) -> Option<&Commit> {
        self.commits.iter().rev().find(|commit| commit.writer == writer)
    }

    /// Everything that was acknowledged is durable at this LSN.
    pub fn last_lsn(&self) -> Lsn {
        self.commits
            .iter()
            .map(|commit| commit.to_lsn)
            .max()
            .unwrap_or(Lsn::INVALID)
    }
}

/// The writing end.
#[derive(Debug)]
pub(super) struct LedgerFile(Mutex<File>);

impl LedgerFile {
    pub(super) fn create(path: &Path) -> LedgerFile {
        let file = OpenOptions::new().create_new(true).append(true).open(path);
        LedgerFile(Mutex::new(
            file.unwrap_or_else(|error| panic!("create {}: {error}", path.display())),
        ))
    }

    /// Writes down what was acknowledged before.
    pub(super) fn begin_with(&self, commits: &[Commit]) {
        commits.iter().for_each(|commit| self.append(commit));
    }

    pub(super) fn append(&self, commit: &Commit) {
        let line = serde_json::to_string(commit).expect("a commit is plain data") + "\n";
        let mut file = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.write_all(line.as_bytes()).expect("the ledger can be written");
    }
}
