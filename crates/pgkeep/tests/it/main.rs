//! Tests of the whole binary against real servers: one test binary, a module per theme.
//!
//! Rule: what a test here shows can't be shown in a lower room. Everything goes through command lines, exit codes and
//! PostgreSQL itself; nothing of pgkeep is linked in. An installation to work on is [`shop`], restored clusters are
//! checked with the oracle, and servers of all majors come from `pgkeep-testkit`.

#![allow(clippy::unwrap_used)]

mod adopt;
mod archiving;
mod attacks;
mod backup;
mod backup_interrupted;
mod backup_refusals;
mod backup_size;
mod damage;
mod delta;
mod demo;
mod doctor;
mod doubles;
mod exit_codes;
mod faults;
mod fetch_judged;
mod fetch_table;
mod gaps;
mod golden;
mod keys;
mod life;
mod lost_host;
mod made_tablespaces;
mod minimal;
mod network;
mod no_hostage;
mod odd;
mod p2;
mod promotions;
mod proxy;
mod resolved;
mod restored_directory;
mod rough_wal;
mod round_trip;
mod s3_roles;
mod salvage;
mod secrets;
mod status;
mod stores;
mod targets;
mod timelines;
mod trust;
mod unreachable;
mod writer;

use pgkeep_testkit::fixture::{Builder, Shop};

/// An installation of the binary under test around a new cluster of `major`.
fn shop(major: u16) -> Builder {
    Shop::builder(env!("CARGO_BIN_EXE_pgkeep"), major)
}
