//! The configuration that `init` writes.

use std::path::Path;

use pgkeep_base::{Error, Result};
use pgkeep_store::StoreConfig;
use toml::Value;

use super::answers::Answers;

const HEAD: &str = "\
# pgkeep's configuration. docs/reference/configuration.md lists every key; `pgkeep config check` checks this file.
";

/// The text of the configuration.
pub fn configuration(path: &Path, answers: &Answers, recipients: &[String], identity: &Path) -> Result<String> {
    let mut text = HEAD.to_owned();
    if let Some(state_dir) = own_state_directory(path) {
        text.push_str(&format!("state_dir = {}\n", quoted(&state_dir)));
    }
    let recipients: Vec<String> = recipients.iter().map(|recipient| quoted(recipient)).collect();
    text.push_str("\n[encryption]\n# Whoever has the identity of one of these can read the backups. A second one belongs offline.\n");
    text.push_str(&format!(
        "recipients = [{}]\n\n[repository.main]\n",
        recipients.join(", ")
    ));
    for (key, value) in store_keys(&answers.store)? {
        text.push_str(&format!("{key} = {value}\n"));
    }
    text.push_str(&format!(
        "\n[cluster.{}]\nconnection = {}\n",
        answers.cluster,
        quoted(&answers.connection)
    ));
    text.push_str("\n[restore]\n# For recovery hosts: move the identity off the database host.\n");
    text.push_str(&format!("identity_file = {}\n", quoted(&identity.to_string_lossy())));
    Ok(text)
}

/// Local state beside the configuration, for a user who may not write to the usual place.
fn own_state_directory(path: &Path) -> Option<String> {
    let usual = Path::new("/var/lib/pgkeep");
    let parent = if usual.exists() { usual } else { Path::new("/var/lib") };
    let writable = rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_ok();
    (!writable).then(|| path.with_file_name("pgkeep-state").to_string_lossy().into_owned())
}

/// The store's keys that differ from their defaults, the URL first.
fn store_keys(store: &StoreConfig) -> Result<Vec<(String, Value)>> {
    let table = |store: &StoreConfig| {
        toml::Table::try_from(store)
            .map_err(|source| Error::internal("the storage could not be described").source(source))
    };
    let defaults = table(&StoreConfig::default())?;
    let mut keys = vec![("url".to_owned(), Value::String(store.url.clone()))];
    let differing = table(store)?
        .into_iter()
        .filter(|(key, value)| key != "url" && defaults.get(key) != Some(value));
    keys.extend(differing);
    Ok(keys)
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
