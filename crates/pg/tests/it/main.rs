//! This room against real PostgreSQL of every major: one test binary, a module per theme.
//!
//! Method: what pgkeep says of files, servers and WAL is what PostgreSQL's own programs say of the same ones.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows tests by their attribute, not what they call"
)]

mod files;
mod live;
mod wal;
