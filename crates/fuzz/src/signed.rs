//! A repository that trusts the one who makes the inputs: what a target is given is signed, so that the fuzzer gets
//! behind the signature, as a thief of a writer's key would.

use std::sync::{Arc, LazyLock};

use pgkeep_base::{RepositoryId, SystemClock};
use pgkeep_repo::open::Opener;
use pgkeep_repo::seal::{SealMode, Sealer};
use pgkeep_repo::sign::{SigningKey, Trust};
use pgkeep_store::ObjectName;
use serde_json::{Map, Value, json};

/// Always the same, so that a document that was kept is still signed by whom it says.
const KEY: &str = "pgkeep-signing-key-1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const REPOSITORY: &str = "0f0e0d0c0b0a09080706050403020100";

static OURS: LazyLock<(Sealer, Opener, Arc<Trust>)> = LazyLock::new(|| {
    let key = Arc::new(SigningKey::parse(KEY).expect("a signing key"));
    let repository: RepositoryId = REPOSITORY.parse().expect("a repository id");
    let trust = Arc::new(Trust::new([key.fingerprint()]));
    let opener = Opener::new(repository, Vec::new(), Arc::clone(&trust));
    let sealer = Sealer::new(repository, SealMode::None, key, Arc::new(SystemClock)).expect("nothing is sealed");
    (sealer, opener, trust)
});

/// Signs, and does not seal.
pub fn sealer() -> &'static Sealer {
    &OURS.0
}

/// Trusts what [`sealer`] signs.
pub fn opener() -> &'static Opener {
    &OURS.1
}

/// Whom it trusts.
pub fn trust() -> &'static Arc<Trust> {
    &OURS.2
}

pub fn name(text: &str) -> ObjectName {
    ObjectName::new(text).expect("a legal name")
}

/// The JSON object that is meant by an input, if it is one.
pub fn members(input: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(input).ok()
}

/// A document that says what the input says, signed under a name.
pub fn document(name: &ObjectName, members: &Map<String, Value>) -> Vec<u8> {
    sealer().sign(name, members).expect("an object can be signed").to_vec()
}

/// An object of mode `none` with this body, and with these members of the input in its header.
pub fn object(name: &ObjectName, kind: &str, mut members: Map<String, Value>, body: &[u8]) -> Vec<u8> {
    members.insert("kind".to_owned(), kind.into());
    members.insert("created_at".to_owned(), "2026-11-20T10:15:12Z".into());
    let mode = json!({ "mode": "none" });
    members.entry("seal").or_insert(mode);
    let hash = blake3::hash(body).to_hex();
    members.insert(
        "body".to_owned(),
        json!({ "bytes": body.len(), "blake3": hash.as_str() }),
    );
    let header = document(name, &members);
    let length = (header.len() as u32).to_le_bytes();
    [b"PGKEEP1\n", &length[..], &header, body].concat()
}
