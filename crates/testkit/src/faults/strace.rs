//! Faults from outside, by `strace`: a kill or an error at the N-th system call of a kind.
//!
//! `strace` counts for each thread and each system call by itself, so that `when=3` is met by whichever thread comes
//! to its third call first. The call that is met is not made.
//!
//! pgkeep forbids all others to look at its memory, which hides its paths and open files from `strace` as well. A debug
//! build leaves that out where a variable asks for it.

use std::fs;
use std::path::Path;

use crate::run::{Output, Run};
use crate::scratch::Scratch;

const LOOKED_AT: &str = "PGKEEP_LOOKED_AT";

/// How a program ended under `strace`, and the calls that it made.
#[derive(Debug)]
pub struct Traced {
    /// Its end.
    pub output: Output,
    /// The lines of the trace.
    pub calls: Vec<String>,
}

impl Traced {
    /// The largest number of calls of this name that one thread made.
    pub fn most_by_one_thread(&self, call: &str) -> usize {
        let mut counts: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
        for line in &self.calls {
            if let Some((thread, rest)) = line.split_once(' ')
                && rest.trim_start().starts_with(&format!("{call}("))
            {
                *counts.entry(thread).or_default() += 1;
            }
        }
        counts.into_values().max().unwrap_or(0)
    }

    /// Whether a fault was injected at all.
    pub fn was_hit(&self) -> bool {
        self.calls.iter().any(|line| line.contains("(INJECTED)"))
    }
}

/// A fault at system calls.
#[derive(Clone, Debug)]
pub struct Injection(String);

impl Injection {
    /// Kills the process as it enters the `number`-th call of this name.
    pub fn kill(call: &str, number: usize) -> Injection {
        Injection(format!("inject={call}:signal=SIGKILL:when={number}"))
    }

    /// Fails calls of this name: `when` is `3` for the third one, `3+` for all from there on.
    pub fn error(call: &str, error: &str, when: &str) -> Injection {
        Injection(format!("inject={call}:error={error}:when={when}"))
    }
}

impl std::fmt::Display for Injection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs a program to its end, with all its threads, under these injections; `calls` names what is traced beside them.
/// With paths in `only`, no call counts but those about them.
///
/// # Panics
/// When `strace` is not there: scripts/test installs it.
pub fn run(program: Run, calls: &str, injections: &[Injection], only: &[&Path]) -> Traced {
    let scratch = Scratch::new();
    let log = scratch.join("calls");
    let mut options = vec![
        "-f".to_owned(),
        "-y".to_owned(),
        "-qq".to_owned(),
        "-o".to_owned(),
        log.display().to_string(),
    ];
    options.extend(["-e".to_owned(), format!("trace={calls}")]);
    for injection in injections {
        options.extend(["-e".to_owned(), injection.0.clone()]);
    }
    for path in only {
        options.extend(["-P".to_owned(), path.display().to_string()]);
    }
    options.push("--".to_owned());
    assert!(
        Path::new("/usr/bin/strace").exists(),
        "strace is not there: install Debian's package of that name"
    );
    let program = program.env(LOOKED_AT, "1");
    let output = program.under("/usr/bin/strace", options).run();
    let calls = fs::read_to_string(&log).unwrap_or_default();
    Traced {
        output,
        calls: calls.lines().map(str::to_owned).collect(),
    }
}
