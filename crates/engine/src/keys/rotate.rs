//! `keys rotate`: new recipients, for everything that is stored from now on.
//!
//! Invariant: the control object comes before the repository file. Between the two this host is one whose file is old,
//! which is told like any other; running again goes on from there. What was sealed before stays open to the identities
//! of before: nobody can take that back.

use std::path::Path;
use std::sync::Arc;

use pgkeep_base::{Error, Result};
use pgkeep_repo::control::recipients::{RecipientsChange, seal_recipients, sorted};
use pgkeep_repo::keys::Recipient;
use pgkeep_repo::repofile::RepositoryFile;
use pgkeep_repo::seal::SealMode;
use pgkeep_store::ObjectName;

use super::publish::{need_vouched, publish, spread};
use crate::controls::recipients_changes;
use crate::engine::Engine;
use crate::setup::Setup;

/// A change of recipients that can be run.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// To whom this host seals now.
    pub before: Vec<String>,
    /// To whom everything is to be sealed.
    pub recipients: Vec<Recipient>,
    /// The newest change that the repository records, if there is one.
    pub recorded: Option<RecipientsChange>,
}

impl Rotation {
    /// To whom everything is to be sealed, sorted.
    pub fn after(&self) -> Vec<String> {
        sorted(&self.recipients)
    }

    /// Recipients that are new.
    pub fn added(&self) -> Vec<String> {
        let new = |recipient: &String| !self.before.contains(recipient);
        self.after().into_iter().filter(new).collect()
    }

    /// Recipients that nothing is sealed to any more.
    pub fn removed(&self) -> Vec<String> {
        let after = self.after();
        self.before.iter().filter(|old| !after.contains(old)).cloned().collect()
    }

    /// Whether the repository has yet to be told: it says something else, or nothing so far.
    pub fn tells_repository(&self) -> bool {
        let after = self.after();
        self.recorded.as_ref().is_none_or(|recorded| recorded.sorted() != after)
    }

    /// Whether the repository file of this host has to change.
    pub fn changes_file(&self) -> bool {
        self.before != self.after()
    }
}

/// Plans a change of recipients.
///
/// # Errors
/// `Invalid` for an empty list; `Refused` where nothing is encrypted, or this host's word does not count.
pub async fn plan_rotation(engine: &Engine, recipients: Vec<Recipient>) -> Result<Rotation> {
    if engine.setup().repository.mode == SealMode::None {
        return Err(
            Error::refused("the repository is not encrypted, so there is nobody to seal to")
                .hint("Begin an encrypted one in a new place: `pgkeep repository create`."),
        );
    }
    if recipients.is_empty() {
        return Err(Error::invalid("everything must be sealed to somebody")
            .hint("`pgkeep keys new FILE` makes an identity and prints its recipient (age1…)."));
    }
    need_vouched(engine).await?;
    let recorded = recipients_changes(engine).await?.changes.into_iter().next();
    Ok(Rotation {
        before: engine.sealer().recipients(),
        recipients,
        recorded,
    })
}

/// Tells the repository, then changes the repository file at `path`. Gives the control object, if one was written, and
/// an engine that seals to the new recipients.
///
/// # Errors
/// `Refused` where this host's clock is behind that of the last change; what writing gives. Running again is safe.
pub async fn run_rotation(engine: &Engine, plan: &Rotation, path: &Path) -> Result<(Option<ObjectName>, Engine)> {
    spread(engine, engine.controls().await?).await?;
    let setup = engine.setup();
    let repository = RepositoryFile {
        mode: SealMode::Age(plan.recipients.clone()),
        ..setup.repository.clone()
    };
    let sealer = repository.sealer(Arc::clone(&setup.signing_key), Arc::clone(&setup.clock))?;
    let mut written = None;
    if plan.tells_repository() {
        let object = seal_recipients(&sealer, &repository)?;
        if let Some(recorded) = plan.recorded.as_ref().filter(|recorded| recorded.name >= object.name) {
            return Err(Error::refused("this change would be taken for an older one")
                .detail(format!(
                    "it is {} here, and the last change was at {}",
                    engine.now(),
                    recorded.at
                ))
                .hint("Set the clock of this host, then run `pgkeep keys rotate` again."));
        }
        publish(engine, &object).await?;
        written = Some(object.name);
    }
    if plan.changes_file() {
        RepositoryFile::update(path, |file| {
            file.mode = SealMode::Age(plan.recipients.clone());
            true
        })?;
    }
    let setup = Setup {
        repository,
        ..setup.clone()
    };
    Ok((written, Engine::new(setup)?))
}
