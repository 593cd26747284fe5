//! An S3 server for tests: SeaweedFS, with identities, enforced policies, http and https.
//!
//! [`S3Server`] starts and ends it, `policy` says who may do what, [`Bucket`] looks into it and damages it without
//! pgkeep, over a small S3 client of our own (`client`, `sign`). [`S3Proxy`] stands before it and answers wrongly by
//! rules (`faults`).

mod bucket;
mod client;
mod faults;
mod policy;
mod proxy;
mod server;
mod sign;

#[cfg(test)]
mod tests;

pub use bucket::Bucket;
pub use faults::{Op, Rule, S3Fault};
pub(crate) use policy::secret_key;
pub use policy::{Identity, Statement};
pub use proxy::{Account, S3Proxy};
pub use server::S3Server;
