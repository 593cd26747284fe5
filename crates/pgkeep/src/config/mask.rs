//! Takes passwords out of connection strings before anything is shown.
//!
//! Invariant: a string that can't be understood is hidden as a whole rather than shown in doubt.

const MASK: &str = "****";

/// The connection string with the values of `password` and `sslpassword` replaced by `****`.
pub fn connection(text: &str) -> String {
    match text
        .strip_prefix("postgresql://")
        .map(|rest| ("postgresql://", rest))
        .or_else(|| text.strip_prefix("postgres://").map(|rest| ("postgres://", rest)))
    {
        Some((scheme, rest)) => format!("{scheme}{}", uri(rest)),
        None => pairs(text),
    }
}

/// Whether the connection string holds a password.
pub fn holds_password(text: &str) -> bool {
    connection(text) != text
}

fn is_secret(key: &str) -> bool {
    let key = key.trim().to_ascii_lowercase();
    // A percent-escaped key could be either.
    key == "password" || key == "sslpassword" || key.contains('%')
}

/// Everything behind `postgresql://`.
fn uri(rest: &str) -> String {
    let (before, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    // An `@` may also stand in a password, so the last one before the path counts, as in libpq's own reading.
    let authority_end = before.rfind('@').map_or(0, |at| at);
    let mut shown = match before[..authority_end].split_once(':') {
        Some((user, _)) => format!("{user}:{MASK}{}", &before[authority_end..]),
        None => before.to_owned(),
    };
    if let Some(query) = query {
        let masked = query.split('&').map(|parameter| match parameter.split_once('=') {
            Some((key, _)) if is_secret(key) => format!("{key}={MASK}"),
            _ => parameter.to_owned(),
        });
        shown = format!("{shown}?{}", masked.collect::<Vec<_>>().join("&"));
    }
    shown
}

/// `key = value` pairs, with values in single quotes or bare, and backslash escapes.
fn pairs(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    loop {
        let key_start = rest.len() - rest.trim_start().len();
        shown.push_str(&rest[..key_start]);
        rest = &rest[key_start..];
        if rest.is_empty() {
            return shown;
        }
        let Some(equals) = rest.find('=') else {
            return hidden(shown, rest);
        };
        let key = &rest[..equals];
        if key.trim().contains(char::is_whitespace) {
            return hidden(shown, rest);
        }
        let value_start = equals + 1 + (rest[equals + 1..].len() - rest[equals + 1..].trim_start().len());
        let Some(length) = value_length(&rest[value_start..]) else {
            return hidden(shown, rest);
        };
        shown.push_str(&rest[..value_start]);
        let value = &rest[value_start..value_start + length];
        shown.push_str(if is_secret(key) && !value.is_empty() {
            MASK
        } else {
            value
        });
        rest = &rest[value_start + length..];
    }
}

/// What can't be read may hold a password, unless the word isn't even there.
fn hidden(mut shown: String, rest: &str) -> String {
    shown.push_str(if rest.to_ascii_lowercase().contains("pass") {
        MASK
    } else {
        rest
    });
    shown
}

/// Bytes that a value takes, quotes included; `None` if its quote doesn't end.
fn value_length(text: &str) -> Option<usize> {
    let quoted = text.starts_with('\'');
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '\'' if quoted => return Some(at + 1),
            c if !quoted && c.is_whitespace() => return Some(at),
            _ => {}
        }
    }
    (!quoted).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_a_password_is_shown() {
        for (text, shown) in [
            ("host=/tmp password=geheim user=a", "host=/tmp password=**** user=a"),
            ("password = 'ge\\'he im' user=a", "password = **** user=a"),
            ("password=ge\\ heim user=a", "password=**** user=a"),
            ("sslpassword='x' PASSWORD=geheim", "sslpassword=**** PASSWORD=****"),
            ("postgresql://a:geheim@db/x", "postgresql://a:****@db/x"),
            (
                "postgres://a:ge@heim@db:5433/x?sslmode=require",
                "postgres://a:****@db:5433/x?sslmode=require",
            ),
            (
                "postgresql://db/x?user=a&password=geheim",
                "postgresql://db/x?user=a&password=****",
            ),
            (
                "postgresql://db/x?p%61ssword=geheim",
                "postgresql://db/x?p%61ssword=****",
            ),
            ("password='geheim", "****"),
            ("some password geheim", "****"),
        ] {
            assert_eq!(connection(text), shown);
            assert!(holds_password(text), "{text}");
        }
    }

    #[test]
    fn what_holds_no_password_is_shown_as_it_is() {
        for text in [
            "",
            "host=/run/postgresql user=pgkeep dbname=postgres",
            "passfile=/etc/pgkeep/pgpass user='a b'",
            "password=",
            "postgresql://a@db/x",
            "service=shop",
        ] {
            assert_eq!(connection(text), text);
            assert!(!holds_password(text), "{text}");
        }
    }
}
