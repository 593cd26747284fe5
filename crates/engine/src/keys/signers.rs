//! `keys trust` and `keys distrust`: enrols and withdraws signers for every host that reads the repository.
//!
//! Invariant: only a host whose own key is trusted by others says anything; what it withdraws keeps those enrolments by
//! the withdrawn signer that counted at that moment, and no later or backdated one (docs/format.md, section 2).

use jiff::Timestamp;
use pgkeep_base::{Error, Result};
use pgkeep_repo::control::signers::{SignerChange, Statement};
use pgkeep_repo::control::{ControlKind, seal_control};
use pgkeep_repo::sign::Fingerprint;
use pgkeep_store::ObjectName;

use super::publish::{need_vouched, publish, spread};
use crate::engine::Engine;

/// An enrolment that can be run.
#[derive(Clone, Debug)]
pub struct Trusting {
    /// Whose documents are to be believed.
    pub signer: Fingerprint,
    /// What people call it.
    pub name: String,
    /// It is trusted already: there is nothing to do.
    pub already: bool,
}

/// Plans to enrol a signer.
///
/// # Errors
/// `Refused` where this host's own word does not count, or the signer was withdrawn.
pub async fn plan_trust(engine: &Engine, signer: Fingerprint, name: String) -> Result<Trusting> {
    need_vouched(engine).await?;
    let vouched = &engine.controls().await?.vouched;
    if let Some(from) = vouched.withdrawn.get(&signer) {
        return Err(Error::refused(format!("{signer} was withdrawn from {from} on"))
            .detail("a key that was withdrawn is never trusted again, since a thief may have it")
            .hint("Move `signing.key` away on that host: it makes a new key on the next run, and `pgkeep keys trust` takes that."));
    }
    let already = vouched.signers.contains(&signer);
    Ok(Trusting { signer, name, already })
}

/// Enrols it. Gives the control object, if one was written.
pub async fn run_trust(engine: &Engine, plan: &Trusting) -> Result<Option<ObjectName>> {
    spread(engine, engine.controls().await?).await?;
    if plan.already {
        return Ok(None);
    }
    let change = SignerChange::Add {
        add: plan.signer.clone(),
        name: plan.name.clone(),
    };
    say(engine, &change).await.map(Some)
}

/// A withdrawal that can be run.
#[derive(Clone, Debug)]
pub struct Distrust {
    /// Whose documents are no longer believed.
    pub signer: Fingerprint,
    /// From when on: documents that bear this time or a later one.
    pub from: Timestamp,
    /// Enrolments by it that stay in force.
    pub keeps: Vec<Statement>,
    /// It is withdrawn from then on already: there is nothing to do.
    pub already: bool,
}

/// Plans to withdraw a signer.
///
/// # Errors
/// `Refused` where this host's own word does not count, or the signer is this host; `NotFound` where nobody trusts it.
pub async fn plan_distrust(engine: &Engine, signer: Fingerprint, from: Timestamp) -> Result<Distrust> {
    let own = need_vouched(engine).await?;
    if own == signer {
        return Err(Error::refused("a host does not withdraw its own key")
            .detail(format!("this host signs as {own}"))
            .hint("Run it on another host that is trusted, or add `--repository-file` on every host that reads."));
    }
    let controls = engine.controls().await?;
    if !controls.vouched.signers.contains(&signer) {
        return Err(
            Error::not_found(format!("{signer} is not trusted anyway")).hint("`pgkeep keys list` shows who is.")
        );
    }
    let withdrawn = controls.vouched.withdrawn.get(&signer);
    let enrols =
        |statement: &&Statement| statement.by == signer && matches!(statement.change, SignerChange::Add { .. });
    Ok(Distrust {
        from,
        keeps: controls.statements.iter().filter(enrols).cloned().collect(),
        already: withdrawn.is_some_and(|known| *known <= from),
        signer,
    })
}

/// Withdraws it. Gives the control object, if one was written.
pub async fn run_distrust(engine: &Engine, plan: &Distrust) -> Result<Option<ObjectName>> {
    spread(engine, engine.controls().await?).await?;
    if plan.already {
        return Ok(None);
    }
    let change = SignerChange::Remove {
        remove: plan.signer.clone(),
        from: plan.from,
        keep: plan.keeps.iter().map(|statement| statement.digest).collect(),
    };
    say(engine, &change).await.map(Some)
}

async fn say(engine: &Engine, change: &SignerChange) -> Result<ObjectName> {
    let object = seal_control(engine.sealer(), ControlKind::Signer, change)?;
    publish(engine, &object).await?;
    Ok(object.name)
}
