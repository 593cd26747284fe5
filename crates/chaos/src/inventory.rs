//! I8: what was stored is never changed and never removed, by anything but our own damage.

use std::collections::BTreeMap;
use std::fs;

use pgkeep_testkit::corrupt::objects;

use crate::world::{Storage, World};

/// What each place held at one moment, by name and content.
#[derive(Debug, Default)]
pub struct Inventory(BTreeMap<String, blake3::Hash>);

impl Inventory {
    /// Everything in the directories of a repository; what a writer is about to publish is not in the repository yet.
    pub fn of(world: &World) -> Inventory {
        let mut found = BTreeMap::new();
        for place in &world.places {
            let Storage::Directory { path, .. } = &place.storage else {
                continue;
            };
            let names = objects(path);
            // What is listed is durable then, whoever put it there and was not told so yet.
            let root = fs::File::open(path).and_then(|root| rustix::fs::syncfs(root).map_err(Into::into));
            root.unwrap_or_else(|error| panic!("sync {}: {error}", path.display()));
            for name in names {
                // What was there a moment ago may be a file that a killed writer left and another one removed.
                if let (false, Ok(bytes)) = (is_temporary(&name), fs::read(path.join(&name))) {
                    found.insert(format!("{}/{name}", place.name), blake3::hash(&bytes));
                }
            }
        }
        Inventory(found)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Compares with what is there later.
    ///
    /// # Panics
    /// Naming what was changed or removed.
    pub fn check(&self, later: &Inventory) {
        for (name, hash) in &self.0 {
            match later.0.get(name) {
                None => panic!("I8: {name} was removed"),
                Some(other) => assert_eq!(hash, other, "I8: {name} was changed"),
            }
        }
    }
}

impl World {
    /// I8 as the buckets' proxies saw it.
    ///
    /// # Panics
    /// When a name was given two contents, or anything was deleted but what trying the store out had made.
    pub fn check_buckets(&self) {
        for place in &self.places {
            let Storage::Bucket { answers, .. } = &place.storage else {
                continue;
            };
            let account = answers.account();
            assert!(
                account.overwritten.is_empty(),
                "I8: overwritten: {:?}",
                account.overwritten
            );
            let deleted = account
                .deleted
                .iter()
                .find(|name| !name.contains("/control/create-only-"));
            assert!(deleted.is_none(), "I8: deleted: {deleted:?}");
        }
    }
}

/// Files of unfinished writes.
fn is_temporary(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|last| last.starts_with('.'))
}
