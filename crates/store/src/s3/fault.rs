//! What went wrong with one request, and what it means: for a retry, and for the person who reads it.
//!
//! Invariant: meaning is taken from the status *and* the code in the answer, never from a bare status where that is
//! ambiguous: a 404 proves absence only as `NoSuchKey`, and a 409 proves nothing. No text here can hold a secret: of
//! an error answer only `Code` and `Message` are kept.

use std::time::Duration;

use http::{Method, StatusCode};
use pgkeep_base::{Error, ErrorKind};

/// Why one request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The store answered with something else than success.
    #[error("{method} was answered with {}", answer(status, code, message))]
    Refused {
        method: Method,
        status: StatusCode,
        code: String,
        message: String,
    },
    /// The store's answer says success but can't be believed, or can't be understood.
    #[error("the store's answer can't be trusted: {0}")]
    Untrusted(String),
    /// Not a byte moved for so long.
    #[error("not a byte was sent or received for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    /// The connection failed; `certificate` when the other side's certificate was refused.
    #[error("{text}")]
    Transport { text: String, certificate: bool },
    /// No credentials could be had: the service that gives them failed in this way.
    #[error("{0}")]
    NoCredentials(String),
}

/// A failed attempt: whether another one may do better, and the error if there is none.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: bool,
}

impl Failure {
    pub(super) fn last(error: Error) -> Failure {
        Failure { error, again: false }
    }

    pub(super) fn again(error: Error) -> Failure {
        Failure { error, again: true }
    }
}

/// What the errors of one store say beside the fault itself.
#[derive(Debug)]
pub(super) struct Context {
    /// The bucket, for a missing one.
    pub(super) bucket: String,
    /// Base URL of requests.
    pub(super) endpoint: String,
    /// Where the credentials come from, in words.
    pub(super) credentials: String,
}

impl Fault {
    /// Whether the store proved that the named object does not exist.
    pub(super) fn proves_absence(&self) -> bool {
        matches!(self, Fault::Refused { status, code, .. } if *status == StatusCode::NOT_FOUND && code == "NoSuchKey")
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Fault::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What this fault means for the caller of a request to this store.
    pub(super) fn failure(&self, context: &Context) -> Failure {
        match self {
            Fault::Refused { method, status, code, .. } => self.refused(method, *status, code, context),
            Fault::Untrusted(_) => Failure::again(Error::unavailable(self.to_string())),
            Fault::Stalled(_) => Failure::again(Error::unavailable(self.to_string()).hint(
                "Look at the network between here and the store; a slow one needs a larger `progress_timeout_s`. \
                 `pgkeep doctor` measures it.",
            )),
            Fault::Transport { certificate: true, .. } => Failure::last(
                Error::unavailable("the store's TLS certificate is not trusted")
                    .detail(self.to_string())
                    .hint("Set `ca_certificate_file` to a file with the authority that signed it; then run `pgkeep doctor`."),
            ),
            Fault::Transport { .. } => Failure::again(
                Error::unavailable(format!("no connection to {}", context.endpoint))
                    .detail(self.to_string())
                    .hint("Check `endpoint`, `region` and the network with `pgkeep doctor`."),
            ),
            Fault::NoCredentials(why) => Failure {
                error: Error::denied("no credentials for the store")
                    .detail(format!("tried {}: {why}", context.credentials))
                    .hint(
                        "Set `access_key_id_file` and `secret_access_key_file`, a `profile`, or AWS_ACCESS_KEY_ID and \
                         AWS_SECRET_ACCESS_KEY; then run `pgkeep doctor`.",
                    ),
                again: false,
            },
        }
    }

    fn refused(&self, method: &Method, status: StatusCode, code: &str, context: &Context) -> Failure {
        let error = |kind| Error::new(kind, self.to_string());
        let bucket = || {
            let missing = format!(
                "the bucket \"{}\" does not exist at {}",
                context.bucket, context.endpoint
            );
            Error::unavailable(missing).hint("Create the bucket, or correct `url`, `endpoint` and `region`.")
        };
        match (status.as_u16(), code) {
            (_, "NoSuchBucket") => Failure::last(bucket()),
            // What is to be created can't be missing.
            (404, "NoSuchKey") if method == Method::PUT => Failure::again(error(ErrorKind::Unavailable)),
            (404, "NoSuchKey") => Failure::last(Error::not_found("no such object")),
            (404, _) => Failure::last(
                error(ErrorKind::Unavailable)
                    .detail("a missing object is answered with the code NoSuchKey, which this is not")
                    .hint("Check that `endpoint` is that of an S3 server: `pgkeep store check` tries it."),
            ),
            (_, "RequestTimeTooSkewed") => {
                Failure::last(error(ErrorKind::Denied).hint("Set this machine's clock, then run `pgkeep doctor`."))
            }
            (
                400,
                "RequestTimeout" | "BadDigest" | "XAmzContentSHA256Mismatch" | "InvalidDigest" | "IncompleteBody",
            ) => Failure::again(error(ErrorKind::Unavailable)),
            (
                _,
                "AuthorizationHeaderMalformed"
                | "PermanentRedirect"
                | "TemporaryRedirect"
                | "IllegalLocationConstraintException",
            )
            | (301 | 302 | 307 | 308, _) => Failure::last(
                error(ErrorKind::Invalid)
                    .hint("The bucket is in another region: set `region`, then run `pgkeep doctor`."),
            ),
            (_, "InvalidObjectState") => Failure::last(
                error(ErrorKind::Unavailable)
                    .hint("The object rests in an archive class: restore it there first, then run this again."),
            ),
            (401 | 403, _) | (400, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId") => {
                Failure::last(error(ErrorKind::Denied).hint(format!(
                    "The credentials come from {}: check them and what they are allowed, with `pgkeep doctor`.",
                    context.credentials
                )))
            }
            (405 | 501, _) => Failure::last(
                error(ErrorKind::Unsupported).hint("See what this store can do with `pgkeep store check`."),
            ),
            (408 | 409 | 425 | 429 | 500..=599, _) => Failure::again(error(ErrorKind::Unavailable)),
            _ => Failure::last(error(ErrorKind::Invalid)),
        }
    }
}

/// Status, code and message as one line, whichever of them there are.
fn answer(status: &StatusCode, code: &str, message: &str) -> String {
    let parts = [status.as_str(), code, message];
    let told: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    told.join(" ")
}

/// Finds out what an error of object_store means.
pub(super) fn failure(error: &object_store::Error, context: &Context) -> Failure {
    if let Some(fault) = fault(error) {
        return fault.failure(context);
    }
    if let Some(ours) = in_chain::<Error>(error) {
        // From our own credential providers, which say it best themselves.
        let mut copy = Error::new(ours.kind(), ours.message());
        if let Some(detail) = ours.detail_text() {
            copy = copy.detail(detail);
        }
        return Failure::last(copy.or_hint(ours.hint_text().unwrap_or("Run `pgkeep doctor`.")));
    }
    if let object_store::Error::InvalidPath { .. } = error {
        return Failure::last(
            Error::invalid("the store holds a name that pgkeep can't have written")
                .detail(error.to_string())
                .hint("Give pgkeep a bucket or a prefix of its own; `pgkeep store check` tries one."),
        );
    }
    Fault::Untrusted(error.to_string()).failure(context)
}

/// The fault that our own transport put into an error of object_store.
pub(super) fn fault(error: &object_store::Error) -> Option<&Fault> {
    in_chain(error)
}

fn in_chain<T: std::error::Error + 'static>(error: &object_store::Error) -> Option<&T> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
