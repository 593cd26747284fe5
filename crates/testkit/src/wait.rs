//! Waiting for a condition with a limit, the only place of the tests that sleeps.
//!
//! Rule: a wait ends at once when its condition holds and panics with what it waited for when the limit is over.

use std::time::{Duration, Instant};

/// What is polled and does not come within this time never comes.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Polls `probe` until it gives a value.
///
/// # Panics
/// After `limit`, naming `what` was awaited.
pub fn until<T>(what: &str, limit: Duration, probe: impl FnMut() -> Option<T>) -> T {
    try_until(limit, probe).unwrap_or_else(|| panic!("waited {} s for {what} in vain", limit.as_secs()))
}

/// Polls `probe` until it gives a value; `None` after `limit`. The pause grows from 1 to 25 ms.
pub fn try_until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if begun.elapsed() > limit {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(25));
    }
}
