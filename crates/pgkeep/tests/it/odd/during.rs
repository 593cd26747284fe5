//! Relations, databases and tablespaces that come, go and change while a backup reads (K19, K20, K22–K25, K37).

use pgkeep_testkit::fixture::Shop;

use super::at_both_ends;
use super::paused::Paused;
use super::truth::{Truth, beside, restored};
use crate::backup::{backup, listed, text};
use crate::shop;

/// Databases in the order in which a backup reads them: their OIDs have as many digits.
const EARLY: &str = "early";
const HERE: &str = "here";
const LATE: &str = "late";

/// A cluster with something of everything that can change, in databases that lie before, at and behind the pause.
fn busy_shop(major: u16) -> Shop {
    let shop = shop(major)
        .cluster(|cluster| cluster.segment_mib(16).conf("autovacuum = off"))
        .start();
    shop.cluster.create_tablespace("old_place");
    shop.cluster.create_tablespace("leaving");
    for database in ["early_gone", EARLY, HERE, LATE, "late_gone"] {
        shop.cluster.sql(&format!("CREATE DATABASE {database}"));
        shop.cluster.sql_in(database, TABLES);
    }
    shop.cluster.sql("CREATE DATABASE late_placed TABLESPACE old_place");
    shop.cluster
        .sql_in("late_placed", "CREATE TABLE t AS SELECT generate_series(1, 100) i");
    let left = "CREATE TABLE left_behind TABLESPACE leaving AS SELECT i FROM generate_series(1, 5000) i";
    shop.cluster.sql_in(HERE, left);
    shop
}

/// Made in this order, so that their files are read in this order.
pub const TABLES: &str = "
    CREATE TABLE a_dropped AS SELECT i, repeat('a', 500) t FROM generate_series(1, 500) i;
    CREATE TABLE a_truncated AS SELECT i, repeat('b', 500) t FROM generate_series(1, 500) i;
    CREATE TABLE a_moved AS SELECT i, repeat('c', 100) t FROM generate_series(1, 3000) i;
    CREATE TABLE a_moved_back TABLESPACE old_place AS SELECT i, repeat('c', 100) t FROM generate_series(1, 3000) i;
    CREATE TABLE a_clustered (i int PRIMARY KEY, p point, t text);
    INSERT INTO a_clustered SELECT i, point(i, i % 99), md5(i::text) FROM generate_series(1, 4000) i ORDER BY md5(i::text);
    CREATE INDEX a_gist ON a_clustered USING gist (p);
    CREATE TABLE a_logged AS SELECT i FROM generate_series(1, 3000) i;
    CREATE UNLOGGED TABLE a_unlogged AS SELECT i FROM generate_series(1, 3000) i;";
const MORE_TABLES: &str = "
    CREATE TABLE z_dropped AS SELECT i, repeat('a', 500) t FROM generate_series(1, 500) i;
    CREATE TABLE z_truncated AS SELECT i, repeat('b', 500) t FROM generate_series(1, 500) i;
    CREATE TABLE z_moved AS SELECT i, repeat('c', 100) t FROM generate_series(1, 3000) i;
    CREATE TABLE z_vacuumed AS SELECT i, repeat('d', 100) t FROM generate_series(1, 3000) i;
    CREATE TABLE z_logged AS SELECT i FROM generate_series(1, 3000) i;
    CREATE UNLOGGED TABLE z_unlogged AS SELECT i FROM generate_series(1, 3000) i;";

/// What happens to tables in a database, whichever part of them was read.
pub const CHANGES: &str = "
    DROP TABLE a_dropped;
    TRUNCATE a_truncated;
    INSERT INTO a_truncated VALUES (1, 'new');
    ALTER TABLE a_moved SET TABLESPACE old_place;
    ALTER TABLE a_moved_back SET TABLESPACE pg_default;
    CLUSTER a_clustered USING a_clustered_pkey;
    REINDEX INDEX a_gist;
    UPDATE a_clustered SET t = 'after ' || i WHERE i % 3 = 0;
    ALTER TABLE a_logged SET UNLOGGED;
    ALTER TABLE a_unlogged SET LOGGED;
    CREATE TABLE a_dropped AS SELECT i, 'again' t FROM generate_series(1, 100) i;
    VACUUM FULL pg_class; VACUUM FULL pg_attribute;";
const MORE_CHANGES: &str = "
    DROP TABLE z_dropped;
    TRUNCATE z_truncated;
    ALTER TABLE z_moved SET TABLESPACE old_place;
    DELETE FROM z_vacuumed WHERE i % 2 = 0;
    VACUUM FULL z_vacuumed;
    ALTER TABLE z_logged SET UNLOGGED;
    ALTER TABLE z_unlogged SET LOGGED;
    ALTER TABLE left_behind SET TABLESPACE pg_default;
    DROP TABLESPACE leaving;
    REINDEX SYSTEM here;
    BEGIN; CREATE TABLE prepared AS SELECT generate_series(1, 10) i; PREPARE TRANSACTION 'across';";

fn change_everything(shop: &Shop) {
    for database in [EARLY, LATE, HERE] {
        shop.cluster.sql_in(database, CHANGES);
    }
    shop.cluster.sql_in(HERE, MORE_CHANGES);
    shop.cluster
        .sql("DROP DATABASE early_gone; DROP DATABASE late_gone; REINDEX DATABASE postgres; VACUUM FULL pg_database");
    let strategies: &[&str] = match shop.cluster.major() {
        14 => &[""],
        _ => &["STRATEGY wal_log", "STRATEGY file_copy"],
    };
    for (number, strategy) in strategies.iter().enumerate() {
        shop.cluster.sql(&format!(
            "CREATE DATABASE made_{number} TEMPLATE early {strategy};
             CREATE DATABASE placed_{number} TEMPLATE late_placed {strategy}"
        ));
        shop.cluster.sql_in(
            &format!("made_{number}"),
            "UPDATE a_clustered SET t = 'copied' WHERE i < 100",
        );
    }
    shop.cluster.sql_in(HERE, "COMMIT PREPARED 'across'");
}

/// Aim: whatever happens to relations, databases and tablespaces while a backup reads, it restores to what PostgreSQL
/// had at its end.
/// Method: a full backup is stopped in the midst of a table, which is dropped; an incremental one in the midst of
/// another, which VACUUM truncates and COPY lets grow again. Around them everything changes that can.
fn changes_during_a_backup(major: u16) {
    let shop = busy_shop(major);
    fill_and_follow(&shop, "read");
    let full = paused_at(&shop, "read", || {
        shop.cluster.sql_in(HERE, "DROP TABLE read");
        change_everything(&shop);
        shop.cluster.sql("CHECKPOINT");
    });
    prove(&shop, "full", &full);

    shop.cluster.sql_in(
        HERE,
        "DROP TABLE z_truncated, z_moved, z_vacuumed, z_logged, z_unlogged, prepared",
    );
    fill_and_follow(&shop, "shrunk");
    let before = backup(&shop, &[]);
    let rows: String = (0..3000).map(|row| format!("{row}\tgrown again\n")).collect();
    let rows = shop.home().file("rows", rows);
    let incremental = paused_at(&shop, "shrunk", || {
        shop.cluster
            .sql_in(HERE, "DELETE FROM shrunk WHERE id > 100; VACUUM shrunk");
        let bytes: u64 = shop
            .cluster
            .sql_in(HERE, "SELECT pg_relation_size('shrunk')")
            .parse()
            .unwrap();
        assert!(bytes < 1 << 20, "VACUUM truncated it to {bytes} bytes");
        let copy = format!(
            "COPY shrunk FROM '{}'; DROP TABLE z_vacuumed; CHECKPOINT",
            rows.display()
        );
        shop.cluster.sql_in(HERE, &copy);
    });
    prove(&shop, "incremental", &incremental);
    assert_ne!(before["id"], incremental);
}

/// Makes a table of 12 MiB, and others whose files are read after it.
fn fill_and_follow(shop: &Shop, name: &str) {
    let fill = format!("CREATE TABLE {name} AS SELECT id, repeat('x', 1000) t FROM generate_series(1, 12000) id; ");
    shop.cluster.sql_in(HERE, &(fill + MORE_TABLES));
}

/// Takes a backup during which `change` happens, and gives its id.
fn paused_at(shop: &Shop, table: &str, change: impl FnOnce()) -> String {
    let file = |table: &str| {
        shop.cluster
            .sql_in(HERE, &format!("SELECT pg_relation_filepath('{table}')"))
    };
    let behind = file("z_vacuumed");
    let paused = Paused::reading(shop, &file(table));
    assert!(!paused.has_open(shop, &behind), "what lies behind is not read yet");
    change();
    text(&paused.resume().ok().json()["id"])
}

fn prove(shop: &Shop, name: &str, id: &str) {
    let options = beside(shop, name);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Truth::of(&shop.cluster).prove(restored(shop, name, id, &options));
}

at_both_ends!(changes_during_a_backup);

/// Aim: a database that moves to another tablespace, or is copied from one that is then dropped, while a backup runs,
/// would be empty after a restore, since PostgreSQL logs only that files are copied: the backup fails and says so, and
/// the next one is whole.
fn databases_that_replay_could_not_copy(major: u16) {
    let shop = shop(major).cluster(|cluster| cluster.segment_mib(16)).start();
    shop.cluster.create_tablespace("place");
    shop.cluster.sql(&format!(
        "CREATE DATABASE {HERE}; CREATE DATABASE moved; CREATE DATABASE source"
    ));
    for database in ["moved", "source"] {
        shop.cluster
            .sql_in(database, "CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    }
    fill_and_follow(&shop, "read");
    let file = shop.cluster.sql_in(HERE, "SELECT pg_relation_filepath('read')");
    let strategy = if major == 14 { "" } else { "STRATEGY file_copy" };
    let copied = format!("CREATE DATABASE copied TEMPLATE source {strategy}; DROP DATABASE source");
    for change in ["ALTER DATABASE moved SET TABLESPACE place", &copied] {
        let paused = Paused::reading(&shop, &file);
        shop.cluster.sql(change);
        let output = paused.resume().expect(4);
        assert!(output.stderr.contains("was copied from database"), "{change}: {output}");
        assert!(output.stderr.contains("Run `pgkeep backup` again"), "{output}");
        assert_eq!(listed(&shop), [""; 0]);
    }
    prove(&shop, "copy", &text(&backup(&shop, &[])["id"]));
}

at_both_ends!(databases_that_replay_could_not_copy);

/// Aim: while a backup runs, an older one restores, WAL is archived and the state is told; a second backup is refused
/// (K52).
#[test]
fn what_goes_on_while_a_backup_runs() {
    let shop = shop(17).start();
    shop.cluster.sql(&format!("CREATE DATABASE {HERE}"));
    fill_and_follow(&shop, "read");
    let (truth, older) = (Truth::of(&shop.cluster), text(&backup(&shop, &[])["id"]));
    let file = shop.cluster.sql_in(HERE, "SELECT pg_relation_filepath('read')");
    let paused = Paused::reading(&shop, &file);
    shop.cluster.sql_in(HERE, "DELETE FROM read WHERE id % 2 = 0");
    shop.cluster.archive_all();
    truth.prove(restored(&shop, "older", &older, &[]));
    shop.pgkeep(["status"]).ok();
    shop.pgkeep(["backup"]).expect(6);
    prove(&shop, "newer", &text(&paused.resume().ok().json()["id"]));
}
