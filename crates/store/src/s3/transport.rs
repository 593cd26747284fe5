//! The bytes of a request on their way: an HTTP client that gives up when nothing moves.
//!
//! Invariant: an exchange ends, one way or the other, at the latest `progress_timeout` after the last byte that moved
//! in either direction. Uploads are handed to the connection in small pieces, so that a large body that gets stuck
//! shows. The total time of a request is bounded by its caller.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody};
use pgkeep_base::{Error, Result};
use tokio::time::{Instant, Sleep};

use super::fault::Fault;
use crate::config::StoreConfig;

/// How much of a body is handed to the connection at once.
const PIECE_BYTES: usize = 64 << 10;
/// Servers close idle connections after as little as 20 s; a write into such a one fails.
const IDLE_CONNECTION: Duration = Duration::from_secs(15);

/// Takes a request to a server, and brings its answer.
#[async_trait]
pub(super) trait Carrier: Clone + Debug + Send + Sync + 'static {
    async fn send(&self, request: HttpRequest) -> std::result::Result<HttpResponse, Fault>;
}

/// An HTTP client with a progress timeout.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    client: reqwest::Client,
    progress_timeout: Duration,
}

/// What the environment says about a proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct ProxySettings {
    pub(super) url: Option<String>,
    pub(super) except: Option<String>,
}

impl Transport {
    /// Opens no connection.
    pub(super) fn new(config: &StoreConfig, proxy: &ProxySettings, endpoint: &str) -> Result<Transport> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("pgkeep/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.connect_timeout())
            .tcp_user_timeout(config.progress_timeout())
            .pool_idle_timeout(IDLE_CONNECTION)
            .tcp_nodelay(true)
            // The environment is the caller's to read.
            .no_proxy();
        if let Some(url) = &proxy.url {
            let except = proxy.except.as_deref().and_then(reqwest::NoProxy::from_string);
            let parsed = reqwest::Proxy::all(url).map_err(|_| Error::invalid("the proxy's URL is not one"))?;
            builder = builder.proxy(parsed.no_proxy(except));
        }
        if let Some(file) = &config.ca_certificate_file {
            builder = builder.tls_backend_preconfigured(super::tls::trusting(file)?);
        } else if endpoint.starts_with("http://") {
            // A machine without any certificate authority can still talk to a store without TLS.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|error| {
            Error::io("could not set up TLS").detail(chain(&error)).hint(
                "Install the system's certificate authorities (Debian: ca-certificates) or set `ca_certificate_file`.",
            )
        })?;
        Ok(Transport {
            client,
            progress_timeout: config.progress_timeout(),
        })
    }
}

#[async_trait]
impl Carrier for Transport {
    /// The answer's body is guarded, too.
    async fn send(&self, request: HttpRequest) -> std::result::Result<HttpResponse, Fault> {
        let watch = Watch::new();
        let (parts, body) = request.into_parts();
        let url = reqwest::Url::parse(&parts.uri.to_string())
            .map_err(|_| Fault::Untrusted("a request's address is not a URL".to_owned()))?;
        let mut outgoing = reqwest::Request::new(parts.method, url);
        *outgoing.headers_mut() = parts.headers;
        *outgoing.body_mut() = Some(reqwest::Body::wrap(Outgoing::new(body, watch.clone())));
        let response = tokio::select! {
            response = self.client.execute(outgoing) => response.map_err(transport_fault)?,
            () = watch.stalled(self.progress_timeout) => return Err(Fault::Stalled(self.progress_timeout)),
        };
        let (parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
        let body = HttpResponseBody::new(Incoming::new(body, self.progress_timeout));
        Ok(HttpResponse::from_parts(parts, body))
    }
}

/// When a byte last moved.
#[derive(Clone, Debug)]
struct Watch {
    start: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Watch {
    fn new() -> Watch {
        Watch {
            start: Instant::now(),
            last_ms: Arc::default(),
        }
    }

    fn moved(&self) {
        self.last_ms
            .store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Returns once nothing has moved for `limit`.
    async fn stalled(&self, limit: Duration) {
        loop {
            let deadline = self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + limit;
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// A body on its way out, in small pieces.
struct Outgoing {
    body: HttpRequestBody,
    piece: Bytes,
    watch: Watch,
}

impl Outgoing {
    fn new(body: HttpRequestBody, watch: Watch) -> Outgoing {
        Outgoing {
            body,
            piece: Bytes::new(),
            watch,
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        while this.piece.is_empty() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.piece = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return end,
            }
        }
        this.watch.moved();
        let length = this.piece.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(this.piece.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint();
        SizeHint::with_exact(rest.lower() + self.piece.len() as u64)
    }
}

/// A body on its way in.
struct Incoming {
    body: reqwest::Body,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl Incoming {
    fn new(body: reqwest::Body, limit: Duration) -> Incoming {
        Incoming {
            body,
            limit,
            deadline: Box::pin(tokio::time::sleep(limit)),
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.deadline.as_mut().reset(Instant::now() + this.limit);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(http_error(transport_fault(error))))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match this.deadline.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(http_error(Fault::Stalled(this.limit))))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Hands a fault to object_store, which must not retry: whoever wants the whole operation does.
pub(super) fn http_error(fault: Fault) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, fault)
}

fn transport_fault(error: reqwest::Error) -> Fault {
    let text = chain(&error.without_url());
    let certificate = text.contains("certificate");
    Fault::Transport { text, certificate }
}

/// An error of another library with its causes, once each.
fn chain(error: &dyn std::error::Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = cause.source();
    }
    parts.join(": ")
}
