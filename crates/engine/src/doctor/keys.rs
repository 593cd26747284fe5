//! Keys: is everything sealed, to whom, who can open it, and do the files lie where only the right ones read them.
//!
//! Invariant: a database host needs no identity; one that lies there is advice, even where it opens everything.

use std::time::Duration;

use pgkeep_base::{Error, Result};
use pgkeep_repo::keys::Recipient;
use pgkeep_repo::seal::SealMode;
use pgkeep_repo::sign::{Fingerprint, TrustList};

use super::ask::Asked;
use super::findings::{Findings, Verdict};
use super::{Context, PrivateFile};
use crate::controls::{Stale, stale_recipients};
use crate::engine::Engine;

const PATIENCE: Duration = Duration::from_secs(20);

/// What the repository says of keys.
#[derive(Debug)]
pub struct Told {
    /// Whether the identities at hand open the test object; `None` without any.
    opened: Option<Result<()>>,
    /// Who is trusted.
    trusted: Result<TrustList>,
    /// Whether this host seals to others than the repository says.
    stale: Result<Option<Stale>>,
}

/// Asks the repository.
pub async fn ask(engine: &Engine) -> Told {
    let trusted = in_time(async { engine.controls().await.map(|controls| controls.vouched.clone()) }).await;
    let stale = in_time(stale_recipients(engine)).await;
    let opened = match engine.has_identity() {
        true => Some(in_time(crate::keys::opens_test_object(engine)).await),
        false => None,
    };
    Told { opened, trusted, stale }
}

async fn in_time<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    let silent = || {
        Err(Error::unavailable(format!(
            "no repository answered within {} s",
            PATIENCE.as_secs()
        )))
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.unwrap_or_else(|_| silent())
}

/// Judges keys.
pub fn check(engine: &Engine, context: &Context, told: Told, asked: &[Asked], findings: &mut Findings) {
    let setup = engine.setup();
    let mode = &setup.repository.mode;
    findings.put("encryption-mode", judge_encryption(mode));
    findings.put("recipients", judge_recipients(mode, told.stale));
    findings.put("repository-file", judge_repository_file(&context.repository_file));
    findings.put(
        "signing-key",
        judge_private(
            &context.signing_key_file,
            "does not exist yet; it is made on first use",
            "they can sign backups as this host",
        ),
    );
    let own = context
        .signing_key_file
        .mode
        .is_some()
        .then(|| setup.signing_key.fingerprint());
    findings.put(
        "signer-trusted",
        judge_signer(
            own.as_ref(),
            &setup.repository.signers,
            &setup.signers,
            told.trusted.as_ref().ok(),
        ),
    );
    if context.identity_files.is_empty() {
        findings.put("identity-file", Verdict::skip("no identity file is configured"));
    }
    for file in &context.identity_files {
        findings.put(
            "identity-file",
            judge_private(file, "is configured, and not on this host", "it opens every backup"),
        );
    }
    let held: Vec<Recipient> = setup.identities.iter().map(|identity| identity.recipient()).collect();
    findings.put("identity-opens", judge_opens(mode, &held, told.opened));
    let database_here = asked
        .iter()
        .find(|one| one.here().is_some())
        .map(|one| one.config.name.as_str());
    let present: Vec<&PrivateFile> = context
        .identity_files
        .iter()
        .filter(|file| file.mode.is_some())
        .collect();
    findings.put("identity-away", judge_away(mode, database_here, &present));
}

fn judge_encryption(mode: &SealMode) -> Verdict {
    match mode {
        SealMode::Age(_) => Verdict::pass("everything is sealed with AES-256-GCM, its keys to age recipients"),
        SealMode::None => Verdict::warn(
            "encryption is OFF (mode = \"none\"): whoever can read the repository reads the databases",
            "pgkeep keys new identity.txt; then begin a repository with `[encryption] recipients = [\"age1…\"]` in a new place: `pgkeep repository create`",
        ),
    }
}

fn judge_recipients(mode: &SealMode, stale: Result<Option<Stale>>) -> Verdict {
    // A writer that may not look can't know; `signer-trusted` and `repository-ours` say so.
    if let Ok(Some(stale)) = stale {
        return Verdict::fail(stale.to_string(), Stale::HINT);
    }
    match mode {
        SealMode::None => Verdict::skip("nothing is sealed"),
        SealMode::Age(recipients) => match recipients.len() {
            1 => Verdict::warn(
                "one recipient: if its identity is lost, so is everything",
                "pgkeep keys new second.txt; keep it offline, add its recipient to `recipients` below [encryption], then run `pgkeep keys rotate`",
            ),
            number => Verdict::pass(format!("{number} recipients")),
        },
    }
}

fn judge_repository_file(file: &PrivateFile) -> Verdict {
    let shown = file.path.display();
    match file.mode {
        None => Verdict::fail(
            format!("{shown} is not there"),
            "Copy it from another host of this configuration; whoever has an identity can make it again from `control/genesis`.",
        ),
        Some(mode) if mode & 0o027 != 0 => Verdict::warn(
            format!("{shown} is confidential (it holds the naming key), and has mode {mode:04o}"),
            format!("chmod 600 {shown}"),
        ),
        Some(mode) => Verdict::pass(format!("{shown}, mode {mode:04o}")),
    }
}

/// A file that nobody else may read: what it means where it is not there, and that others can read it.
fn judge_private(file: &PrivateFile, absent: &str, harm: &str) -> Verdict {
    let shown = file.path.display();
    match file.mode {
        None => Verdict::skip(format!("{shown} {absent}")),
        Some(mode) if mode & 0o077 != 0 => Verdict::fail(
            format!("others can read {shown} (mode {mode:04o}): {harm}"),
            format!("chmod 600 {shown}"),
        ),
        Some(mode) => Verdict::pass(format!("{shown}, mode {mode:04o}")),
    }
}

fn judge_signer(
    own: Option<&Fingerprint>,
    by_file: &[Fingerprint],
    by_configuration: &[Fingerprint],
    trusted: Option<&TrustList>,
) -> Verdict {
    let Some(own) = own else {
        return Verdict::skip("this host has not signed anything yet");
    };
    if let Some(from) = trusted.and_then(|list| list.withdrawn.get(own)) {
        return Verdict::fail(
            format!("{own}, which signs what this host writes, was withdrawn from {from} on: nobody restores it"),
            "Move `signing.key` away, so that this host makes a new key, and enrol that one elsewhere: `pgkeep keys trust`.",
        );
    }
    if by_file.contains(own) {
        return Verdict::pass(format!("the repository file trusts {own}"));
    }
    if by_configuration.contains(own) {
        return Verdict::pass(format!(
            "this configuration trusts {own}; other hosts need it in theirs, too"
        ));
    }
    if trusted.is_some_and(|list| list.signers.contains(own)) {
        return Verdict::pass(format!("a control object of the repository enrols {own}"));
    }
    Verdict::warn(
        format!("nobody is told to trust {own}, which signs what this host writes: other hosts refuse to restore it"),
        format!("On a host that is trusted: `pgkeep keys trust {own}`."),
    )
}

fn judge_opens(mode: &SealMode, held: &[Recipient], opened: Option<Result<()>>) -> Verdict {
    let SealMode::Age(recipients) = mode else {
        return Verdict::skip("nothing is sealed");
    };
    let Some(opened) = opened.filter(|_| !held.is_empty()) else {
        return Verdict::skip("there is no identity at hand; where there is one, `pgkeep keys check` proves it");
    };
    if !held.iter().any(|recipient| recipients.contains(recipient)) {
        let held = held.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if let Ok(()) = opened {
            return Verdict::warn(
                format!("the identity is that of {held}: it opens what was sealed before the recipients changed"),
                "Name the identity of a recipient of now, too; `pgkeep keys list` shows them.",
            );
        }
        return Verdict::fail(
            format!(
                "the identity is that of {held}, and nothing is sealed to it: `pgkeep keys list` shows the recipients"
            ),
            "Name the right file with `--identity FILE` or `[restore] identity_file`.",
        );
    }
    match opened {
        Ok(()) => Verdict::pass("the identity opens the repository's test object"),
        Err(error)
            if matches!(
                error.kind(),
                pgkeep_base::ErrorKind::Unavailable | pgkeep_base::ErrorKind::Denied | pgkeep_base::ErrorKind::NotFound
            ) =>
        {
            Verdict::untold(&error, "See `repository-reachable`.")
        }
        Err(error) => Verdict::broken(
            &error,
            "Name the right file with `--identity FILE`; `pgkeep keys check` tells more.",
        ),
    }
}

fn judge_away(mode: &SealMode, database_here: Option<&str>, present: &[&PrivateFile]) -> Verdict {
    if *mode == SealMode::None {
        return Verdict::skip("nothing is sealed");
    }
    let Some(cluster) = database_here else {
        return Verdict::skip("no configured cluster runs on this host");
    };
    let Some(file) = present.first() else {
        return Verdict::pass("no identity lies on this database host");
    };
    let shown = file.path.display();
    Verdict::warn(
        format!("{shown} lies on the host of cluster \"{cluster}\": who takes the host can read every backup"),
        format!(
            "Copy it to the recovery host and to a place offline, prove it there with `pgkeep keys check --identity FILE`, then `shred -u {shown}` here."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use pgkeep_repo::keys::Identity;
    use pgkeep_repo::sign::SigningKey;

    fn file(mode: Option<u32>) -> PrivateFile {
        PrivateFile {
            path: "/etc/pgkeep/x".into(),
            mode,
        }
    }

    #[test]
    fn files_that_others_can_read_are_told_by_how_bad_that_is() {
        assert_eq!(judge_repository_file(&file(Some(0o640))).status, Status::Pass);
        assert_eq!(judge_repository_file(&file(Some(0o644))).status, Status::Warn);
        assert_eq!(judge_repository_file(&file(None)).status, Status::Fail);
        let private = |mode| judge_private(&file(mode), "is not there", "it opens every backup");
        assert_eq!(private(Some(0o640)).status, Status::Fail);
        assert_eq!(private(None).status, Status::Skip);
        assert_eq!(private(Some(0o644)).fix, "chmod 600 /etc/pgkeep/x");
        assert_eq!(private(Some(0o400)).status, Status::Pass);
    }

    #[test]
    fn one_recipient_and_no_encryption_are_advice() {
        let recipient = || Identity::generate().recipient();
        assert_eq!(
            judge_recipients(&SealMode::Age(vec![recipient()]), Ok(None)).status,
            Status::Warn
        );
        assert_eq!(
            judge_recipients(&SealMode::Age(vec![recipient(), recipient()]), Ok(None)).status,
            Status::Pass
        );
        assert_eq!(judge_encryption(&SealMode::None).status, Status::Warn);
    }

    #[test]
    fn an_identity_belongs_on_the_recovery_host() {
        let sealed = SealMode::Age(vec![Identity::generate().recipient()]);
        let present = file(Some(0o600));
        assert_eq!(judge_away(&sealed, Some("shop"), &[&present]).status, Status::Warn);
        assert_eq!(judge_away(&sealed, Some("shop"), &[]).status, Status::Pass);
        assert_eq!(judge_away(&sealed, None, &[&present]).status, Status::Skip);
        assert_eq!(
            judge_away(&SealMode::None, Some("shop"), &[&present]).status,
            Status::Skip
        );
    }

    #[test]
    fn an_identity_of_somebody_else_fails_and_one_of_before_is_told() {
        let (ours, other) = (Identity::generate().recipient(), Identity::generate().recipient());
        let sealed = SealMode::Age(vec![ours.clone()]);
        let status = |held: &[Recipient], opened| judge_opens(&sealed, held, opened).status;
        assert_eq!(status(&[], None), Status::Skip);
        assert_eq!(
            status(
                std::slice::from_ref(&other),
                Some(Err(Error::refused("no identity fits")))
            ),
            Status::Fail
        );
        assert_eq!(status(&[other], Some(Ok(()))), Status::Warn, "of a recipient of before");
        assert_eq!(status(std::slice::from_ref(&ours), Some(Ok(()))), Status::Pass);
        assert_eq!(
            status(
                std::slice::from_ref(&ours),
                Some(Err(Error::refused("no identity fits")))
            ),
            Status::Fail
        );
        assert_eq!(
            status(&[ours], Some(Err(Error::unavailable("silent")))),
            Status::Unknown
        );
    }

    #[test]
    fn a_signer_that_nobody_is_told_to_trust_is_named() {
        let own = SigningKey::generate().unwrap().fingerprint();
        let status = |own: Option<&Fingerprint>, file: &[Fingerprint], configured: &[Fingerprint]| {
            judge_signer(own, file, configured, None).status
        };
        assert_eq!(status(None, &[], &[]), Status::Skip);
        assert_eq!(status(Some(&own), std::slice::from_ref(&own), &[]), Status::Pass);
        assert_eq!(status(Some(&own), &[], std::slice::from_ref(&own)), Status::Pass);
        let mut list = TrustList::default();
        list.signers.insert(own.clone());
        let enrolled = |list: &TrustList| judge_signer(Some(&own), &[], &[], Some(list)).status;
        assert_eq!(enrolled(&list), Status::Pass);
        list.withdrawn
            .insert(own.clone(), "2026-11-20T12:00:00Z".parse().unwrap());
        assert_eq!(enrolled(&list), Status::Fail);
        let unknown = judge_signer(Some(&own), &[], &[], None);
        assert!(unknown.status == Status::Warn && unknown.fix.contains(&own.to_string()));
    }
}
