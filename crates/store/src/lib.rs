//! Where bytes rest: a URL opened as a store of named, immutable objects.
//!
//! Invariant: an object is created once, whole, and never modified; `create` returns `Ok` only when the bytes are
//! durable, and [`Created::AlreadyThere`] only when the store proved that the name is taken. Absence is reported only
//! when it is proven. Nothing here knows a pack, a repository or PostgreSQL, and nothing here reads the environment.
//! Start with [`Store`]; local disks are in `file`, S3 in `s3`; what every store must do is in [`conformance`].

pub mod config;
pub mod conformance;
mod file;
mod length;
mod name;
mod payload;
mod probe;
mod s3;

use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use pgkeep_base::Result;

pub use config::{Environment, StoreConfig, open, open_told};
pub use file::create_root;
pub use name::ObjectName;
pub use payload::Payload;
pub use probe::{CreateOnly, probe_create_only};

/// What a store knows about an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Relative to the store's URL.
    pub name: ObjectName,
    /// Its length.
    pub bytes: u64,
    /// When the store says it was written: the store's clock, not ours. Never decide by it alone.
    pub modified: Option<jiff::Timestamp>,
}

/// How a create-only write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// This call wrote it. (Or an earlier attempt of this call did, and the store does not tell: see `AlreadyThere`.)
    New,
    /// The store proved that the name is taken (`EEXIST`, HTTP 412); what is there was not touched and is durable.
    ///
    /// A retry of a write whose answer was lost ends here too: only a name that proves its content makes it success.
    AlreadyThere,
}

/// A place for objects. All methods may be called concurrently.
///
/// Errors by kind, everywhere: `NotFound` when the named object is proven absent; `Denied` when credentials or
/// permissions say no; `Unavailable` when the store did not answer properly after the configured retries, or its
/// bucket or root directory is missing (an unmounted disk is not an empty store); `Corrupt` when it answered with
/// other bytes than it must; `Invalid` for what no retry and no permission can mend; `Io` for this machine's disk.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// The URL as configured. It holds no secret, since `open` refuses URLs with user information.
    fn url(&self) -> &str;

    /// How many concurrent requests suit this store; at least one.
    fn requests_wanted(&self) -> usize;

    /// Writes a new object in one step; never overwrites. At most 5 GiB.
    ///
    /// Costs one PUT, or one file with two or more fsyncs. When the future is dropped, or after an error other than
    /// `Denied` and `Invalid`, the object may or may not exist, but never in part; running again is safe.
    async fn create(&self, name: &ObjectName, body: Payload) -> Result<Created>;

    /// Reads a whole object of at most `bytes_max` bytes; a longer one is `Corrupt`, before its body is read.
    async fn read(&self, name: &ObjectName, bytes_max: u64) -> Result<Bytes>;

    /// Reads exactly these bytes; an object that ends earlier is `Corrupt`. An empty range asks nothing.
    async fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes>;

    /// What the store knows about an object.
    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta>;

    /// Whether an object exists. `false` only if its absence is proven; a store that won't say is an error.
    async fn exists(&self, name: &ObjectName) -> Result<bool>;

    /// All objects below a directory (whole segments; `""` is everything), with names after `after`.
    ///
    /// "After" means byte order of whole names, exactly. The order of what comes is the store's own: a local directory
    /// and Amazon list in byte order, SeaweedFS directory by directory. Nobody may build safety on the completeness of
    /// a listing. Unfinished local writes and names that are not ours are never shown. Holds one page, or one
    /// directory per level, in memory.
    fn list<'a>(&'a self, prefix: &str, after: Option<&ObjectName>) -> BoxStream<'a, Result<ObjectMeta>>;

    /// The names (one segment each) of the directories directly below `prefix`, sorted.
    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>>;

    /// Removes an object; a missing one is `Ok`. Not synced: after a power cut a local object may be back.
    async fn delete(&self, name: &ObjectName) -> Result<()>;
}
