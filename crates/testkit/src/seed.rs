//! One seed for everything that a test leaves to chance.

use rand::RngCore as _;

/// `PGKEEP_TEST_SEED`, if it is set.
///
/// # Panics
/// When that is no number.
pub fn given() -> Option<u64> {
    let text = std::env::var("PGKEEP_TEST_SEED").ok()?;
    Some(text.parse().expect("PGKEEP_TEST_SEED is a number"))
}

/// A seed for the test `what`: the one that is given, or a new one. Says how to repeat it.
pub fn seed(what: &str) -> u64 {
    let seed = given().unwrap_or_else(|| rand::rng().next_u64());
    eprintln!("{what}: repeat with PGKEEP_TEST_SEED={seed}");
    seed
}

/// Whether the long matrix was asked for (`scripts/test --all`).
pub fn all() -> bool {
    std::env::var_os("PGKEEP_TEST_ALL").is_some()
}
