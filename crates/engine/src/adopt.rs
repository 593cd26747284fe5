//! `adopt`: makes a restored cluster a protected one again.
//!
//! A restored copy does not archive, so that it can't pollute its source's archive. Adopting it leaves a timeline
//! number that other content has taken in the archive meanwhile (two copies that were promoted pick the same number),
//! turns archiving on, archives the history of its timeline, and takes a backup.
//!
//! Invariant: archiving is turned on only on a timeline that is this cluster's alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgkeep_base::{
    ClusterName, Error, Event, PgMajor, RecoveryTarget, Result, ResultExt, TargetTimeline, TimelineId, WalFile,
};
use pgkeep_pg::binaries::{Binaries, Purpose, Search};
use pgkeep_pg::connect::Connection;
use pgkeep_pg::facts::ServerFacts;
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::server::{Account, is_running};
use pgkeep_pg::settings::{
    ArchiveChoice, BlockState, Purpose as BlockPurpose, RECOVERY_SIGNAL, RecoverySettings, TargetAction, find_block,
    read_auto_conf, replace_auto_conf, with_archive_block, with_recovery_block,
};
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::wal::open_wal;

use crate::backup::{BackedUp, BackupRequest, open_data_directory};
use crate::engine::Engine;
use crate::path::Archive;
use crate::path::archive::HeadTimelines;
use crate::restore::OWN_DIRECTORY;
use crate::wal::lineage::admit;
use crate::wal::local::SAVED_DIRECTORY;
use crate::wal::map::Holder;
use crate::wal::push::{PushRequest, push};
use crate::wal::salvage::{self, SalvageRequest};

const RESTART_SECONDS: u64 = 600;
const POLL: Duration = Duration::from_millis(100);

/// What is to be adopted.
#[derive(Clone, Debug)]
pub struct AdoptRequest {
    /// The cluster of the configuration that it is, or shall be.
    pub cluster: Option<ClusterName>,
    /// `archive_command`, with `%p`.
    pub archive_command: String,
    /// A command that answers PostgreSQL's questions for history files from the archive, and for nothing else.
    pub history_command: String,
}

/// What adopting will do.
#[derive(Debug)]
pub struct AdoptPlan {
    /// What was asked for.
    pub request: AdoptRequest,
    /// Its lineage.
    pub lineage: Lineage,
    /// Where its files are.
    pub data_directory: PathBuf,
    /// The timeline that it is on.
    pub timeline: TimelineId,
    /// Its number is taken by other content in the archive, so that the cluster must leave it.
    pub timeline_taken: Option<String>,
    /// Archiving is on already.
    pub archives: bool,
    facts: ServerFacts,
}

/// Looks at the running cluster and at the archive.
///
/// # Errors
/// `Refused` for a cluster that is still in recovery, or whose data directory is not on this host or not ours.
pub async fn plan(engine: &Engine, request: AdoptRequest) -> Result<AdoptPlan> {
    let config = engine.setup().cluster(request.cluster.as_ref())?;
    let connection = connect(engine, &config.connection).await?;
    let facts = ServerFacts::gather(&connection).await?;
    if facts.in_recovery {
        return Err(Error::refused("the cluster is still in recovery").hint(
            "Look at its data, then `SELECT pg_wal_replay_resume()` or `pg_ctl promote`, and run `pgkeep adopt` again.",
        ));
    }
    let lineage = Lineage {
        cluster: config.name.clone(),
        system_identifier: facts.system_identifier,
    };
    check_host(&connection, &facts)?;
    check_archiving(&facts, &request)?;
    admit(engine, engine.state().ok().as_ref(), &lineage, false).await?;
    let timeline_taken = taken(engine, &lineage, &facts).await?;
    Ok(AdoptPlan {
        request,
        data_directory: facts.data_directory.clone(),
        timeline: facts.timeline,
        timeline_taken,
        archives: facts.archive_mode != "off",
        lineage,
        facts,
    })
}

/// Its settings are changed and it is restarted: it must be the one that answers, on this host, and ours.
fn check_host(connection: &Connection, facts: &ServerFacts) -> Result<()> {
    let data_dir = open_data_directory(connection, facts, "adopt")?;
    if connection.is_local() && is_running(data_dir.path())?.is_some() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the server that answers does not run in {}",
        data_dir.path().display()
    ))
    .detail("the connection leads to another host, or to another server of that path")
    .hint("Run `pgkeep adopt` on the host of the restored cluster, with a connection to it."))
}

/// What archives already is not a restored copy that waits to be adopted: it is left alone.
fn check_archiving(facts: &ServerFacts, request: &AdoptRequest) -> Result<()> {
    let ours = facts.archive_command.as_deref() == Some(request.archive_command.as_str());
    let restored =
        find_block(&read_auto_conf(&facts.data_directory)?, BlockPurpose::Archive).state != BlockState::Absent;
    if facts.archive_mode == "off" || restored {
        return Ok(());
    }
    if ours {
        return Err(Error::conflict("the cluster is protected already")
            .detail("it archives with this configuration's own command")
            .hint("There is nothing to adopt; `pgkeep status` shows how it is, `pgkeep backup` takes a backup."));
    }
    Err(Error::refused("the cluster archives by another command, and was not restored by pgkeep")
        .detail(format!("archive_command = {}", facts.archive_command.as_deref().unwrap_or("(a library)")))
        .hint("If it shall be protected by this configuration, set its archive_command; `pgkeep doctor` prints the line."))
}

async fn connect(engine: &Engine, conninfo: &str) -> Result<Connection> {
    let environment = std::sync::Arc::clone(&engine.setup().environment);
    Connection::open(conninfo, &*environment)
        .await
        .during(|| "connect to the cluster")
}

/// Why the number of the server's timeline belongs to other content in the archive, if it does.
async fn taken(engine: &Engine, lineage: &Lineage, facts: &ServerFacts) -> Result<Option<String>> {
    let archive = Archive::load(engine, lineage, facts.wal_segment_size, 0, HeadTimelines::default()).await?;
    if let Some((_, why)) = archive.bad_histories.iter().find(|(bad, _)| *bad == facts.timeline) {
        return Ok(Some(format!(
            "the archive has another history file of timeline {}, which can't be used: {why}",
            facts.timeline
        )));
    }
    if archive.tree.is_begun_twice(facts.timeline) {
        return Ok(Some(archive.why_unexplained(facts.timeline)));
    }
    let own = std::fs::read(history_path(&facts.data_directory, facts.timeline)).unwrap_or_default();
    // What they say counts, not their blank lines.
    let own = TimelineHistory::parse(facts.timeline, &own).ok();
    if let Some(history) = archive
        .tree
        .history(facts.timeline)
        .filter(|history| history.parent().is_some())
        && Some(history) != own.as_ref()
    {
        return Ok(Some(format!(
            "the archive has another history file of timeline {}",
            facts.timeline
        )));
    }
    let opener = engine.opener().await?;
    for number in archive.numbers(facts.timeline) {
        let segment = pgkeep_base::WalSegment {
            timeline: facts.timeline,
            number,
            size: facts.wal_segment_size,
        };
        let Ok(here) = std::fs::read(facts.data_directory.join("pg_wal").join(segment.name())) else {
            continue;
        };
        let contents = archive.contents(facts.timeline, number).iter();
        for content in contents.filter(|content| content.holder == Holder::Segment) {
            let name = archive.object_name(&segment, content)?;
            let Ok((_, archived)) = open_wal(&engine.stores(), opener, engine.naming(), &name).await else {
                continue;
            };
            if segment.end() <= facts.wal_lsn && archived != here {
                return Ok(Some(format!("the archive has another segment {segment}")));
            }
        }
    }
    // A whole segment of which this cluster has written only a part so far is somebody else's.
    let ahead = archive
        .numbers(facts.timeline)
        .last()
        .filter(|last| *last >= facts.wal_segment_size.number_of(facts.wal_lsn));
    Ok(ahead.map(|_| {
        format!(
            "the archive of timeline {} goes on past where this cluster is",
            facts.timeline
        )
    }))
}

fn history_path(data_directory: &Path, timeline: TimelineId) -> PathBuf {
    data_directory
        .join("pg_wal")
        .join(WalFile::History(timeline).to_string())
}

/// Adopts the cluster.
///
/// # Errors
/// `Io` where it can't be restarted; what the first backup says. Running it again goes on where it stopped.
pub async fn run(engine: &Engine, plan: AdoptPlan) -> Result<BackedUp> {
    let config = engine.setup().cluster(Some(&plan.lineage.cluster))?.clone();
    let phase = |name: &str| {
        engine.setup().progress.event(Event::Phase {
            name: name.to_owned(),
            bytes_total: None,
        })
    };
    let restarter = Restarter::new(&plan.data_directory, plan.facts.major, config.postgres_bin.as_deref())?;
    if plan.timeline_taken.is_some() {
        phase("leave the timeline");
        leave_timeline(&plan, &restarter)?;
        wait_promoted(engine, &config.connection).await?;
    }
    phase("turn archiving on");
    turn_archiving_on(&plan)?;
    restarter.restart()?;
    let connection = wait_ready(engine, &config.connection).await?;
    let facts = ServerFacts::gather(&connection).await?;
    drop(connection);
    archive_history(engine, &plan, &facts).await?;
    store_saved(engine, &plan).await?;
    leave_recovery_behind(&plan.data_directory)?;
    let request = BackupRequest {
        cluster: Some(plan.lineage.cluster.clone()),
        full: false,
        labels: [("adopted".to_owned(), "true".to_owned())].into(),
        tier: None,
        jobs: None,
        rate: None,
        spread_checkpoint: false,
        strict: false,
        new_lineage: false,
    };
    let backup = crate::backup::plan(engine, request).await?;
    crate::backup::run(engine, backup).await
}

/// Recovers once more from the cluster's own WAL, so that PostgreSQL picks the next free timeline number.
fn leave_timeline(plan: &AdoptPlan, restarter: &Restarter) -> Result<()> {
    restarter.stop()?;
    let settings = RecoverySettings {
        restore_command: plan.request.history_command.clone(),
        end_command: None,
        target: RecoveryTarget::EndOfWal,
        inclusive: true,
        timeline: TargetTimeline::Current,
        action: TargetAction::Promote,
        standby: None,
        in_place_tablespaces: has_in_place_tablespaces(&plan.data_directory),
    };
    let before = read_auto_conf(&plan.data_directory)?;
    let content = with_recovery_block(&before, &settings, plan.facts.major)?;
    replace_auto_conf(&plan.data_directory, &content)?;
    let signal = plan.data_directory.join(RECOVERY_SIGNAL);
    std::fs::write(&signal, b"").during(|| format!("write {}", signal.display()))?;
    restarter.start()
}

/// Whether a tablespace is a directory where others are links.
fn has_in_place_tablespaces(data_directory: &Path) -> bool {
    let entries = std::fs::read_dir(data_directory.join("pg_tblspc"))
        .into_iter()
        .flatten()
        .flatten();
    let mut kinds = entries.filter_map(|entry| entry.file_type().ok());
    kinds.any(|kind| kind.is_dir())
}

/// Removes pgkeep's recovery settings and sets `archive_mode` and `archive_command`.
fn turn_archiving_on(plan: &AdoptPlan) -> Result<()> {
    pgkeep_pg::settings::finish_recovery(&plan.data_directory)?;
    let content = read_auto_conf(&plan.data_directory)?;
    let choice = ArchiveChoice::On {
        command: plan.request.archive_command.clone(),
    };
    let with = with_archive_block(&content, &choice, plan.facts.major)?;
    replace_auto_conf(&plan.data_directory, &with)
}

/// Brings into the archive what restores have saved, which may lie nowhere else. Nothing of it is removed: what an
/// unadopted copy wrote, or what can't be read, is not stored.
async fn store_saved(engine: &Engine, plan: &AdoptPlan) -> Result<()> {
    let saved = plan.data_directory.join(OWN_DIRECTORY).join(SAVED_DIRECTORY);
    if !saved.exists() {
        return Ok(());
    }
    let request = SalvageRequest {
        data_directory: plan.data_directory.clone(),
        cluster: Some(plan.lineage.cluster.clone()),
    };
    let salvage = salvage::plan(engine, &request).await?;
    let salvaged = salvage::run(engine, &salvage).await?;
    let is_whole = salvage.passed_over.is_empty() && salvage.conflicts.is_empty() && salvaged.refused.is_empty();
    let (saved, data_directory) = (saved.display(), plan.data_directory.display());
    match is_whole {
        true => engine.note(format!(
            "the WAL that was saved in {saved} is in the archive; remove it when you need it no more"
        )),
        false => engine.warn(format!(
            "not all WAL that was saved in {saved} is in the archive: `pgkeep wal salvage {data_directory}` says why"
        )),
    }
    Ok(())
}

/// The plan of the recovery that is over must not steer another one; saved WAL is not touched.
fn leave_recovery_behind(data_directory: &Path) -> Result<()> {
    let own = data_directory.join(OWN_DIRECTORY);
    let during = || format!("list {}", own.display());
    let entries = match std::fs::read_dir(&own) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.during(during)?,
    };
    for entry in entries {
        let entry = entry.during(during)?;
        if entry.file_name() == SAVED_DIRECTORY {
            continue;
        }
        let path = entry.path();
        let removed = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        removed.during(|| format!("remove {}", path.display()))?;
    }
    // It stays where saved WAL is in it.
    let _ = std::fs::remove_dir(own);
    Ok(())
}

/// PostgreSQL does not archive a history file that it made while archiving was off.
async fn archive_history(engine: &Engine, plan: &AdoptPlan, facts: &ServerFacts) -> Result<()> {
    let path = history_path(&plan.data_directory, facts.timeline);
    if !path.exists() {
        return Ok(());
    }
    let request = PushRequest {
        path,
        working_directory: plan.data_directory.clone(),
        cluster: Some(plan.lineage.cluster.clone()),
        new_lineage: false,
    };
    push(engine, &request).await.map(|_| ())
}

async fn wait_ready(engine: &Engine, conninfo: &str) -> Result<Connection> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(RESTART_SECONDS);
    loop {
        match connect(engine, conninfo).await {
            Ok(connection) => return Ok(connection),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

async fn wait_promoted(engine: &Engine, conninfo: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(RESTART_SECONDS);
    loop {
        let connection = wait_ready(engine, conninfo).await?;
        if !ServerFacts::gather(&connection).await?.in_recovery {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Error::unavailable("the cluster did not leave recovery")
                .hint("Look at its log, then run `pgkeep adopt` again."));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Stops and starts the cluster with the options that it runs with (`pg_ctl` keeps them in `postmaster.opts`).
struct Restarter {
    binaries: Binaries,
    account: Account,
    data_directory: PathBuf,
}

impl Restarter {
    fn new(data_directory: &Path, major: PgMajor, configured: Option<&Path>) -> Result<Restarter> {
        // The very programs that run it, else those of its major.
        let running = is_running(data_directory)?.and_then(|postmaster| postmaster.program_dir());
        let mut search = Search::new(Purpose::Server, Some(major));
        search.configured = configured;
        search.server_bindir = running.as_deref();
        Ok(Restarter {
            binaries: search.find()?,
            account: Account::for_data_directory(data_directory)?,
            data_directory: data_directory.to_owned(),
        })
    }

    fn stop(&self) -> Result<()> {
        if is_running(&self.data_directory)?.is_none() {
            return Ok(());
        }
        self.pg_ctl(&["stop", "-m", "fast"])
    }

    fn restart(&self) -> Result<()> {
        self.pg_ctl(&["restart", "-m", "fast"])
    }

    fn start(&self) -> Result<()> {
        self.pg_ctl(&["restart", "-m", "fast"])
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Result<()> {
        let mut command: Command = self.binaries.command("pg_ctl")?;
        let log = self.data_directory.join("pgkeep-adopt.log");
        command
            .args(arguments)
            .arg("-w")
            .arg("-t")
            .arg(RESTART_SECONDS.to_string())
            .arg("-D")
            .arg(&self.data_directory);
        if arguments[0] != "stop" {
            command.arg("-l").arg(&log);
        }
        self.account.apply(&mut command);
        command.current_dir(&self.data_directory);
        let status = command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .during(|| "run pg_ctl")?;
        if status.success() {
            return Ok(());
        }
        Err(Error::io(format!("pg_ctl {} failed", arguments[0]))
            .detail(pgkeep_pg::server::last_complaints(&log).join("; "))
            .hint(format!(
                "Look at {}, mend it, and run `pgkeep adopt` again.",
                log.display()
            )))
    }
}
