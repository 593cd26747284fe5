//! What a signed document withstands.

use pgkeep_base::ErrorKind;
use serde_json::json;

use super::*;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn payload() -> Value {
    json!({"format": 1, "repository": RepositoryId::random().to_string(), "says": "hello", "created_at": "2026-11-20T00:00:00Z"})
}

fn kind(name: &ObjectName, document: &[u8], trust: &Trust) -> ErrorKind {
    verify_document(name, document, trust).unwrap_err().kind()
}

#[test]
fn a_document_verifies_under_its_name_and_alternates_only() {
    let key = SigningKey::generate().unwrap();
    let trust = Trust::new([key.fingerprint()]);
    let document = sign_document(&key, &name("a/b"), &payload()).unwrap();
    let verified = verify_document(&name("a/b.r2"), &document, &trust).unwrap();
    assert!(verified.trusted && verified.payload["says"] == "hello");
    assert_eq!(verified.signer, key.fingerprint());
    assert_eq!(kind(&name("a/c"), &document, &trust), ErrorKind::Corrupt);
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let key = SigningKey::generate().unwrap();
    let trust = Trust::default().accept_any();
    let document = sign_document(&key, &name("a/b"), &payload()).unwrap();
    for i in 0..document.len() {
        for bit in 0..8 {
            let mut bad = document.clone();
            bad[i] ^= 1 << bit;
            assert_eq!(
                kind(&name("a/b"), &bad, &trust),
                ErrorKind::Corrupt,
                "byte {i} bit {bit}"
            );
        }
        assert_eq!(
            kind(&name("a/b"), &document[..i], &trust),
            ErrorKind::Corrupt,
            "cut at {i}"
        );
    }
    let longer = [&document[..], b"\n"].concat();
    assert_eq!(kind(&name("a/b"), &longer, &trust), ErrorKind::Corrupt);
}

#[test]
fn an_unknown_signer_is_refused_by_name_or_remembered() {
    let key = SigningKey::generate().unwrap();
    let document = sign_document(&key, &name("a/b"), &payload()).unwrap();
    let error = verify_document(&name("a/b"), &document, &Trust::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.message().contains(key.fingerprint().as_str()));
    assert!(error.hint_text().unwrap().contains("--accept-signer"));
    let any = Trust::default().accept_any();
    assert!(!verify_document(&name("a/b"), &document, &any).unwrap().trusted);
    assert_eq!(any.accepted(), [key.fingerprint()]);
}

#[test]
fn a_withdrawn_signer_is_believed_for_what_it_wrote_before() {
    let key = SigningKey::generate().unwrap();
    let document = sign_document(&key, &name("a/b"), &payload()).unwrap();
    let mut trust = Trust::new([key.fingerprint()]);
    trust.withdraw(&key.fingerprint(), "2026-11-20T00:00:01Z".parse().unwrap());
    assert!(verify_document(&name("a/b"), &document, &trust).is_ok());
    trust.withdraw(&key.fingerprint(), "2026-11-20T00:00:00Z".parse().unwrap());
    trust.withdraw(&key.fingerprint(), "2027-11-20T00:00:00Z".parse().unwrap());
    trust.enrol(key.fingerprint());
    assert_eq!(kind(&name("a/b"), &document, &trust), ErrorKind::Refused);
}

#[test]
fn what_a_newer_program_wrote_is_refused_by_name() {
    let key = SigningKey::generate().unwrap();
    let trust = Trust::new([key.fingerprint()]);
    for (member, value, words) in [
        ("format", json!(2), "format 2"),
        ("features", json!(["sparse"]), "\"sparse\""),
    ] {
        let mut payload = payload();
        payload[member] = value;
        let document = sign_document(&key, &name("a/b"), &payload).unwrap();
        let error = verify_document(&name("a/b"), &document, &trust).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains(words), "{error}");
    }
}

#[test]
fn a_document_of_another_repository_is_refused() {
    let key = SigningKey::generate().unwrap();
    let document = sign_document(&key, &name("a/b"), &payload()).unwrap();
    let verified = verify_document(&name("a/b"), &document, &Trust::new([key.fingerprint()])).unwrap();
    assert!(verified.check_repository(verified.repository().unwrap()).is_ok());
    assert_eq!(
        verified.check_repository(RepositoryId::random()).unwrap_err().kind(),
        ErrorKind::Refused
    );
    assert!(sign_document(&key, &name("a/b"), &json!({"format": 1})).is_err());
}

#[test]
fn a_signing_key_file_reads_back_and_hides() {
    let key = SigningKey::generate().unwrap();
    let text = key.file_text();
    let again = SigningKey::parse(&text).unwrap();
    assert_eq!((again.public(), again.fingerprint()), (key.public(), key.fingerprint()));
    assert_eq!(
        key.fingerprint().as_str().parse::<Fingerprint>().unwrap(),
        key.fingerprint()
    );
    let seed = text.trim_end().rsplit(' ').next().unwrap();
    assert!(!format!("{key:?}").contains(seed));
    for bad in ["", "x", "pgkeep-signing-key-1 AAAA", &format!("{}{}", *text, *text)] {
        assert!(!format!("{:?}", SigningKey::parse(bad).unwrap_err()).contains(seed));
    }
}

proptest::proptest! {
    #[test]
    fn random_bytes_are_never_a_document(bytes: Vec<u8>) {
        proptest::prop_assert!(verify_document(&name("a/b"), &bytes, &Trust::default().accept_any()).is_err());
    }
}
