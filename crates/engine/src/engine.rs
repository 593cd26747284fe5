//! The value that every operation works with: a [`Setup`] and what follows from it.
//!
//! Invariant: the keys are fixed when the engine is made: one set of recipients, signers and identities for everything
//! that it does. This host's own signing key is always trusted.

use std::sync::Arc;

use jiff::Timestamp;
use pgkeep_base::{Error, ErrorKind, Event, Result};
use pgkeep_repo::open::Opener;
use pgkeep_repo::seal::Sealer;
use pgkeep_repo::wal::WalNaming;
use pgkeep_store::Store;

use crate::setup::{Place, Setup};
use crate::state::State;

/// Runs operations. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    setup: Arc<Setup>,
    opener: Opener,
    sealer: Sealer,
    naming: WalNaming,
}

impl Engine {
    /// # Errors
    /// `Invalid` where the setup makes no sense.
    pub fn new(setup: Setup) -> Result<Engine> {
        setup.validate()?;
        let repository = &setup.repository;
        let mut trust = repository.trust(setup.signers.iter().cloned());
        trust.enrol(setup.signing_key.fingerprint());
        if setup.accept_signer {
            trust = trust.accept_any();
        }
        let sealer = repository.sealer(Arc::clone(&setup.signing_key), Arc::clone(&setup.clock))?;
        let opener = repository.opener(setup.identities.clone(), Arc::new(trust));
        let naming = repository.naming();
        Ok(Engine {
            setup: Arc::new(setup),
            opener,
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

    /// Verifies and opens objects with the identities at hand.
    pub fn opener(&self) -> &Opener {
        &self.opener
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

    /// The same engine with only the place of that name (`--repository`).
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
        Engine::new(setup)
    }

    /// Now, by the engine's clock.
    pub fn now(&self) -> Timestamp {
        self.setup.clock.now()
    }

    /// Opens this host's local state. A damaged one is set aside, with a note, and a new one begun: nothing in it is
    /// needed to restore.
    pub fn state(&self) -> Result<State> {
        let directory = &self.setup.state_dir;
        match State::open(directory) {
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
