//! `pgkeep restore`: puts a cluster's files back, ready for `pg_ctl start`, at a moment that is proven to be reachable.
//!
//! Invariant: everything is planned before anything is touched, and `--dry-run` prints the same plan.

mod flags;
mod view;

use std::path::{Path, PathBuf};

use pgkeep_base::{Error, ErrorKind, Result};
use pgkeep_engine::restore::plan::{self, RestorePlan};
use pgkeep_engine::restore::run::{self, Commands, Restored};
use pgkeep_engine::restore::start::{StartRequest, Started, start};
use pgkeep_engine::restore::{OWN_DIRECTORY, RestoreRequest};
use pgkeep_engine::{Engine, catalogue};
use pgkeep_pg::binaries::{Purpose, Search};
use pgkeep_pg::server::Account;

use self::flags::{Arguments, BackupChoice};
use self::view::View;
use crate::assemble::{self, Assembled, Wishes};
use crate::config::Config;
use crate::context::Context;
use crate::exit::Outcome;
use crate::files;
use crate::invocation::Invocation;
use crate::runtime::{self, Threads};

pub use self::flags::Arguments as RestoreArguments;

/// Requests in work at once, unless said otherwise.
const JOBS_DEFAULT_MAX: usize = 4;

/// Restores, or shows how it would.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let wishes = Wishes {
        identity: arguments.identity.clone(),
        with_identity: true,
        accept_signer: arguments.accept_signer,
        repositories: arguments.repository.clone(),
        ..Wishes::default()
    };
    let Assembled {
        engine,
        config,
        display,
    } = assemble::engine(context, &wishes)?;
    let request = RestoreRequest {
        precious: own_files(arguments, context, &config),
        ..arguments.request(context, engine.now())?
    };
    let commands = commands(arguments, context, &config)?;
    let work = async {
        let mut request = request;
        request.backup = choose_backup(arguments, &engine).await?;
        let plan = plan::plan(&engine, request).await?;
        tell_plan(context, &plan);
        if arguments.start {
            find_programs(context, &start_request(arguments, &engine, &plan)?)?;
        }
        if arguments.dry_run {
            return Ok(View::of(&plan, plan.compare(&engine).await?, None, None));
        }
        let restored = run::run(&engine, &plan, &commands, jobs(arguments)).await?;
        write_configuration(context, &config, &restored.data_directory)?;
        tell_restored(context, arguments, &config, &restored);
        let started = match arguments.start {
            true => Some(start(&engine, &start_request(arguments, &engine, &plan)?).await?),
            false => None,
        };
        Ok(View::of(&plan, None, Some(restored), started))
    };
    let result = runtime::run(Threads::Two, work);
    display.finish();
    let view = result?;
    let failed = view.started().is_some_and(|started| !all_ok(started));
    context.output.print(&view)?;
    Ok(if failed { Outcome::Failed } else { Outcome::Done })
}

fn all_ok(started: &Started) -> bool {
    started.checks.iter().all(|check| check.ok)
}

fn jobs(arguments: &Arguments) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.jobs.map_or(processors.min(JOBS_DEFAULT_MAX), usize::from)
}

/// The identity that recovery will use, absolute.
fn identity(arguments: &Arguments, context: &Context, config: &Config) -> Option<PathBuf> {
    arguments
        .identity
        .as_ref()
        .map(|path| context.path(path))
        .or_else(|| config.identity_file.clone())
}

/// Files that recovery, or the next command, needs.
fn own_files(arguments: &Arguments, context: &Context, config: &Config) -> Vec<PathBuf> {
    let known = [config.repository_file.clone(), config.signing_key_file.clone()];
    let known = known.into_iter().chain(config.file.clone());
    known.chain(identity(arguments, context, config)).collect()
}

/// What PostgreSQL will run; complete, so that its environment doesn't matter.
fn commands(arguments: &Arguments, context: &Context, config: &Config) -> Result<Commands> {
    let own = own_configuration(&context.path(&arguments.into));
    let file = if config.depends_on_environment() {
        Some(own.as_path())
    } else {
        config.file.as_deref()
    };
    let invocation = Invocation::new(file)?;
    let identity = identity(arguments, context, config);
    Ok(Commands {
        restore: invocation.restore(identity.as_deref(), &arguments.repository, arguments.accept_signer),
        end: invocation.finish_recovery(),
        archive: invocation.archive(),
    })
}

/// Where a configuration that needs our environment is written down for recovery.
fn own_configuration(data_directory: &Path) -> PathBuf {
    data_directory.join(OWN_DIRECTORY).join("pgkeep.toml")
}

fn write_configuration(context: &Context, config: &Config, data_directory: &Path) -> Result<()> {
    if !config.depends_on_environment() {
        return Ok(());
    }
    let path = own_configuration(data_directory);
    files::create_directory_of(&path, 0o700)?;
    files::give_to_owner_of_directory(&data_directory.join(OWN_DIRECTORY));
    let text = config.to_portable_text(&context.directory)?;
    // An earlier restore may have left its own.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    files::create_new(&path, text.as_bytes(), files::PRIVATE)?;
    files::give_to_owner_of_directory(&path);
    if context.environment.get("AWS_ACCESS_KEY_ID").is_some() {
        context
            .output
            .warn("PostgreSQL must be started with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in its environment");
    }
    Ok(())
}

async fn choose_backup(arguments: &Arguments, engine: &Engine) -> Result<Option<pgkeep_base::BackupId>> {
    match &arguments.backup {
        None => Ok(None),
        Some(BackupChoice::Id(id)) => Ok(Some(id.clone())),
        Some(BackupChoice::Latest) => {
            let cluster = engine.setup().cluster(arguments.cluster.as_ref())?.name.clone();
            let catalogue = catalogue::load(engine, Some(&cluster)).await?;
            let newest = catalogue.newest().ok_or_else(|| {
                Error::not_found(format!("there is no backup of cluster \"{cluster}\""))
                    .hint("`pgkeep list` shows what there is.")
            })?;
            Ok(Some(newest.head().id.clone()))
        }
    }
}

/// A server that can't be started is refused before anything is written.
fn find_programs(context: &Context, request: &StartRequest) -> Result<()> {
    let path = context.environment.get("PATH").map(std::ffi::OsString::from);
    let mut search = Search::new(Purpose::Server, Some(request.major));
    search.configured = request.postgres_bin.as_deref();
    search.path = path.as_deref();
    search
        .find()
        .map(drop)
        .map_err(|error| error.with_kind(ErrorKind::Refused))
}

fn start_request(arguments: &Arguments, engine: &Engine, plan: &RestorePlan) -> Result<StartRequest> {
    let cluster = engine.setup().cluster(arguments.cluster.as_ref())?;
    let mut request = StartRequest::new(&plan.layout.target, plan.major()?);
    request.postgres_bin = cluster.postgres_bin.clone();
    request.port = arguments.port;
    request.check = arguments.check;
    Ok(request)
}

fn tell_plan(context: &Context, plan: &RestorePlan) {
    for note in &plan.notes {
        context.output.note(note);
    }
}

/// What would keep PostgreSQL from running the commands that were written into its settings.
fn tell_restored(context: &Context, arguments: &Arguments, config: &Config, restored: &Restored) {
    for note in restored.notes.iter().chain(&restored.written.notes) {
        context.output.note(note);
    }
    let Ok(account) = Account::for_data_directory(&restored.data_directory) else {
        return;
    };
    let needed = [
        identity(arguments, context, config),
        config.file.clone(),
        Some(config.repository_file.clone()),
    ];
    for path in needed
        .into_iter()
        .flatten()
        .filter(|path| !files::may_be_read_by(path, account.uid()))
    {
        let who = account
            .name()
            .map_or_else(|| format!("user {}", account.uid()), |name| format!("user {name}"));
        context.output.warn(&format!(
            "{who} runs PostgreSQL and can't read {}, which recovery needs",
            path.display()
        ));
    }
}
