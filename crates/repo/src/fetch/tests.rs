//! Which copy is taken, and what is said when there is none.

use super::*;
use crate::frame::encode;
use crate::test_support::{Place, Repository, name, run};

const BYTES_MAX: u64 = 1 << 20;

fn object(repository: &Repository) -> Bytes {
    let builder = repository.sealer().begin(&name("a/b"), Kind::Manifest).unwrap();
    builder
        .finish(serde_json::Map::new(), Some(&encode(b"content", 1).unwrap()))
        .unwrap()
        .to_bytes()
}

fn places(count: usize) -> (Vec<Arc<Place>>, Vec<Arc<dyn Store>>) {
    let places: Vec<Arc<Place>> = (0..count).map(|_| Place::new()).collect();
    let stores = places.iter().map(|place| place.clone() as Arc<dyn Store>).collect();
    (places, stores)
}

fn read(stores: &[Arc<dyn Store>], repository: &Repository) -> Result<Vec<Vec<u8>>, Unread> {
    let opener = repository.opener();
    run(read_object(stores, &opener, &name("a/b"), Kind::Manifest, BYTES_MAX)).map(|(_, contents)| contents)
}

#[test]
fn the_first_place_that_has_a_good_copy_is_enough() {
    let repository = Repository::new(true);
    let (places, stores) = places(3);
    run(places[1].put(&name("a/b"), object(&repository)));
    assert_eq!(read(&stores, &repository).unwrap(), [b"content"]);
    places[0].fail_with(ErrorKind::Unavailable);
    assert_eq!(read(&stores, &repository).unwrap(), [b"content"]);
    assert_eq!(places[2].requests.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn alternates_are_tried_where_the_object_is_bad_or_missing() {
    let repository = Repository::new(true);
    let (places, stores) = places(2);
    let good = object(&repository);
    run(async {
        places[0].put(&name("a/b"), &b"rubbish"[..]).await;
        places[0].put(&name("a/b.r2"), good.clone()).await;
    });
    assert_eq!(read(&stores, &repository).unwrap(), [b"content"]);
    places[0].lose(&name("a/b.r2"));
    assert!(matches!(read(&stores, &repository), Err(Unread::Bad(_))));
    run(places[1].put(&name("a/b.r1"), good));
    assert_eq!(read(&stores, &repository).unwrap(), [b"content"]);
}

#[test]
fn absent_is_said_only_when_every_place_proved_it() {
    let repository = Repository::new(true);
    let (places, stores) = places(2);
    assert!(matches!(read(&stores, &repository), Err(Unread::Absent)));
    assert!(matches!(read(&[], &repository), Err(Unread::Absent)));
    for (kind, said) in [
        (ErrorKind::Unavailable, ErrorKind::Unavailable),
        (ErrorKind::Denied, ErrorKind::Denied),
        (ErrorKind::Io, ErrorKind::Io),
    ] {
        places[1].fail_with(kind);
        let why = read(&stores, &repository).unwrap_err();
        assert!(matches!(why, Unread::Unknown(_)), "{kind:?}: {why:?}");
        assert_eq!(why.into_error(&name("a/b")).kind(), said);
    }
}

#[test]
fn a_bad_copy_beside_a_silent_place_leaves_it_unknown() {
    let repository = Repository::new(true);
    let (places, stores) = places(2);
    run(places[0].put(&name("a/b"), &b"rubbish"[..]));
    let why = read(&stores, &repository).unwrap_err();
    assert!(matches!(why, Unread::Bad(_)), "{why:?}");
    assert_eq!(why.into_error(&name("a/b")).kind(), ErrorKind::Corrupt);
    places[1].fail_with(ErrorKind::Unavailable);
    let why = read(&stores, &repository).unwrap_err();
    assert!(matches!(why, Unread::Unknown(_)), "{why:?}");
    let error = why.into_error(&name("a/b"));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let detail = error.detail_text().unwrap();
    assert!(places.iter().all(|place| detail.contains(place.url())), "{detail}");
}

#[test]
fn a_stranger_s_copy_is_refused_with_its_hint() {
    let (ours, theirs) = (Repository::new(true), Repository::new(true));
    let (places, stores) = places(1);
    run(places[0].put(&name("a/b"), object(&theirs)));
    let why = read(&stores, &ours).unwrap_err();
    assert!(matches!(why, Unread::Refused(_)), "{why:?}");
    let error = why.into_error(&name("a/b"));
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.hint_text().unwrap().contains("--accept-signer"));
}

#[test]
fn an_object_longer_than_it_may_be_is_bad() {
    let repository = Repository::new(true);
    let (places, stores) = places(1);
    run(places[0].put(&name("a/b"), vec![0; 1 + BYTES_MAX as usize]));
    assert!(matches!(read(&stores, &repository), Err(Unread::Bad(_))));
}

/// Aim: what somebody else named so that no alternate has room beside it is rubbish, and no more.
#[test]
fn a_name_without_room_for_alternates_is_looked_at_once() {
    let (places, stores) = places(2);
    let name = name(&format!("wal/{}", "x".repeat(255)));
    run(places[0].put(&name, &b"rubbish"[..]));
    let opener = Repository::new(false).opener();
    let asked = || {
        places
            .iter()
            .map(|place| place.requests.load(std::sync::atomic::Ordering::Relaxed))
            .sum::<usize>()
    };
    let before = asked();
    let read = run(read_object(&stores, &opener, &name, Kind::Manifest, BYTES_MAX));
    assert!(matches!(read, Err(Unread::Bad(_))), "{:?}", read.err());
    assert_eq!(asked() - before, places.len());
}
