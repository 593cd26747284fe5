//! Tells whether a server runs on a data directory, from `postmaster.pid` and from the process it names.
//!
//! Invariant: "not running" is said only when the file is absent or its process is provably no PostgreSQL of this
//! directory; doubt counts as running. A server in another container, whose processes can't be seen from here, is the
//! exception that no process on this machine can tell. File format: `src/include/utils/pidfile.h`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::{Error, Result, ResultExt};
use rustix::process::{Pid, test_kill_process};

/// Names of the server's program.
const NAMES: [&str; 3] = ["postgres", "postmaster", "edb-postgres"];
/// The file that a server keeps in its data directory while it runs.
const FILE: &str = "postmaster.pid";

/// A running server, as its `postmaster.pid` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postmaster {
    /// The process.
    pub pid: i32,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// `None` for a single-user session.
    pub port: Option<u16>,
    /// The first of its socket directories.
    pub socket_dir: Option<PathBuf>,
    /// How far it is.
    pub status: Status,
}

impl Postmaster {
    /// Where its program lies; `None` where we may not see that (another user's process).
    pub fn program_dir(&self) -> Option<PathBuf> {
        let program = std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok()?;
        program.parent().map(Path::to_owned)
    }
}

/// The last line of `postmaster.pid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not accepting connections yet.
    Starting,
    /// Shutting down.
    Stopping,
    /// Accepting connections; in recovery that means consistent, with `hot_standby` on.
    Ready,
    /// Recovering, without `hot_standby`: accepts no connections until recovery ends.
    Standby,
    /// The server has not said yet.
    Unknown,
}

/// The server that runs on a data directory; `None` if there is none, also when a crashed one left its file.
///
/// # Errors
/// `Refused` when the file can't be understood: a server may be starting.
pub fn is_running(data_dir: &Path) -> Result<Option<Postmaster>> {
    let mut text = String::new();
    for attempt in 0..3 {
        if attempt > 0 {
            // A server that starts right now creates the file a moment before it fills it.
            std::thread::sleep(Duration::from_millis(30));
        }
        match std::fs::read_to_string(data_dir.join(FILE)) {
            Ok(read) => text = read,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).during(|| format!("read {}", data_dir.join(FILE).display())),
        }
        if let Some(postmaster) = parse(&text) {
            return Ok(Some(postmaster).filter(|found| serves(found.pid, data_dir)));
        }
    }
    Err(
        Error::refused(format!("a server may be starting on {}", data_dir.display()))
            .detail(format!("its {FILE} can't be understood: \"{}\"", text.escape_debug()))
            .hint(format!(
                "If no PostgreSQL runs there, remove {} and run `pgkeep` again.",
                data_dir.join(FILE).display()
            )),
    )
}

/// Reads the file; `None` while its first line isn't there.
fn parse(text: &str) -> Option<Postmaster> {
    let (first, rest) = text.split_once('\n')?;
    let pid: i32 = first.trim().parse().ok()?;
    let mut lines = rest.lines().map(str::trim).skip(1);
    let started_at = lines
        .next()
        .and_then(|line| Timestamp::from_second(line.parse().ok()?).ok());
    let port = lines.next().and_then(|line| line.parse().ok()).filter(|_| pid > 0);
    let socket_dir = lines.next().filter(|line| !line.is_empty()).map(PathBuf::from);
    let status = match lines.nth(2) {
        Some("starting") => Status::Starting,
        Some("stopping") => Status::Stopping,
        Some("ready") => Status::Ready,
        Some("standby") => Status::Standby,
        _ => Status::Unknown,
    };
    (pid != 0).then_some(Postmaster {
        // A single-user session writes its number negative.
        pid: pid.checked_abs()?,
        started_at,
        port,
        socket_dir,
        status,
    })
}

/// Whether process `pid` is a PostgreSQL that works in `data_dir`.
fn serves(pid: i32, data_dir: &Path) -> bool {
    if !is_alive(pid) || pid.unsigned_abs() == std::process::id() {
        return false;
    }
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let comm = std::fs::read_to_string(proc.join("comm"));
    let Ok(name) = comm else {
        // No /proc to ask: it lives, so it counts.
        return true;
    };
    if !NAMES.contains(&name.trim()) {
        return false;
    }
    // A server works in its data directory. The numbers are compared, as mounts give a directory several names.
    let place = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    match (place(&proc.join("cwd")), place(data_dir)) {
        (Ok(works_in), Ok(here)) => works_in == here,
        _ => true,
    }
}

/// The data directory, other than `data_dir`, of a running server that has `location` as a tablespace or as its `pg_wal`.
///
/// Servers of other users may not be seen; only root sees all.
pub fn server_using(location: &Path, data_dir: &Path) -> Option<PathBuf> {
    let place = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let (wanted, own) = (place(location)?, place(data_dir));
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut directories: Vec<PathBuf> = processes
        .filter(|process| is_postgresql(&process.path()))
        .filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok())
        .filter(|directory| place(directory) != own)
        .collect();
    directories.sort();
    directories.dedup();
    directories.into_iter().find(|directory| {
        let links = std::fs::read_dir(directory.join("pg_tblspc")).into_iter().flatten();
        links
            .filter_map(Result::ok)
            .any(|link| place(&link.path()) == Some(wanted))
    })
}

fn is_postgresql(process: &Path) -> bool {
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    NAMES.contains(&name.trim())
}

/// Whether a process exists and is not a zombie.
pub(super) fn is_alive(pid: i32) -> bool {
    let Some(number) = Pid::from_raw(pid) else {
        return false;
    };
    if matches!(test_kill_process(number), Err(rustix::io::Errno::SRCH)) {
        return false;
    }
    // `<pid> (<name>) <state> …`: the name may hold anything, so the last parenthesis counts.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "4711\n/data\n1763600000\n5433\n/tmp/s\n*\n  12345 67\nready   \n";

    #[test]
    fn every_stage_of_the_file_reads() {
        let full = parse(FULL).unwrap();
        assert_eq!((full.pid, full.port, full.status), (4711, Some(5433), Status::Ready));
        assert_eq!(full.socket_dir.as_deref(), Some(Path::new("/tmp/s")));
        assert_eq!(full.started_at, Some(Timestamp::from_second(1_763_600_000).unwrap()));
        let early = parse("4711\n/data\n1763600000\n5433\n\n").unwrap();
        assert_eq!(
            (early.pid, early.socket_dir, early.status),
            (4711, None, Status::Unknown)
        );
        assert_eq!(parse("-4711\n/data\n").unwrap().pid, 4711);
        for broken in ["", "47", "x\n", "0\n"] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_file_left_by_a_crash_is_not_a_server() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(is_running(dir.path()).unwrap(), None);
        // This process lives, and so does its parent, but neither is PostgreSQL.
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero();
        for pid in [std::process::id().to_string(), parent.to_string(), "2147483600".into()] {
            std::fs::write(
                dir.path().join(FILE),
                format!("{pid}\n{}\n1\n5432\n", dir.path().display()),
            )
            .unwrap();
            assert_eq!(is_running(dir.path()).unwrap(), None, "{pid}");
        }
    }

    #[test]
    fn an_empty_file_counts_as_a_server_that_starts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "").unwrap();
        let error = is_running(dir.path()).unwrap_err();
        assert_eq!(error.kind(), pgkeep_base::ErrorKind::Refused);
    }
}
