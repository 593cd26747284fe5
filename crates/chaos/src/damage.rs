//! Storage that is lost or damaged together with the host.
//!
//! Invariant: at most one place is harmed, so that where the repository is in two, one of them is whole.

use std::fs;

use pgkeep_testkit::corrupt::{Damage, Damaged, objects};
use pgkeep_testkit::{Bucket, wait};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::draw::{Cycle, Kind};
use crate::world::{Storage, World};

/// Parts that a place can lose.
const PARTS: [&str; 4] = ["", "wal", "backups", "packs"];
/// At most so many objects are damaged at once.
const DAMAGED_MAX: usize = 12;

/// What was done to storage.
#[derive(Clone, Debug)]
pub struct Harm {
    /// The place.
    pub place: &'static str,
    /// Another required place is whole.
    pub another_is_whole: bool,
    /// In words.
    pub what: String,
}

impl World {
    /// Harms a place, if this cycle does.
    pub fn harm(&mut self, cycle: &Cycle, rng: &mut StdRng) -> Option<Harm> {
        let lost = cycle.kinds.contains(&Kind::PlaceLost);
        if !lost && !cycle.kinds.contains(&Kind::ObjectsDamaged) {
            return None;
        }
        let (at, part) = choose_loss(self.places.len(), rng);
        let place = &self.places[at];
        let required = self.installation.places().iter().enumerate();
        let another_is_whole = required
            .filter(|(other, (_, required))| *other != at && *required)
            .count()
            > 0;
        let what = match (&place.storage, lost) {
            (Storage::Directory { path, .. }, true) => {
                wait::until("a part of a place to be gone", wait::LIMIT, || {
                    fs::remove_dir_all(path.join(part)).ok()
                });
                format!("lost {}/{part}", place.name)
            }
            (Storage::Bucket { bucket, .. }, true) => {
                bucket.list("shop/").iter().for_each(|key| bucket.delete(key));
                format!("lost {}", place.name)
            }
            (Storage::Directory { path, .. }, false) => {
                let done = choose(&objects(path), rng).into_iter().map(|name| {
                    let length = fs::metadata(path.join(&name)).map_or(0, |meta| meta.len());
                    let damage = one(length, rng);
                    Damaged::new(path, &name, damage).keep();
                    format!("{damage:?} of {name}")
                });
                format!("in {}: {}", place.name, done.collect::<Vec<_>>().join(", "))
            }
            (Storage::Bucket { bucket, .. }, false) => {
                let names = choose(&bucket.list("shop/"), rng);
                let done = names.into_iter().map(|key| damage_object(bucket, &key, rng));
                format!("in {}: {}", place.name, done.collect::<Vec<_>>().join(", "))
            }
        };
        Some(Harm {
            place: place.name,
            another_is_whole,
            what,
        })
    }
}

/// Which place is harmed, and, where it is lost, which directory of it: the first is all.
pub fn choose_loss(places: usize, rng: &mut StdRng) -> (usize, &'static str) {
    let at = rng.random_range(0..places);
    (at, PARTS.choose(rng).expect("there are some"))
}

fn choose(names: &[String], rng: &mut StdRng) -> Vec<String> {
    let count = rng.random_range(1..=DAMAGED_MAX);
    names.choose_multiple(rng, count).cloned().collect()
}

/// Damage that changes something for sure: zeros over zeros would not.
fn one(length: u64, rng: &mut StdRng) -> Damage {
    let kinds = Damage::of_every_kind(rng.random(), length);
    let certain = kinds
        .into_iter()
        .filter(|damage| !matches!(damage, Damage::Zero { .. }));
    *certain
        .collect::<Vec<_>>()
        .choose(rng)
        .expect("anything can be deleted")
}

fn damage_object(bucket: &Bucket, key: &str, rng: &mut StdRng) -> String {
    let mut bytes = bucket.get(key);
    let damage = one(bytes.len() as u64, rng);
    match damage {
        Damage::Delete | Damage::Unreadable => bucket.delete(key),
        damage => {
            damage.apply(&mut bytes);
            bucket.put(key, &bytes);
        }
    }
    format!("{damage:?} of {key}")
}
