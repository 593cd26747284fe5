//! `pgkeep config check`: reads everything that the configuration names, and asks no network.

use std::path::PathBuf;

use pgkeep_base::{Error, Result};
use pgkeep_repo::keys::Recipient;
use pgkeep_repo::sign::Fingerprint;
use serde::Serialize;

use crate::assemble;
use crate::config::{Config, EncryptionMode, mask};
use crate::context::Context;
use crate::exit::Outcome;
use crate::files;
use crate::render::{Page, View};

/// Check the configuration and the files that it names; asks no network
#[derive(Debug, clap::Args)]
pub struct Arguments {}

#[derive(Serialize)]
struct Checked {
    ok: bool,
    file: Option<PathBuf>,
    clusters: Vec<String>,
    repositories: Vec<String>,
    problems: Vec<String>,
    advice: Vec<String>,
}

impl View for Checked {
    fn text(&self, page: &mut Page) {
        let of = self
            .file
            .as_ref()
            .map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
        for problem in &self.problems {
            page.line(format!("wrong: {problem}"));
        }
        for advice in &self.advice {
            page.line(format!("advice: {advice}"));
        }
        match self.ok {
            true => page.line(format!(
                "{of} is correct: {} and {}",
                count(&self.clusters, "cluster", "clusters"),
                count(&self.repositories, "repository", "repositories")
            )),
            false => page.line(format!("{of} is not correct")),
        }
    }
}

fn count(names: &[String], one: &str, many: &str) -> String {
    match names {
        [] => format!("no {one}"),
        names => format!(
            "{} {} ({})",
            names.len(),
            if names.len() == 1 { one } else { many },
            names.join(", ")
        ),
    }
}

/// Reads and checks; exit 2 where something is wrong.
pub fn run(_: &Arguments, context: &Context) -> Result<Outcome> {
    let config = context.config()?;
    let problems = problems(&config, context);
    let checked = Checked {
        ok: problems.is_empty(),
        file: config.file.clone(),
        clusters: config.clusters.iter().map(|cluster| cluster.name.to_string()).collect(),
        repositories: config
            .repositories
            .iter()
            .map(|repository| repository.name.clone())
            .collect(),
        problems: problems.iter().map(told).collect(),
        advice: advice(&config),
    };
    context.output.print(&checked)?;
    Ok(if checked.ok { Outcome::Done } else { Outcome::Wrong })
}

fn told(error: &Error) -> String {
    match error.detail_text() {
        Some(detail) => format!("{error}: {detail}"),
        None => error.to_string(),
    }
}

fn problems(config: &Config, context: &Context) -> Vec<Error> {
    let mut problems = Vec::new();
    if config.repositories.is_empty() {
        problems.push(Error::invalid("no repository is configured"));
    }
    if config.clusters.is_empty() {
        problems.push(Error::invalid("no cluster is configured"));
    }
    let lookup = context.lookup();
    for repository in &config.repositories {
        let opened = pgkeep_store::open(&repository.store, &lookup);
        problems.extend(
            opened
                .err()
                .map(|error| error.during(format!("open repository \"{}\"", repository.name))),
        );
    }
    problems.extend(
        config
            .recipients
            .iter()
            .filter_map(|text| text.parse::<Recipient>().err()),
    );
    problems.extend(
        config
            .signers
            .iter()
            .filter_map(|text| text.parse::<Fingerprint>().err()),
    );
    if let Some(file) = config.identity_file.as_ref().filter(|file| file.exists()) {
        problems.extend(assemble::read_identities(file).err());
    }
    problems
}

fn advice(config: &Config) -> Vec<String> {
    let mut advice = Vec::new();
    if config.encryption == EncryptionMode::None {
        advice.push("encryption.mode is \"none\": whoever reads the repository reads the database".to_owned());
    } else if config.recipients.len() < 2 && !config.repository_file.is_file() {
        advice.push(
            "encryption.recipients should name two recipients, the second kept offline (`pgkeep keys new FILE`)"
                .to_owned(),
        );
    }
    if !config.repository_file.is_file() {
        advice.push(format!(
            "{} does not exist yet: `pgkeep repository create` makes it",
            config.repository_file.display()
        ));
    }
    for cluster in config
        .clusters
        .iter()
        .filter(|cluster| mask::holds_password(&cluster.connection))
    {
        advice.push(format!(
            "cluster \"{}\" has a password in its connection string: a `passfile` keeps it apart",
            cluster.name
        ));
    }
    if let Some(file) = config.identity_file.as_ref().filter(|file| !file.exists()) {
        advice.push(format!(
            "{} is not on this host: right for a host that only writes, and restores need it",
            file.display()
        ));
    }
    let secrets = [config.identity_file.as_deref(), Some(config.signing_key_file.as_path())];
    advice.extend(secrets.into_iter().flatten().filter_map(files::readable_by_others));
    advice
}
