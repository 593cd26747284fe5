//! Runs PostgreSQL on this machine: creates clusters, starts, watches and stops servers.

mod account;

pub use account::Account;
