//! The configuration: found, read, layered (flags over environment over file over defaults), and checked.
//!
//! Invariant: every value knows where it came from, and no value that was not understood gets past [`load`]. The keys
//! are in [`keys`], the layers in [`layers`]; `assemble` makes an engine's setup of it. Reading the configuration asks
//! no network, no DNS and no PostgreSQL.

mod discover;
pub mod keys;
pub mod layers;
pub mod mask;
mod portable;
pub mod reference;
pub mod suggest;
pub mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgkeep_base::{Error, ErrorKind, Result, ResultExt};
use pgkeep_engine::ClusterConfig;
use pgkeep_store::StoreConfig;
use serde::Deserialize;

use layers::{Origin, Settings};

pub use discover::{Environment, find_file, usual_places};

/// How objects are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncryptionMode {
    /// To the recipients.
    Age,
    /// Not at all.
    None,
}

/// A repository of the configuration.
#[derive(Clone, Debug)]
pub struct RepositoryConfig {
    /// Its name.
    pub name: String,
    /// Success is reported only once it has the bytes.
    pub required: bool,
    /// Where it is and how to talk to it.
    pub store: StoreConfig,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that was read; `None` where the environment says everything.
    pub file: Option<PathBuf>,
    /// Local state of this host.
    pub state_dir: PathBuf,
    /// The repository file.
    pub repository_file: PathBuf,
    /// This host's signing key.
    pub signing_key_file: PathBuf,
    /// How objects are sealed.
    pub encryption: EncryptionMode,
    /// To whom.
    pub recipients: Vec<String>,
    /// Whose signatures are trusted beside those of the repository file.
    pub signers: Vec<String>,
    /// The repositories, in order of appearance.
    pub repositories: Vec<RepositoryConfig>,
    /// The clusters, in order of appearance.
    pub clusters: Vec<ClusterConfig>,
    /// The identity that decrypts; `PGKEEP_IDENTITY_FILE` is already in it.
    pub identity_file: Option<PathBuf>,
    /// Every value that was set, and where.
    pub settings: Settings,
}

/// Reads the configuration from a file, if there is one, and the environment.
///
/// # Errors
/// `Invalid` for anything that is not understood, with all problems and their lines.
pub fn load(file: Option<&Path>, environment: &Environment, directory: &Path) -> Result<Config> {
    let mut settings = Settings::default();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .during(|| format!("read the configuration {}", path.display()))
            .map_err(|error| error.with_kind(ErrorKind::Invalid))?;
        settings.read_file(path, &text)?;
    }
    settings.read_environment(environment.iter())?;
    if file.is_none() && settings.values.is_empty() {
        return Err(Error::invalid("no configuration was found")
            .detail(format!(
                "looked for {}",
                display_list(&usual_places(environment, directory))
            ))
            .hint("Run `pgkeep init` to make one, or name it with `--config FILE`."));
    }
    assemble(file, settings, environment, directory)
}

/// The configuration that a text would be as a file, without the environment.
pub fn of_text(path: &Path, text: &str) -> Result<Config> {
    let mut settings = Settings::default();
    settings.read_file(path, text)?;
    assemble(Some(path), settings, &Environment::default(), Path::new("/"))
}

fn display_list(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn assemble(file: Option<&Path>, settings: Settings, environment: &Environment, directory: &Path) -> Result<Config> {
    let beside = file
        .and_then(Path::parent)
        .unwrap_or(Path::new("/etc/pgkeep"))
        .to_owned();
    let paths = Paths {
        settings: &settings,
        file_directory: &beside,
        directory,
    };
    let repositories = settings
        .names("repository")
        .enumerate()
        .map(|(index, name)| repository(&paths, name, index == 0))
        .collect::<Result<Vec<_>>>()?;
    let clusters = settings
        .names("cluster")
        .map(|name| cluster(&paths, name))
        .collect::<Result<Vec<_>>>()?;
    if !repositories.is_empty() && !repositories.iter().any(|repository| repository.required) {
        return Err(Error::invalid("at least one repository must be required")
            .hint("Set `required = true` for one of them, then `pgkeep config check`."));
    }
    let mode = match settings
        .get(&["encryption", "mode"])
        .and_then(|setting| setting.value.as_str())
    {
        Some("none") => EncryptionMode::None,
        _ => EncryptionMode::Age,
    };
    let identity_file = environment
        .get("PGKEEP_IDENTITY_FILE")
        .map(|path| directory.join(path))
        .or_else(|| paths.get(&["restore", "identity_file"]));
    Ok(Config {
        file: file.map(Path::to_owned),
        state_dir: paths.get(&["state_dir"]).unwrap_or_else(|| "/var/lib/pgkeep".into()),
        repository_file: paths
            .get(&["repository_file"])
            .unwrap_or_else(|| beside.join("repository.toml")),
        signing_key_file: paths
            .get(&["signing_key_file"])
            .unwrap_or_else(|| beside.join("signing.key")),
        encryption: mode,
        recipients: list(&settings, &["encryption", "recipients"]),
        signers: list(&settings, &["encryption", "signers"]),
        repositories,
        clusters,
        identity_file,
        settings: settings.clone(),
    })
}

/// Resolves paths: those of the file against its directory, those of the environment against the working directory.
struct Paths<'a> {
    settings: &'a Settings,
    file_directory: &'a Path,
    directory: &'a Path,
}

impl Paths<'_> {
    fn get(&self, path: &[&str]) -> Option<PathBuf> {
        let setting = self.settings.get(path)?;
        let base = match setting.origin {
            Origin::Environment(_) => self.directory,
            _ => self.file_directory,
        };
        setting.value.as_str().map(|text| base.join(text))
    }
}

fn list(settings: &Settings, path: &[&str]) -> Vec<String> {
    let items = settings.get(path).and_then(|setting| setting.value.as_array());
    items
        .into_iter()
        .flatten()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn duration(settings: &Settings, path: &[&str]) -> Option<Duration> {
    let text = settings.get(path)?.value.as_str()?;
    Some(values::duration(text).expect("checked when it was read"))
}

fn repository(paths: &Paths<'_>, name: &str, first: bool) -> Result<RepositoryConfig> {
    let settings = paths.settings;
    let mut table = toml::Table::new();
    for setting in settings
        .values
        .values()
        .filter(|s| s.path.len() == 3 && s.path[0] == "repository" && s.path[1] == name)
    {
        let key = setting.path[2].as_str();
        if !matches!(key, "required" | "capacity") {
            let resolved = (setting.key.kind == keys::Kind::Path)
                .then(|| paths.get(&["repository", name, key]))
                .flatten();
            let value = resolved.map_or_else(
                || setting.value.clone(),
                |path| path.to_string_lossy().into_owned().into(),
            );
            table.insert(key.to_owned(), value);
        }
    }
    if !table.contains_key("url") {
        return Err(
            Error::invalid(format!("repository \"{name}\" has no `url`")).hint(format!(
                "Write `url = \"file:///srv/backups\"` below `[repository.{name}]`, then `pgkeep config check`."
            )),
        );
    }
    let store = StoreConfig::deserialize(table)
        .map_err(|source| Error::invalid(format!("repository \"{name}\" can't be understood")).source(source))?;
    let required = settings
        .get(&["repository", name, "required"])
        .and_then(|setting| setting.value.as_bool());
    Ok(RepositoryConfig {
        name: name.to_owned(),
        required: required.unwrap_or(first),
        store,
    })
}

fn cluster(paths: &Paths<'_>, name: &str) -> Result<ClusterConfig> {
    let settings = paths.settings;
    let connection = settings
        .get(&["cluster", name, "connection"])
        .and_then(|setting| setting.value.as_str());
    Ok(ClusterConfig {
        name: name.parse()?,
        connection: connection.unwrap_or_default().to_owned(),
        postgres_bin: paths
            .get(&["cluster", name, "postgres_bin"])
            .or_else(|| paths.get(&["postgres_bin"])),
        archive_timeout: duration(settings, &["cluster", name, "archive_timeout"]).unwrap_or(Duration::from_secs(60)),
        rpo: duration(settings, &["cluster", name, "objectives", "rpo"]),
    })
}

#[cfg(test)]
mod tests;
