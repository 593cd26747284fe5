//! What this room says about running servers, against real ones of every major.
//!
//! Method: clusters are started by this room's own `server`, see `rig`.

mod connect;
mod facts;
mod recovery;
mod rig;
mod server;
mod session;
mod tls;
