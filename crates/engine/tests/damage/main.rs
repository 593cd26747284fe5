//! Every kind of object under every kind of damage (docs/reliability.md, "Damage and trust").
//!
//! Claim: whatever happens to an object, readers give exactly what was stored, or refuse and name the object; with a
//! second place, or an alternate, that is good they always give what was stored. Never anything else, never a panic.
//! Method: a repository in memory, one mutation at a time, judged by the readers that restore, fetch, list and recover.
//! `PGKEEP_TEST_ALL` tries every byte of small objects and a thousand of large ones; the gate a seeded part of that.

#![allow(clippy::unwrap_used)]

mod judge;
mod memory;
mod mutations;
mod tiny;
mod world;

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use pgkeep_repo::names::alternate;
use pgkeep_store::ObjectName;

use judge::{Answer, ask, ask_plan, words};
use memory::{MemoryStore, Overlay};
use mutations::{Density, Mutation};
use world::{What, World, what};

#[test]
fn a_sealed_repository_is_restored_exactly_or_not_at_all() {
    run(&World::sealed());
}

#[test]
fn an_unsealed_repository_is_restored_exactly_or_not_at_all() {
    run(&World::unsealed());
}

/// Aim: the judge can tell: without damage everything is right, and an object that is not looked at would show.
#[test]
fn every_kind_of_object_is_there_twice_and_is_read() {
    for (world, kinds) in [(World::sealed(), 14), (World::unsealed(), 12)] {
        assert_eq!(world.kinds().len(), kinds, "{}", world.name);
        for (what, names) in world.kinds() {
            assert!(names.len() > 1 || what == What::Genesis, "{what:?}: {names:?}");
            for name in &names {
                let intact = block_on(ask(&world, name, &[world.store("intact", Overlay::new())]));
                assert!(
                    intact.result.is_ok() && intact.told.is_empty(),
                    "{name}: {:?} {}",
                    intact.result,
                    intact.told
                );
                let none: Overlay = [(name.clone(), None)].into();
                let lost = block_on(ask(&world, name, &[world.store("lost", none)]));
                assert!(
                    lost.result.is_err() || lost.result.ok() != intact.result.ok(),
                    "{name} is not read"
                );
            }
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// What came of the mutations of one class.
#[derive(Default)]
struct Count {
    right: u32,
    refused: u32,
    announced: u32,
    healed: u32,
}

struct Run<'a> {
    world: &'a World,
    /// What the undamaged repository gives.
    reference: HashMap<ObjectName, String>,
    planned: String,
    counts: BTreeMap<(What, &'static str), Count>,
    number: usize,
    all: bool,
}

fn run(world: &World) {
    let all = std::env::var_os("PGKEEP_TEST_ALL").is_some();
    let density = match all {
        true => Density {
            stride: 1,
            samples: 1000,
        },
        false => Density {
            stride: 16,
            samples: 12,
        },
    };
    let seed = std::env::var("PGKEEP_TEST_SEED").map_or(20_261_120, |seed| seed.parse().unwrap());
    println!("{}: seed {seed}", world.name);
    block_on(async {
        let mut run = Run::new(world, all).await;
        for (kind, names) in world.kinds() {
            let (begun, before) = (std::time::Instant::now(), run.number);
            for name in &names {
                for mutation in mutations::of(world, name, &names, density, seed) {
                    run.judge(name, &mutation).await;
                }
            }
            let seconds = begun.elapsed().as_secs_f32();
            println!(
                "{}: {kind:?}: {} mutations in {seconds:.1} s",
                world.name,
                run.number - before
            );
        }
        run.report();
    });
}

impl<'a> Run<'a> {
    async fn new(world: &'a World, all: bool) -> Run<'a> {
        let intact = [world.store("intact", Overlay::new())];
        let mut reference = HashMap::new();
        for name in world.objects.keys() {
            reference.insert(name.clone(), ask(world, name, &intact).await.result.unwrap());
        }
        let planned = ask_plan(world, &world::genesis(), &intact).await.result.unwrap();
        Run {
            world,
            reference,
            planned,
            counts: BTreeMap::new(),
            number: 0,
            all,
        }
    }

    async fn judge(&mut self, name: &ObjectName, mutation: &Mutation) {
        self.number += 1;
        let context = format!("{}: {name}: {} {}", self.world.name, mutation.class, mutation.detail);
        let judged = AssertUnwindSafe(self.judged(name, mutation, &context))
            .catch_unwind()
            .await;
        if let Err(panic) = judged {
            eprintln!("while judging {context}");
            std::panic::resume_unwind(panic);
        }
    }

    async fn judged(&mut self, name: &ObjectName, mutation: &Mutation, context: &str) {
        let damaged = self.world.store("damaged", mutation.overlay.clone());
        let answer = ask(self.world, name, std::slice::from_ref(&damaged)).await;
        let expected = self.reference[name].clone();
        self.conclude(name, mutation, &answer, &expected, context);
        let (all, number) = (self.all, self.number);
        let one_in = |gate: usize, thorough: usize| number.is_multiple_of(if all { thorough } else { gate });
        let healing = match what(name) {
            What::Part => one_in(25, 10),
            _ => one_in(6, 3),
        };
        if healing {
            self.with_something_good(name, mutation, damaged.clone(), context).await;
        }
        let planning = match mutation.class {
            "flip" => one_in(30, 10),
            _ => one_in(3, 1),
        };
        if planning && name.as_str().contains("/shop/") {
            let answer = ask_plan(self.world, name, &[damaged]).await;
            let planned = self.planned.clone();
            self.conclude(name, mutation, &answer, &planned, context);
        }
    }

    fn conclude(&mut self, name: &ObjectName, mutation: &Mutation, answer: &Answer, expected: &str, context: &str) {
        let count = self.counts.entry((what(name), mutation.class)).or_default();
        let names_it = |text: &str| {
            let named = |damaged: &ObjectName| text.contains(&short(damaged));
            mutation.overlay.keys().any(named) || self.world.rewrapped.iter().any(named)
        };
        match &answer.result {
            Ok(given) if given == expected => count.right += 1,
            Err(error) => {
                let words = words(error);
                assert!(names_it(&words), "{context}: the refusal does not name it: {words}");
                count.refused += 1;
            }
            Ok(_) if names_it(&answer.told) => count.refused += 1,
            Ok(given) => {
                assert!(
                    is_announced(name, mutation),
                    "{context}: WRONG: {given}\nnot {expected}\ntold: {}",
                    answer.told
                );
                count.announced += 1;
            }
        }
    }

    /// With a good second place, and with a good alternate, everything is right.
    async fn with_something_good(
        &mut self,
        name: &ObjectName,
        mutation: &Mutation,
        damaged: Arc<MemoryStore>,
        context: &str,
    ) {
        let good = self.world.store("good", Overlay::new());
        let mut healed = mutation.overlay.clone();
        for (damaged, good) in self
            .world
            .objects
            .iter()
            .filter(|(name, _)| mutation.overlay.contains_key(name))
        {
            healed.insert(alternate(damaged, 1).unwrap(), Some(good.clone()));
        }
        // Of what is only added there is no good copy.
        if healed.len() == mutation.overlay.len() {
            return;
        }
        let healed = self.world.store("healed", healed);
        for places in [&[damaged, good][..], &[healed]] {
            let expected = self.reference[name].clone();
            self.right(ask(self.world, name, places).await, &expected, context);
            if name.as_str().contains("/shop/") && self.number.is_multiple_of(5) {
                let planned = self.planned.clone();
                self.right(ask_plan(self.world, name, places).await, &planned, context);
            }
        }
        self.counts.entry((what(name), mutation.class)).or_default().healed += 2;
    }

    fn right(&self, answer: Answer, expected: &str, context: &str) {
        let right = answer.result.as_ref().is_ok_and(|given| given == expected);
        let (given, told) = (answer.result.map_err(|error| words(&error)), answer.told);
        assert!(right, "{context}: something good was there: {given:?}, told: {told}");
    }

    fn report(&self) {
        let mut total = Count::default();
        println!(
            "{:<12} {:<10} {:>7} {:>8} {:>9} {:>7}",
            "kind", "mutation", "right", "refused", "announced", "healed"
        );
        for ((what, class), count) in &self.counts {
            let kind = format!("{what:?}");
            println!(
                "{kind:<12} {class:<10} {:>7} {:>8} {:>9} {:>7}",
                count.right, count.refused, count.announced, count.healed
            );
            total.right += count.right;
            total.refused += count.refused;
            total.announced += count.announced;
            total.healed += count.healed;
        }
        println!(
            "{}: {} mutations, {} judgements: {} right, {} refused, {} announced, {} right with something good",
            self.world.name,
            self.number,
            total.right + total.refused + total.announced + total.healed,
            total.right,
            total.refused,
            total.announced,
            total.healed
        );
    }
}

/// What nobody can tell from the store alone (docs/format.md, section 10): that a whole object is gone of a kind that
/// nothing else names. Then the answer is the one that the rest gives, and says how far it goes.
fn is_announced(name: &ObjectName, mutation: &Mutation) -> bool {
    let unnamed = matches!(
        what(name),
        What::Signer
            | What::Recipients
            | What::Rewrap
            | What::Lease
            | What::Head
            | What::Segment
            | What::History
            | What::BackupFile
            | What::Partial
    );
    unnamed && mutation.class == "delete"
}

/// The part of a name that messages use: the id of a backup stands for its head.
fn short(name: &ObjectName) -> String {
    let text = name.as_str();
    match text.strip_suffix("/head") {
        Some(directory) => directory.rsplit('/').next().unwrap().to_owned(),
        None => match what(name) {
            What::Segment => text.rsplit('/').next().unwrap()[..24].to_owned(),
            _ => text.to_owned(),
        },
    }
}
