//! Odd and moving clusters: what changes under a backup or between two, what lies strangely, what ends early.
//!
//! The list of what is tried, with results, is the section "Odd clusters" of docs/reliability.md. Whatever a test here
//! says of a restored copy is said by PostgreSQL, of every row, structure and page: see `truth`.

mod between;
mod clocks;
mod during;
mod ends;
mod horizon;
mod limits;
mod names;
mod paused;
mod places;
mod rewound;
mod truth;

/// Makes one test per major out of a function: the oldest and the newest in the gate, those between with `--all`.
macro_rules! at_both_ends {
    ($name:ident) => {
        mod $name {
            #[test]
            fn on_14() {
                super::$name(14)
            }
            #[test]
            fn on_18() {
                super::$name(18)
            }
            /// With `scripts/test --all`.
            #[test]
            fn on_those_between() {
                if std::env::var_os("PGKEEP_TEST_ALL").is_some() {
                    [15, 16, 17].into_iter().for_each(super::$name);
                }
            }
        }
    };
}
use at_both_ends;
