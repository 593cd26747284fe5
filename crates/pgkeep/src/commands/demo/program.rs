//! Runs a program to its end, and writes commands as a shell reads them.
//!
//! Invariant: a program that is no longer waited for is ended before anything else happens, with all that it started
//! in its process group; a signal from the terminal reaches it only through us. What it says goes to files: a server
//! that it leaves running may keep them open.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgkeep_base::{Error, Result, ResultExt};
use pgkeep_pg::server::Account;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::process::Child;

/// No step takes nearly as long.
const LIMIT: Duration = Duration::from_secs(300);
/// How long a program may take to end when it is asked to.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of what a program said is read.
const SAID_BYTES_MAX: u64 = 4 << 20;

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program as `account` until it ends.
///
/// # Errors
/// `Io` where it can't be started; how it ends is for the caller to judge. Cancellation ends the program.
pub async fn run(mut command: Command, account: &Account) -> Result<Said> {
    let name = command.get_program().to_string_lossy().into_owned();
    let file = || tempfile::tempfile().during(|| "create a temporary file");
    let (mut stdout, mut stderr) = (file()?, file()?);
    let share = |file: &File| file.try_clone().during(|| "share a temporary file");
    command
        .stdin(Stdio::null())
        .stdout(share(&stdout)?)
        .stderr(share(&stderr)?)
        .process_group(0);
    account.apply(&mut command);
    let child = tokio::process::Command::from(command)
        .spawn()
        .during(|| format!("start {name}"))?;
    let mut running = Running(child);
    let waited = tokio::time::timeout(LIMIT, running.0.wait()).await;
    let Ok(status) = waited else {
        let error = Error::unavailable(format!("{name} did not end within {} s", LIMIT.as_secs()));
        return Err(error.detail(read(&mut stderr)));
    };
    Ok(Said {
        code: status.during(|| format!("wait for {name}"))?.code(),
        stdout: read(&mut stdout),
        stderr: read(&mut stderr),
    })
}

fn read(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // What can't be read back is only missing in messages.
    let _ = file
        .rewind()
        .and_then(|()| file.take(SAID_BYTES_MAX).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A program that is being waited for; ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Once it was waited for, its number may be another's.
        let Some(group) = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
            return;
        };
        let deadline = Instant::now() + TERMINATE_TIMEOUT;
        let _ = kill_process_group(group, Signal::TERM);
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = kill_process_group(group, Signal::KILL);
            }
            if Instant::now() > deadline + TERMINATE_TIMEOUT {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The command as a shell reads it, for the user who runs the demo.
pub fn shell(command: &Command, account: &Account) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| quote(&word.to_string_lossy())).collect();
    let is_us = account.uid() == rustix::process::geteuid().as_raw();
    match account.name().filter(|_| !is_us) {
        Some(name) => format!("runuser -u {} -- {}", quote(name), words.join(" ")),
        None => words.join(" "),
    }
}

/// A word as a shell reads it.
pub fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Takes exit 0 alone for success.
pub fn expect_success(said: Said, what: &str) -> Result<Said> {
    if said.code == Some(0) {
        return Ok(said);
    }
    let how = match said.code {
        Some(code) => format!("ended with exit code {code}"),
        None => "was killed".to_owned(),
    };
    let words = error_of_document(&said.stdout).unwrap_or_else(|| last_lines(&said.stderr));
    Err(Error::io(format!("{what} {how}")).detail(words))
}

/// The error in the document that pgkeep prints with `--json`, in the words that it has without.
fn error_of_document(stdout: &str) -> Option<String> {
    let document: Value = serde_json::from_str(stdout).ok()?;
    let line = |label: &str, key: &str| Some(format!("{label}: {}", document["error"][key].as_str()?));
    let lines = [("error", "message"), ("detail", "detail"), ("hint", "hint")];
    let lines: Vec<String> = lines.iter().filter_map(|(label, key)| line(label, key)).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The end of what a program complained about.
fn last_lines(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_says_what_it_says_and_ends_as_it_ends() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 4"]);
        let said = run(command, &Account::current()).await.unwrap();
        assert_eq!(
            (said.code, said.stdout.as_str(), said.stderr.as_str()),
            (Some(4), "out\n", "err\n")
        );
    }

    /// Aim: nothing that a cut-off step started goes on.
    /// Method: a shell whose child would make a file; the step is cut off before.
    #[tokio::test]
    async fn a_program_that_is_not_waited_for_ends_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let [begun, late] = ["begun", "late"].map(|name| dir.path().join(name));
        let script = format!(
            "(touch {}; sleep 0.6; touch {}) & wait",
            begun.display(),
            late.display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        let account = Account::current();
        let running = run(command, &account);
        tokio::time::timeout(Duration::from_millis(300), running)
            .await
            .unwrap_err();
        std::thread::sleep(Duration::from_millis(600));
        assert!(begun.exists() && !late.exists());
    }

    #[test]
    fn a_shell_reads_the_words_back() {
        assert_eq!(quote("/tmp/a-b_c=1:2"), "/tmp/a-b_c=1:2");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn a_failure_is_told_in_the_words_of_the_program() {
        let said = |stdout: &str, stderr: &str| Said {
            code: Some(7),
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        let plain = expect_success(said("", "one\n\ntwo\n"), "psql").unwrap_err();
        assert_eq!(plain.message(), "psql ended with exit code 7");
        assert_eq!(plain.detail_text().as_deref(), Some("one\ntwo"));
        let document = r#"{"error":{"message":"no","detail":null,"hint":"Do."}}"#;
        let json = expect_success(said(document, "{}"), "pgkeep").unwrap_err();
        assert_eq!(json.detail_text().as_deref(), Some("error: no\nhint: Do."));
    }
}
