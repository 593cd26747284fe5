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
        let taken: Vec<_> = inputs.iter().filter(|input| (target.run)(input)).cloned().collect();
        for number in 0..CHANGES {
            let from = if number % 2 == 0 { &inputs } else { &taken };
            (target.run)(&changed(from, &mut rng));
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

#[test]
fn a_corpus_keeps_its_measure_and_what_is_taken() {
    let taken = |input: &[u8]| input[0] == b'+';
    let input = |first: u8, bytes: usize| [&[first][..], &vec![b'x'; bytes]].concat();
    let both = (0..200).flat_map(|bytes| [input(b'-', bytes), input(b'+', 1000 + bytes)]);
    let chosen = corpus::choose(both.collect(), taken);
    let text: usize = chosen.iter().map(|input| corpus::format(input).len() + 1).sum();
    assert!(text <= corpus::TEXT_BYTES_MAX);
    let good = chosen.iter().filter(|input| taken(input)).count();
    assert!(good >= 15 && chosen.len() - good >= 150, "{good} of {}", chosen.len());
    let long = vec![
        input(b'-', 1),
        input(b'+', corpus::INPUT_BYTES_MAX),
        input(b'+', corpus::TEXT_BYTES_MAX),
    ];
    let chosen = corpus::choose(long, taken);
    assert_eq!(chosen.len(), 2, "one that is taken is kept");
}
