//! Tries again: bounded in number and in time, with pauses that double and never fall into step with others.

use std::future::Future;
use std::time::Duration;

use pgkeep_base::{Error, Result};
use tokio::time::Instant;

use super::fault::Failure;

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// The bounds on attempts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    /// Attempts after the first.
    pub(super) retries: u32,
    /// No attempt begins later than this after the first.
    pub(super) window: Duration,
    /// One attempt takes no longer.
    pub(super) attempt: Duration,
}

impl Retry {
    /// Runs `attempt` until it succeeds, fails for good, or a bound is reached. `what` names it in errors and logs.
    pub(super) async fn run<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Failure>>,
    {
        let start = Instant::now();
        let mut retries = 0;
        loop {
            let outcome = tokio::time::timeout(self.attempt, attempt()).await;
            let failure = match outcome {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::again(
                    Error::unavailable(format!("it was not done within {} s", self.attempt.as_secs()))
                        .hint("A slow network needs a larger `request_timeout_s`; `pgkeep doctor` measures it."),
                ),
            };
            let pause = pause(retries);
            let in_time = start.elapsed() + pause < self.window;
            if !failure.again || retries >= self.retries || !in_time {
                let tries = match retries {
                    0 => String::new(),
                    n => format!(" ({} attempts in {} s)", n + 1, start.elapsed().as_secs()),
                };
                return Err(failure.error.during(format!("{what}{tries}")));
            }
            retries += 1;
            tracing::debug!(what, retries, error = %failure.error, "trying again");
            tokio::time::sleep(pause).await;
        }
    }
}

/// Between half and all of a time that doubles.
fn pause(retries: u32) -> Duration {
    let whole = PAUSE_FIRST.saturating_mul(1 << retries.min(16)).min(PAUSE_MAX);
    whole.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded() {
        for retries in 0..100 {
            let whole = PAUSE_FIRST.as_millis() << retries.min(16);
            let whole = whole.min(PAUSE_MAX.as_millis());
            let pause = pause(retries).as_millis();
            assert!(
                pause <= whole && pause + 1 >= whole / 2,
                "{retries}: {pause} of {whole} ms"
            );
        }
    }
}
