//! Collects checks as they are judged.
//!
//! Invariant: every id stands in [`super::IDS`]; a warning or failure has a fix.

use pgkeep_base::{ClusterName, Error};

use super::{Check, IDS, Status};

/// How a check ended, before it is known what it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    pub status: Status,
    pub evidence: String,
    pub fix: String,
}

impl Verdict {
    pub fn pass(evidence: impl Into<String>) -> Verdict {
        Verdict {
            status: Status::Pass,
            evidence: evidence.into(),
            fix: String::new(),
        }
    }

    pub fn skip(evidence: impl Into<String>) -> Verdict {
        Verdict {
            status: Status::Skip,
            evidence: evidence.into(),
            fix: String::new(),
        }
    }

    pub fn warn(evidence: impl Into<String>, fix: impl Into<String>) -> Verdict {
        Verdict {
            status: Status::Warn,
            evidence: evidence.into(),
            fix: fix.into(),
        }
    }

    pub fn unknown(evidence: impl Into<String>, fix: impl Into<String>) -> Verdict {
        Verdict {
            status: Status::Unknown,
            evidence: evidence.into(),
            fix: fix.into(),
        }
    }

    pub fn fail(evidence: impl Into<String>, fix: impl Into<String>) -> Verdict {
        Verdict {
            status: Status::Fail,
            evidence: evidence.into(),
            fix: fix.into(),
        }
    }

    /// Broken, in the error's own words; its hint is the fix, else `otherwise`.
    pub fn broken(error: &Error, otherwise: &str) -> Verdict {
        Verdict::fail(words(error), hint_or(error, otherwise))
    }

    /// It can't be told, in the error's own words.
    pub fn untold(error: &Error, otherwise: &str) -> Verdict {
        Verdict::unknown(words(error), hint_or(error, otherwise))
    }
}

/// The checks so far, and what the next ones are about.
#[derive(Debug, Default)]
pub struct Findings {
    pub checks: Vec<Check>,
    cluster: Option<ClusterName>,
    repository: Option<String>,
}

impl Findings {
    /// The next checks are about a cluster.
    pub fn about_cluster(&mut self, name: &ClusterName) {
        (self.cluster, self.repository) = (Some(name.clone()), None);
    }

    /// The next checks are about a place.
    pub fn about_place(&mut self, name: &str) {
        (self.cluster, self.repository) = (None, Some(name.to_owned()));
    }

    /// The next checks are about this host.
    pub fn about_host(&mut self) {
        (self.cluster, self.repository) = (None, None);
    }

    /// Adds a check of a place. Trouble with a place that isn't required is advice: success doesn't wait for it.
    pub fn put_of_place(&mut self, required: bool, id: &'static str, mut verdict: Verdict) {
        if !required && matches!(verdict.status, Status::Fail | Status::Unknown) {
            verdict.status = Status::Warn;
        }
        self.put(id, verdict);
    }

    /// Adds a check.
    pub fn put(&mut self, id: &'static str, verdict: Verdict) {
        debug_assert!(IDS.contains(&id), "{id} is not listed");
        debug_assert!(
            !matches!(verdict.status, Status::Warn | Status::Fail) || !verdict.fix.is_empty(),
            "{id} has no fix"
        );
        let Verdict { status, evidence, fix } = verdict;
        let (cluster, repository) = (self.cluster.clone(), self.repository.clone());
        self.checks.push(Check {
            id,
            cluster,
            repository,
            status,
            evidence,
            fix,
        });
    }

    /// Adds the same verdict under several ids.
    pub fn put_all(&mut self, ids: &[&'static str], verdict: &Verdict) {
        for id in ids {
            self.put(id, verdict.clone());
        }
    }
}

/// An error on one line: what happened, and why.
pub fn words(error: &Error) -> String {
    match error.detail_text() {
        Some(detail) => format!("{error}: {detail}"),
        None => error.to_string(),
    }
}

/// What the error itself advises, else `otherwise`. An advice to run the doctor is none here.
pub fn hint_or(error: &Error, otherwise: &str) -> String {
    let circular = |hint: &str| {
        hint.starts_with("Run `pgkeep doctor`")
            || hint.starts_with("`pgkeep doctor`")
            || hint.contains(": `pgkeep doctor` ")
    };
    match error.hint_text() {
        Some(hint) if !circular(hint) => hint
            .replace(", with `pgkeep doctor`", "")
            .replace(" with `pgkeep doctor`", ""),
        _ => otherwise.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_with_an_optional_place_is_advice() {
        let mut findings = Findings::default();
        for required in [true, false] {
            findings.put_of_place(required, "repository-ours", Verdict::fail("none", "make one"));
            findings.put_of_place(required, "repository-ours", Verdict::skip("none"));
        }
        let statuses: Vec<Status> = findings.checks.iter().map(|check| check.status).collect();
        assert_eq!(statuses, [Status::Fail, Status::Skip, Status::Warn, Status::Skip]);
    }

    #[test]
    fn an_advice_to_run_the_doctor_is_not_repeated_by_the_doctor() {
        let hint = |hint: &str| hint_or(&Error::io("x").hint(hint), "Look there.");
        assert_eq!(hint("`pgkeep doctor` tells more."), "Look there.");
        assert_eq!(hint("Compare the owners: `pgkeep doctor` does."), "Look there.");
        assert_eq!(hint("Check the network with `pgkeep doctor`."), "Check the network.");
        assert_eq!(hint("Make room."), "Make room.");
        assert_eq!(hint_or(&Error::io("x"), "Look there."), "Look there.");
    }
}
