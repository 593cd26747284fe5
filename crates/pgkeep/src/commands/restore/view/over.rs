//! A restore over an existing cluster as it is shown: what is kept, fetched, removed, and which WAL is saved where.

use std::path::PathBuf;

use pgkeep_base::ByteSize;
use pgkeep_engine::restore::OWN_DIRECTORY;
use pgkeep_engine::restore::over::{Compared, FOREIGN_NAMED_MAX, Found};
use pgkeep_engine::restore::plan::RestorePlan;
use pgkeep_engine::wal::local::SAVED_DIRECTORY;
use serde::Serialize;

use crate::render::Page;
use crate::times;

/// Foreign files that are shown as text; JSON has more.
const FOREIGN_SHOWN_MAX: usize = 50;

/// What is restored over.
#[derive(Serialize)]
pub struct Over {
    /// It is what an unfinished restore left.
    unfinished: bool,
    /// Where `pg_wal` leads, if it is a link.
    wal_elsewhere: Option<PathBuf>,
    /// Places of tablespaces that the backup doesn't have: they are emptied.
    dropped_tablespaces: Vec<PathBuf>,
    #[serde(flatten)]
    found: Found,
    /// By content; only with `--dry-run`.
    compared: Option<Compared>,
}

/// WAL that is saved.
#[derive(Serialize)]
pub struct SavedView {
    directory: PathBuf,
    files: Vec<SavedFile>,
    not_used: Vec<NotUsed>,
}

#[derive(Serialize)]
struct SavedFile {
    name: String,
    from: PathBuf,
    bytes: u64,
    /// Recovery will replay it.
    used: bool,
}

#[derive(Serialize)]
struct NotUsed {
    segment: String,
    commits: u64,
    last_commit_at: Option<String>,
    reason: String,
}

impl Over {
    /// Of a plan with `--delta`.
    pub fn of(plan: &RestorePlan, compared: Option<Compared>) -> Option<Over> {
        let (existing, found) = plan.over.as_ref()?;
        Some(Over {
            unfinished: existing.unfinished,
            wal_elsewhere: existing.wal_elsewhere.clone(),
            dropped_tablespaces: plan
                .layout
                .dropped
                .iter()
                .map(|(_, location)| location.clone())
                .collect(),
            found: found.clone(),
            compared,
        })
    }

    /// As text.
    pub fn text(&self, page: &mut Page) {
        let what = if self.unfinished {
            "an unfinished restore"
        } else {
            "the cluster"
        };
        page.field(
            "over",
            format!(
                "{what} that is there: {} files, {}",
                self.found.files,
                ByteSize(self.found.bytes)
            ),
        );
        if let Some(compared) = &self.compared {
            page.field("kept", ByteSize(compared.kept_bytes));
            page.field(
                "fetched",
                format!(
                    "{}, for {} that differ or are missing",
                    ByteSize(compared.fetched_bytes),
                    ByteSize(compared.differing_bytes)
                ),
            );
        }
        self.removed_text(page);
        if let Some(path) = &self.wal_elsewhere {
            page.field(
                "pg_wal",
                format!("stays a link to {}, which is emptied of WAL", path.display()),
            );
        }
        for path in &self.dropped_tablespaces {
            page.field(
                "tablespace",
                format!("{} is not in the backup, and is emptied", path.display()),
            );
        }
    }

    fn removed_text(&self, page: &mut Page) {
        let (files, foreign) = (self.found.surplus_files, self.found.foreign_files);
        page.field(
            "removed",
            format!("{files} files, {foreign} of them not PostgreSQL's own"),
        );
        for path in self.found.foreign.iter().take(FOREIGN_SHOWN_MAX) {
            page.field("", path);
        }
        if foreign > FOREIGN_SHOWN_MAX as u64 {
            page.field(
                "",
                format!(
                    "and {} more; --json names {FOREIGN_NAMED_MAX}",
                    foreign - FOREIGN_SHOWN_MAX as u64
                ),
            );
        }
    }
}

impl SavedView {
    /// Of a plan; `None` where nothing is restored over, and nothing was saved.
    pub fn of(plan: &RestorePlan) -> Option<SavedView> {
        let saved = &plan.saved;
        let shown = plan.over.is_some() || !saved.files.is_empty() || !saved.set_aside.is_empty();
        shown.then(|| SavedView {
            directory: plan.layout.target.join(OWN_DIRECTORY).join(SAVED_DIRECTORY),
            files: saved
                .files
                .iter()
                .map(|file| SavedFile {
                    name: file.name.clone(),
                    from: file.from.clone(),
                    bytes: file.bytes,
                    used: plan.replays(file),
                })
                .collect(),
            not_used: saved
                .set_aside
                .iter()
                .map(|aside| NotUsed {
                    segment: aside.segment.name(),
                    commits: aside.commits,
                    last_commit_at: aside.last_commit.map(times::utc),
                    reason: aside.why.clone(),
                })
                .collect(),
        })
    }

    /// As text.
    pub fn text(&self, page: &mut Page, dry_run: bool) {
        if self.files.is_empty() {
            page.field("WAL", "nothing to save: the archive has all that the directory has");
            return;
        }
        let verb = if dry_run { "will be saved first" } else { "saved" };
        let used = self.files.iter().filter(|file| file.used).count();
        page.field(
            "WAL",
            format!(
                "{} files that the archive lacks: {verb} in {}; {used} of them count for the target",
                self.files.len(),
                self.directory.display()
            ),
        );
    }
}
