//! What the operator sees: results on stdout, messages and progress on stderr.
//!
//! Invariant: with `--json` stdout gets exactly one document, whatever happens, and stderr one JSON object per line;
//! without it stdout gets nothing but results. A reader that went away (`| head`) is no error.

pub mod progress;
pub mod table;

use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgkeep_base::{Error, Result};
use serde::Serialize;
use serde_json::json;

use crate::{exit, times};

/// The version of all JSON documents and events; additions don't change it.
pub const SCHEMA_VERSION: u32 = 1;

/// A result that can be shown both ways; its JSON is what `Serialize` makes of it.
pub trait View: Serialize {
    /// Writes it for people.
    fn text(&self, page: &mut Page);
}

/// Where results and messages go, and in which form.
#[derive(Debug)]
pub struct Output {
    /// One document on stdout, events on stderr.
    pub json: bool,
    /// No messages below warnings, no progress.
    pub quiet: bool,
    /// Whether stdout is a terminal.
    pub stdout_terminal: bool,
    /// Whether stderr is a terminal.
    pub stderr_terminal: bool,
    /// Whether a person can answer: standard input and stderr are terminals.
    pub interactive: bool,
    color: bool,
    /// Looked up when it is first needed: that reads a directory tree.
    zone: OnceLock<TimeZone>,
    printed: AtomicBool,
    impaired: AtomicBool,
}

/// A document is its content and the version of the schema.
#[derive(Serialize)]
struct Document<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    content: &'a T,
}

impl Output {
    /// Looks at the terminals and the flags.
    pub fn new(json: bool, quiet: bool, no_color: bool, environment: &crate::config::Environment) -> Output {
        let stderr_terminal = std::io::stderr().is_terminal();
        let dumb = environment.get("TERM") == Some("dumb");
        Output {
            json,
            quiet,
            stdout_terminal: std::io::stdout().is_terminal(),
            stderr_terminal,
            interactive: stderr_terminal && std::io::stdin().is_terminal(),
            color: stderr_terminal && !no_color && !dumb && environment.get("NO_COLOR").is_none(),
            zone: OnceLock::new(),
            printed: AtomicBool::new(false),
            impaired: AtomicBool::new(false),
        }
    }

    /// The zone that people read, where there is a person.
    pub fn zone(&self) -> &TimeZone {
        self.zone.get_or_init(TimeZone::system)
    }

    /// Prints the result of a command.
    pub fn print(&self, view: &impl View) -> Result<()> {
        let text = if self.json {
            self.document(view)?
        } else {
            let mut page = Page {
                text: String::new(),
                zone: self.stdout_terminal.then(|| self.zone().clone()),
            };
            view.text(&mut page);
            page.text
        };
        self.print_bare(&text)
    }

    /// Prints text as it is, which then is the whole result.
    pub fn print_bare(&self, text: &str) -> Result<()> {
        self.printed.store(true, Ordering::Relaxed);
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Error::io("the result could not be written to standard output").source(error))
            }
            _ => Ok(()),
        }
    }

    fn document(&self, view: &impl Serialize) -> Result<String> {
        let document = Document {
            schema_version: SCHEMA_VERSION,
            content: view,
        };
        let text = match self.stdout_terminal {
            true => serde_json::to_string_pretty(&document),
            false => serde_json::to_string(&document),
        };
        let text = text.map_err(|source| Error::internal("the result could not be written as JSON").source(source))?;
        Ok(text + "\n")
    }

    /// Tells something by the way; not with `-q`.
    pub fn note(&self, message: &str) {
        if !self.quiet {
            self.say("note", "2", message);
        }
    }

    /// Tells something that an operator should act on.
    pub fn warn(&self, message: &str) {
        self.say("warning", "33", message);
    }

    /// Tells that this run's result is impaired (exit 3).
    pub fn impair(&self, message: &str) {
        self.impaired.store(true, Ordering::Relaxed);
        self.warn(message);
    }

    /// Whether anything was told by [`Output::impair`].
    pub fn is_impaired(&self) -> bool {
        self.impaired.load(Ordering::Relaxed)
    }

    /// Tells why the command failed; with `--json` also on stdout, unless a result is there already.
    pub fn error(&self, error: &Error, code: u8) {
        let detail = error.detail_text();
        if self.json {
            let body = json!({
                "kind": exit::kind_name(error.kind()),
                "message": error.message(),
                "detail": detail,
                "hint": error.hint_text(),
                "exit_code": code,
            });
            self.event(&json!({ "event": "error", "error": body }));
            if !self.printed.load(Ordering::Relaxed)
                && let Ok(text) = self.document(&json!({ "error": body }))
            {
                // Nothing is left to tell it to where this fails.
                let _ = self.print_bare(&text);
            }
            return;
        }
        let mut text = self.labelled("error", "1;31", error.message());
        if let Some(detail) = detail {
            text.push_str(&self.labelled("detail", "1", &detail));
        }
        if let Some(hint) = error.hint_text() {
            text.push_str(&self.labelled("hint", "1;36", hint));
        }
        self.stderr(&text);
    }

    /// One event line on stderr, for `--json`.
    pub fn event(&self, event: &impl Serialize) {
        let document = Document {
            schema_version: SCHEMA_VERSION,
            content: event,
        };
        if let Ok(line) = serde_json::to_string(&document) {
            self.stderr(&(line + "\n"));
        }
    }

    fn say(&self, label: &str, color: &str, message: &str) {
        match self.json {
            true => self.event(&json!({ "event": label, "message": message })),
            false => self.stderr(&self.labelled(label, color, message)),
        }
    }

    fn labelled(&self, label: &str, color: &str, text: &str) -> String {
        // Later lines are set in, so that a label always begins a line of its own.
        let text = text.trim_end().replace('\n', "\n  ");
        match self.color {
            true => format!("\x1b[{color}m{label}:\x1b[0m {text}\n"),
            false => format!("{label}: {text}\n"),
        }
    }

    fn stderr(&self, text: &str) {
        // Where stderr is gone there is nobody to tell.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

/// A text in the making, for people.
#[derive(Debug)]
pub struct Page {
    text: String,
    zone: Option<TimeZone>,
}

impl Page {
    /// Adds a line.
    pub fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref().trim_end());
        self.text.push('\n');
    }

    /// Adds `name: value`, with values below each other; nothing for an empty value.
    pub fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        if !value.is_empty() {
            writeln!(self.text, "{:<18} {}", format!("{name}:"), value.trim_end()).expect("strings grow");
        }
    }

    /// Adds a table, or a line instead where it is empty.
    pub fn table(&mut self, table: &table::Table, instead: &str) {
        match table.is_empty() {
            true => self.line(instead),
            false => self.text.push_str(&table.render()),
        }
    }

    /// A moment, with the local time on a terminal.
    pub fn time(&self, at: Timestamp) -> String {
        times::show(at, self.zone.as_ref())
    }

    /// A moment that may not be known.
    pub fn time_or(&self, at: Option<Timestamp>, instead: &str) -> String {
        at.map_or_else(|| instead.to_owned(), |at| self.time(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(color: bool) -> Output {
        Output {
            json: false,
            quiet: false,
            stdout_terminal: false,
            stderr_terminal: color,
            interactive: false,
            color,
            zone: OnceLock::from(TimeZone::UTC),
            printed: AtomicBool::new(false),
            impaired: AtomicBool::new(false),
        }
    }

    #[test]
    fn labels_begin_lines_and_details_are_set_in() {
        assert_eq!(output(false).labelled("detail", "1", "a\nb\n"), "detail: a\n  b\n");
        assert_eq!(
            output(true).labelled("error", "1;31", "x"),
            "\x1b[1;31merror:\x1b[0m x\n"
        );
    }

    #[test]
    fn a_document_is_versioned() {
        let text = output(false).document(&json!({ "ok": true })).unwrap();
        assert_eq!(text, "{\"schema_version\":1,\"ok\":true}\n");
    }

    #[test]
    fn fields_are_set_below_each_other() {
        let mut page = Page {
            text: String::new(),
            zone: None,
        };
        page.field("id", 7);
        page.field("empty", "");
        page.field("state", "complete");
        assert_eq!(page.text, "id:                7\nstate:             complete\n");
    }
}
