//! The value that every operation works with: a [`Setup`] and what follows from it.
//!
//! Invariant: the keys are fixed when the engine is made: one set of recipients and identities for everything that it
//! does. Nothing of a repository is opened before its control objects have said who is trusted ([`Engine::opener`]); they
//! are asked once. This host's own signing key is always trusted, unless it was withdrawn.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use pgkeep_base::{Error, ErrorKind, Event, Result};
use pgkeep_repo::open::Opener;
use pgkeep_repo::seal::Sealer;
use pgkeep_repo::sign::TrustList;
use pgkeep_repo::wal::WalNaming;
use pgkeep_store::Store;
use tokio::sync::OnceCell;

use crate::controls::{self, Controls};
use crate::setup::{Place, Setup};
use crate::state::State;

/// Runs operations. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    setup: Arc<Setup>,
    controls: Arc<OnceCell<Controls>>,
    sealer: Sealer,
    naming: WalNaming,
}

impl Engine {
    /// # Errors
    /// `Invalid` where the setup makes no sense.
    pub fn new(setup: Setup) -> Result<Engine> {
        setup.validate()?;
        let repository = &setup.repository;
        let sealer = repository.sealer(Arc::clone(&setup.signing_key), Arc::clone(&setup.clock))?;
        let naming = repository.naming();
        Ok(Engine {
            setup: Arc::new(setup),
            controls: Arc::default(),
            sealer,
            naming,
        })
    }

    /// What it was made from.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Seals and signs objects as this host.
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Verifies and opens objects with the identities at hand, trusting whom the control objects leave trusted.
    ///
    /// Costs one listing per place and one read per statement about signers, the first time.
    ///
    /// # Errors
    /// `Unavailable` or `Denied` where a required place does not tell: a signer may have been withdrawn there.
    pub async fn opener(&self) -> Result<&Opener> {
        Ok(&self.controls().await?.opener)
    }

    /// What the control objects say; asked once.
    ///
    /// # Errors
    /// As [`Engine::opener`].
    pub async fn controls(&self) -> Result<&Controls> {
        self.controls.get_or_try_init(|| controls::read(self)).await
    }

    /// Verifies objects trusting only whom the repository file and the setup name: for the genesis, which comes before
    /// any control object.
    pub fn opener_of_file(&self) -> Opener {
        let repository = &self.setup.repository;
        let trust = repository.trust(self.setup.signers.iter().cloned());
        controls::opener(self, trust.to_list())
    }

    /// The same engine, trusting whom this list says without asking anybody: what a recovery's plan was made with.
    #[must_use]
    pub fn trusting(&self, list: TrustList) -> Engine {
        let known = Controls::of_list(self, list);
        Engine {
            controls: Arc::new(OnceCell::new_with(Some(known))),
            ..self.clone()
        }
    }

    /// Whether there is any identity at hand.
    pub fn has_identity(&self) -> bool {
        !self.setup.identities.is_empty()
    }

    /// Names WAL objects by their content.
    pub fn naming(&self) -> &WalNaming {
        &self.naming
    }

    /// The places, in the order of the configuration.
    pub fn places(&self) -> &[Place] {
        &self.setup.places
    }

    /// The stores of all places, in the order in which reads try them.
    pub fn stores(&self) -> Vec<Arc<dyn Store>> {
        self.setup.places.iter().map(|place| Arc::clone(&place.store)).collect()
    }

    /// The same engine with only the place of that name (`--repository`). What is known of signers stays known.
    pub fn only_place(&self, name: &str) -> Result<Engine> {
        let place = self
            .setup
            .places
            .iter()
            .find(|place| place.name == name)
            .cloned()
            .ok_or_else(|| {
                Error::not_found(format!("there is no repository \"{name}\" in the configuration"))
                    .hint("`pgkeep config show` prints the repositories.")
            })?;
        let mut setup = (*self.setup).clone();
        setup.places = vec![Place {
            required: true,
            ..place
        }];
        let known = self.controls.get().cloned();
        Ok(Engine {
            controls: Arc::new(OnceCell::new_with(known)),
            ..Engine::new(setup)?
        })
    }

    /// Now, by the engine's clock.
    pub fn now(&self) -> Timestamp {
        self.setup.clock.now()
    }

    /// Opens this host's local state. A damaged one is set aside, with a note, and a new one begun: nothing in it is
    /// needed to restore.
    pub fn state(&self) -> Result<State> {
        self.state_by(State::open)
    }

    /// As [`Engine::state`], looking through all of it first: for operations that can't do without an answer later.
    pub fn checked_state(&self) -> Result<State> {
        self.state_by(|directory| {
            let state = State::open(directory)?;
            state.check().map(|()| state)
        })
    }

    fn state_by(&self, open: impl Fn(&Path) -> Result<State>) -> Result<State> {
        let directory = &self.setup.state_dir;
        match open(directory) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let aside = State::set_aside(directory, self.now())?;
                self.note(format!("{error}: set aside as {}, and begun anew", aside.display()));
                State::open(directory)
            }
            opened => opened,
        }
    }

    /// Tells the caller something that an operator should read.
    pub fn note(&self, message: impl Into<String>) {
        self.setup.progress.event(Event::Note {
            message: message.into(),
        });
    }

    /// Tells the caller that this run's result is impaired.
    pub fn warn(&self, message: impl Into<String>) {
        self.setup.progress.event(Event::Warning {
            message: message.into(),
        });
    }
}
