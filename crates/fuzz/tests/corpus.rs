//! Claim: no parser breaks on any input that was ever kept, nor on changes of those.
//!
//! What the fuzzer found in hours is replayed in seconds. Each corpus also holds what its parser takes: a target that
//! refuses everything would prove nothing.

use pgkeep_fuzz::{TARGETS, Target, corpus};
use pgkeep_testkit::seed;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Changed inputs for each target.
const CHANGES: usize = 2000;

fn kept(target: &Target) -> Vec<Vec<u8>> {
    corpus::read(&corpus::directory(), target.name).unwrap_or_else(|error| panic!("{}: {error}", target.name))
}

#[test]
fn what_was_kept_breaks_nothing_and_some_of_it_is_taken() {
    for target in TARGETS {
        let taken = kept(target).iter().filter(|input| (target.run)(input)).count();
        assert!(taken > 0, "{} takes nothing of its corpus", target.name);
    }
}

#[test]
fn changes_of_what_was_kept_break_nothing() {
    let seed = seed::seed("changes of kept inputs");
    for target in TARGETS {
        let mut rng = StdRng::seed_from_u64(seed);
        let inputs = kept(target);
        for _ in 0..CHANGES {
            (target.run)(&changed(&inputs, &mut rng));
        }
    }
}

/// One input with a few changes of the kinds that a disk, a cut or a hostile hand makes.
fn changed(inputs: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut input = inputs.choose(rng).cloned().unwrap_or_default();
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..6) {
            0 => input.truncate(at),
            1 => input.insert(at, rng.random()),
            2 => drop(input.drain(at..rng.random_range(at..=input.len()))),
            3 => {
                // The beginning of one, the end of another.
                let other = inputs.choose(rng).map(Vec::as_slice).unwrap_or_default();
                input.truncate(at);
                input.extend(&other[rng.random_range(0..=other.len())..]);
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
        }
    }
    input
}

#[test]
fn corpora_are_text_that_reads_back() {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    assert_eq!(corpus::parse(&corpus::format(&all)), Some(all));
    assert_eq!(corpus::parse("\\q"), None);
}
