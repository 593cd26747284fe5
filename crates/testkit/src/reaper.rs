//! Ends servers and removes directories that a dead test process left behind.
//!
//! A test binary can be killed or can call `exit` where no destructor runs. So one small shell holds the reading end
//! of a pipe whose writing end only this process has: at its end the shell ends what is still registered.
//! (`PR_SET_PDEATHSIG` won't do: it fires when the *thread* that started the server ends, and each test is a thread.)
//! Invariant: only processes that we started are ended; a pid counts only together with its start time.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
pids= paths= mounts=
without() { drop=$1; shift; for word; do [ "$word" = "$drop" ] || printf ' %s' "$word"; done; }
began() { stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1; set -- ${stat##*) }; printf '%s' "${20}"; }
while read -r verb what; do
  case $verb in
    +pid) pids="$pids $what:$(began "$what")" ;;
    -pid) for entry in $pids; do [ "${entry%%:*}" != "$what" ] || pids=$(without "$entry" $pids); done ;;
    +path) paths="$paths $what" ;;
    +mount) mounts="$mounts $what" ;;
    -mount) mounts=$(without "$what" $mounts) ;;
    -path) paths=$(without "$what" $paths) ;;
  esac
done
alive=
for entry in $pids; do
  pid=${entry%%:*}
  [ "$(began "$pid")" = "${entry#*:}" ] && kill -QUIT "$pid" 2>/dev/null && alive="$alive $entry"
done
for turn in 1 2 3 4 5 6 7 8 9 10; do
  still=
  for entry in $alive; do [ "$(began "${entry%%:*}")" = "${entry#*:}" ] && still=yes; done
  [ -n "$still" ] || break
  sleep 0.1
done
for entry in $alive; do
  pid=${entry%%:*}
  [ "$(began "$pid")" = "${entry#*:}" ] && kill -KILL "$pid" 2>/dev/null
done
for mount in $mounts; do umount -l "$mount"; done
if [ "$PGKEEP_TEST_KEEP" != 1 ]; then for path in $paths; do rm -rf "$path"; done; fi
exit 0
"#;

/// Ends `pid` when this process dies: SIGQUIT, a second later SIGKILL.
pub fn watch_pid(pid: u32) {
    tell(&format!("+pid {pid}"));
}

/// `pid` has ended or been ended.
pub fn forget_pid(pid: u32) {
    tell(&format!("-pid {pid}"));
}

/// Removes `path` with all below it when this process dies.
pub fn watch_path(path: &Path) {
    tell(&format!("+path {}", plain(path)));
}

/// `path` is gone or shall stay.
pub fn forget_path(path: &Path) {
    tell(&format!("-path {}", plain(path)));
}

/// Unmounts `path` when this process dies.
pub fn watch_mount(path: &Path) {
    tell(&format!("+mount {}", plain(path)));
}

/// `path` is unmounted.
pub fn forget_mount(path: &Path) {
    tell(&format!("-mount {}", plain(path)));
}

/// Scratch paths are words for the shell: what else is asked for is a mistake of the caller.
fn plain(path: &Path) -> &str {
    let text = path.to_str().expect("scratch paths are UTF-8");
    assert!(
        text.starts_with('/') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)),
        "the reaper can't take the path {text}: set PGKEEP_TEST_DIR to a plain absolute one"
    );
    text
}

fn tell(line: &str) {
    static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let pipe = PIPE.get_or_init(|| Mutex::new(start()));
    let mut pipe = pipe.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    writeln!(pipe, "{line}").expect("the reaper lives as long as this process");
}

#[expect(clippy::zombie_processes, reason = "it outlives this process by design")]
fn start() -> ChildStdin {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "pgkeep-reaper"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()
        .expect("/bin/sh starts");
    shell.stdin.take().expect("stdin was asked to be piped")
}

#[cfg(test)]
mod tests {
    use crate::postgres::Cluster;
    use crate::run::Run;
    use crate::wait;

    /// Not a claim by itself: what the next test runs in a process of its own.
    #[test]
    fn a_process_that_dies_with_a_cluster() {
        if std::env::var_os("REAPER_DIES").is_none() {
            return;
        }
        let cluster = Cluster::builder(17).start();
        println!(
            "started {} {}",
            cluster.pid().unwrap(),
            cluster.scratch().path().display()
        );
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    }

    /// Aim: a test process that is killed leaves no server and no directory behind.
    #[test]
    fn nothing_outlives_a_killed_test_process() {
        let mut child = Run::new(std::env::current_exe().unwrap()).env("REAPER_DIES", "1");
        for passed in ["PGKEEP_PG_DIR", "PGKEEP_CACHE", "HOME"] {
            if let Some(value) = std::env::var_os(passed) {
                child = child.env(passed, value);
            }
        }
        let output = child
            .args([
                "--exact",
                "reaper::tests::a_process_that_dies_with_a_cluster",
                "--nocapture",
            ])
            .run();
        assert_eq!(output.signal, Some(9), "{output}");
        let words: Vec<&str> = output
            .stdout
            .split_once("started ")
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let (process, dir) = (format!("/proc/{}", words[0]), words[1]);
        let gone = |path: &str| !std::path::Path::new(path).exists();
        wait::until("the reaper", wait::LIMIT, || {
            (gone(&process) && gone(dir)).then_some(())
        });
    }
}
