//! This host: configuration file, local state, PostgreSQL's programs, and which clusters it knows by which identifier.
//!
//! Invariant: nothing is made or changed, not even the local state that is looked at: a `sudo pgkeep doctor` must not
//! leave files behind that the server's user can't write.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pgkeep_base::{ByteSize, ClusterName, ErrorKind, SystemId};
use pgkeep_pg::binaries::{Purpose, Search};

use super::access::{Answer, Want, Who};
use super::ask::{Asked, unasked};
use super::findings::{Findings, Verdict, words};
use super::space::Space;
use super::{Context, PrivateFile};
use crate::engine::Engine;
use crate::state::State;

/// The local state, opened only where that can't leave files of the wrong owner behind.
pub struct Recorder {
    state: Option<State>,
    /// There is no directory yet: nothing was done from here.
    absent: bool,
    verdict: Verdict,
}

impl Recorder {
    /// Opens the state that exists; makes nothing. `server` is who runs PostgreSQL and so `wal push`.
    pub fn open(directory: &Path, server: Option<&Who>) -> Recorder {
        let me = Who::me();
        let closed = |verdict| Recorder {
            state: None,
            absent: false,
            verdict,
        };
        let metadata = match std::fs::metadata(directory) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let verdict = judge_absent(directory, server.unwrap_or(&me));
                return Recorder {
                    absent: true,
                    ..closed(verdict)
                };
            }
            Err(error) => {
                return closed(Verdict::unknown(
                    format!("{}: {error}", directory.display()),
                    "Run `pgkeep doctor` as the user that runs PostgreSQL.",
                ));
            }
        };
        let owner = Who::of(metadata.uid(), metadata.gid());
        if let Some(verdict) = judge_owner(directory, &owner, server, strangers(directory, owner.uid)) {
            return closed(verdict);
        }
        // SQLite gives what root makes beside an existing database to the database's owner, but not the database.
        let exists = directory.join("state.db").exists();
        let allowed = owner.is_me() || me.uid == 0 && exists;
        if !allowed {
            let evidence = format!(
                "{} belongs to {}, and this runs as {}",
                directory.display(),
                owner.name,
                me.name
            );
            return closed(Verdict::unknown(
                evidence,
                format!("sudo -u {} pgkeep doctor", owner.name),
            ));
        }
        match State::open(directory) {
            Ok(state) => Recorder {
                state: Some(state),
                absent: false,
                verdict: judge_mode(directory, metadata.mode()),
            },
            Err(error) if error.kind() == ErrorKind::Corrupt => closed(Verdict::broken(
                &error,
                "The next `pgkeep backup` sets it aside and begins anew.",
            )),
            Err(error) => closed(Verdict::broken(
                &error,
                &format!("chown -R {} {}", owner.name, directory.display()),
            )),
        }
    }

    /// Whether nothing was ever done from this host, as far as it remembers.
    pub fn is_absent(&self) -> bool {
        self.absent
    }

    /// The state, if it could be opened.
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }
}

fn judge_absent(directory: &Path, who: &Who) -> Verdict {
    let there = directory
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    match who.may(there, Want::Write) {
        Answer::Yes => Verdict::pass(format!(
            "{} does not exist yet; it is made on first use",
            directory.display()
        )),
        _ => Verdict::fail(
            format!(
                "{} does not exist, and user {} may not make it in {}",
                directory.display(),
                who.name,
                there.display()
            ),
            format!("install -d -m 700 -o {} {}", who.name, directory.display()),
        ),
    }
}

/// What lies in the directory and belongs to somebody else: a command was run once as another user.
fn strangers(directory: &Path, owner: u32) -> Vec<String> {
    const LOOKED_AT_MAX: usize = 1000;
    let entries = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .take(LOOKED_AT_MAX);
    let foreign = entries.filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() != owner));
    foreign
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn judge_owner(directory: &Path, owner: &Who, server: Option<&Who>, strangers: Vec<String>) -> Option<Verdict> {
    let shown = directory.display();
    if let Some(server) = server.filter(|server| server.uid != owner.uid) {
        let evidence = format!(
            "{shown} belongs to {}, but `wal push` runs as {}",
            owner.name, server.name
        );
        return Some(Verdict::fail(evidence, format!("chown -R {} {shown}", server.name)));
    }
    (!strangers.is_empty()).then(|| {
        let evidence = format!(
            "in {shown}, {} belong to another user than {}",
            strangers.join(", "),
            owner.name
        );
        Verdict::fail(evidence, format!("chown -R {} {shown}", owner.name))
    })
}

fn judge_mode(directory: &Path, mode: u32) -> Verdict {
    let shown = directory.display();
    match mode & 0o022 {
        0 => Verdict::pass(format!("{shown} is there and can be written")),
        _ => Verdict::warn(
            format!("others can write in {shown} (mode {:04o})", mode & 0o7777),
            format!("chmod 700 {shown}"),
        ),
    }
}

/// Configuration and state.
pub fn check_host(engine: &Engine, context: &Context, recorder: &Recorder, findings: &mut Findings) {
    let setup = engine.setup();
    let from = match &context.config_file {
        Some(file) => file.path.display().to_string(),
        None => "the environment".to_owned(),
    };
    let (clusters, places) = (setup.clusters.len(), setup.places.len());
    findings.put(
        "configuration",
        Verdict::pass(format!("from {from}: {clusters} clusters, {places} repositories")),
    );
    let passwords = setup.clusters.iter().any(|cluster| holds_password(&cluster.connection));
    findings.put(
        "config-file",
        match &context.config_file {
            Some(file) => judge_config_file(file, passwords),
            None => Verdict::skip("the configuration is in the environment"),
        },
    );
    findings.put("state-dir", recorder.verdict.clone());
    let directory = setup
        .state_dir
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    findings.put(
        "state-space",
        match Space::of(directory) {
            Ok(space) => space.judge(
                &directory.display().to_string(),
                ByteSize::mib(32),
                ByteSize::mib(512),
                "Make room there, or set `state_dir` to another disk.",
            ),
            Err(error) => Verdict::unknown(format!("{}: {error}", directory.display()), "See `state-dir`."),
        },
    );
}

fn holds_password(connection: &str) -> bool {
    let uri = connection
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('@'))
        .is_some_and(|(user, _)| user.contains(':'));
    uri || connection.replace(' ', "").contains("password=")
}

fn judge_config_file(file: &PrivateFile, passwords: bool) -> Verdict {
    let shown = file.path.display();
    match file.mode {
        None => Verdict::unknown(format!("{shown} can't be looked at"), "See who owns it with `ls -l`."),
        Some(mode) if mode & 0o022 != 0 => Verdict::fail(
            format!("others can change {shown} (mode {mode:04o}), and so where backups go and which commands run"),
            format!("chmod go-w {shown}"),
        ),
        Some(mode) if passwords && mode & 0o004 != 0 => Verdict::warn(
            format!("everybody can read {shown} (mode {mode:04o}), and it holds a password"),
            format!("chmod o-r {shown}; better, put the password into a `passfile`"),
        ),
        Some(mode) => Verdict::pass(format!("{shown}, mode {mode:04o}")),
    }
}

/// Is the cluster that answers the one that this host knows by that name, and under no other name?
pub fn check_lineage(recorder: &Recorder, all: &[Asked], one: &Asked, findings: &mut Findings) {
    const BOTH: &[&str] = &["cluster-lineage", "cluster-duplicate"];
    let Ok(answers) = &one.answers else {
        return findings.put_all(BOTH, &unasked());
    };
    let id = match &answers.system_identifier {
        Ok(id) => *id,
        Err(error) => return findings.put_all(BOTH, &Verdict::untold(error, "See `role-grants`.")),
    };
    let name = &one.config.name;
    findings.put(
        "cluster-lineage",
        match recorder.state().map(|state| state.lineages(name)) {
            Some(Ok(known)) => judge_lineage(id, &known),
            Some(Err(error)) => Verdict::unknown(words(&error), "See `state-dir`."),
            None if recorder.is_absent() => judge_lineage(id, &[]),
            None => Verdict::unknown("this host's record can't be read", "See `state-dir`."),
        },
    );
    let twins: Vec<(&ClusterName, bool)> = all
        .iter()
        .filter(|other| other.config.name != *name)
        .filter_map(|other| Some((&other.config.name, other.answers.as_ref().ok()?)))
        .filter(|(_, theirs)| theirs.system_identifier.as_ref().is_ok_and(|theirs| *theirs == id))
        .map(|(other, theirs)| (other, theirs.in_recovery || answers.in_recovery))
        .collect();
    let recorded = recorder.state().and_then(|state| state.cluster_of(id).ok().flatten());
    findings.put(
        "cluster-duplicate",
        judge_duplicate(name, id, &twins, recorded.as_ref()),
    );
}

fn judge_lineage(id: SystemId, known: &[SystemId]) -> Verdict {
    let list = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match known {
        [] => Verdict::pass(format!("{id}: nothing was pushed or backed up from here yet")),
        known if known.contains(&id) => Verdict::pass(format!("{id}, as before")),
        _ => Verdict::fail(
            format!("this host knows the cluster by system identifier {list}; {id} answers"),
            "After pg_upgrade or initdb: `pgkeep backup --new-lineage`, once. If it is another cluster, correct `connection` or give it a name of its own.",
        ),
    }
}

fn judge_duplicate(
    name: &ClusterName,
    id: SystemId,
    twins: &[(&ClusterName, bool)],
    recorded: Option<&ClusterName>,
) -> Verdict {
    if let Some((other, standby)) = twins.first() {
        let evidence = format!("clusters \"{name}\" and \"{other}\" both answer with system identifier {id}");
        let fix = format!("Keep one of [cluster.{name}] and [cluster.{other}], with all its hosts in `connection`.");
        return if *standby {
            Verdict::warn(evidence, fix)
        } else {
            Verdict::fail(evidence, fix)
        };
    }
    match recorded.filter(|recorded| *recorded != name) {
        Some(recorded) => Verdict::warn(
            format!("this host archived system identifier {id} as cluster \"{recorded}\" before"),
            format!("Name it \"{recorded}\" again, or begin anew under this name with `pgkeep backup {name}`."),
        ),
        None => Verdict::pass("no other cluster has its system identifier"),
    }
}

/// The programs that `restore --start` and `adopt` need.
pub fn check_programs(engine: &Engine, one: &Asked, findings: &mut Findings) {
    let Ok(answers) = &one.answers else {
        return findings.put("postgres-programs", unasked());
    };
    let path = (engine.setup().environment)("PATH").map(std::ffi::OsString::from);
    let bindir = one.here().and(one.facts()).and_then(|facts| facts.bindir.clone());
    let mut search = Search::new(Purpose::Server, Some(answers.major));
    search.configured = one.config.postgres_bin.as_deref();
    search.server_bindir = bindir.as_deref();
    search.path = path.as_deref();
    findings.put(
        "postgres-programs",
        match search.find() {
            Ok(found) => Verdict::pass(format!(
                "PostgreSQL {} in {}",
                found.version(),
                found.bin_dir().display()
            )),
            Err(error) => {
                let fix = super::findings::hint_or(&error, "Set `postgres_bin`.");
                Verdict::warn(
                    format!("{}; `restore --start` and `adopt` need them", words(&error)),
                    fix,
                )
            }
        },
    );
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
