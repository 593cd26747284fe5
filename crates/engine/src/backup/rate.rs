//! Holds reading to a rate.
//!
//! Invariant: all workers together stay below the rate, whatever their number; who waits holds no lock.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A budget of bytes per second, shared by all workers.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: Option<u64>,
    next_free: Mutex<Instant>,
}

impl Rate {
    /// `None` is no limit.
    pub fn new(bytes_per_second: Option<u64>) -> Rate {
        Rate {
            bytes_per_second: bytes_per_second.filter(|rate| *rate > 0),
            next_free: Mutex::new(Instant::now()),
        }
    }

    /// Waits until that many bytes may be read.
    pub fn spend(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let wait = {
            let mut next_free = self.next_free.lock().expect("no holder of the rate panics");
            let now = Instant::now();
            let begin = (*next_free).max(now);
            *next_free = begin + cost;
            begin.saturating_duration_since(now)
        };
        std::thread::sleep(wait);
    }
}
