//! `pgkeep keys check`: whether an identity opens what the repository seals.

use std::path::PathBuf;

use pgkeep_base::{BackupId, Result};
use pgkeep_engine::keys;
use serde::Serialize;

use crate::assemble::{self, Wishes};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::{Page, View};
use crate::runtime::{self, Threads};

/// Prove that the identity opens a test object and the newest backup's key
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The identity [default: PGKEEP_IDENTITY_FILE, restore.identity_file]
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Accept signers that nothing vouches for
    #[arg(long)]
    accept_signer: bool,
}

#[derive(Serialize)]
struct Checked {
    ok: bool,
    /// False where nothing is encrypted, so that anybody's identity would do.
    encrypted: bool,
    /// It opened the repository's own test object.
    test_object: bool,
    /// The newest backup, whose key it opened.
    backup: Option<BackupId>,
}

impl View for Checked {
    fn text(&self, page: &mut Page) {
        if !self.encrypted {
            return page.line("nothing is encrypted: the repository opens without an identity");
        }
        page.line("the identity opens the repository's test object");
        match &self.backup {
            Some(id) => page.line(format!("the identity opens the newest backup, {id}")),
            None => page.line("there is no backup yet to try it on"),
        }
    }
}

/// Checks.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Outcome> {
    let wishes = Wishes {
        identity: arguments.identity.clone(),
        with_identity: true,
        accept_signer: arguments.accept_signer,
        ..Wishes::default()
    };
    let engine = assemble::engine(context, &wishes)?.engine;
    let checked = runtime::run(Threads::Two, keys::check(&engine))?;
    context.output.print(&Checked {
        ok: true,
        encrypted: !engine.sealer().recipients().is_empty(),
        test_object: checked.genesis,
        backup: checked.backup,
    })?;
    Ok(Outcome::Done)
}
