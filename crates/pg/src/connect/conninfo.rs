//! Reads libpq's connection strings, in both spellings, into an ordered list of keys and values.
//!
//! Invariant: what libpq refuses is refused, with the word that is wrong; nothing is guessed. What the keys mean is
//! [`super::params`]'s business. Rules: PostgreSQL's documentation, "Connection Strings".

use pgkeep_base::{Error, Result};

/// Keys and values in the order in which they were given; a later one overrides an earlier one.
pub(super) type Pairs = Vec<(String, String)>;

/// Reads `host=/tmp user=pgkeep` or `postgresql://pgkeep@db:5433/shop?sslmode=require`.
pub(super) fn parse(text: &str) -> Result<Pairs> {
    let uri = text
        .strip_prefix("postgresql://")
        .or_else(|| text.strip_prefix("postgres://"));
    match uri {
        Some(rest) => parse_uri(rest),
        None => parse_pairs(text),
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::invalid("the connection string can't be read")
        .detail(message)
        .hint("Write `connection` as libpq does: `host=/run/postgresql user=pgkeep dbname=postgres`, then `pgkeep config check`.")
}

fn parse_pairs(text: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || c.is_ascii_whitespace())
            .unwrap_or(rest.len());
        let key = &rest[..end];
        let after = rest[end..].trim_start().strip_prefix('=');
        let after = after.ok_or_else(|| bad(format!("missing \"=\" after \"{key}\"")))?;
        let (value, left) = value(after.trim_start(), key)?;
        pairs.push((key.to_owned(), value));
        rest = left.trim_start();
    }
    Ok(pairs)
}

/// One value, bare or in single quotes, with backslash escapes; and what follows it.
fn value<'a>(text: &'a str, key: &str) -> Result<(String, &'a str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_ascii_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(bad(format!("the quoted value of \"{key}\" doesn't end")));
    }
    Ok((value, ""))
}

fn parse_uri(rest: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = match before_query.split_once('/') {
        Some((authority, database)) => (authority, Some(database)),
        None => (before_query, None),
    };
    let hosts = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => {
            let (user, password) = match credentials.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (credentials, None),
            };
            push(&mut pairs, "user", user)?;
            push(&mut pairs, "password", password.unwrap_or(""))?;
            hosts
        }
        None => authority,
    };
    parse_hosts(hosts, &mut pairs)?;
    push(&mut pairs, "dbname", database.unwrap_or(""))?;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter
            .split_once('=')
            .ok_or_else(|| bad(format!("missing \"=\" after \"{parameter}\" in the URI")))?;
        match (decode(key)?, decode(value)?) {
            (key, value) if key == "ssl" && value == "true" => pairs.push(("sslmode".into(), "require".into())),
            pair => pairs.push(pair),
        }
    }
    Ok(pairs)
}

/// `host`, `host:port`, `[2001:db8::1]:5433`, `%2Frun%2Fpostgresql`, several with commas.
fn parse_hosts(text: &str, pairs: &mut Pairs) -> Result<()> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for item in text.split(',') {
        let (host, port) = match item.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest
                    .split_once(']')
                    .ok_or_else(|| bad("an IPv6 address in the URI lacks its \"]\""))?;
                let port = match after {
                    "" => "",
                    _ => after
                        .strip_prefix(':')
                        .ok_or_else(|| bad(format!("unexpected \"{after}\" after an IPv6 address")))?,
                };
                (host, port)
            }
            None => item.split_once(':').unwrap_or((item, "")),
        };
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    if hosts.iter().any(|host| !host.is_empty()) {
        pairs.push(("host".into(), hosts.join(",")));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.push(("port".into(), ports.join(",")));
    }
    Ok(())
}

fn push(pairs: &mut Pairs, key: &str, encoded: &str) -> Result<()> {
    if !encoded.is_empty() {
        pairs.push((key.to_owned(), decode(encoded)?));
    }
    Ok(())
}

/// Percent-decoding; `%00` and broken escapes are refused, as in libpq.
fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| (b as char).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) if high + low > 0 => bytes.push((high * 16 + low) as u8),
            _ => return Err(bad(format!("\"{text}\" has a broken percent escape"))),
        }
    }
    String::from_utf8(bytes).map_err(|_| bad(format!("\"{text}\" is not UTF-8 once decoded")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    fn expect(text: &str, expected: &[(&str, &str)]) {
        let expected: Pairs = expected.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        assert_eq!(pairs(text), expected, "{text}");
    }

    #[test]
    fn keys_and_values_read_as_libpq_reads_them() {
        expect("", &[]);
        expect(
            " host = /tmp  user=a\tport=5 ",
            &[("host", "/tmp"), ("user", "a"), ("port", "5")],
        );
        expect(
            r"password='it\'s \\ here' dbname=a\ b user=''",
            &[("password", r"it's \ here"), ("dbname", "a b"), ("user", "")],
        );
        expect("host='a' 'b'=c", &[("host", "a"), ("'b'", "c")]);
    }

    #[test]
    fn uris_read_as_libpq_reads_them() {
        expect("postgresql://", &[]);
        expect(
            "postgres://u%40x:p%3Aw@db:5433/shop?sslmode=require&connect_timeout=3",
            &[
                ("user", "u@x"),
                ("password", "p:w"),
                ("host", "db"),
                ("port", "5433"),
                ("dbname", "shop"),
                ("sslmode", "require"),
                ("connect_timeout", "3"),
            ],
        );
        expect(
            "postgresql://a:1,[2001:db8::1]:2/",
            &[("host", "a,2001:db8::1"), ("port", "1,2")],
        );
        expect(
            "postgresql://%2Frun%2Fpg/x?ssl=true",
            &[("host", "/run/pg"), ("dbname", "x"), ("sslmode", "require")],
        );
        expect("postgresql:///x?host=/tmp", &[("dbname", "x"), ("host", "/tmp")]);
    }

    #[test]
    fn what_libpq_refuses_is_refused() {
        for text in [
            "host",
            "host=a b",
            "host='a",
            "postgresql://[::1",
            "postgresql://[::1]x/",
            "postgresql://%zz",
            "postgresql://a%00",
            "postgresql://a/b?c",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
