//! The layers of the configuration, flattened: each value with its path and where it came from.
//!
//! Invariant: a key that the table does not have is refused, with what was probably meant; a value leaves this module
//! only after its kind and range were checked. All problems of a file are reported at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pgkeep_base::{Error, Result};
use toml::de::{DeTable, DeValue};

use super::keys::{EMPTY_TABLES, KEYS, Key, find};
use super::suggest::{nearest, unknown};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// Nobody set it.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(f, "${name}"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A value with its key and its origin.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its path.
    pub path: Vec<String>,
    /// The key that it belongs to.
    pub key: &'static Key,
    /// Its value, of the key's kind.
    pub value: toml::Value,
    /// Where it came from.
    pub origin: Origin,
}

/// All values that were set, by path, and the tables that were named, in order of appearance.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// By path.
    pub values: BTreeMap<Vec<String>, Setting>,
    /// Names of repositories and clusters, as `["repository", "main"]`, in order of appearance.
    pub sections: Vec<[String; 2]>,
}

impl Settings {
    /// The value of a path, if it was set.
    pub fn get(&self, path: &[&str]) -> Option<&Setting> {
        self.values
            .get(&path.iter().map(|level| (*level).to_owned()).collect::<Vec<_>>())
    }

    /// The names below a section, in order of appearance.
    pub fn names<'a>(&'a self, section: &'a str) -> impl Iterator<Item = &'a str> {
        self.sections
            .iter()
            .filter(move |[of, _]| of == section)
            .map(|[_, name]| name.as_str())
    }

    fn name_section(&mut self, path: &[String]) {
        if let [section, name, ..] = path
            && matches!(section.as_str(), "repository" | "cluster")
        {
            let pair = [section.clone(), name.clone()];
            if !self.sections.contains(&pair) {
                self.sections.push(pair);
            }
        }
    }

    fn set(&mut self, path: Vec<String>, key: &'static Key, value: toml::Value, origin: Origin) {
        self.name_section(&path);
        self.values.insert(
            path.clone(),
            Setting {
                path,
                key,
                value,
                origin,
            },
        );
    }

    /// Adds what a file says.
    ///
    /// # Errors
    /// `Invalid`, with all problems and their lines.
    pub fn read_file(&mut self, path: &Path, text: &str) -> Result<()> {
        let line = |at: usize| 1 + text[..at.min(text.len())].bytes().filter(|b| *b == b'\n').count();
        let table = DeTable::parse(text).map_err(|error| {
            // The message without the quoted line, which might hold a password.
            let at = error
                .span()
                .map_or_else(String::new, |span| format!(":{}", line(span.start)));
            Error::invalid(format!("{}{at} is not TOML", path.display())).detail(error.message().to_owned())
        })?;
        let mut leaves = Vec::new();
        let mut problems = Vec::new();
        let mut refused: Vec<Vec<String>> = Vec::new();
        flatten(table.get_ref(), &mut Vec::new(), &mut leaves);
        leaves.sort_by_key(|leaf| (leaf.offset, leaf.path.len()));
        for leaf in leaves {
            if refused.iter().any(|table| leaf.path.starts_with(table)) {
                continue;
            }
            let origin = Origin::File(path.to_owned(), line(leaf.offset));
            let checked = checked_key(&leaf.path, leaf.value.as_ref()).and_then(|key| {
                Ok(match (key, leaf.value) {
                    (Some(key), Some(value)) => {
                        key.kind.check(&value).map_err(|error| at_key(&leaf.path, &error))?;
                        Some((key, value))
                    }
                    _ => None,
                })
            });
            match checked {
                Ok(Some((key, value))) => self.set(leaf.path, key, value, origin),
                Ok(None) => self.name_section(&leaf.path),
                Err(error) => {
                    problems.push(format!("{origin}: {}", one_line(&error)));
                    refused.push(leaf.path);
                }
            }
        }
        problems_to_error(path.display().to_string(), problems)
    }

    /// Adds what the environment says: `PGKEEP_REPOSITORY__MAIN__URL` is `repository.main.url`.
    ///
    /// Variables without `__` that are no key are left alone unless one was probably meant: orchestrators make
    /// variables such as `PGKEEP_SERVICE_HOST` by themselves.
    pub fn read_environment<'a>(&mut self, variables: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
        let mut problems = Vec::new();
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix("PGKEEP_") else {
                continue;
            };
            if SHORT_VARIABLES.contains(&name) {
                continue;
            }
            let path = self.path_of_variable(rest);
            let value = match find(&path) {
                Some(key) => key
                    .kind
                    .read(text)
                    .map(|value| (key, value))
                    .map_err(|error| at_key(&path, &error)),
                None if path.len() == 1 && nearest(&path[0], top_level_keys()).is_none() => continue,
                None => Err(unknown(&path)),
            };
            match value {
                Ok((key, value)) => self.set(path, key, value, Origin::Environment(name.to_owned())),
                Err(error) => problems.push(format!("${name}: {}", one_line(&error))),
            }
        }
        problems_to_error("the environment".into(), problems)
    }

    /// Lower case, split at `__`; a name of the file that differs only by `-` for `_` is meant.
    fn path_of_variable(&self, rest: &str) -> Vec<String> {
        let mut path: Vec<String> = rest.to_ascii_lowercase().split("__").map(str::to_owned).collect();
        if let [section, name, ..] = path.as_mut_slice() {
            let known = self.names(section).find(|known| known.replace('-', "_") == *name);
            if let Some(known) = known {
                *name = known.to_owned();
            }
        }
        path
    }
}

/// Variables that are no keys.
pub const SHORT_VARIABLES: &[&str] = &["PGKEEP_CONFIG", "PGKEEP_IDENTITY_FILE", "PGKEEP_LOG"];

fn top_level_keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.path).filter(|path| !path.contains('.'))
}

struct Leaf {
    path: Vec<String>,
    /// `None` for a table without anything in it.
    value: Option<toml::Value>,
    offset: usize,
}

fn flatten(table: &DeTable<'_>, path: &mut Vec<String>, leaves: &mut Vec<Leaf>) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) => {
                leaves.push(Leaf {
                    path: path.clone(),
                    value: None,
                    offset: key.span().start,
                });
                flatten(inner, path, leaves);
            }
            other => leaves.push(Leaf {
                path: path.clone(),
                value: Some(plain(other)),
                offset: key.span().start,
            }),
        }
        path.pop();
    }
}

fn plain(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).map_or_else(
            |_| toml::Value::String(number.as_str().to_owned()),
            toml::Value::Integer,
        ),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map_or_else(|_| toml::Value::String(number.as_str().to_owned()), toml::Value::Float),
        DeValue::Boolean(flag) => toml::Value::Boolean(*flag),
        DeValue::Datetime(time) => toml::Value::Datetime(*time),
        DeValue::Array(items) => toml::Value::Array(items.iter().map(|item| plain(item.get_ref())).collect()),
        DeValue::Table(inner) => toml::Value::Table(
            inner
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), plain(value.get_ref())))
                .collect(),
        ),
    }
}

/// The key of a path; `None` for a table that may be there.
fn checked_key(path: &[String], value: Option<&toml::Value>) -> Result<Option<&'static Key>> {
    if let [section, name, ..] = path
        && matches!(section.as_str(), "repository" | "cluster")
        && (path.len() > 2 || value.is_none())
    {
        name.parse::<pgkeep_base::ClusterName>().map_err(|_| {
            Error::invalid(format!("\"{name}\" can't be the name of a {section}"))
                .detail("a name is 1 to 63 of a-z, 0-9, _ and -, and begins with a letter or digit")
        })?;
    }
    match (find(path), value) {
        (Some(key), Some(_)) => Ok(Some(key)),
        (Some(_), None) => Err(Error::invalid(format!("`{}` is a value, not a table", path.join(".")))),
        (None, None) if is_table(path) => Ok(None),
        (None, Some(_)) if is_table(path) => {
            Err(Error::invalid(format!("`{}` is a table, not a value", path.join("."))))
        }
        (None, _) => Err(unknown(path)),
    }
}

/// Whether keys lie below a path, or later versions have some there.
fn is_table(path: &[String]) -> bool {
    KEYS.iter()
        .map(|key| key.path)
        .chain(EMPTY_TABLES.iter().copied())
        .any(|known| {
            let mut levels = known.split('.');
            let below = path
                .iter()
                .all(|level| levels.next().is_some_and(|known| known == "NAME" || known == level));
            below && (levels.next().is_some() || EMPTY_TABLES.contains(&known))
        })
}

fn at_key(path: &[String], error: &Error) -> Error {
    Error::invalid(format!("`{}`: {}", path.join("."), one_line(error)))
}

fn one_line(error: &Error) -> String {
    match error.detail_text() {
        Some(detail) => format!("{error} ({detail})"),
        None => error.to_string(),
    }
}

fn problems_to_error(where_: String, mut problems: Vec<String>) -> Result<()> {
    let hint = "docs/reference/configuration.md lists every key; `pgkeep config check` checks the file again.";
    match problems.len() {
        0 => Ok(()),
        1 => Err(Error::invalid("the configuration is wrong")
            .detail(problems.remove(0))
            .hint(hint)),
        count => Err(
            Error::invalid(format!("the configuration is wrong in {count} places ({where_})"))
                .detail(problems.join("\n"))
                .hint(hint),
        ),
    }
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;
