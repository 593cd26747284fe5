//! `pgkeep config reference`: every key, as docs/reference/configuration.md has it.

use pgkeep_base::Result;
use serde::Serialize;

use crate::config::keys::KEYS;
use crate::config::reference;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};

/// Print the reference page of the configuration
#[derive(Debug, clap::Args)]
pub struct Arguments {}

#[derive(Serialize)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Serialize)]
struct Key {
    key: &'static str,
    takes: String,
    /// The value; `null` where there is only a description.
    default: Option<&'static str>,
    about: &'static str,
}

impl View for Keys {
    fn text(&self, page: &mut Page) {
        page.line(reference::page());
    }
}

/// Prints.
pub fn run(_: &Arguments, context: &Context) -> Result<Outcome> {
    let keys = KEYS.iter().map(|key| Key {
        key: key.path,
        takes: key.kind.describe(),
        default: key.literal_default(),
        about: key.about,
    });
    context.output.print(&Keys { keys: keys.collect() })?;
    Ok(Outcome::Done)
}
