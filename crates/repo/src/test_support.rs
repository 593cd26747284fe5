//! For tests of this room: a fixed clock, a repository with its keys, and places that fail on demand.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use pgkeep_base::{Clock, Error, ErrorKind, RepositoryId, Result};
use pgkeep_store::{Created, ObjectMeta, ObjectName, Payload, Store, StoreConfig};

use crate::keys::Identity;
use crate::open::Opener;
use crate::seal::{SealMode, Sealer};
use crate::sign::{SigningKey, Trust};

pub fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

#[derive(Debug)]
pub struct FixedClock(pub Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// A repository with one recipient and one signer.
pub struct Repository {
    pub id: RepositoryId,
    pub identity: Identity,
    pub key: Arc<SigningKey>,
    pub mode: SealMode,
}

impl Repository {
    pub fn new(sealed: bool) -> Repository {
        let identity = Identity::generate();
        let mode = if sealed {
            SealMode::Age(vec![identity.recipient()])
        } else {
            SealMode::None
        };
        let key = Arc::new(SigningKey::generate().unwrap());
        let id = RepositoryId::random();
        Repository {
            id,
            identity,
            key,
            mode,
        }
    }

    /// One that is sealed, and one that is not.
    pub fn both() -> [Repository; 2] {
        [Repository::new(true), Repository::new(false)]
    }

    pub fn sealer(&self) -> Sealer {
        let clock = Arc::new(FixedClock("2026-11-20T10:15:12.345Z".parse().unwrap()));
        Sealer::new(self.id, self.mode.clone(), self.key.clone(), clock).unwrap()
    }

    pub fn opener(&self) -> Opener {
        let trust = Arc::new(Trust::new([self.key.fingerprint()]));
        Opener::new(self.id, vec![self.identity.clone()], trust)
    }
}

/// A store in a temporary directory.
#[derive(Debug)]
pub struct Place {
    inner: Arc<dyn Store>,
    root: tempfile::TempDir,
    fails_with: Mutex<Option<ErrorKind>>,
    pub requests: AtomicUsize,
}

impl Place {
    pub fn new() -> Arc<Place> {
        let root = tempfile::tempdir().unwrap();
        let config = StoreConfig::at(format!("file://{}", root.path().display()));
        let inner = pgkeep_store::open(&config, &|_| None).unwrap();
        let (fails_with, requests) = (Mutex::new(None), AtomicUsize::new(0));
        Arc::new(Place {
            inner,
            root,
            fails_with,
            requests,
        })
    }

    /// From now on every request fails like this.
    pub fn fail_with(&self, kind: ErrorKind) {
        *self.fails_with.lock().unwrap() = Some(kind);
    }

    fn path(&self, name: &ObjectName) -> PathBuf {
        self.root.path().join(name.as_str())
    }

    /// Changes an object behind the store's back.
    pub fn damage(&self, name: &ObjectName, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.path(name)).unwrap();
        change(&mut bytes);
        std::fs::remove_file(self.path(name)).unwrap();
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Removes an object behind the store's back.
    pub fn lose(&self, name: &ObjectName) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    pub async fn put(&self, name: &ObjectName, body: impl Into<Payload>) {
        assert_eq!(self.create(name, body.into()).await.unwrap(), Created::New);
    }

    fn count(&self) -> Result<()> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        match *self.fails_with.lock().unwrap() {
            Some(kind) => Err(Error::new(kind, "the test says so")),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Place {
    fn url(&self) -> &str {
        self.inner.url()
    }
    fn requests_wanted(&self) -> usize {
        self.inner.requests_wanted()
    }
    async fn create(&self, name: &ObjectName, body: Payload) -> Result<Created> {
        self.count()?;
        self.inner.create(name, body).await
    }
    async fn read(&self, name: &ObjectName, bytes_max: u64) -> Result<Bytes> {
        self.count()?;
        self.inner.read(name, bytes_max).await
    }
    async fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes> {
        self.count()?;
        self.inner.read_range(name, range).await
    }
    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta> {
        self.count()?;
        self.inner.stat(name).await
    }
    async fn exists(&self, name: &ObjectName) -> Result<bool> {
        self.count()?;
        self.inner.exists(name).await
    }
    fn list<'a>(&'a self, prefix: &str, after: Option<&ObjectName>) -> BoxStream<'a, Result<ObjectMeta>> {
        match self.count() {
            Ok(()) => self.inner.list(prefix, after),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }
    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>> {
        self.count()?;
        self.inner.list_directories(prefix).await
    }
    async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.count()?;
        self.inner.delete(name).await
    }
}

/// Runs a future of a test, and proves that it may be sent to another thread, as a multi-threaded caller will.
pub fn run<T: Send>(future: impl Future<Output = T> + Send) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future.boxed())
}
