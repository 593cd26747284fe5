//! Claims about WAL objects: names, sealing, reading, and what two objects of one name are to each other.

use std::sync::Arc;

use pgkeep_base::{ClusterName, ErrorKind, Lsn, PgMajor, SegmentFacts, SystemId, TimelineId, WalFile};
use pgkeep_store::{ObjectName, Store};
use proptest::prelude::*;

use super::*;
use crate::fetch::Unread;
use crate::seal::SealedObject;
use crate::test_support::{Place, Repository, name, run};

const MIB: usize = 1 << 20;
const SEGMENT: &str = "0000000300000016000000B3";

fn naming() -> WalNaming {
    WalNaming::new([9; 32])
}

fn cluster() -> ClusterName {
    "shop".parse().unwrap()
}

/// Facts of a segment of 16 MiB that holds valid WAL up to `valid_bytes`.
fn facts(valid_bytes: u64) -> SegmentFacts {
    let start = Lsn(0x16_B300_0000);
    SegmentFacts {
        page_magic: 0xD118,
        segment_bytes: 16 << 20,
        block_bytes: 8192,
        first_record: Some(Lsn(start.0 + 40)),
        first_record_prev: Some(Lsn(start.0 - 100)),
        last_record: Some(Lsn(start.0 + valid_bytes - 100)),
        last_record_end: Some(Lsn(start.0 + valid_bytes)),
        valid_to: Lsn(start.0 + valid_bytes),
        stopped: (valid_bytes < 16 << 20).then(|| "zeros".to_owned()),
        ..SegmentFacts::nothing_yet(SystemId(7), PgMajor::NEWEST, TimelineId::FIRST, start)
    }
}

/// Bytes that compress somewhat, different in every KiB.
fn content(bytes: usize, seed: u8) -> Vec<u8> {
    let mut content = vec![seed; bytes];
    for (i, block) in content.chunks_mut(1024).enumerate() {
        let hash = blake3::hash(&[&i.to_le_bytes()[..], &[seed]].concat());
        let length = block.len().min(32);
        block[..length].copy_from_slice(&hash.as_bytes()[..length]);
    }
    content
}

fn seal(repository: &Repository, file: &str, content: &[u8], facts: Option<SegmentFacts>) -> Vec<SealedObject> {
    let file = WalFile::parse(file).unwrap();
    seal_wal(
        &repository.sealer(),
        &naming(),
        &cluster(),
        SystemId(7),
        &file,
        content,
        facts,
    )
    .unwrap()
}

/// A place that holds these objects.
fn place(objects: &[SealedObject]) -> (Arc<Place>, Vec<Arc<dyn Store>>) {
    let place = Place::new();
    run(async {
        for object in objects {
            place.put(&object.name, object.payload.clone()).await;
        }
    });
    (place.clone(), vec![place])
}

fn open(stores: &[Arc<dyn Store>], repository: &Repository, name: &ObjectName) -> Result<Vec<u8>, Unread> {
    let opener = repository.opener();
    run(open_wal(stores, &opener, &naming(), name)).map(|(_, content)| content)
}

#[test]
fn a_file_of_any_length_comes_back() {
    for repository in Repository::both() {
        for bytes in [0, 1, MIB - 1, MIB, MIB + 1, 16 * MIB, 17 * MIB] {
            let content = content(bytes, 1);
            let objects = seal(&repository, SEGMENT, &content, Some(facts(16 << 20)));
            assert_eq!(objects.len(), 1);
            let (_, stores) = place(&objects);
            assert!(
                open(&stores, &repository, &objects[0].name).unwrap() == content,
                "{bytes}"
            );
        }
    }
}

#[test]
fn a_large_segment_goes_in_parts_that_come_first() {
    let repository = Repository::new(true);
    let content = content(128 * MIB, 1);
    let objects = seal(&repository, SEGMENT, &content, Some(facts(16 << 20)));
    let names: Vec<&str> = objects.iter().map(|object| object.name.as_str()).collect();
    let whole = names[2].to_owned();
    assert_eq!(names, [&format!("{whole}.p0000"), &format!("{whole}.p0001"), &whole]);
    let (place, stores) = place(&objects);
    let opener = repository.opener();
    let header = run(read_wal_header(&stores, &opener, &objects[2].name, None)).unwrap();
    assert_eq!((header.parts, header.file_bytes), (2, 128 << 20));
    assert!(open(&stores, &repository, &objects[2].name).unwrap() == content);

    // A retry leaves the first attempt's parts in place: as good as its own.
    let again = seal(&repository, SEGMENT, &content, Some(facts(16 << 20)));
    assert_eq!(again[0].name, objects[0].name);
    place.lose(&objects[0].name);
    run(place.put(&again[0].name, again[0].payload.clone()));
    assert!(open(&stores, &repository, &objects[2].name).unwrap() == content);

    // Swapped parts, and a missing one: bad, not absent.
    place.lose(&objects[1].name);
    let why = open(&stores, &repository, &objects[2].name).unwrap_err();
    assert!(
        matches!(&why, Unread::Bad(failures) if failures[0].name == objects[1].name),
        "{why:?}"
    );
    run(place.put(&objects[1].name, objects[0].payload.clone()));
    assert!(matches!(
        open(&stores, &repository, &objects[2].name),
        Err(Unread::Bad(_))
    ));
}

#[test]
fn a_file_on_disk_gets_the_name_that_it_gets_from_memory() {
    let repository = Repository::new(true);
    let directory = tempfile::tempdir().unwrap();
    let (path, content) = (directory.path().join(SEGMENT), content(65 * MIB, 1));
    std::fs::write(&path, &content).unwrap();
    let source = (std::fs::File::open(&path).unwrap(), content.len() as u64);
    let file = WalFile::parse(SEGMENT).unwrap();
    let (naming, cluster) = (naming(), cluster());
    let plan = WalPlan::new(&naming, &cluster, SystemId(7), &file, &source).unwrap();
    let in_memory = WalPlan::new(&naming, &cluster, SystemId(7), &file, &content[..]).unwrap();
    assert_eq!((plan.name(), plan.digest()), (in_memory.name(), in_memory.digest()));
    let wal_name = plan.name().clone();
    let objects: Vec<SealedObject> = plan.seal(&repository.sealer(), None).map(Result::unwrap).collect();
    let (_, stores) = place(&objects);
    assert!(open(&stores, &repository, &wal_name).unwrap() == content);
}

#[test]
fn a_file_that_changes_while_it_is_sealed_gets_no_object() {
    let repository = Repository::new(true);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(SEGMENT);
    for bytes in [MIB, 65 * MIB] {
        std::fs::write(&path, content(bytes, 1)).unwrap();
        let source = (std::fs::File::open(&path).unwrap(), bytes as u64);
        let file = WalFile::parse(SEGMENT).unwrap();
        let (naming, cluster) = (naming(), cluster());
        let plan = WalPlan::new(&naming, &cluster, SystemId(7), &file, &source).unwrap();
        std::fs::write(&path, content(bytes, 2)).unwrap();
        let last = plan.seal(&repository.sealer(), None).last().unwrap();
        assert_eq!(last.unwrap_err().kind(), ErrorKind::Corrupt, "{bytes}");
    }
}

#[test]
fn one_content_has_one_name_and_another_content_another() {
    let repository = Repository::new(true);
    let [one, same, other] = [1, 1, 2].map(|seed| seal(&repository, SEGMENT, &content(MIB, seed), None).remove(0).name);
    assert_eq!(one, same);
    assert_ne!(one, other);
    assert_eq!(
        one.as_str(),
        format!("wal/shop/7/00000003/{SEGMENT}-{}", naming().hash(&content(MIB, 1)))
    );
    assert_ne!(naming().hash(b"x"), WalNaming::new([8; 32]).hash(b"x"));
}

#[test]
fn the_header_alone_tells_the_facts() {
    for repository in Repository::both() {
        let objects = seal(&repository, SEGMENT, &content(16 * MIB, 1), Some(facts(16 << 20)));
        let (place, stores) = place(&objects);
        let opener = repository.opener();
        let header = run(read_wal_header(
            &stores,
            &opener,
            &objects[0].name,
            Some(objects[0].bytes),
        ))
        .unwrap();
        assert_eq!(place.requests.load(std::sync::atomic::Ordering::Relaxed), 1 + 1);
        let said = header.facts.unwrap();
        assert_eq!(said.segment, facts(16 << 20));
        assert_eq!(said.prefix.len(), 16);
        assert_eq!(said.prefix[15], naming().hash(&content(16 * MIB, 1))[..16]);
        assert_eq!(said.prefix[0], naming().hash(&content(MIB, 1))[..16]);
        assert_eq!(
            (header.file.to_string(), header.file_bytes),
            (SEGMENT.to_owned(), 16 << 20)
        );
        assert_eq!(
            (header.signer, header.object_bytes),
            (repository.key.fingerprint(), objects[0].bytes)
        );
    }
}

/// Restore points can make a header longer than what is read first.
#[test]
fn a_header_longer_than_the_first_read_is_read_on() {
    let repository = Repository::new(true);
    let point = |i: u64| pgkeep_base::facts::RestorePointFact {
        name: format!("before migration {i}"),
        lsn: Lsn(i),
        time: "2026-11-20T10:00:00Z".parse().unwrap(),
    };
    let with_points = |count| SegmentFacts {
        restore_points: (0..count).map(point).collect(),
        ..facts(16 << 20)
    };
    let many = with_points(500);
    let objects = seal(&repository, SEGMENT, b"small", Some(many.clone()));
    let (_, stores) = place(&objects);
    let opener = repository.opener();
    for known in [None, Some(objects[0].bytes)] {
        let header = run(read_wal_header(&stores, &opener, &objects[0].name, known)).unwrap();
        assert_eq!(header.facts.unwrap().segment, many);
    }
    let small = seal(
        &repository,
        "00000002.history",
        b"1\t0/3000000\tno recovery target\n",
        None,
    );
    let (_, stores) = place(&small);
    let header = run(read_wal_header(&stores, &opener, &small[0].name, None)).unwrap();
    assert_eq!((header.facts, header.file_bytes), (None, 31));
}

#[test]
fn every_flipped_byte_of_a_wal_object_is_found() {
    let repository = Repository::new(true);
    let objects = seal(
        &repository,
        "00000002.history",
        b"1\t0/3000000\tno recovery target\n",
        None,
    );
    let (place, stores) = place(&objects);
    for i in 0..objects[0].bytes as usize {
        place.damage(&objects[0].name, |bytes| bytes[i] ^= 0x20);
        assert!(
            matches!(open(&stores, &repository, &objects[0].name), Err(Unread::Bad(_))),
            "byte {i}"
        );
        place.damage(&objects[0].name, |bytes| bytes[i] ^= 0x20);
    }
    assert!(open(&stores, &repository, &objects[0].name).is_ok());
}

/// A signer that lies: right seal, right signature, content that is not that of the name.
#[test]
fn content_that_is_not_that_of_the_name_is_found() {
    let repository = Repository::new(true);
    let (honest, other) = (naming(), WalNaming::new([8; 32]));
    let file = WalFile::parse(SEGMENT).unwrap();
    let sealed = seal_wal(
        &repository.sealer(),
        &other,
        &cluster(),
        SystemId(7),
        &file,
        b"content",
        None,
    )
    .unwrap();
    let (_, stores) = place(&sealed);
    let opener = repository.opener();
    let why = run(open_wal(&stores, &opener, &honest, &sealed[0].name)).unwrap_err();
    assert!(matches!(&why, Unread::Bad(_)), "{why:?}");
    assert!(run(open_wal(&stores, &opener, &other, &sealed[0].name)).is_ok());
}

#[test]
fn absent_wal_is_absent_and_an_alternate_stands_in_for_damaged_wal() {
    let repository = Repository::new(true);
    let objects = seal(&repository, SEGMENT, b"content", Some(facts(16 << 20)));
    let (place, stores) = place(&[]);
    let object = &objects[0];
    assert!(matches!(open(&stores, &repository, &object.name), Err(Unread::Absent)));
    run(async {
        place.put(&object.name, &b"PGKEEP1\nrubbish"[..]).await;
        place
            .put(
                &crate::names::alternate(&object.name, 1).unwrap(),
                object.payload.clone(),
            )
            .await;
    });
    assert_eq!(open(&stores, &repository, &object.name).unwrap(), b"content");
    let opener = repository.opener();
    assert!(run(read_wal_header(&stores, &opener, &object.name, None)).is_ok());
}

#[test]
fn only_names_of_wal_objects_parse_and_they_read_back() {
    let hash = "0123456789abcdef0123456789abcdef";
    for (file, part) in [
        (SEGMENT, None),
        (SEGMENT, Some(15)),
        ("0000000300000016000000B3.partial", None),
        ("0000000300000016000000B3.00000028.backup", None),
        ("00000003.history", None),
    ] {
        let file = WalFile::parse(file).unwrap();
        let object = object_name(&cluster(), SystemId(7), &file, hash).unwrap();
        let full = part.map_or(object.clone(), |number| part_name(&object, number));
        let parsed = parse_object_name(&full).unwrap();
        assert_eq!((parsed.file, parsed.part, parsed.hash.as_str()), (file, part, hash));
        assert_eq!(
            (parsed.cluster, parsed.sysid, parsed.timeline.get()),
            (cluster(), SystemId(7), 3)
        );
    }
    for bad in [
        format!("wal/shop/7/00000003/{SEGMENT}"),
        format!("wal/shop/7/00000003/{SEGMENT}-{hash}0"),
        format!("wal/shop/7/00000003/{SEGMENT}-{}", hash.to_uppercase()),
        format!("wal/shop/7/00000003/{SEGMENT}-{hash}.p001"),
        format!("wal/shop/7/00000003/{SEGMENT}-{hash}.p000F"),
        format!("wal/shop/7/00000003/{SEGMENT}-{hash}.r1"),
        format!("wal/shop/7/00000004/{SEGMENT}-{hash}"),
        format!("wal/shop/07/00000003/{SEGMENT}-{hash}"),
        format!("wal/Shop/7/00000003/{SEGMENT}-{hash}"),
        format!("wal/shop/7/00000003/x/{SEGMENT}-{hash}"),
        format!("packs/shop/7/00000003/{SEGMENT}-{hash}"),
        "wal/shop/7/00000000/000000000000001600000016-0123456789abcdef0123456789abcdef".to_owned(),
    ] {
        assert_eq!(parse_object_name(&name(&bad)), None, "{bad}");
    }
    let timeline_0 = WalFile::parse("000000000000001600000016").unwrap();
    assert!(object_name(&cluster(), SystemId(7), &timeline_0, hash).is_err());
}

/// Facts of a segment of which the first `same` bytes are as in every other, the rest is of `seed`.
fn version(same: usize, seed: u8, valid_bytes: u64) -> (WalFacts, Vec<u8>) {
    let mut bytes = content(16 * MIB, 0);
    bytes[same..].copy_from_slice(&content(16 * MIB, seed)[same..]);
    let prefix = naming().digest(&bytes[..]).unwrap().prefix;
    let segment = facts(valid_bytes);
    (WalFacts { segment, prefix }, bytes)
}

#[test]
fn a_longer_tail_a_fork_and_what_is_between_are_told_apart() {
    let full = 16 << 20;
    let mib = |n: u64| n << 20;
    use Relation::*;
    for (a, b, keyless, with_identity) in [
        // The same content, and the same WAL with other bytes behind it.
        ((0, 1, full), (0, 1, full), Same, Same),
        ((8 * MIB, 1, mib(8)), (8 * MIB, 2, mib(8)), Same, Same),
        // One goes on where the other ends.
        (
            (8 * MIB, 1, mib(8)),
            (8 * MIB, 2, full),
            LongerTail(Longer::Second),
            LongerTail(Longer::Second),
        ),
        (
            (9 * MIB, 1, full),
            (9 * MIB, 2, mib(8) + 5),
            LongerTail(Longer::First),
            LongerTail(Longer::First),
        ),
        // Different WAL before the shorter one ends.
        ((7 * MIB, 1, mib(8)), (7 * MIB, 2, full), Fork, Fork),
        ((0, 1, full), (0, 2, full), Fork, Fork),
        ((15 * MIB + 7, 1, full), (15 * MIB + 7, 2, full), Fork, Fork),
        // They differ in the sixteenth in which the shorter one ends: before or behind that end?
        (
            (8 * MIB + 9, 1, mib(8) + 8),
            (8 * MIB + 9, 2, full),
            Unknown,
            LongerTail(Longer::Second),
        ),
        ((8 * MIB + 9, 1, mib(8) + 100), (8 * MIB + 9, 2, full), Unknown, Fork),
    ] {
        let ((a_facts, a_bytes), (b_facts, b_bytes)) = (version(a.0, a.1, a.2), version(b.0, b.1, b.2));
        assert_eq!(compare(&a_facts, &b_facts), keyless, "{a:?} {b:?}");
        assert_eq!(
            compare_contents((&a_facts, &a_bytes), (&b_facts, &b_bytes)),
            with_identity,
            "{a:?} {b:?}"
        );
        let swapped = match keyless {
            LongerTail(Longer::First) => LongerTail(Longer::Second),
            LongerTail(Longer::Second) => LongerTail(Longer::First),
            other => other,
        };
        assert_eq!(compare(&b_facts, &a_facts), swapped, "{b:?} {a:?}");
    }
    let (mine, _) = version(0, 1, full);
    let mut theirs = mine.clone();
    theirs.segment.system_identifier = SystemId(8);
    assert_eq!(compare(&mine, &theirs), Fork);
    let mut short = mine.clone();
    short.prefix.pop();
    assert_eq!(compare(&mine, &short), Fork);
}

/// The segment after the one that `facts` describes.
fn next(before: &SegmentFacts) -> SegmentFacts {
    let start = Lsn(before.start.0 + (16 << 20));
    SegmentFacts {
        start,
        first_record: Some(Lsn(start.0 + 40)),
        first_record_prev: before.last_record,
        ..before.clone()
    }
}

#[test]
fn segments_that_follow_each_other_are_told_from_those_that_do_not() {
    let before = facts(16 << 20);
    let after = next(&before);
    assert_eq!(link(&before, &after), Link::Follows);
    let wrong = |change: fn(&mut SegmentFacts)| {
        let mut wrong = after.clone();
        change(&mut wrong);
        link(&before, &wrong)
    };
    assert_eq!(wrong(|after| after.first_record_prev = Some(Lsn(1))), Link::Broken);
    assert_eq!(wrong(|after| after.continued_bytes = 1), Link::Broken);
    assert_eq!(
        wrong(|after| after.start = Lsn(after.start.0 + (16 << 20))),
        Link::Broken
    );
    assert_eq!(wrong(|after| after.system_identifier = SystemId(8)), Link::Broken);
    assert_eq!(wrong(|after| after.first_record_prev = None), Link::Unknown);
    let stopped = facts(8 << 20);
    assert_eq!(link(&stopped, &next(&stopped)), Link::Broken);

    let mut spans = before.clone();
    (spans.unfinished_record, spans.missing_bytes) = (Some(Lsn(before.start.0 + 500)), 77);
    let mut goes_on = next(&spans);
    (goes_on.continued_bytes, goes_on.first_record_prev) = (77, spans.unfinished_record);
    assert_eq!(link(&spans, &goes_on), Link::Follows);
    goes_on.first_record_prev = None;
    assert_eq!(
        link(&spans, &goes_on),
        Link::Follows,
        "a record longer than the segment"
    );
    goes_on.continued_bytes = 76;
    assert_eq!(link(&spans, &goes_on), Link::Broken);

    let mut dropped = next(&spans);
    assert_eq!(link(&spans, &dropped), Link::Broken, "an unfinished record must go on");
    dropped.drops_unfinished = true;
    assert_eq!(
        link(&spans, &dropped),
        Link::Follows,
        "or have been given up in a crash"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn random_names_never_panic(text in "(wal/)?[a-z0-9/.-]{0,60}") {
        if let Ok(name) = ObjectName::new(text) {
            prop_assert!(parse_object_name(&name).is_none());
        }
    }

    #[test]
    fn the_hash_is_that_of_all_bytes_however_the_file_is_cut(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let digest = naming().digest(&bytes[..]).unwrap();
        prop_assert_eq!(&digest.hash, &naming().hash(&bytes));
        for (i, prefix) in digest.prefix.iter().enumerate() {
            let border = bytes.len() * (i + 1) / 16;
            prop_assert_eq!(prefix, &naming().hash(&bytes[..border])[..16]);
        }
    }
}
