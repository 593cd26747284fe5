//! Keys: is everything sealed, to whom, who can open it, and do the files lie where only the right ones read them.
//!
//! Invariant: a database host needs no identity; one that lies there is advice, even where it opens everything.

use std::time::Duration;

use pgkeep_base::{Error, Result};
use pgkeep_repo::genesis::{GENESIS_BYTES_MAX, genesis_name};
use pgkeep_repo::keys::Recipient;
use pgkeep_repo::seal::{Kind, SealMode};
use pgkeep_repo::sign::Fingerprint;

use super::ask::Asked;
use super::findings::{Findings, Verdict};
use super::{Context, PrivateFile};
use crate::engine::Engine;

const PATIENCE: Duration = Duration::from_secs(20);

/// Opens the genesis with the identities at hand; `None` without any.
pub async fn ask(engine: &Engine) -> Option<Result<()>> {
    if !engine.opener().has_identity() {
        return None;
    }
    let name = genesis_name();
    let stores = engine.stores();
    let reading = pgkeep_repo::fetch::read_object(&stores, engine.opener(), &name, Kind::Genesis, GENESIS_BYTES_MAX);
    Some(match tokio::time::timeout(PATIENCE, reading).await {
        Ok(read) => read.map(|_| ()).map_err(|why| why.into_error(&name)),
        Err(_) => Err(Error::unavailable(format!(
            "no repository answered within {} s",
            PATIENCE.as_secs()
        ))),
    })
}

/// Judges keys.
pub fn check(engine: &Engine, context: &Context, opened: Option<Result<()>>, asked: &[Asked], findings: &mut Findings) {
    let setup = engine.setup();
    let mode = &setup.repository.mode;
    findings.put("encryption-mode", judge_encryption(mode));
    findings.put("recipients", judge_recipients(mode));
    findings.put("repository-file", judge_repository_file(&context.repository_file));
    findings.put("signing-key", judge_signing_key(&context.signing_key_file));
    let own = context
        .signing_key_file
        .mode
        .is_some()
        .then(|| setup.signing_key.fingerprint());
    findings.put(
        "signer-trusted",
        judge_signer(own.as_ref(), &setup.repository.signers, &setup.signers),
    );
    if context.identity_files.is_empty() {
        findings.put("identity-file", Verdict::skip("no identity file is configured"));
    }
    for file in &context.identity_files {
        findings.put("identity-file", judge_identity_file(file));
    }
    let held: Vec<Recipient> = setup.identities.iter().map(|identity| identity.recipient()).collect();
    findings.put("identity-opens", judge_opens(mode, &held, opened));
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

fn judge_recipients(mode: &SealMode) -> Verdict {
    match mode {
        SealMode::None => Verdict::skip("nothing is sealed"),
        SealMode::Age(recipients) => match recipients.len() {
            1 => Verdict::warn(
                "one recipient: if its identity is lost, so is everything",
                "pgkeep keys new second.txt; keep it offline, and add its recipient to `recipients` of the repository file and of [encryption]",
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

fn judge_signing_key(file: &PrivateFile) -> Verdict {
    let shown = file.path.display();
    match file.mode {
        None => Verdict::skip(format!("{shown} does not exist yet; it is made on first use")),
        Some(mode) if mode & 0o077 != 0 => Verdict::fail(
            format!("others can read {shown} (mode {mode:04o}): they can sign backups as this host"),
            format!("chmod 600 {shown}"),
        ),
        Some(mode) => Verdict::pass(format!("{shown}, mode {mode:04o}")),
    }
}

fn judge_signer(own: Option<&Fingerprint>, by_file: &[Fingerprint], by_configuration: &[Fingerprint]) -> Verdict {
    let Some(own) = own else {
        return Verdict::skip("this host has not signed anything yet");
    };
    if by_file.contains(own) {
        return Verdict::pass(format!("the repository file trusts {own}"));
    }
    if by_configuration.contains(own) {
        return Verdict::pass(format!(
            "this configuration trusts {own}; other hosts need it in theirs, too"
        ));
    }
    Verdict::warn(
        format!("nobody is told to trust {own}, which signs what this host writes: other hosts refuse to restore it"),
        format!("On the other hosts: `signers = [\"{own}\"]` below [encryption], or in the repository file."),
    )
}

fn judge_identity_file(file: &PrivateFile) -> Verdict {
    let shown = file.path.display();
    match file.mode {
        None => Verdict::skip(format!("{shown} is configured, and not on this host")),
        Some(mode) if mode & 0o077 != 0 => Verdict::fail(
            format!("others can read {shown} (mode {mode:04o}): it opens every backup"),
            format!("chmod 600 {shown}"),
        ),
        Some(mode) => Verdict::pass(format!("{shown}, mode {mode:04o}")),
    }
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
        assert_eq!(judge_signing_key(&file(Some(0o640))).status, Status::Fail);
        assert_eq!(judge_signing_key(&file(None)).status, Status::Skip);
        assert_eq!(judge_identity_file(&file(Some(0o644))).fix, "chmod 600 /etc/pgkeep/x");
        assert_eq!(judge_identity_file(&file(Some(0o400))).status, Status::Pass);
    }

    #[test]
    fn one_recipient_and_no_encryption_are_advice() {
        let recipient = || Identity::generate().recipient();
        assert_eq!(judge_recipients(&SealMode::Age(vec![recipient()])).status, Status::Warn);
        assert_eq!(
            judge_recipients(&SealMode::Age(vec![recipient(), recipient()])).status,
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
    fn an_identity_of_somebody_else_fails_before_anything_is_opened() {
        let (ours, other) = (Identity::generate().recipient(), Identity::generate().recipient());
        let sealed = SealMode::Age(vec![ours.clone()]);
        let status = |held: &[Recipient], opened| judge_opens(&sealed, held, opened).status;
        assert_eq!(status(&[], None), Status::Skip);
        assert_eq!(status(&[other], Some(Ok(()))), Status::Fail);
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
        assert_eq!(judge_signer(None, &[], &[]).status, Status::Skip);
        assert_eq!(
            judge_signer(Some(&own), std::slice::from_ref(&own), &[]).status,
            Status::Pass
        );
        assert_eq!(
            judge_signer(Some(&own), &[], std::slice::from_ref(&own)).status,
            Status::Pass
        );
        let unknown = judge_signer(Some(&own), &[], &[]);
        assert!(unknown.status == Status::Warn && unknown.fix.contains(&own.to_string()));
    }
}
