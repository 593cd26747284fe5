//! `pgkeep repository show`: what the repository file says, and what is in each place.

use pgkeep_base::{ErrorKind, RepositoryId, Result};
use pgkeep_engine::{Engine, Place};
use pgkeep_repo::genesis::{GENESIS_BYTES_MAX, genesis_name};
use pgkeep_repo::seal::SealMode;
use serde::Serialize;

use crate::assemble::{self, Wishes};
use crate::config::values::show_duration;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::table::Table;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// Show the repository and its places
#[derive(Debug, clap::Args)]
pub struct Arguments {}

#[derive(Serialize)]
struct Shown {
    id: RepositoryId,
    encryption: &'static str,
    recipients: Vec<String>,
    signers: Vec<String>,
    reuse_horizon_seconds: i64,
    repositories: Vec<Shelf>,
}

#[derive(Serialize)]
struct Shelf {
    name: String,
    url: String,
    required: bool,
    /// `ok`, `absent`, `foreign` or `unreachable`.
    state: &'static str,
    problem: Option<String>,
}

impl View for Shown {
    fn text(&self, page: &mut Page) {
        page.field("id", self.id);
        page.field("encryption", self.encryption);
        self.recipients
            .iter()
            .for_each(|recipient| page.field("recipient", recipient));
        self.signers
            .iter()
            .for_each(|signer| page.field("trusted signer", signer));
        let horizon = u64::try_from(self.reuse_horizon_seconds).unwrap_or(0);
        page.field("reuse horizon", show_duration(std::time::Duration::from_secs(horizon)));
        page.line("");
        let mut table = Table::new(["name", "url", "required", "state"]);
        for shelf in &self.repositories {
            let state = match &shelf.problem {
                Some(problem) => format!("{}: {problem}", shelf.state),
                None => shelf.state.to_owned(),
            };
            table.row([
                shelf.name.clone(),
                shelf.url.clone(),
                if shelf.required { "yes" } else { "no" }.to_owned(),
                state,
            ]);
        }
        page.table(&table, "no repository");
    }
}

/// Shows; a place that can't be reached is shown as such.
pub fn run(_: &Arguments, context: &Context) -> Result<Outcome> {
    let engine = assemble::engine(context, &Wishes::default())?.engine;
    let repositories = runtime::run(Threads::Two, async {
        let mut shelves = Vec::new();
        for place in engine.places() {
            shelves.push(look(&engine, place).await);
        }
        Ok(shelves)
    })?;
    let file = &engine.setup().repository;
    let recipients = match &file.mode {
        SealMode::Age(recipients) => recipients.iter().map(ToString::to_string).collect(),
        SealMode::None => Vec::new(),
    };
    context.output.print(&Shown {
        id: file.id,
        encryption: if recipients.is_empty() { "none" } else { "age" },
        recipients,
        signers: file.signers.iter().map(ToString::to_string).collect(),
        reuse_horizon_seconds: file.reuse_horizon.as_secs(),
        repositories,
    })?;
    Ok(Outcome::Done)
}

async fn look(engine: &Engine, place: &Place) -> Shelf {
    let name = genesis_name();
    let read = place.store.read(&name, GENESIS_BYTES_MAX).await;
    let (state, problem) = match read.and_then(|bytes| engine.opener_of_file().verify_keyless(&name, &bytes)) {
        Ok(_) => ("ok", None),
        Err(error) => {
            let state = match error.kind() {
                ErrorKind::NotFound => "absent",
                ErrorKind::Refused | ErrorKind::Corrupt => "foreign",
                _ => "unreachable",
            };
            let problem = error
                .detail_text()
                .map_or_else(|| error.to_string(), |detail| format!("{error}: {detail}"));
            (state, (state != "absent").then_some(problem))
        }
    };
    Shelf {
        name: place.name.clone(),
        url: place.store.url().to_owned(),
        required: place.required,
        state,
        problem,
    }
}
