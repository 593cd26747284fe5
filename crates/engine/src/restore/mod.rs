//! Restore: put files back, and let PostgreSQL recover to a moment.
//!
//! Invariants: nothing is touched before the plan says that the target can be reached; nothing is written outside of
//! the target directory and the mapped tablespaces; `pg_control` is written last. `resolve` chooses
//! the backup and the stop, `plan` is the value that is shown and then run. Over an existing cluster: `existing` is what
//! it says of itself, `saved` what becomes of its WAL, `over` what fits (docs/adr/0011).

mod aim;
pub mod existing;
pub mod files;
pub mod layout;
pub mod left_behind;
mod notes;
pub mod over;
pub mod plan;
pub mod recovery;
pub mod request;
pub mod resolve;
pub mod run;
pub mod saved;
pub mod settings;
pub mod sources;
pub mod start;
#[cfg(test)]
mod trees;
pub mod unreachable;

pub use recovery::{OWN_DIRECTORY, RecoveryPlan};
pub use request::{Archiving, RestoreRequest};
