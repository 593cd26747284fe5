//! Questions to a person, on a terminal only.
//!
//! Invariant: off a terminal nothing is asked; what is missing then is named as the flag that gives it (exit 2).

use std::io::{BufRead, Write};

use pgkeep_base::{Error, Result, ResultExt};

use crate::render::Output;

/// Asks for a text; an empty answer takes the default.
///
/// # Errors
/// `Invalid`, naming `flag`, off a terminal; `Cancelled` where the answer is the end of input.
pub fn ask(output: &Output, question: &str, default: &str, flag: &str) -> Result<String> {
    if !output.interactive {
        return Err(missing(flag));
    }
    let hint = if default.is_empty() {
        String::new()
    } else {
        format!(" [{default}]")
    };
    let answer = read(&format!("{question}{hint}: "))?;
    Ok(if answer.is_empty() { default.to_owned() } else { answer })
}

/// Asks yes or no; an empty answer takes the default.
pub fn agree(output: &Output, question: &str, default: bool, flag: &str) -> Result<bool> {
    if !output.interactive {
        return Err(missing(flag));
    }
    let choices = if default { "Y/n" } else { "y/N" };
    loop {
        match read(&format!("{question} [{choices}]: "))?.to_lowercase().as_str() {
            "" => return Ok(default),
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => {}
        }
    }
}

/// The error for what can't be asked.
pub fn missing(flag: &str) -> Error {
    Error::invalid(format!("{flag} is missing"))
        .detail("without a terminal nothing is asked")
        .hint(format!("Add {flag}; `pgkeep help` shows every command's flags."))
}

fn read(prompt: &str) -> Result<String> {
    let mut stderr = std::io::stderr();
    stderr
        .write_all(prompt.as_bytes())
        .and_then(|()| stderr.flush())
        .during(|| "ask a question")?;
    let mut line = String::new();
    let bytes = std::io::stdin()
        .lock()
        .read_line(&mut line)
        .during(|| "read the answer")?;
    if bytes == 0 {
        return Err(Error::cancelled("the question was not answered").detail("nothing was changed by it"));
    }
    Ok(line.trim().to_owned())
}
