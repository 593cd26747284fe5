//! The syntax of PostgreSQL's settings files, line by line (`src/backend/utils/misc/guc-file.l`).
//!
//! Invariant: a value that [`quote`] wrote is the value that PostgreSQL and [`parse_line`] read. Content is bytes: a
//! value may be in any encoding. Includes are reported, not followed: what they hold depends on the whole host.

use std::fmt;

use pgkeep_base::{Error, Result};

/// `name = value` from a settings file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// In lower case: names don't distinguish.
    pub name: String,
    /// Without quotes and escapes.
    pub value: Vec<u8>,
}

impl Setting {
    /// The value as text, with anything that isn't UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.value).into_owned()
    }
}

/// What a settings file says, in its order. Where a name occurs twice, PostgreSQL takes the last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SettingsFile {
    /// The settings.
    pub settings: Vec<Setting>,
    /// `include`, `include_if_exists` and `include_dir` with their paths, not followed.
    pub includes: Vec<Setting>,
    /// Numbers of the lines, from 1, that PostgreSQL would refuse.
    pub bad_lines: Vec<usize>,
}

impl SettingsFile {
    /// Reads a file; never fails, because PostgreSQL is the judge of its settings.
    pub fn parse(content: &[u8]) -> SettingsFile {
        let mut file = SettingsFile::default();
        for (n, line) in content.split(|byte| *byte == b'\n').enumerate() {
            match parse_line(line) {
                Line::Blank => {}
                Line::Bad => file.bad_lines.push(n + 1),
                Line::Setting(setting) if setting.name.starts_with("include") => file.includes.push(setting),
                Line::Setting(setting) => file.settings.push(setting),
            }
        }
        file
    }

    /// The value that counts for `name` (lower case), as far as this file alone says.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().rfind(|setting| setting.name == name)
    }
}

/// One line of a settings file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// Nothing, or a comment.
    Blank,
    /// A setting, or an include.
    Setting(Setting),
    /// Not a line that PostgreSQL reads.
    Bad,
}

/// Reads one line, without its newline.
pub fn parse_line(line: &[u8]) -> Line {
    let rest = skip_blanks(line);
    if ends(rest) {
        return Line::Blank;
    }
    let name_bytes = rest.iter().take_while(|byte| is_name_byte(**byte)).count();
    let name = String::from_utf8_lossy(&rest[..name_bytes]).to_ascii_lowercase();
    if name_bytes == 0 || rest[0].is_ascii_digit() || rest[0] == b'.' || rest[0] == b'$' {
        return Line::Bad;
    }
    let rest = skip_blanks(&rest[name_bytes..]);
    let rest = skip_blanks(rest.strip_prefix(b"=").unwrap_or(rest));
    let Some((value, rest)) = parse_value(rest) else {
        return Line::Bad;
    };
    if ends(skip_blanks(rest)) {
        return Line::Setting(Setting { name, value });
    }
    Line::Bad
}

fn skip_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
        .count();
    &bytes[blanks..]
}

fn ends(rest: &[u8]) -> bool {
    rest.is_empty() || rest[0] == b'#'
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$') || byte >= 0x80
}

/// A quoted or plain value, and what follows it.
fn parse_value(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = bytes.strip_prefix(b"'") else {
        let plain = |byte: u8| is_name_byte(byte) || matches!(byte, b'-' | b'+' | b':' | b'/');
        let length = bytes.iter().take_while(|byte| plain(**byte)).count();
        return (length > 0).then(|| (bytes[..length].to_vec(), &bytes[length..]));
    };
    let mut value = Vec::new();
    let mut rest = quoted;
    loop {
        match rest {
            [b'\'', b'\'', after @ ..] => {
                value.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return Some((value, after)),
            [b'\\', after @ ..] => {
                let (byte, after) = parse_escape(after)?;
                value.push(byte);
                rest = after;
            }
            [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

/// What follows a backslash: a letter, up to three octal digits, or the character itself.
fn parse_escape(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (first, after) = bytes.split_first()?;
    let byte = match first {
        b'b' => 0x08,
        b'f' => 0x0C,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'0'..=b'7' => {
            let digits = bytes
                .iter()
                .take(3)
                .take_while(|byte| (b'0'..=b'7').contains(byte))
                .count();
            let number = bytes[..digits]
                .iter()
                .fold(0_u32, |number, digit| number * 8 + u32::from(digit - b'0'));
            return Some((number as u8, &bytes[digits..]));
        }
        other => *other,
    };
    Some((byte, after))
}

/// Writes a value as PostgreSQL reads it back: in quotes, with quotes and backslashes doubled.
///
/// # Errors
/// `Invalid` for control characters: a later `ALTER SYSTEM` writes a newline unescaped and breaks the file.
pub fn quote(value: &str) -> Result<String> {
    if value.contains(|c: char| c.is_ascii_control()) {
        return Err(
            Error::invalid(format!("a setting can't hold control characters: {value:?}"))
                .hint("Check the paths and names in the configuration with `pgkeep doctor`."),
        );
    }
    Ok(format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")))
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?}", self.name, self.text())
    }
}
