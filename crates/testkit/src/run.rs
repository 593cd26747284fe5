//! Runs a program to its end: captured output, a time limit, any user.
//!
//! Invariant: nothing of the caller's environment leaks in but what [`Run::new`] lists, and no program outlives its
//! limit. Output goes through files, not pipes, so that a server which the program leaves running can't hold us up.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process, kill_process_group};

pub use rustix::process::Signal;

use crate::reaper;
use crate::user::OsUser;
use crate::wait;

/// The largest time that a program gets unless [`Run::limit`] says otherwise.
const LIMIT: Duration = Duration::from_secs(120);

/// A program to run, in the manner of `std::process::Command`.
#[derive(Debug)]
pub struct Run {
    command: Command,
    shown: String,
    stdin: Option<Vec<u8>>,
    user: OsUser,
    limit: Duration,
}

impl Run {
    /// `program` without arguments, in `/`, as the current user, with `PATH` and a C locale as its environment.
    pub fn new(program: impl AsRef<Path>) -> Run {
        let program = program.as_ref();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/");
        for passed in ["RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            command.envs(std::env::var_os(passed).map(|value| (passed, value)));
        }
        Run {
            command,
            shown: program.display().to_string(),
            stdin: None,
            user: OsUser::current(),
            limit: LIMIT,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.shown = format!("{} {}", self.shown, arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Run {
        args.into_iter().fold(self, Run::arg)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Run {
        self.command.env(name.into(), value.into());
        self
    }

    /// Starts in `dir` instead of `/`.
    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Run {
        self.command.current_dir(dir);
        self
    }

    /// Gives it `bytes` to read; without, its standard input is empty.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.stdin = Some(bytes.into());
        self
    }

    /// Runs as `user`; anyone but oneself needs root.
    #[must_use]
    pub fn as_user(mut self, user: OsUser) -> Run {
        self.user = user;
        self
    }

    /// Lets another program run it: `wrapper`, these arguments, then the program with its own.
    #[must_use]
    pub fn under<S: AsRef<OsStr>>(mut self, wrapper: &str, args: impl IntoIterator<Item = S>) -> Run {
        let mut outer = Command::new(wrapper);
        let inner = &self.command;
        outer
            .env_clear()
            .args(args)
            .arg(inner.get_program())
            .args(inner.get_args());
        outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inner.get_current_dir().map(|dir| outer.current_dir(dir));
        self.command = outer;
        self
    }

    /// Kills it, with its children, after `limit` (120 s by default).
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// When the program can't be started, or had to be killed at its limit.
    pub fn run(self) -> Output {
        self.start().wait()
    }

    /// Starts it; the caller looks at it, signals it, and waits.
    ///
    /// # Panics
    /// When the program can't be started.
    pub fn spawn(self) -> Running {
        let running = self.start();
        reaper::watch_pid(running.pid());
        running
    }

    fn start(mut self) -> Running {
        let (stdout, stderr) = (capture(), capture());
        self.user.become_by(&mut self.command);
        self.command
            .stdin(self.stdin.as_deref().map_or_else(Stdio::null, input))
            .stdout(stdout.try_clone().expect("a file descriptor is free"))
            .stderr(stderr.try_clone().expect("a file descriptor is free"))
            .process_group(0);
        let begun = Instant::now();
        let child = self.command.spawn();
        let child = child.unwrap_or_else(|error| panic!("start {}: {error}", self.shown));
        Running {
            child,
            shown: self.shown,
            limit: self.limit,
            begun,
            stdout,
            stderr,
        }
    }
}

/// A program that was started and not waited for yet; dropping it kills it with its children.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    limit: Duration,
    begun: Instant,
    stdout: File,
    stderr: File,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Sends a signal to it alone; nothing to do for one that has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            kill_process(group_of(&self.child), signal).expect("our own child");
        }
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        let path = format!("/proc/self/fd/{}", self.stderr.as_raw_fd());
        String::from_utf8_lossy(&std::fs::read(path).expect("our own file")).into_owned()
    }

    /// A line of `/proc/<pid>/<file>` that begins with `label`, as a number: `("status", "VmHWM:")` is the peak of its
    /// memory in KiB, `("io", "rchar:")` how many bytes it has read. `None` once it has ended.
    pub fn proc_number(&self, file: &str, label: &str) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.pid())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(label))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Whether it is connected to this port of 127.0.0.1, of a server that may not answer.
    pub fn is_connected_to(&self, port: u16) -> bool {
        // A line: its number, our address, the other one, the state, …; the tenth word is the socket's inode.
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux shows its connections");
        let to = format!("0100007F:{port:04X}");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let connections = table
            .lines()
            .map(words)
            .filter(|words| words[2] == to && words[3] == "01");
        let sockets: Vec<String> = connections.map(|words| format!("socket:[{}]", words[9])).collect();
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .into_iter()
            .flatten();
        let mut links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
        links.any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it had to be killed at its limit.
    pub fn wait(mut self) -> Output {
        let status = end_of(&mut self.child, self.limit);
        let output = Output {
            shown: self.shown.clone(),
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            stdout: text_of(&self.stdout),
            stderr: text_of(&self.stderr),
            elapsed: self.begun.elapsed(),
        };
        assert!(status.is_some(), "killed after {} s: {output}", self.limit.as_secs());
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            end_of(&mut self.child, Duration::ZERO);
        }
        reaper::forget_pid(self.pid());
    }
}

fn group_of(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32).expect("a pid is positive")
}

/// Waits for the end; kills the process group and gives `None` at the limit.
fn end_of(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let ended = wait::try_until(limit, || child.try_wait().expect("our own child"));
    if ended.is_none() {
        // It may have ended by itself just now, which is what we want.
        let _ = kill_process_group(group_of(child), Signal::KILL);
        child.wait().expect("our own child");
    }
    ended
}

fn capture() -> File {
    tempfile::tempfile().expect("an anonymous file in the temporary directory")
}

fn input(bytes: &[u8]) -> Stdio {
    let mut file = capture();
    file.write_all(bytes)
        .and_then(|()| file.rewind())
        .expect("our own file");
    file.into()
}

fn text_of(mut file: &File) -> String {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .expect("our own file");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How a program ended and what it said.
#[derive(Clone, Debug)]
pub struct Output {
    shown: String,
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
}

impl Output {
    /// Itself, if the exit code is 0.
    ///
    /// # Panics
    /// Otherwise, with the command line and all its output.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.expect(0)
    }

    /// Itself, if the exit code is `code`.
    ///
    /// # Panics
    /// Otherwise, with the command line and all its output.
    #[track_caller]
    pub fn expect(self, code: i32) -> Output {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Standard output as the one JSON document that it must be.
    ///
    /// # Panics
    /// When it isn't.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not one JSON document: {error}\n{self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "killed".to_owned(),
        };
        write!(f, "$ {}\n{end} after {:.1} s\n", self.shown, self.elapsed.as_secs_f32())?;
        write!(
            f,
            "stdout:\n{}\nstderr:\n{}",
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_reads_its_input_and_its_end_is_told() {
        let cat = Run::new("/bin/cat").stdin("hello").run().ok();
        assert_eq!(cat.stdout, "hello");
        let output = Run::new("/bin/sh").args(["-c", "echo no >&2; exit 3"]).run().expect(3);
        assert_eq!((output.stderr.as_str(), output.signal), ("no\n", None));
        let killed = Run::new("/bin/sh").args(["-c", "kill -9 $$"]).run();
        assert_eq!((killed.code, killed.signal), (None, Some(9)));
    }

    #[test]
    fn only_a_named_environment_is_passed_on() {
        let output = Run::new("/usr/bin/env").env("ONE", "1").run().ok();
        assert!(output.stdout.contains("ONE=1\n"), "{output}");
        assert!(!output.stdout.contains("CARGO"), "{output}");
    }

    #[test]
    fn root_can_step_down() {
        let output = Run::new("/usr/bin/id")
            .arg("-u")
            .as_user(OsUser::unprivileged())
            .run()
            .ok();
        assert_ne!(output.stdout.trim(), "0");
    }

    #[test]
    fn a_running_program_is_looked_at_and_signalled() {
        let mut sleep = Run::new("/bin/sh")
            .args(["-c", "echo begun >&2; exec sleep 60"])
            .spawn();
        wait::until("its first word", LIMIT, || (sleep.stderr() == "begun\n").then_some(()));
        assert!(sleep.proc_number("status", "VmHWM:").unwrap() > 0);
        sleep.signal(Signal::TERM);
        assert_eq!(sleep.wait().signal, Some(15));
    }

    #[test]
    fn a_connection_is_seen_although_nobody_answers() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; exec sleep 60");
        let client = Run::new("/bin/bash").args(["-c", &script]).spawn();
        wait::until("its connection", LIMIT, || client.is_connected_to(port).then_some(()));
        let other = Run::new("/bin/sleep").arg("60").spawn();
        assert!(!other.is_connected_to(port));
    }

    #[test]
    #[should_panic(expected = "killed after 0 s")]
    fn nothing_outlives_its_limit() {
        Run::new("/bin/sh")
            .args(["-c", "sleep 60"])
            .limit(Duration::from_millis(100))
            .run();
    }
}
