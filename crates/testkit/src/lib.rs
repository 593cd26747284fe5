//! For tests only: clusters of every major, an S3 server with enforced policies, the commit oracle, damage by seed, faults.
//!
//! Invariant: depends on base and on processes that it starts, never on the rooms that it tests, so that what it says
//! about them is said by PostgreSQL, by an S3 server and by a ledger, not by pgkeep itself. What is missing (a major,
//! the S3 server) panics with the command that fetches it: a test that can't run has failed.
//! Everything that it starts dies with the test process, however that dies: see `reaper`.
//! Start reading at [`postgres::Cluster`], [`oracle::Oracle`] and [`s3::S3Server`].

// A test's panic is its message to a person: helpers panic instead of returning what every caller would unwrap.
#![allow(clippy::unwrap_used)]

pub mod clock;
pub mod corrupt;
pub mod faults;
pub mod fixture;
pub mod matrix;
pub mod net;
pub mod oracle;
pub mod postgres;
mod python;
mod reaper;
pub mod run;
pub mod s3;
pub mod scratch;
pub mod seed;
pub mod user;
pub mod wait;
pub mod wal;

pub use clock::Clock;
pub use corrupt::{Damage, Damaged};
pub use fixture::Shop;
pub use net::{TcpProxy, Trouble};
pub use oracle::{Ledger, Oracle, Upto};
pub use postgres::{Cluster, StopMode, majors};
pub use python::reader_python;
pub use run::{Output, Run, Running, Signal};
pub use s3::{Bucket, Op, Rule, S3Fault, S3Proxy, S3Server};
pub use scratch::Scratch;
pub use user::OsUser;

/// Where the scripts `fetch-postgres`, `fetch-s3-server` and `fetch-reader-python` keep what they fetched.
fn cache_dir() -> std::path::PathBuf {
    if let Some(dir) = std::env::var_os("PGKEEP_CACHE") {
        return dir.into();
    }
    if OsUser::current().is_root() {
        return "/var/cache/pgkeep".into();
    }
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into());
    std::path::Path::new(&home).join(".cache/pgkeep")
}
