//! How the process ends: exit codes, and what a panic or a signal comes to.
//!
//! Invariant: `wal fetch` ends with 0, 1 or 255 and with nothing else of its own: PostgreSQL takes any 1 to 125 as "end
//! of archive" and opens the database, so whatever was not foreseen is 255. `wal push` never ends with 3, nor with 126
//! and above, which would end the archiver without counting a failure.

use std::ffi::OsString;
use std::sync::atomic::{AtomicU8, Ordering};

use pgkeep_base::{Error, ErrorKind};

/// A run that did what it was asked to, and what it has to say beside that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Done,
    /// Finished, but this run's result is impaired.
    Impaired,
    /// A proof failed, or bytes are bad.
    Failed,
    /// A configuration or an installation that does not pass its check.
    Wrong,
    /// `status --check` or `doctor --check` found trouble.
    Unhealthy,
    /// An exit code of somebody else's contract: `status --nagios`, `wal fetch`.
    Code(u8),
}

impl Outcome {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Wrong => 2,
            Outcome::Impaired => 3,
            Outcome::Failed => 8,
            Outcome::Unhealthy => 9,
            Outcome::Code(code) => code,
        }
    }
}

/// The exit code of an error.
pub fn code_of(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Internal => 1,
        ErrorKind::Invalid => 2,
        ErrorKind::Refused | ErrorKind::Unsupported => 4,
        ErrorKind::NotFound => 5,
        ErrorKind::Conflict => 6,
        ErrorKind::Unavailable | ErrorKind::Denied => 7,
        ErrorKind::Corrupt => 8,
        ErrorKind::Cancelled => 128 + signal_received(),
    }
}

/// The name of a kind in JSON.
pub fn kind_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not-found",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Denied => "denied",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Refused => "refused",
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Io => "io",
        ErrorKind::Internal => "internal",
    }
}

/// Whose exit codes a command line follows; decided from the bare words, before anything can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Everybody's.
    General,
    /// The archiver's.
    Push,
    /// Recovery's.
    Fetch,
}

impl Rules {
    /// Looks for `wal`, and behind it for `push` or `fetch`.
    ///
    /// Words of values are looked at, too: to take some other command for `wal fetch` costs an odd exit code, to miss
    /// it could cost a database.
    pub fn of(arguments: &[OsString]) -> Rules {
        let mut words = arguments.iter().skip(1).skip_while(|word| *word != "wal");
        match words.find(|word| *word == "push" || *word == "fetch") {
            Some(word) if *word == "fetch" => Rules::Fetch,
            Some(_) => Rules::Push,
            None => Rules::General,
        }
    }

    /// The code that the process ends with, where `code` would be everybody's.
    pub fn apply(self, code: u8) -> u8 {
        match (self, code) {
            (Rules::General, code) => code,
            (Rules::Push, 3) => 0,
            (Rules::Push, code) if code >= 126 => 1,
            (Rules::Push, code) => code,
            (Rules::Fetch, code @ (0 | 1)) => code,
            (Rules::Fetch, _) => 255,
        }
    }

    /// The code for an error that was returned rather than answered.
    pub fn code_of(self, error: &Error) -> u8 {
        match self {
            Rules::Fetch => 255,
            _ => self.apply(code_of(error)),
        }
    }

    /// Ends the process at once when any thread panics, with a code that cannot be mistaken.
    pub fn install_panic_hook(self) {
        let code = if self == Rules::Fetch { 255 } else { 1 };
        std::panic::set_hook(Box::new(move |panic| {
            let place = panic
                .location()
                .map_or_else(String::new, |place| format!(" ({}:{})", place.file(), place.line()));
            let payload = panic.payload();
            let what = payload
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let text = format!(
                "error: pgkeep has a bug{place}\ndetail: {}\nhint: Please report it with the output of `pgkeep --version` and the command that failed.\n",
                what.unwrap_or("no message")
            );
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            std::process::exit(code);
        }));
    }
}

static SIGNAL: AtomicU8 = AtomicU8::new(2);

/// Remembers which signal ended the operation.
pub fn note_signal(number: u8) {
    SIGNAL.store(number, Ordering::Relaxed);
}

fn signal_received() -> u8 {
    SIGNAL.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(line: &str) -> Rules {
        Rules::of(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn wal_commands_are_known_before_their_arguments_are_understood() {
        assert_eq!(rules("pgkeep wal fetch a b"), Rules::Fetch);
        assert_eq!(rules("pgkeep --config x wal -v fetch --bogus"), Rules::Fetch);
        assert_eq!(rules("/usr/bin/pgkeep wal push pg_wal/1"), Rules::Push);
        assert_eq!(rules("pgkeep wal list"), Rules::General);
        assert_eq!(rules("pgkeep list wal"), Rules::General);
        assert_eq!(
            rules("wal fetch"),
            Rules::General,
            "the program's own name is no command"
        );
    }

    #[test]
    fn recovery_sees_only_0_1_and_255() {
        for code in 0..=255 {
            let seen = Rules::Fetch.apply(code);
            assert!(matches!(seen, 0 | 1 | 255));
            assert_eq!(seen == code, matches!(code, 0 | 1 | 255));
        }
        assert_eq!(
            Rules::Fetch.code_of(&Error::io("disk full")),
            255,
            "an error is never the end of the archive"
        );
    }

    #[test]
    fn the_archiver_never_sees_3_nor_126_and_above() {
        for code in 0..=255 {
            let seen = Rules::Push.apply(code);
            assert!(seen < 126 && seen != 3, "{code}");
            assert!(code == 3 || (seen == 0) == (code == 0), "{code}");
        }
    }

    #[test]
    fn each_kind_has_its_code() {
        for (error, code) in [
            (Error::io("x"), 1),
            (Error::internal("x"), 1),
            (Error::invalid("x"), 2),
            (Error::refused("x"), 4),
            (Error::unsupported("x"), 4),
            (Error::not_found("x"), 5),
            (Error::conflict("x"), 6),
            (Error::unavailable("x"), 7),
            (Error::denied("x"), 7),
            (Error::corrupt("x"), 8),
            (Error::cancelled("x"), 130),
        ] {
            assert_eq!(code_of(&error), code, "{error:?}");
        }
    }
}
