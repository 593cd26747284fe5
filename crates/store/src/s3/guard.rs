//! Stands between object_store and the network, and believes nothing that is not proven.
//!
//! Invariant: what leaves here as a success *is* one. A PUT counts only as 200 with an ETag, no document in its body,
//! and, where the store echoes it, the checksum that was sent; a listing only as a whole `ListBucketResult`. Everything
//! else, 409 and 412 included, leaves as a [`Fault`] that keeps the status and the code, for `fault.rs` to judge.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, Method, StatusCode, header};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};

use pgkeep_base::failpoint;

use super::fault::Fault;
use super::page;
use super::transport::{Carrier, http_error};

/// The largest error answer that is read.
const ERROR_BODY_BYTES_MAX: usize = 64 << 10;
/// The largest page of a listing that is read: 1,000 names of 1 KiB, with their markup.
const LIST_BODY_BYTES_MAX: usize = 4 << 20;
/// How much of a message is kept.
const MESSAGE_CHARS_MAX: usize = 300;
/// How long a service that gives credentials may take.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is asked.
const CREDENTIALS_ATTEMPTS: usize = 3;

const CHECKSUM: &str = "x-amz-checksum-sha256";

/// Gives object_store our HTTP client in place of its own.
#[derive(Clone, Debug)]
pub(super) struct Guard<C> {
    carrier: C,
    /// Host and port of the store; everything else that is asked is a service for credentials.
    authority: Arc<str>,
}

impl<C: Carrier> Guard<C> {
    pub(super) fn new(carrier: C, authority: &str) -> Guard<C> {
        Guard {
            carrier,
            authority: authority.into(),
        }
    }

    async fn ask_store(&self, request: HttpRequest) -> Result<HttpResponse, Fault> {
        let asked = Asked::new(&request);
        failpoint::at("store.s3.ask").map_err(lost)?;
        let response = self.carrier.send(request).await?;
        failpoint::at("store.s3.answer").map_err(lost)?;
        let status = response.status();
        if !status.is_success() {
            return Err(refusal(asked.method, response).await);
        }
        match asked.method {
            Method::PUT => stored(&asked, response).await,
            Method::GET if asked.list => listed(response).await,
            Method::DELETE => without_document(response).await,
            _ => Ok(response),
        }
    }

    async fn ask_for_credentials(&self, request: HttpRequest) -> Result<HttpResponse, Fault> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let exchange = self.carrier.send(request.clone());
            let fault = match tokio::time::timeout(CREDENTIALS_TIMEOUT, exchange).await {
                Ok(Ok(response)) if response.status().is_success() => return Ok(response),
                Ok(Ok(response)) => refusal(request.method().clone(), response).await,
                Ok(Err(fault)) => fault,
                Err(_) => Fault::Stalled(CREDENTIALS_TIMEOUT),
            };
            let final_word = fault.status().is_some_and(|status| status.is_client_error());
            if final_word || attempt == CREDENTIALS_ATTEMPTS {
                let service = request.uri().authority().map_or("", |authority| authority.as_str());
                return Err(Fault::NoCredentials(format!("{service}: {fault}")));
            }
            tokio::time::sleep(Duration::from_millis(200) * attempt as u32).await;
        }
    }
}

#[async_trait]
impl<C: Carrier> HttpService for Guard<C> {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let for_store = request
            .uri()
            .authority()
            .is_some_and(|a| a.as_str() == &*self.authority);
        let answer = match for_store {
            true => self.ask_store(request).await,
            false => self.ask_for_credentials(request).await,
        };
        answer.map_err(http_error)
    }
}

impl<C: Carrier> HttpConnector for Guard<C> {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// What must be known of a request to judge its answer.
struct Asked {
    method: Method,
    list: bool,
    checksum: Option<header::HeaderValue>,
}

impl Asked {
    fn new(request: &HttpRequest) -> Asked {
        Asked {
            method: request.method().clone(),
            list: request.uri().query().is_some_and(|query| query.contains("list-type=2")),
            checksum: request.headers().get(CHECKSUM).cloned(),
        }
    }
}

/// Judges the answer to a PUT.
async fn stored(asked: &Asked, response: HttpResponse) -> Result<HttpResponse, Fault> {
    let response = without_document(response).await?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(untrusted(format!(
            "it says {status} where a stored object is answered with 200"
        )));
    }
    if !has_etag(response.headers()) {
        return Err(untrusted("it says 200 without an ETag".to_owned()));
    }
    if let (Some(sent), Some(echoed)) = (&asked.checksum, response.headers().get(CHECKSUM))
        && sent != echoed
    {
        return Err(untrusted(
            "it reports another checksum than that of the bytes sent".to_owned(),
        ));
    }
    Ok(response)
}

/// Judges a page of a listing.
async fn listed(response: HttpResponse) -> Result<HttpResponse, Fault> {
    let (parts, body) = response.into_parts();
    let body = read_body(body, LIST_BODY_BYTES_MAX).await?;
    let page = page::checked(&body).map_err(untrusted)?;
    Ok(HttpResponse::from_parts(parts, page.into()))
}

/// Refuses a success that holds an error: some stores begin to answer before they know.
async fn without_document(response: HttpResponse) -> Result<HttpResponse, Fault> {
    let (parts, body) = response.into_parts();
    let body = read_body(body, ERROR_BODY_BYTES_MAX).await?;
    if body.trim_ascii_start().starts_with(b"<") {
        let (code, message) = code_and_message(&body);
        return Err(untrusted(format!(
            "it says {} but holds an error: {code} {message}",
            parts.status
        )));
    }
    Ok(HttpResponse::from_parts(parts, body.into()))
}

async fn refusal(method: Method, response: HttpResponse) -> Fault {
    let (parts, body) = response.into_parts();
    // An answer whose body gets lost is still a refusal; it just has no code.
    let body = read_body(body, ERROR_BODY_BYTES_MAX).await.unwrap_or_default();
    let (code, message) = code_and_message(&body);
    let message = match parts
        .headers
        .get("x-amz-bucket-region")
        .and_then(|region| region.to_str().ok())
    {
        Some(region) if parts.status.is_redirection() => format!("the bucket is in region {region}"),
        _ => message,
    };
    Fault::Refused {
        method,
        status: parts.status,
        code,
        message,
    }
}

async fn read_body(body: HttpResponseBody, bytes_max: usize) -> Result<Bytes, Fault> {
    let mut stream = body.bytes_stream();
    let mut read = BytesMut::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| {
            let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<Fault>());
            cause.cloned().unwrap_or_else(|| untrusted(error.to_string()))
        })?;
        if read.len() + piece.len() > bytes_max {
            return Err(untrusted(format!("it is longer than {bytes_max} bytes")));
        }
        read.extend_from_slice(&piece);
    }
    Ok(read.freeze())
}

fn has_etag(headers: &HeaderMap) -> bool {
    let etag = headers.get(header::ETAG).and_then(|etag| etag.to_str().ok());
    etag.is_some_and(|etag| !etag.trim_matches('"').is_empty())
}

/// The two parts of an S3 error document that are fit to be shown.
fn code_and_message(body: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(body);
    let part = |name| {
        let value = element(&text, name).unwrap_or_default();
        let shown = value.chars().take(MESSAGE_CHARS_MAX);
        shown.map(|c| if c.is_control() { ' ' } else { c }).collect()
    };
    (part("Code"), part("Message"))
}

/// The text of the first element of this name. Enough for the flat documents that S3 answers with.
pub(super) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(value, _)| value)
}

/// As if the connection had failed.
fn lost(error: std::io::Error) -> Fault {
    Fault::Transport {
        text: error.to_string(),
        certificate: false,
    }
}

fn untrusted(why: String) -> Fault {
    Fault::Untrusted(why)
}
