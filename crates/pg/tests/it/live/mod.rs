//! What this room says about running servers, against real ones of every major.
//!
//! Method: scratch clusters from the installations under `PGKEEP_PG_DIR` (directories `14` to `18`, each with `bin`);
//! a missing major fails. Every cluster lives in its own temporary directory and dies with its test.

mod connect;
mod facts;
mod recovery;
mod rig;
mod server;
mod session;
mod tls;
