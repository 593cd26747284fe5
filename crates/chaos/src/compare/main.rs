//! The same damage to the archives of two tools: what does each restore come to?
//!
//! Both get the same cluster, made by the same statements: six committed rows, each in a WAL segment of its own, three
//! before and three after a promotion, behind one full backup. Both archive and restore as their own guides say, to the
//! end of the archive. Then one object of the archive is damaged, the restore is run, PostgreSQL is started, and
//! PostgreSQL is asked which rows it holds. Invariant: nothing here reads either tool's mind: exit codes, PostgreSQL's
//! log and its answers are all that counts, and without damage both must bring back all six.
//! `source` makes the cluster, `tool` is what both can do, `pgkeep` and `pgbackrest` are how, `case` runs one damage.

// A panic is how a comparison fails: helpers panic instead of returning what every caller would unwrap.
#![allow(clippy::unwrap_used)]

mod case;
#[path = "../document.rs"]
mod document;
mod pgbackrest;
mod pgkeep;
mod source;
mod tool;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Parser;

use crate::case::{Case, Looked, Restored, Usual};
use crate::pgbackrest::PgBackRest;
use crate::pgkeep::PgKeep;
use crate::source::Source;
use crate::tool::Tool;

/// Do the same damage to the archives of pgkeep and pgBackRest, restore, and tell what PostgreSQL holds then
#[derive(Debug, Parser)]
struct Arguments {
    /// The program under test
    #[arg(long, value_name = "FILE")]
    pgkeep: PathBuf,
    /// The other one
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/pgbackrest")]
    pgbackrest: PathBuf,
    /// Majors of PostgreSQL that both support
    #[arg(long, value_delimiter = ',', default_value = "14,15")]
    majors: Vec<u16>,
    /// Writes the tables into this document, between their marks
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
}

fn main() {
    let arguments = Arguments::parse();
    let mut text = String::new();
    for major in &arguments.majors {
        let tools: [Box<dyn Tool>; 2] = [
            Box::new(PgKeep::make(&arguments.pgkeep, *major)),
            Box::new(PgBackRest::make(&arguments.pgbackrest, *major)),
        ];
        let versions: Vec<String> = tools.iter().map(|tool| tool.version()).collect();
        let sources = tools.map(Source::make);
        let _ = writeln!(text, "PostgreSQL {}, {}.", sources[0].version(), versions.join(", "));
        restore_all(&sources, &mut text);
        look_all(&sources, &mut text);
    }
    text.push_str("Commands, where `…` is a scratch directory:\n");
    for (tool, commands) in [("pgkeep", pgkeep::COMMANDS), ("pgBackRest", pgbackrest::COMMANDS)] {
        let _ = writeln!(text, "\n{tool}:\n```sh\n{commands}\n```");
    }
    println!("{text}");
    if let Some(path) = &arguments.document {
        document::renew(path, "scripts/compare-p2", &text);
    }
}

fn restore_all(sources: &[Source], text: &mut String) {
    let _ = writeln!(text, "\n{}", Restored::HEADER);
    for case in Case::ALL {
        for source in sources {
            for way in source.tool().restores() {
                let _ = writeln!(text, "{}", case.restore(source, &way));
            }
        }
    }
}

/// What their own commands would have told somebody who looks before he restores.
fn look_all(sources: &[Source], text: &mut String) {
    let _ = writeln!(text, "\n{}", Looked::HEADER);
    let usual: Vec<Usual> = sources.iter().map(Usual::of).collect();
    for case in Case::ALL {
        for (source, usual) in sources.iter().zip(&usual) {
            for looked in case.look(source, usual) {
                let _ = writeln!(text, "{looked}");
            }
        }
    }
    text.push('\n');
}
