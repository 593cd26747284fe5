//! One damage, one restore, and what PostgreSQL holds afterwards; and what the tool's own commands say of that damage.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use pgkeep_testkit::postgres::Recovery;
use pgkeep_testkit::{Cluster, Damage, Output, Scratch};

use crate::document::shorten;
use crate::source::{ROWS, Source};
use crate::tool::Restore;

/// The row whose segment is damaged: what lies behind it is lost with it.
const DAMAGED_ROW: u32 = 3;

/// A damage to the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Case {
    None,
    Missing,
    Flipped,
    Truncated,
    Unreadable,
    MissingHistory,
}

/// One restore, as a line of a table.
pub struct Restored {
    case: Case,
    tool: String,
    exit: String,
    outcome: String,
}

/// One command that looks at a repository, as a line of a table.
pub struct Looked {
    case: Case,
    tool: &'static str,
    command: &'static str,
    exit: String,
    /// What it says that it does not say of the undamaged repository.
    news: Vec<String>,
}

impl Case {
    pub const ALL: [Case; 6] = [
        Case::None,
        Case::Missing,
        Case::Flipped,
        Case::Truncated,
        Case::Unreadable,
        Case::MissingHistory,
    ];

    fn words(self) -> &'static str {
        match self {
            Case::None => "none",
            Case::Missing => "one segment deleted",
            Case::Flipped => "one bit of one segment flipped",
            Case::Truncated => "one segment cut to half",
            Case::Unreadable => "one segment unreadable (mode 000)",
            Case::MissingHistory => "history of timeline 2 deleted",
        }
    }

    fn harm(self, source: &Source) {
        let segment = source.tool().archived(source.segment_of(DAMAGED_ROW));
        let length = fs::metadata(&segment).unwrap().len();
        let change = |damage: Damage| {
            let mut bytes = fs::read(&segment).unwrap();
            assert!(damage.apply(&mut bytes));
            fs::write(&segment, bytes).unwrap();
        };
        match self {
            Case::None => {}
            Case::Missing => fs::remove_file(&segment).unwrap(),
            Case::Flipped => change(Damage::FlipBit { at: length / 2, bit: 3 }),
            Case::Truncated => change(Damage::Truncate { to: length / 2 }),
            Case::Unreadable => {
                use std::os::unix::fs::PermissionsExt as _;
                fs::set_permissions(&segment, fs::Permissions::from_mode(0o000)).unwrap();
            }
            Case::MissingHistory => fs::remove_file(source.tool().archived("00000002.history")).unwrap(),
        }
    }

    /// Damages, restores, starts, asks.
    ///
    /// # Panics
    /// When without damage not all rows are there.
    pub fn restore(self, source: &Source, way: &Restore) -> Restored {
        source.mend();
        self.harm(source);
        let scratch = Scratch::new();
        let target = scratch.join("restored");
        let output = source.tool().restore(&target, way, source.last());
        let outcome = match output.code {
            Some(0) => start(source, &target),
            _ => format!("refused: {}", first_words(&output)),
        };
        let whole = outcome.contains(&format!("{ROWS} of {ROWS}"));
        assert!(self != Case::None || whole, "without damage: {outcome}\n{output}");
        let tool = source.tool().name();
        Restored {
            case: self,
            tool: match way {
                Restore::Default => tool.to_owned(),
                Restore::ToLastLsn => format!("{tool}, told the last LSN"),
            },
            exit: exit(&output),
            outcome,
        }
    }

    /// What the tool's own commands say, beyond what they say of the undamaged repository.
    pub fn look(self, source: &Source, usual: &Usual) -> Vec<Looked> {
        source.mend();
        self.harm(source);
        let found = source.tool().inspect();
        let looked = found.iter().enumerate().map(|(at, (command, output))| Looked {
            case: self,
            tool: source.tool().name(),
            command,
            exit: exit(output),
            news: usual.news(at, output),
        });
        looked.collect()
    }
}

/// What the commands say of the undamaged repository, from two runs: what differs between them is a time or an age.
pub struct Usual {
    runs: [Vec<(&'static str, Output)>; 2],
    /// A scratch directory, whose name tells nothing.
    repository: String,
}

impl Usual {
    pub fn of(source: &Source) -> Usual {
        source.mend();
        let one = source.tool().inspect();
        // Ages are shown in seconds: they shall differ.
        std::thread::sleep(Duration::from_millis(1500));
        Usual {
            runs: [one, source.tool().inspect()],
            repository: source.tool().repository().display().to_string(),
        }
    }

    /// Lines of a further run of command `at` that neither had. Of a line that differed between the two only what stands
    /// before its first number counts; of all others every character.
    fn news(&self, at: usize, output: &Output) -> Vec<String> {
        let [one, other] = [0, 1].map(|run| lines(&self.runs[run][at].1));
        let bare = |line: &String| {
            line.split(|c: char| c.is_ascii_digit())
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let restless = one.symmetric_difference(&other).map(bare).collect::<BTreeSet<_>>();
        let new = lines(output).into_iter();
        let new = new.filter(|line| !one.contains(line) && !other.contains(line) && !restless.contains(&bare(line)));
        new.map(|line| shorten(&line.replace(&self.repository, "…"))).collect()
    }
}

fn lines(output: &Output) -> BTreeSet<String> {
    let both = output.stdout.lines().chain(output.stderr.lines());
    // The first line of pgBackRest's log repeats the command with an id of its process.
    let said = both
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.contains("command begin"));
    said.map(str::to_owned).collect()
}

fn exit(output: &Output) -> String {
    output.code.map_or_else(|| "killed".to_owned(), |code| code.to_string())
}

/// PostgreSQL on what was restored.
fn start(source: &Source, target: &Path) -> String {
    let mut cluster = Cluster::adopt_dir(source.tool().cluster().major(), target);
    let end = match cluster.try_start() {
        Ok(()) => cluster.wait_recovery(),
        Err(log) => Recovery::Ended(log),
    };
    match end {
        Recovery::Opened => {
            let rows = cluster.sql("SELECT count(*) FROM kept");
            format!(
                "**opened read-write with {rows} of {ROWS} rows**, on timeline {}",
                cluster.timeline()
            )
        }
        Recovery::Paused => "paused".to_owned(),
        Recovery::Ended(log) => format!("PostgreSQL stopped: {}", fatal(&log)),
    }
}

/// Why the server ended; clients that it turned away meanwhile are no reason.
fn fatal(log: &str) -> String {
    let words = log.lines().filter_map(|line| Some(line.split_once("FATAL:")?.1.trim()));
    let mut reasons = words.filter(|words| !words.starts_with("the database system is"));
    reasons.next_back().unwrap_or_default().to_owned()
}

fn first_words(output: &Output) -> String {
    let mut lines = output.stderr.lines().chain(output.stdout.lines());
    shorten(lines.find(|line| !line.trim().is_empty()).unwrap_or_default())
}

impl Restored {
    pub const HEADER: &'static str = "| damage | restored by | restore | then PostgreSQL |\n|---|---|---|---|";
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Restored {
            case,
            tool,
            exit,
            outcome,
        } = self;
        write!(f, "| {} | {tool} | exit {exit} | {outcome} |", case.words())
    }
}

impl Looked {
    pub const HEADER: &'static str =
        "| damage | command | exit | what it says beyond what it says of the undamaged repository |\n|---|---|---|---|";
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Looked {
            case,
            tool,
            command,
            exit,
            news,
        } = self;
        let news = if news.is_empty() {
            "nothing".to_owned()
        } else {
            news.join("<br>")
        };
        write!(f, "| {} | `{tool} {command}` | {exit} | {news} |", case.words())
    }
}
