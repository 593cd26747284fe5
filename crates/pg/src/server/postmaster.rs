//! Tells whether a server runs on a data directory, from `postmaster.pid` and from the process it names.
//!
//! Invariant: "not running" is said only when the file is absent or its process is provably no PostgreSQL of this
//! directory; doubt counts as running. The paths in the file need not be text. A server in another container, whose processes can't be seen from here, is the
//! exception that no process on this machine can tell. File format: `src/include/utils/pidfile.h`.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::{Error, Result, ResultExt};
use rustix::fs::OFlags;
use rustix::process::{Pid, test_kill_process};

/// Names of the server's program.
const NAMES: [&str; 3] = ["postgres", "postmaster", "edb-postgres"];
/// The file that a server keeps in its data directory while it runs.
const FILE: &str = "postmaster.pid";
/// No server writes more: two paths of at most 1 KiB, and numbers.
const BYTES_MAX: u64 = 8 << 10;
/// How much of what can't be understood is shown.
const SHOWN_BYTES_MAX: usize = 80;

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
    /// Reads the file; `None` while its first line isn't there.
    pub fn parse(file: &[u8]) -> Option<Postmaster> {
        let mut lines = file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let pid: i32 = number(lines.next().filter(|_| file.contains(&b'\n'))?)?;
        let mut lines = lines.skip(1);
        let started_at = lines.next().and_then(|line| Timestamp::from_second(number(line)?).ok());
        let port = lines.next().and_then(number).filter(|_| pid > 0);
        let socket_dir = lines.next().filter(|line| !line.is_empty());
        let status = match lines.nth(2) {
            Some(b"starting") => Status::Starting,
            Some(b"stopping") => Status::Stopping,
            Some(b"ready") => Status::Ready,
            Some(b"standby") => Status::Standby,
            _ => Status::Unknown,
        };
        // A single-user session writes its number negative.
        let pid = pid.checked_abs().filter(|pid| *pid != 0)?;
        Some(Postmaster {
            pid,
            started_at,
            port,
            socket_dir: socket_dir.map(|line| OsStr::from_bytes(line).into()),
            status,
        })
    }

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
    let mut bytes = Vec::new();
    for attempt in 0..3 {
        if attempt > 0 {
            // A server that starts right now creates the file a moment before it fills it.
            std::thread::sleep(Duration::from_millis(30));
        }
        let read = postmaster_file(data_dir).during(|| format!("read {}", data_dir.join(FILE).display()))?;
        let Some(read) = read else { return Ok(None) };
        if let Some(postmaster) = Postmaster::parse(&read) {
            return Ok(Some(postmaster).filter(|found| serves(found.pid, data_dir)));
        }
        bytes = read;
    }
    let shown = bytes[..bytes.len().min(SHOWN_BYTES_MAX)].escape_ascii();
    Err(
        Error::refused(format!("a server may be starting on {}", data_dir.display()))
            .detail(format!("its {FILE} can't be understood: \"{shown}\""))
            .hint(format!(
                "If no PostgreSQL runs there, remove {} and run `pgkeep` again.",
                data_dir.join(FILE).display()
            )),
    )
}

/// What `postmaster.pid` of a data directory says, if it is there: as much of it as a server may have written.
///
/// # Errors
/// As opening and reading it.
pub fn postmaster_file(data_dir: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut options = OpenOptions::new();
    // A pipe of that name must not hold us up.
    options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = match options.open(data_dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn number<T: FromStr>(line: &[u8]) -> Option<T> {
    std::str::from_utf8(line).ok()?.trim().parse().ok()
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

    const FULL: &[u8] = b"4711\n/data\n1763600000\n5433\n/tmp/s\n*\n  12345 67\nready   \n";

    #[test]
    fn every_stage_of_the_file_reads() {
        let full = Postmaster::parse(FULL).unwrap();
        assert_eq!((full.pid, full.port, full.status), (4711, Some(5433), Status::Ready));
        assert_eq!(full.socket_dir.as_deref(), Some(Path::new("/tmp/s")));
        assert_eq!(full.started_at, Some(Timestamp::from_second(1_763_600_000).unwrap()));
        let early = Postmaster::parse(b"4711\n/data\n1763600000\n5433\n\n").unwrap();
        assert_eq!(
            (early.pid, early.socket_dir, early.status),
            (4711, None, Status::Unknown)
        );
        assert_eq!(Postmaster::parse(b"-4711\n/data\n").unwrap().pid, 4711);
        for broken in ["", "47", "x\n", "0\n", "-2147483648\n"] {
            assert_eq!(Postmaster::parse(broken.as_bytes()), None, "{broken:?}");
        }
    }

    #[test]
    fn a_directory_whose_path_is_not_text_can_have_a_server() {
        let file = b"4711\n/d\xe4ta\n1763600000\n5433\n/tmp/\xff\n*\n";
        let found = Postmaster::parse(file).unwrap();
        assert_eq!(
            found.socket_dir.as_deref(),
            Some(OsStr::from_bytes(b"/tmp/\xff").as_ref())
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), [b"21474", &file[..]].concat()).unwrap();
        assert_eq!(is_running(dir.path()).unwrap(), None);
    }

    /// Aim: what stands under that name costs neither memory nor time.
    #[test]
    fn what_no_server_wrote_is_read_in_part_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(postmaster_file(dir.path()).unwrap().unwrap().len() as u64, BYTES_MAX);
        assert!(is_running(dir.path()).unwrap_err().detail_text().unwrap().len() < 200);
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(
            is_running(dir.path()).unwrap_err().kind(),
            pgkeep_base::ErrorKind::Refused
        );
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
