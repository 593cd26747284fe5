//! Every parser of bytes that come from outside, as functions that a fuzzer can call.
//!
//! Outside is a disk or a bucket that somebody else can write, a damaged file, another program. A target takes any bytes
//! and says whether the parser took them. It panics where a promise is broken: most of all where the parser itself
//! panics, but also where what was taken does not read back as itself, or names a path outside its directory.
//! Signatures and checksums are no obstacle: where a parser looks behind one, the target puts a good one on.
//!
//! `scripts/fuzz` runs them under libFuzzer; the gate replays the corpora that this left in `corpus/`, and changes of
//! them (`tests/corpus.rs`). Invariant: a target is deterministic, quick, and touches neither disk nor network.

pub mod corpus;
mod local;
mod postgres;
mod records;
mod repository;
pub mod seeds;
mod signed;
mod store;

/// A parser under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// As its corpus is called.
    pub name: &'static str,
    /// Feeds it; true where it took the bytes for what it reads.
    pub run: fn(&[u8]) -> bool,
}

const fn target(name: &'static str, run: fn(&[u8]) -> bool) -> Target {
    Target { name, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("document", repository::document),
    target("object", repository::object),
    target("body", repository::body),
    target("frame", repository::frame),
    target("head", repository::head),
    target("manifest-block", repository::manifest_block),
    target("manifest-index", repository::manifest_index),
    target("packs", repository::packs),
    target("wal-header", repository::wal_header),
    target("genesis", repository::genesis),
    target("control", repository::control),
    target("repository-file", repository::repository_file),
    target("keys", repository::keys),
    target("names", repository::names),
    target("rewrap", repository::rewrap),
    target("s3-listing", store::s3_listing),
    target("control-file", postgres::control_file),
    target("history", postgres::history),
    target("backup-label", postgres::backup_label),
    target("tablespace-map", postgres::tablespace_map),
    target("settings", postgres::settings),
    target("page", postgres::page),
    target("postmaster", postgres::postmaster),
    target("wal", postgres::wal),
    target("wal-records", records::wal_records),
    target("reuse", local::reuse),
    target("recovery-plan", local::recovery_plan),
    target("restore-mark", local::restore_mark),
    target("paths", local::paths),
];

/// The target of this name.
pub fn by_name(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
