//! Another time of day for a program under test: its clock runs ahead, behind or not at all.
//!
//! A library that the loader puts before libc moves `CLOCK_REALTIME`; the monotonic clock stays true. What it says is a
//! number in a file that both sides map, so that it changes under running processes. Built once per process with the C
//! compiler that the workspace's own build needs anyway.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::run::Run;
use crate::scratch::Scratch;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

/* Twice the seconds to add to the right time; odd: time stands still, that many seconds after 1970. */
static volatile int64_t *told;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("TESTKIT_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = file < 0 ? MAP_FAILED : mmap(0, sizeof *told, PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) told = at;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) begin();
    int result = real(clock, now);
    if (result || !told || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return result;
    int64_t value = *told;
    if (value & 1) now->tv_sec = now->tv_nsec = 0;
    now->tv_sec += value >> 1;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    if (!result && now) { now->tv_sec = exact.tv_sec; now->tv_usec = exact.tv_nsec / 1000; }
    return result;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"#;

/// A clock that a test sets, also while programs run by it.
#[derive(Debug)]
pub struct Clock {
    _home: Scratch,
    file: PathBuf,
}

impl Clock {
    /// A clock that is right.
    #[expect(clippy::new_without_default, reason = "a default value should not write a file")]
    pub fn new() -> Clock {
        let home = Scratch::new();
        let file = home.file("clock", 1i64.to_le_bytes());
        let clock = Clock { _home: home, file };
        let date = clock.apply(Run::new("/bin/date").arg("+%s")).run().ok();
        assert_eq!(date.stdout, "0\n", "a clock that can't be moved proves nothing");
        clock.shift(0);
        clock
    }

    /// Runs so many seconds ahead, or behind.
    pub fn shift(&self, seconds: i64) {
        self.tell(seconds * 2);
    }

    /// Stands still at this second since 1970.
    pub fn stand_still(&self, at: i64) {
        self.tell(at * 2 + 1);
    }

    /// Lets a program run by this clock.
    #[must_use]
    pub fn apply(&self, run: Run) -> Run {
        let environment = self.environment().into_iter();
        environment.fold(run, |run, (name, value)| run.env(name, value))
    }

    /// What makes a process, and those that it starts, run by this clock.
    pub fn environment(&self) -> [(String, String); 2] {
        let path = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD".to_owned(), path(library())),
            ("TESTKIT_CLOCK".to_owned(), path(&self.file)),
        ]
    }

    /// In place, since programs have mapped the file.
    fn tell(&self, value: i64) {
        let file = OpenOptions::new().write(true).open(&self.file);
        let told = file.and_then(|file| file.write_all_at(&value.to_le_bytes(), 0));
        told.expect("our own file");
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
