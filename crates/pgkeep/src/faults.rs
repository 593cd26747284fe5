//! Arms the failpoints of a debug build, for tests: `PGKEEP_FAILPOINT=trace:FILE`, `kill:POINT`, `eio:POINT`,
//! `enospc:POINT`.
//!
//! `trace` appends a line to FILE for every point that is reached, in order: the name of the point, `#`, and how often
//! it was reached by then. Such a line is a POINT: there the process kills itself, or the step fails once. Invariant: a
//! release build holds nothing of this (`pgkeep_base::failpoint`), and only this file reads the variables.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::Mutex;

use pgkeep_base::{Error, Result, ResultExt, failpoint};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use crate::config::Environment;

const VARIABLE: &str = "PGKEEP_FAILPOINT";
const LOOKED_AT: &str = "PGKEEP_LOOKED_AT";

enum Mode {
    Trace(Mutex<File>),
    Kill(String),
    Fail(String, Errno),
}

/// Whether `strace` is to see paths and open files.
pub fn is_looked_at(environment: &Environment) -> bool {
    environment.get(LOOKED_AT).is_some()
}

/// Arms them, where the environment asks for it.
///
/// # Errors
/// `Invalid` for what can't be meant: a test that injects nothing would prove nothing.
pub fn arm(environment: &Environment) -> Result<()> {
    let Some(text) = environment.get(VARIABLE) else {
        return Ok(());
    };
    let mode = parse(text)?;
    let reached: Mutex<HashMap<&'static str, u32>> = Mutex::default();
    failpoint::arm(Box::new(move |name| {
        let mut reached = reached.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = reached.entry(name).or_default();
        *count += 1;
        mode.reach(&format!("{name}#{count}"))
    }));
    Ok(())
}

fn parse(text: &str) -> Result<Mode> {
    let (mode, argument) = text.split_once(':').unwrap_or((text, ""));
    let point = argument.to_owned();
    match mode {
        "trace" => {
            let file = OpenOptions::new().create(true).append(true).open(argument);
            Ok(Mode::Trace(Mutex::new(
                file.during(|| format!("open the trace {argument}"))?,
            )))
        }
        "kill" => Ok(Mode::Kill(point)),
        "eio" => Ok(Mode::Fail(point, Errno::IO)),
        "enospc" => Ok(Mode::Fail(point, Errno::NOSPC)),
        _ => Err(Error::invalid(format!("{VARIABLE} is not understood: {text}"))
            .hint("It is for the tests of pgkeep itself: unset it.")),
    }
}

impl Mode {
    fn reach(&self, point: &str) -> io::Result<()> {
        match self {
            Mode::Trace(file) => {
                let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                file.write_all(format!("{point}\n").as_bytes())
            }
            Mode::Kill(wanted) if wanted == point => die(),
            Mode::Fail(wanted, errno) if wanted == point => Err((*errno).into()),
            Mode::Kill(_) | Mode::Fail(..) => Ok(()),
        }
    }
}

fn die() -> ! {
    // Not even a destructor runs.
    let _ = kill_process(getpid(), Signal::KILL);
    unreachable!("the signal can't be caught")
}
