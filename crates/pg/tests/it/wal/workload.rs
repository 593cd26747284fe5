//! A cluster with everything that makes WAL worth reading.

use std::fs;

use pgkeep_base::{Lsn, PgMajor};
use pgkeep_testkit::{Cluster, StopMode};

pub const TRANSACTIONS: &str = "
create table t (id int, v text);
create index on t (id);
insert into t select g, repeat('v', g % 200) from generate_series(1, 5000) g;
update t set v = v || 'w' where id % 7 = 0;
begin; insert into t values (-1); savepoint s; insert into t values (-2); rollback to s; commit;
begin; create table gone (id int); insert into gone values (1); rollback;
do $$ begin for i in 1..3000 loop
  begin
    insert into t values (i, 'sub');
    if i % 3 = 0 then raise exception 'no'; end if;
  exception when raise_exception then null; end;
end loop; end $$;
create table dropped (id int primary key, v text);
begin; drop table dropped; savepoint s; insert into t values (-3); prepare transaction 'one';
begin; insert into t values (-4); prepare transaction 'two';
commit prepared 'one';
rollback prepared 'two';
select pg_create_restore_point('before the storm');
select pg_switch_wal();
create table u as select * from t;
vacuum full t;
truncate u;
checkpoint;
";

pub const BIG_RECORDS: &str = "
select length(pg_logical_emit_message(true, 'big', repeat('x', 3500000))::text);
select length(pg_logical_emit_message(false, 'big', repeat('y', 300000))::text);
insert into t select g, repeat('v', g % 200) from generate_series(1, 20000) g;
checkpoint;
";

pub const TRANSACTIONS_AGAIN: &str = "
insert into t select g, repeat('w', g % 100) from generate_series(1, 2000) g;
begin; insert into t values (-5); rollback;
vacuum t;
";

/// A cluster that keeps all its WAL.
pub fn start(major: u16, segment_mib: u32) -> Cluster {
    Cluster::builder(major)
        .segment_mib(segment_mib)
        .conf("wal_level = logical\nwal_compression = on\nwal_keep_size = '1GB'\nautovacuum = off")
        .conf("max_wal_size = '2GB'\nmin_wal_size = '32MB'")
        .start()
}

/// The segments of one timeline, in order; the last ones may be recycled.
pub fn segments(cluster: &Cluster, timeline: &str) -> Vec<String> {
    let is_segment = |name: &String| name.len() == 24 && name.starts_with(timeline);
    cluster.wal_files().into_iter().filter(is_segment).collect()
}

/// Full page images by every method of compression that this server offers.
pub fn compression_script(cluster: &Cluster) -> String {
    let offered = cluster.sql("select unnest(enumvals) from pg_settings where name = 'wal_compression'");
    let script = |method: &str| format!("set wal_compression = {method}; checkpoint; update t set v = v || 'c';");
    offered.split_whitespace().chain(["on", "off"]).map(script).collect()
}

/// A base backup that copies nothing: for its `XLOG_BACKUP_END`.
pub fn backup_script(major: u16) -> String {
    match PgMajor::new(major).unwrap().has_pg_backup_start() {
        true => "select pg_backup_start('b', true); select * from pg_backup_stop(false);".into(),
        false => "select pg_start_backup('b', true, false); select * from pg_stop_backup(false, false);".into(),
    }
}

/// Databases that are copied file by file, moved and removed.
pub fn databases_script(cluster: &Cluster) -> String {
    cluster.create_tablespace("place");
    let strategy = if cluster.major() >= 15 {
        "strategy file_copy"
    } else {
        ""
    };
    format!(
        "create database copied {strategy};\nalter database copied set tablespace place;\n\
         create database plain template copied;\ndrop database copied;\ndrop database plain;\n\
         drop tablespace place;\n"
    )
}

/// Cuts a record off as a crash would that lost the segments after its first one, and recovers from that.
pub fn lose_the_end_of_a_record(cluster: &mut Cluster) -> Lsn {
    cluster.sql("checkpoint");
    let file = cluster.sql(
        "select pg_switch_wal() \\g /dev/null
         insert into t values (-6);
         select pg_current_wal_insert_lsn() || ' ' || pg_walfile_name(pg_current_wal_insert_lsn());
         select pg_logical_emit_message(true, 'lost', repeat('z', 2500000)) \\g /dev/null",
    );
    let (lsn, kept) = file.split_once(' ').unwrap();
    cluster.stop(StopMode::Immediate);
    for name in segments(cluster, "") {
        if name.as_str() > kept {
            fs::remove_file(cluster.data_dir().join("pg_wal").join(name)).unwrap();
        }
    }
    cluster.start();
    lsn.parse().unwrap()
}

/// Lets checkpoints rename old segments to later names, then writes a little more.
pub fn recycle_segments(cluster: &mut Cluster) {
    cluster.set_conf("wal_keep_size", "0");
    for _ in 0..3 {
        cluster.sql("insert into t select g, repeat('r', 500) from generate_series(1, 3000) g; checkpoint");
    }
    cluster.sql(TRANSACTIONS_AGAIN);
}
