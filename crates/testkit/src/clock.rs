//! Another time of day for a program under test: its clock runs ahead, behind or not at all.
//!
//! A library that the loader puts before libc shifts `CLOCK_REALTIME`; the monotonic clock stays true. Built once per
//! process with the C compiler that Rust's linker needs anyway.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::run::Run;
use crate::scratch::Scratch;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

/* The file says "+ seconds" (shifted), or "= seconds" (standing still at that time since 1970). */
static void tell(struct timespec *ts) {
    const char *name = getenv("TESTKIT_CLOCK");
    FILE *file = name ? fopen(name, "re") : NULL;
    char how = 0;
    long seconds = 0;
    if (file && fscanf(file, "%c %ld", &how, &seconds) == 2) {
        if (how == '=') {
            ts->tv_sec = seconds;
            ts->tv_nsec = 0;
        } else {
            ts->tv_sec += seconds;
        }
    }
    if (file) fclose(file);
}

int clock_gettime(clockid_t id, struct timespec *ts) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, ts);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) tell(ts);
    return result;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
    struct timespec ts;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &ts);
    tv->tv_sec = ts.tv_sec;
    tv->tv_usec = ts.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (seconds) *seconds = ts.tv_sec;
    return ts.tv_sec;
}
"#;

/// A clock that a test sets, also while programs run by it.
#[derive(Debug)]
pub struct Clock {
    scratch: Scratch,
}

impl Clock {
    /// A clock that is right.
    #[expect(clippy::new_without_default, reason = "a default value should not write a file")]
    pub fn new() -> Clock {
        let clock = Clock {
            scratch: Scratch::new(),
        };
        clock.shift(0);
        clock
    }

    /// Runs so many seconds ahead, or behind.
    pub fn shift(&self, seconds: i64) {
        self.set(&format!("+ {seconds}"));
    }

    /// Stands still at this second since 1970.
    pub fn stand_still(&self, at: i64) {
        self.set(&format!("= {at}"));
    }

    /// Lets a program run by this clock.
    #[must_use]
    pub fn apply(&self, run: Run) -> Run {
        run.env("LD_PRELOAD", library()).env("TESTKIT_CLOCK", self.file())
    }

    /// At once, so that no program reads half a file.
    fn set(&self, content: &str) {
        let new = self.scratch.file("new", content);
        std::fs::rename(new, self.file()).expect("our own directory");
    }

    fn file(&self) -> PathBuf {
        self.scratch.join("clock")
    }
}

fn library() -> &'static Path {
    static LIBRARY: OnceLock<(Scratch, PathBuf)> = OnceLock::new();
    let (_, library) = LIBRARY.get_or_init(|| {
        let scratch = Scratch::new();
        let (source, library) = (scratch.file("clock.c", SOURCE), scratch.join("clock.so"));
        let compiler = Run::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]);
        compiler.arg(&library).arg(source).arg("-ldl").run().ok();
        (scratch, library)
    });
    library
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_sees_the_time_that_it_is_told() {
        let clock = Clock::new();
        let date = |what: &str| clock.apply(Run::new("/bin/date").args(["-u", what])).run().ok().stdout;
        clock.stand_still(1_000_000_000);
        assert_eq!(date("+%s"), "1000000000\n");
        let now = || date("+%s").trim().parse::<i64>().unwrap();
        clock.shift(0);
        let real = now();
        clock.shift(-3600);
        assert!((real - 3600..real - 3500).contains(&now()));
    }
}
