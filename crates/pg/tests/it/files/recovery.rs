//! Labels, maps, histories and recovery settings in the hands of PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};

use pgkeep_base::{Lsn, PgMajor, RecoveryTarget, TargetTimeline, TimelineId};
use pgkeep_pg::control::{self, ControlFile};
use pgkeep_pg::datadir::Tablespace;
use pgkeep_pg::history::TimelineHistory;
use pgkeep_pg::label::{BackupLabel, format_tablespace_map, parse_tablespace_map};
use pgkeep_pg::settings::{
    self, ArchiveChoice, BlockState, Purpose, RecoverySettings, StandbySettings, TargetAction, find_block,
};

use super::cluster::{Cluster, for_majors};

fn settings(restore_command: &str, target: RecoveryTarget) -> RecoverySettings {
    RecoverySettings {
        restore_command: restore_command.to_owned(),
        end_command: None,
        target,
        inclusive: true,
        timeline: TargetTimeline::Latest,
        action: TargetAction::Pause,
        standby: None,
    }
}

fn install(data: &Path, settings: &RecoverySettings, archive: &ArchiveChoice, major: u16) {
    let major = PgMajor::new(major).unwrap();
    let content = settings::read_auto_conf(data).unwrap();
    let content = settings::with_archive_block(&content, archive, major).unwrap();
    let content = settings::with_recovery_block(&content, settings, major).unwrap();
    settings::replace_auto_conf(data, &content).unwrap();
}

/// Aim: a block is read as it was meant, whatever was inherited. Method: `postgres -C` of every major, every target.
#[test]
fn postgresql_reads_every_block_as_it_was_meant() {
    let lsn = Lsn(0x16_B374_D848);
    let targets = [
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
    ];
    for_majors(14..=18, |cluster| {
        let shown = |name: &str| cluster.must("postgres", ["-D", cluster.data().to_str().unwrap(), "-C", name]);
        cluster.configure("recovery_target_xid = '3'\nrestore_command = 'false'\nprimary_conninfo = 'host=nowhere'\n");
        cluster.configure("recovery_min_apply_delay = '1h'\narchive_mode = on\narchive_command = 'false'\n");
        settings::replace_auto_conf(cluster.data(), b"recovery_target_name = 'inherited'\n").unwrap();
        let command = r#"/opt/it's a/pgkeep "wal" fetch\ %f '' # %p"#;
        for (target, name, value) in &targets {
            install(
                cluster.data(),
                &settings(command, target.clone()),
                &ArchiveChoice::Off,
                cluster.major,
            );
            assert_eq!(shown(name).trim_end(), *value, "{name} on {}", cluster.major);
            assert_eq!(shown("restore_command").trim_end_matches('\n'), command);
            for (name, value) in [
                ("primary_conninfo", ""),
                ("recovery_min_apply_delay", "0"),
                ("archive_mode", "off"),
            ] {
                assert_eq!(shown(name).trim_end(), value, "{name} on {}", cluster.major);
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
        install(cluster.data(), &standby, &archive, cluster.major);
        assert_eq!(shown("primary_conninfo").trim_end(), "host=a\\b password='it''s'");
        assert_eq!(shown("recovery_min_apply_delay").trim_end(), "3600000");
        assert_eq!(shown("archive_command").trim_end(), "pgkeep wal push %p");
    });
}

/// A backup by the low-level functions: the copy, its label and its map.
struct Backup {
    data: PathBuf,
    label: String,
    map: Vec<u8>,
}

fn back_up(cluster: &Cluster) -> Backup {
    let data = cluster.dir().join("copy");
    let (start, stop) = match cluster.major {
        14 => (
            "pg_start_backup('nightly', true, false)",
            "pg_stop_backup(false, false)",
        ),
        _ => ("pg_backup_start('nightly', true)", "pg_backup_stop(false)"),
    };
    let hex = |column: &str| format!("encode(convert_to({column}, 'SQL_ASCII'), 'hex')");
    let printed = cluster.script(&format!(
        "select {start} \\g /dev/null\n\\! cp -a {} {}\ninsert into ledger select generate_series(11, 20);\n\
         select {} || ' ' || {} from {stop};\n",
        cluster.data().display(),
        data.display(),
        hex("labelfile"),
        hex("spcmapfile"),
    ));
    let (label, map) = printed.trim_end().lines().last().unwrap().split_once(' ').unwrap();
    Backup {
        data,
        label: String::from_utf8(unhex(label)).unwrap(),
        map: unhex(map),
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    let pair = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(pair).collect()
}

/// Aim: a restore with our label, map, control file and settings ends exactly at its target, cannot be started
/// without its label, and leaves no recovery setting behind.
/// Method: a low-level backup with odd tablespaces, restored beside its source, on every major.
#[test]
fn a_restored_copy_recovers_to_its_target_and_forgets_it() {
    for_majors(14..=18, |mut cluster| {
        let archive = cluster.location("archive");
        cluster.configure(&format!(
            "archive_mode = on\narchive_command = 'cp %p {}/%f'\nwal_level = replica\n",
            archive.display()
        ));
        cluster.start();
        for (name, directory) in [("one", "ts one"), ("two", "back\\slash\nand line")] {
            let location = cluster.location(directory);
            cluster.sql(&format!("create tablespace {name} location '{}'", location.display()));
        }
        cluster.sql("create table ledger (n int) tablespace two; insert into ledger select generate_series(1, 10)");
        cluster.sql("create table other tablespace one as select 1 as n");
        let backup = back_up(&cluster);
        let target: Lsn = cluster
            .sql("checkpoint; select pg_current_wal_insert_lsn()")
            .parse()
            .unwrap();
        cluster.sql("insert into ledger select generate_series(21, 30); select pg_switch_wal()");
        let system_id = ControlFile::read(cluster.data()).unwrap().system_id;
        cluster.stop();

        put_back(&cluster, &backup);
        let settings = RecoverySettings {
            inclusive: false,
            ..settings(&format!("cp {}/%f %p", archive.display()), RecoveryTarget::Lsn(target))
        };
        install(&backup.data, &settings, &ArchiveChoice::Off, cluster.major);
        cluster.switch_to(backup.data.clone());

        let (label, aside) = (backup.data.join("backup_label"), backup.data.join("aside"));
        fs::rename(&label, &aside).unwrap();
        assert!(!cluster.try_start(), "{} starts without its label", cluster.major);
        assert!(
            cluster.log().contains("could not locate a valid checkpoint record"),
            "{}",
            cluster.log()
        );
        fs::rename(&aside, &label).unwrap();
        // Without a label PostgreSQL puts the map aside too.
        fs::rename(
            backup.data.join("tablespace_map.old"),
            backup.data.join("tablespace_map"),
        )
        .unwrap();

        cluster.start();
        recovers_and_forgets(&cluster, system_id);
    });
}

/// Makes a startable directory of a raw copy, with tablespaces elsewhere.
fn put_back(cluster: &Cluster, backup: &Backup) {
    let label = BackupLabel::parse(&backup.label).unwrap();
    let size = ControlFile::read(cluster.data()).unwrap().segment_size;
    label.check(label.start_lsn, size).unwrap();
    assert_eq!((label.label.as_str(), label.from_standby), ("nightly", false));

    let tablespaces = parse_tablespace_map(&backup.map).unwrap();
    assert_eq!(
        format_tablespace_map(&tablespaces),
        backup.map,
        "written as PostgreSQL {} does",
        cluster.major
    );
    let moved: Vec<Tablespace> = tablespaces
        .iter()
        .map(|tablespace| {
            let mut location = tablespace.location.clone().into_os_string();
            location.push(".copy");
            let copied = cluster
                .plain("cp")
                .arg("-a")
                .arg(&tablespace.location)
                .arg(&location)
                .status()
                .unwrap();
            assert!(copied.success());
            fs::remove_file(backup.data.join(format!("pg_tblspc/{}", tablespace.oid))).unwrap();
            Tablespace {
                oid: tablespace.oid,
                location: location.into(),
            }
        })
        .collect();
    assert_eq!(moved.len(), 2);
    fs::write(backup.data.join("tablespace_map"), format_tablespace_map(&moved)).unwrap();
    fs::write(backup.data.join("backup_label"), &backup.label).unwrap();
    fs::write(backup.data.join(settings::RECOVERY_SIGNAL), "").unwrap();
    let (_, bytes) = ControlFile::read_with_bytes(&backup.data).unwrap();
    fs::write(backup.data.join(control::PATH), control::poisoned(&bytes).unwrap()).unwrap();
    fs::remove_file(backup.data.join("postmaster.pid")).unwrap();
    for entry in fs::read_dir(backup.data.join("pg_wal")).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let conf = fs::read_to_string(backup.data.join("postgresql.conf")).unwrap();
    let inherited = "recovery_target_xid = '3'\nrestore_command = 'false'\nrecovery_min_apply_delay = '1h'\n";
    fs::write(backup.data.join("postgresql.conf"), conf + inherited).unwrap();
    settings::replace_auto_conf(&backup.data, b"recovery_target_name = 'inherited'\nwork_mem = '5MB'\n").unwrap();
    // What PostgreSQL removes when it has read it must be its own.
    let script = format!("chown --reference={0} {0}/*", backup.data.display());
    assert!(
        std::process::Command::new("sh")
            .args(["-c", &script])
            .status()
            .unwrap()
            .success()
    );
}

fn recovers_and_forgets(cluster: &Cluster, system_id: pgkeep_base::SystemId) {
    let block = || find_block(&settings::read_auto_conf(cluster.data()).unwrap(), Purpose::Recovery).state;
    for _ in 0..200 {
        if cluster.sql("select pg_is_wal_replay_paused()") == "t" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(
        cluster.sql("select string_agg(n::text, ',' order by n) from ledger"),
        numbers(20)
    );
    assert_eq!(cluster.sql("select n from other"), "1");

    // ALTER SYSTEM rewrites the file without comments; the block is still intact.
    cluster.sql("alter system set maintenance_work_mem = '77MB'");
    let content = settings::read_auto_conf(cluster.data()).unwrap();
    assert!(
        !String::from_utf8_lossy(&content).contains("# BEGIN"),
        "ALTER SYSTEM keeps comments now"
    );
    assert_eq!(block(), BlockState::Intact);
    cluster.sql("alter system set recovery_target_action = 'promote'");
    assert_eq!(block(), BlockState::Altered, "the operator overrules it");
    cluster.sql("alter system reset recovery_target_action");

    cluster.sql("select pg_wal_replay_resume()");
    cluster.wait_until_writable();
    assert!(settings::finish_recovery(cluster.data()).unwrap());
    assert_eq!(block(), BlockState::Absent);
    cluster.stop();
    cluster.start();
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
            cluster.major
        );
    }
    assert_eq!(
        cluster.sql("insert into ledger values (99); select count(*) from ledger"),
        "21"
    );
    let control = ControlFile::read(cluster.data()).unwrap();
    assert_eq!(control.system_id, system_id);
    assert_eq!(control.checkpoint.timeline.get(), 2);
}

fn numbers(last: u32) -> String {
    (1..=last).map(|n| n.to_string()).collect::<Vec<_>>().join(",")
}

/// Aim: a lost history file is rebuilt byte for byte. Method: three promotions in a row.
#[test]
fn histories_are_written_as_postgresql_writes_them() {
    for_majors(14..=18, |cluster| {
        let mut switched_at = Vec::new();
        for _ in 0..3 {
            fs::write(cluster.data().join(settings::STANDBY_SIGNAL), "").unwrap();
            let chown = format!(
                "chown --reference={0}/PG_VERSION {0}/standby.signal",
                cluster.data().display()
            );
            assert!(
                std::process::Command::new("sh")
                    .args(["-c", &chown])
                    .status()
                    .unwrap()
                    .success()
            );
            cluster.start();
            cluster.promote();
            cluster.wait_until_writable();
            cluster.sql("create table if not exists t (n int); insert into t values (1); checkpoint");
            switched_at.push(
                cluster
                    .sql("select pg_current_wal_insert_lsn()")
                    .parse::<Lsn>()
                    .unwrap(),
            );
            cluster.stop();
        }
        let read = |number: u32| {
            let timeline = TimelineId::new(number).unwrap();
            let path = cluster
                .data()
                .join("pg_wal")
                .join(format!("{}.history", timeline.hex()));
            let bytes = fs::read(path).unwrap();
            (
                TimelineHistory::parse(timeline, &bytes).unwrap(),
                String::from_utf8(bytes).unwrap(),
            )
        };
        let (newest, _) = read(4);
        for number in 2..=4 {
            let (history, text) = read(number);
            assert_eq!(history.format(), text, "timeline {number} of {}", cluster.major);
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
    });
}
