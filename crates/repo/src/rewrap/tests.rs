//! Claims about rewraps: what was sealed to earlier recipients opens for later ones, by name, and nothing else does.

use super::*;
use crate::fetch::read_object;
use crate::frame::encode;
use crate::keys::{Identity, wrap_key};
use crate::names::ALTERNATES_MAX;
use crate::seal::{Kind, SealMode};
use crate::sign::SigningKey;
use crate::test_support::{Place, Repository, name, run};
use serde_json::Map;
use std::sync::atomic::Ordering;

/// A repository that was sealed to one identity and is sealed to another now.
struct Rotated {
    before: Repository,
    after: Repository,
    place: Arc<Place>,
}

impl Rotated {
    fn new() -> Rotated {
        let before = Repository::new(true);
        let identity = Identity::generate();
        let after = Repository {
            id: before.id,
            mode: SealMode::Age(vec![identity.recipient()]),
            identity,
            key: before.key.clone(),
        };
        let place = Place::new();
        Rotated { before, after, place }
    }

    fn stores(&self) -> Vec<Arc<dyn Store>> {
        vec![self.place.clone() as Arc<dyn Store>]
    }

    /// An object of before; gives how its key is wrapped.
    fn old_object(&self, name: &ObjectName) -> String {
        let builder = self.before.sealer().begin(name, Kind::Manifest).unwrap();
        let content = encode(name.as_str().as_bytes(), 1).unwrap();
        let object = builder.finish(Map::new(), Some(&content)).unwrap();
        run(self.place.put(name, object.payload.clone()));
        object.key.unwrap()
    }

    /// Wraps a key as `to` wraps it.
    fn again(&self, wrapped: &str, to: &Repository) -> String {
        let key = self.before.opener().unwrap(wrapped).unwrap();
        wrap_key(&key, &[to.identity.recipient()]).unwrap()
    }

    fn rewrap(&self, wrappings: &[(&ObjectName, &str, String)], by: &Repository) -> ObjectName {
        let mut builder = RewrapBuilder::default();
        for (name, wrapped, again) in wrappings {
            builder.add(name, wrapped, again.clone());
        }
        let object = builder.seal(&by.sealer()).unwrap().unwrap();
        assert!(builder.seal(&by.sealer()).unwrap().is_none(), "it is empty now");
        run(self.place.put(&object.name, object.payload));
        object.name
    }

    fn read(&self, name: &ObjectName) -> Result<Vec<Vec<u8>>> {
        let opener = self.after.opener();
        run(async { read_object(&self.stores(), &opener, name, Kind::Manifest, 1 << 20).await })
            .map(|(_, frames)| frames)
            .map_err(|why| why.into_error(name))
    }
}

#[test]
fn what_was_sealed_to_others_opens_by_a_rewrap_and_only_by_it() {
    let rotated = Rotated::new();
    let (one, two) = (name("backups/a/1/x/manifest"), name("backups/a/1/y/manifest"));
    let (key_one, _) = (rotated.old_object(&one), rotated.old_object(&two));
    assert_eq!(rotated.read(&one).unwrap_err().kind(), ErrorKind::Refused);
    let again = rotated.again(&key_one, &rotated.after);
    rotated.rewrap(&[(&one, &key_one, again)], &rotated.after);
    assert_eq!(rotated.read(&one).unwrap()[0], one.as_str().as_bytes());
    assert_eq!(rotated.read(&two).unwrap_err().kind(), ErrorKind::Refused);
}

/// Aim: two places may have sealed one WAL file with two keys; each copy opens by the wrapping of its own.
#[test]
fn two_sealings_of_one_name_have_a_wrapping_each() {
    let rotated = Rotated::new();
    let object = name("backups/a/1/x/manifest");
    let other = Rotated {
        place: Place::new(),
        before: Repository {
            key: rotated.before.key.clone(),
            identity: rotated.before.identity.clone(),
            mode: rotated.before.mode.clone(),
            id: rotated.before.id,
        },
        after: Repository::new(true),
    };
    let keys = [rotated.old_object(&object), other.old_object(&object)];
    let wrappings: Vec<_> = keys
        .iter()
        .map(|key| (&object, key.as_str(), rotated.again(key, &rotated.after)))
        .collect();
    rotated.rewrap(&wrappings, &rotated.after);
    let opener = rotated.after.opener();
    for stores in [
        vec![rotated.place.clone() as Arc<dyn Store>],
        vec![
            other.place.clone() as Arc<dyn Store>,
            rotated.place.clone() as Arc<dyn Store>,
        ],
    ] {
        let read = run(async { read_object(&stores, &opener, &object, Kind::Manifest, 1 << 20).await });
        assert!(read.is_ok());
    }
}

/// Aim: of many rewrap objects only those are read that say they cover the name, and each only once.
#[test]
fn only_the_rewraps_that_cover_a_name_are_read_whole() {
    let rotated = Rotated::new();
    let names: Vec<ObjectName> = (0..20).map(|n| name(&format!("backups/a/1/{n:02}/manifest"))).collect();
    let keys: Vec<String> = names.iter().map(|name| rotated.old_object(name)).collect();
    for (name, key) in names.iter().zip(&keys) {
        let again = rotated.again(key, &rotated.after);
        rotated.rewrap(&[(name, key, again)], &rotated.after);
    }
    let opener = rotated.after.opener();
    let before = rotated.place.requests.load(Ordering::Relaxed);
    let read = |name: &ObjectName| {
        let stores = rotated.stores();
        run(async {
            read_object(&stores, &opener, name, Kind::Manifest, 1 << 20)
                .await
                .is_ok()
        })
    };
    assert!(read(&names[7]));
    // The object, its alternates, the listing, the beginnings of all rewraps, one of them whole, the object again.
    let needed = 1 + ALTERNATES_MAX as usize + 1 + names.len() + 1 + 1;
    assert_eq!(rotated.place.requests.load(Ordering::Relaxed) - before, needed);
    assert!(read(&names[7]));
    assert_eq!(rotated.place.requests.load(Ordering::Relaxed) - before, needed + 1);
    for name in &names {
        assert!(read(name), "{name}");
    }
}

/// Aim: whatever the beginning of a damaged rewrap object claims to cover, it is named in the refusal, or not needed.
#[test]
fn a_damaged_rewrap_is_named_and_a_good_one_still_found() {
    let rotated = Rotated::new();
    let object = name("backups/a/1/x/manifest");
    let key = rotated.old_object(&object);
    let rewrap = |by: &Repository| rotated.rewrap(&[(&object, &key, rotated.again(&key, &rotated.after))], by);
    let bad = rewrap(&rotated.after);
    let bytes = run(rotated.place.read(&bad, 1 << 20)).unwrap();
    for at in 0..bytes.len() {
        rotated.place.damage(&bad, |bytes| bytes[at] ^= 1);
        let error = rotated.read(&object).unwrap_err();
        assert!(
            error.detail_text().unwrap().contains(bad.as_str()),
            "byte {at}: {error:?}"
        );
        rotated.place.damage(&bad, |bytes| bytes[at] ^= 1);
    }
    rotated.place.damage(&bad, |bytes| bytes.truncate(1));
    rewrap(&rotated.after);
    assert!(rotated.read(&object).is_ok());
}

#[test]
fn a_strangers_rewrap_is_not_asked() {
    let rotated = Rotated::new();
    let object = name("backups/a/1/x/manifest");
    let key = rotated.old_object(&object);
    let stranger = Repository {
        id: rotated.after.id,
        identity: rotated.after.identity.clone(),
        key: Arc::new(SigningKey::generate().unwrap()),
        mode: rotated.after.mode.clone(),
    };
    rotated.rewrap(&[(&object, &key, rotated.again(&key, &rotated.after))], &stranger);
    let error = rotated.read(&object).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error
            .detail_text()
            .unwrap()
            .contains(stranger.key.fingerprint().as_str())
    );
}

/// Aim: after two rotations the last identity opens what the first was sealed to, whichever rewrap is looked at first.
#[test]
fn a_name_that_several_rewraps_hold_opens_for_each_of_their_recipients() {
    let rotated = Rotated::new();
    let object = name("backups/a/1/x/manifest");
    let key = rotated.old_object(&object);
    let between = Repository::new(true);
    for to in [&rotated.after, &between, &between] {
        rotated.rewrap(&[(&object, &key, rotated.again(&key, to))], &rotated.after);
    }
    assert!(rotated.read(&object).is_ok());
}

#[test]
fn what_was_rewrapped_to_the_same_recipients_is_known() {
    let rotated = Rotated::new();
    let (one, two) = (name("backups/a/1/x/manifest"), name("backups/a/1/y/manifest"));
    let keys = [rotated.old_object(&one), rotated.old_object(&two)];
    let rewrap = rotated.rewrap(
        &[(&one, &keys[0], rotated.again(&keys[0], &rotated.after))],
        &rotated.after,
    );
    let opener = rotated.after.opener();
    let known = |recipients: Vec<String>| {
        let stores = rotated.stores();
        let names = [rewrap.clone()];
        let opener = opener.clone();
        run(async move { rewrapped_already(&stores, &opener, &names, &recipients).await.unwrap() })
    };
    let ours = known(rotated.after.sealer().recipients());
    assert!(ours.contains(&rewrap_mark(&one, &wrapping_id(&keys[0]))));
    assert!(!ours.contains(&rewrap_mark(&two, &wrapping_id(&keys[1]))));
    assert!(known(rotated.before.sealer().recipients()).is_empty());
}

/// Aim: what one reader learns while another is refused does not keep the other from trying it.
#[test]
fn readers_side_by_side_all_learn() {
    let rotated = Rotated::new();
    let names: Vec<ObjectName> = (0..16).map(|n| name(&format!("backups/a/1/{n:02}/manifest"))).collect();
    let keys: Vec<String> = names.iter().map(|name| rotated.old_object(name)).collect();
    let wrappings: Vec<_> = names
        .iter()
        .zip(&keys)
        .map(|(name, key)| (name, key.as_str(), rotated.again(key, &rotated.after)))
        .collect();
    rotated.rewrap(&wrappings, &rotated.after);
    let (stores, opener) = (rotated.stores(), rotated.after.opener());
    run(async {
        let mut reads = Vec::new();
        for name in &names {
            reads.push(read_object(&stores, &opener, name, Kind::Manifest, 1 << 20));
        }
        for read in futures::future::join_all(reads).await {
            assert!(read.is_ok());
        }
    });
}
