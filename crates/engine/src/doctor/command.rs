//! Reads an `archive_command`: is it pgkeep's, does it pass the path, can it hide a failure.
//!
//! Invariant: a command that may report success without a push (`… || true`) never passes: PostgreSQL removes WAL on
//! the word of this command alone. It is read as a POSIX shell splits it, without expanding variables.

use std::path::{Path, PathBuf};

use super::findings::Verdict;

/// Programs that archive in their own way, or copy somewhere.
const OTHERS: &[&str] = &[
    "cp",
    "mv",
    "rsync",
    "scp",
    "ssh",
    "gzip",
    "lz4",
    "zstd",
    "aws",
    "gsutil",
    "rclone",
    "dd",
    "pgbackrest",
    "barman",
    "barman-wal-archive",
    "barman-cloud-wal-archive",
    "wal-g",
    "wal-e",
    "pg_probackup",
    "pgmoneta",
    "pg_hardstorage",
];
/// Programs that do nothing, successfully.
const DISCARDING: &[&str] = &["true", ":", "exit", "echo"];

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    Operator(String),
}

/// What the words of the command say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parsed {
    /// The program of the part that pushes; else of the first part.
    pub program: Option<PathBuf>,
    /// It has `wal push`.
    pub pushes: bool,
    /// `--config`, or `PGKEEP_CONFIG=` before the program.
    pub config: Option<PathBuf>,
    has_path: bool,
    /// An operator that can turn failure into success.
    hides_failure: Option<String>,
}

/// Reads a command as the shell would.
pub fn parse(command: &str) -> Parsed {
    let tokens = split(command);
    let mut operators = tokens.iter().rev().filter_map(|token| match token {
        Token::Operator(operator) if operator != "&&" => Some(operator.clone()),
        _ => None,
    });
    let hides_failure = operators.next();
    let parts: Vec<Vec<&str>> = tokens
        .split(|token| matches!(token, Token::Operator(_)))
        .map(|part| part.iter().filter_map(word).collect())
        .collect();
    let push_of = |part: &&Vec<&str>| part.windows(2).any(|pair| pair == ["wal", "push"]);
    let pushing = parts.iter().find(push_of);
    let part = pushing.or(parts.first()).map(Vec::as_slice).unwrap_or_default();
    Parsed {
        program: program_of(part).map(unescape).map(PathBuf::from),
        pushes: pushing.is_some(),
        config: config_of(part).map(unescape).map(PathBuf::from),
        has_path: part.contains(&"%p"),
        hides_failure,
    }
}

fn word(token: &Token) -> Option<&str> {
    match token {
        Token::Word(word) => Some(word),
        Token::Operator(_) => None,
    }
}

/// PostgreSQL makes `%` of `%%` before the shell sees it.
fn unescape(word: &str) -> String {
    word.replace("%%", "%")
}

/// The first word that is pgkeep (behind `timeout 60` and the like), else the first that is no assignment.
fn program_of<'a>(part: &[&'a str]) -> Option<&'a str> {
    let before_push = part
        .windows(2)
        .position(|pair| pair == ["wal", "push"])
        .unwrap_or(part.len());
    let words = part[..before_push].iter().copied().filter(|word| !is_assignment(word));
    let is_pgkeep = |word: &&str| {
        Path::new(word)
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("pgkeep"))
    };
    words.clone().find(is_pgkeep).or_else(|| words.clone().next())
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=')
        .is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

fn config_of<'a>(part: &[&'a str]) -> Option<&'a str> {
    let separate = part.windows(2).find(|pair| pair[0] == "--config").map(|pair| pair[1]);
    let joined = part.iter().find_map(|word| word.strip_prefix("--config="));
    separate
        .or(joined)
        .or_else(|| part.iter().find_map(|word| word.strip_prefix("PGKEEP_CONFIG=")))
}

/// Words and operators, without quotes and backslashes.
fn split(command: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = command.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let text = word.get_or_insert_default();
                text.extend(chars.by_ref().take_while(|c| *c != '\''));
            }
            '"' => {
                let text = word.get_or_insert_default();
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    let escaped = c == '\\' && chars.peek().is_some_and(|next| "\\\"$`".contains(*next));
                    text.push(if escaped { chars.next().unwrap_or(c) } else { c });
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            // `2>&1` is no operator.
            '>' | '<' => {
                let text = word.get_or_insert_default();
                text.push(c);
                text.extend(chars.next_if_eq(&'&'));
            }
            ' ' | '\t' => tokens.extend(word.take().map(Token::Word)),
            ';' | '|' | '&' | '\n' | '(' | ')' => {
                tokens.extend(word.take().map(Token::Word));
                let doubled = (c == '|' || c == '&') && chars.next_if_eq(&c).is_some();
                tokens.push(Token::Operator(c.to_string().repeat(1 + usize::from(doubled))));
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    tokens.extend(word.take().map(Token::Word));
    tokens
}

/// The statement that sets the command.
pub fn setting(wanted: &str) -> String {
    format!(
        "ALTER SYSTEM SET archive_command = '{}'; SELECT pg_reload_conf();",
        wanted.replace('\'', "''")
    )
}

/// Judges the text of a command; whether its program and files are there is asked elsewhere.
pub fn judge(command: &str, wanted: &str, config: Option<&Path>) -> Verdict {
    let parsed = parse(command);
    let says = format!("archive_command = '{command}'");
    let fix = setting(wanted);
    if !parsed.pushes {
        return judge_foreign(&parsed, &says, fix);
    }
    if let Some(operator) = &parsed.hides_failure {
        let why = if operator == "\n" { "a line break" } else { operator };
        return Verdict::fail(
            format!("{says}: with {why} it may succeed though nothing was stored, and PostgreSQL removes WAL then"),
            fix,
        );
    }
    if !parsed.has_path {
        return Verdict::fail(format!("{says}: `wal push` needs %p, the path of the file"), fix);
    }
    if parsed.program.as_ref().is_none_or(|program| !program.is_absolute()) {
        return Verdict::warn(
            format!("{says}: which program that is depends on the server's PATH"),
            fix,
        );
    }
    match (&parsed.config, config) {
        (Some(theirs), Some(ours)) if same_file(theirs, ours) => Verdict::pass(says),
        (Some(theirs), Some(ours)) => Verdict::warn(
            format!("{says}: it reads {}, this is {}", theirs.display(), ours.display()),
            fix,
        ),
        (None, Some(ours)) if ours == Path::new("/etc/pgkeep/pgkeep.toml") => Verdict::pass(says),
        (None, Some(ours)) => Verdict::warn(
            format!("{says}: it doesn't name the configuration {}", ours.display()),
            fix,
        ),
        (_, None) => Verdict::warn(
            format!("{says}: this configuration is in the environment, where the server's commands don't see it"),
            format!("Write a configuration file (`pgkeep config show` prints this one); then {fix}"),
        ),
    }
}

fn judge_foreign(parsed: &Parsed, says: &str, fix: String) -> Verdict {
    let name = parsed
        .program
        .as_ref()
        .and_then(|program| program.file_name())
        .unwrap_or_default();
    let name = name.to_string_lossy();
    if name.is_empty() || DISCARDING.contains(&&*name) {
        return Verdict::fail(format!("{says}: it throws WAL away"), fix);
    }
    if OTHERS.contains(&&*name) || name == "test" || name == "[" {
        return Verdict::fail(format!("{says}: it archives somewhere else, not with pgkeep"), fix);
    }
    Verdict::warn(
        format!("{says}: whether this ends in `pgkeep wal push` can't be seen from here; `last-pushed` tells"),
        fix,
    )
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
