//! "Did you mean": the key that was probably meant by one that there is not.

use pgkeep_base::Error;

use super::keys::KEYS;

/// The error for a key that there is not, with the one that was probably meant.
pub fn unknown(path: &[String]) -> Error {
    let mut message = format!("there is no key `{}`", path.join("."));
    if let Some(meant) = meant(path) {
        message.push_str(&format!("; did you mean `{meant}`?"));
    }
    Error::invalid(message)
}

/// The nearest key: one level misspelt, or the right word at another level.
fn meant(path: &[String]) -> Option<String> {
    let corrected = corrected(path);
    let last = path.last()?;
    if let Some(same_last) = corrected.as_ref().filter(|levels| levels.last() == Some(last)) {
        return Some(same_last.join("."));
    }
    let elsewhere = KEYS
        .iter()
        .map(|key| key.path)
        .find(|known| known.rsplit('.').next() == Some(last));
    elsewhere
        .map(str::to_owned)
        .or_else(|| corrected.map(|levels| levels.join(".")))
}

fn corrected(path: &[String]) -> Option<Vec<String>> {
    let mut corrected: Vec<String> = Vec::new();
    for level in path {
        let known: Vec<&str> = levels_below(&corrected);
        if known.contains(&"NAME") || known.contains(&level.as_str()) {
            corrected.push(level.clone());
        } else {
            corrected.push(nearest(level, known.iter().copied())?.to_owned());
        }
    }
    (corrected != path).then_some(corrected)
}

fn levels_below(path: &[String]) -> Vec<&'static str> {
    let mut found: Vec<&str> = KEYS
        .iter()
        .filter_map(|key| {
            let mut levels = key.path.split('.');
            let below = path
                .iter()
                .all(|level| levels.next().is_some_and(|known| known == "NAME" || known == level));
            if below { levels.next() } else { None }
        })
        .collect();
    found.dedup();
    found
}

/// The nearest of `known`, if it is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let tolerance = 1 + word.len() / 4;
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words: insertions, deletions, replacements, and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_word_that_was_meant() {
        let known = ["connection", "databases", "url"];
        assert_eq!(nearest("conection", known), Some("connection"));
        assert_eq!(nearest("conenction", known), Some("connection"));
        assert_eq!(nearest("ulr", known), Some("url"));
        assert_eq!(nearest("password", known), None);
        assert_eq!(distance("abcd", "acbd"), 1);
    }
}
