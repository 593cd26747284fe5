//! Compares rows, one by one, without asking PostgreSQL: what was written down before against what is there now.

use std::collections::HashMap;

/// How two sets of rows differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Rows that are the same on both sides.
    pub equal: usize,
    /// Rows that are not there any more.
    pub missing: usize,
    /// Rows that were not there before, or are there twice.
    pub extra: usize,
    /// Rows whose content differs.
    pub changed: usize,
    /// The first difference, in words.
    pub first: Option<String>,
}

impl Comparison {
    /// Whether both sides are the same.
    pub fn is_clean(&self) -> bool {
        self.missing + self.extra + self.changed == 0
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.first.is_none() {
            self.first = Some(what());
        }
    }
}

/// Compares two files as `COPY` writes them; `key_columns` columns tell a row from the others.
pub fn compare(before: &str, after: &str, key_columns: usize) -> Comparison {
    let mut result = Comparison::default();
    let mut expected: HashMap<&str, &str> = before.lines().map(|row| (key(row, key_columns), row)).collect();
    for row in after.lines() {
        match expected.remove(key(row, key_columns)) {
            Some(same) if same == row => result.equal += 1,
            Some(other) => {
                result.changed += 1;
                result.note(|| format!("was \"{}\", is \"{}\"", shorten(other), shorten(row)));
            }
            None => {
                result.extra += 1;
                result.note(|| format!("\"{}\" was not there", shorten(row)));
            }
        }
    }
    result.missing = expected.len();
    if let Some(row) = expected.values().min() {
        result.note(|| format!("\"{}\" is missing", shorten(row)));
    }
    result
}

/// The first columns of a row.
fn key(row: &str, columns: usize) -> &str {
    let end = row.match_indices('\t').nth(columns - 1).map_or(row.len(), |(at, _)| at);
    &row[..end]
}

fn shorten(row: &str) -> String {
    match row.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &row[..end]),
        None => row.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "1\ta\n2\tb\n3\tc\n";

    #[test]
    fn the_same_rows_are_the_same_in_any_order() {
        let result = compare(BEFORE, "3\tc\n1\ta\n2\tb\n", 1);
        assert!(result.is_clean());
        assert_eq!((result.equal, result.first), (3, None));
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        let result = compare(BEFORE, "1\ta\n2\tB\n4\td\n", 1);
        assert_eq!(
            (result.equal, result.changed, result.missing, result.extra),
            (1, 1, 1, 1)
        );
        assert_eq!(result.first.as_deref(), Some("was \"2\tb\", is \"2\tB\""));
        assert_eq!(compare(BEFORE, "", 1).missing, 3);
        assert_eq!(compare("", BEFORE, 1).extra, 3);
        assert_eq!(
            compare(BEFORE, "1\ta\n1\ta\n2\tb\n3\tc\n", 1).extra,
            1,
            "a row that is there twice"
        );
    }

    #[test]
    fn several_columns_can_be_the_key() {
        assert!(compare("x\t1\ta\nx\t2\tb\n", "x\t2\tb\nx\t1\ta\n", 2).is_clean());
        assert_eq!(compare("x\t1\ta\n", "x\t2\ta\n", 2).missing, 1);
    }
}
