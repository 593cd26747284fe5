//! The repository: everything that docs/format.md says, and the only code that knows it.
//!
//! Invariant: what leaves this room was verified (signature, seal, hash, length); what enters a store was created once,
//! under a name that binds it. Nothing here talks to PostgreSQL or reads a data directory.
//! Writing goes through [`seal::Sealer`], reading through [`open::Opener`]; the kinds of objects have a module each.

pub mod catalogue;
pub mod control;
pub mod digest;
pub mod fetch;
pub mod frame;
pub mod genesis;
pub mod head;
pub mod keys;
pub mod lease;
pub mod lineage;
pub mod manifest;
pub mod names;
pub mod open;
pub mod pack;
pub mod packlist;
pub mod paths;
pub mod reader;
pub mod recover;
pub mod repofile;
pub mod reuse;
pub mod rewrap;
pub mod seal;
pub mod secretfile;
pub mod sign;
pub mod wal;

#[cfg(test)]
mod test_support;
