//! What the control objects of a repository say of keys: whom to trust, and to whom everything is sealed.
//!
//! Invariant: they are read from every place, because a withdrawal that is in one of them counts; a required place that
//! doesn't tell is an error. What can't be used is told, and does not count.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgkeep_base::{ErrorKind, Result, ResultExt};
use pgkeep_repo::control::recipients::{RecipientsChanges, read_changes};
use pgkeep_repo::control::signers::{Statement, judge, read_statements};
use pgkeep_repo::control::{ControlKind, list_control};
use pgkeep_repo::open::Opener;
use pgkeep_repo::sign::{Trust, TrustList};
use pgkeep_store::ObjectName;

use crate::engine::Engine;
use crate::setup::Place;

/// What was read, once for each engine. Cloning is cheap but for a few names.
#[derive(Clone, Debug)]
pub struct Controls {
    /// Trusts whom they leave trusted, and this host itself.
    pub opener: Opener,
    /// Who is trusted by the repository file, the configuration and the statements; this host only if one of these says so.
    pub vouched: TrustList,
    /// The statements about signers that count.
    pub statements: Vec<Statement>,
    /// All control objects that were listed, with the names of the places that have them.
    pub listed: BTreeMap<ObjectName, (ControlKind, Vec<String>)>,
}

impl Controls {
    /// Knows whom a list trusts, and nothing else.
    pub(crate) fn of_list(engine: &Engine, list: TrustList) -> Controls {
        Controls {
            opener: opener(engine, list.clone()),
            vouched: list,
            statements: Vec::new(),
            listed: BTreeMap::new(),
        }
    }

    /// The names of the objects of one kind, oldest first.
    pub fn names(&self, wanted: ControlKind) -> Vec<ObjectName> {
        let wanted = self.listed.iter().filter(|(_, (kind, _))| *kind == wanted);
        wanted.map(|(name, _)| name.clone()).collect()
    }
}

/// An opener with the engine's identities that trusts this list, and this host itself unless it was withdrawn.
pub(crate) fn opener(engine: &Engine, list: TrustList) -> Opener {
    let setup = engine.setup();
    let mut trust = Trust::of_list(list);
    trust.enrol(setup.signing_key.fingerprint());
    if setup.accept_signer {
        trust = trust.accept_any();
    }
    setup.repository.opener(setup.identities.clone(), Arc::new(trust))
}

/// Lists and reads.
pub(crate) async fn read(engine: &Engine) -> Result<Controls> {
    let listed = list(engine).await?;
    let repository = &engine.setup().repository;
    let roots = repository.trust(engine.setup().signers.iter().cloned());
    let mut controls = Controls {
        listed,
        ..Controls::of_list(engine, TrustList::default())
    };
    let names = controls.names(ControlKind::Signer);
    let found = read_statements(&engine.stores(), repository.id, names).await?;
    for (name, error) in &found.unusable {
        let why = error.detail_text().unwrap_or_else(|| error.to_string());
        engine.note(format!("what {name} says of signers does not count: {why}"));
    }
    let judged = judge(found.good, roots);
    controls.vouched = judged.trust.to_list();
    controls.opener = opener(engine, judged.trust.to_list());
    controls.statements = judged.in_force;
    Ok(controls)
}

async fn list(engine: &Engine) -> Result<BTreeMap<ObjectName, (ControlKind, Vec<String>)>> {
    let mut listed: BTreeMap<ObjectName, (ControlKind, Vec<String>)> = BTreeMap::new();
    let asking = engine
        .places()
        .iter()
        .map(|place| async move { (place, list_place(place).await) });
    for (place, names) in futures::future::join_all(asking).await {
        let names = match names {
            Err(error) if !place.required => {
                let why = error.detail_text().unwrap_or_default();
                engine.note(format!("without the optional repository \"{}\": {why}", place.name));
                continue;
            }
            names => names?,
        };
        for (name, kind) in names {
            let (_, places) = listed.entry(name).or_insert((kind, Vec::new()));
            places.push(place.name.clone());
        }
    }
    Ok(listed)
}

async fn list_place(place: &Place) -> Result<Vec<(ObjectName, ControlKind)>> {
    match list_control(&*place.store).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.during(|| format!("list the control objects of repository \"{}\"", place.name)),
    }
}

/// The changes of recipients, newest first.
///
/// # Errors
/// `Unavailable` or `Denied` where a place doesn't tell.
pub async fn recipients_changes(engine: &Engine) -> Result<RecipientsChanges> {
    let controls = engine.controls().await?;
    let names = controls.names(ControlKind::Recipients);
    let changes = read_changes(&engine.stores(), &controls.opener, names).await?;
    for (name, error) in &changes.unusable {
        let why = error.detail_text().unwrap_or_else(|| error.to_string());
        engine.note(format!("what {name} says of recipients does not count: {why}"));
    }
    Ok(changes)
}

/// What an operator should know where this host seals to others than the repository's newest change of recipients
/// says: its repository file is older, or newer than what was recorded.
pub async fn stale_recipients(engine: &Engine) -> Result<Option<Stale>> {
    let ours = engine.sealer().recipients();
    if ours.is_empty() {
        return Ok(None);
    }
    let changes = recipients_changes(engine).await?;
    let differs = changes.newest().filter(|newest| newest.sorted() != ours);
    Ok(differs.map(|newest| Stale {
        at: newest.at,
        by: newest.by.to_string(),
        sealed_to: ours,
        should_be: newest.sorted(),
    }))
}

/// A host whose repository file names other recipients than the repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stale {
    /// When the recipients changed.
    pub at: jiff::Timestamp,
    /// Who signed that.
    pub by: String,
    /// To whom this host seals.
    pub sealed_to: Vec<String>,
    /// To whom it should.
    pub should_be: Vec<String>,
}

impl std::fmt::Display for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "this host seals to other recipients ({}) than those of the repository since {} ({})",
            self.sealed_to.join(", "),
            self.at,
            self.should_be.join(", ")
        )
    }
}

impl Stale {
    /// What to do about it.
    pub const HINT: &'static str = "Copy `repository.toml` from the host where `pgkeep keys rotate` ran; or, if this host's file is the right one, run `pgkeep keys rotate` here.";
}
