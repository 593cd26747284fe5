//! `pg_control` as `pg_controldata` of the same major reads it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgkeep_pg::control::{ClusterState, ControlFile, WalLevel};
use pgkeep_testkit::{Cluster, StopMode, every_major};

use super::quiet;

every_major! {
    /// Aim: every field means what PostgreSQL means. Method: `pg_controldata` on the same file, in four states.
    fn every_field_is_what_pg_controldata_shows(major: u16) {
        let mut cluster = quiet(major)
            .conf("wal_level = logical\nmax_connections = 37\ntrack_commit_timestamp = on\nwal_log_hints = on")
            .conf("max_worker_processes = 9\nmax_prepared_transactions = 5\nmax_wal_senders = 4")
            .init();
        compare(&cluster, ClusterState::ShutDown);
        cluster.start();
        cluster.sql("create table t as select generate_series(1, 1000) g; checkpoint");
        compare(&cluster, ClusterState::InProduction);
        cluster.stop(StopMode::Fast);
        cluster.start_as_standby();
        compare(&cluster, ClusterState::InArchiveRecovery);
        cluster.stop(StopMode::Fast);
        compare(&cluster, ClusterState::ShutDownInRecovery);
    }
}

fn compare(cluster: &Cluster, state: ClusterState) {
    let control = ControlFile::read(cluster.data_dir()).unwrap();
    let shown = cluster.program("pg_controldata").arg(cluster.data_dir()).run().ok();
    let shown: BTreeMap<&str, &str> = shown
        .stdout
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect();
    assert_eq!(control.major.get(), cluster.major());
    assert_eq!(control.state, state);
    for (name, value) in shown_as(&control) {
        assert_eq!(
            shown.get(name),
            Some(&&*value),
            "{name} of PostgreSQL {}",
            cluster.major()
        );
    }
    let time = |name: &str| -> Timestamp {
        let civil = jiff::civil::DateTime::strptime("%a %b %d %H:%M:%S %Y", shown[name]).unwrap();
        civil.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp()
    };
    assert_eq!(control.time, time("pg_control last modified"));
    assert_eq!(control.checkpoint.time, time("Time of latest checkpoint"));
}

fn shown_as(control: &ControlFile) -> Vec<(&'static str, String)> {
    let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let wal_level = match control.wal_level {
        WalLevel::Minimal => "minimal",
        WalLevel::Replica => "replica",
        WalLevel::Logical => "logical",
    };
    let checkpoint = &control.checkpoint;
    let (epoch, xid) = (checkpoint.next_xid >> 32, checkpoint.next_xid & 0xFFFF_FFFF);
    vec![
        ("Database system identifier", control.system_id.to_string()),
        ("pg_control version number", control.control_version.to_string()),
        ("Catalog version number", control.catalog_version.to_string()),
        ("Database cluster state", control.state.to_string()),
        ("Latest checkpoint location", checkpoint.lsn.to_string()),
        ("Latest checkpoint's REDO location", checkpoint.redo.to_string()),
        ("Latest checkpoint's TimeLineID", checkpoint.timeline.to_string()),
        (
            "Latest checkpoint's PrevTimeLineID",
            checkpoint.previous_timeline.to_string(),
        ),
        (
            "Latest checkpoint's full_page_writes",
            switch(checkpoint.full_page_writes),
        ),
        ("Latest checkpoint's NextXID", format!("{epoch}:{xid}")),
        ("Latest checkpoint's NextOID", checkpoint.next_oid.to_string()),
        (
            "Latest checkpoint's NextMultiXactId",
            checkpoint.next_multixact.to_string(),
        ),
        (
            "Minimum recovery ending location",
            control.min_recovery_point.to_string(),
        ),
        (
            "Min recovery ending loc's timeline",
            control
                .min_recovery_timeline
                .map_or(0, |timeline| timeline.get())
                .to_string(),
        ),
        ("Backup start location", control.backup_start_point.to_string()),
        ("Backup end location", control.backup_end_point.to_string()),
        ("End-of-backup record required", yes_no(control.backup_end_required)),
        ("wal_level setting", wal_level.to_owned()),
        ("wal_log_hints setting", switch(control.wal_log_hints)),
        ("max_connections setting", control.max_connections.to_string()),
        ("max_worker_processes setting", control.max_worker_processes.to_string()),
        ("max_wal_senders setting", control.max_wal_senders.to_string()),
        (
            "max_prepared_xacts setting",
            control.max_prepared_transactions.to_string(),
        ),
        (
            "max_locks_per_xact setting",
            control.max_locks_per_transaction.to_string(),
        ),
        ("track_commit_timestamp setting", switch(control.track_commit_timestamp)),
        ("Database block size", control.block_bytes.to_string()),
        (
            "Blocks per segment of large relation",
            control.relation_segment_blocks.to_string(),
        ),
        ("WAL block size", control.wal_block_bytes.to_string()),
        ("Bytes per WAL segment", control.segment_size.bytes().to_string()),
        ("Data page checksum version", control.data_checksum_version.to_string()),
    ]
}
