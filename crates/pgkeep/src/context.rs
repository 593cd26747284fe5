//! What every command has at hand: flags, environment, output, and the configuration once it is asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgkeep_base::{Result, ResultExt};

use crate::cli::Global;
use crate::config::{self, Config, Environment};
use crate::render::Output;
use crate::times::Reading;

/// What every command has at hand.
#[derive(Debug)]
pub struct Context {
    /// The flags that every command takes.
    pub global: Global,
    /// Where results and messages go.
    pub output: Arc<Output>,
    /// What the process was started with.
    pub environment: Environment,
    /// The working directory.
    pub directory: PathBuf,
}

impl Context {
    /// Looks at the process.
    pub fn of_process(global: Global, output: Arc<Output>, environment: Environment) -> Result<Context> {
        let directory = std::env::current_dir().during(|| "find the working directory")?;
        Ok(Context {
            global,
            output,
            environment,
            directory,
        })
    }

    /// The configuration file in force, if there is one.
    pub fn config_file(&self) -> Result<Option<PathBuf>> {
        config::find_file(self.global.config.as_deref(), &self.environment, &self.directory)
    }

    /// Reads the configuration.
    pub fn config(&self) -> Result<Config> {
        let file = self.config_file()?;
        config::load(file.as_deref(), &self.environment, &self.directory)
    }

    /// A path of the command line, made absolute.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    /// A lookup of environment variables, as the rooms below take it.
    pub fn lookup(&self) -> impl Fn(&str) -> Option<String> + Send + Sync + Clone + 'static {
        let environment = Arc::new(self.environment.clone());
        move |name: &str| environment.get(name).map(str::to_owned)
    }

    /// What times on the command line are read against.
    pub fn reading(&self, now: jiff::Timestamp) -> Reading {
        Reading {
            now,
            local: self.output.zone().clone(),
            terminal: self.output.interactive,
        }
    }
}
