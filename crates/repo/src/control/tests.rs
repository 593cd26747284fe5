//! Claims about control objects: who may enrol whom.

use pgkeep_base::ErrorKind;

use super::*;
use crate::sign::SigningKey;
use crate::test_support::{Place, Repository, name, run};

/// A repository like this one, as another host signs for it.
fn host(of: &Repository) -> Repository {
    Repository {
        id: of.id,
        identity: of.identity.clone(),
        key: Arc::new(SigningKey::generate().unwrap()),
        mode: of.mode.clone(),
    }
}

fn enrol(by: &Repository, place: &Place, who: &Repository) {
    let add = who.key.fingerprint();
    let change = SignerChange::Add {
        add,
        name: "db2".to_owned(),
    };
    create(place, seal_control(&by.sealer(), ControlKind::Signer, &change).unwrap());
}

fn create(place: &Place, object: ControlObject) {
    run(place.put(&object.name, object.payload));
}

fn enrolled(place: &Arc<Place>, of: &Repository) -> (Trust, Enrolment) {
    let mut trust = Trust::new([of.key.fingerprint()]);
    let stores = [place.clone() as Arc<dyn Store>];
    let enrolment = run(enrol_signers(&stores, of.id, &mut trust));
    (trust, enrolment)
}

#[test]
fn whom_a_trusted_signer_enrols_is_trusted_and_may_enrol_others() {
    let first = Repository::new(false);
    let (second, third) = (host(&first), host(&first));
    let place = Place::new();
    // In whatever order their names sort.
    enrol(&second, &place, &third);
    enrol(&first, &place, &second);
    let (trust, enrolment) = enrolled(&place, &first);
    assert!(trust.trusts(&third.key.fingerprint(), None));
    assert!(
        enrolment.refused.is_empty() && enrolment.unlisted.is_empty(),
        "{enrolment:?}"
    );
}

#[test]
fn a_stranger_enrols_nobody_and_keeps_nobody_from_reading() {
    let ours = Repository::new(false);
    let (stranger, friend) = (host(&ours), host(&ours));
    let place = Place::new();
    enrol(&stranger, &place, &stranger);
    enrol(&ours, &place, &friend);
    run(place.put(
        &control_name(&BackupId::new(Timestamp::UNIX_EPOCH), ControlKind::Signer),
        "rubbish",
    ));
    run(place.put(&name("control/odd"), "rubbish"));
    let (trust, enrolment) = enrolled(&place, &ours);
    assert!(trust.trusts(&friend.key.fingerprint(), None));
    assert!(!trust.trusts(&stranger.key.fingerprint(), None));
    let mut kinds: Vec<ErrorKind> = enrolment.refused.iter().map(|(_, error)| error.kind()).collect();
    kinds.sort_by_key(|kind| format!("{kind:?}"));
    assert_eq!(kinds, [ErrorKind::Corrupt, ErrorKind::Refused]);
    // Not even while strangers are accepted for reading.
    let mut lenient = Trust::new([ours.key.fingerprint()]).accept_any();
    run(enrol_signers(&[place.clone() as Arc<dyn Store>], ours.id, &mut lenient));
    assert!(!lenient.trusts(&stranger.key.fingerprint(), None));
}

#[test]
fn a_withdrawn_signer_keeps_what_it_wrote_before_whichever_object_is_read_first() {
    let ours = Repository::new(false);
    let lost = host(&ours);
    let place = Place::new();
    let from: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
    let remove = SignerChange::Remove {
        remove: lost.key.fingerprint(),
        from,
    };
    create(
        &place,
        seal_control(&ours.sealer(), ControlKind::Signer, &remove).unwrap(),
    );
    enrol(&ours, &place, &lost);
    let (trust, _) = enrolled(&place, &ours);
    let before = "2026-11-19T23:59:59Z".parse().unwrap();
    assert!(trust.trusts(&lost.key.fingerprint(), Some(before)));
    assert!(!trust.trusts(&lost.key.fingerprint(), Some(from)));
    assert!(!trust.trusts(&lost.key.fingerprint(), None));
    assert_eq!(trust.withdrawn_from(&lost.key.fingerprint()), Some(from));
}

#[test]
fn a_place_that_does_not_answer_is_reported() {
    let ours = Repository::new(false);
    let place = Place::new();
    place.fail_with(ErrorKind::Unavailable);
    let (_, enrolment) = enrolled(&place, &ours);
    assert_eq!(enrolment.unlisted.len(), 1);
}

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
