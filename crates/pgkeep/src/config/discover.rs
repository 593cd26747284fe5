//! Where a configuration comes from: the environment of the process, and the file that is found.
//!
//! Invariant: the environment is taken once, at the start, and the rooms below see nothing else of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pgkeep_base::{Error, Result};

/// The environment of the process, taken once at its start.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// What this process was started with; variables that aren't UTF-8 are left out.
    pub fn of_process() -> Environment {
        Environment(
            std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
        )
    }

    /// The value of a variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Environment {
        Environment(pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }
}

/// Finds the configuration file: `--config`, `$PGKEEP_CONFIG`, then the usual places. Made absolute.
///
/// # Errors
/// `Invalid` where a file was named that does not exist.
pub fn find_file(flag: Option<&Path>, environment: &Environment, directory: &Path) -> Result<Option<PathBuf>> {
    let named = flag.map(|path| (path.to_owned(), "--config"));
    let named = named.or_else(|| {
        environment
            .get("PGKEEP_CONFIG")
            .map(|path| (PathBuf::from(path), "PGKEEP_CONFIG"))
    });
    if let Some((path, by)) = named {
        let path = directory.join(path);
        return match path.is_file() {
            true => Ok(Some(path)),
            false => Err(
                Error::invalid(format!("there is no configuration file {}", path.display()))
                    .detail(format!("named by {by}"))
                    .hint("Run `pgkeep init` to make one."),
            ),
        };
    }
    Ok(usual_places(environment, directory)
        .into_iter()
        .find(|path| path.is_file()))
}

/// Where a configuration file is looked for when none is named.
pub fn usual_places(environment: &Environment, directory: &Path) -> Vec<PathBuf> {
    let home = environment.get("HOME").map(|home| Path::new(home).join(".config"));
    let xdg = environment.get("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    [
        Some(directory.join("pgkeep.toml")),
        xdg.map(|xdg| xdg.join("pgkeep/pgkeep.toml")),
        Some("/etc/pgkeep/pgkeep.toml".into()),
    ]
    .into_iter()
    .flatten()
    .collect()
}
