//! Claims about test clusters themselves, on every major.

use super::*;

crate::every_major! {
    /// Aim: what a crash or a restart leaves is what was committed. Method: kill -9, immediate, fast.
    fn a_cluster_survives_every_way_to_end_it(major: u16) {
        let mut cluster = Cluster::builder(major).segment_mib(1).start();
        cluster.sql("CREATE TABLE t(i int); INSERT INTO t SELECT generate_series(1, 100)");
        cluster.kill9();
        assert!(!cluster.is_running());
        cluster.start();
        cluster.restart(StopMode::Immediate);
        cluster.restart(StopMode::Fast);
        cluster.check_structure();
        assert_eq!(cluster.sql("SELECT count(*) FROM t"), "100");
        assert!(cluster.version().starts_with(&major.to_string()));
        assert!(cluster.sql_err("SELECT 1/0").contains("division by zero"));
        assert_eq!(cluster.sql("SHOW data_checksums; SHOW wal_segment_size; SHOW fsync"), "on\n1MB\noff");
        cluster.stop(StopMode::Fast);
        cluster.check_pages();
        assert_eq!(cluster.control("Database cluster state"), "shut down");
    }

    /// Aim: a standby streams and can be promoted onto the next timeline.
    fn a_standby_follows_and_is_promoted(major: u16) {
        let primary = Cluster::builder(major).segment_mib(1).start();
        primary.sql("CREATE TABLE t(i int)");
        let mut standby = primary.standby("standby");
        primary.sql("INSERT INTO t VALUES (1)");
        standby.catch_up_with(&primary);
        standby.promote();
        assert_eq!(standby.sql("SELECT i FROM t"), "1");
        assert_eq!(standby.timeline().get(), 2);
        assert_eq!(standby.system_id(), primary.system_id());
        assert_ne!(standby.port(), primary.port());
    }

    /// Aim: archiving, switching and recovery from an archive work, so that tests of pgkeep's can rely on them.
    /// Method: cp as archive_command; restore a copy to a named point, then with a segment missing.
    fn recovery_from_an_archive_ends_as_asked(major: u16) {
        let archive = crate::Scratch::new();
        let dir = archive.dir("wal");
        let primary = Cluster::builder(major)
            .segment_mib(1)
            .archive_command(&format!("cp %p {}/%f", dir.display()))
            .start();
        primary.base_backup_to(&archive.join("copy"), false);
        primary.base_backup_to(&archive.join("broken"), false);
        primary.sql("CREATE TABLE t(i int)");
        let first = primary.archive_all();
        primary.sql("INSERT INTO t VALUES (1); SELECT pg_create_restore_point('here')");
        primary.sql("INSERT INTO t VALUES (2)");
        primary.archive_all();
        assert!(primary.waldump([dir.join(&first)]).contains("SWITCH"));
        let recover = |name: &str| {
            let mut copy = Cluster::adopt_dir(major, archive.join(name));
            copy.set_conf("archive_mode", "off");
            copy.set_conf("restore_command", &format!("cp {}/%f %p", dir.display()));
            copy.set_conf("recovery_target_name", "here");
            copy.put_file("recovery.signal", "");
            copy
        };
        let mut copy = recover("copy");
        copy.start();
        copy.wait_paused();
        assert_eq!(copy.sql("SELECT i FROM t"), "1");
        std::fs::remove_file(dir.join(&first)).unwrap();
        assert!(recover("broken").start_expect_failure().contains("recovery ended before configured recovery target"));
    }
}

/// Aim: damage that PostgreSQL itself would notice is noticed here. Method: a flipped bit in a heap page.
#[test]
#[should_panic(expected = "checksum verification failed")]
fn a_bad_page_is_noticed() {
    let mut cluster = Cluster::builder(16).start();
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i; CHECKPOINT");
    let file = cluster.sql("SELECT pg_relation_filepath('t')");
    cluster.stop(StopMode::Fast);
    crate::Damaged::new(cluster.data_dir(), &file, crate::Damage::FlipBit { at: 9000, bit: 3 }).keep();
    cluster.check_pages();
}
