//! Claims about listings. Method: a place with names of every kind, good and odd, and one object behind each.

use futures::TryStreamExt;

use super::*;
use crate::test_support::{Place, name, run};

const HASH: &str = "0123456789abcdef0123456789abcdef";
const ID: &str = "20261120T101512Z-0123456789";

fn shop() -> Lineage {
    Lineage {
        cluster: "shop".parse().unwrap(),
        system_identifier: pgkeep_base::SystemId(7),
    }
}

fn place(names: &[String]) -> std::sync::Arc<Place> {
    let place = Place::new();
    run(async {
        for object in names {
            place.put(&name(object), b"12345".to_vec()).await;
        }
    });
    place
}

#[test]
fn lineages_are_found_wherever_they_have_anything() {
    let place = place(&[
        format!("backups/shop/7/{ID}/head"),
        format!("wal/shop/7/00000001/000000010000000000000001-{HASH}"),
        format!("wal/shop/8/00000001/000000010000000000000001-{HASH}"),
        format!("packs/stock/9/{ID}/00000000"),
        "wal/Odd/7/x".to_owned(),
        "wal/shop/07/x".to_owned(),
        "control/genesis".to_owned(),
    ]);
    let found: Vec<String> = run(lineages(place.as_ref()))
        .unwrap()
        .iter()
        .map(Lineage::to_string)
        .collect();
    assert_eq!(found, ["shop/7", "shop/8", "stock/9"]);
    assert_eq!(run(lineages(Place::new().as_ref())).unwrap(), []);
}

#[test]
fn a_backup_exists_once_its_head_does() {
    let other = "20261121T101512Z-0123456789";
    let place = place(&[
        format!("backups/shop/7/{ID}/head.r1"),
        format!("backups/shop/7/{ID}/manifest"),
        format!("backups/shop/7/{ID}/packs"),
        format!("backups/shop/7/{other}/packs"),
        format!("backups/shop/8/{other}/head"),
        "backups/shop/7/odd/head".to_owned(),
    ]);
    let found = run(backups(place.as_ref(), &shop())).unwrap();
    let seen: Vec<_> = found
        .iter()
        .map(|b| (b.id.as_str(), b.head, b.manifest, b.packs))
        .collect();
    assert_eq!(seen, [(ID, true, true, true), (other, false, false, true)]);
}

fn wal_names() -> Vec<String> {
    let directory = "wal/shop/7/00000003";
    let one = format!("{directory}/000000030000000000000001-{HASH}");
    let other = format!("{directory}/000000030000000000000001-f{}", &HASH[1..]);
    vec![
        one.clone(),
        format!("{one}.p0000"),
        format!("{one}.p0001"),
        format!("{one}.p0001.r1"),
        format!("{one}.r1"),
        format!("{other}.r1"),
        format!("{directory}/000000030000000000000002-{HASH}.p0000"),
        format!("{directory}/000000030000000000000001.partial-{HASH}"),
        format!("{directory}/00000003.history-{HASH}"),
        format!("{directory}/odd"),
        format!("wal/shop/7/00000004/00000004.history-{HASH}"),
        "wal/shop/7/odd/x".to_owned(),
    ]
}

#[test]
fn wal_is_listed_in_order_with_parts_and_alternates_counted_to_their_object() {
    let place = place(&wal_names());
    let timelines = run(wal_timelines(place.as_ref(), &shop())).unwrap();
    assert_eq!(timelines.iter().map(|t| t.get()).collect::<Vec<_>>(), [3, 4]);
    let entries: Vec<WalEntry> = run(wal_entries(place.as_ref(), &shop(), timelines[0], None).try_collect()).unwrap();
    let seen: Vec<_> = entries
        .iter()
        .map(|e| {
            (
                e.object.file.to_string(),
                &e.object.hash[..1],
                e.whole,
                e.bytes,
                e.parts,
                e.alternates,
            )
        })
        .collect();
    let segment = |number: u8| format!("00000003000000000000000{number}");
    assert_eq!(
        seen,
        [
            ("00000003.history".to_owned(), "0", true, 5, 0, 0),
            (segment(1), "0", true, 5, 2, 1),
            (segment(1), "f", true, 5, 0, 1),
            (format!("{}.partial", segment(1)), "0", true, 5, 0, 0),
            (segment(2), "0", false, 0, 1, 0),
        ]
    );
    assert_eq!(entries[1].name.as_str(), wal_names()[0]);
    assert_eq!((entries[1].parts_bytes, entries[4].parts_bytes), (10, 5));
}

#[test]
fn a_listing_begins_where_it_is_told_and_candidates_are_of_one_file() {
    let place = place(&wal_names());
    let timeline = TimelineId::new(3).unwrap();
    let from = wal_entries(place.as_ref(), &shop(), timeline, Some("000000030000000000000002"));
    let entries: Vec<WalEntry> = run(from.try_collect()).unwrap();
    assert_eq!(entries.len(), 1);
    for (file, count) in [
        ("000000030000000000000001", 2),
        ("000000030000000000000001.partial", 1),
        ("000000030000000000000003", 0),
        ("00000003.history", 1),
    ] {
        let found = run(wal_candidates(place.as_ref(), &shop(), timeline, file)).unwrap();
        assert_eq!(found.len(), count, "{file}");
    }
}

#[test]
fn a_place_that_does_not_answer_is_not_empty() {
    let place = place(&wal_names());
    place.fail_with(pgkeep_base::ErrorKind::Unavailable);
    assert!(run(lineages(place.as_ref())).is_err());
    assert!(run(backups(place.as_ref(), &shop())).is_err());
    let timeline = TimelineId::new(3).unwrap();
    assert!(run(wal_candidates(place.as_ref(), &shop(), timeline, "x")).is_err());
}
