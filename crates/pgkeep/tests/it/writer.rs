//! A host whose S3 credentials may create objects and nothing else: docs/roles.md, "What a writer can know".
//!
//! The repository is made with the administrator's credentials; then the host acts as `writer`. Whether it did well is
//! seen by others: by `restorer`, who reads and lists, and by looking into the bucket.

use std::fs;

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Bucket, Cluster, Output, Run, S3Server};

use crate::backup::{backup, digest, lose_state, number, text};
use crate::shop;

/// Makes an installation with its repository `main` in a bucket of its own, and lets it act as a writer.
pub fn writer_shop(major: u16) -> (Shop, Bucket) {
    let server = S3Server::shared();
    let bucket = server.bucket("writer");
    let shop = shop(major).s3("main", server, &bucket, "wo/shop", "admin").start();
    act_as(&shop, "writer");
    (shop, bucket)
}

/// Lets all further commands, `archive_command` too, use another identity's credentials.
pub fn act_as(shop: &Shop, identity: &str) {
    let next = |name: &str, content: &str| {
        let path = shop.home().file(&format!("main.{name}.next"), content);
        fs::rename(path, shop.home().join(format!("main.{name}"))).unwrap();
    };
    next("access-key", identity);
    next("secret-key", &format!("{identity}secret"));
}

/// Runs a command with another identity's credentials, which `archive_command` doesn't get to use meanwhile.
pub fn as_other<S: AsRef<std::ffi::OsStr>>(shop: &Shop, identity: &str, args: impl IntoIterator<Item = S>) -> Output {
    let key = shop.home().file("other.access-key", identity);
    let secret = shop.home().file("other.secret-key", format!("{identity}secret"));
    let run = shop.run(args).env("PGKEEP_REPOSITORY__MAIN__ACCESS_KEY_ID_FILE", key);
    run.env("PGKEEP_REPOSITORY__MAIN__SECRET_ACCESS_KEY_FILE", secret).run()
}

/// Restores everything with the restorer's credentials; the table `t` must be as it is in the source.
#[track_caller]
fn check_restore(shop: &Shop) {
    let expected = digest(&shop.cluster, "t");
    shop.cluster.archive_all();
    act_as(shop, "restorer");
    let mut restored = shop.restore("restored", ["--latest"]);
    restored.start();
    restored.wait_recovered();
    act_as(shop, "writer");
    assert_eq!(digest(&restored, "t"), expected);
}

fn make_table(shop: &Shop) {
    shop.cluster
        .sql("CREATE TABLE t AS SELECT i, md5(i::text) AS content FROM generate_series(1, 20000) i");
}

/// Names of the stored objects of a WAL file.
fn stored(bucket: &Bucket, file: &str) -> Vec<String> {
    let names = bucket.list("wo/shop/wal/");
    names
        .into_iter()
        .filter(|name| name.contains(&format!("/{file}-")))
        .collect()
}

/// Aim: who may only create objects archives, backs up, and backs up again reusing what is there.
#[test]
fn a_writer_that_may_only_create_does_everything() {
    let (shop, bucket) = writer_shop(17);
    make_table(&shop);
    shop.pgkeep(["list"]).expect(7);
    let full = backup(&shop, &[]);
    shop.cluster.sql("UPDATE t SET content = 'later' WHERE i % 5000 = 0");
    let next = backup(&shop, &[]);
    assert!(number(&next["new_bytes"]) < number(&full["new_bytes"]) / 4, "{next}");
    shop.pgkeep(["mark", "before-deploy"]).ok();

    let list = as_other(&shop, "restorer", ["--json", "list"]).ok().json();
    let listed: Vec<String> = list["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| text(&entry["id"]))
        .collect();
    assert_eq!(listed, [text(&full["id"]), text(&next["id"])]);
    assert_eq!(bucket.seen_by("writer").try_list(""), Err(403));
    check_restore(&shop);
}

/// Aim: with its state lost, a writer that can't look goes on archiving at once, pushes again what is there already,
/// and stores its next backup whole.
#[test]
fn a_writer_that_lost_its_state_goes_on() {
    let (shop, bucket) = writer_shop(18);
    make_table(&shop);
    let full = backup(&shop, &[]);
    let segment = shop.cluster.switch_wal();
    let copy = fs::read(shop.cluster.data_dir().join("pg_wal").join(&segment)).unwrap();
    shop.cluster.wait_archived(&segment);
    let objects = stored(&bucket, &segment);
    assert_eq!(objects.len(), 1);

    lose_state(&shop);
    push(&shop, &segment, &copy).run().ok();
    assert_eq!(stored(&bucket, &segment), objects);
    shop.cluster.archive_all();

    lose_state(&shop);
    let next = backup(&shop, &[]);
    assert!(
        number(&next["new_bytes"]) > number(&full["new_bytes"]) * 9 / 10,
        "{next}"
    );
    assert_eq!(
        shop.cluster.sql("SELECT failed_count FROM pg_stat_archiver"),
        "0",
        "{}",
        shop.cluster.log()
    );
    check_restore(&shop);
}

/// Aim: a second pusher of the same segment (a second host with a signing key and state of its own) meets the first
/// one's object and succeeds; one that pushes other content under that name never replaces it, and readers see both.
/// Method: the other content comes from a copy of the cluster that goes its own way on the same timeline.
#[test]
fn a_second_pusher_of_the_same_segment() {
    let (shop, bucket) = writer_shop(17);
    let twin = twin_of(&shop);
    let ours = write_segments(&shop.cluster, "ours");
    let theirs = write_segments(&twin, "theirs");
    let segment = ours
        .iter()
        .rev()
        .find(|name| theirs.contains(name))
        .expect("both write the same segments");
    let content = fs::read(shop.cluster.data_dir().join("pg_wal").join(segment)).unwrap();
    shop.cluster.wait_archived(&ours[3]);
    let first = stored(&bucket, segment);
    let bytes = bucket.get(&first[0]);

    elsewhere(&shop, push(&shop, segment, &content)).run().ok();
    assert_eq!(stored(&bucket, segment), first);
    assert_eq!(
        bucket.get(&first[0]),
        bytes,
        "the second pusher replaced the first one's object"
    );

    // Who knows what it pushed itself refuses the other content; who doesn't can't see the conflict.
    let other = fs::read(twin.data_dir().join("pg_wal").join(segment)).unwrap();
    let refused = push(&shop, segment, &other).run().expect(6);
    assert!(refused.stderr.contains(segment), "{refused}");
    fs::remove_dir_all(shop.home().join("elsewhere")).unwrap();
    elsewhere(&shop, push(&shop, segment, &other)).run().ok();
    assert_eq!(stored(&bucket, segment).len(), 2);
    assert_eq!(bucket.get(&first[0]), bytes);
    let listed = as_other(&shop, "restorer", ["--json", "wal", "list"]).ok().json();
    assert_eq!(listed["lineages"][0]["conflicts"], serde_json::json!([segment]));
}

/// A copy of the cluster that has gone on by itself, without archiving.
fn twin_of(shop: &Shop) -> Cluster {
    let dir = shop.cluster.scratch().join("twin");
    shop.cluster.base_backup_to(&dir, false);
    let mut twin = Cluster::adopt_dir(shop.cluster.major(), dir);
    twin.set_conf("archive_command", "");
    twin.start();
    twin.sql("CREATE TABLE only_here (i int)");
    twin
}

/// Aim: nodes that push the same segments at once leave one object of each, and all are told so.
#[test]
fn three_nodes_push_the_same_segments_at_once() {
    let (shop, bucket) = writer_shop(17);
    let node = |number: u32, segment: &str| {
        let dir = shop.home().dir(&format!("node-{number}"));
        shop.run(["wal", "push", &format!("pg_wal/{segment}")])
            .env("PGKEEP_STATE_DIR", dir.join("state"))
            .env("PGKEEP_SIGNING_KEY_FILE", dir.join("signing.key"))
            .cwd(shop.cluster.data_dir())
            .spawn()
    };
    for segment in write_segments(&shop.cluster, "same") {
        let nodes: Vec<_> = (1..=3).map(|number| node(number, &segment)).collect();
        for node in nodes {
            node.wait().ok();
        }
        assert_eq!(stored(&bucket, &segment).len(), 1, "{segment}");
    }
}

/// Writes four segments with so much in them that they can be told apart by their facts.
fn write_segments(cluster: &Cluster, word: &str) -> Vec<String> {
    let write = |_| {
        cluster.sql(&format!(
            "SELECT pg_logical_emit_message(false, 'test', repeat('{word}', 50000))"
        ));
        cluster.switch_wal()
    };
    (0..4).map(write).collect()
}

/// A push of `content` as if PostgreSQL had it in `pg_wal`.
fn push(shop: &Shop, segment: &str, content: &[u8]) -> Run {
    shop.home().dir("copy");
    shop.home().dir("copy/pg_wal");
    shop.home().file(&format!("copy/pg_wal/{segment}"), content);
    shop.run(["wal", "push", &format!("pg_wal/{segment}")])
        .cwd(shop.home().join("copy"))
}

/// What another host runs, which has the same configuration and repository file, but its own key and state.
fn elsewhere(shop: &Shop, run: Run) -> Run {
    let dir = shop.home().dir("elsewhere");
    run.env("PGKEEP_STATE_DIR", dir.join("state"))
        .env("PGKEEP_SIGNING_KEY_FILE", dir.join("signing.key"))
}
