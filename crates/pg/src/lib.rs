//! placeholder
pub mod wal;
pub mod connect;
pub mod server;
