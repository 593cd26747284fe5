//! What a plan makes of a target, compared with `pg_waldump`: hundreds of LSNs and times, none of them restored. That
//! PostgreSQL stops where the plan says is shown in `targets`.

use jiff::Timestamp;
use pgkeep_base::Lsn;
use pgkeep_testkit::every_major;

use crate::life::{Life, life};

/// A record of timeline 1, as `pg_waldump` shows it.
struct Record {
    start: Lsn,
    /// Of a commit or abort.
    time: Option<Timestamp>,
}

fn records(life: &Life) -> Vec<Record> {
    let cluster = &life.shop.cluster;
    let wal = cluster.data_dir().join("pg_wal");
    let (first, last) = (life.commit(3).record.to_string(), life.commit(1002).record.to_string());
    let shown = cluster.waldump(["-p", wal.to_str().unwrap(), "-t", "1", "-s", &first, "-e", &last]);
    shown.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Record> {
    let start = line.split_once("lsn: ")?.1.split(',').next()?.parse().ok()?;
    let what = line.split_once("desc: ")?.1;
    let ends = line.contains("rmgr: Transaction") && (what.starts_with("COMMIT") || what.starts_with("ABORT"));
    let time = || {
        let date = what
            .split_whitespace()
            .position(|word| word.len() == 10 && word.starts_with("20"))?;
        let words: Vec<&str> = what.split_whitespace().collect();
        let clock = words[date + 1].trim_end_matches(';');
        format!("{}T{clock}Z", words[date]).parse().ok()
    };
    Some(Record {
        start,
        time: if ends { time() } else { None },
    })
}

/// Where the plan would stop.
#[track_caller]
fn planned(life: &Life, target: [&str; 2], exclusive: bool) -> Lsn {
    let nowhere = life.shop.target("nowhere");
    let run = life
        .shop
        .run(["--json", "restore", "--dry-run", "--timeline", "1"])
        .args(target);
    let run = run.args(exclusive.then_some("--exclusive")).arg("--into").arg(nowhere);
    let plan = run.run().ok().json();
    plan["target"]["lsn"].as_str().unwrap().parse().unwrap()
}

/// The `n`th of numbers below `limit` that look random and are the same each time.
fn scattered(n: u64, limit: usize) -> usize {
    (n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) as usize % limit
}

every_major! {
    /// Aim: an LSN is resolved to the first record that begins there or later, exclusively to the last one before.
    fn lsns_are_resolved_as_postgresql_does(major: u16) {
        let life = life(major);
        let records = records(life);
        for n in 0..16 {
            let at = 1 + scattered(n, records.len() - 1);
            // On a record, or somewhere between two.
            let inside = n % 2 * 4;
            let lsn = Lsn(records[at].start.0 - inside).to_string();
            assert_eq!(planned(life, ["--lsn", &lsn], false), records[at].start, "{lsn}");
            assert_eq!(planned(life, ["--lsn", &lsn], true), records[at - 1].start, "{lsn} exclusively");
        }
    }

    /// Aim: a time is resolved to the last record before the first commit or abort past it, in order of WAL.
    fn times_are_resolved_as_postgresql_does(major: u16) {
        let life = life(major);
        let records = records(life);
        let ends: Vec<usize> = (0..records.len()).filter(|at| records[*at].time.is_some()).collect();
        assert!(ends.len() > 12, "{} commits and aborts", ends.len());
        for n in 0..16 {
            let pair = scattered(n, ends.len() - 1);
            let (before, after) = (records[ends[pair]].time.unwrap(), records[ends[pair + 1]].time.unwrap());
            let span = after.as_microsecond() - before.as_microsecond();
            let target = match n % 4 {
                0 => before,
                1 => after,
                part => Timestamp::from_microsecond(before.as_microsecond() + span / part as i64).unwrap(),
            };
            for exclusive in [false, true] {
                let past = |time: Timestamp| if exclusive { time >= target } else { time > target };
                let Some(first) = records.iter().position(|record| record.time.is_some_and(past)) else { continue };
                let Some(expected) = first.checked_sub(1) else { continue };
                let stop = planned(life, ["--at", &target.to_string()], exclusive);
                assert_eq!(stop, records[expected].start, "{target} exclusive: {exclusive}");
            }
        }
    }
}
