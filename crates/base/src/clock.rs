//! Time as a dependency: no room but this one asks the operating system what time it is.
//!
//! Invariant: times that are stored, signed or compared with stored ones come from a [`Clock`] that was handed in.
//! How long something may take is measured by the monotonic clock, where it is waited for.

use jiff::Timestamp;

/// Tells the time. Tests and simulations bring their own.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;
}

/// The clock of the operating system.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
