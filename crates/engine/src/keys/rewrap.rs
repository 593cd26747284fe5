//! `keys rotate --rewrap`: what was sealed before opens for the recipients of now, too.
//!
//! Invariant: no object is changed; rewraps only add wrappings of the keys that are there, and what has one for the same
//! recipients is left out, so that a run that was cut off goes on where it stopped. Memory: 16 bytes for each object that
//! is sealed, beside one rewrap object in the making.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use pgkeep_base::{Error, ErrorKind, Event, Result, ResultExt, limits};
use pgkeep_repo::control::ControlKind;
use pgkeep_repo::fetch::{Unread, read_header};
use pgkeep_repo::genesis::genesis_name;
use pgkeep_repo::keys::{Recipient, wrap_key};
use pgkeep_repo::names::logical;
use pgkeep_repo::open::Opener;
use pgkeep_repo::rewrap::{RewrapBuilder, rewrap_mark, rewrapped_already, unwrap, wrapping_id};
use pgkeep_repo::seal::{Seal, SealMode};
use pgkeep_store::{ObjectMeta, ObjectName, Store};

use super::publish::publish;
use crate::controls::recipients_changes;
use crate::engine::Engine;
use crate::setup::Place;

/// Names that are told of those that could not be rewrapped.
const NAMES_TOLD: usize = 5;

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Rewrapped {
    /// Sealed objects that were looked at, each once, however many places have it.
    pub objects: u64,
    /// Of these: newly wrapped to the current recipients.
    pub wrapped: u64,
    /// Of these: wrapped to them by an earlier run.
    pub already: u64,
    /// Of these: no identity at hand opens them, and they are newer than the change of recipients: sealed to them.
    pub newer: u64,
    /// Of these: no identity at hand opens them.
    pub closed: u64,
    /// Of these: damaged, or signed by somebody who is not trusted.
    pub unusable: u64,
    /// Some of those that were left out, each with the reason.
    pub left_out: Vec<(ObjectName, String)>,
    /// Control objects that were written.
    pub written: u64,
}

impl Rewrapped {
    /// Whether everything opens for the current recipients now.
    pub fn is_complete(&self) -> bool {
        self.closed + self.unusable == 0
    }

    fn leave_out(&mut self, name: ObjectName, error: &Error) {
        if self.left_out.len() < NAMES_TOLD {
            let why = error.detail_text().unwrap_or_else(|| error.to_string());
            self.left_out.push((name, why));
        }
    }
}

/// Wraps the keys of all sealed objects to the current recipients.
///
/// Costs one ranged read for each object and place, and one control object for about 2,500 objects.
///
/// # Errors
/// `Refused` without an identity; what listing gives. Running again is safe.
pub async fn rewrap(engine: &Engine) -> Result<Rewrapped> {
    let SealMode::Age(recipients) = &engine.setup().repository.mode else {
        return Ok(Rewrapped::default());
    };
    if !engine.has_identity() {
        return Err(Error::refused("without an identity nothing can be rewrapped")
            .hint("Name one that opens what is stored: `--rewrap --identity FILE`."));
    }
    let (stores, opener) = (engine.stores(), engine.opener().await?);
    let names = engine.controls().await?.names(ControlKind::Rewrap);
    let current = engine.sealer().recipients();
    let known = rewrapped_already(&stores, opener, &names, &current).await?;
    let changes = recipients_changes(engine).await?;
    let changed_at = changes
        .newest()
        .filter(|newest| newest.sorted() == current)
        .map(|newest| newest.at);
    let mut run = Run {
        engine,
        opener: opener.clone(),
        recipients: recipients.clone(),
        changed_at,
        known,
        seen: HashSet::new(),
        builder: RewrapBuilder::default(),
        done: Rewrapped::default(),
    };
    engine.setup().progress.event(Event::Phase {
        name: "rewrap keys".to_owned(),
        bytes_total: None,
    });
    for place in engine.places() {
        match run.place(place).await {
            Err(error) if !place.required && error.kind() != ErrorKind::Internal => {
                let why = error.detail_text().unwrap_or_else(|| error.to_string());
                engine.warn(format!("the optional repository \"{}\" is left out: {why}", place.name));
            }
            done => done.during(|| format!("rewrap what is in repository \"{}\"", place.name))?,
        }
    }
    run.write().await?;
    Ok(run.done)
}

struct Run<'a> {
    engine: &'a Engine,
    opener: Opener,
    recipients: Vec<Recipient>,
    /// When the recipients of now were recorded.
    changed_at: Option<Timestamp>,
    /// Wrappings that an earlier run made.
    known: HashSet<[u8; 16]>,
    /// Wrappings of this run, and objects that were counted.
    seen: HashSet<[u8; 16]>,
    builder: RewrapBuilder,
    done: Rewrapped,
}

/// What looking at an object gave.
enum Looked {
    /// How its key is wrapped, and how it is to be wrapped from now on.
    Open { wrapped: String, again: String },
    /// It is not sealed, or it is gone by now.
    Nothing,
    /// No identity opens what was sealed at this time.
    Closed(Timestamp, Error),
    /// It is damaged, or its signer is not trusted.
    Unusable(Error),
}

impl Run<'_> {
    async fn place(&mut self, place: &Place) -> Result<()> {
        self.objects(place, stream::iter([Ok(genesis_name())])).await?;
        for directory in ["backups", "packs", "wal"] {
            let listed = place.store.list(directory, None);
            let names = listed.try_filter_map(|meta| async move { Ok(sealed_name(meta)) });
            self.objects(place, names).await?;
        }
        Ok(())
    }

    /// Looks at objects of a place, many at once.
    async fn objects(&mut self, place: &Place, names: impl stream::Stream<Item = Result<ObjectName>>) -> Result<()> {
        let (opener, recipients) = (self.opener.clone(), self.recipients.clone());
        let store = Arc::clone(&place.store);
        let looks = names.map(|name| {
            let (store, opener, recipients) = (Arc::clone(&store), opener.clone(), recipients.clone());
            async move {
                let name = name?;
                let looked = look(store, opener, recipients, &name).await?;
                Ok::<_, Error>((name, looked))
            }
        });
        let mut looks = std::pin::pin!(looks.buffered(limits::REQUESTS_IN_FLIGHT));
        while let Some(looked) = looks.next().await {
            match looked {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                looked => {
                    let (name, looked) = looked?;
                    self.take(name, looked).await?;
                }
            }
        }
        Ok(())
    }

    async fn take(&mut self, name: ObjectName, looked: Looked) -> Result<()> {
        if matches!(looked, Looked::Nothing) {
            return Ok(());
        }
        self.done.objects += u64::from(self.seen.insert(rewrap_mark(&name, "")));
        match looked {
            Looked::Nothing => {}
            Looked::Open { wrapped, again } => {
                let mark = rewrap_mark(&name, &wrapping_id(&wrapped));
                let new = self.seen.insert(mark);
                let known = self.known.contains(&mark);
                self.done.already += u64::from(new && known);
                if new && !known {
                    self.done.wrapped += 1;
                    self.builder.add(&name, &wrapped, again);
                }
            }
            Looked::Closed(sealed_at, _) if self.changed_at.is_some_and(|at| sealed_at >= at) => self.done.newer += 1,
            Looked::Closed(_, error) => {
                self.done.closed += 1;
                self.done.leave_out(name, &error);
            }
            Looked::Unusable(error) => {
                self.done.unusable += 1;
                self.done.leave_out(name, &error);
            }
        }
        match self.builder.is_full() {
            true => self.write().await,
            false => Ok(()),
        }
    }

    async fn write(&mut self) -> Result<()> {
        let sealed = self.builder.seal(self.engine.sealer())?;
        if let Some(object) = sealed {
            publish(self.engine, &object).await?;
            self.done.written += 1;
        }
        Ok(())
    }
}

/// Names of objects with a key of their own: WAL objects and parts, packs, manifests.
fn sealed_name(meta: ObjectMeta) -> Option<ObjectName> {
    let of_backup = meta.name.is_below("backups");
    let manifest = logical(&meta.name).as_str().ends_with("/manifest");
    (!of_backup || manifest).then_some(meta.name)
}

/// Reads the header of one copy of an object, and wraps its key again.
async fn look(store: Arc<dyn Store>, opener: Opener, recipients: Vec<Recipient>, name: &ObjectName) -> Result<Looked> {
    let stores = [store];
    let header = match read_header(&stores, &opener, name, None).await {
        Ok(header) => header,
        Err(Unread::Absent) => return Ok(Looked::Nothing),
        Err(why @ Unread::Unknown(_)) => return Err(why.into_error(name)),
        Err(why) => return Ok(Looked::Unusable(why.into_error(name))),
    };
    let Seal::Age { key: wrapped } = header.seal else {
        return Ok(Looked::Nothing);
    };
    match unwrap(&stores, &opener, name, &wrapped).await {
        Ok(key) => {
            let again = wrap_key(&key, &recipients)?;
            Ok(Looked::Open { wrapped, again })
        }
        Err(error) => match error.kind() {
            ErrorKind::Refused => Ok(Looked::Closed(header.created_at, error)),
            ErrorKind::Corrupt => Ok(Looked::Unusable(error)),
            _ => Err(error),
        },
    }
}
