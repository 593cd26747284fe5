//! `pgkeep keys list`: to whom everything is sealed, and whose signatures are trusted.

use pgkeep_base::{ErrorKind, Result};
use pgkeep_repo::repofile::RepositoryFile;
use pgkeep_repo::seal::SealMode;
use pgkeep_repo::secretfile;
use pgkeep_repo::sign::SigningKey;
use serde::Serialize;

use crate::config::{Config, EncryptionMode};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::table::Table;
use crate::render::{Page, View};

/// Show recipients and signers
#[derive(Debug, clap::Args)]
pub struct Arguments {}

#[derive(Serialize)]
struct Listed {
    mode: &'static str,
    repository: Option<String>,
    recipients: Vec<Entry>,
    signers: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    key: String,
    /// Where it is named.
    sources: Vec<&'static str>,
}

impl View for Listed {
    fn text(&self, page: &mut Page) {
        page.field("repository", self.repository.as_deref().unwrap_or("not created yet"));
        page.field("encryption", self.mode);
        for (title, entries) in [("recipient", &self.recipients), ("signer", &self.signers)] {
            page.line("");
            let mut table = Table::new([title, "named in"]);
            for entry in entries {
                table.row([entry.key.clone(), entry.sources.join(", ")]);
            }
            page.table(&table, &format!("no {title} yet"));
        }
    }
}

/// Reads the configuration, the repository file and this host's signing key, as far as they are there.
pub fn run(_: &Arguments, context: &Context) -> Result<Outcome> {
    let config = context.config()?;
    let file = match RepositoryFile::load(&config.repository_file) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        file => Some(file?),
    };
    context.output.print(&listed(&config, file.as_ref()))?;
    Ok(Outcome::Done)
}

const FILE: &str = "repository file";
const CONFIGURATION: &str = "configuration";
const THIS_HOST: &str = "this host";

fn listed(config: &Config, file: Option<&RepositoryFile>) -> Listed {
    let mut recipients = Vec::new();
    let mut signers = Vec::new();
    if let Some(SealMode::Age(sealed_to)) = file.map(|file| &file.mode) {
        sealed_to
            .iter()
            .for_each(|recipient| name(&mut recipients, recipient.to_string(), FILE));
    }
    config
        .recipients
        .iter()
        .for_each(|recipient| name(&mut recipients, recipient.clone(), CONFIGURATION));
    file.iter()
        .flat_map(|file| &file.signers)
        .for_each(|signer| name(&mut signers, signer.to_string(), FILE));
    config
        .signers
        .iter()
        .for_each(|signer| name(&mut signers, signer.clone(), CONFIGURATION));
    let own = secretfile::read(&config.signing_key_file).and_then(|text| SigningKey::parse(&text));
    if let Ok(key) = own {
        name(&mut signers, key.fingerprint().to_string(), THIS_HOST);
    }
    let unsealed = match file {
        Some(file) => file.mode == SealMode::None,
        None => config.encryption == EncryptionMode::None,
    };
    let mode = if unsealed { "none" } else { "age" };
    Listed {
        mode,
        repository: file.map(|file| file.id.to_string()),
        recipients,
        signers,
    }
}

fn name(entries: &mut Vec<Entry>, key: String, source: &'static str) {
    match entries.iter_mut().find(|entry| entry.key == key) {
        Some(entry) => entry.sources.push(source),
        None => entries.push(Entry {
            key,
            sources: vec![source],
        }),
    }
}
