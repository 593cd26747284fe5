//! The configuration in force as one file, for commands that PostgreSQL will run without our environment.
//!
//! Invariant: what is read back is the same configuration, but for connection strings with passwords, which are left
//! out: no command that PostgreSQL runs connects to it.

use std::path::Path;

use pgkeep_base::{Error, Result};
use toml::{Table, Value};

use super::keys::Kind;
use super::layers::{Origin, Setting};
use super::{Config, mask};

const HEAD: &str = "# Written by `pgkeep restore`: the configuration that was in force, for `restore_command`.\n";

impl Config {
    /// Whether the environment says some of it, so that the file alone would not be the same.
    pub fn depends_on_environment(&self) -> bool {
        self.settings
            .values
            .values()
            .any(|setting| matches!(setting.origin, Origin::Environment(_)))
    }

    /// The text of a file that says all of it.
    ///
    /// # Errors
    /// `Internal` where it can't be written as TOML.
    pub fn to_portable_text(&self, directory: &Path) -> Result<String> {
        let mut root = Table::new();
        for setting in self.settings.values.values().filter(|setting| !holds_password(setting)) {
            put(&mut root, &setting.path, self.resolved(setting, directory));
        }
        for [section, name] in &self.settings.sections {
            table(&mut root, &[section.clone(), name.clone()]);
        }
        let paths = [
            ("state_dir", &self.state_dir),
            ("repository_file", &self.repository_file),
            ("signing_key_file", &self.signing_key_file),
        ];
        for (key, path) in paths {
            root.insert(key.to_owned(), Value::String(path.to_string_lossy().into_owned()));
        }
        // The order of repositories decides which is required, and a table does not keep it.
        for repository in &self.repositories {
            put(
                &mut root,
                &["repository".to_owned(), repository.name.clone(), "required".to_owned()],
                repository.required.into(),
            );
        }
        let text = toml::to_string(&root);
        let text = text.map_err(|source| Error::internal("the configuration could not be written").source(source))?;
        Ok(format!("{HEAD}{text}"))
    }

    fn resolved(&self, setting: &Setting, directory: &Path) -> Value {
        let base = match (&setting.origin, self.file.as_deref().and_then(Path::parent)) {
            (Origin::File(..), Some(beside)) => beside,
            _ => directory,
        };
        match (setting.key.kind, &setting.value) {
            (Kind::Path, Value::String(path)) => Value::String(base.join(path).to_string_lossy().into_owned()),
            (_, value) => value.clone(),
        }
    }
}

fn holds_password(setting: &Setting) -> bool {
    setting.key.kind == Kind::Connection && setting.value.as_str().is_some_and(mask::holds_password)
}

/// The table at a path, made where it is missing.
fn table<'a>(root: &'a mut Table, path: &[String]) -> &'a mut Table {
    path.iter().fold(root, |table, level| {
        let entry = table.entry(level.clone()).or_insert_with(|| Value::Table(Table::new()));
        entry
            .as_table_mut()
            .expect("a key is a value or a table, as its path says")
    })
}

fn put(root: &mut Table, path: &[String], value: Value) {
    if let Some((last, tables)) = path.split_last() {
        table(root, tables).insert(last.clone(), value);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Environment, load, of_text};
    use std::path::Path;

    #[test]
    fn the_portable_text_says_the_same_without_the_environment() {
        let environment = Environment::from([
            ("PGKEEP_REPOSITORY__ZULU__URL", "s3://b/p"),
            ("PGKEEP_REPOSITORY__ZULU__REGION", "eu"),
            ("PGKEEP_REPOSITORY__ALPHA__URL", "file:///a"),
            ("PGKEEP_REPOSITORY__ZULU__REQUIRED", "true"),
            ("PGKEEP_CLUSTER__SHOP__CONNECTION", "host=db password=geheim"),
            ("PGKEEP_CLUSTER__SHOP__OBJECTIVES__RPO", "5 minutes"),
            ("PGKEEP_STATE_DIR", "state"),
        ]);
        let config = load(None, &environment, Path::new("/srv/here")).unwrap();
        assert!(config.depends_on_environment());
        let text = config.to_portable_text(Path::new("/srv/here")).unwrap();
        assert!(!text.contains("geheim"), "{text}");
        let again = of_text(Path::new("/data/.pgkeep/pgkeep.toml"), &text).unwrap();
        assert!(!again.depends_on_environment());
        assert_eq!(again.state_dir, Path::new("/srv/here/state"));
        assert_eq!(again.repository_file, Path::new("/etc/pgkeep/repository.toml"));
        let required = |config: &crate::config::Config| {
            let mut all: Vec<_> = config
                .repositories
                .iter()
                .map(|r| (r.name.clone(), r.required, r.store.clone()))
                .collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        assert_eq!(required(&again), required(&config));
        assert_eq!(again.clusters[0].name, config.clusters[0].name);
    }
}
