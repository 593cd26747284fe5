//! Claims about signers: who may enrol and withdraw whom, whatever order the statements come in.

use pgkeep_base::ErrorKind;
use proptest::prelude::*;

use super::*;
use crate::control::{ControlKind, ControlObject, control_name, list_control, seal_control};
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

fn who(host: &Repository) -> Fingerprint {
    host.key.fingerprint()
}

fn say(by: &Repository, change: &SignerChange) -> ControlObject {
    seal_control(&by.sealer(), ControlKind::Signer, change).unwrap()
}

fn digest(of: &ControlObject) -> Digest {
    Digest::of(&of.payload.parts().concat())
}

fn add(by: &Repository, host: &Repository) -> ControlObject {
    let (add, name) = (who(host), "db2".to_owned());
    say(by, &SignerChange::Add { add, name })
}

fn remove(by: &Repository, host: &Repository, from: Timestamp, keep: &[&ControlObject]) -> ControlObject {
    let keep = keep.iter().map(|object| digest(object)).collect();
    let remove = who(host);
    say(by, &SignerChange::Remove { remove, from, keep })
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn stores(place: &Arc<Place>) -> Vec<Arc<dyn Store>> {
    vec![place.clone() as Arc<dyn Store>]
}

/// What a reader that trusts `roots` by itself makes of these objects.
fn outcome(of: &Repository, objects: &[ControlObject], roots: Trust) -> (Judged, Vec<(ObjectName, Error)>) {
    let place = Place::new();
    for object in objects {
        run(place.put(&object.name, object.payload.clone()));
    }
    let names = run(list_control(&*place)).unwrap();
    let names = names.into_iter().map(|(name, _)| name).collect();
    let statements = run(read_statements(&stores(&place), of.id, names)).unwrap();
    (judge(statements.good, roots), statements.unusable)
}

fn trust(of: &Repository, objects: &[ControlObject]) -> Trust {
    outcome(of, objects, Trust::new([who(of)])).0.trust
}

fn trusts(trust: &Trust, host: &Repository) -> bool {
    trust.trusts(&who(host), None)
}

const NOON: &str = "2026-11-20T12:00:00Z";

#[test]
fn whom_a_trusted_signer_enrols_is_trusted_and_may_enrol_others() {
    let first = Repository::new(false);
    let (second, third) = (host(&first), host(&first));
    let objects = [add(&second, &third), add(&first, &second)];
    let (judged, unusable) = outcome(&first, &objects, Trust::new([who(&first)]));
    assert!(trusts(&judged.trust, &second) && trusts(&judged.trust, &third));
    assert_eq!(judged.in_force.len(), 2);
    assert!(unusable.is_empty(), "{unusable:?}");
}

#[test]
fn a_stranger_has_no_say_and_keeps_nobody_from_reading() {
    let ours = Repository::new(false);
    let (stranger, friend) = (host(&ours), host(&ours));
    let rubbish = ControlObject {
        name: control_name(&pgkeep_base::BackupId::new(Timestamp::UNIX_EPOCH), ControlKind::Signer),
        payload: bytes::Bytes::from_static(b"rubbish").into(),
    };
    let objects = [
        add(&stranger, &stranger),
        remove(&stranger, &ours, Timestamp::UNIX_EPOCH, &[]),
        add(&ours, &friend),
        rubbish,
    ];
    for roots in [
        Trust::new([who(&ours)]),
        // Not even while strangers are accepted for reading.
        Trust::new([who(&ours)]).accept_any(),
    ] {
        let (judged, unusable) = outcome(&ours, &objects, roots);
        assert!(trusts(&judged.trust, &friend) && trusts(&judged.trust, &ours));
        assert!(!trusts(&judged.trust, &stranger));
        assert_eq!(judged.in_force.len(), 1);
        let kinds: Vec<ErrorKind> = unusable.iter().map(|(_, error)| error.kind()).collect();
        assert_eq!(kinds, [ErrorKind::Corrupt]);
    }
}

#[test]
fn a_statement_of_another_repository_counts_nowhere_else() {
    let key = Arc::new(SigningKey::generate().unwrap());
    let with_key = |repository: Repository| Repository {
        key: key.clone(),
        ..repository
    };
    let (ours, other) = (with_key(Repository::new(false)), with_key(Repository::new(false)));
    let (judged, unusable) = outcome(&ours, &[add(&other, &host(&other))], Trust::new([who(&ours)]));
    assert_eq!((judged.in_force.len(), judged.trust.signers().count()), (0, 1));
    assert_eq!(unusable[0].1.kind(), ErrorKind::Refused);
}

#[test]
fn a_withdrawn_signer_keeps_what_it_wrote_before() {
    let ours = Repository::new(false);
    let lost = host(&ours);
    let from = time(NOON);
    let trust = trust(&ours, &[remove(&ours, &lost, from, &[]), add(&ours, &lost)]);
    assert!(trust.trusts(&who(&lost), Some(time("2026-11-20T11:59:59Z"))));
    assert!(!trust.trusts(&who(&lost), Some(from)));
    assert!(!trusts(&trust, &lost));
    assert_eq!(trust.withdrawn_from(&who(&lost)), Some(from));
}

/// Aim: the thief of a withdrawn key enrols nobody any more, although the time in a statement is for him to choose.
#[test]
fn of_a_withdrawn_signers_enrolments_only_those_count_that_its_withdrawal_keeps() {
    let root = Repository::new(false);
    let (next, thief) = (host(&root), host(&root));
    let real = add(&root, &next);
    // Like any statement that the thief could make after the withdrawal and date before it.
    let forged = add(&root, &thief);
    let withdrawal = remove(&next, &root, time(NOON), &[&real]);
    let trust = trust(&root, &[real, forged, withdrawal]);
    assert!(trusts(&trust, &next));
    assert!(!trusts(&trust, &thief));
    assert!(!trusts(&trust, &root));
}

/// Aim: whoever stole a trusted key can have everything refused, but have nothing believed.
#[test]
fn contradictions_leave_fewer_trusted_never_more() {
    let root = Repository::new(false);
    let (keeper, thief) = (host(&root), host(&root));
    let real = add(&root, &keeper);
    let forged = add(&root, &thief);
    let objects = [
        remove(&keeper, &root, time(NOON), &[&real]),
        remove(&root, &keeper, Timestamp::UNIX_EPOCH, &[]),
        remove(&thief, &root, time(NOON), &[&forged]),
        remove(&thief, &keeper, Timestamp::UNIX_EPOCH, &[]),
        real,
        forged,
    ];
    let trust = trust(&root, &objects);
    for signer in [&root, &keeper, &thief] {
        assert!(!trusts(&trust, signer));
    }
}

/// Aim: the way out of the above is the repository file: who is withdrawn there has no say at all.
#[test]
fn what_an_installation_withdraws_by_itself_has_no_say() {
    let root = Repository::new(false);
    let (keeper, thief) = (host(&root), host(&root));
    let objects = [
        add(&root, &thief),
        remove(&root, &keeper, Timestamp::UNIX_EPOCH, &[]),
        remove(&thief, &keeper, Timestamp::UNIX_EPOCH, &[]),
    ];
    let mut roots = Trust::new([who(&root), who(&keeper)]);
    roots.withdraw(&who(&root), time(NOON));
    let (judged, _) = outcome(&root, &objects, roots);
    assert!(trusts(&judged.trust, &keeper) && judged.in_force.is_empty());
    assert!(!trusts(&judged.trust, &thief) && !trusts(&judged.trust, &root));
    assert!(judged.trust.trusts(&who(&root), Some(time("2026-11-20T11:00:00Z"))));
}

#[test]
fn nobody_withdraws_himself() {
    let ours = Repository::new(false);
    let (judged, _) = outcome(
        &ours,
        &[remove(&ours, &ours, Timestamp::UNIX_EPOCH, &[])],
        Trust::new([who(&ours)]),
    );
    assert!(trusts(&judged.trust, &ours) && judged.in_force.is_empty());
}

#[test]
fn a_place_that_does_not_answer_may_have_a_withdrawal() {
    let ours = Repository::new(false);
    let place = Place::new();
    let object = add(&ours, &host(&ours));
    run(place.put(&object.name, object.payload));
    place.fail_with(ErrorKind::Unavailable);
    let read = run(read_statements(&stores(&place), ours.id, vec![object.name]));
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Unavailable);
    let gone = name("control/20261120T101512Z-0000000000-signer");
    let read = run(read_statements(&stores(&Place::new()), ours.id, vec![gone])).unwrap();
    assert!(read.good.is_empty() && read.unusable.is_empty());
}

fn statement(number: usize, by: usize, about: usize, removal: bool, keep: Vec<usize>) -> Statement {
    let signer = |n: usize| format!("s-{n:032}").parse::<Fingerprint>().unwrap();
    let digest = |n: usize| Digest::of(&n.to_le_bytes());
    Statement {
        name: name(&format!("control/20261120T101512Z-{number:010}-signer")),
        digest: digest(number),
        by: signer(by),
        at: None,
        change: match removal {
            true => SignerChange::Remove {
                remove: signer(about),
                from: Timestamp::UNIX_EPOCH,
                keep: keep.into_iter().map(digest).collect(),
            },
            false => SignerChange::Add {
                add: signer(about),
                name: String::new(),
            },
        },
    }
}

fn live(judged: &Judged) -> Vec<Fingerprint> {
    let trust = &judged.trust;
    trust
        .signers()
        .filter(|signer| trust.trusts(signer, None))
        .cloned()
        .collect()
}

proptest! {
    /// Aim: no order and no contradiction makes anybody trusted whom no chain of enrolments reaches, and a withdrawal
    /// never adds anyone.
    #[test]
    fn trust_is_independent_of_order_and_withdrawals_only_take_away(
        said in proptest::collection::vec((0usize..6, 0usize..6, proptest::bool::ANY, proptest::collection::vec(0usize..12, 0..4)), 0..12),
        seed in 0usize..1000,
    ) {
        let roots = || Trust::new(["s-00000000000000000000000000000000".parse::<Fingerprint>().unwrap()]);
        let statements: Vec<Statement> = said.into_iter().enumerate()
            .map(|(number, (by, about, removal, keep))| statement(number, by, about, removal, keep)).collect();
        let all = live(&judge(statements.clone(), roots()));
        let mut shuffled = statements.clone();
        let length = shuffled.len().max(1);
        shuffled.rotate_left(seed % length);
        shuffled.reverse();
        prop_assert_eq!(&live(&judge(shuffled, roots())), &all);
        let additions: Vec<Statement> = statements.into_iter()
            .filter(|statement| matches!(statement.change, SignerChange::Add { .. })).collect();
        let reachable = live(&judge(additions, roots()));
        prop_assert!(all.iter().all(|signer| reachable.contains(signer)));
    }
}
