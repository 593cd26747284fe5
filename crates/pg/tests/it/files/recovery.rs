//! Labels, maps, histories and recovery settings in the hands of PostgreSQL.

use std::fs;
use std::path::Path;

use pgkeep_base::{Lsn, PgMajor, RecoveryTarget, TargetTimeline, TimelineId};
use pgkeep_pg::control::{self, ControlFile};
use pgkeep_pg::datadir::Tablespace;
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::label::{BackupLabel, format_tablespace_map, parse_tablespace_map};
use pgkeep_pg::settings::{
    self, ArchiveChoice, BlockState, Purpose, RecoverySettings, StandbySettings, TargetAction, find_block,
};
use pgkeep_testkit::postgres::program;
use pgkeep_testkit::{Cluster, Run, Scratch, StopMode, every_major};

use super::quiet;

fn settings(restore_command: &str, target: RecoveryTarget) -> RecoverySettings {
    RecoverySettings {
        restore_command: restore_command.to_owned(),
        end_command: None,
        target,
        inclusive: true,
        timeline: TargetTimeline::Latest,
        action: TargetAction::Pause,
        standby: None,
        in_place_tablespaces: false,
    }
}

fn install(data: &Path, settings: &RecoverySettings, archive: &ArchiveChoice, major: u16) {
    let major = PgMajor::new(major).unwrap();
    let content = settings::read_auto_conf(data).unwrap();
    let content = settings::with_archive_block(&content, archive, major).unwrap();
    let content = settings::with_recovery_block(&content, settings, major).unwrap();
    settings::replace_auto_conf(data, &content).unwrap();
}

/// Every target, the setting that names it, and its value.
fn targets() -> [(RecoveryTarget, &'static str, &'static str); 6] {
    let lsn = Lsn(0x16_B374_D848);
    [
        (RecoveryTarget::EndOfWal, "recovery_target", ""),
        (RecoveryTarget::Immediate, "recovery_target", "immediate"),
        (RecoveryTarget::Lsn(lsn), "recovery_target_lsn", "16/B374D848"),
        (RecoveryTarget::Xid(777), "recovery_target_xid", "777"),
        (
            RecoveryTarget::Name("it's \\ here".to_owned()),
            "recovery_target_name",
            "it's \\ here",
        ),
        (
            RecoveryTarget::Time("2026-11-20T10:15:12.25Z".parse().unwrap()),
            "recovery_target_time",
            "2026-11-20 10:15:12.250000+00",
        ),
    ]
}

every_major! {
    /// Aim: a block is read as it was meant, whatever was inherited. Method: `postgres -C` of every major, every target.
    fn postgresql_reads_every_block_as_it_was_meant(major: u16) {
        let cluster = quiet(major)
            .conf("recovery_target_xid = '3'\nrestore_command = 'false'\nprimary_conninfo = 'host=nowhere'")
            .conf("recovery_min_apply_delay = '1h'\narchive_mode = on\narchive_command = 'false'")
            .init();
        let data = cluster.data_dir();
        let postgres = || program(major, "postgres").as_user(cluster.user()).arg("-D").arg(data);
        let shown = |name: &str| postgres().args(["-C", name]).run().ok().stdout;
        settings::replace_auto_conf(data, b"recovery_target_name = 'inherited'\n").unwrap();
        let command = r#"/opt/it's a/pgkeep "wal" fetch\ %f '' # %p"#;
        for (target, name, value) in targets() {
            install(data, &settings(command, target), &ArchiveChoice::Off, major);
            assert_eq!(shown(name).trim_end(), value, "{name} on {major}");
            assert_eq!(shown("restore_command").trim_end_matches('\n'), command);
            for (name, value) in [
                ("primary_conninfo", ""),
                ("recovery_min_apply_delay", "0"),
                ("archive_mode", "off"),
            ] {
                assert_eq!(shown(name).trim_end(), value, "{name} on {major}");
            }
        }
        let standby = StandbySettings {
            primary_conninfo: Some("host=a\\b password='it''s'".to_owned()),
            primary_slot_name: Some("slot".to_owned()),
        };
        let standby = RecoverySettings {
            standby: Some(standby),
            ..settings(command, RecoveryTarget::EndOfWal)
        };
        let archive = ArchiveChoice::On {
            command: "pgkeep wal push %p".to_owned(),
        };
        install(data, &standby, &archive, major);
        assert_eq!(shown("primary_conninfo").trim_end(), "host=a\\b password='it''s'");
        assert_eq!(shown("recovery_min_apply_delay").trim_end(), "3600000");
        assert_eq!(shown("archive_command").trim_end(), "pgkeep wal push %p");
    }
}

/// A backup by the low-level functions: the copy, not started yet, its label and its map.
struct Backup {
    copy: Cluster,
    label: String,
    map: Vec<u8>,
}

fn back_up(cluster: &Cluster) -> Backup {
    let copy = cluster.scratch().join("copy");
    let (start, stop) = match cluster.major() {
        14 => (
            "pg_start_backup('nightly', true, false)",
            "pg_stop_backup(false, false)",
        ),
        _ => ("pg_backup_start('nightly', true)", "pg_backup_stop(false)"),
    };
    let hex = |column: &str| format!("encode(convert_to({column}, 'SQL_ASCII'), 'hex')");
    let printed = cluster.sql(&format!(
        "select {start} \\g /dev/null\n\\! cp -a {} {}\ninsert into ledger select generate_series(11, 20);\n\
         select {} || ' ' || {} from {stop};\n",
        cluster.data_dir().display(),
        copy.display(),
        hex("labelfile"),
        hex("spcmapfile"),
    ));
    let (label, map) = printed.split_once(' ').unwrap();
    Backup {
        copy: Cluster::adopt_dir(cluster.major(), copy),
        label: String::from_utf8(unhex(label)).unwrap(),
        map: unhex(map),
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    let pair = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(pair).collect()
}

every_major! {
    /// Aim: a restore with our label, map, control file and settings ends exactly at its target, cannot be started
    /// without its label, and leaves no recovery setting behind.
    /// Method: a low-level backup with odd tablespaces, restored beside its source, on every major.
    fn a_restored_copy_recovers_to_its_target_and_forgets_it(major: u16) {
        let scratch = Scratch::new();
        let archive = scratch.dir("archive");
        let mut cluster = quiet(major).archive_command(&format!("cp %p {}/%f", archive.display())).start();
        for (name, directory) in [("one", "ts one"), ("two", "back\\slash\nand line")] {
            let location = scratch.dir(directory);
            cluster.sql(&format!("create tablespace {name} location '{}'", location.display()));
        }
        cluster.sql("create table ledger (n int) tablespace two; insert into ledger select generate_series(1, 10)");
        cluster.sql("create table other tablespace one as select 1 as n");
        let mut backup = back_up(&cluster);
        let target = cluster.value("checkpoint; select pg_current_wal_insert_lsn()");
        cluster.sql("insert into ledger select generate_series(21, 30); select pg_switch_wal()");
        let system_id = ControlFile::read(cluster.data_dir()).unwrap().system_id;
        cluster.stop(StopMode::Fast);

        put_back(&backup);
        let settings = RecoverySettings {
            inclusive: false,
            ..settings(&format!("cp {}/%f %p", archive.display()), RecoveryTarget::Lsn(target))
        };
        let data = backup.copy.data_dir().to_owned();
        install(&data, &settings, &ArchiveChoice::Off, major);

        let rename = |from: &str, to: &str| fs::rename(data.join(from), data.join(to)).unwrap();
        rename("backup_label", "aside");
        let log = backup.copy.try_start().expect_err("it must not start without its label");
        assert!(log.contains("could not locate a valid checkpoint record"), "{log}");
        rename("aside", "backup_label");
        // Without a label PostgreSQL puts the map aside too.
        rename("tablespace_map.old", "tablespace_map");

        backup.copy.start();
        recovers_and_forgets(&mut backup.copy, system_id);
    }
}

/// Makes a startable directory of a raw copy, with tablespaces elsewhere.
fn put_back(backup: &Backup) {
    let (copy, data) = (&backup.copy, backup.copy.data_dir());
    let (control, bytes) = ControlFile::read_with_bytes(data).unwrap();
    let label = BackupLabel::parse(&backup.label).unwrap();
    label.check(label.start_lsn, control.segment_size).unwrap();
    assert_eq!((label.label.as_str(), label.from_standby), ("nightly", false));

    let tablespaces = parse_tablespace_map(&backup.map).unwrap();
    assert_eq!(
        format_tablespace_map(&tablespaces),
        backup.map,
        "written as PostgreSQL {} does",
        copy.major()
    );
    let moved: Vec<Tablespace> = tablespaces
        .iter()
        .map(|tablespace| {
            let mut location = tablespace.location.clone().into_os_string();
            location.push(".copy");
            Run::new("/bin/cp")
                .arg("-a")
                .arg(&tablespace.location)
                .arg(&location)
                .run()
                .ok();
            fs::remove_file(data.join(format!("pg_tblspc/{}", tablespace.oid))).unwrap();
            Tablespace {
                oid: tablespace.oid,
                location: location.into(),
            }
        })
        .collect();
    assert_eq!(moved.len(), 2);
    copy.put_file("tablespace_map", format_tablespace_map(&moved));
    copy.put_file("backup_label", &backup.label);
    copy.put_file(settings::RECOVERY_SIGNAL, "");
    copy.put_file(control::PATH, control::poisoned(&bytes).unwrap());
    fs::remove_file(data.join("postmaster.pid")).unwrap();
    let conf = fs::read_to_string(data.join("postgresql.conf")).unwrap();
    let inherited = "recovery_target_xid = '3'\nrestore_command = 'false'\nrecovery_min_apply_delay = '1h'\n";
    copy.put_file("postgresql.conf", conf + inherited);
    settings::replace_auto_conf(data, b"recovery_target_name = 'inherited'\nwork_mem = '5MB'\n").unwrap();
}

fn recovers_and_forgets(cluster: &mut Cluster, system_id: pgkeep_base::SystemId) {
    let data = cluster.data_dir().to_owned();
    let block = || find_block(&settings::read_auto_conf(&data).unwrap(), Purpose::Recovery).state;
    cluster.wait_paused();
    assert_eq!(
        cluster.sql("select string_agg(n::text, ',' order by n) from ledger"),
        numbers(20)
    );
    assert_eq!(cluster.sql("select n from other"), "1");

    // ALTER SYSTEM rewrites the file without comments; the block is still intact.
    cluster.sql("alter system set maintenance_work_mem = '77MB'");
    let content = settings::read_auto_conf(&data).unwrap();
    assert!(
        !String::from_utf8_lossy(&content).contains("# BEGIN"),
        "ALTER SYSTEM keeps comments now"
    );
    assert_eq!(block(), BlockState::Intact);
    cluster.sql("alter system set recovery_target_action = 'promote'");
    assert_eq!(block(), BlockState::Altered, "the operator overrules it");
    cluster.sql("alter system reset recovery_target_action");

    cluster.sql("select pg_wal_replay_resume()");
    cluster.wait_recovered();
    assert!(settings::finish_recovery(&data).unwrap());
    assert_eq!(block(), BlockState::Absent);
    cluster.restart(StopMode::Fast);
    for (name, value) in [
        ("restore_command", "false"),
        ("recovery_target_lsn", ""),
        ("recovery_target_name", ""),
        ("recovery_target_xid", "3"),
        ("archive_mode", "off"),
        ("work_mem", "5MB"),
        ("maintenance_work_mem", "77MB"),
    ] {
        assert_eq!(
            cluster.sql(&format!("show {name}")),
            value,
            "{name} on {}",
            cluster.major()
        );
    }
    assert_eq!(
        cluster.sql("insert into ledger values (99); select count(*) from ledger"),
        "21"
    );
    let control = ControlFile::read(&data).unwrap();
    assert_eq!(control.system_id, system_id);
    assert_eq!(control.checkpoint.timeline.get(), 2);
}

fn numbers(last: u32) -> String {
    (1..=last).map(|n| n.to_string()).collect::<Vec<_>>().join(",")
}

every_major! {
    /// Aim: a lost history file is rebuilt byte for byte. Method: three promotions in a row.
    fn histories_are_written_as_postgresql_writes_them(major: u16) {
        let mut cluster = quiet(major).start();
        let mut switched_at = Vec::new();
        for _ in 0..3 {
            cluster.stop(StopMode::Fast);
            cluster.start_as_standby();
            cluster.promote();
            cluster.sql("create table if not exists t (n int); insert into t values (1); checkpoint");
            switched_at.push(cluster.lsn());
        }
        let read = |number: u32| {
            let timeline = TimelineId::new(number).unwrap();
            let bytes = fs::read(cluster.data_dir().join(format!("pg_wal/{}.history", timeline.hex()))).unwrap();
            (
                TimelineHistory::parse(timeline, &bytes).unwrap(),
                String::from_utf8(bytes).unwrap(),
            )
        };
        let (newest, _) = read(4);
        for number in 2..=4 {
            let (history, text) = read(number);
            assert_eq!(history.format(), text, "timeline {number} of {major}");
            assert_eq!(newest.ancestor(history.timeline()), Some(history));
        }
        assert_eq!(newest.switches().len(), 3);
        assert_eq!(newest.timeline_at(switched_at[0]).get(), 2);
        assert_eq!(newest.timeline_at(switched_at[2]).get(), 4);
        let last = newest.switches().last().unwrap();
        let child = newest
            .ancestor(last.timeline)
            .unwrap()
            .child(newest.timeline(), last.lsn, &last.reason)
            .unwrap();
        assert_eq!(child, newest);
    }

    /// Aim: the same where recovery stopped at a target, whose reason may end with a line of its own. Method: copies of a
    /// server recover from its `pg_wal`, up to a target each.
    fn histories_of_recoveries_that_stopped_are_written_alike(major: u16) {
        let cluster = quiet(major).start();
        cluster.sql("create table t (n int)");
        for (setting, look) in [
            ("recovery_target_time", "select clock_timestamp()"),
            ("recovery_target_lsn", "select pg_current_wal_insert_lsn()"),
            ("recovery_target_xid", "select txid_current()"),
            ("recovery_target_name", "select pg_create_restore_point('here') is not null"),
        ] {
            let mut copy = cluster.standby(setting);
            copy.stop(StopMode::Fast);
            let found = cluster.sql(look);
            let target = if setting == "recovery_target_name" { "here" } else { found.as_str() };
            cluster.sql("insert into t values (1); checkpoint");
            let command = format!("cp {}/pg_wal/%f %p", cluster.data_dir().display());
            for (name, value) in [
                ("restore_command", command.as_str()),
                ("primary_conninfo", ""),
                ("recovery_target_action", "promote"),
                (setting, target),
            ] {
                copy.set_conf(name, value);
            }
            copy.put_file("postgresql.auto.conf", "");
            fs::remove_file(copy.data_dir().join("standby.signal")).unwrap();
            copy.put_file("recovery.signal", "");
            copy.start();
            copy.wait_recovered();
            let text = fs::read_to_string(copy.data_dir().join("pg_wal/00000002.history")).unwrap();
            let history = TimelineHistory::parse(TimelineId::new(2).unwrap(), text.as_bytes()).unwrap();
            assert_eq!(history.format(), text, "{setting} of {major}");
        }
    }
}
