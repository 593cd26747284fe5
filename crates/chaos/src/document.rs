//! Parts of a document that a command renews: what lies between two marks, and how it shows what programs said.
//!
//! Invariant: what is outside of the marks is never touched.

use std::fs;
use std::path::Path;

/// So much of a line is shown.
const LINE_CHARS_MAX: usize = 200;
/// How a scratch directory of the testkit is named.
const SCRATCH: &str = "/pgkt-";

fn mark(command: &str, end: &str) -> String {
    format!("<!-- {command} --document: {end} -->\n")
}

/// Replaces the part that belongs to `command`.
///
/// # Panics
/// When the document can't be read or written, or has no such part.
pub fn renew(document: &Path, command: &str, part: &str) {
    let shown = document.display();
    let text = fs::read_to_string(document).unwrap_or_else(|error| panic!("read {shown}: {error}"));
    let renewed = renewed(&text, command, part);
    let renewed = renewed.unwrap_or_else(|| panic!("{shown} has no part of {command}"));
    fs::write(document, renewed).unwrap_or_else(|error| panic!("write {shown}: {error}"));
}

fn renewed(text: &str, command: &str, part: &str) -> Option<String> {
    let (begin, end) = (mark(command, "begin"), mark(command, "end"));
    let (before, behind) = text.split_once(&begin)?;
    let (_, after) = behind.split_once(&end)?;
    Some(format!("{before}{begin}{part}{end}{after}"))
}

/// A line that a program said, for a table: without where scratch directories lay, and not too long.
pub fn shorten(line: &str) -> String {
    let line = without_scratch(line.trim()).replace('|', "/");
    match line.char_indices().nth(LINE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Of a path, what lies in the scratch directory.
fn without_scratch(mut line: &str) -> String {
    let mut shown = String::new();
    while let Some((before, behind)) = line.split_once(SCRATCH) {
        let begin = before.rfind([' ', '"', '\'', '`', '=', '(']).map_or(0, |at| at + 1);
        let inside = behind.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        shown += &before[..begin];
        line = inside.strip_prefix('/').unwrap_or_else(|| {
            shown += "…";
            inside
        });
    }
    shown + line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_nothing_of_the_machine() {
        let said = "failed: $ /dev/shm/pgkt-GXBLAT/pgkeep --config=/tmp/pgkt-otedXV/a/pgkeep.toml create";
        assert_eq!(shorten(said), "failed: $ pgkeep --config=a/pgkeep.toml create");
        assert_eq!(shorten("\"/tmp/pgkt-a1\" is a | b\n"), "\"…\" is a / b");
        assert_eq!(shorten("crates/x.rs and /etc/hosts"), "crates/x.rs and /etc/hosts");
        assert_eq!(shorten(&"ä".repeat(300)), "ä".repeat(200) + "…");
    }

    #[test]
    fn only_what_lies_between_the_marks_is_renewed() {
        let document = |part: &str| format!("before\n{}{part}{}after\n", mark("x", "begin"), mark("x", "end"));
        assert_eq!(renewed(&document("old\n"), "x", "new\n").unwrap(), document("new\n"));
        assert_eq!(renewed(&document("old\n"), "y", "new\n"), None);
    }
}
