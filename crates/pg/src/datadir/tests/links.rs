//! Tablespaces and symbolic links: what may lead out of a data directory, and what may not.

use super::*;

#[test]
fn a_tablespace_is_listed_where_its_link_is() {
    let fake = Fake::new();
    let location = fake.location("ts");
    fs::write(location.join(VERSION_DIRECTORY).join("5/20000"), "12345").unwrap();
    fs::create_dir(location.join("PG_14_202107181")).unwrap();
    fs::write(location.join("foreign"), "").unwrap();
    fake.tablespace(16400, &location);
    // An in-place tablespace is a plain directory.
    fake.file("pg_tblspc/16500/PG_17_202406281/5/30000", "x");
    let listing: Vec<String> = fake
        .listing()
        .into_iter()
        .filter(|path| path.starts_with("pg_tblspc/1"))
        .collect();
    assert_eq!(
        listing,
        [
            "pg_tblspc/16400@",
            "pg_tblspc/16400/PG_17_202406281/",
            "pg_tblspc/16400/PG_17_202406281/5/",
            "pg_tblspc/16400/PG_17_202406281/5/20000",
            "pg_tblspc/16500/",
            "pg_tblspc/16500/PG_17_202406281/",
            "pg_tblspc/16500/PG_17_202406281/5/",
            "pg_tblspc/16500/PG_17_202406281/5/30000",
        ]
    );
    let oid = 16400;
    let tablespaces = [Tablespace { oid, location }];
    assert_eq!(fake.open().tablespaces().unwrap(), tablespaces);
    let file = fake.entry("pg_tblspc/16400/PG_17_202406281/5/20000");
    assert_eq!(file.bytes(), 5);
    assert!(matches!(file.class, Class::Relation(relation) if relation.tablespace == 16400));
    assert!(
        fake.open().open_file(&file).unwrap().is_some(),
        "opened through the link"
    );
}

#[test]
fn locations_that_are_prefixes_of_each_other_are_different_tablespaces() {
    let fake = Fake::new();
    for (oid, name) in [
        (16400, "ts"),
        (16401, "ts1"),
        (16402, "ts/nested"),
        (16403, "ts.1"),
        (16404, "data1"),
    ] {
        let location = fake.location(name);
        fs::write(location.join(VERSION_DIRECTORY).join(format!("5/{oid}")), "x").unwrap();
        fake.tablespace(oid, &location);
    }
    let relations: Vec<String> = fake
        .listing()
        .into_iter()
        .filter(|path| path.contains("/5/16"))
        .collect();
    let expected = [16400, 16401, 16402, 16403, 16404].map(|n| format!("pg_tblspc/{n}/PG_17_202406281/5/{n}"));
    assert_eq!(relations, expected);
}

#[test]
fn a_tablespace_that_could_not_be_restored_is_refused() {
    type Target = fn(&Fake) -> PathBuf;
    let cases: [(&str, Target); 7] = [
        ("does not exist", |fake| fake.outside.path().join("nowhere")),
        ("is itself a symbolic link", |fake| {
            symlink(fake.location("real"), fake.outside.path().join("link")).unwrap();
            fake.outside.path().join("link")
        }),
        ("is itself a symbolic link", |fake| {
            symlink(fake.location("real"), fake.outside.path().join("link")).unwrap();
            fake.outside.path().join("link/")
        }),
        ("is relative", |fake| {
            fake.location("real");
            PathBuf::from("../../real")
        }),
        ("is not a directory", |fake| fake.path("PG_VERSION")),
        ("inside the data directory", |fake| {
            fs::create_dir_all(fake.path("ts").join(VERSION_DIRECTORY)).unwrap();
            fake.path("ts")
        }),
        ("holds no PG_17_202406281", |fake| {
            let location = fake.location("real");
            fs::rename(location.join(VERSION_DIRECTORY), location.join("PG_16_202307071")).unwrap();
            location
        }),
    ];
    for (words, target) in cases {
        let fake = Fake::new();
        let target = target(&fake);
        fake.tablespace(16400, &target);
        let error = fake.walk_error();
        let detail = error.detail_text().unwrap();
        assert!(
            detail.contains(words) && detail.contains("tablespace 16400"),
            "{words}: {detail}"
        );
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.hint_text().unwrap().contains("pgkeep doctor"));
    }
}

#[test]
fn a_location_inside_the_data_directory_is_seen_through_other_links() {
    let fake = Fake::new();
    fs::create_dir_all(fake.path("ts").join(VERSION_DIRECTORY)).unwrap();
    symlink(fake.root(), fake.outside.path().join("alias")).unwrap();
    fake.tablespace(16400, &fake.outside.path().join("alias/ts"));
    assert!(
        fake.walk_error()
            .detail_text()
            .unwrap()
            .contains("inside the data directory")
    );
    assert_eq!(fake.open().tablespaces().unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn linked_files_are_read_and_linked_directories_are_refused() {
    let fake = Fake::new();
    let config = fake.outside.path().join("postgresql.conf");
    fs::write(&config, "port = 1\n").unwrap();
    symlink(&config, fake.path("postgresql.conf")).unwrap();
    symlink("nobody@nowhere.1", fake.path(".#postgresql.conf")).unwrap();
    symlink("loop", fake.path("loop")).unwrap();
    let entry = fake.entry("postgresql.conf");
    assert_eq!(entry.bytes(), 9);
    assert_eq!(entry.link_target.as_deref(), Some(&config).map(|path| path.as_path()));
    assert!(fake.open().open_file(&entry).unwrap().is_some());
    let skipped: Vec<(String, SkipReason)> = fake
        .walk()
        .into_iter()
        .filter_map(|found| match found {
            Found::Skipped { path, reason } => Some((path.to_string(), reason)),
            Found::Entry(_) => None,
        })
        .collect();
    let dangling = SkipReason::DanglingLink;
    assert_eq!(
        skipped,
        [
            (".#postgresql.conf".to_owned(), dangling),
            ("loop".to_owned(), dangling)
        ]
    );

    symlink(fake.location("logs"), fake.path("log")).unwrap();
    let error = fake.walk_error();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error
            .detail_text()
            .unwrap()
            .contains("log is a symbolic link to a directory")
    );
}

#[test]
fn wal_and_emptied_directories_may_live_elsewhere() {
    let fake = Fake::new();
    let wal = fake.outside.path().join("wal");
    fs::create_dir_all(wal.join("archive_status")).unwrap();
    fs::write(wal.join("000000030000001600000003"), "").unwrap();
    symlink(&wal, fake.path("pg_wal")).unwrap();
    let stat = fake.outside.path().join("stat");
    fs::create_dir(&stat).unwrap();
    fs::write(stat.join("a.stat"), "").unwrap();
    symlink(&stat, fake.path("pg_stat_tmp")).unwrap();
    let listing = fake.listing();
    assert!(listing.ends_with(&["pg_stat_tmp/", "pg_tblspc/", "pg_wal/", "pg_wal/archive_status/"].map(str::to_owned)));
    assert_eq!(fake.entry("pg_wal").link_target, Some(wal));
    assert_eq!(fake.entry("pg_stat_tmp").link_target, Some(stat));
}

#[test]
fn a_tablespace_dropped_during_the_walk_is_no_error() {
    let fake = Fake::new();
    let location = fake.location("ts");
    fake.tablespace(16400, &location);
    let data_dir = fake.open();
    let mut walk = data_dir.walk().unwrap();
    let is_link = |found: &Result<Found>| {
        matches!(
            found,
            Ok(Found::Entry(Entry {
                kind: EntryKind::Tablespace(_),
                ..
            }))
        )
    };
    walk.by_ref().find(is_link).unwrap().unwrap();
    // DROP TABLESPACE: the directory first, the link while the walk wonders about it.
    fs::remove_dir_all(location.join(VERSION_DIRECTORY)).unwrap();
    walk.between_looks = |data_dir| fs::remove_file(data_dir.join("pg_tblspc/16400")).unwrap();
    let next = walk.next().unwrap().unwrap();
    assert!(
        matches!(
            next,
            Found::Skipped {
                reason: SkipReason::Vanished,
                ..
            }
        ),
        "{next:?}"
    );
    assert!(walk.next().is_none());
}
