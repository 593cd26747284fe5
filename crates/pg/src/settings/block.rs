//! Marked blocks of settings: found, judged, removed.
//!
//! A block begins and ends with comments for people, and with settings of pgkeep's own for `ALTER SYSTEM`, which
//! rewrites the file without comments but keeps settings and their order. The settings carry a digest of what stands
//! between them. `ALTER SYSTEM SET x` moves `x` behind the block: then the operator has decided, the block counts as
//! edited, and removing the block keeps the operator's `x`.
//! The digest (CRC-32C) tells edits and accidents, not malice: who can write the file can run any command anyway.

use pgkeep_base::Result;

use super::guc::{self, Line, Setting};
use super::recovery::strip_inherited;

/// What a block is for; there is at most one of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Target and commands of a recovery; removed when it ends.
    Recovery,
    /// Keeps a copy from archiving; removed by `pgkeep adopt`.
    Archive,
}

impl Purpose {
    fn title(self) -> &'static str {
        match self {
            Purpose::Recovery => "pgkeep recovery settings",
            Purpose::Archive => "pgkeep archive settings",
        }
    }

    fn fate(self) -> &'static str {
        match self {
            Purpose::Recovery => "removed at the end of recovery",
            Purpose::Archive => "removed by `pgkeep adopt`",
        }
    }

    fn begin_comment(self) -> String {
        format!("# BEGIN {}: {}", self.title(), self.fate())
    }

    fn end_comment(self) -> String {
        format!("# END {}", self.title())
    }

    fn begin_setting(self) -> &'static str {
        match self {
            Purpose::Recovery => "pgkeep.recovery_begin",
            Purpose::Archive => "pgkeep.archive_begin",
        }
    }

    fn end_setting(self) -> &'static str {
        match self {
            Purpose::Recovery => "pgkeep.recovery_end",
            Purpose::Archive => "pgkeep.archive_end",
        }
    }
}

/// Whether a block is as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockState {
    /// There is none.
    Absent,
    /// As it was written, and nothing behind it overrules it.
    Intact,
    /// A setting was changed, added, removed or overruled, or an end of the block is missing.
    Altered,
}

/// A block that was looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// Whether it is as it was written.
    pub state: BlockState,
    /// What stands in it.
    pub settings: Vec<Setting>,
}

/// Writes a block.
pub(super) fn format_block(purpose: Purpose, settings: &[(&str, String)]) -> Result<Vec<u8>> {
    let as_read: Vec<Setting> = settings
        .iter()
        .map(|(name, value)| Setting {
            name: (*name).to_owned(),
            value: value.clone().into_bytes(),
        })
        .collect();
    let digest = digest(&as_read);
    let mut lines = vec![
        purpose.begin_comment(),
        format!("{} = '{digest}'", purpose.begin_setting()),
    ];
    for (name, value) in settings {
        lines.push(format!("{name} = {}", guc::quote(value)?));
    }
    lines.push(format!("{} = '{digest}'", purpose.end_setting()));
    lines.push(purpose.end_comment());
    Ok((lines.join("\n") + "\n").into_bytes())
}

/// Looks for the block of a purpose.
pub fn find_block(content: &[u8], purpose: Purpose) -> Block {
    let lines = read_lines(content);
    let Some(Span { begin, end, whole }) = find_span(&lines, purpose) else {
        return Block {
            state: BlockState::Absent,
            settings: Vec::new(),
        };
    };
    let between = lines[begin..end].iter().filter_map(|(_, line)| setting(line));
    let settings: Vec<Setting> = between.filter(|setting| !is_mark(setting, purpose)).cloned().collect();
    let expected = digest(&settings).into_bytes();
    let marks = [purpose.begin_setting(), purpose.end_setting()].map(|name| {
        let found = lines
            .iter()
            .filter_map(|(_, line)| setting(line))
            .filter(|setting| setting.name == name);
        let values: Vec<&[u8]> = found.map(|setting| &setting.value[..]).collect();
        values == [&expected[..]]
    });
    let mut after = lines[end..].iter().filter_map(|(_, line)| setting(line));
    let overruled = after.any(|later| settings.iter().any(|ours| ours.name == later.name));
    let strange = lines[begin..end].iter().any(|(_, line)| matches!(line, Line::Bad));
    let intact = whole && marks == [true, true] && !overruled && !strange;
    Block {
        state: if intact {
            BlockState::Intact
        } else {
            BlockState::Altered
        },
        settings,
    }
}

/// Takes the block of a purpose out, whatever its state, and leaves every other byte as it is.
///
/// Where one end of a recovery block is missing, nothing says which lines were pgkeep's: then all settings that steer
/// a recovery go. Of a damaged archive block only the mark goes, so that a copy rather stays silent than pollutes.
pub fn remove_block(content: &[u8], purpose: Purpose) -> Vec<u8> {
    let mut kept = content.to_vec();
    // A damaged file may hold a block twice.
    while let Some(span) = find_span(&read_lines(&kept), purpose) {
        let lines: Vec<&[u8]> = kept.split_inclusive(|byte| *byte == b'\n').collect();
        let without = [&lines[..span.begin], &lines[span.end..]].concat().concat();
        kept = match purpose {
            Purpose::Recovery if !span.whole => strip_inherited(&without, true),
            _ => without,
        };
    }
    kept
}

/// The lines of a block, or the one mark that is left of it.
struct Span {
    begin: usize,
    /// First line behind it.
    end: usize,
    whole: bool,
}

fn find_span(lines: &[(&[u8], Line)], purpose: Purpose) -> Option<Span> {
    let is_begin = |(text, line): &(&[u8], Line)| {
        text.trim_ascii()
            .starts_with(format!("# BEGIN {}", purpose.title()).as_bytes())
            || setting(line).is_some_and(|setting| setting.name == purpose.begin_setting())
    };
    let is_end = |(text, line): &(&[u8], Line)| {
        text.trim_ascii() == purpose.end_comment().as_bytes()
            || setting(line).is_some_and(|setting| setting.name == purpose.end_setting())
    };
    let alone = |begin| Span {
        begin,
        end: begin + 1,
        whole: false,
    };
    match (lines.iter().position(is_begin), lines.iter().position(is_end)) {
        (None, None) => None,
        (Some(begin), Some(end)) if begin < end => {
            // The comment follows the setting directly.
            let comment_follows = lines.get(end + 1).is_some_and(is_end);
            Some(Span {
                begin,
                end: end + 1 + usize::from(comment_follows),
                whole: true,
            })
        }
        (begin, end) => begin.or(end).map(alone),
    }
}

fn read_lines(content: &[u8]) -> Vec<(&[u8], Line)> {
    content
        .split_inclusive(|byte| *byte == b'\n')
        .map(|text| (text, guc::parse_line(text.strip_suffix(b"\n").unwrap_or(text))))
        .collect()
}

fn setting(line: &Line) -> Option<&Setting> {
    match line {
        Line::Setting(setting) => Some(setting),
        Line::Blank | Line::Bad => None,
    }
}

fn is_mark(setting: &Setting, purpose: Purpose) -> bool {
    setting.name == purpose.begin_setting() || setting.name == purpose.end_setting()
}

/// CRC-32C over names and values, each with its length, so that no edit hides in a border.
fn digest(settings: &[Setting]) -> String {
    let mut crc = 0;
    for part in settings
        .iter()
        .flat_map(|setting| [setting.name.as_bytes(), &setting.value])
    {
        crc = crc32c::crc32c_append(crc, &(part.len() as u64).to_le_bytes());
        crc = crc32c::crc32c_append(crc, part);
    }
    format!("{crc:08x}")
}
