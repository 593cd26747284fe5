//! Recipients and identities: to whom an object's key is wrapped, and who unwraps it (age X25519).
//!
//! Invariant: no secret is shown by `Debug` or an error message, and none outlives its owner in memory. Only keys of
//! 32 bytes are wrapped here; content is sealed by `seal`. Identity files are those of `age-keygen`.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pgkeep_base::{Clock, Error, Result, SystemClock};
use zeroize::Zeroizing;

/// The longest wrapped key that is looked at: about 400 recipients.
const WRAPPED_BYTES_MAX: usize = 64 << 10;

/// A public key to which objects are sealed, `age1…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(age::x25519::Recipient);

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

impl FromStr for Recipient {
    type Err = Error;
    fn from_str(text: &str) -> Result<Recipient> {
        text.trim().parse().map(Recipient).map_err(|why: &'static str| {
            Error::invalid(format!("\"{}\" is not an age recipient", text.escape_debug()))
                .detail(why)
                .hint("`pgkeep keys new FILE` makes an identity and prints its recipient (age1…).")
        })
    }
}

impl serde::Serialize for Recipient {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Recipient {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Recipient, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A secret key that opens what was sealed to its recipient. Cleared from memory when dropped.
#[derive(Clone)]
pub struct Identity(age::x25519::Identity);

impl Identity {
    /// A new random identity.
    pub fn generate() -> Identity {
        Identity(age::x25519::Identity::generate())
    }

    /// The public half.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(of {})", self.recipient())
    }
}

/// The text of a new identity file, as `age-keygen` writes it, and the recipient that belongs to it.
///
/// The caller writes it with mode 0600.
pub fn new_identity_file_text() -> (Zeroizing<String>, Recipient) {
    let identity = Identity::generate();
    let recipient = identity.recipient();
    let created = SystemClock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let secret = identity.0.to_string();
    let text = format!(
        "# created: {created}\n# public key: {recipient}\n{}\n",
        secret.expose_secret()
    );
    (Zeroizing::new(text), recipient)
}

/// Reads an identity file: one secret key per line, empty lines and `#` comments aside.
///
/// # Errors
/// `Invalid` for anything else, naming the line but never its content; `Unsupported` for other kinds of age keys.
pub fn parse_identity_file(text: &str) -> Result<Vec<Identity>> {
    let lines = text.lines().map(str::trim).enumerate();
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let identities = keys
        .map(|(i, line)| parse_identity(line, i + 1))
        .collect::<Result<Vec<_>>>()?;
    if identities.is_empty() {
        return Err(Error::invalid("the identity file holds no identity")
            .hint("It should have a line AGE-SECRET-KEY-1…; `pgkeep keys new FILE` makes one."));
    }
    Ok(identities)
}

fn parse_identity(line: &str, number: usize) -> Result<Identity> {
    if line.starts_with("age-encryption.org/") || line.starts_with("-----BEGIN AGE") {
        return Err(Error::unsupported("the identity file is itself encrypted")
            .hint("Decrypt it with `age -d` into a file that only you can read, and name that with --identity."));
    }
    if line.starts_with("AGE-PLUGIN-") || line.starts_with("AGE-SECRET-KEY-PQ-") {
        return Err(Error::unsupported(format!(
            "line {number} of the identity file is a kind of age key that pgkeep does not know"
        ))
        .hint("`pgkeep keys new FILE` makes an X25519 identity (AGE-SECRET-KEY-1…)."));
    }
    line.parse().map(Identity).map_err(|why: &'static str| {
        Error::invalid(format!("line {number} of the identity file is not an age identity"))
            .detail(why)
            .hint("It should begin with AGE-SECRET-KEY-1; `pgkeep keys check` tries an identity.")
    })
}

/// Wraps a key to all of `recipients`: base64 of a binary age file.
///
/// # Errors
/// `Invalid` without recipients.
pub fn wrap_key(key: &[u8; 32], recipients: &[Recipient]) -> Result<String> {
    let recipients = recipients.iter().map(|recipient| &recipient.0 as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(recipients)
        .map_err(|source| Error::invalid("there is nobody to seal to").source(source))?;
    let mut file = Vec::with_capacity(512);
    let written = encryptor.wrap_output(&mut file).and_then(|mut writer| {
        writer.write_all(key)?;
        writer.finish().map(drop)
    });
    written.map_err(|source| Error::internal("could not wrap a key").source(source))?;
    Ok(BASE64_STANDARD.encode(file))
}

/// Unwraps what [`wrap_key`] made, with whichever of `identities` fits.
///
/// # Errors
/// `Refused` where no identity fits; `Corrupt` where this is not a wrapped key.
pub fn unwrap_key(wrapped: &str, identities: &[Identity]) -> Result<Zeroizing<[u8; 32]>> {
    let corrupt = || Error::corrupt("a wrapped key is damaged");
    if wrapped.len() > WRAPPED_BYTES_MAX {
        return Err(corrupt().detail("it is longer than 64 KiB"));
    }
    let file = BASE64_STANDARD
        .decode(wrapped)
        .map_err(|source| corrupt().source(source))?;
    let decryptor = age::Decryptor::new_buffered(&file[..]).map_err(|source| corrupt().source(source))?;
    let candidates = identities.iter().map(|identity| &identity.0 as &dyn age::Identity);
    let reader = match decryptor.decrypt(candidates) {
        Ok(reader) => reader,
        Err(age::DecryptError::NoMatchingKeys) => return Err(no_identity(identities.len())),
        Err(source) => return Err(corrupt().source(source)),
    };
    let mut key = Zeroizing::new(Vec::with_capacity(64));
    reader
        .take(33)
        .read_to_end(&mut key)
        .map_err(|source| corrupt().source(source))?;
    let key: [u8; 32] = key
        .as_slice()
        .try_into()
        .map_err(|_| corrupt().detail("it does not hold 32 bytes"))?;
    Ok(Zeroizing::new(key))
}

fn no_identity(tried: usize) -> Error {
    let message = match tried {
        0 => "no identity opens this: none was given".to_owned(),
        1 => "no identity opens this: the one given is not among its recipients".to_owned(),
        n => format!("no identity opens this: none of the {n} given is among its recipients"),
    };
    Error::refused(message).hint(
        "Name the identity file with --identity or PGKEEP_IDENTITY_FILE; `pgkeep keys list` shows the recipients.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgkeep_base::ErrorKind;

    #[test]
    fn an_identity_file_reads_back_and_opens_what_its_recipient_was_sent() {
        let (text, recipient) = new_identity_file_text();
        assert!(text.contains(&format!("# public key: {recipient}\n")), "{recipient}");
        let identities = parse_identity_file(&text).unwrap();
        assert_eq!(identities[0].recipient(), recipient);
        let other = Identity::generate();
        let wrapped = wrap_key(&[7; 32], &[other.recipient(), recipient.to_string().parse().unwrap()]).unwrap();
        assert_eq!(*unwrap_key(&wrapped, &identities).unwrap(), [7; 32]);
        assert_eq!(*unwrap_key(&wrapped, &[other]).unwrap(), [7; 32]);
    }

    #[test]
    fn a_wrong_identity_is_refused_with_the_flag_to_use() {
        let wrapped = wrap_key(&[7; 32], &[Identity::generate().recipient()]).unwrap();
        for identities in [
            vec![],
            vec![Identity::generate()],
            vec![Identity::generate(), Identity::generate()],
        ] {
            let error = unwrap_key(&wrapped, &identities).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert!(error.message().starts_with("no identity opens"), "{error}");
            assert!(error.hint_text().unwrap().contains("--identity"));
        }
    }

    #[test]
    fn damage_to_a_wrapped_key_is_corruption_and_never_a_key() {
        let identity = Identity::generate();
        let wrapped = wrap_key(&[7; 32], &[identity.recipient()]).unwrap();
        let file = BASE64_STANDARD.decode(&wrapped).unwrap();
        for i in 0..file.len() {
            let mut bad = file.clone();
            bad[i] ^= 1;
            assert!(
                unwrap_key(&BASE64_STANDARD.encode(&bad), std::slice::from_ref(&identity)).is_err(),
                "byte {i}"
            );
        }
        for bad in [
            "",
            "!",
            "AAAA",
            &wrapped[..wrapped.len() - 8],
            &"A".repeat(WRAPPED_BYTES_MAX + 4),
        ] {
            let error = unwrap_key(bad, std::slice::from_ref(&identity)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad:.20}");
        }
    }

    #[test]
    fn no_error_and_no_debug_shows_a_secret() {
        let (text, _) = new_identity_file_text();
        let secret = text.lines().last().unwrap();
        let error = parse_identity_file(&secret[..secret.len() - 1]).unwrap_err();
        assert!(!format!("{error:?}").contains(&secret[16..30]));
        assert!(!format!("{:?}", parse_identity_file(&text).unwrap()).contains(&secret[16..30]));
        assert!(parse_identity_file("# nothing\n\n").is_err());
        assert_eq!(
            parse_identity_file("AGE-PLUGIN-YUBIKEY-1XX").unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }

    #[test]
    fn only_recipients_are_recipients() {
        for text in ["", "age1", "ssh-ed25519 AAAA", "AGE-SECRET-KEY-1"] {
            assert!(text.parse::<Recipient>().is_err(), "{text}");
        }
    }
}
