//! A bucket as a test sees it: without pgkeep, as any identity.

use super::client::{Answer, Request, send};
use super::proxy::S3Proxy;

/// A bucket of an [`super::S3Server`], seen by one identity; the administrator at first.
#[derive(Clone, Debug)]
pub struct Bucket {
    port: u16,
    name: String,
    identity: String,
}

impl Bucket {
    pub(super) fn new(port: u16, name: &str) -> Bucket {
        Bucket {
            port,
            name: name.to_owned(),
            identity: "admin".to_owned(),
        }
    }

    /// Its name, for `s3://<name>/…`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same bucket as another identity sees it.
    pub fn seen_by(&self, identity: &str) -> Bucket {
        Bucket {
            identity: identity.to_owned(),
            ..self.clone()
        }
    }

    /// The same bucket by way of a proxy.
    pub fn through(&self, proxy: &S3Proxy) -> Bucket {
        Bucket {
            port: proxy.port(),
            ..self.clone()
        }
    }

    /// Creates or overwrites an object; the HTTP status if that isn't allowed.
    pub fn try_put(&self, key: &str, bytes: &[u8]) -> Result<(), u16> {
        accepted(self.request("PUT", key, &[], bytes)).map(|_| ())
    }

    /// Creates an object that must not exist; 412 if it does.
    pub fn try_create(&self, key: &str, bytes: &[u8]) -> Result<(), u16> {
        accepted(self.request("PUT", key, &[("if-none-match", "*")], bytes)).map(|_| ())
    }

    /// An object's bytes; the HTTP status (404, 403 …) if they can't be had.
    pub fn try_get(&self, key: &str) -> Result<Vec<u8>, u16> {
        accepted(self.request("GET", key, &[], &[]))
    }

    /// Removes an object.
    pub fn try_delete(&self, key: &str) -> Result<(), u16> {
        accepted(self.request("DELETE", key, &[], &[])).map(|_| ())
    }

    /// Keys that begin with `prefix`, sorted.
    pub fn try_list(&self, prefix: &str) -> Result<Vec<String>, u16> {
        let mut keys = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut query = vec![("list-type", "2"), ("max-keys", "1000"), ("prefix", prefix)];
            query.extend(token.as_deref().map(|token| ("continuation-token", token)));
            query.sort_unstable();
            let path = format!("/{}", self.name);
            let page = accepted(self.send(Request {
                method: "GET",
                path: &path,
                query: &query,
                ..Request::default()
            }))?;
            let page = String::from_utf8_lossy(&page);
            keys.extend(elements(&page, "Key"));
            token = elements(&page, "NextContinuationToken").next();
            if token.is_none() {
                keys.sort();
                return Ok(keys);
            }
        }
    }

    /// [`Bucket::try_put`] that must succeed.
    #[track_caller]
    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.must("put", key, self.try_put(key, bytes));
    }

    /// [`Bucket::try_get`] that must succeed.
    #[track_caller]
    pub fn get(&self, key: &str) -> Vec<u8> {
        self.must("get", key, self.try_get(key))
    }

    /// [`Bucket::try_delete`] that must succeed.
    #[track_caller]
    pub fn delete(&self, key: &str) {
        self.must("delete", key, self.try_delete(key));
    }

    /// [`Bucket::try_list`] that must succeed.
    #[track_caller]
    pub fn list(&self, prefix: &str) -> Vec<String> {
        self.must("list", prefix, self.try_list(prefix))
    }

    #[track_caller]
    fn must<T>(&self, verb: &str, key: &str, outcome: Result<T, u16>) -> T {
        outcome.unwrap_or_else(|status| panic!("{verb} {}/{key} as {}: HTTP {status}", self.name, self.identity))
    }

    /// Creates the bucket itself.
    pub(super) fn create(&self, headers: &[(&str, &str)]) {
        let created = accepted(self.request("PUT", "", headers, &[]));
        self.must("create", "", created);
    }

    fn request(&self, method: &str, key: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let path = format!("/{}/{key}", self.name);
        let path = path.strip_suffix('/').filter(|_| key.is_empty()).unwrap_or(&path);
        self.send(Request {
            method,
            path,
            headers,
            body,
            ..Request::default()
        })
    }

    fn send(&self, request: Request<'_>) -> Answer {
        send(self.port, &self.identity, request)
            .unwrap_or_else(|error| panic!("{} {} on the S3 server: {error}", request.method, request.path))
    }
}

fn accepted(answer: Answer) -> Result<Vec<u8>, u16> {
    match answer.status {
        200..=299 => Ok(answer.body),
        status => Err(status),
    }
}

/// The texts of all elements of that name, unescaped.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = String> + use<'a> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let begin = rest.find(&open)? + open.len();
        let length = rest[begin..].find(&close)?;
        let text = &rest[begin..begin + length];
        rest = &rest[begin + length..];
        Some(unescape(text))
    })
}

fn unescape(text: &str) -> String {
    [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#34;", "\""),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
