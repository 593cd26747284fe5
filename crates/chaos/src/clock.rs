//! A clock that jumps, for PostgreSQL and for pgkeep: a small library that is loaded before them.
//!
//! Only the wall clock is moved; what measures intervals goes on as it is. The offset is a number in a file that both
//! sides map, so that it changes under running processes.

use std::fs;
use std::path::{Path, PathBuf};

use pgkeep_testkit::{Run, Scratch};

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t *offset;
static int (*real_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("PGKEEP_CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) offset = at;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_gettime) begin();
    int result = real_gettime(clock, now);
    if (!result && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
    return result;
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

/// Whether the library can be made here.
pub fn can_compile() -> bool {
    compiler().is_some()
}

fn compiler() -> Option<PathBuf> {
    ["/usr/bin/cc", "/usr/bin/gcc", "/usr/bin/clang"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
}

/// The clock of one host.
#[derive(Debug)]
pub struct Clock {
    _home: Scratch,
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// Makes the library; the clock is right at first.
    pub fn new() -> Clock {
        let home = Scratch::new();
        let source = home.file("clock.c", SOURCE);
        let library = home.join("clock.so");
        let compiler = compiler().expect("it was looked for before a clock was drawn");
        Run::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(&source)
            .arg("-ldl")
            .run()
            .ok();
        let offset = home.file("clock.offset", 0i64.to_le_bytes());
        let clock = Clock {
            _home: home,
            library,
            offset,
        };
        clock.check();
        clock
    }

    /// A clock that does not move proves nothing.
    fn check(&self) {
        let year = || {
            let mut date = Run::new("/bin/date").arg("+%s");
            for (name, value) in self.environment() {
                date = date.env(name, value);
            }
            let shown = date.run().ok().stdout;
            shown.trim().parse::<i64>().expect("date shows a number")
        };
        let before = year();
        self.jump(86_400);
        assert!(year() - before >= 86_400, "the clock can't be moved");
        self.jump(0);
    }

    /// Moves it to so many seconds from the right time.
    pub fn jump(&self, seconds: i64) {
        use std::os::unix::fs::FileExt as _;
        let file = fs::OpenOptions::new().write(true).open(&self.offset);
        // In place, since others have mapped it.
        file.and_then(|file| file.write_all_at(&seconds.to_le_bytes(), 0))
            .expect("our own file");
    }

    /// What a process needs to see it.
    pub fn environment(&self) -> [(String, String); 2] {
        let path = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD".to_owned(), path(&self.library)),
            ("PGKEEP_CHAOS_CLOCK".to_owned(), path(&self.offset)),
        ]
    }
}
