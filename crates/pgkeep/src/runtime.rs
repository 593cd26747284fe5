//! Runs an operation until it ends or a signal ends it.
//!
//! Invariant: the first SIGINT or SIGTERM drops the operation, which every operation allows at any moment; the second
//! ends the process at once. `wal fetch` does not come here: it dies of its signals, as PostgreSQL expects.

use std::future::Future;
use std::time::Duration;

use pgkeep_base::{Error, Result, ResultExt};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit;

/// How long blocking work that was cut off may take to notice it.
const WIND_DOWN: Duration = Duration::from_secs(5);

/// How many threads an operation gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// One, this one: starts fastest.
    Current,
    /// Two workers, and more for blocking work.
    Two,
}

/// Runs `operation`; `Cancelled` where a signal came first.
pub fn run<T>(threads: Threads, operation: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime(threads)?;
    let result = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).during(|| "listen for signals")?;
        let mut terminate = signal(SignalKind::terminate()).during(|| "listen for signals")?;
        tokio::select! {
            result = operation => result,
            _ = interrupt.recv() => Err(cancelled(2, "interrupted")),
            _ = terminate.recv() => Err(cancelled(15, "terminated")),
        }
    });
    runtime.shutdown_timeout(WIND_DOWN);
    result
}

/// Runs `operation` on this thread, leaving signals as they are.
pub fn run_bare<T>(operation: impl Future<Output = T>) -> Result<T> {
    Ok(runtime(Threads::Current)?.block_on(operation))
}

fn runtime(threads: Threads) -> Result<Runtime> {
    let mut builder = match threads {
        Threads::Current => Builder::new_current_thread(),
        Threads::Two => Builder::new_multi_thread(),
    };
    if threads == Threads::Two {
        builder.worker_threads(2);
    }
    builder.enable_all().build().during(|| "start the runtime")
}

fn cancelled(number: u8, what: &str) -> Error {
    exit::note_signal(number);
    end_at_next_signal();
    Error::cancelled(what).detail("nothing half-done is visible; running again is safe")
}

/// Waits, beside the winding down, for somebody who does not want to wait.
fn end_at_next_signal() {
    let wait = async |kind: SignalKind, number: i32| {
        if let Ok(mut signals) = signal(kind) {
            signals.recv().await;
            std::process::exit(128 + number);
        }
    };
    let listen = move || {
        if let Ok(runtime) = runtime(Threads::Current) {
            runtime
                .block_on(async { tokio::join!(wait(SignalKind::interrupt(), 2), wait(SignalKind::terminate(), 15)) });
        }
    };
    // Without the thread the winding down can't be cut short, but it is short anyway.
    let _ = std::thread::Builder::new().name("signals".into()).spawn(listen);
}
