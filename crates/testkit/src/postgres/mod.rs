//! PostgreSQL for tests: the programs of every major, and clusters made with them.
//!
//! [`Cluster`] is a data directory with its postmaster; `install` finds the programs; `process` starts and ends the
//! postmaster; `tools` calls psql, pg_basebackup and their sisters.

mod builder;
mod cluster;
mod install;
mod process;
mod tools;

#[cfg(test)]
mod tests;

pub use builder::Builder;
pub use cluster::{Cluster, Recovery, StopMode};
pub use install::{bin_dir, majors, program};

/// Makes one test per major of PostgreSQL out of a function that takes the major: `name::on_14` … `name::on_18`.
///
/// ```text
/// every_major! {
///     /// Aim: …
///     fn recovers_a_dropped_table(major: u16) { … }
/// }
/// ```
#[macro_export]
macro_rules! every_major {
    ($($(#[$doc:meta])* fn $name:ident($major:ident: u16) $body:block)*) => { $(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            fn check($major: u16) $body
            #[test] fn on_14() { check(14) }
            #[test] fn on_15() { check(15) }
            #[test] fn on_16() { check(16) }
            #[test] fn on_17() { check(17) }
            #[test] fn on_18() { check(18) }
        }
    )* };
}
