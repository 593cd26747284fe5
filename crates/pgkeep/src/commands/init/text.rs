//! What `init` tells.

use std::path::Path;

use pgkeep_base::Result;

use super::answers::Answers;
use super::first_backup::FirstBackup;
use super::server::{ServerPlan, Setting, literal};
use super::{Report, file};
use crate::render::{Page, View};

impl Report {
    /// What will be done, as far as it is known before anything is.
    pub(super) fn planned(
        dry_run: bool,
        path: &Path,
        answers: &Answers,
        server: &ServerPlan,
        recipients: &[String],
    ) -> Result<Report> {
        let identity = path.with_file_name("identity.txt");
        let configuration_text = match recipients {
            [] => file::configuration(path, answers, &["age1…".to_owned()], &identity)?,
            recipients => file::configuration(path, answers, recipients, &identity)?,
        };
        Ok(Report {
            ok: true,
            dry_run,
            cluster: answers.cluster.clone(),
            configuration: path.to_owned(),
            configuration_text,
            identity,
            recipients: recipients.to_vec(),
            repository: None,
            repository_url: answers.store.url.clone(),
            repository_file: path.with_file_name("repository.toml"),
            signing_key: path.with_file_name("signing.key"),
            settings: server.settings.clone(),
            grants: server.grants.clone(),
            identity_proven: false,
            backup: FirstBackup::default(),
            next: Vec::new(),
        })
    }

    fn settings_text(&self, page: &mut Page) {
        let (applied, pending): (Vec<&Setting>, Vec<&Setting>) =
            self.settings.iter().partition(|setting| setting.applied);
        for (title, settings) in [
            ("PostgreSQL's settings that were set:", applied),
            ("PostgreSQL's settings to be set:", pending),
        ] {
            if settings.is_empty() {
                continue;
            }
            page.line("");
            page.line(title);
            for setting in settings {
                let needs = if setting.needs == "restart" {
                    "  -- needs a restart"
                } else {
                    ""
                };
                page.line(format!(
                    "  ALTER SYSTEM SET {} = {};{needs}",
                    setting.name,
                    literal(&setting.value)
                ));
            }
        }
    }
}

impl View for Report {
    fn text(&self, page: &mut Page) {
        page.field("configuration", self.configuration.display());
        page.field("repository", &self.repository_url);
        page.field("repository file", self.repository_file.display());
        page.field("signing key", self.signing_key.display());
        page.field("identity", self.identity.display());
        self.recipients
            .iter()
            .for_each(|recipient| page.field("recipient", recipient));
        if self.identity_proven {
            page.line("The identity has opened a test object of the repository.");
        }
        self.settings_text(page);
        if !self.grants.is_empty() {
            page.line("");
            page.line("For a role that isn't superuser, in the database that `connection` names:");
            self.grants
                .iter()
                .for_each(|statement| page.line(format!("  {statement}")));
        }
        if self.dry_run {
            page.line("");
            page.line("The configuration would be:");
            self.configuration_text
                .lines()
                .for_each(|line| page.line(format!("  {line}")));
            return;
        }
        page.line("");
        match (self.backup.id(), self.backup.missing()) {
            (Some(id), _) => page.line(format!("First backup: {id}")),
            (None, Some(why)) => page.line(format!("No backup yet: {why}.")),
            (None, None) => {}
        }
        page.line("");
        page.line("Next:");
        for (number, step) in self.next.iter().enumerate() {
            page.line(format!("  {}. {step}", number + 1));
        }
    }
}
