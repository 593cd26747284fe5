//! The network between pgkeep and its servers, and how it fails.
//!
//! [`TcpProxy`] knows bytes and connections and stands before any server; what an S3 server itself may answer wrongly
//! is the matter of [`crate::s3::S3Proxy`]. `http` reads the messages of HTTP/1.1 that both sides of that proxy send.

pub(crate) mod http;
mod records;
mod tcp;

#[cfg(test)]
mod tests;

pub use tcp::{TcpProxy, Trouble};
