//! Further wrappings of objects' keys: how what was sealed to earlier recipients opens for later ones (docs/format.md,
//! section 9).
//!
//! Invariant: nothing is asked of them while an identity fits what an object's own header holds. Rewraps open nothing by
//! themselves: a key from one is used on a body whose hash and frames are verified as ever. Memory holds the index, one
//! line for each rewrap object, and what [`LOADED_MAX`] of them say.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use pgkeep_base::{Error, ErrorKind, Result, ResultExt, limits};
use pgkeep_store::{ObjectMeta, ObjectName, Store};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::control::{ControlKind, ControlObject, parse_control_name, seal_control};
use crate::digest::Digest;
use crate::fetch::{Failure, Unread, read_document};
use crate::names;
use crate::open::Opener;
use crate::seal::Sealer;
use crate::sign::Verified;

/// A rewrap object is closed once its keys have this many bytes.
const REWRAP_BYTES_TARGET: usize = 1 << 20;
/// The largest rewrap object that is read.
const REWRAP_BYTES_MAX: u64 = 2 << 20;
/// Rewrap objects whose keys are in memory.
const LOADED_MAX: usize = 8;
/// What is read of a rewrap object to see which names it covers: two names and the words around them.
const COVERS_BYTES: u64 = 2 << 10;
/// The payload of a rewrap object begins so.
const COVERS: &[u8] = b"{\"covers\":";

/// Names one wrapping of a key: the first 32 digits of the hash of `seal.key`, as it stands in a header.
pub fn wrapping_id(wrapped: &str) -> String {
    let mut digits = Digest::of(wrapped.as_bytes()).to_string();
    digits.truncate(32);
    digits
}

/// Wrapping of before (by its id) to the wrapping of now.
pub type Wrappings = BTreeMap<String, String>;

/// What a rewrap object says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rewrap {
    /// First and last name. First in the document, so that a few bytes tell whether the rest is wanted.
    pub covers: [ObjectName; 2],
    /// By logical name.
    pub keys: BTreeMap<ObjectName, Wrappings>,
    /// To whom the keys are wrapped now, sorted.
    pub recipients: Vec<String>,
}

impl Rewrap {
    /// Reads it from the verified document of this name. Never with "accept any": a stranger's keys would only be in the
    /// way.
    ///
    /// # Errors
    /// `Refused` where nobody trusts its signer, `Corrupt` where it lacks what a rewrap says.
    pub fn read(name: &ObjectName, verified: &Verified) -> Result<Rewrap> {
        if !verified.trusted {
            let signer = &verified.signer;
            return Err(Error::refused(format!(
                "{name} is signed by {signer}, which is not trusted"
            )));
        }
        verified.parse().during(|| format!("read {name}"))
    }

    /// The names in the beginning of a rewrap object: a hint only, as nothing of it is verified yet.
    pub fn covered(beginning: &[u8]) -> Option<[ObjectName; 2]> {
        let array = beginning.strip_prefix(COVERS)?;
        let mut values = serde_json::Deserializer::from_slice(array).into_iter();
        values.next()?.ok()
    }
}

/// Gathers wrappings for rewrap objects of about 1 MiB.
#[derive(Debug, Default)]
pub struct RewrapBuilder {
    keys: BTreeMap<ObjectName, Wrappings>,
    bytes: usize,
}

impl RewrapBuilder {
    /// Adds what `wrapped`, the `seal.key` in an object's header, is wrapped as now.
    pub fn add(&mut self, name: &ObjectName, wrapped: &str, again: String) {
        let name = names::logical(name);
        self.bytes += name.as_str().len() + again.len() + 48;
        self.keys.entry(name).or_default().insert(wrapping_id(wrapped), again);
    }

    /// Whether it should be sealed before more is added.
    pub fn is_full(&self) -> bool {
        self.bytes >= REWRAP_BYTES_TARGET
    }

    /// The control object with all that was added, and nothing in the builder any more; `None` where that is nothing.
    pub fn seal(&mut self, sealer: &Sealer) -> Result<Option<ControlObject>> {
        let keys = std::mem::take(&mut self.keys);
        self.bytes = 0;
        let (Some((first, _)), Some((last, _))) = (keys.first_key_value(), keys.last_key_value()) else {
            return Ok(None);
        };
        let payload = Rewrap {
            covers: [first.clone(), last.clone()],
            keys,
            recipients: sealer.recipients(),
        };
        seal_control(sealer, ControlKind::Rewrap, &payload).map(Some)
    }
}

/// What is known of rewraps.
#[derive(Default)]
pub(crate) struct Rewraps {
    index: OnceCell<Vec<Indexed>>,
    loaded: Mutex<VecDeque<Loaded>>,
}

struct Indexed {
    name: ObjectName,
    /// `None` where its beginning could not be read: then all of it is.
    covers: Option<[ObjectName; 2]>,
}

struct Loaded {
    name: ObjectName,
    by_id: HashMap<String, String>,
}

impl Rewraps {
    /// Further wrappings of the key that is wrapped as `wrapped`.
    pub fn wrappings_of(&self, wrapped: &str) -> Vec<String> {
        let loaded = self.loaded.lock().expect("nobody panics with this lock");
        if loaded.is_empty() {
            return Vec::new();
        }
        let id = wrapping_id(wrapped);
        loaded.iter().filter_map(|one| one.by_id.get(&id).cloned()).collect()
    }

    fn names(&self) -> HashSet<ObjectName> {
        let loaded = self.loaded.lock().expect("nobody panics with this lock");
        loaded.iter().map(|one| one.name.clone()).collect()
    }

    fn put(&self, one: Loaded) {
        let mut loaded = self.loaded.lock().expect("nobody panics with this lock");
        if loaded.len() == LOADED_MAX {
            loaded.pop_front();
        }
        loaded.push_back(one);
    }
}

/// Unwraps the key of an object, which its header holds as `wrapped`; where no identity fits, by a rewrap.
///
/// # Errors
/// As [`Opener::unwrap`].
pub async fn unwrap(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    name: &ObjectName,
    wrapped: &str,
) -> Result<Zeroizing<[u8; 32]>> {
    with_rewraps(stores, opener, name, || opener.unwrap(wrapped)).await
}

/// Does what needs the key of an object; where no identity fits, once more with each rewrap that has it.
pub(crate) async fn with_rewraps<T>(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    name: &ObjectName,
    attempt: impl Fn() -> Result<T>,
) -> Result<T> {
    let mut learning = Learning::new(stores, opener, name);
    loop {
        let refused = match attempt() {
            Err(error) if error.kind() == ErrorKind::Refused => error,
            done => return done,
        };
        if !learning.more().await {
            let failures = learning.failures();
            return Err(match failures.is_empty() {
                true => refused,
                false => Unread::from_failures(failures).into_error(name).source(refused),
            });
        }
    }
}

/// Looks for further wrappings of one object's key, rewrap object by rewrap object, newest first.
pub(crate) struct Learning<'a> {
    stores: &'a [Arc<dyn Store>],
    opener: &'a Opener,
    name: ObjectName,
    /// Those that have been looked at; what they say is known, and did not open the object.
    asked: HashSet<ObjectName>,
    failures: Vec<Failure>,
}

impl<'a> Learning<'a> {
    /// For an object that is about to be opened: what is known before the first attempt was tried by it, and what others
    /// learn meanwhile was not.
    pub fn new(stores: &'a [Arc<dyn Store>], opener: &'a Opener, name: &ObjectName) -> Learning<'a> {
        Learning {
            stores,
            opener,
            name: names::logical(name),
            asked: opener.rewraps().names(),
            failures: Vec::new(),
        }
    }

    /// True if the opener knows another wrapping now; then it is worth trying again.
    pub async fn more(&mut self) -> bool {
        if !self.opener.has_identity() {
            return false;
        }
        let rewraps = self.opener.rewraps();
        let index = match rewraps.index.get_or_try_init(|| index(self.stores)).await {
            Ok(index) => index,
            Err(failure) => {
                self.failures.push(failure);
                return false;
            }
        };
        let covering = |one: &&Indexed| match &one.covers {
            Some([first, last]) => *first <= self.name && self.name <= *last,
            None => true,
        };
        // What a rewrap object covers is not verified before all of it is read: in the end all are.
        let (likely, others): (Vec<_>, Vec<_>) = index.iter().rev().partition(covering);
        for one in likely.into_iter().chain(others) {
            if self.asked.insert(one.name.clone()) && self.take(&one.name).await {
                return true;
            }
        }
        false
    }

    async fn take(&mut self, rewrap: &ObjectName) -> bool {
        match load(self.stores, self.opener, rewrap).await {
            Ok(payload) => {
                let found = payload.keys.contains_key(&self.name);
                if found {
                    let by_id = payload.keys.into_values().flatten().collect();
                    let name = rewrap.clone();
                    self.opener.rewraps().put(Loaded { name, by_id });
                }
                found
            }
            Err(error) => {
                self.failures.push(failure(rewrap, error));
                false
            }
        }
    }

    /// The rewrap objects that could not be looked at.
    pub fn failures(self) -> Vec<Failure> {
        self.failures
    }
}

fn failure(name: &ObjectName, error: Error) -> Failure {
    Failure {
        place: "every repository".to_owned(),
        name: name.clone(),
        error,
    }
}

async fn load(stores: &[Arc<dyn Store>], opener: &Opener, name: &ObjectName) -> Result<Rewrap> {
    let read = read_document(stores, opener, name, REWRAP_BYTES_MAX).await;
    let verified = read.map_err(|why: Unread| why.into_error(name))?;
    Rewrap::read(name, &verified)
}

/// All rewrap objects, and which names each covers.
async fn index(stores: &[Arc<dyn Store>]) -> Result<Vec<Indexed>, Failure> {
    let mut found: BTreeMap<ObjectName, (Arc<dyn Store>, ObjectMeta)> = BTreeMap::new();
    for store in stores {
        let mut listing = store.list("control", None);
        loop {
            let meta = match listing.try_next().await {
                Ok(Some(meta)) => meta,
                Ok(None) => break,
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) => {
                    return Err(Failure {
                        place: store.url().to_owned(),
                        name: ObjectName::new("control").expect("a legal name"),
                        error,
                    });
                }
            };
            let logical = names::logical(&meta.name);
            if parse_control_name(&logical).is_some_and(|(_, kind)| kind == ControlKind::Rewrap) {
                found.entry(logical).or_insert((Arc::clone(store), meta));
            }
        }
    }
    let mut looks = Vec::with_capacity(found.len());
    for (name, (store, meta)) in found {
        looks.push(look(name, store, meta));
    }
    Ok(stream::iter(looks).buffered(limits::REQUESTS_IN_FLIGHT).collect().await)
}

async fn look(name: ObjectName, store: Arc<dyn Store>, meta: ObjectMeta) -> Indexed {
    let range = 0..meta.bytes.min(COVERS_BYTES);
    let beginning = store.read_range(&meta.name, range).await.ok();
    let covers = beginning.and_then(|bytes| Rewrap::covered(&bytes));
    Indexed { name, covers }
}

/// Which wrappings earlier rewraps to exactly these recipients have made: `(name, wrapping id)`, by 16 bytes of hash.
pub async fn rewrapped_already(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    names: &[ObjectName],
    recipients: &[String],
) -> Result<HashSet<[u8; 16]>> {
    let mut known = HashSet::new();
    for name in names {
        // One that can't be used is made again.
        let Ok(payload) = load(stores, opener, name).await else {
            continue;
        };
        if payload.recipients == recipients {
            for (object, wrappings) in payload.keys {
                known.extend(wrappings.keys().map(|id| rewrap_mark(&object, id)));
            }
        }
    }
    Ok(known)
}

/// Stands for a wrapping of an object's key in a set.
pub fn rewrap_mark(name: &ObjectName, wrapping_id: &str) -> [u8; 16] {
    let hash = Digest::of(format!("{}\n{wrapping_id}", names::logical(name)).as_bytes());
    *hash.0.first_chunk().expect("16 of 32 bytes")
}

#[cfg(test)]
mod tests;
