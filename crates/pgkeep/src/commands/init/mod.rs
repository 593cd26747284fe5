//! `pgkeep init`: from nothing to a protected cluster, in at most five questions.
//!
//! Invariant: nothing that exists is overwritten, and the configuration is written last of all files, so that what was
//! interrupted can be run again. It isn't done until the identity has opened an object of the repository.

mod answers;
mod file;
mod first_backup;
mod server;
mod text;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgkeep_base::{ClusterName, Error, Progress, RepositoryId, Result, ResultExt};
use pgkeep_engine::{Engine, keys};
use pgkeep_pg::server::Account;
use pgkeep_repo::keys::Recipient;
use serde::Serialize;

use self::answers::Answers;
use self::first_backup::FirstBackup;
use self::server::{ServerPlan, Setting};
use crate::assemble::{self, Wishes};
use crate::commands::keys::new;
use crate::commands::repository::create;
use crate::commands::store::flags::StoreFlags;
use crate::config::{self, Config};
use crate::context::Context;
use crate::exit::Outcome;
use crate::files;
use crate::invocation::Invocation;
use crate::render::progress::Display;
use crate::runtime::{self, Threads};

/// Set everything up: configuration, keys, repository, PostgreSQL's settings, first backup
///
/// Asks at most five questions; off a terminal, flags answer them. Run it as the user that runs PostgreSQL, or as root.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A name for the cluster [default: main]
    cluster: Option<ClusterName>,
    /// Where backups go: `file:///directory` or `s3://bucket/prefix`
    #[arg(long, value_name = "URL")]
    repository: Option<String>,
    /// libpq connection string of the cluster
    #[arg(long, value_name = "CONNINFO")]
    connection: Option<String>,
    /// A further recipient (age1…) that everything is sealed to, such as one whose identity is kept offline
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Vec<Recipient>,
    /// Set PostgreSQL's settings with ALTER SYSTEM
    #[arg(long)]
    apply: bool,
    /// Ask nothing: take the defaults
    #[arg(long)]
    yes: bool,
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreFlags,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    dry_run: bool,
    cluster: ClusterName,
    configuration: PathBuf,
    configuration_text: String,
    identity: PathBuf,
    recipients: Vec<String>,
    repository: Option<RepositoryId>,
    repository_url: String,
    repository_file: PathBuf,
    signing_key: PathBuf,
    settings: Vec<Setting>,
    grants: Vec<String>,
    identity_proven: bool,
    #[serde(flatten)]
    backup: FirstBackup,
    next: Vec<String>,
}

/// Sets up.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let path = configuration_path(context);
    refuse_existing(&path)?;
    let answers = Answers::gather(arguments, context)?;
    let invocation = Invocation::new(Some(&path))?;
    let lookup = context.lookup();
    let server = runtime::run(Threads::Two, server::plan(&answers.connection, &invocation, &lookup))?;
    if answers.apply {
        server.refuse_foreign_archiving()?;
    }
    let mut report = Report::planned(arguments.dry_run, &path, &answers, &server, &[])?;
    if arguments.dry_run {
        report.next = vec!["pgkeep init, without --dry-run".to_owned()];
        context.output.print(&report)?;
        return Ok(Outcome::Done);
    }
    let account = Account::for_data_directory(&server.facts.data_directory).ok();
    let recipient = identity(&report.identity)?;
    let report = set_up(
        &mut Steps {
            arguments,
            context,
            path,
            answers,
            server,
            account,
            invocation,
        },
        recipient,
    )?;
    let outcome = if report.backup.failed() {
        Outcome::Impaired
    } else {
        Outcome::Done
    };
    context.output.print(&report)?;
    Ok(outcome)
}

struct Steps<'a> {
    arguments: &'a Arguments,
    context: &'a Context,
    path: PathBuf,
    answers: Answers,
    server: ServerPlan,
    /// Who runs PostgreSQL, where that can be told from here.
    account: Option<Account>,
    invocation: Invocation,
}

fn set_up(steps: &mut Steps<'_>, recipient: Recipient) -> Result<Report> {
    let Steps {
        arguments,
        context,
        path,
        answers,
        server,
        account,
        invocation,
    } = steps;
    let mut recipients = vec![recipient.to_string()];
    recipients.extend(arguments.recipient.iter().map(ToString::to_string));
    recipients.dedup();
    let mut report = Report::planned(false, path, answers, server, &recipients)?;
    let config = config::of_text(path, &report.configuration_text)?;

    let display = Arc::new(Display::new(Arc::clone(&context.output)));
    let created = create::create_in(context, &config, &[], false, Arc::clone(&display) as Arc<dyn Progress>)?;
    report.repository = Some(created.id);
    hand_over(account.as_ref(), &config)?;
    files::create_new(path, report.configuration_text.as_bytes(), files::PUBLIC)?;
    prove(
        context,
        &config,
        &report.identity,
        Arc::clone(&display) as Arc<dyn Progress>,
    )?;
    report.identity_proven = true;

    if answers.apply {
        let lookup = context.lookup();
        runtime::run(Threads::Two, server.apply(&answers.connection, &lookup))?;
        report.settings = server.settings.clone();
    }
    report.backup = first_backup::take(context, path, server, account.as_ref(), invocation, &answers.cluster);
    display.finish();
    let with_keys_of_ours =
        answers.store.url.starts_with("s3:") && context.environment.get("AWS_ACCESS_KEY_ID").is_some();
    report.next = next(&report, server, account.as_ref(), with_keys_of_ours);
    report.ok = !report.backup.failed();
    Ok(report)
}

/// `--config`, else beside the caller: /etc/pgkeep for root, the working directory for others.
fn configuration_path(context: &Context) -> PathBuf {
    let named = context
        .global
        .config
        .as_deref()
        .or(context.environment.get("PGKEEP_CONFIG").map(Path::new));
    match named {
        Some(path) => context.path(path),
        None if rustix::process::geteuid().is_root() => "/etc/pgkeep/pgkeep.toml".into(),
        None => context.directory.join("pgkeep.toml"),
    }
}

fn refuse_existing(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(_) => Err(
            Error::conflict(format!("{} exists already, and is never overwritten", path.display())).hint(
                "`pgkeep config check` checks it; name another file with `--config FILE` for another configuration.",
            ),
        ),
        Err(_) => Ok(()),
    }
}

/// The identity beside the configuration: made, or taken from an earlier attempt.
fn identity(path: &Path) -> Result<Recipient> {
    if path.exists() {
        let identities = assemble::read_identities(path)?;
        return identities
            .first()
            .map(pgkeep_repo::keys::Identity::recipient)
            .ok_or_else(|| Error::internal("an identity file without identity"));
    }
    files::create_directory_of(path, 0o755)?;
    new::create(path)
}

/// What the server's user must read and write is its own, where root set it up. The identity stays root's.
fn hand_over(account: Option<&Account>, config: &Config) -> Result<()> {
    let Some(account) = account.filter(|_| rustix::process::geteuid().is_root()) else {
        return Ok(());
    };
    files::create_directory_of(&config.state_dir.join("state.db"), 0o700)?;
    account.own(&config.repository_file)?;
    account.own(&config.signing_key_file)?;
    account.own(&config.state_dir)?;
    for repository in &config.repositories {
        if let Some(root) = repository.store.url.strip_prefix("file://") {
            files::for_each_below(Path::new(root), &|path| account.own(path))?;
        }
    }
    Ok(())
}

/// The identity opens an object of the repository that was just made.
fn prove(context: &Context, config: &Config, identity: &Path, progress: Arc<dyn Progress>) -> Result<()> {
    let wishes = Wishes {
        identity: Some(identity.to_owned()),
        with_identity: true,
        ..Wishes::default()
    };
    let engine = Engine::new(assemble::setup(context, config, &wishes, progress)?)?;
    runtime::run(Threads::Two, keys::check(&engine)).during(|| "prove that the identity opens what is stored")?;
    Ok(())
}

/// What is left to do, in order.
fn next(report: &Report, server: &ServerPlan, account: Option<&Account>, with_keys_of_ours: bool) -> Vec<String> {
    let mut next = Vec::new();
    let owner = account
        .filter(|_| rustix::process::geteuid().is_root())
        .and_then(Account::name);
    let as_owner = owner.map_or_else(String::new, |owner| format!("sudo -u {owner} "));
    let pending: Vec<&Setting> = report.settings.iter().filter(|setting| !setting.applied).collect();
    if !pending.is_empty() {
        next.push("set PostgreSQL's settings: `pgkeep init` printed them".to_owned());
    }
    if with_keys_of_ours {
        next.push(
            "put the S3 keys where PostgreSQL's user finds them, too: `access_key_id_file` and `secret_access_key_file` \
             below [repository.main], or its ~/.aws/credentials"
                .to_owned(),
        );
    }
    if report.settings.iter().any(|setting| setting.needs == "restart") {
        next.push(format!(
            "restart PostgreSQL: pg_ctl restart -D {}",
            server.facts.data_directory.display()
        ));
    }
    if report.backup.id().is_none() {
        next.push(format!(
            "{as_owner}pgkeep --config {} backup",
            report.configuration.display()
        ));
    }
    next.push(format!(
        "copy {} and {} to a recovery host and to a place offline, then remove the identity from this host",
        report.identity.display(),
        report.repository_file.display()
    ));
    next.push(format!("pgkeep --config {} status", report.configuration.display()));
    next
}
