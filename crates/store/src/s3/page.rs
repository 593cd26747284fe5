//! One page of a listing, before object_store reads it.
//!
//! Invariants: a cut or foreign document, which would read as a shorter, or empty, listing, is refused. A key that
//! can't be ours is taken out of the page: object_store would refuse the whole page for `a//b`, so that whoever may
//! create an object could keep everybody from listing; and it takes a `/` off both ends of a key, so that the folder
//! `a/` which a console makes would be shown as the object `a`.

use super::guard::element;
use crate::name::is_segment;

/// The page, without what can't be ours; or why it can't be believed.
pub(super) fn checked(page: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(page).map_err(|_| "a listing is not UTF-8".to_owned())?;
    if !text.contains("<ListBucketResult") || !text.trim_end().ends_with("</ListBucketResult>") {
        return Err("a listing is not a whole ListBucketResult".to_owned());
    }
    let truncated = element(text, "IsTruncated").is_some_and(|value| value.trim() == "true");
    let token = element(text, "NextContinuationToken").is_some_and(|token| !token.is_empty());
    if truncated && !token {
        return Err("a listing says that there is more, but not how to get it".to_owned());
    }
    let objects = filtered(text, "Contents", |entry| {
        element(entry, "Key").and_then(decoded).is_none_or(|key| is_path(&key))
    });
    Ok(filtered(&objects, "CommonPrefixes", |entry| {
        let prefix = element(entry, "Prefix").and_then(decoded);
        prefix.is_none_or(|prefix| prefix.strip_suffix('/').is_some_and(is_path))
    }))
}

/// Names of ours are below the prefix of the store, which is made of segments as they are.
fn is_path(key: &str) -> bool {
    key.split('/').all(is_segment)
}

/// The text without the elements of this name that are not to stay.
fn filtered(text: &str, name: &str, stays: impl Fn(&str) -> bool) -> String {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, (entry, after))) = rest
        .split_once(&begin)
        .and_then(|(before, behind)| Some((before, behind.split_once(&end)?)))
    {
        kept.push_str(before);
        if stays(entry) {
            [&begin, entry, &end].into_iter().for_each(|part| kept.push_str(part));
        }
        rest = after;
    }
    kept + rest
}

/// A text of XML as what it stands for; `None` where it has entities that XML does not know.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('&');
    let mut decoded = parts.next()?.to_owned();
    for part in parts {
        let (entity, rest) = part.split_once(';')?;
        decoded.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            number => {
                let number = number.strip_prefix('#')?;
                let code = match number.strip_prefix('x') {
                    Some(digits) => u32::from_str_radix(digits, 16),
                    None => number.parse(),
                };
                char::from_u32(code.ok()?)?
            }
        });
        decoded.push_str(rest);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(keys: &[&str], prefixes: &[&str]) -> String {
        let objects = keys.iter().map(|key| format!("<Contents><Key>{key}</Key></Contents>"));
        let prefixes = prefixes
            .iter()
            .map(|prefix| format!("<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>"));
        let entries: String = objects.chain(prefixes).collect();
        format!("<ListBucketResult xmlns=\"x\"><Prefix>a//</Prefix>{entries}</ListBucketResult>\n")
    }

    #[test]
    fn keys_that_no_name_of_ours_makes_are_taken_out() {
        let all = page(
            &[
                "a/b", "a/b/", "/a/b", "a//b", "a/../b", " a", "a ", "a&amp;b", "a&#10;b", "a&#x2f;", "a&#43;b",
                "\u{e4}",
            ],
            &["a/b/", "a//", "/a/", "/", "a", "a&amp;/", "c/"],
        );
        assert_eq!(
            checked(all.as_bytes()).unwrap(),
            page(&["a/b", "a&#43;b"], &["a/b/", "c/"])
        );
    }

    /// Aim: what is not understood here is not left out, but judged by object_store.
    #[test]
    fn what_can_not_be_read_stays() {
        for odd in [
            "<Contents><Key>a//b</Key>",
            "<Contents><Key x=\"y\">a//b</Key></Contents>",
            "<Contents><Key>a&b</Key></Contents>",
            "<Contents><Key>a&what;</Key></Contents>",
            "<CommonPrefixes><Prefix>&#xD800;</Prefix></CommonPrefixes>",
        ] {
            let page = format!("<ListBucketResult>{odd}</ListBucketResult>");
            assert_eq!(checked(page.as_bytes()).unwrap(), page);
        }
    }
}
