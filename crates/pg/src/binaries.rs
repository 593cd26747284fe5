//! Finds PostgreSQL's programs of a major version on this machine.
//!
//! Invariant: a directory is taken only after one of its programs said its version; a server's program never runs
//! against a data directory of another major. Order: configured, the server's own, Debian's, PGDG's, `PATH`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgkeep_base::{Error, PgMajor, Result, ResultExt};

/// How long a program may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// What the programs are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To create and run clusters: `initdb`, `postgres`.
    Server,
    /// To talk to servers: `psql`, `pg_dump`, `pg_restore`.
    Client,
}

impl Purpose {
    /// The programs that must be there; the first one is asked for its version.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Purpose::Server => &["postgres", "initdb"],
            Purpose::Client => &["psql", "pg_dump", "pg_restore"],
        }
    }
}

/// What is sought, and where.
#[derive(Clone, Debug)]
pub struct Search<'a> {
    /// What for.
    pub purpose: Purpose,
    /// The major; `None` takes the newest supported one that is installed.
    pub major: Option<PgMajor>,
    /// `postgres_bin` of the configuration: the only place looked at, where given.
    pub configured: Option<&'a Path>,
    /// The running server's own directory, where it runs on this machine.
    pub server_bindir: Option<&'a Path>,
    /// `PATH`.
    pub path: Option<&'a OsStr>,
    layout: Layout,
}

/// The roots under which packages put each major.
#[derive(Clone, Debug)]
struct Layout {
    debian: PathBuf,
    pgdg: PathBuf,
}

impl<'a> Search<'a> {
    /// Programs for a purpose, at the usual places alone.
    pub fn new(purpose: Purpose, major: Option<PgMajor>) -> Search<'a> {
        Search {
            purpose,
            major,
            configured: None,
            server_bindir: None,
            path: None,
            layout: Layout {
                debian: "/usr/lib/postgresql".into(),
                pgdg: "/usr".into(),
            },
        }
    }

    /// The directories in the order in which they are tried.
    fn candidates(&self) -> Vec<PathBuf> {
        if let Some(configured) = self.configured {
            return vec![configured.to_owned()];
        }
        let majors: Vec<PgMajor> = match self.major {
            Some(major) => vec![major],
            None => PgMajor::all().collect::<Vec<_>>().into_iter().rev().collect(),
        };
        let packaged = majors.iter().flat_map(|major| {
            [
                self.layout.debian.join(major.to_string()).join("bin"),
                self.layout.pgdg.join(format!("pgsql-{major}")).join("bin"),
            ]
        });
        let path = self.path.into_iter().flat_map(std::env::split_paths);
        let mut candidates: Vec<PathBuf> = Vec::new();
        for dir in self
            .server_bindir
            .map(Path::to_owned)
            .into_iter()
            .chain(packaged)
            .chain(path)
        {
            if dir.is_absolute() && !candidates.contains(&dir) {
                candidates.push(dir);
            }
        }
        candidates
    }

    /// Looks.
    ///
    /// # Errors
    /// `NotFound`, naming the places and what they held; `Invalid` when the configured directory is of another major.
    pub fn find(&self) -> Result<Binaries> {
        let mut rejected: Vec<String> = Vec::new();
        let mut newest: Option<Binaries> = None;
        for dir in self.candidates() {
            let found = match examine(&dir, self.purpose) {
                Ok(Some(found)) => found,
                Ok(None) => {
                    rejected.push(dir.display().to_string());
                    continue;
                }
                Err(error) => {
                    let why = error.detail_text().unwrap_or_default();
                    rejected.push(format!("{} ({}: {why})", dir.display(), error.message()));
                    continue;
                }
            };
            match self.major {
                Some(major) if found.major != major => {
                    rejected.push(format!("{} (holds PostgreSQL {})", dir.display(), found.version));
                }
                Some(_) => return Ok(found),
                // Packages come newest first, but PATH may hold something newer still.
                None if newest.as_ref().is_none_or(|best| found.major > best.major) => newest = Some(found),
                None => {}
            }
        }
        newest.ok_or_else(|| self.nothing(&rejected))
    }

    fn nothing(&self, rejected: &[String]) -> Error {
        let what = match self.major {
            Some(major) => format!("the programs of PostgreSQL {major}"),
            None => format!("any PostgreSQL from {} to {}", PgMajor::OLDEST, PgMajor::NEWEST),
        };
        let major = self.major.unwrap_or(PgMajor::NEWEST);
        let (debian, rpm) = match self.purpose {
            Purpose::Server => (format!("postgresql-{major}"), format!("postgresql{major}-server")),
            Purpose::Client => (format!("postgresql-client-{major}"), format!("postgresql{major}")),
        };
        let error = match self.configured {
            Some(dir) => Error::invalid(format!("`postgres_bin` ({}) does not hold {what}", dir.display())),
            None => Error::not_found(format!("could not find {what} on this machine")),
        };
        error.detail(format!("looked in {}", rejected.join(", "))).hint(format!(
            "Install package {debian} (Debian, Ubuntu) or {rpm} (PGDG for RHEL), or set `postgres_bin`, then run `pgkeep` again."
        ))
    }
}

/// A directory that holds the programs of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    bin_dir: PathBuf,
    major: PgMajor,
    version: String,
    library_dir: Option<PathBuf>,
}

impl Binaries {
    /// Where the programs are.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// Their major.
    pub fn major(&self) -> PgMajor {
        self.major
    }

    /// Their full version, such as `17.11`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The path of a program.
    ///
    /// # Errors
    /// `NotFound` when this installation lacks it.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.bin_dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(Error::not_found(format!("PostgreSQL's program {name} is not installed"))
            .detail(format!("{} lacks it", self.bin_dir.display()))
            .hint(format!(
                "Install package postgresql-{} (Debian, Ubuntu) or postgresql{}-server (PGDG), then run `pgkeep` again.",
                self.major, self.major
            )))
    }

    /// A command for a program, with messages in English, the libraries of a relocated build, and without our secrets.
    pub fn command(&self, name: &str) -> Result<Command> {
        let mut command = without_secrets(Command::new(self.program(name)?));
        command
            .env("LC_MESSAGES", "C")
            .env_remove("LC_ALL")
            .env_remove("LANGUAGE");
        for (key, value) in self.environment() {
            command.env(key, value);
        }
        Ok(command)
    }

    /// What children need in their environment: `LD_LIBRARY_PATH` for a build that brings its own libpq, else nothing.
    ///
    /// The programs of a relocated build find their libpq by themselves; modules such as `libpqwalreceiver` don't, and
    /// would load the system's, perhaps of another major.
    pub fn environment(&self) -> BTreeMap<&'static str, PathBuf> {
        self.library_dir
            .iter()
            .map(|dir| ("LD_LIBRARY_PATH", dir.clone()))
            .collect()
    }
}

/// Takes our own variables and the password of our connections from what a program inherits: a server outlives us, and
/// what it runs is told its configuration. What opens a store (`AWS_…`) stays, since `restore_command` may need it.
fn without_secrets(mut command: Command) -> Command {
    let ours = |name: &OsStr| name == "PGPASSWORD" || name.as_encoded_bytes().starts_with(b"PGKEEP_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command
}

/// What a directory holds; `None` if the programs aren't there.
fn examine(dir: &Path, purpose: Purpose) -> Result<Option<Binaries>> {
    let [probe, ..] = purpose.programs() else {
        return Ok(None);
    };
    // A link in PATH points into the installation; its siblings are there.
    let Ok(real) = std::fs::canonicalize(dir.join(probe)) else {
        return Ok(None);
    };
    let bin_dir = real.parent().unwrap_or(dir).to_owned();
    if !purpose.programs().iter().all(|program| bin_dir.join(program).is_file()) {
        return Ok(None);
    }
    let version = version_of(&bin_dir.join(probe))?;
    let number = version
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|digits| digits.parse().ok());
    let major = number.ok_or_else(|| Error::invalid(format!("\"{version}\" is not a version of PostgreSQL")))?;
    Ok(Some(Binaries {
        library_dir: own_libraries(&bin_dir),
        major: PgMajor::new(major)?,
        bin_dir,
        version,
    }))
}

/// `17.11` of `postgres (PostgreSQL) 17.11 (Debian 17.11-1)`.
fn version_of(program: &Path) -> Result<String> {
    let output = said(program).during(|| format!("ask {} for its version", program.display()))?;
    output
        .split_once("(PostgreSQL) ")
        .and_then(|(_, version)| version.split_whitespace().next())
        .map(str::to_owned)
        .ok_or_else(|| {
            Error::invalid("not a program of PostgreSQL").detail(format!("it says \"{}\"", output.escape_debug()))
        })
}

fn said(program: &Path) -> Result<String> {
    let deadline = Instant::now() + VERSION_TIMEOUT;
    let mut child = loop {
        let spawned = without_secrets(Command::new(program))
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        match spawned {
            // Someone is still writing it: an upgrade of the package.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            spawned => break spawned?,
        }
    };
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(Error::io(format!("no answer within {} s", VERSION_TIMEOUT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut output = String::new();
    if let Some(stdout) = child.stdout {
        stdout.take(1024).read_to_string(&mut output)?;
    }
    Ok(output.trim().to_owned())
}

/// `<bin>/../lib` where that is a build's own and holds libpq.
fn own_libraries(bin_dir: &Path) -> Option<PathBuf> {
    let lib = bin_dir.parent()?.join("lib");
    let system = ["/usr/lib", "/lib", "/usr/local/lib"]
        .iter()
        .any(|dir| lib == Path::new(dir));
    let has_libpq = || {
        let mut entries = std::fs::read_dir(&lib).ok()?.flatten();
        entries.find(|entry| entry.file_name().to_string_lossy().starts_with("libpq.so"))
    };
    (!system && has_libpq().is_some()).then_some(lib)
}

#[cfg(test)]
#[path = "binaries_tests.rs"]
mod tests;
