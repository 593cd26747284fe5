//! One error type: what happened, why, and what to do, in PostgreSQL's three words.
//!
//! The kind answers "what can the caller do"; the exit code follows from it. The primary line names the operation
//! that failed, `detail` is the chain of causes, the hint is a full sentence that names a command. A message never
//! contains its source's text, so nothing is printed twice.

use std::fmt;

/// What a caller can do about an error. A new kind needs someone who would handle it differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ErrorKind {
    /// What was named does not exist (exit 5).
    NotFound,
    /// Something else holds the name or the lock (exit 6).
    Conflict,
    /// A database or a store did not answer: retry (exit 7).
    Unavailable,
    /// Credentials or grants do not allow it (exit 7).
    Denied,
    /// The input or configuration is wrong: fix it (exit 2).
    Invalid,
    /// A check before the work said no; nothing was changed (exit 4).
    Refused,
    /// Bytes are not what they must be (exit 8).
    Corrupt,
    /// This build or server can't do it (exit 4).
    Unsupported,
    /// Interrupted from outside (exit 130 or 143).
    Cancelled,
    /// An operation on this machine failed: disk full, permission, I/O (exit 1).
    Io,
    /// A bug in pgkeep (exit 1).
    Internal,
}

/// An error with its kind, its primary line, its cause and the next command to run.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        $( $(#[$doc])* pub fn $name(message: impl Into<String>) -> Error { Error::new(ErrorKind::$kind, message) } )*
    };
}

impl Error {
    /// An error without cause or hint yet.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            detail: None,
            hint: None,
            source: None,
        }))
    }

    constructors! {
        /// What was named does not exist.
        not_found => NotFound,
        /// Something else holds the name or the lock.
        conflict => Conflict,
        /// A database or store did not answer.
        unavailable => Unavailable,
        /// Credentials or grants do not allow it.
        denied => Denied,
        /// The input or configuration is wrong.
        invalid => Invalid,
        /// A check before the work said no; nothing was changed.
        refused => Refused,
        /// Bytes are not what they must be.
        corrupt => Corrupt,
        /// This build or server can't do it.
        unsupported => Unsupported,
        /// Interrupted from outside.
        cancelled => Cancelled,
        /// An operation on this machine failed.
        io => Io,
        /// A bug in pgkeep.
        internal => Internal,
    }

    /// Adds why: facts that the primary line has no room for.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Error {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds what to do next: a full sentence that names a command. Replaces an earlier hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds a hint unless there is one already.
    #[must_use]
    pub fn or_hint(mut self, hint: impl Into<String>) -> Error {
        if self.hint_text().is_none() {
            self.0.hint = Some(hint.into());
        }
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// Puts `what` (a verb phrase: `read base/1/2619`) in front of the chain, keeping kind and hint.
    #[must_use]
    pub fn during(self, what: impl Into<String>) -> Error {
        let outer = Error::new(self.kind(), what);
        outer.source(self)
    }

    /// The same error under another kind, for a caller that knows better what it means.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.0.kind = kind;
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The primary line.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The innermost hint set explicitly, looking from the outside in.
    pub fn hint_text(&self) -> Option<&str> {
        self.0
            .hint
            .as_deref()
            .or_else(|| self.0.source.as_deref()?.downcast_ref::<Error>()?.hint_text())
    }

    /// Everything below the primary line, joined by `: `; `None` if there is nothing.
    pub fn detail_text(&self) -> Option<String> {
        let mut parts: Vec<String> = self.0.detail.iter().cloned().collect();
        let mut next: Option<&(dyn std::error::Error + 'static)> = self.0.source.as_deref().map(|s| s as _);
        while let Some(cause) = next {
            match cause.downcast_ref::<Error>() {
                Some(ours) => parts.extend(std::iter::once(ours.0.message.clone()).chain(ours.0.detail.clone())),
                None => parts.push(cause.to_string()),
            }
            next = cause.source();
        }
        parts.dedup();
        (!parts.is_empty()).then(|| parts.join(": "))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Error {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Error::new(kind, source.to_string())
    }
}

/// Adds context on the way up.
pub trait ResultExt<T> {
    /// Puts a verb phrase in front of an error's chain: `.during(|| format!("read {path}"))?`.
    fn during<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
    /// Adds a hint to an error that has none.
    fn or_hint<S: Into<String>>(self, hint: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn during<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.into().during(what()))
    }

    fn or_hint<S: Into<String>>(self, hint: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.into().or_hint(hint()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_reads_aloud_and_keeps_kind_and_hint() {
        let error = Error::corrupt("checksum mismatch")
            .hint("Run `pgkeep doctor`.")
            .during("read base/16384/2619")
            .during("could not back up cluster \"main\"");
        assert_eq!(error.to_string(), "could not back up cluster \"main\"");
        assert_eq!(error.detail_text().unwrap(), "read base/16384/2619: checksum mismatch");
        assert_eq!(error.hint_text(), Some("Run `pgkeep doctor`."));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
