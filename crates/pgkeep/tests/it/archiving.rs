//! `archive_command = 'pgkeep wal push %p'` as PostgreSQL itself runs it.

use pgkeep_testkit::corrupt::objects_like;
use pgkeep_testkit::{S3Server, every_major};

use crate::shop;

every_major! {
    /// Aim: every segment that PostgreSQL calls archived is in the repository under its own name.
    fn every_archived_segment_is_in_the_repository(major: u16) {
        let shop = shop(major).start();
        let segments: Vec<String> = (0..3).map(|_| shop.cluster.archive_all()).collect();
        let stored = objects_like(&shop.repository_dir("main"), "wal/");
        for segment in segments {
            assert!(stored.iter().any(|name| name.contains(&format!("{segment}-"))), "{segment} of {stored:?}");
        }
        assert_eq!(shop.cluster.sql("SELECT failed_count FROM pg_stat_archiver"), "0", "{}", shop.cluster.log());
    }
}

/// Aim: a host whose credentials may only create objects archives as well as any other.
#[test]
fn a_writer_that_may_only_put_archives() {
    let server = S3Server::shared();
    let bucket = server.bucket("archive");
    let shop = shop(17).s3("main", server, &bucket, "wo/shop", "admin").start();
    shop.reconfigure("main.access-key", "writer.access-key");
    shop.reconfigure("main.secret-key", "writer.secret-key");
    shop.home().file("writer.access-key", "writer");
    shop.home().file("writer.secret-key", "writersecret");
    let segment = shop.cluster.archive_all();
    let stored = bucket.list("wo/shop/");
    assert!(
        stored.iter().any(|name| name.contains(&format!("{segment}-"))),
        "{segment} of {stored:?}"
    );
}
