//! A bucket, or a prefix in one, as a store: on Amazon and on what speaks like it.
//!
//! Invariant: `create` is one PUT with `If-None-Match: *` and a SHA-256 that the store verifies; it is `New` only on a
//! believable 200 and `AlreadyThere` only on a 412 that a look at the name, where it is allowed, does not contradict.
//! Absence is believed only as `NoSuchKey`, which a HEAD can't say, so that an absent object costs one more request. object_store builds and signs the requests; `transport.rs` carries
//! them, `guard.rs` and `page.rs` judge the answers, `fault.rs` says what a failure means, `retry.rs` tries again.

mod credentials;
mod fault;
mod guard;
mod page;
mod profile;
mod retry;
mod settings;
mod tls;
mod told;
mod transport;

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use http::StatusCode;
use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use pgkeep_base::{Error, ErrorKind, Result, ResultExt};

use self::fault::{Context, Failure, fault};
use self::guard::Guard;
use self::retry::Retry;
use self::settings::Address;
pub(crate) use self::told::Told;
use self::transport::{Carrier, Transport};
use crate::config::{Environment, StoreConfig};
use crate::length::{cut_short, too_long};
use crate::name::directory_prefix;
use crate::{Created, ObjectMeta, ObjectName, Payload, Store};

/// Requests that suit a bucket: latency rules, so many.
const REQUESTS: usize = 16;
/// What one PUT may carry.
const OBJECT_BYTES_MAX: u64 = 5 << 30;

/// A store in a bucket.
#[derive(Debug)]
pub(crate) struct S3Store {
    url: String,
    requests: usize,
    prefix: String,
    attributes: Attributes,
    bucket: AmazonS3,
    context: Context,
    retry: Retry,
}

impl S3Store {
    /// `rest` is the URL after `s3://`.
    pub(crate) fn open(config: &StoreConfig, rest: &str, environment: Environment) -> Result<S3Store> {
        let network =
            |endpoint: &str| Transport::new(config, &settings::proxy(config, endpoint, environment), endpoint);
        S3Store::assemble(config, rest, environment, network).during(|| format!("open {}", config.url))
    }

    /// As [`S3Store::open`], with a server that is a function.
    pub(crate) fn open_told(
        config: &StoreConfig,
        rest: &str,
        environment: Environment,
        server: Told,
    ) -> Result<S3Store> {
        S3Store::assemble(config, rest, environment, |_| Ok(server)).during(|| format!("open {}", config.url))
    }

    /// `carrier` is made for an endpoint.
    fn assemble<C: Carrier>(
        config: &StoreConfig,
        rest: &str,
        environment: Environment,
        carrier: impl FnOnce(&str) -> Result<C>,
    ) -> Result<S3Store> {
        let shared = credentials::Shared::new(config, environment);
        let address = Address::new(config, rest, environment, &shared)?;
        let carrier = carrier(&address.endpoint)?;
        let builder = address
            .builder(config)?
            .with_http_connector(Guard::new(carrier, address.authority()));
        let (builder, source) = credentials::add(builder, config, environment, &shared)?;
        let bucket = builder
            .build()
            .map_err(|error| Error::invalid("these settings don't make an S3 client").source(error))?;
        let class = config.storage_class.iter();
        Ok(S3Store {
            url: config.url.clone(),
            requests: config.requests.unwrap_or(REQUESTS),
            prefix: address.prefix,
            attributes: class
                .map(|class| (Attribute::StorageClass, AttributeValue::from(class.clone())))
                .collect(),
            bucket,
            context: Context {
                bucket: address.bucket,
                endpoint: address.endpoint,
                credentials: source,
            },
            retry: Retry {
                retries: config.retries,
                window: config.retry_timeout(),
                attempt: config.request_timeout(),
            },
        })
    }

    /// The key of a name, or of a directory; `""` is the whole store.
    fn key(&self, name: &str) -> String {
        match (self.prefix.as_str(), name) {
            ("", name) => name.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, name) => format!("{prefix}/{name}"),
        }
    }

    fn path(&self, name: &ObjectName) -> Path {
        Path::parse(self.key(name.as_str())).expect("every object name is a legal path of object_store")
    }

    /// The name of a key that a listing gave; `None` for keys that aren't ours.
    fn name(&self, key: &Path) -> Option<ObjectName> {
        let key = key.as_ref();
        let rest = match self.prefix.as_str() {
            "" => key,
            prefix => key.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        ObjectName::new(rest).ok()
    }

    fn failure(&self, error: object_store::Error) -> Failure {
        fault::failure(&error, &self.context)
    }

    async fn put(&self, name: &ObjectName, path: &Path, body: &Payload) -> std::result::Result<Created, Failure> {
        let payload: PutPayload = body.parts().iter().cloned().collect();
        let options = PutOptions {
            mode: PutMode::Create,
            attributes: self.attributes.clone(),
            ..PutOptions::default()
        };
        match self.bucket.put_opts(path, payload, options).await {
            Ok(_) => Ok(Created::New),
            Err(error) => match fault(&error).and_then(|fault| fault.status()) {
                Some(StatusCode::PRECONDITION_FAILED) => self.taken(name, path).await,
                _ => Err(self.failure(error)),
            },
        }
    }

    /// What a 412 comes to. Who may only create must believe it; who may look finds a server that contradicts itself.
    async fn taken(&self, name: &ObjectName, path: &Path) -> std::result::Result<Created, Failure> {
        match self.head(name, path).await {
            Err(absent) if absent.error.kind() == ErrorKind::NotFound => Err(Failure::again(Error::unavailable(
                "the store says that the name is taken, and that nothing is there",
            ))),
            _ => Ok(Created::AlreadyThere),
        }
    }

    async fn get(&self, path: &Path, bytes_max: u64) -> std::result::Result<Bytes, Failure> {
        let found = self.bucket.get_opts(path, GetOptions::default()).await;
        let found = found.map_err(|error| self.failure(error))?;
        let bytes = found.meta.size;
        if bytes > bytes_max {
            return Err(Failure::last(too_long(bytes, bytes_max)));
        }
        let body = found.bytes().await.map_err(|error| self.failure(error))?;
        match body.len() as u64 == bytes {
            true => Ok(body),
            false => Err(Failure::again(cut_short(&(0..bytes), Some(body.len() as u64)))),
        }
    }

    async fn get_range(&self, path: &Path, range: &Range<u64>) -> std::result::Result<Bytes, Failure> {
        let options = GetOptions::default().with_range(Some(range.clone()));
        let found = match self.bucket.get_opts(path, options).await {
            Ok(found) => found,
            Err(error) => {
                return Err(match fault(&error).and_then(|fault| fault.status()) {
                    Some(StatusCode::RANGE_NOT_SATISFIABLE) => Failure::last(cut_short(range, None)),
                    _ => self.failure(error),
                });
            }
        };
        let bytes = found.meta.size;
        if bytes < range.end {
            return Err(Failure::last(cut_short(range, Some(bytes))));
        }
        let body = found.bytes().await.map_err(|error| self.failure(error))?;
        match body.len() as u64 == range.end - range.start {
            true => Ok(body),
            false => Err(Failure::again(cut_short(range, None))),
        }
    }

    async fn head(&self, name: &ObjectName, path: &Path) -> std::result::Result<ObjectMeta, Failure> {
        let error = match self.bucket.head(path).await {
            Ok(found) => return Ok(meta(name.clone(), &found)),
            Err(error) => error,
        };
        if fault(&error).and_then(|fault| fault.status()) != Some(StatusCode::NOT_FOUND) {
            return Err(self.failure(error));
        }
        // An answer to HEAD has no body, so it can't tell a missing object from a missing bucket.
        match self
            .bucket
            .get_opts(path, GetOptions::default().with_range(Some(0..1)))
            .await
        {
            Err(error) if fault(&error).is_some_and(|fault| fault.proves_absence()) => {
                Err(Failure::last(Error::not_found("no such object")))
            }
            Err(error) if fault(&error).and_then(|fault| fault.status()) != Some(StatusCode::RANGE_NOT_SATISFIABLE) => {
                Err(self.failure(error))
            }
            _ => Err(Failure::again(Error::unavailable(
                "the store contradicts itself about this object",
            ))),
        }
    }

    /// One page of a listing.
    async fn page(&self, what: &str, prefix: &str, options: &PaginatedListOptions) -> Result<PaginatedListResult> {
        let key = self.key(prefix);
        let prefix = if key.is_empty() { key } else { key + "/" };
        let ask = async || {
            let prefix = Some(prefix.as_str()).filter(|prefix| !prefix.is_empty());
            let page = self.bucket.list_paginated(prefix, options.clone()).await;
            let page = page.map_err(|error| self.failure(error))?;
            match page.page_token.is_some() && page.page_token == options.page_token {
                true => Err(Failure::again(Error::unavailable(
                    "a page of the listing names itself as the next one",
                ))),
                false => Ok(page),
            }
        };
        self.retry.run(what, ask).await
    }
}

#[async_trait]
impl Store for S3Store {
    fn url(&self) -> &str {
        &self.url
    }

    fn requests_wanted(&self) -> usize {
        self.requests
    }

    async fn create(&self, name: &ObjectName, body: Payload) -> Result<Created> {
        let what = format!("create {name} in {}", self.url);
        if body.bytes() > OBJECT_BYTES_MAX {
            return Err(Error::invalid(
                "an object of more than 5 GiB can't be stored in one piece",
            ))
            .during(|| what);
        }
        let path = self.path(name);
        self.retry.run(&what, || self.put(name, &path, &body)).await
    }

    async fn read(&self, name: &ObjectName, bytes_max: u64) -> Result<Bytes> {
        let path = self.path(name);
        let what = format!("read {name} from {}", self.url);
        self.retry.run(&what, || self.get(&path, bytes_max)).await
    }

    async fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let path = self.path(name);
        let what = format!("read bytes {}..{} of {name} from {}", range.start, range.end, self.url);
        self.retry.run(&what, || self.get_range(&path, &range)).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta> {
        let path = self.path(name);
        let what = format!("look up {name} in {}", self.url);
        self.retry.run(&what, || self.head(name, &path)).await
    }

    async fn exists(&self, name: &ObjectName) -> Result<bool> {
        match self.stat(name).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list<'a>(&'a self, prefix: &str, after: Option<&ObjectName>) -> BoxStream<'a, Result<ObjectMeta>> {
        let what = format!("list \"{prefix}\" in {}", self.url);
        let first = directory_prefix(prefix).map(|prefix| (prefix, None));
        let after = after.cloned();
        let offset = after
            .as_ref()
            .and_then(|after| start_after(after, prefix.trim_end_matches('/')));
        let offset = offset.map(|name| self.key(&name));
        let pages = futures::stream::try_unfold(Some(first), move |next| {
            let (what, offset, after) = (what.clone(), offset.clone(), after.clone());
            async move {
                let Some(state) = next else { return Ok(None) };
                let (prefix, page_token) = state?;
                let options = PaginatedListOptions {
                    offset,
                    page_token,
                    ..PaginatedListOptions::default()
                };
                let page = self.page(&what, &prefix, &options).await?;
                let ours = page
                    .result
                    .objects
                    .into_iter()
                    .filter_map(|found| Some(meta(self.name(&found.location)?, &found)));
                let wanted = |found: &ObjectMeta| found.name.is_below(&prefix) && Some(&found.name) > after.as_ref();
                let objects: Vec<Result<ObjectMeta>> = ours.filter(wanted).map(Ok).collect();
                let next = page.page_token.map(|token| Ok((prefix, Some(token))));
                Ok::<_, Error>(Some((futures::stream::iter(objects), next)))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>> {
        let what = format!("list directories of \"{prefix}\" in {}", self.url);
        let prefix = directory_prefix(prefix)?;
        let mut names = Vec::new();
        let mut options = PaginatedListOptions {
            delimiter: Some("/".into()),
            ..PaginatedListOptions::default()
        };
        loop {
            let page = self.page(&what, &prefix, &options).await?;
            let found = page.result.common_prefixes.iter().filter_map(|key| self.name(key));
            let ours = found.filter(|name| name.directory() == prefix);
            names.extend(ours.map(|name| name.file_name().to_owned()));
            options.page_token = page.page_token;
            if options.page_token.is_none() {
                break;
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        let path = self.path(name);
        let what = format!("delete {name} in {}", self.url);
        let ask = async || match self.bucket.delete(&path).await {
            Ok(()) => Ok(()),
            Err(error) if fault(&error).is_some_and(|fault| fault.proves_absence()) => Ok(()),
            Err(error) => Err(self.failure(error)),
        };
        self.retry.run(&what, ask).await
    }
}

/// Where a listing of `prefix` may begin so that nothing after `after` is missed; what comes too early we leave out.
///
/// Amazon lists in byte order of whole keys, SeaweedFS directory by directory, and it leaves out a directory of exactly
/// the name to start after. Both agree on a name that is cut before its first byte below `/`, and is then made a
/// little smaller by bytes that no name of ours has.
fn start_after(after: &ObjectName, prefix: &str) -> Option<String> {
    let name = after.as_str();
    let common = if after.is_below(prefix) { prefix.len() } else { 0 };
    let end = name.bytes().skip(common).position(|byte| byte < b'/');
    let cut = name[..end.map_or(name.len(), |end| common + end)].trim_end_matches('/');
    let last = cut.bytes().last().filter(|_| cut.len() > common)?;
    let smaller = if last == b'0' { '.' } else { char::from(last - 1) };
    Some(format!("{}{smaller}~", &cut[..cut.len() - 1]))
}

fn meta(name: ObjectName, found: &object_store::ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name,
        bytes: found.size,
        modified: jiff::Timestamp::from_second(found.last_modified.timestamp()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_starts_before_what_it_is_to_show_in_any_order() {
        for (after, prefix, start) in [
            ("wal/1/00A3-hash", "wal/1", Some("wal/1/00A2~")),
            ("wal/1/0000-hash", "wal/1", Some("wal/1/000.~")),
            ("a-b/c", "a-b", Some("a-b/b~")),
            ("a-b/c", "", Some("`~")),
            ("p/-x", "p", None),
            ("p/a/-x", "p", Some("p/`~")),
            ("-x", "", None),
        ] {
            let after = ObjectName::new(after).unwrap();
            assert_eq!(start_after(&after, prefix).as_deref(), start, "{after} in {prefix}");
        }
    }
}
