//! What pgkeep needs of a store, as named cases that run against any store, ours in tests and yours in production.
//!
//! Invariant: everything happens below one fresh random directory of the scratch prefix, which is empty afterwards
//! unless the store refuses to delete. A case passes only on evidence; the evidence is kept. The cases are in
//! `conformance/cases.rs`.

mod cases;

use std::future::Future;

use futures::stream::{StreamExt, TryStreamExt};
use pgkeep_base::Result;

use crate::{ObjectName, Store};

/// How much to ask of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// About 80 objects, 9 MiB in all: seconds on any store.
    Quick,
    /// Also a listing of 1,100 objects, which is more than one page of an S3 listing.
    Thorough,
}

impl Effort {
    fn listed_names(self) -> usize {
        match self {
            Effort::Quick => 30,
            Effort::Thorough => 1_100,
        }
    }
}

/// How one case ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Case {
    /// What was asked, as a short id: `create-only`, `ranged-reads` …
    pub name: &'static str,
    /// Whether the store did it.
    pub passed: bool,
    /// What was seen.
    pub evidence: String,
}

/// How all cases ended, in the order in which they ran.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The store's URL.
    pub url: String,
    /// Every case that ran.
    pub cases: Vec<Case>,
}

impl Report {
    /// Whether every case passed.
    pub fn passed(&self) -> bool {
        !self.cases.is_empty() && self.failures().next().is_none()
    }

    /// The cases that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(|case| !case.passed)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for case in &self.cases {
            let verdict = if case.passed { "pass" } else { "FAIL" };
            writeln!(f, "{verdict}  {:<20} {}", case.name, case.evidence)?;
        }
        Ok(())
    }
}

/// Runs the quick cases below `scratch_prefix`.
pub async fn check(store: &dyn Store, scratch_prefix: &str) -> Report {
    check_with(store, scratch_prefix, Effort::Quick).await
}

/// Runs the cases below `scratch_prefix`, with as much effort as asked.
pub async fn check_with(store: &dyn Store, scratch_prefix: &str, effort: Effort) -> Report {
    let mut run = Run { cases: Vec::new() };
    match crate::probe::scratch_name(scratch_prefix, "check") {
        Ok(directory) => {
            let scratch = Scratch { store, directory };
            cases::run_all(&mut run, &scratch, effort).await;
            run.case("cleans-up", scratch.clean_up()).await;
        }
        Err(error) => run.case("scratch-prefix", async { Err(told(&error)) }).await,
    }
    Report {
        url: store.url().to_owned(),
        cases: run.cases,
    }
}

/// What a case tells: evidence for or against.
type Evidence = std::result::Result<String, String>;

struct Run {
    cases: Vec<Case>,
}

impl Run {
    async fn case(&mut self, name: &'static str, test: impl Future<Output = Evidence>) {
        let outcome = test.await;
        self.cases.push(Case {
            name,
            passed: outcome.is_ok(),
            evidence: outcome.unwrap_or_else(|evidence| evidence),
        });
    }
}

/// The store and the directory in it that is ours alone.
struct Scratch<'a> {
    store: &'a dyn Store,
    directory: ObjectName,
}

impl Scratch<'_> {
    fn name(&self, rest: &str) -> ObjectName {
        ObjectName::new(format!("{}/{rest}", self.directory)).expect("short, and made of legal segments")
    }

    fn prefix(&self, rest: &str) -> String {
        format!("{}/{rest}", self.directory)
    }

    async fn listed(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectName>> {
        let listing = self.store.list(prefix, after);
        let mut names: Vec<ObjectName> = listing.map_ok(|meta| meta.name).try_collect().await?;
        names.sort_unstable();
        Ok(names)
    }

    async fn delete_all(&self, names: &[ObjectName]) -> Result<()> {
        futures::stream::iter(names)
            .map(Ok)
            .try_for_each_concurrent(self.store.requests_wanted(), |name| self.store.delete(name))
            .await
    }

    async fn clean_up(&self) -> Evidence {
        let left = self.listed(self.directory.as_str(), None).await.map_err(|e| told(&e))?;
        self.delete_all(&left).await.map_err(|e| told(&e))?;
        match self
            .listed(self.directory.as_str(), None)
            .await
            .map_err(|e| told(&e))?
            .len()
        {
            0 => Ok("nothing is left of this check".to_owned()),
            n => Err(format!("{n} deleted objects are still listed below {}", self.directory)),
        }
    }
}

/// An error in one line.
fn told(error: &pgkeep_base::Error) -> String {
    match error.detail_text() {
        Some(detail) => format!("{error}: {detail}"),
        None => error.to_string(),
    }
}
