//! Parts of a document that a command renews: what lies between two marks.
//!
//! Invariant: what is outside of the marks is never touched.

use std::fs;
use std::path::Path;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_between_the_marks_is_renewed() {
        let document = |part: &str| format!("before\n{}{part}{}after\n", mark("x", "begin"), mark("x", "end"));
        assert_eq!(renewed(&document("old\n"), "x", "new\n").unwrap(), document("new\n"));
        assert_eq!(renewed(&document("old\n"), "y", "new\n"), None);
    }
}
