//! The program that libFuzzer drives: the target is named by `PGKEEP_FUZZ_TARGET`. `scripts/fuzz` builds and runs it.
#![no_main]

use std::sync::LazyLock;

use pgkeep_fuzz::{Target, by_name};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("PGKEEP_FUZZ_TARGET").expect("PGKEEP_FUZZ_TARGET names a target");
    by_name(&name).expect("PGKEEP_FUZZ_TARGET names a target")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (TARGET.run)(bytes);
});
