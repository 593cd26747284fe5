//! Operations on clusters and repositories: the library behind the binary.
//!
//! Invariants: nothing here prints, reads the environment or reads configuration files (a [`Setup`] comes assembled);
//! time comes from [`pgkeep_base::Clock`] only. What replaces, deletes or starts something is a `plan` (reads, changes
//! nothing, can be printed and serialised) and then `run(plan)`; only the streaming ones (`wal push`, `wal fetch`)
//! skip the plan.

pub mod adopt;
pub mod backup;
pub mod catalogue;
pub mod controls;
pub mod doctor;
pub mod engine;
pub mod keys;
pub mod mark;
mod owners;
pub mod path;
pub mod repository;
pub mod restore;
pub mod setup;
pub mod state;
pub mod status;
pub mod wal;
pub mod window;

pub use engine::Engine;
pub use setup::{ClusterConfig, Place, Setup};
