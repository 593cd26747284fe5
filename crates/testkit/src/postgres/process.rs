//! The postmaster as a child process: start, readiness, every way to end it.
//!
//! Readiness is what `postmaster.pid` says in its eighth line, as `pg_ctl` reads it, so that waiting for it needs no
//! connection and works where none is accepted.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::user::OsUser;
use crate::{reaper, wait};

/// A running postmaster.
#[derive(Debug)]
pub(super) struct Postmaster {
    child: Child,
}

/// What `postmaster.pid` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Readiness {
    /// Starting, stopping, or in recovery before consistency.
    Busy,
    /// In recovery and taking connections (or, with `hot_standby = off`, not).
    Standby,
    /// Open for reading and writing.
    Ready,
}

impl Postmaster {
    /// Starts `command`, a postgres, with its output appended to `log`.
    pub(super) fn spawn(mut command: Command, user: OsUser, log: &Path) -> Postmaster {
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let log_file = open().unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        user.become_by(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(log_file.try_clone().expect("a file descriptor is free"))
            .stderr(log_file)
            .process_group(0);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        reaper::watch_pid(child.id());
        Postmaster { child }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How far it is; `None` once it has ended.
    pub(super) fn readiness(&mut self, data: &Path) -> Option<Readiness> {
        if self.ended().is_some() {
            return None;
        }
        let Ok(file) = fs::read_to_string(data.join("postmaster.pid")) else {
            return Some(Readiness::Busy);
        };
        let lines: Vec<&str> = file.lines().map(str::trim).collect();
        // A file that an earlier, killed postmaster left behind has another pid in its first line.
        if lines.first().copied() != Some(self.pid().to_string().as_str()) {
            return Some(Readiness::Busy);
        }
        Some(match lines.get(7).copied() {
            Some("ready") => Readiness::Ready,
            Some("standby") => Readiness::Standby,
            _ => Readiness::Busy,
        })
    }

    /// Its exit status, if it has ended.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("our own child");
        if status.is_some() {
            reaper::forget_pid(self.pid());
        }
        status
    }

    pub(super) fn signal(&self, signal: Signal) {
        // It may have ended by itself, which the waiting that follows will notice.
        let _ = kill_process(self.as_pid(), signal);
    }

    /// Waits for its end; kills everything at the limit. True if it ended by itself.
    pub(super) fn wait(&mut self, limit: Duration) -> bool {
        let ended = wait::try_until(limit, || self.ended()).is_some();
        if !ended {
            self.kill();
        }
        ended
    }

    /// `kill -9` of the postmaster first, so that it starts nothing new, then of all that it had started.
    /// Returns when they are gone, since PostgreSQL refuses to start beside survivors.
    pub(super) fn kill(&mut self) {
        // Stopped first, so that no child is born between looking and killing.
        self.signal(Signal::STOP);
        let family = descendants(self.pid());
        self.signal(Signal::KILL);
        for pid in &family {
            let _ = kill_process(Pid::from_raw(*pid as i32).expect("a pid is positive"), Signal::KILL);
        }
        self.child.wait().expect("our own child");
        reaper::forget_pid(self.pid());
        wait::until("PostgreSQL's processes to be gone", wait::LIMIT, || {
            family.iter().all(|pid| is_gone(*pid)).then_some(())
        });
    }

    fn as_pid(&self) -> Pid {
        Pid::from_raw(self.pid() as i32).expect("a pid is positive")
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::QUIT);
            self.wait(Duration::from_secs(5));
        }
    }
}

/// Children, grandchildren and so on of `ancestor`, itself excluded.
fn descendants(ancestor: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.1)))
        .collect();
    let mut found = HashSet::from([ancestor]);
    let mut family = Vec::new();
    loop {
        let born: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if born.is_empty() {
            return family;
        }
        found.extend(&born);
        family.extend(born);
    }
}

/// True for what has ended, even where nobody has collected its exit status yet.
fn is_gone(pid: u32) -> bool {
    stat(pid).is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}

/// State and parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
