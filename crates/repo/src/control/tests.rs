//! Claims about control objects: their names, and what they say.

use jiff::Timestamp;

use super::*;
use crate::test_support::{Repository, name};

#[test]
fn names_of_control_objects_read_back() {
    let id = BackupId::new(Timestamp::UNIX_EPOCH);
    for (kind, word) in KINDS {
        let name = control_name(&id, kind);
        assert!(name.as_str().ends_with(word));
        assert_eq!(parse_control_name(&name), Some((id.clone(), kind)));
    }
    for odd in [
        "control/genesis",
        "control/x-signer",
        "leases/x-signer",
        &format!("control/{id}-odd"),
    ] {
        assert_eq!(parse_control_name(&name(odd)), None, "{odd}");
    }
}

#[test]
fn a_lineage_note_reads_back() {
    let ours = Repository::new(false);
    let note = LineageNote {
        cluster: "shop".parse().unwrap(),
        system_identifier: SystemId(8),
        predecessor: Some(SystemId(7)),
        major: 18,
        catalog_version: 202_506_291,
        reason: "pg_upgrade".to_owned(),
    };
    let object = seal_control(&ours.sealer(), ControlKind::Lineage, &note).unwrap();
    let verified = ours
        .opener()
        .document(&object.name, &object.payload.parts().concat())
        .unwrap();
    assert_eq!(verified.parse::<LineageNote>().unwrap(), note);
    assert_eq!(verified.payload["created_at"], "2026-11-20T10:15:12.345Z");
}
