//! `pgkeep man DIR`: a manual page for every command.

use std::path::PathBuf;

use pgkeep_base::{Result, ResultExt};
use serde::Serialize;

use crate::cli;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};

/// Write manual pages into a directory
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Directory, made where it is missing; `man -l DIR/pgkeep.1` reads the first page
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Serialize)]
struct Written {
    directory: PathBuf,
    pages: Vec<String>,
}

impl View for Written {
    fn text(&self, page: &mut Page) {
        page.line(format!(
            "{} manual pages in {}",
            self.pages.len(),
            self.directory.display()
        ));
    }
}

/// Writes the pages; existing ones are replaced.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let directory = context.path(&arguments.directory);
    let write = || -> std::io::Result<Vec<String>> {
        std::fs::create_dir_all(&directory)?;
        clap_mangen::generate_to(cli::command(), &directory)?;
        let mut pages = std::fs::read_dir(&directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<Vec<_>>>()?;
        pages.retain(|name| name.starts_with("pgkeep") && name.ends_with(".1"));
        pages.sort_unstable();
        Ok(pages)
    };
    let pages = write().during(|| format!("write manual pages into {}", directory.display()))?;
    context.output.print(&Written { directory, pages })?;
    Ok(Outcome::Done)
}
