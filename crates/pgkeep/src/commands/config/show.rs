//! `pgkeep config show`: what is set, and with `--effective` what is in force and where it came from.
//!
//! Invariant: passwords in connection strings are never shown.

use std::path::PathBuf;

use pgkeep_base::Result;
use serde::Serialize;

use crate::config::Config;
use crate::config::keys::{KEYS, Key};
use crate::config::layers::Origin;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};

/// Print the configuration, without secrets
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print every value in force, defaults too, and where each came from
    #[arg(long)]
    effective: bool,
}

#[derive(Serialize)]
struct Shown {
    file: Option<PathBuf>,
    settings: Vec<Value>,
    #[serde(skip)]
    effective: bool,
}

#[derive(Serialize)]
struct Value {
    key: String,
    /// As TOML; `null` where there is only a description.
    value: Option<String>,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

impl View for Shown {
    fn text(&self, page: &mut Page) {
        match &self.file {
            Some(file) => page.line(format!("# {}", file.display())),
            None => page.line("# no file: the environment says everything"),
        }
        for value in &self.settings {
            let shown = value
                .value
                .clone()
                .or_else(|| value.description.as_ref().map(|text| format!("({text})")));
            let line = format!("{} = {}", value.key, shown.unwrap_or_default());
            match self.effective {
                true => page.line(format!("{line:<60} # {}", value.source)),
                false => page.line(line),
            }
        }
    }
}

/// Prints the configuration.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let config = context.config()?;
    let mut settings = Vec::new();
    for key in KEYS {
        for path in paths(key, &config) {
            settings.extend(value(key, &path, &config, context, arguments.effective));
        }
    }
    context.output.print(&Shown {
        file: config.file.clone(),
        settings,
        effective: arguments.effective,
    })?;
    Ok(Outcome::Done)
}

/// The places of a key: one for each name that the operator gave.
fn paths(key: &Key, config: &Config) -> Vec<Vec<String>> {
    let levels: Vec<&str> = key.path.split('.').collect();
    let with = |name: &str| {
        levels
            .iter()
            .map(|level| if *level == "NAME" { name } else { level }.to_owned())
            .collect()
    };
    match levels.contains(&"NAME") {
        true => config.settings.names(levels[0]).map(with).collect(),
        false => vec![with("")],
    }
}

fn value(key: &Key, path: &[String], config: &Config, context: &Context, effective: bool) -> Option<Value> {
    let name = path.join(".");
    if key.path == "restore.identity_file" && context.environment.get("PGKEEP_IDENTITY_FILE").is_some() {
        let shown = config
            .identity_file
            .as_ref()
            .map(|file| toml::Value::String(file.display().to_string()).to_string());
        return Some(Value {
            key: name,
            value: shown,
            source: "$PGKEEP_IDENTITY_FILE".into(),
            description: None,
        });
    }
    match config.settings.values.get(path) {
        Some(setting) => Some(Value {
            key: name,
            value: Some(key.shown(&setting.value)),
            source: setting.origin.to_string(),
            description: None,
        }),
        None if !effective => None,
        None => Some(default(key, name, config)),
    }
}

fn default(key: &Key, name: String, config: &Config) -> Value {
    let derived = match key.path {
        "repository_file" => Some(config.repository_file.display().to_string()),
        "signing_key_file" => Some(config.signing_key_file.display().to_string()),
        "repository.NAME.required" => {
            let of = config
                .repositories
                .iter()
                .find(|repository| name == format!("repository.{}.required", repository.name));
            return Value {
                key: name,
                value: of.map(|repository| repository.required.to_string()),
                source: Origin::Default.to_string(),
                description: None,
            };
        }
        _ => None,
    };
    let literal = key.literal_default().map(|text| match key.kind.read(text) {
        Ok(value) => value.to_string(),
        Err(_) => text.to_owned(),
    });
    let value = derived.map(|text| toml::Value::String(text).to_string()).or(literal);
    let description = value.is_none().then(|| key.default.trim_matches(['<', '>']).to_owned());
    Value {
        key: name,
        value,
        source: Origin::Default.to_string(),
        description,
    }
}
