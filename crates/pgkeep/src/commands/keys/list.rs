//! `pgkeep keys list`: to whom everything is sealed, and whose signatures are trusted.
//!
//! Invariant: what this host's files say is shown whatever the repository answers; what the repository says is shown as
//! far as it answers, and where it doesn't, that is said.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_base::{Error, ErrorKind, Progress, Result};
use pgkeep_engine::Engine;
use pgkeep_engine::controls::recipients_changes;
use pgkeep_repo::control::recipients::RecipientsChange;
use pgkeep_repo::control::signers::{SignerChange, Statement};
use pgkeep_repo::repofile::RepositoryFile;
use pgkeep_repo::seal::SealMode;
use pgkeep_repo::secretfile;
use pgkeep_repo::sign::{SigningKey, TrustList};
use serde::Serialize;

use crate::assemble::{self, Wishes};
use crate::config::{Config, EncryptionMode};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::progress::Display;
use crate::render::table::Table;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// How long the repository has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Show recipients and signers
#[derive(Debug, clap::Args)]
pub struct Arguments {}

#[derive(Serialize)]
struct Listed {
    mode: &'static str,
    repository: Option<String>,
    recipients: Vec<Entry>,
    /// When the repository recorded its recipients the last time.
    recipients_changed_at: Option<Timestamp>,
    signers: Vec<Entry>,
    /// Whether the repository answered: control objects are among the sources only then.
    repository_read: bool,
}

#[derive(Serialize)]
struct Entry {
    key: String,
    /// Where it is named.
    sources: Vec<&'static str>,
    /// What whoever enrolled a signer called it.
    name: Option<String>,
    /// Who enrolled a signer.
    enrolled_by: Option<String>,
    /// From when on a signer is no longer believed, and who says so.
    withdrawn_from: Option<Timestamp>,
    withdrawn_by: Option<String>,
}

impl View for Listed {
    fn text(&self, page: &mut Page) {
        page.field("repository", self.repository.as_deref().unwrap_or("not created yet"));
        page.field("encryption", self.mode);
        page.line("");
        let mut table = Table::new(["recipient", "named in"]);
        for entry in &self.recipients {
            table.row([entry.key.clone(), entry.sources.join(", ")]);
        }
        page.table(&table, "no recipient yet");
        page.line("");
        let mut table = Table::new(["signer", "named in", "called", "enrolled by", "refused"]);
        for entry in &self.signers {
            let refused = entry.withdrawn_from.map(|from| format!("from {} on", page.time(from)));
            table.row([
                entry.key.clone(),
                entry.sources.join(", "),
                entry.name.clone().unwrap_or_default(),
                entry.enrolled_by.clone().unwrap_or_default(),
                refused.unwrap_or_default(),
            ]);
        }
        page.table(&table, "no signer yet");
    }
}

/// Reads the configuration, the repository file, this host's signing key and the control objects, as far as they are
/// there.
pub fn run(_: &Arguments, context: &Context) -> Result<Outcome> {
    let config = context.config()?;
    let file = match RepositoryFile::load(&config.repository_file) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        file => Some(file?),
    };
    let told = match file {
        Some(_) => match ask(context, &config) {
            Ok(told) => Some(told),
            Err(error) => {
                let why = error.detail_text().unwrap_or_else(|| error.to_string());
                let output = &context.output;
                output.note(&format!(
                    "what the repository says of recipients and signers is not known: {why}"
                ));
                None
            }
        },
        None => None,
    };
    context.output.print(&listed(&config, file.as_ref(), told))?;
    Ok(Outcome::Done)
}

/// What the repository says.
struct Told {
    vouched: TrustList,
    statements: Vec<Statement>,
    recipients: Option<RecipientsChange>,
}

fn ask(context: &Context, config: &Config) -> Result<Told> {
    let wishes = Wishes {
        any_recipients: true,
        ..Wishes::default()
    };
    let display: Arc<dyn Progress> = Arc::new(Display::new(Arc::clone(&context.output)));
    let engine = Engine::new(assemble::setup(context, config, &wishes, display)?)?;
    runtime::run(Threads::Two, async {
        let asking = async {
            let controls = engine.controls().await?;
            Ok(Told {
                vouched: controls.vouched.clone(),
                statements: controls.statements.clone(),
                recipients: recipients_changes(&engine).await?.changes.into_iter().next(),
            })
        };
        let silent = || Err(Error::unavailable(format!("no answer within {} s", PATIENCE.as_secs())));
        tokio::time::timeout(PATIENCE, asking)
            .await
            .unwrap_or_else(|_| silent())
    })
}

const FILE: &str = "repository file";
const CONFIGURATION: &str = "configuration";
const CONTROL: &str = "control object";
const THIS_HOST: &str = "this host";

fn listed(config: &Config, file: Option<&RepositoryFile>, told: Option<Told>) -> Listed {
    let unsealed = match file {
        Some(file) => file.mode == SealMode::None,
        None => config.encryption == EncryptionMode::None,
    };
    let changed = told.as_ref().and_then(|told| told.recipients.as_ref());
    Listed {
        mode: if unsealed { "none" } else { "age" },
        repository: file.map(|file| file.id.to_string()),
        recipients: recipients(config, file, changed),
        recipients_changed_at: changed.map(|change| change.at),
        signers: signers(config, file, told.as_ref()),
        repository_read: told.is_some(),
    }
}

fn recipients(config: &Config, file: Option<&RepositoryFile>, changed: Option<&RecipientsChange>) -> Vec<Entry> {
    let mut entries = Vec::new();
    if let Some(SealMode::Age(sealed_to)) = file.map(|file| &file.mode) {
        for recipient in sealed_to {
            entry(&mut entries, recipient.to_string()).sources.push(FILE);
        }
    }
    for recipient in &config.recipients {
        entry(&mut entries, recipient.clone()).sources.push(CONFIGURATION);
    }
    for recipient in changed.iter().flat_map(|change| &change.recipients) {
        entry(&mut entries, recipient.to_string()).sources.push(CONTROL);
    }
    entries
}

fn signers(config: &Config, file: Option<&RepositoryFile>, told: Option<&Told>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for signer in file.iter().flat_map(|file| &file.signers) {
        entry(&mut entries, signer.to_string()).sources.push(FILE);
    }
    for signer in &config.signers {
        entry(&mut entries, signer.clone()).sources.push(CONFIGURATION);
    }
    for statement in told.iter().flat_map(|told| &told.statements) {
        let by = statement.by.to_string();
        match &statement.change {
            SignerChange::Add { add, name } => {
                let entry = entry(&mut entries, add.to_string());
                entry.sources.push(CONTROL);
                entry.name = Some(name.clone()).filter(|name| !name.is_empty());
                entry.enrolled_by = Some(by);
            }
            SignerChange::Remove { remove, .. } => entry(&mut entries, remove.to_string()).withdrawn_by = Some(by),
        }
    }
    for (signer, from) in told.iter().flat_map(|told| &told.vouched.withdrawn) {
        entry(&mut entries, signer.to_string()).withdrawn_from = Some(*from);
    }
    for withdrawn in file.iter().flat_map(|file| &file.withdrawn) {
        let entry = entry(&mut entries, withdrawn.signer.to_string());
        entry.withdrawn_from.get_or_insert(withdrawn.from);
        entry.withdrawn_by = Some(FILE.to_owned());
    }
    let own = secretfile::read(&config.signing_key_file).and_then(|text| SigningKey::parse(&text));
    if let Ok(key) = own {
        entry(&mut entries, key.fingerprint().to_string())
            .sources
            .push(THIS_HOST);
    }
    entries.iter_mut().for_each(|entry| entry.sources.dedup());
    entries
}

fn entry(entries: &mut Vec<Entry>, key: String) -> &mut Entry {
    let at = match entries.iter().position(|entry| entry.key == key) {
        Some(at) => at,
        None => {
            entries.push(Entry {
                key,
                sources: Vec::new(),
                name: None,
                enrolled_by: None,
                withdrawn_from: None,
                withdrawn_by: None,
            });
            entries.len() - 1
        }
    };
    &mut entries[at]
}
