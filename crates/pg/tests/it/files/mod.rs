//! What pgkeep reads and writes of PostgreSQL's files, against PostgreSQL itself.
//!
//! Needs PostgreSQL 14 to 18 in `$PGKEEP_PG_DIR/<major>/bin` (`scripts/fetch-postgres`); panics without.

mod cluster;
mod control;
mod pages;
mod recovery;
mod walk;
