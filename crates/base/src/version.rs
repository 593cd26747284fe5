//! The majors of PostgreSQL that pgkeep knows.
//!
//! Invariant: a [`PgMajor`] is a supported one; whatever else a server or a file says is refused where it is read.

use std::fmt;

use crate::error::{Error, Result};

/// A major version from 14 to 18.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct PgMajor(u16);

impl PgMajor {
    /// The oldest supported major.
    pub const OLDEST: PgMajor = PgMajor(14);
    /// The newest supported major.
    pub const NEWEST: PgMajor = PgMajor(18);

    /// # Errors
    /// `Unsupported` outside 14 to 18.
    pub fn new(major: u16) -> Result<PgMajor> {
        if (Self::OLDEST.0..=Self::NEWEST.0).contains(&major) {
            return Ok(PgMajor(major));
        }
        Err(
            Error::unsupported(format!("PostgreSQL {major} is not supported")).detail(format!(
                "this pgkeep knows PostgreSQL {} to {}",
                Self::OLDEST,
                Self::NEWEST
            )),
        )
    }

    /// From `server_version_num`, such as 170011.
    pub fn from_version_num(number: u32) -> Result<PgMajor> {
        PgMajor::new((number / 10_000) as u16)
    }

    /// The plain number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// All of them, oldest first.
    pub fn all() -> impl Iterator<Item = PgMajor> {
        (Self::OLDEST.0..=Self::NEWEST.0).map(PgMajor)
    }

    /// `pg_start_backup` became `pg_backup_start` in 15.
    pub fn has_pg_backup_start(self) -> bool {
        self.0 >= 15
    }
}

impl TryFrom<u16> for PgMajor {
    type Error = Error;
    fn try_from(major: u16) -> Result<PgMajor> {
        PgMajor::new(major)
    }
}

impl From<PgMajor> for u16 {
    fn from(major: PgMajor) -> u16 {
        major.0
    }
}

impl fmt::Display for PgMajor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PgMajor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PgMajor({})", self.0)
    }
}
