//! Corpora: for each target a text file, one input to a line, in which bytes that are not printable are escaped.
//!
//! So a kept input can be read, reviewed and compared, and ten thousand of them are not ten thousand files.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Longer inputs are not kept: what breaks a parser does so in few bytes.
pub const INPUT_BYTES_MAX: usize = 16 << 10;

/// As much text is kept for a target: a fuzzer finds in minutes what a mebibyte would hold.
pub const TEXT_BYTES_MAX: usize = 40 << 10;

/// Where the corpora are kept.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The inputs that are kept for a target.
///
/// # Errors
/// As reading a file; `InvalidData` for a line that no [`format`] wrote.
pub fn read(directory: &Path, target: &str) -> io::Result<Vec<Vec<u8>>> {
    let text = fs::read_to_string(directory.join(format!("{target}.txt")))?;
    let inputs = text.lines().map(|line| parse(line).ok_or_else(|| bad(target, line)));
    inputs.collect()
}

fn bad(target: &str, line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{target}: {line}"))
}

/// Keeps these inputs, and no others.
///
/// # Errors
/// As writing a file.
pub fn write(directory: &Path, target: &str, mut inputs: Vec<Vec<u8>>) -> io::Result<()> {
    inputs.retain(|input| input.len() <= INPUT_BYTES_MAX);
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.dedup();
    let text: String = inputs.iter().map(|input| format(input) + "\n").collect();
    fs::write(directory.join(format!("{target}.txt")), text)
}

/// Those of the inputs that are worth their place: the shortest, and among them no fewer that are `taken` than others.
pub fn choose(mut inputs: Vec<Vec<u8>>, taken: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
    inputs.sort_by_key(|input| format(input).len());
    let (good, bad): (Vec<_>, Vec<_>) = inputs.into_iter().partition(|input| taken(input));
    let (mut chosen, mut left) = (Vec::new(), TEXT_BYTES_MAX);
    let mut add = |inputs: Vec<Vec<u8>>, least: usize, until: usize| {
        for (index, input) in inputs.into_iter().enumerate() {
            let room = left.checked_sub(format(&input).len() + 1);
            match room.filter(|room| *room >= until) {
                Some(room) => left = room,
                None if index < least => left = left.min(until),
                None => break,
            }
            chosen.push(input);
        }
    };
    // One that is taken is kept however long it is: without, the others prove nothing.
    add(good, 1, TEXT_BYTES_MAX / 2);
    add(bad, 0, 0);
    chosen
}

/// An input as a line.
pub fn format(input: &[u8]) -> String {
    input.escape_ascii().to_string()
}

/// A line as an input; `None` for what [`format`] doesn't write.
pub fn parse(line: &str) -> Option<Vec<u8>> {
    let (mut input, mut rest) = (Vec::new(), line.bytes());
    while let Some(byte) = rest.next() {
        let escaped = match byte {
            b'\\' => rest.next()?,
            plain => {
                input.push(plain);
                continue;
            }
        };
        input.push(match escaped {
            b't' => b'\t',
            b'r' => b'\r',
            b'n' => b'\n',
            b'\\' | b'\'' | b'"' => escaped,
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(input)
}
