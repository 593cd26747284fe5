//! What the rooms log, to stderr: warnings and worse, more with `-v`, what `PGKEEP_LOG` says where it is set.
//!
//! Lines of other crates come only with `PGKEEP_LOG` or `-vv`: an operator reads pgkeep's words.

use tracing_subscriber::EnvFilter;

use crate::config::Environment;
use crate::render::Output;

/// Installs the log for this process.
pub fn start(output: &Output, verbose: u8, environment: &Environment) {
    let level = match verbose {
        _ if output.quiet => "error",
        0 => "error,pgkeep=warn",
        1 => "warn,pgkeep=info",
        _ => "info,pgkeep=debug",
    };
    // A target matches by its beginning, so `pgkeep` covers all rooms.
    let filter = environment
        .get("PGKEEP_LOG")
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter);
    // A second installation can only happen in tests, which don't read logs.
    let _ = match output.json {
        true => lines.json().flatten_event(true).try_init(),
        false => lines.with_target(verbose > 0).with_ansi(false).try_init(),
    };
}
