//! A directory as a store.
//!
//! Invariant: a name appears only by linking a complete, synced file into place, never over an existing one, and
//! `create` returns only when the file, its directory entry and every directory entry above it (up to the root) are
//! synced. The root itself is never made on the way: a missing root is an unmounted disk until `create_root` says
//! otherwise. Writing is in `write.rs`, listing in `walk.rs`.
//!
//! object_store's `LocalFileSystem` comes close, but makes a vanished root anew, reports an existing name before its
//! directory entry is durable, and trusts directories that a killed process made and never synced.

mod walk;
mod write;

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use pgkeep_base::{Error, Result, ResultExt, failpoint};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::config::StoreConfig;
use crate::length::{cut_short, too_long};
use crate::name::directory_prefix;
use crate::{Created, ObjectMeta, ObjectName, Payload, Store};

use write::Directories;
pub use write::create_root;

/// Requests that suit one disk.
const REQUESTS: usize = 4;

/// A store in a directory of this machine.
#[derive(Clone, Debug)]
pub(crate) struct FileStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: String,
    root: PathBuf,
    requests: usize,
    directories: Directories,
}

impl FileStore {
    /// Checks the path; touches no disk.
    pub(crate) fn open(config: &StoreConfig, path: &str) -> Result<FileStore> {
        Ok(FileStore(Arc::new(Inner {
            url: config.url.clone(),
            root: root_path(&config.url, path)?,
            requests: config.requests.unwrap_or(REQUESTS),
            directories: Directories::default(),
        })))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        what: impl Fn(&str) -> String,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.map_err(|error| Error::internal("a disk task failed").source(error))
            .and_then(|result| result)
            .during(|| what(&self.0.url))
    }
}

/// The absolute directory that a `file:` URL names.
pub(crate) fn root_path(url: &str, path: &str) -> Result<PathBuf> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("\"{url}\" does not name an absolute directory"))
            .hint("Write three slashes, as in `file:///srv/backups`, and run `pgkeep config check`."));
    }
    let bytes = percent_decode(path).ok_or_else(|| Error::invalid(format!("\"{url}\" has a broken `%` escape")))?;
    let path = PathBuf::from(
        String::from_utf8(bytes).map_err(|_| Error::invalid(format!("\"{url}\" is not UTF-8 when decoded")))?,
    );
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Error::invalid(format!("\"{url}\" must not contain `..`")));
    }
    Ok(path)
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16);
                (digit(bytes.next()?)? * 16 + digit(bytes.next()?)?) as u8
            }
            other => other,
        });
    }
    (!decoded.contains(&0)).then_some(decoded)
}

impl Inner {
    fn path(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Fails unless the root directory is there: without it nothing can be said about what it holds.
    fn check_root(&self) -> Result<()> {
        match std::fs::metadata(&self.root) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(Error::unavailable(format!(
                "{} is not a directory",
                self.root.display()
            ))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(missing_root(&self.root)),
            Err(error) => Err(io_error(error)),
        }
    }

    fn open_object(&self, name: &ObjectName) -> Result<(File, std::fs::Metadata)> {
        let absent = || {
            self.check_root()?;
            Err(Error::not_found("no such object"))
        };
        failpoint::at("store.file.read").map_err(io_error)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::open(self.path(name), flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => return absent(),
            Err(errno) => return Err(io_error(errno.into())),
        };
        let found = file.metadata().map_err(io_error)?;
        if found.is_dir() {
            return absent();
        }
        if !found.is_file() {
            return Err(Error::corrupt("it is not a regular file"));
        }
        Ok((file, found))
    }

    fn read(&self, name: &ObjectName, bytes_max: u64) -> Result<Bytes> {
        let (file, found) = self.open_object(name)?;
        if found.len() > bytes_max {
            return Err(too_long(found.len(), bytes_max));
        }
        let mut body = Vec::with_capacity(found.len() as usize + 1);
        // One byte more than it had when it was opened, so that growth shows, too.
        file.take(found.len() + 1).read_to_end(&mut body).map_err(io_error)?;
        if body.len() as u64 != found.len() {
            return Err(Error::corrupt("its length changed while it was read").hint(
                "Objects are never modified: find out who else writes to this directory, with `pgkeep doctor`.",
            ));
        }
        Ok(body.into())
    }

    fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes> {
        let (file, found) = self.open_object(name)?;
        if range.end > found.len() {
            return Err(cut_short(&range, Some(found.len())));
        }
        let mut body = vec![0; (range.end - range.start) as usize];
        match file.read_exact_at(&mut body, range.start) {
            Ok(()) => Ok(body.into()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(cut_short(&range, None)),
            Err(error) => Err(io_error(error)),
        }
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectMeta> {
        let absent = || {
            self.check_root()?;
            Err(Error::not_found("no such object"))
        };
        failpoint::at("store.file.stat").map_err(io_error)?;
        match std::fs::metadata(self.path(name)) {
            Ok(found) if found.is_dir() => absent(),
            Ok(found) => Ok(meta(name.clone(), &found)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR) => absent(),
                _ => Err(io_error(error)),
            },
        }
    }
}

#[async_trait]
impl Store for FileStore {
    fn url(&self) -> &str {
        &self.0.url
    }

    fn requests_wanted(&self) -> usize {
        self.0.requests
    }

    async fn create(&self, name: &ObjectName, body: Payload) -> Result<Created> {
        let what = |url: &str| format!("create {name} in {url}");
        let name = name.clone();
        self.blocking(what, move |store| {
            write::create(&store.root, &store.directories, &name, &body)
        })
        .await
    }

    async fn read(&self, name: &ObjectName, bytes_max: u64) -> Result<Bytes> {
        let what = |url: &str| format!("read {name} from {url}");
        let name = name.clone();
        self.blocking(what, move |store| store.read(&name, bytes_max)).await
    }

    async fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes> {
        let what = |url: &str| format!("read bytes {}..{} of {name} from {url}", range.start, range.end);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (name, range) = (name.clone(), range.clone());
        self.blocking(what, move |store| store.read_range(&name, range)).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta> {
        let what = |url: &str| format!("look up {name} in {url}");
        let name = name.clone();
        self.blocking(what, move |store| store.stat(&name)).await
    }

    async fn exists(&self, name: &ObjectName) -> Result<bool> {
        match self.stat(name).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == pgkeep_base::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list<'a>(&'a self, prefix: &str, after: Option<&ObjectName>) -> BoxStream<'a, Result<ObjectMeta>> {
        let what = format!("list \"{prefix}\" in {}", self.0.url);
        let walk = directory_prefix(prefix).map(|prefix| walk::Walk::new(self.0.root.clone(), prefix, after.cloned()));
        let batches = futures::stream::try_unfold(walk, move |walk| {
            let what = what.clone();
            async move {
                let mut walk = walk?;
                let step = move |store: &Inner| {
                    store.check_root()?;
                    Ok((walk.next_batch()?, walk))
                };
                let (batch, walk) = self.blocking(|_| what.clone(), step).await?;
                Ok::<_, Error>((!batch.is_empty()).then(|| (futures::stream::iter(batch).map(Ok), Ok(walk))))
            }
        });
        batches.try_flatten().boxed()
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>> {
        let what = |url: &str| format!("list directories of \"{prefix}\" in {url}");
        let prefix = directory_prefix(prefix)?;
        self.blocking(what, move |store| {
            store.check_root()?;
            walk::directories(&store.root, &prefix)
        })
        .await
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        let what = |url: &str| format!("delete {name} in {url}");
        let name = name.clone();
        self.blocking(what, move |store| write::delete(&store.root, &store.directories, &name))
            .await
    }
}

fn meta(name: ObjectName, found: &std::fs::Metadata) -> ObjectMeta {
    ObjectMeta {
        name,
        bytes: found.len(),
        modified: found
            .modified()
            .ok()
            .and_then(|time| jiff::Timestamp::try_from(time).ok()),
    }
}

fn missing_root(root: &Path) -> Error {
    Error::unavailable(format!("the directory {} does not exist", root.display()))
        .hint("Mount the disk that holds it; for a new repository, `pgkeep repository create` makes the directory.")
}

/// A failed system call, by what can be done about it.
fn io_error(error: std::io::Error) -> Error {
    let errno = Errno::from_io_error(&error);
    match errno {
        Some(Errno::ACCESS | Errno::PERM) => Error::denied("the directory's permissions do not allow it")
            .hint("Compare the owner of the directory with the user that runs pgkeep: `pgkeep doctor` does."),
        Some(Errno::ROFS) => Error::denied("the file system is mounted read-only"),
        Some(Errno::NOSPC) => Error::io("the disk is full").hint("Make room; `pgkeep doctor` tells how much is left where."),
        Some(Errno::DQUOT) => Error::io("the disk quota is used up").hint("Make room; `pgkeep doctor` tells how much is left where."),
        Some(Errno::STALE | Errno::HOSTDOWN | Errno::TIMEDOUT | Errno::NOTCONN) => {
            Error::unavailable("the file server does not answer")
        }
        Some(Errno::IO) => Error::io("the disk reports an input/output error")
            .hint("Look at the kernel's log, and check the disk before trusting it again; then take a new `pgkeep backup --full`."),
        _ => Error::io("the operating system refused"),
    }
    .source(error)
}
