//! Two contents under one segment's name: a longer tail is used, a fork is reported and never resolved silently.

use std::fs;
use std::path::{Path, PathBuf};

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, Run, StopMode};

use crate::shop;

/// pgkeep on another host: the same configuration, a state directory of its own.
fn elsewhere<const N: usize>(shop: &Shop, args: [&str; N]) -> Run {
    shop.run(args).env("PGKEEP_STATE_DIR", shop.state_dir_of("elsewhere"))
}

/// The segment that PostgreSQL is writing, as it is now, under its name in another directory; and that name.
fn copy_of_current_segment(shop: &Shop) -> (PathBuf, String) {
    let name = shop.cluster.current_segment().name();
    let content = fs::read(shop.cluster.data_dir().join("pg_wal").join(&name)).unwrap();
    let copy = shop.home().dir("early").join(&name);
    fs::rename(shop.home().file("half", content), &copy).unwrap();
    (copy, name)
}

/// The ids in a copy restored with these options.
#[track_caller]
fn ids(shop: &Shop, name: &str, options: &[&str]) -> String {
    let mut copy = shop.restore(name, options);
    copy.start();
    copy.wait_recovered();
    copy.sql("SELECT string_agg(i::text, ' ' ORDER BY i) FROM t")
}

/// Aim: a segment that somebody archived before it was complete, and the archiver once more when it was, is used whole.
#[test]
fn a_longer_tail_is_used() {
    for other_host in [true, false] {
        let shop = shop(17).start();
        shop.cluster.sql("CREATE TABLE t (i int)");
        shop.pgkeep(["backup"]).ok();
        shop.cluster.sql("INSERT INTO t VALUES (1)");
        let (early, segment) = copy_of_current_segment(&shop);
        let push = |run: Run| run.arg(&early).cwd(shop.cluster.data_dir()).run().ok();
        match other_host {
            true => push(elsewhere(&shop, ["wal", "push"])),
            false => push(shop.run(["wal", "push"])),
        };
        shop.cluster.sql("INSERT INTO t VALUES (2)");
        assert_eq!(shop.cluster.archive_all(), segment);
        shop.cluster.sql("INSERT INTO t VALUES (3)");
        shop.cluster.archive_all();
        assert_eq!(ids(&shop, "copy", &[]), "1 2 3", "other host: {other_host}");
    }
}

/// Aim: an object under a segment's name proves nothing: `mark` and `backup` want the content that PostgreSQL has.
#[test]
fn other_content_is_not_the_arrival() {
    let mut shop = shop(17).start();
    shop.cluster.sql("CREATE TABLE t (i int)");
    let works = shop.cluster.sql("SHOW archive_command");
    for command in [&["mark", "here"][..], &["backup"]] {
        shop.cluster.set_conf("archive_command", "/bin/false");
        shop.cluster.sql("INSERT INTO t VALUES (1)");
        let (early, _) = copy_of_current_segment(&shop);
        elsewhere(&shop, ["wal", "push"])
            .arg(&early)
            .cwd(shop.cluster.data_dir())
            .run()
            .ok();
        let refused = shop.run(command).run().expect(4);
        assert!(refused.stderr.contains("WAL archiving does not work"), "{refused}");
        shop.cluster.set_conf("archive_command", &works);
        shop.cluster.archive_all();
        shop.run(command).run().ok();
    }
}

/// Two servers that archive as one: both wrote after the same moment, on the same timeline. The last segment of both.
fn split_brain(shop: &mut Shop) -> String {
    shop.cluster.sql("CREATE TABLE t (i int)");
    shop.pgkeep(["backup"]).ok();
    shop.cluster.sql("INSERT INTO t VALUES (1)");
    shop.cluster.archive_all();
    shop.cluster.sql("INSERT INTO t VALUES (2)");
    let twin = twin(shop);
    shop.cluster.sql("INSERT INTO t VALUES (3)");
    twin.sql("INSERT INTO t VALUES (1003)");
    let (ours, theirs) = (shop.cluster.archive_all(), twin.archive_all());
    assert_eq!(ours, theirs);
    ours
}

/// A copy of the server, taken while it was down, that lives on beside it and archives for itself.
fn twin(shop: &mut Shop) -> Cluster {
    shop.cluster.stop(StopMode::Immediate);
    let twin = shop.home().join("twin");
    copy_directory(shop.cluster.data_dir(), &twin);
    let mut twin = Cluster::adopt_dir(shop.cluster.major(), twin);
    twin.set_conf("archive_command", &shop.archive_command_of("elsewhere"));
    shop.cluster.start();
    twin.start();
    twin
}

fn copy_directory(from: &Path, to: &Path) {
    Run::new("/bin/cp").arg("-a").arg(from).arg(to).run().ok();
}

/// Aim: of two histories under one name none is chosen: a restore is refused with the segment and the last moment before
/// it, hand-written recovery is stopped, a standby is not fed, `window` and `status` show it.
#[test]
fn a_fork_is_never_resolved_silently() {
    let mut shop = shop(17).start();
    let segment = split_brain(&mut shop);
    let target = shop.target("refused");
    let refused = shop.run(["restore", "--into"]).arg(&target).run().expect(4);
    assert!(
        refused.stderr.contains(&segment) && refused.stderr.contains("two different"),
        "{refused}"
    );
    assert!(!target.exists(), "{refused}");
    let offered = crate::life::offered(&refused)[0].to_string();
    assert_eq!(ids(&shop, "before", &["--lsn", &offered, "--action", "promote"]), "1");

    let ask = |flags: &[&str]| {
        let run = shop
            .run(["wal", "fetch", &segment])
            .arg(shop.home().join("fetched"))
            .args(flags);
        run.cwd(shop.cluster.data_dir()).run()
    };
    let stopped = ask(&[]).expect(255);
    assert!(stopped.stderr.contains("two different"), "{stopped}");
    let loud = ask(&["--standby"]).expect(1);
    assert!(loud.stderr.contains("two different"), "{loud}");
    let status = shop.pgkeep(["--json", "status"]).ok();
    assert!(status.stdout.contains("wal-conflict"), "{status}");
}

/// Aim: where the archive goes on with a segment of another server, whose own one before is lost, it does not end with the
/// segment before: a restore to the end is refused, and the last moment that is proven is offered.
#[test]
fn a_segment_of_another_server_is_not_the_end_of_the_archive() {
    let mut shop = shop(17).start();
    shop.cluster.sql("CREATE TABLE t (i int)");
    shop.pgkeep(["backup"]).ok();
    shop.cluster.sql("INSERT INTO t VALUES (1)");
    shop.cluster.archive_all();
    let mut twin = twin(&mut shop);
    // What it wrote under the name of our last segment is lost, and longer.
    let push = twin.sql("SHOW archive_command");
    twin.set_conf("archive_command", "/bin/true");
    twin.sql("INSERT INTO t SELECT generate_series(1001, 1500)");
    let lost = twin.archive_all();
    twin.set_conf("archive_command", &push);
    shop.cluster.sql("INSERT INTO t VALUES (2)");
    assert_eq!(shop.cluster.archive_all(), lost);
    shop.cluster.stop(StopMode::Immediate);
    twin.sql("INSERT INTO t VALUES (2001)");
    let theirs = twin.archive_all();
    assert!(theirs > lost, "{theirs} {lost}");

    let target = shop.target("refused");
    let refused = shop.run(["restore", "--into"]).arg(&target).run().expect(4);
    let goes_on = format!("although the archive goes on with {theirs}");
    assert!(refused.stderr.contains(&goes_on), "{refused}");
    assert!(!target.exists(), "{refused}");
    let offered = crate::life::offered(&refused)[0].to_string();
    assert_eq!(ids(&shop, "before", &["--lsn", &offered, "--action", "promote"]), "1 2");
}
