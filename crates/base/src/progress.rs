//! What an operation tells while it runs. The engine emits, the binary shows; neither knows the other.

use std::fmt::Debug;

/// One thing that happened during an operation.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A phase began; `bytes_total` is an estimate where it is known.
    Phase {
        /// Verb phrase, such as `copy data files`.
        name: String,
        /// Bytes that the phase will go through.
        bytes_total: Option<u64>,
    },
    /// Bytes done in the current phase since it began.
    Bytes {
        /// So many.
        done: u64,
    },
    /// Something an operator should read; changes no exit code.
    Note {
        /// One sentence.
        message: String,
    },
    /// This run's result is impaired (exit 3).
    Warning {
        /// One sentence.
        message: String,
    },
}

/// Receives events; must be cheap and must not block.
pub trait Progress: Send + Sync + Debug {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// Drops every event.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event) {}
}
