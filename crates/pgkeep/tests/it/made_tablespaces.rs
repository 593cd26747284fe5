//! `CREATE TABLESPACE` in the WAL that a restore replays: PostgreSQL makes it at the recorded place, whatever is there
//! and whatever a mapping says. So the plan looks at that place first.

use std::fs;
use std::path::{Path, PathBuf};

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Cluster, Signal, every_major, wait};

use crate::life::offered;
use crate::shop;

/// Commits 1, a backup, a tablespace with commit 2 in it, and commit 3: all of it archived.
fn with_a_late_tablespace(major: u16) -> (Shop, PathBuf) {
    let shop = shop(major).start();
    shop.cluster.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)");
    shop.pgkeep(["backup"]).ok();
    let place = shop.cluster.create_tablespace("late");
    shop.cluster
        .sql("CREATE TABLE far TABLESPACE late AS SELECT 2 AS i; INSERT INTO t VALUES (3)");
    shop.cluster.archive_all();
    (shop, place)
}

/// Restores to the end of the archive, or wherever the options say, and opens the copy.
#[track_caller]
fn opened(shop: &Shop, name: &str, options: &[&str]) -> Cluster {
    let mut copy = shop.restore(name, options);
    copy.start();
    copy.wait_recovered();
    copy
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

every_major! {
    /// Aim: a copy beside its living source does not get at the source's new tablespace; a moment before it is reached,
    /// and the source never notices.
    fn a_living_source_keeps_its_new_tablespace(major: u16) {
        let (shop, place) = with_a_late_tablespace(major);
        let refused = shop.refused_restore(&[]);
        for words in [&place.display().to_string() as &str, "is not empty", "--exclusive"] {
            assert!(refused.stderr.contains(words), "{refused}");
        }
        let before = offered(&refused)[0].to_string();
        let copy = opened(&shop, "before", &["--lsn", &before, "--exclusive", "--action", "promote"]);
        assert_eq!(copy.sql("SELECT string_agg(i::text, ' ' ORDER BY i) FROM t"), "1");
        assert_eq!(copy.sql("SELECT count(*) FROM pg_tablespace WHERE spcname = 'late'"), "0");

        let moved = format!("{}={}", place.display(), shop.home().join("elsewhere").display());
        let refused = shop.refused_restore(&["--tablespace", &moved]);
        assert!(refused.stderr.contains("can't be moved"), "{refused}");
        shop.cluster.sql("INSERT INTO far VALUES (4)");
        assert_eq!(shop.cluster.sql("SELECT sum(i) FROM far"), "6");

        // Once a backup has it, it is moved like any other.
        shop.pgkeep(["backup"]).ok();
        shop.cluster.archive_all();
        let copy = opened(&shop, "moved", &["--tablespace", &moved]);
        assert_eq!(copy.sql("SELECT sum(i) FROM far"), "6");
    }

    /// Aim: on a new host, where the place does not exist, it is made, and so is the tablespace.
    fn a_lost_source_gets_its_new_tablespace_back(major: u16) {
        let (mut shop, place) = with_a_late_tablespace(major);
        shop.cluster.kill9();
        let lost = place.with_file_name("lost");
        fs::rename(&place, &lost).unwrap();
        let plan = shop.run(["restore", "--dry-run", "--into"]).arg(shop.target("copy")).run().ok();
        assert!(plan.stdout.contains("made by recovery"), "{plan}");
        assert!(!place.exists(), "{plan}");
        let copy = opened(&shop, "copy", &[]);
        assert_eq!(copy.sql("SELECT i FROM far"), "2");
        assert_eq!(copy.sql("SELECT string_agg(i::text, ' ' ORDER BY i) FROM t"), "1 3");
        assert_eq!(names(&place).len(), 1, "its version directory and nothing of the restore: {:?}", names(&place));
    }
}

/// Aim: a tablespace that was made while the backup ran is restored where it was, and not elsewhere: recovery would link
/// it back to its old place.
#[test]
fn a_tablespace_that_was_made_while_the_backup_ran() {
    let mut shop = shop(17).start();
    shop.cluster.sql("CREATE TABLE t AS SELECT 1 AS i");
    let place = made_during_a_backup(&shop);
    shop.cluster.archive_all();
    shop.cluster.kill9();
    let moved = format!("{}={}", place.display(), shop.home().join("elsewhere").display());
    let refused = shop.refused_restore(&["--tablespace", &moved]);
    assert!(refused.stderr.contains("can't be moved"), "{refused}");
    fs::rename(&place, place.with_file_name("lost")).unwrap();
    let copy = opened(&shop, "copy", &[]);
    assert_eq!(copy.sql("SELECT i FROM far"), "2");
}

/// Takes a backup, and makes the tablespace while it is stopped in the midst of copying.
fn made_during_a_backup(shop: &Shop) -> PathBuf {
    let redo = || shop.cluster.sql("SELECT redo_lsn FROM pg_control_checkpoint()");
    let before = redo();
    let mut backup = shop.run(["backup", "--full", "--rate", "4 MiB"]).spawn();
    wait::until("the backup to begin", wait::LIMIT, || (redo() != before).then_some(()));
    backup.signal(Signal::STOP);
    assert!(backup.is_running(), "the backup was over too soon: {}", backup.stderr());
    let place = shop.cluster.create_tablespace("late");
    shop.cluster.sql("CREATE TABLE far TABLESPACE late AS SELECT 2 AS i");
    backup.signal(Signal::CONT);
    backup.wait().ok();
    place
}
