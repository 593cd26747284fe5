//! What a head says, and which heads are refused.

use std::sync::Arc;

use pgkeep_base::{ErrorKind, RepositoryId, SystemClock};
use serde_json::{Value, json};

use super::*;
use crate::seal::SealMode;
use crate::sign::{SigningKey, Trust, sign_document};

fn repository() -> (Sealer, Opener, Arc<SigningKey>) {
    let key = Arc::new(SigningKey::generate().unwrap());
    let id = RepositoryId::random();
    let trust = Arc::new(Trust::new([key.fingerprint()]));
    let sealer = Sealer::new(id, SealMode::None, key.clone(), Arc::new(SystemClock)).unwrap();
    (sealer, Opener::new(id, vec![], trust), key)
}

pub(crate) fn physical_head() -> Head {
    let hash = ObjectHash {
        bytes: 5,
        blake3: Digest::of(b"x"),
    };
    Head {
        id: "20261120T101512Z-0123456789".parse().unwrap(),
        cluster: "shop".parse().unwrap(),
        system_identifier: SystemId(7_428_165_372_412_345_678),
        started_at: "2026-11-20T10:15:12Z".parse().unwrap(),
        finished_at: "2026-11-20T10:16:12Z".parse().unwrap(),
        pg_version: "18.1".to_owned(),
        pg_version_num: 180_001,
        labels: BTreeMap::from([("why".to_owned(), "release 7".to_owned())]),
        tier: None,
        source_bytes: 1 << 30,
        new_bytes: 1 << 20,
        stored_bytes: 1 << 28,
        recipients: vec![],
        sequence: Some(7),
        previous_head: None,
        follows: vec![],
        places: vec!["s3-eu".to_owned()],
        program: "pgkeep 0.1.0".to_owned(),
        kind: HeadKind::Physical(Box::new(PhysicalHead {
            catalog_version: 202_506_291,
            timeline: TimelineId::new(2).unwrap(),
            start_lsn: Lsn(0x16_B300_0028),
            stop_lsn: Lsn(0x16_B500_0000),
            history: Some("1\t0/3000000\tno recovery target specified\n".to_owned()),
            segment_bytes: SegmentSize::DEFAULT,
            block_bytes: 8192,
            checksums: true,
            source_role: SourceRole::Primary,
            tablespaces: vec![16400, 16500],
            owner: "postgres".to_owned(),
            group: "postgres".to_owned(),
            directory_mode: Mode(0o700),
            files: 1234,
            bad_pages: 0,
            base: None,
            manifest: hash,
            packs: hash,
        })),
    }
}

#[test]
fn a_head_comes_back_with_its_signer_and_hash() {
    let (sealer, opener, key) = repository();
    let signed = physical_head().sign(&sealer).unwrap();
    let read = Head::read(&opener, &signed.name, &signed.bytes).unwrap();
    assert_eq!(read.head, physical_head());
    assert_eq!(
        (read.blake3, read.signer, read.trusted),
        (signed.blake3, key.fingerprint(), true)
    );
    let alternate = ObjectName::new(format!("{}.r1", signed.name)).unwrap();
    assert!(Head::read(&opener, &alternate, &signed.bytes).is_ok());
    assert_eq!(read.head.physical().unwrap().needed_wal(), 0x16B3..=0x16B4);
}

#[test]
fn a_head_looks_as_the_document_says() {
    let json = serde_json::to_value(physical_head()).unwrap();
    let expected = json!({
        "id": "20261120T101512Z-0123456789", "kind": "physical",
        "cluster": "shop", "system_identifier": "7428165372412345678",
        "started_at": "2026-11-20T10:15:12Z", "finished_at": "2026-11-20T10:16:12Z",
        "pg_version": "18.1", "pg_version_num": 180_001, "catalog_version": 202_506_291,
        "timeline": 2, "start_lsn": "16/B3000028", "stop_lsn": "16/B5000000",
        "history": "1\t0/3000000\tno recovery target specified\n",
        "segment_bytes": 16_777_216, "block_bytes": 8192, "checksums": true, "source_role": "primary",
        "tablespaces": [16400, 16500], "owner": "postgres", "group": "postgres", "directory_mode": "0700",
        "labels": {"why": "release 7"}, "tier": null,
        "files": 1234, "source_bytes": 1 << 30, "new_bytes": 1 << 20, "stored_bytes": 1 << 28, "bad_pages": 0,
        "base": null, "recipients": [], "sequence": 7, "previous_head": null, "places": ["s3-eu"],
        "manifest": {"bytes": 5, "blake3": Digest::of(b"x").to_string()},
        "packs": {"bytes": 5, "blake3": Digest::of(b"x").to_string()},
        "program": "pgkeep 0.1.0",
    });
    assert_eq!(json, expected);
}

#[test]
fn a_dump_has_a_head_of_its_own_kind() {
    let (sealer, opener, _) = repository();
    let object = DumpObject {
        name: ObjectName::new("dumps/shop/daily/2026/11/20/app-x.dump.age").unwrap(),
        bytes: 1,
        blake3: Digest::of(b"x"),
    };
    let kind = HeadKind::Dump(Box::new(DumpHead {
        database: Some("app".to_owned()),
        object,
    }));
    let head = Head {
        kind,
        ..physical_head()
    };
    let signed = head.sign(&sealer).unwrap();
    let read = Head::read(&opener, &signed.name, &signed.bytes).unwrap().head;
    assert_eq!(read, head);
    assert_eq!(read.physical().unwrap_err().kind(), ErrorKind::Invalid);
}

/// Aim: even a head that a trusted signer signed is not taken if it contradicts itself or its name.
#[test]
fn heads_that_contradict_themselves_are_neither_written_nor_read() {
    let (sealer, opener, key) = repository();
    let name = physical_head().name();
    let with = |member: &str, value: Value| {
        let mut payload = serde_json::to_value(physical_head()).unwrap();
        payload["format"] = json!(1);
        payload["repository"] = json!(opener.repository().to_string());
        payload[member] = value;
        sign_document(&key, &name, &payload).unwrap()
    };
    Head::read(&opener, &name, &with("unknown_member", json!([1]))).unwrap();
    for (member, value) in [
        ("id", json!("20261120T101512Z-0123456780")),
        ("cluster", json!("other")),
        ("system_identifier", json!("1")),
        ("system_identifier", json!(7_428_165_372_412_345_678u64)),
        ("stop_lsn", json!("16/B3000028")),
        ("start_lsn", json!("0/0")),
        ("timeline", json!(0)),
        ("timeline", json!(1)),
        ("segment_bytes", json!(12345)),
        ("block_bytes", json!(12345)),
        ("tablespaces", json!([2, 1])),
        ("tablespaces", json!([0])),
        ("owner", json!("")),
        ("directory_mode", json!("0799")),
        ("recipients", json!([""])),
        ("manifest", Value::Null),
        ("packs", json!({"bytes": -1, "blake3": ""})),
        ("source_role", json!("witness")),
        ("kind", Value::Null),
    ] {
        let error = Head::read(&opener, &name, &with(member, value.clone())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{member} {value}");
    }
    let error = Head::read(&opener, &name, &with("kind", json!("logical"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    let mut head = physical_head();
    let HeadKind::Physical(physical) = &mut head.kind else {
        unreachable!("made so above")
    };
    physical.stop_lsn = physical.start_lsn;
    assert_eq!(head.sign(&sealer).unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn an_object_is_the_one_that_a_head_names_only_byte_for_byte() {
    let hash = ObjectHash {
        bytes: 1,
        blake3: Digest::of(b"x"),
    };
    let name = physical_head().name();
    assert!(hash.check(&name, b"x").is_ok());
    assert!(hash.check(&name, b"y").is_err() && hash.check(&name, b"").is_err());
}
