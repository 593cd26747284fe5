//! Failpoints of the program under test: which steps it takes, and what happens when it ends or fails at one of them.
//!
//! A point is a line of a trace, `room.what.step#3`: the third time that this step was about to be taken. The program
//! must have been built with debug assertions, as tests are.

use std::collections::BTreeMap;
use std::fs;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::run::{Output, Run};
use crate::scratch::Scratch;

const VARIABLE: &str = "PGKEEP_FAILPOINT";
/// How often one step is tried where it is taken more often than that and everything shall be tried.
const OCCURRENCES_MAX: usize = 16;

/// What happens at a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The process is killed.
    Kill,
    /// The step fails with an input/output error.
    Eio,
    /// The step fails because the disk is full.
    Enospc,
}

impl Fault {
    /// The program, armed to meet this fault at a point.
    #[must_use]
    pub fn at(self, point: &str, program: Run) -> Run {
        let mode = match self {
            Fault::Kill => "kill",
            Fault::Eio => "eio",
            Fault::Enospc => "enospc",
        };
        program.env(VARIABLE, format!("{mode}:{point}"))
    }
}

/// Runs a program to its end and gives the points that it reached, in order.
///
/// # Panics
/// When it reached none: then it was not built for this.
pub fn trace(program: Run) -> (Output, Vec<String>) {
    let scratch = Scratch::new();
    let file = scratch.join("trace");
    let output = program.env(VARIABLE, format!("trace:{}", file.display())).run();
    let text = fs::read_to_string(&file).unwrap_or_default();
    let points: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(!points.is_empty(), "no point was reached: {output}");
    (output, points)
}

/// The step of a point, without the count.
pub fn step(point: &str) -> &str {
    point.split('#').next().expect("a split has at least one part")
}

/// A choice of `count` points that `seed` decides on: every step once before any is chosen twice, and each time at one
/// of its occurrences. The order is that of the trace.
pub fn sample(points: &[String], seed: u64, count: usize) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut steps: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, point) in points.iter().enumerate() {
        steps.entry(step(point)).or_default().push(index);
    }
    let mut steps: Vec<Vec<usize>> = steps.into_values().collect();
    steps.shuffle(&mut rng);
    let mut chosen = Vec::new();
    while chosen.len() < count && steps.iter().any(|left| !left.is_empty()) {
        for left in steps.iter_mut().filter(|left| !left.is_empty()) {
            if chosen.len() < count {
                chosen.push(left.swap_remove(rng.random_range(0..left.len())));
            }
        }
    }
    chosen.sort_unstable();
    chosen.into_iter().map(|index| points[index].clone()).collect()
}

/// Every step: at each of its occurrences, or at the first, the last and others in between where there are more than 16.
pub fn every_step(points: &[String]) -> Vec<String> {
    let mut steps: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for point in points {
        steps.entry(step(point)).or_default().push(point);
    }
    let spread = |of: &Vec<&String>| -> Vec<String> {
        let last = of.len() - 1;
        let wanted = of.len().min(OCCURRENCES_MAX);
        let index = |number: usize| if wanted == 1 { 0 } else { number * last / (wanted - 1) };
        (0..wanted).map(|number| of[index(number)].clone()).collect()
    };
    steps.values().flat_map(spread).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> Vec<String> {
        let often = (1..=100).map(|count| format!("a.b.often#{count}"));
        often.chain(["a.b.once#1".to_owned()]).collect()
    }

    #[test]
    fn a_sample_has_every_step_and_is_repeatable() {
        let chosen = sample(&points(), 7, 10);
        assert_eq!((chosen.len(), chosen.last().unwrap().as_str()), (10, "a.b.once#1"));
        assert_eq!(chosen, sample(&points(), 7, 10));
        assert_ne!(chosen, sample(&points(), 8, 10));
        assert_eq!(sample(&points(), 1, 1000).len(), 101);
    }

    #[test]
    fn a_step_that_is_taken_often_is_tried_at_both_ends_and_in_between() {
        let chosen = every_step(&points());
        assert_eq!(chosen.len(), OCCURRENCES_MAX + 1);
        for wanted in ["a.b.often#1", "a.b.often#100", "a.b.once#1"] {
            assert!(chosen.iter().any(|point| point == wanted), "{wanted} in {chosen:?}");
        }
    }
}
