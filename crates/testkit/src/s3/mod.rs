//! An S3 server for tests: SeaweedFS, with identities, enforced policies, http and https.
//!
//! [`S3Server`] starts and ends it, `policy` says who may do what, [`Bucket`] looks into it and damages it without
//! pgkeep, over a small S3 client of our own (`client`, `sign`).

mod bucket;
mod client;
mod policy;
mod server;
mod sign;

#[cfg(test)]
mod tests;

pub use bucket::Bucket;
pub(crate) use policy::secret_key;
pub use policy::{Identity, Statement};
pub use server::S3Server;
