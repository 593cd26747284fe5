//! What a sealed object withstands. Aim: whoever can write to a store can make a reader accept nothing.

use pgkeep_base::ErrorKind;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::frame::{Encoded, encode};
use crate::names::alternate;
use crate::seal::SealedObject;
use crate::test_support::{Repository, name};

const CONTENTS: [&[u8]; 3] = [b"first frame", &[7; 5000], b"third frame"];

/// Three frames; the last one ends the object.
fn seal(repository: &Repository, object: &str, contents: &[&[u8]]) -> SealedObject {
    let mut builder = repository.sealer().begin(&name(object), Kind::Manifest).unwrap();
    let (last, others) = contents.split_last().unwrap();
    for content in others {
        builder.push(&encode(content, 1).unwrap()).unwrap();
    }
    let mut extra = Map::new();
    extra.insert("answer".to_owned(), json!(42));
    builder.finish(extra, Some(&encode(last, 1).unwrap())).unwrap()
}

fn kind_of_failure(repository: &Repository, object: &str, bytes: &[u8]) -> ErrorKind {
    repository
        .opener()
        .open_object(&name(object), bytes, Kind::Manifest)
        .unwrap_err()
        .kind()
}

fn read_header(repository: &Repository, bytes: &[u8]) -> Header {
    match repository.opener().header(&name("a/b"), bytes).unwrap() {
        HeaderRead::Complete(header) => *header,
        HeaderRead::NeedMore(bytes) => panic!("wants {bytes}"),
    }
}

/// The same header around another body, signed anew by the same writer: what signature and hash can't notice.
fn with_body(repository: &Repository, object: &str, bytes: &[u8], body: &[u8]) -> Vec<u8> {
    let mut header = read_header(repository, bytes).extra;
    header["body"] = json!({"bytes": body.len(), "blake3": blake3::hash(body).to_hex().as_str()});
    let header = repository.sealer().sign(&name(object), &Value::Object(header)).unwrap();
    [&MAGIC[..], &(header.len() as u32).to_le_bytes(), &header, body].concat()
}

#[test]
fn what_was_sealed_is_opened_also_under_an_alternate_name() {
    for repository in Repository::both() {
        let object = seal(&repository, "a/b", &CONTENTS);
        let bytes = object.to_bytes();
        assert_eq!(object.bytes, bytes.len() as u64);
        assert_eq!(object.blake3, blake3::hash(&bytes).to_hex().as_str());
        for read_as in [name("a/b"), alternate(&name("a/b"), 3).unwrap()] {
            let (header, contents) = repository
                .opener()
                .open_object(&read_as, &bytes, Kind::Manifest)
                .unwrap();
            assert_eq!(contents, CONTENTS);
            assert_eq!(header.extra["answer"], 42);
            assert_eq!(
                (header.signer.clone(), header.trusted),
                (repository.key.fingerprint(), true)
            );
            assert_eq!(header.created_at.to_string(), "2026-11-20T10:15:12.345Z");
            assert_eq!(header.object_bytes(), object.bytes);
            assert_eq!(header.body_start, 12 + object.header_bytes);
        }
    }
}

#[test]
fn an_address_opens_one_frame_without_the_rest() {
    for repository in Repository::both() {
        let mut builder = repository.sealer().begin(&name("packs/x"), Kind::Pack).unwrap();
        let addresses: Vec<_> = CONTENTS
            .map(|content| builder.push(&encode(content, 3).unwrap()).unwrap())
            .to_vec();
        let object = builder.finish(Map::new(), None).unwrap();
        let bytes = object.to_bytes();
        let key = match &object.key {
            Some(key) => Seal::Age { key: key.clone() },
            None => Seal::None,
        };
        let opener = repository.opener();
        let key = opener.key_for(&key).unwrap();
        for (address, content) in addresses.iter().zip(CONTENTS) {
            let start = (12 + object.header_bytes + address.offset + 4) as usize;
            let sealed = &bytes[start..start + address.bytes as usize];
            let open = |offset, last| opener.open_frame(&key, &name("packs/x"), offset, last, sealed);
            assert_eq!(open(address.offset, false).unwrap(), content);
            assert!(open(address.offset, true).is_err());
            assert!(open(address.offset + 4, false).is_err());
            assert!(
                opener
                    .open_frame(&key, &name("packs/y"), address.offset, false, sealed)
                    .is_err()
            );
        }
    }
}

#[test]
fn every_flipped_bit_is_found_with_keys_and_without() {
    for repository in Repository::both() {
        let bytes = seal(&repository, "a/b", &[b"one", b"two"]).to_bytes();
        for i in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[i] ^= 1 << (i % 8);
            assert_eq!(
                kind_of_failure(&repository, "a/b", &bad),
                ErrorKind::Corrupt,
                "byte {i}"
            );
            assert!(
                repository.opener().verify_keyless(&name("a/b"), &bad).is_err(),
                "byte {i}"
            );
        }
    }
}

/// Method: the body is changed, and a header that fits is signed by the writer, so that only the frames can notice.
#[test]
fn every_flipped_bit_of_the_body_is_found_by_the_frames_alone() {
    for repository in Repository::both() {
        let bytes = seal(&repository, "a/b", &[b"one", b"two"]).to_bytes();
        let body = bytes[read_header(&repository, &bytes).body_start as usize..].to_vec();
        assert!(with_body(&repository, "a/b", &bytes, &body).len() >= bytes.len());
        for i in 0..body.len() {
            let mut bad = body.clone();
            bad[i] ^= 1 << (i % 8);
            let bad = with_body(&repository, "a/b", &bytes, &bad);
            assert_eq!(
                kind_of_failure(&repository, "a/b", &bad),
                ErrorKind::Corrupt,
                "byte {i}"
            );
        }
    }
}

#[test]
fn an_object_cut_or_prolonged_anywhere_is_found() {
    for repository in Repository::both() {
        let bytes = seal(&repository, "a/b", &CONTENTS).to_bytes();
        for end in 0..bytes.len() {
            assert_eq!(
                kind_of_failure(&repository, "a/b", &bytes[..end]),
                ErrorKind::Corrupt,
                "cut at {end}"
            );
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(kind_of_failure(&repository, "a/b", &longer), ErrorKind::Corrupt);
    }
}

/// Method: as above, the header fits the changed body.
#[test]
fn frames_cut_off_repeated_reordered_or_spliced_are_found() {
    for repository in Repository::both() {
        let first = seal(
            &repository,
            "a/b",
            &[b"same length 1", b"same length 2", b"same length 3"],
        )
        .to_bytes();
        let second = seal(
            &repository,
            "a/b",
            &[b"same length 4", b"same length 5", b"same length 6"],
        )
        .to_bytes();
        let body = |bytes: &bytes::Bytes| bytes.slice(read_header(&repository, bytes).body_start as usize..);
        let (one, two) = (body(&first), body(&second));
        let step = one.len() / 3;
        let frame = |i: usize| &one[i * step..(i + 1) * step];
        let with_last = |frame: &[u8], last: bool| {
            let mut frame = frame.to_vec();
            frame[3] = if last { frame[3] | 0x80 } else { frame[3] & 0x7F };
            frame
        };
        let bad_bodies = [
            vec![],
            frame(0).to_vec(),
            [frame(0), frame(1)].concat(),
            [frame(0), &with_last(frame(1), true)].concat(),
            with_last(frame(0), true),
            [frame(0), frame(1), &with_last(frame(2), false)].concat(),
            [frame(1), frame(0), frame(2)].concat(),
            [frame(0), frame(2)].concat(),
            [frame(0), frame(1), frame(1), frame(2)].concat(),
            [frame(0), frame(1), frame(2), frame(2)].concat(),
            [frame(0), &with_last(frame(1), true), frame(2)].concat(),
        ];
        for (i, bad) in bad_bodies.iter().enumerate() {
            let bad = with_body(&repository, "a/b", &first, bad);
            assert_eq!(
                kind_of_failure(&repository, "a/b", &bad),
                ErrorKind::Corrupt,
                "body {i}"
            );
        }
        let good = with_body(&repository, "a/b", &first, &one);
        assert!(
            repository
                .opener()
                .open_object(&name("a/b"), &good, Kind::Manifest)
                .is_ok()
        );
        let spliced = with_body(&repository, "a/b", &first, &[&one[..step], &two[step..]].concat());
        // Without a key of its own nothing tells two objects of one name apart: that needs a lying signer.
        let opens = repository
            .opener()
            .open_object(&name("a/b"), &spliced, Kind::Manifest)
            .is_ok();
        assert_eq!(opens, repository.mode == crate::seal::SealMode::None);
    }
}

#[test]
fn an_object_under_another_name_or_of_another_kind_is_refused() {
    for repository in Repository::both() {
        let one = seal(&repository, "a/b", &CONTENTS).to_bytes();
        assert_eq!(kind_of_failure(&repository, "a/c", &one), ErrorKind::Corrupt);
        let opened = repository.opener().open_object(&name("a/b"), &one, Kind::Pack);
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::Corrupt);
        // A body moved to another name, with a header that fits: the frames are bound to their own name.
        let body = &one[read_header(&repository, &one).body_start as usize..];
        let moved = with_body(&repository, "a/c", &one, body);
        assert_eq!(kind_of_failure(&repository, "a/c", &moved), ErrorKind::Corrupt);
    }
}

#[test]
fn an_object_of_another_repository_is_refused() {
    let ours = Repository::new(true);
    let theirs = Repository {
        id: RepositoryId::random(),
        identity: ours.identity.clone(),
        key: ours.key.clone(),
        mode: ours.mode.clone(),
    };
    let object = seal(&theirs, "a/b", &CONTENTS).to_bytes();
    assert_eq!(kind_of_failure(&ours, "a/b", &object), ErrorKind::Refused);
    // Their frames under our header: bound to their repository.
    let body = &object[read_header(&theirs, &object).body_start as usize..];
    let forged = with_body(&ours, "a/b", &seal_like(&ours, &theirs, &object), body);
    assert_eq!(kind_of_failure(&ours, "a/b", &forged), ErrorKind::Corrupt);
}

/// Their header, said of our repository.
fn seal_like(ours: &Repository, theirs: &Repository, object: &[u8]) -> Vec<u8> {
    let header = read_header(theirs, object).extra;
    let header = ours.sealer().sign(&name("a/b"), &Value::Object(header)).unwrap();
    [&MAGIC[..], &(header.len() as u32).to_le_bytes(), &header].concat()
}

#[test]
fn an_unknown_signer_is_refused_and_a_missing_identity_says_so() {
    let repository = Repository::new(true);
    let bytes = seal(&repository, "a/b", &CONTENTS).to_bytes();
    let stranger = Opener::new(repository.id, vec![repository.identity.clone()], Arc::default());
    let error = stranger.open_object(&name("a/b"), &bytes, Kind::Manifest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error.message().contains(repository.key.fingerprint().as_str()),
        "{error}"
    );

    let trust = repository.opener().trust().clone();
    for identities in [vec![], vec![Identity::generate()]] {
        let keyless = Opener::new(repository.id, identities, trust.clone());
        assert!(keyless.verify_keyless(&name("a/b"), &bytes).is_ok());
        let error = keyless.open_object(&name("a/b"), &bytes, Kind::Manifest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.detail_text().unwrap().contains("no identity opens"), "{error:?}");
    }
    let any = Arc::new(Trust::default().accept_any());
    let lenient = Opener::new(repository.id, vec![repository.identity.clone()], any.clone());
    let (header, _) = lenient.open_object(&name("a/b"), &bytes, Kind::Manifest).unwrap();
    assert_eq!(
        (header.trusted, any.accepted()),
        (false, vec![repository.key.fingerprint()])
    );
}

#[test]
fn a_header_is_asked_for_by_its_exact_length() {
    let repository = Repository::new(true);
    let bytes = seal(&repository, "a/b", &CONTENTS).to_bytes();
    let opener = repository.opener();
    let end = read_header(&repository, &bytes).body_start;
    for given in 0..end {
        let wanted = match opener.header(&name("a/b"), &bytes[..given as usize]).unwrap() {
            HeaderRead::NeedMore(wanted) => wanted,
            HeaderRead::Complete(_) => panic!("complete at {given} of {end}"),
        };
        assert_eq!(wanted, if given < 12 { 12 } else { end });
    }
    let mut huge = bytes.to_vec();
    huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        opener.header(&name("a/b"), &huge[..12]).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn a_packs_object_is_never_sealed_and_two_objects_never_share_a_key() {
    let repository = Repository::new(true);
    let plain = repository.sealer().begin_plain(&name("a/b"), Kind::Packs).unwrap();
    let plain = plain.finish(Map::new(), Some(&encode(b"{}\n", 1).unwrap())).unwrap();
    let nobody = Opener::new(repository.id, Vec::new(), repository.opener().trust().clone());
    assert_eq!(
        nobody
            .open_object(&name("a/b"), &plain.to_bytes(), Kind::Packs)
            .unwrap()
            .1,
        [b"{}\n"]
    );
    assert_eq!(plain.key, None);
    let keys = [0, 1].map(|_| {
        let seal = Seal::Age {
            key: seal(&repository, "a/b", &CONTENTS).key.unwrap(),
        };
        let Seal::Age { key } = seal else { unreachable!() };
        *unwrap_key(&key, std::slice::from_ref(&repository.identity)).unwrap()
    });
    assert_ne!(keys[0], keys[1]);
}

/// The bytes of section 3, made by hand, so that a change of the format shows even where both sides change.
#[test]
fn an_unsealed_frame_is_as_the_document_says() {
    let repository = Repository::new(false);
    let mut builder = repository.sealer().begin(&name("a/b"), Kind::Pack).unwrap();
    builder.push(&encode(b"x", 1).unwrap()).unwrap();
    let bytes = builder.finish(Map::new(), None).unwrap().to_bytes();
    let body = &bytes[read_header(&repository, &bytes).body_start as usize..];
    let aad = [b"pgkeep-1\0", &repository.id.to_bytes()[..], b"a/b"].concat();
    let key = blake3::derive_key("pgkeep 1 unsealed frame", &aad);
    let tag = |nonce: [u8; 12], plaintext: &[u8]| {
        blake3::keyed_hash(&key, &[&nonce, plaintext].concat()).as_bytes()[..16].to_vec()
    };
    let (first, last) = (b"\0\0\0\0\x01\0\0\0x", b"\0\0\0\0\0\0\0\0");
    let expected = [
        &[25, 0, 0, 0][..],
        first,
        &tag([0; 12], first),
        &[24, 0, 0, 0x80],
        last,
        &tag([29, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], last),
    ];
    assert_eq!(body, expected.concat());
    assert_eq!(Encoded::empty().plaintext(), last);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, length in 0u32..200) {
        let repository = Repository::new(false);
        let opener = repository.opener();
        prop_assert!(opener.verify_keyless(&name("a/b"), &bytes).is_err());
        let framed = [&MAGIC[..], &length.to_le_bytes(), &bytes].concat();
        prop_assert!(opener.verify_keyless(&name("a/b"), &framed).is_err());
        let _ = frames(&name("a/b"), &bytes).count();
        let key = opener.key_for(&Seal::None).unwrap();
        prop_assert!(opener.open_frame(&key, &name("a/b"), 0, false, &bytes).is_err());
    }

    /// Any bytes as a body that the writer signed: frames that make no sense are found, and nothing panics.
    #[test]
    fn random_signed_bodies_never_panic(body: Vec<u8>) {
        let repository = Repository::new(false);
        let bytes = seal(&repository, "a/b", &[b"x"]).to_bytes();
        let bad = with_body(&repository, "a/b", &bytes, &body);
        prop_assert!(repository.opener().open_object(&name("a/b"), &bad, Kind::Manifest).is_err());
    }
}
