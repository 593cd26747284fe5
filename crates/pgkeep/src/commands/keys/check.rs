//! `pgkeep keys check`: whether an identity opens what the repository seals.

use std::path::PathBuf;

use pgkeep_base::{BackupId, Result};
use pgkeep_engine::keys::{self, KeysChecked, Opened};
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
    /// The newest backup, if it opened that.
    backup: Option<BackupId>,
    /// Physical backups, and how many of them it opens.
    backups: usize,
    backups_opened: usize,
    /// The newest WAL segment, if it opened that.
    wal: Option<String>,
    /// What does not open, and why.
    closed: Vec<String>,
}

impl View for Checked {
    fn text(&self, page: &mut Page) {
        if !self.encrypted {
            return page.line("nothing is encrypted: the repository opens without an identity");
        }
        if self.test_object {
            page.line("the identity opens the repository's test object");
        }
        match &self.backup {
            Some(id) => page.line(format!("the identity opens the newest backup, {id}")),
            None if self.backups == 0 => page.line("there is no backup yet to try it on"),
            None => {}
        }
        if self.backups > 0 {
            page.line(format!("it opens {} of {} backups", self.backups_opened, self.backups));
        }
        if let Some(segment) = &self.wal {
            page.line(format!("it opens the newest WAL segment, {segment}"));
        }
        self.closed.iter().for_each(|closed| page.line(closed));
        if !self.ok {
            page.line(
                "What was sealed before the recipients changed opens for the identities of before, or after \
                 `pgkeep keys rotate --rewrap --identity FILE`.",
            );
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
    let ok = checked.is_ok();
    context
        .output
        .print(&shown(checked, !engine.sealer().recipients().is_empty()))?;
    Ok(if ok { Outcome::Done } else { Outcome::Impaired })
}

fn shown(checked: KeysChecked, encrypted: bool) -> Checked {
    let mut closed = Vec::new();
    let mut note = |what: String, opened: &Opened| {
        if let Err(error) = opened {
            let why = error.detail_text().unwrap_or_else(|| error.to_string());
            closed.push(format!("{what} does not open: {why}"));
        }
    };
    note("the repository's test object".to_owned(), &checked.test_object);
    if let Some((id, opened)) = &checked.newest_backup {
        note(format!("the newest backup, {id},"), opened);
    }
    if let Some((segment, opened)) = &checked.newest_wal {
        note(format!("the newest WAL segment, {segment},"), opened);
    }
    Checked {
        ok: checked.is_ok(),
        encrypted,
        test_object: checked.test_object.is_ok(),
        backup: checked
            .newest_backup
            .filter(|(_, opened)| opened.is_ok())
            .map(|(id, _)| id),
        backups: checked.backups,
        backups_opened: checked.backups_opened,
        wal: checked
            .newest_wal
            .filter(|(_, opened)| opened.is_ok())
            .map(|(segment, _)| segment.to_string()),
        closed,
    }
}
