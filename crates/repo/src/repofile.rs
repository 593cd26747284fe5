//! The repository file: what every host of a configuration must know of its repository (docs/roles.md).
//!
//! Invariant: a file that parses says everything, and says it in one way; unknown keys are refused, because a word that
//! is misspelt in it could seal to the wrong people. It is confidential (it holds the naming key) but opens nothing.
//! A lost one is made again by `genesis`.

use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Span, SpanTotal, Timestamp, Unit};
use pgkeep_base::{Clock, Error, RepositoryId, Result, ResultExt};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::keys::{Identity, Recipient};
use crate::open::Opener;
use crate::seal::{SealMode, Sealer};
use crate::secretfile;
use crate::sign::{Fingerprint, SigningKey, Trust, fill_random};
use crate::wal::WalNaming;

const FORMAT: u64 = 1;
/// The reuse horizon of a repository that was not given one.
pub const REUSE_HORIZON: SignedDuration = SignedDuration::from_hours(10 * 24);
/// Shorter, and an interrupted backup could not be resumed; longer, and nothing is ever swept.
const REUSE_HORIZON_RANGE: std::ops::RangeInclusive<i64> = 3600..=366 * 86_400;

const COMMENT: &str = "\
# pgkeep repository file: the same on every host that writes to or reads this repository.
# Confidential: keep it readable by its owner only. It opens nothing; whoever has an identity can make it again.
";

/// What the repository file says.
#[derive(Clone, Debug)]
pub struct RepositoryFile {
    /// The repository's id.
    pub id: RepositoryId,
    /// The key that names WAL objects.
    pub naming_key: NamingKey,
    /// How long after a backup finished the next one may reuse its packs.
    pub reuse_horizon: SignedDuration,
    /// To whom everything is sealed, or that it is not.
    pub mode: SealMode,
    /// Trusted signers.
    pub signers: Vec<Fingerprint>,
    /// Signers that this installation has withdrawn: they have no say in who else is trusted.
    pub withdrawn: Vec<Withdrawn>,
}

/// A signer that is no longer believed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawn {
    /// Who.
    pub signer: Fingerprint,
    /// From when on: its documents that bear this time or a later one, or none.
    pub from: Timestamp,
}

/// 32 secret bytes. Cleared from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct NamingKey(pub(crate) Zeroizing<[u8; 32]>);

impl NamingKey {
    /// A new random key.
    pub fn generate() -> Result<NamingKey> {
        let mut key = Zeroizing::new([0; 32]);
        fill_random(key.as_mut_slice())?;
        Ok(NamingKey(key))
    }

    /// Reads 64 lower-case hexadecimal digits.
    pub(crate) fn from_hex(digits: &str) -> Option<NamingKey> {
        let lower = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let hash = lower.then(|| blake3::Hash::from_hex(digits).ok()).flatten()?;
        Some(NamingKey(Zeroizing::new(*hash.as_bytes())))
    }

    pub(crate) fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(blake3::Hash::from_bytes(*self.0).to_hex().to_string())
    }
}

impl std::fmt::Debug for NamingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NamingKey")
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u64,
    id: RepositoryId,
    naming_key: Zeroizing<String>,
    reuse_horizon: String,
    encryption: Encryption,
    #[serde(default)]
    recipients: Vec<Recipient>,
    #[serde(default)]
    signers: Vec<Fingerprint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    withdrawn: Vec<Withdrawn>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Encryption {
    Age,
    None,
}

impl RepositoryFile {
    /// A new repository, with a new id and naming key, that trusts `signers`.
    pub fn new(mode: SealMode, signers: Vec<Fingerprint>) -> Result<RepositoryFile> {
        let id = RepositoryId::random();
        let naming_key = NamingKey::generate()?;
        Ok(RepositoryFile {
            id,
            naming_key,
            reuse_horizon: REUSE_HORIZON,
            mode,
            signers,
            withdrawn: Vec::new(),
        })
    }

    /// Reads the text of a repository file.
    ///
    /// # Errors
    /// `Invalid`; `Unsupported` for a newer format.
    pub fn parse(text: &str) -> Result<RepositoryFile> {
        let invalid = || Error::invalid("this is not a repository file");
        let newer = |format| {
            Error::unsupported(format!("the repository file is of format {format}"))
                .hint("Use a newer pgkeep; `pgkeep --version` tells which this is.")
        };
        // Before anything else, because a newer format may have other keys.
        let table: toml::Table = text.parse().map_err(|source| redacted(invalid(), &source))?;
        if let Some(format) = table
            .get("format")
            .and_then(toml::Value::as_integer)
            .filter(|n| *n as u64 > FORMAT)
        {
            return Err(newer(format));
        }
        let text: Text = table.try_into().map_err(|source| redacted(invalid(), &source))?;
        if text.format != FORMAT {
            return Err(invalid().detail(format!("there is no format {}", text.format)));
        }
        let naming_key = NamingKey::from_hex(&text.naming_key)
            .ok_or_else(|| invalid().detail("naming_key is not 64 lower-case hexadecimal digits"))?;
        let mode = match (text.encryption, text.recipients) {
            (Encryption::None, recipients) if recipients.is_empty() => SealMode::None,
            (Encryption::Age, recipients) if !recipients.is_empty() => SealMode::Age(recipients),
            (Encryption::None, _) => return Err(invalid().detail("encryption is \"none\", yet it names recipients")),
            (Encryption::Age, _) => return Err(invalid().detail("it names no recipient")),
        };
        let reuse_horizon = parse_horizon(&text.reuse_horizon)?;
        Ok(RepositoryFile {
            id: text.id,
            naming_key,
            reuse_horizon,
            mode,
            signers: text.signers,
            withdrawn: text.withdrawn,
        })
    }

    /// The text of the file, secret as it is.
    pub fn to_text(&self) -> Result<Zeroizing<String>> {
        let (encryption, recipients) = match &self.mode {
            SealMode::Age(recipients) => (Encryption::Age, recipients.clone()),
            SealMode::None => (Encryption::None, Vec::new()),
        };
        let text = Text {
            format: FORMAT,
            id: self.id,
            naming_key: self.naming_key.to_hex(),
            reuse_horizon: show_horizon(self.reuse_horizon),
            encryption,
            recipients,
            signers: self.signers.clone(),
            withdrawn: self.withdrawn.clone(),
        };
        let text = toml::to_string_pretty(&text).map(Zeroizing::new);
        let text = text.map_err(|source| Error::internal("could not write a repository file").source(source))?;
        Ok(Zeroizing::new(format!("{COMMENT}{}", text.as_str())))
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// `NotFound`, `Io`, and those of [`RepositoryFile::parse`].
    pub fn load(path: &Path) -> Result<RepositoryFile> {
        let text = secretfile::read(path).or_hint(|| {
            "Copy it from another host of this configuration; if it is lost, whoever has an identity makes it again with \
             `pgkeep repository create --recover --identity FILE`."
        })?;
        RepositoryFile::parse(&text).during(|| format!("read {}", path.display()))
    }

    /// Changes the file at `path`, in one step: who reads it sees all of the change or nothing. It keeps its owner and
    /// mode, and is left alone where `change` says that there is nothing to change, which is what this returns.
    ///
    /// # Errors
    /// Those of [`RepositoryFile::load`]; `Conflict` where somebody else changed the file meanwhile; `Io`.
    pub fn update(path: &Path, change: impl FnOnce(&mut RepositoryFile) -> bool) -> Result<bool> {
        let before = secretfile::read(path)?;
        let mut file = RepositoryFile::parse(&before).during(|| format!("read {}", path.display()))?;
        let (id, naming_key) = (file.id, file.naming_key.clone());
        if !change(&mut file) {
            return Ok(false);
        }
        assert!(
            file.id == id && file.naming_key == naming_key,
            "these two are never changed"
        );
        let text = file.to_text()?;
        RepositoryFile::parse(&text).during(|| "check the repository file before it is written")?;
        secretfile::replace(path, &before, &text)?;
        Ok(true)
    }

    /// Trusts a signer, also one that was withdrawn here; true if that changes anything.
    pub fn trust_signer(&mut self, signer: Fingerprint) -> bool {
        let before = (self.signers.len(), self.withdrawn.len());
        self.withdrawn.retain(|withdrawn| withdrawn.signer != signer);
        if !self.signers.contains(&signer) {
            self.signers.push(signer);
        }
        before != (self.signers.len(), self.withdrawn.len())
    }

    /// Withdraws a signer for what bears this time or a later one; true if that changes anything.
    pub fn withdraw_signer(&mut self, signer: Fingerprint, from: Timestamp) -> bool {
        match self.withdrawn.iter_mut().find(|withdrawn| withdrawn.signer == signer) {
            Some(known) if known.from <= from => false,
            Some(known) => {
                known.from = from;
                true
            }
            None => {
                self.withdrawn.push(Withdrawn { signer, from });
                true
            }
        }
    }

    /// Writes a new file with mode 0600; never replaces one.
    ///
    /// # Errors
    /// `Conflict` where the file exists; `Io`.
    pub fn create(&self, path: &Path) -> Result<()> {
        secretfile::create(path, &self.to_text()?)
    }

    /// What names WAL objects.
    pub fn naming(&self) -> WalNaming {
        WalNaming::new(*self.naming_key.0)
    }

    /// Trusts the file's signers and `more`, such as those of the configuration, but for those that it withdraws.
    pub fn trust(&self, more: impl IntoIterator<Item = Fingerprint>) -> Trust {
        let mut trust = Trust::new(self.signers.iter().cloned().chain(more));
        for withdrawn in &self.withdrawn {
            trust.withdraw(&withdrawn.signer, withdrawn.from);
        }
        trust
    }

    /// Writes to this repository as the host that has `key`.
    pub fn sealer(&self, key: Arc<SigningKey>, clock: Arc<dyn Clock>) -> Result<Sealer> {
        Sealer::new(self.id, self.mode.clone(), key, clock)
    }

    /// Reads from this repository.
    pub fn opener(&self, identities: Vec<Identity>, trust: Arc<Trust>) -> Opener {
        Opener::new(self.id, identities, trust)
    }
}

/// TOML errors quote the line, which may hold the naming key: only what is wrong is passed on.
fn redacted(error: Error, source: &toml::de::Error) -> Error {
    error.detail(source.message().to_owned())
}

/// Reads `10 days`, `36h`, `2 weeks`. Days have 24 hours.
pub fn parse_horizon(text: &str) -> Result<SignedDuration> {
    let bad = || {
        Error::invalid(format!(
            "reuse_horizon \"{}\" is not a length of time",
            text.escape_debug()
        ))
        .hint("Write for example `10 days`: between one hour and 366 days.")
    };
    let span: Span = text.parse().map_err(|source| bad().source(source))?;
    let seconds = span
        .total(SpanTotal::from(Unit::Second).days_are_24_hours())
        .map_err(|source| bad().source(source))?;
    let whole = seconds as i64;
    if whole as f64 == seconds && REUSE_HORIZON_RANGE.contains(&whole) {
        return Ok(SignedDuration::from_secs(whole));
    }
    Err(bad())
}

fn show_horizon(horizon: SignedDuration) -> String {
    let seconds = horizon.as_secs();
    match () {
        () if seconds % 86_400 == 0 => format!("{} days", seconds / 86_400),
        () if seconds % 3600 == 0 => format!("{} hours", seconds / 3600),
        () => format!("{seconds} seconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgkeep_base::ErrorKind;

    fn file() -> RepositoryFile {
        let recipients = vec![Identity::generate().recipient(), Identity::generate().recipient()];
        let signer = SigningKey::generate().unwrap().fingerprint();
        RepositoryFile::new(SealMode::Age(recipients), vec![signer]).unwrap()
    }

    #[test]
    fn a_repository_file_reads_back() {
        for mode in [file().mode, SealMode::None] {
            let file = RepositoryFile { mode, ..file() };
            let again = RepositoryFile::parse(&file.to_text().unwrap()).unwrap();
            assert_eq!(
                (again.id, &again.mode, &again.signers),
                (file.id, &file.mode, &file.signers)
            );
            assert!(again.naming_key == file.naming_key && again.reuse_horizon == REUSE_HORIZON);
        }
    }

    #[test]
    fn a_change_keeps_everything_else_and_the_files_mode() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("repository.toml");
        let before = file();
        before.create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let link = directory.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let new = SigningKey::generate().unwrap().fingerprint();
        let from: Timestamp = "2026-11-20T12:00:00.5Z".parse().unwrap();
        let change = |file: &mut RepositoryFile| {
            file.trust_signer(new.clone()) | file.withdraw_signer(before.signers[0].clone(), from)
        };
        assert!(RepositoryFile::update(&link, change).unwrap());
        let after = RepositoryFile::load(&path).unwrap();
        assert_eq!(after.signers, [before.signers[0].clone(), new.clone()]);
        assert_eq!((after.withdrawn[0].from, after.withdrawn.len()), (from, 1));
        assert!(after.id == before.id && after.naming_key == before.naming_key && after.mode == before.mode);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(link.is_symlink(), "a link stays one");
        assert!(
            !RepositoryFile::update(&path, change).unwrap(),
            "nothing is left to change"
        );
        let trust = after.trust([]);
        assert!(trust.trusts(&new, None) && !trust.trusts(&before.signers[0], Some(from)));
        assert!(RepositoryFile::update(&path, |file| file.trust_signer(before.signers[0].clone())).unwrap());
        assert!(RepositoryFile::load(&path).unwrap().withdrawn.is_empty());
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            2,
            "no temporary file is left"
        );
    }

    #[test]
    fn horizons_read_as_people_write_them() {
        for (text, hours) in [
            ("10 days", 240),
            ("36h", 36),
            ("2 weeks", 336),
            ("1 hour", 1),
            ("90 minutes", 0),
        ] {
            let horizon = parse_horizon(text).unwrap();
            assert!(hours == 0 || horizon == SignedDuration::from_hours(hours), "{text}");
            assert_eq!(parse_horizon(&show_horizon(horizon)).unwrap(), horizon, "{text}");
        }
        for text in [
            "",
            "ten",
            "0 days",
            "59 minutes",
            "-10 days",
            "367 days",
            "1 month",
            "1.5 ms",
        ] {
            assert_eq!(parse_horizon(text).unwrap_err().kind(), ErrorKind::Invalid, "{text}");
        }
    }

    #[test]
    fn an_odd_repository_file_is_refused_without_showing_its_key() {
        let good = file().to_text().unwrap();
        let key = good.split("naming_key = \"").nth(1).unwrap()[..64].to_owned();
        for (from, to) in [
            ("format = 1", "format = 0"),
            ("id = \"", "id = \"x"),
            ("naming_key", "nameing_key"),
            ("naming_key = \"", "naming_key = \"z"),
            ("encryption = \"age\"", "encryption = \"none\""),
            ("encryption = \"age\"", "encryption = \"rot13\""),
            ("recipients = [", "recipients = []\nsigners = ["),
            ("signers = [", "signer = ["),
            ("age1", "age2"),
            ("s-", "t-"),
            ("10 days", "soon"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, *good, "{from}");
            let error = RepositoryFile::parse(&bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{from} -> {to}");
            assert!(!format!("{error:?}").contains(&key), "{from} -> {to}");
        }
        let newer = good.replacen("format = 1", "format = 2\nshape = \"round\"", 1);
        assert_eq!(
            RepositoryFile::parse(&newer).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }

    proptest::proptest! {
        #[test]
        fn random_text_never_panics(text: String) {
            proptest::prop_assert!(RepositoryFile::parse(&text).is_err());
            let _ = parse_horizon(&text);
        }
    }
}
