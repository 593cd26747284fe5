//! Looks a password up in libpq's password file (`~/.pgpass`).
//!
//! Invariant: a file that others can read is ignored, with a warning, as libpq does; a password is never logged.

use std::path::Path;

use std::os::unix::fs::PermissionsExt;

/// What a line of the file is compared with.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// `localhost` for the default socket directories.
    pub host: &'a str,
    pub port: u16,
    pub database: &'a str,
    pub user: &'a str,
}

/// The password of the first line that matches; `None` also where the file is missing or open to others.
pub(super) fn find(file: &Path, wanted: &Wanted) -> Option<String> {
    let meta = std::fs::metadata(file).ok()?;
    if !meta.is_file() {
        tracing::warn!(file = %file.display(), "the password file is ignored: it is not a plain file");
        return None;
    }
    if meta.permissions().mode() & 0o077 != 0 {
        tracing::warn!(
            file = %file.display(),
            "the password file is ignored: others can read it, its permissions should be u=rw (0600) or less"
        );
        return None;
    }
    let text = std::fs::read(file).ok()?;
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| password_of(line, wanted))
}

fn password_of(line: &str, wanted: &Wanted) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    let port = wanted.port.to_string();
    for expected in [wanted.host, &port, wanted.database, wanted.user] {
        let (field, after) = field(rest);
        if field.as_deref() != Some("*") && unescape(field.as_deref()?) != expected {
            return None;
        }
        rest = after;
    }
    let (password, _) = field(rest);
    password.map(|password| unescape(&password))
}

/// A field up to the next unescaped colon, escapes kept (so that `\*` isn't the wildcard), and what follows.
fn field(text: &str) -> (Option<String>, &str) {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => return (Some(text[..at].to_owned()), &text[at + 1..]),
            _ => {}
        }
    }
    ((!text.is_empty()).then(|| text.to_owned()), "")
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        host: "localhost",
        port: 5432,
        database: "shop",
        user: "pgkeep",
    };

    #[test]
    fn the_first_matching_line_wins() {
        for (line, expected) in [
            ("localhost:5432:shop:pgkeep:s3cret", Some("s3cret")),
            ("*:*:*:*:any", Some("any")),
            (r"*:*:*:pgkeep:a\:b\\c", Some(r"a:b\c")),
            ("localhost:5433:*:*:no", None),
            (r"\*:*:*:*:no", None),
            ("# *:*:*:*:no", None),
            ("*:*:*", None),
            ("", None),
        ] {
            assert_eq!(password_of(line, &WANTED).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pgpass");
        std::fs::write(&file, "nobody:1:a:b:c\n*:*:*:pgkeep:found\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(find(&file, &WANTED).as_deref(), Some("found"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(find(&file, &WANTED), None);
        assert_eq!(find(&dir.path().join("absent"), &WANTED), None);
    }
}
