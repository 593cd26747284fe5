//! `pgkeep keys new FILE`: a new identity, as `age-keygen` writes it.
//!
//! Invariant: the secret goes into a new file that only its owner can read, and nowhere else.

use std::path::{Path, PathBuf};

use pgkeep_base::{Result, ResultExt};
use pgkeep_repo::keys::{Recipient, new_identity_file_text};
use pgkeep_repo::secretfile;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};

/// Make an identity (mode 0600) and print its recipient
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The file to make; it must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Serialize)]
struct New {
    recipient: String,
    file: PathBuf,
}

impl View for New {
    fn text(&self, page: &mut Page) {
        page.line(&self.recipient);
    }
}

/// Makes the file and prints the recipient.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let file = context.path(&arguments.file);
    let recipient = create(&file)?;
    context.output.print(&New {
        recipient: recipient.to_string(),
        file: file.clone(),
    })?;
    context.output.note(&format!(
        "{} can decrypt every backup that is sealed to this recipient: keep it off the database host, and a copy offline",
        file.display()
    ));
    Ok(Outcome::Done)
}

/// Makes a new identity file.
///
/// # Errors
/// `Conflict` where the file exists.
pub fn create(file: &Path) -> Result<Recipient> {
    let (text, recipient) = new_identity_file_text();
    secretfile::create(file, &text)
        .or_hint(|| "Choose another name: `pgkeep keys new FILE` never touches a file that exists.")?;
    Ok(recipient)
}
